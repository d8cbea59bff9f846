//! The self-contained report: one HTML file with inline SVG, nothing loaded from elsewhere.

mod curves;
mod gates;
mod looks;
mod phase;
mod svg;

use super::add_task::groups;
use super::compare::{Finished, Row, verdict};
use super::data::Data;
use super::json::Found;
use super::model::Variant;
use std::fmt::Write as _;
use svg::escape;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid #d8dee4;padding-bottom:.2rem}h3{margin:1.4rem 0 .2rem}\
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}td{white-space:nowrap}td,th{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #d8dee4}\
th:first-child,td:first-child{text-align:left}\
svg{max-width:100%;height:auto;display:block;margin:.4rem 0}svg text{font:13px system-ui,sans-serif;fill:#1b1f24}\
p{margin:.4rem 0;max-width:48rem}.muted{color:#59636e}.row{display:flex;flex-wrap:wrap;gap:1rem 2rem}";

/// What the report is made of.
pub struct Page<'a> {
    pub found: &'a Found<'a>,
    pub data: &'a Data,
    /// Whether tokens are those of the synthetic tasks, which have names.
    pub synthetic: bool,
}

impl Page<'_> {
    fn tasks(&self) -> &[String] {
        self.found.tasks
    }

    /// The run whose inside is shown: the first gated one, or the first.
    fn shown(&self) -> Option<(usize, &Finished)> {
        let gated = |(_, finished): &(usize, &Finished)| finished.run.options.variant == Variant::Gated;
        let runs = || self.found.runs.iter().enumerate();
        runs().find(gated).or_else(|| runs().next())
    }
}

/// The whole page.
pub fn html(page: &Page<'_>) -> String {
    let mut out = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    let _ = write!(
        out,
        "<meta name=\"viewport\" content=\"width=device-width\"><title>gatewarp multitask</title><style>{STYLE}</style>\
         <h1>Task-gated heads on {} tasks</h1>",
        page.tasks().len()
    );
    if let Some((_, finished)) = page.shown() {
        let options = &finished.run.options;
        let _ = write!(
            out,
            "<p class=\"muted\">{} training and {} held-out sequences; {} steps of {} samples, every batch mixes tasks; attention on \
             {}.</p>",
            page.data.train.len(),
            page.data.held_out.len(),
            finished.run.step(),
            options.batch,
            escape(&format!("{:?}", finished.run.model.config.device)),
        );
    }
    if let Some(verdict) = verdict(page.found.rows) {
        let _ = write!(out, "<p>{}</p>", escape(&verdict));
    }
    looks::section(&mut out, page);
    out.push_str("<h2>Held-out results</h2>");
    let seeds = page.found.rows.first().map_or(0, |row| row.mean_accuracy.count);
    let _ = write!(out, "<p>Mean ± deviation over {seeds} seed{}.</p>", if seeds == 1 { "" } else { "s" });
    table(&mut out, page.found.rows, page.tasks());
    added(&mut out, page);
    curves::section(&mut out, page);
    gates::section(&mut out, page);
    looks::positions(&mut out, page);
    if !page.found.phase.is_empty() {
        phase::section(&mut out, page.found.phase);
    }
    out.push_str("</html>\n");
    out
}

fn table(out: &mut String, rows: &[Row], tasks: &[String]) {
    out.push_str("<table><tr><th></th>");
    for row in rows {
        let _ = write!(out, "<th>{}</th>", escape(&row.name));
    }
    let mut line = |label: &str, cell: &dyn Fn(&Row) -> String| {
        let _ = write!(out, "</tr><tr><td>{}</td>", escape(label));
        for row in rows {
            let _ = write!(out, "<td>{}</td>", cell(row));
        }
    };
    for (task, name) in tasks.iter().enumerate() {
        line(&format!("accuracy, {name}"), &|row| row.accuracy[task].to_string());
    }
    line("accuracy, mean of tasks", &|row| row.mean_accuracy.to_string());
    line("macro F1, mean of tasks", &|row| row.macro_f1.to_string());
    line("heads computed", &|row| row.heads_text());
    line("milliseconds a step", &|row| format!("{:.1}", row.milliseconds));
    out.push_str("</tr></table>");
}

fn added(out: &mut String, page: &Page<'_>) {
    let Some(first) = page.found.added.first() else { return };
    let name = first.tasks.last().map_or("", String::as_str);
    let _ = write!(
        out,
        "<h2>A task added afterwards: {}</h2><p>Each trained model got a new task. What it had is frozen; trained are the task's own \
         readout and, where heads are gated, its gate and heads of its own. Held-out accuracy, mean ± deviation over seeds.</p>\
         <table><tr><th></th>",
        escape(name)
    );
    let groups = groups(page.found.added);
    for group in &groups {
        let _ = write!(out, "<th>{}, before</th><th>after</th>", group.variant.what());
    }
    for (task, name) in first.tasks.iter().enumerate() {
        let _ = write!(out, "</tr><tr><td>{}</td>", escape(name));
        for group in &groups {
            let _ = write!(out, "<td>{}</td><td>{}</td>", group.before[task], group.after[task]);
        }
    }
    out.push_str("</tr><tr><td>parameters trained</td>");
    for group in &groups {
        let _ = write!(out, "<td></td><td>{} of {}</td>", group.first.trained, group.first.parameters);
    }
    out.push_str("</tr></table>");
}
