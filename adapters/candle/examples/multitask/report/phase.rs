//! Phase recall: the scores compared, and what the shots of a query show.

use super::super::phase::states::{CLASSES, LENGTH, PHASE_NOISE, QUBITS, TASKS, TILT_NOISE};
use super::super::phase::{Histogram, Recalled, Row, SHOTS, Score, rows};
use super::svg::{Anchor, BLUE, GREEN, LINE, Svg, escape};
use std::fmt::Write as _;

pub fn section(out: &mut String, results: &[Recalled]) {
    let rows = rows(results);
    let chance = 1.0 / CLASSES as f64;
    let _ = write!(
        out,
        "<h2>Attention between quantum states: phase recall</h2><p>{} key states of {QUBITS} qubits, each with a value; a query state asks for \
         the value of one. Keys are |+⟩ or |−⟩ on each qubit: they differ in phase alone, and measuring Z gives the same for all. Phases \
         carry noise of {PHASE_NOISE} rad, tilts of {TILT_NOISE} rad. The second task's queries are turned against their keys by angles that \
         the circuits have to learn. Accuracy on held-out sequences; guessing gives {chance:.3}.</p>",
        LENGTH - 1
    );
    let _ = write!(
        out,
        "<table><tr><th>score</th><th>{}</th><th>{}</th><th>both, {SHOTS} shots</th><th>both, unknown signs</th><th>τ learned</th></tr>",
        TASKS[0], TASKS[1]
    );
    for row in &rows {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1}</td></tr>",
            escape(row.score.name()),
            row.exact[0],
            row.exact[1],
            row.shots,
            row.signs,
            row.tau
        );
    }
    out.push_str("</table>");
    out.push_str(&bars(&rows, chance));
    out.push_str(
        "<p>⟨Z⟩ of a key shows nothing of its phase, so the Gaussian on it cannot tell keys apart. With a rotation that is learned before the \
         measurement it can, where training finds one: being blind is a matter of the basis. <i>Unknown \
         signs</i>: every state is multiplied by +1 or −1 at random, \
         which no experiment can see; it was not so in training. The fidelity does not see it either; the real part of the overlap does.</p>",
    );
    histograms(out, results);
}

fn bars(rows: &[Row], chance: f64) -> String {
    let (left, width) = (250.0, 500.0);
    let mut svg = Svg::new("accuracy on phase recall", 860.0, 34.0 * rows.len() as f64 + 24.0);
    for (nth, row) in rows.iter().enumerate() {
        let top = 6.0 + 34.0 * nth as f64;
        svg.text(left - 10.0, top + 17.0, Anchor::End, row.score.name());
        svg.rect([left, top, width * row.mean.mean, 26.0], BLUE);
        svg.text(left + width * row.mean.mean + 8.0, top + 17.0, Anchor::Start, &format!("{:.3}", row.mean));
    }
    let (x, bottom) = (left + width * chance, 34.0 * rows.len() as f64 + 4.0);
    svg.line((x, 0.0), (x, bottom), "#cf222e");
    svg.text(x, bottom + 14.0, Anchor::Middle, "chance");
    svg.finish()
}

/// Outcomes of one query's shots: the answer's basis state stands out, or does not.
fn histograms(out: &mut String, results: &[Recalled]) {
    let _ = write!(
        out,
        "<h3>Shot histograms</h3><p>{SHOTS} shots of one held-out query in the computational basis, seed 1. The value's first three qubits \
         hold its bits, so the answer is one outcome (green); all {} values of the sequence seen alike is what not finding the key looks \
         like.</p><div class=\"row\">",
        LENGTH - 1
    );
    for score in [Score::Fidelity, Score::ComplexDot, Score::Z] {
        let Some(result) = results.iter().find(|result| result.score == score) else { continue };
        for histogram in &result.histograms {
            out.push_str(&bars_of(score, histogram));
        }
    }
    out.push_str("</div>");
}

fn bars_of(score: Score, histogram: &Histogram) -> String {
    let (left, top, cell, height) = (10.0, 46.0, 18.0, 110.0);
    let outcomes = histogram.counts.len();
    let title = format!("{}, {}", score.name(), TASKS[histogram.task]);
    let mut svg = Svg::new(&title, left + cell * outcomes as f64 + 10.0, top + height + 44.0);
    svg.text(0.0, 16.0, Anchor::Start, &title);
    let most = histogram.counts.iter().copied().max().unwrap_or(1).max(1);
    svg.line((left, top + height), (left + cell * outcomes as f64, top + height), LINE);
    for (outcome, &count) in histogram.counts.iter().enumerate() {
        let tall = height * count as f64 / most as f64;
        // The fourth qubit's value is 0.
        let colour = if outcome == histogram.label as usize { GREEN } else { BLUE };
        let (x, middle) = (left + cell * outcome as f64, left + cell * (outcome as f64 + 0.5) - 2.0);
        svg.rect([x, top + height - tall, cell - 4.0, tall], colour);
        for (nth, bit) in format!("{outcome:04b}").chars().enumerate() {
            let y = top + height + 11.0 + 9.0 * nth as f64;
            svg.styled(middle, y, Anchor::Middle, &bit.to_string(), "font-size:9px");
        }
        if count == most {
            svg.text(middle, top - 6.0, Anchor::Middle, &count.to_string());
        }
    }
    svg.finish()
}
