//! Pictures as inline SVG.

use std::fmt::Write as _;

/// The blue of every shade and bar.
pub const BLUE: &str = "#0969da";
/// Marks what is right.
pub const GREEN: &str = "#1a7f37";
/// Thin lines.
pub const LINE: &str = "#d8dee4";

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where a text stands against its x.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that is being drawn, in units of about a pixel.
pub struct Svg {
    body: String,
    size: (f64, f64),
    label: String,
}

impl Svg {
    pub fn new(label: impl Into<String>, width: f64, height: f64) -> Self {
        Self { body: String::new(), size: (width, height), label: label.into() }
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) -> &mut Self {
        self.styled(x, y, anchor, text, "")
    }

    pub fn styled(&mut self, x: f64, y: f64, anchor: Anchor, text: &str, style: &str) -> &mut Self {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" style=\"{style}\">{}</text>",
            escape(text)
        );
        self
    }

    pub fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: &str) -> &mut Self {
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        );
        self
    }

    /// A cell whose shade is `share` of full blue, and what a pointer shows over it.
    pub fn shade(&mut self, [x, y, width, height]: [f64; 4], share: f64, title: &str) -> &mut Self {
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{BLUE}\" \
             fill-opacity=\"{:.3}\" stroke=\"{LINE}\"><title>{}</title></rect>",
            share.clamp(0.0, 1.0),
            escape(title)
        );
        self
    }

    pub fn frame(&mut self, [x, y, width, height]: [f64; 4], stroke: &str, thick: f64) -> &mut Self {
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"none\" \
             stroke=\"{stroke}\" stroke-width=\"{thick}\" rx=\"3\"/>"
        );
        self
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str) -> &mut Self {
        let _ = write!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\"/>",
            from.0, from.1, to.0, to.1
        );
        self
    }

    pub fn polyline(&mut self, points: impl Iterator<Item = (f64, f64)>, stroke: &str) -> &mut Self {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        self
    }

    pub fn finish(&self) -> String {
        let (width, height) = self.size;
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            escape(&self.label),
            self.body
        )
    }
}

/// The colour of text on a shade.
pub fn ink(share: f64) -> &'static str {
    if share > 0.55 { "fill:#fff" } else { "" }
}

pub fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}
