//! What each task looks at: example sequences under each task's attention, and means by position.

use super::super::inspect::{Example, Look};
use super::super::model::Variant;
use super::super::synthetic::token_name;
use super::Page;
use super::svg::{Anchor, BLUE, GREEN, LINE, Svg, escape, ink, percent};
use std::fmt::Write as _;

/// Positions that a picture shows at most.
const SHOWN: usize = 40;

/// Examples and a sentence for each task.
pub fn section(out: &mut String, page: &Page<'_>) {
    let Some((index, finished)) = page.shown() else { return };
    let Some(looks) = page.found.looks.get(index).filter(|looks| !looks.is_empty()) else { return };
    let config = &finished.run.model.config;
    let _ = write!(
        out,
        "<h2>What each task looks at</h2><p>The {} model of seed {}. Each strip is one held-out sequence; the last token asks. The darker \
         a token, the more the task's heads attend to it. A green frame marks a token that holds the answer; the token after it, in a \
         thin frame, holds it too, for the layer shows every token with its predecessor. Sequences of all tasks are alike: the {} \
         says which task it is.</p>",
        escape(&finished.run.options.variant.name(config)),
        finished.run.options.seed,
        match finished.run.options.variant {
            Variant::Gated => "gate",
            Variant::TaskEmbedding => "task's embedding",
            Variant::HardSharing | Variant::EqualActiveHeads => "readout",
        }
    );
    for look in looks {
        let _ = write!(out, "<h3>{}</h3><p>{}</p>", escape(&page.tasks()[look.task]), sentence(look));
        out.push_str(&strips(look, page.synthetic));
    }
}

/// Where the attention lies, in words.
fn sentence(look: &Look) -> String {
    let mut text = match look.on_answer {
        Some((on, tokens)) => format!(
            "<b>{}</b> of the attention lies on tokens that hold the answer ({} of all tokens do). ",
            percent(on),
            percent(tokens)
        ),
        None => String::new(),
    };
    let heads = look.heads.iter().take(4).map(|head| format!("head {} (gate {:.2})", head.head, head.gate));
    let heads: Vec<String> = heads.collect();
    let more = if look.heads.len() > 4 { ", …" } else { "" };
    let _ = write!(
        text,
        "Works with {}{more}. Attention entropy {:.2} nats of at most {:.2}: as if spread over {:.1} tokens.",
        heads.join(", "),
        look.entropy,
        look.most_entropy,
        look.entropy.exp()
    );
    text
}

fn strips(look: &Look, synthetic: bool) -> String {
    let longest = look.examples.iter().map(|example| example.tokens.len()).max().unwrap_or(0).min(SHOWN);
    let (cell, height) = (40.0, 34.0);
    let width = cell * longest as f64 + 190.0;
    let mut svg =
        Svg::new("attention on example sequences", width, height * look.examples.len() as f64 + 4.0);
    for (row, example) in look.examples.iter().enumerate() {
        strip(&mut svg, example, 2.0 + height * row as f64, cell, synthetic);
    }
    svg.finish()
}

fn strip(svg: &mut Svg, example: &Example, top: f64, cell: f64, synthetic: bool) {
    for (at, (&token, &share)) in example.tokens.iter().zip(&example.attention).take(SHOWN).enumerate() {
        let left = 2.0 + cell * at as f64;
        let name = if synthetic { token_name(token) } else { token.to_string() };
        let place = [left, top, cell - 4.0, 26.0];
        svg.shade(place, share, &format!("{name}: {:.3}", share));
        if example.evidence.contains(&at) {
            svg.frame(place, GREEN, 2.5);
        } else if at > 0 && example.evidence.contains(&(at - 1)) {
            svg.frame(place, GREEN, 1.0);
        }
        svg.styled(left + cell / 2.0 - 2.0, top + 18.0, Anchor::Middle, &name, ink(share));
    }
    let left = 12.0 + cell * example.tokens.len().min(SHOWN) as f64;
    let verdict = if example.label == example.prediction { "right" } else { "wrong" };
    let text = format!("→ {} ({verdict}: {})", example.prediction, example.label);
    svg.text(left, top + 18.0, Anchor::Start, &text);
}

