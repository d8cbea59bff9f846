//! The self-contained report: table, learning curves and gate maps, as one HTML file with inline SVG.

use crate::Row;
use crate::data::Data;
use crate::model::Config;
use crate::train::{Run, Schedule};
use std::fmt::Write as _;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #d8dee4}\
th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}text{font:13px system-ui,sans-serif;fill:#1b1f24}\
.muted{color:#59636e}";

/// One colour for each variant; told apart in greyscale too.
const COLOURS: [&str; 4] = ["#8250df", "#1a7f37", "#bf8700", "#0969da"];

pub fn html(rows: &[Row], runs: &[Run], data: &Data, config: &Config, schedule: &Schedule) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>gatewarp multitask</title><style>{STYLE}</style>\
         <h1>Task-gated heads on {} tasks</h1><p class=\"muted\">{} training and {} held-out sequences; {} steps of {} samples, \
         every batch mixes tasks; attention on {}.</p>",
        data.info.tasks.len(),
        data.train.len(),
        data.held_out.len(),
        schedule.steps,
        schedule.batch,
        escape(&format!("{:?}", config.device)),
    );
    page.push_str("<h2>Held-out results</h2><p>Mean ± deviation over seeds.</p>");
    table(&mut page, rows, data);
    page.push_str("<h2>Learning curves</h2><p>One line a seed.</p>");
    let accuracy = Chart {
        label: "accuracy on held-out data, mean of tasks",
        top: 1.0,
        points: &|run| run.curve.clone(),
    };
    chart(&mut page, rows, runs, schedule.steps, &accuracy);
    let highest = runs.iter().flat_map(|run| smoothed(&run.losses)).map(|(_, loss)| loss).fold(0.1, f64::max);
    let loss = Chart { label: "training loss", top: highest, points: &|run| smoothed(&run.losses) };
    chart(&mut page, rows, runs, schedule.steps, &loss);
    page.push_str("<h2>Which heads each task uses</h2><p>Gate of each task and head after training. A white cell is a head \
         that is not computed for that task.</p>");
    for (seed, gates) in (1..).zip(runs.iter().filter_map(|run| run.gates.as_ref())) {
        gate_map(&mut page, seed, gates, data);
    }
    page.push_str("</html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(page: &mut String, rows: &[Row], data: &Data) {
    page.push_str("<table><tr><th></th>");
    for row in rows {
        let _ = write!(page, "<th>{}</th>", escape(&row.name));
    }
    let mut line = |label: &str, cell: &dyn Fn(&Row) -> String| {
        let _ = write!(page, "</tr><tr><td>{}</td>", escape(label));
        for row in rows {
            let _ = write!(page, "<td>{}</td>", cell(row));
        }
    };
    for (task, name) in data.info.tasks.iter().enumerate() {
        line(&format!("accuracy, {name}"), &|row| row.accuracy[task].to_string());
    }
    line("accuracy, mean of tasks", &|row| row.mean_accuracy.to_string());
    line("macro F1, mean of tasks", &|row| row.macro_f1.to_string());
    line("heads computed", &|row| row.heads.clone());
    line("milliseconds a step", &|row| format!("{:.1}", row.milliseconds));
    page.push_str("</tr></table>");
}

/// One line a run over the training steps.
struct Chart<'a> {
    label: &'a str,
    /// Largest value of the vertical axis.
    top: f64,
    points: &'a dyn Fn(&Run) -> Vec<(usize, f64)>,
}

/// The plot area is x 50..730, y 20..300.
fn chart(page: &mut String, rows: &[Row], runs: &[Run], steps: usize, chart: &Chart<'_>) {
    let x = |step: usize| 50.0 + 680.0 * step as f64 / steps as f64;
    let y = |value: f64| 300.0 - 280.0 * (value / chart.top).clamp(0.0, 1.0);
    let _ = write!(page, "<svg viewBox=\"0 0 960 340\" role=\"img\" aria-label=\"{}\">", chart.label);
    for tick in 0..=5 {
        let value = chart.top * f64::from(tick) / 5.0;
        let at = y(value);
        let _ = write!(
            page,
            "<line x1=\"50\" x2=\"730\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#d8dee4\"/>\
             <text x=\"42\" y=\"{:.0}\" text-anchor=\"end\">{value:.1}</text>",
            at + 4.0
        );
    }
    for quarter in 0..=4 {
        let step = steps * quarter / 4;
        let _ = write!(page, "<text x=\"{:.0}\" y=\"318\" text-anchor=\"middle\">{step}</text>", x(step));
    }
    page.push_str("<text x=\"390\" y=\"336\" text-anchor=\"middle\">step</text>");
    let _ = write!(page, "<text x=\"50\" y=\"12\">{}</text>", chart.label);
    for (index, (row, colour)) in rows.iter().zip(COLOURS).enumerate() {
        for run in runs.iter().filter(|run| run.variant == row.variant) {
            let points: Vec<String> = (chart.points)(run)
                .iter()
                .map(|&(step, value)| format!("{:.1},{:.1}", x(step), y(value)))
                .collect();
            let _ = write!(
                page,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            );
        }
        let at = 40 + 24 * index;
        let _ = write!(
            page,
            "<rect x=\"745\" y=\"{}\" width=\"18\" height=\"4\" fill=\"{colour}\"/><text x=\"770\" y=\"{at}\">{}</text>",
            at - 6,
            escape(&row.name)
        );
    }
    page.push_str("</svg>");
}

/// Losses averaged over windows of a fortieth of the run.
fn smoothed(losses: &[f32]) -> Vec<(usize, f64)> {
    let window = (losses.len() / 40).max(1);
    let mean = |part: &[f32]| part.iter().copied().map(f64::from).sum::<f64>() / part.len() as f64;
    losses.chunks(window).enumerate().map(|(i, part)| (i * window + part.len(), mean(part))).collect()
}

fn gate_map(page: &mut String, seed: usize, gates: &[Vec<f32>], data: &Data) {
    let heads = gates.first().map_or(0, Vec::len);
    let (width, height) = (180 + 48 * heads, 60 + 34 * gates.len());
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"gate map of seed {seed}\">\
         <text x=\"0\" y=\"16\">seed {seed}, head:</text>"
    );
    for head in 0..heads {
        let _ = write!(page, "<text x=\"{}\" y=\"40\" text-anchor=\"middle\">{head}</text>", 202 + 48 * head);
    }
    for (task, (row, name)) in gates.iter().zip(&data.info.tasks).enumerate() {
        let top = 48 + 34 * task;
        let _ =
            write!(page, "<text x=\"170\" y=\"{}\" text-anchor=\"end\">{}</text>", top + 20, escape(name));
        for (head, &gate) in row.iter().enumerate() {
            let (left, ink) = (180 + 48 * head, if gate > 0.55 { "#fff" } else { "#1b1f24" });
            let _ = write!(
                page,
                "<rect x=\"{left}\" y=\"{top}\" width=\"44\" height=\"30\" fill=\"#0969da\" fill-opacity=\"{gate:.3}\" \
                 stroke=\"#d8dee4\"/>"
            );
            if gate > 0.0 {
                let _ = write!(
                    page,
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" style=\"fill:{ink}\">{gate:.2}</text>",
                    left + 22,
                    top + 20
                );
            }
        }
    }
    page.push_str("</svg><br>");
}
