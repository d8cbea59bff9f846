//! Which heads each task uses, after training and on the way there.

use super::super::compare::Finished;
use super::Page;
use super::svg::{Anchor, Svg, ink};

pub fn section(out: &mut String, page: &Page<'_>) {
    let gated: Vec<&Finished> =
        page.found.runs.iter().filter(|finished| !finished.run.history.gates.is_empty()).collect();
    let Some(first) = gated.first() else { return };
    out.push_str(
        "<h2>Which heads each task uses</h2><p>Gate of each task and head after training. A white cell is a head that is not computed for \
         that task.</p><div class=\"row\">",
    );
    for finished in &gated {
        if let Some((_, gates)) = finished.run.history.gates.last() {
            out.push_str(&map(finished.run.options.seed, gates, page.tasks()));
        }
    }
    out.push_str(
        "</div><h2>Gates over training</h2><p>Seed 1: a row for each head, a column for each evaluation, from the first steps on the left to \
         the last on the right. A head that a task takes up or drops changes shade along its row.</p><div class=\"row\">",
    );
    for (task, name) in page.tasks().iter().enumerate() {
        out.push_str(&timeline(task, name, &first.run.history.gates));
    }
    out.push_str("</div>");
}

fn map(seed: u64, gates: &[Vec<f32>], tasks: &[String]) -> String {
    let heads = gates.first().map_or(0, Vec::len) as f64;
    let (left, cell) = (130.0, 38.0);
    let mut svg = Svg::new(
        format!("gate map of seed {seed}"),
        left + cell * heads + 4.0,
        30.0 + 28.0 * gates.len() as f64,
    );
    svg.text(0.0, 18.0, Anchor::Start, &format!("seed {seed}, head"));
    for head in 0..heads as usize {
        svg.text(left + cell * (head as f64 + 0.5), 18.0, Anchor::Middle, &head.to_string());
    }
    for (task, (row, name)) in gates.iter().zip(tasks).enumerate() {
        let top = 26.0 + 28.0 * task as f64;
        svg.text(left - 8.0, top + 17.0, Anchor::End, name);
        for (head, &gate) in row.iter().enumerate() {
            let (x, share) = (left + cell * head as f64, f64::from(gate));
            svg.shade([x, top, cell - 3.0, 25.0], share, &format!("{name}, head {head}: {gate:.3}"));
            if gate > 0.0 {
                let text = format!("{gate:.2}");
                svg.styled(x + cell / 2.0 - 1.5, top + 17.0, Anchor::Middle, &text, ink(share));
            }
        }
    }
    svg.finish()
}

/// The gates of one task at each evaluation.
fn timeline(task: usize, name: &str, history: &[(usize, Vec<Vec<f32>>)]) -> String {
    let heads = history.last().map_or(0, |(_, gates)| gates.get(task).map_or(0, Vec::len));
    let cell = (220.0 / history.len().max(1) as f64).clamp(6.0, 24.0);
    let width = 60.0 + cell * history.len() as f64;
    let mut svg =
        Svg::new(format!("gates of {name} over training"), width.max(180.0), 42.0 + 16.0 * heads as f64);
    svg.text(52.0, 14.0, Anchor::Start, name);
    for head in 0..heads {
        svg.text(46.0, 32.0 + 16.0 * head as f64, Anchor::End, &format!("head {head}"));
    }
    for (column, (step, gates)) in history.iter().enumerate() {
        for (head, &gate) in gates.get(task).into_iter().flatten().enumerate() {
            let place = [52.0 + cell * column as f64, 20.0 + 16.0 * head as f64, cell - 1.0, 15.0];
            svg.shade(place, f64::from(gate), &format!("step {step}, head {head}: {gate:.3}"));
        }
    }
    let bottom = 34.0 + 16.0 * heads as f64;
    if let (Some((first, _)), Some((last, _))) = (history.first(), history.last()) {
        svg.text(52.0, bottom, Anchor::Start, &first.to_string());
        svg.text(52.0 + cell * history.len() as f64, bottom, Anchor::End, &format!("step {last}"));
    }
    svg.finish()
}