/// Mean attention by position, and the entropy of each task and variant.
pub fn positions(out: &mut String, page: &Page<'_>) {
    let Some((index, _)) = page.shown() else { return };
    let Some(looks) = page.found.looks.get(index).filter(|looks| !looks.is_empty()) else { return };
    out.push_str(
        "<h2>Attention by position</h2><p>Mean over held-out sequences, one row for each head that works for a task. A task that always \
         reads the same place has one dark cell; one that searches is spread out.</p>",
    );
    let longest = looks.iter().flat_map(|look| &look.heads).map(|head| head.by_position.len()).max();
    let longest = longest.unwrap_or(0).min(SHOWN);
    let rows: Vec<_> = looks
        .iter()
        .flat_map(|look| look.heads.iter().take(3).enumerate().map(move |(i, head)| (look.task, i, head)))
        .collect();
    let (left, cell) = (230.0, 30.0);
    let mut svg = Svg::new(
        "mean attention by position",
        left + cell * longest as f64 + 10.0,
        30.0 + 24.0 * rows.len() as f64,
    );
    for position in 0..longest {
        let x = left + cell * (position as f64 + 0.5);
        svg.text(x, 16.0, Anchor::Middle, &(position + 1).to_string());
    }
    for (row, (task, nth, head)) in rows.into_iter().enumerate() {
        let top = 24.0 + 24.0 * row as f64;
        if nth == 0 {
            svg.text(130.0, top + 16.0, Anchor::End, &page.tasks()[task]);
            svg.line((0.0, top - 1.0), (left + cell * longest as f64, top - 1.0), LINE);
        }
        svg.text(left - 8.0, top + 16.0, Anchor::End, &format!("head {}", head.head));
        for (position, &share) in head.by_position.iter().take(longest).enumerate() {
            let place = [left + cell * position as f64, top, cell - 2.0, 20.0];
            svg.shade(place, share, &format!("{share:.3}"));
        }
    }
    out.push_str(&svg.finish());
    entropies(out, page);
}

/// A bar for each task and run variant.
fn entropies(out: &mut String, page: &Page<'_>) {
    out.push_str(
        "<h2>Attention entropy</h2><p>How spread out the last token's attention is, in nats: mean over held-out sequences, heads weighted \
         by their gates, and over seeds. The line marks attention on all tokens alike.</p>",
    );
    let rows = page.found.rows;
    let most = page.found.looks.iter().flatten().map(|look| look.most_entropy).fold(0.1, f64::max);
    let (left, width) = (150.0, 520.0);
    let group = 18.0 * rows.len() as f64 + 14.0;
    let mut svg = Svg::new("attention entropy", 960.0, group * page.tasks().len() as f64 + 24.0);
    for (task, name) in page.tasks().iter().enumerate() {
        let top = 8.0 + group * task as f64;
        svg.text(left - 10.0, top + 14.0, Anchor::End, name);
        for (nth, row) in rows.iter().enumerate() {
            let of_row = page.found.runs.iter().zip(page.found.looks);
            let of_row = of_row.filter(|(finished, _)| finished.run.options.variant == row.variant);
            let values: Vec<f64> = of_row
                .flat_map(|(_, looks)| looks)
                .filter(|look| look.task == task)
                .map(|look| look.entropy)
                .collect();
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            let y = top + 18.0 * nth as f64;
            svg.rect([left, y + 2.0, width * mean / most, 14.0], super::curves::colour(row.variant));
            let text = format!("{mean:.2}  {}", row.name);
            svg.text(left + width * mean / most + 6.0, y + 14.0, Anchor::Start, &text);
        }
    }
    let x = left + width;
    svg.line((x, 0.0), (x, group * page.tasks().len() as f64), BLUE);
    svg.text(x, group * page.tasks().len() as f64 + 16.0, Anchor::Middle, &format!("all alike, {most:.2}"));
    out.push_str(&svg.finish());
}
