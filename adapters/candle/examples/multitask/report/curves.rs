//! Learning curves.

use super::super::compare::Finished;
use super::super::model::Variant;
use super::super::train::History;
use super::Page;
use super::svg::{Anchor, LINE, Svg};

/// One colour for each variant; told apart in greyscale too.
pub fn colour(variant: Variant) -> &'static str {
    match variant {
        Variant::HardSharing => "#8250df",
        Variant::TaskEmbedding => "#1a7f37",
        Variant::EqualActiveHeads => "#bf8700",
        Variant::Gated => "#0969da",
    }
}

/// One line a run over the training steps.
struct Chart<'a> {
    label: &'a str,
    /// Ends of the vertical axis.
    range: (f64, f64),
    points: &'a dyn Fn(&History) -> Vec<(usize, f64)>,
}

pub fn section(out: &mut String, page: &Page<'_>) {
    out.push_str("<h2>Learning curves</h2><p>One line a seed.</p>");
    let runs = page.found.runs;
    chart(
        out,
        page,
        &Chart {
            label: "accuracy on held-out data, mean of tasks",
            range: (0.0, 1.0),
            points: &|history| history.curve.clone(),
        },
    );
    let losses = runs.iter().flat_map(|finished| smoothed(&finished.run.history.losses));
    let (lowest, highest) =
        losses.fold((0.0, 0.1), |(low, high): (f64, f64), (_, l)| (low.min(l), high.max(l)));
    chart(
        out,
        page,
        &Chart {
            label: "training loss",
            range: (lowest, highest),
            points: &|history| smoothed(&history.losses),
        },
    );
}

/// The plot area is x 50..730, y 20..300.
fn chart(out: &mut String, page: &Page<'_>, chart: &Chart<'_>) {
    let steps = page.found.runs.iter().map(|finished| finished.run.step()).max().unwrap_or(0).max(1);
    let (low, high) = chart.range;
    let x = |step: usize| 50.0 + 680.0 * step as f64 / steps as f64;
    let y = |value: f64| 300.0 - 280.0 * ((value - low) / (high - low)).clamp(0.0, 1.0);
    let mut svg = Svg::new(chart.label, 960.0, 340.0);
    for tick in 0..=5 {
        let value = low + (high - low) * f64::from(tick) / 5.0;
        svg.line((50.0, y(value)), (730.0, y(value)), LINE);
        svg.text(42.0, y(value) + 4.0, Anchor::End, &format!("{value:.1}"));
    }
    for quarter in 0..=4 {
        let step = steps * quarter / 4;
        svg.text(x(step), 318.0, Anchor::Middle, &step.to_string());
    }
    svg.text(390.0, 336.0, Anchor::Middle, "step").text(50.0, 12.0, Anchor::Start, chart.label);
    for (index, row) in page.found.rows.iter().enumerate() {
        let colour = colour(row.variant);
        let own = |finished: &&Finished| finished.run.options.variant == row.variant;
        for finished in page.found.runs.iter().filter(own) {
            let points = (chart.points)(&finished.run.history);
            svg.polyline(points.into_iter().map(|(step, value)| (x(step), y(value))), colour);
        }
        let at = 40.0 + 24.0 * index as f64;
        svg.rect([745.0, at - 6.0, 18.0, 4.0], colour).text(770.0, at, Anchor::Start, &row.name);
    }
    out.push_str(&svg.finish());
}

/// Losses averaged over windows of a fortieth of the run.
fn smoothed(losses: &[f32]) -> Vec<(usize, f64)> {
    let window = (losses.len() / 40).max(1);
    let mean = |part: &[f32]| part.iter().copied().map(f64::from).sum::<f64>() / part.len() as f64;
    losses.chunks(window).enumerate().map(|(i, part)| (i * window + part.len(), mean(part))).collect()
}
