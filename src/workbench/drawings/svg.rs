//! The little that drawings need of SVG, for light and dark pages.

use crate::html::escape;
use std::fmt::Write as _;

/// Width of every drawing.
pub(super) const WIDTH: f64 = 760.0;

const STYLE: &str = "\
svg { --ink: #1c2430; --soft: #5d6878; --line: #c3cad5; --back: #fff; --pale: #dbe7f6; --blue: #2463b4; --warm: #d65a31; --on: #fff }
@media (prefers-color-scheme: dark) { svg { --ink: #e4e8ee; --soft: #9aa5b5; --line: #454f5e; --back: #14181e; --pale: #24364e; --blue: #6fa8f0; --warm: #f08250; --on: #10141a } }
text { font: 12px system-ui, sans-serif; fill: var(--ink) }
.soft { fill: var(--soft) } .mid { text-anchor: middle } .tiny { font-size: 10px } .on { fill: var(--on) } .head { font-weight: 600 }
.back { fill: var(--back) } .box { fill: none; stroke: var(--line) } .pale { fill: var(--pale) } .blue { fill: var(--blue) } .warm { fill: var(--warm) } .frame { fill: none; stroke: var(--warm); stroke-width: 2 }
";

/// A drawing under way.
pub(super) struct Svg {
    body: String,
    height: f64,
}

impl Svg {
    pub(super) fn new() -> Svg {
        let (body, height) = (String::new(), 0.0);
        Svg { body, height }
    }

    /// A rectangle: its corner, and its sizes.
    pub(super) fn rect(&mut self, class: &str, [x, y]: [f64; 2], [w, h]: [f64; 2]) {
        self.height = self.height.max(y + h);
        let [x, y, w, h] = [x, y, w, h].map(short);
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"/>"
        );
    }

    /// A line of text, by where it starts, or its middle if it is of class `mid`.
    pub(super) fn text(&mut self, class: &str, [x, y]: [f64; 2], text: &str) {
        self.height = self.height.max(y + 4.0);
        let ([x, y], text) = ([x, y].map(short), escape(text));
        let class = match class {
            "" => String::new(),
            _ => format!(" class=\"{class}\""),
        };
        let _ = writeln!(self.body, "<text{class} x=\"{x}\" y=\"{y}\">{text}</text>");
    }

    /// The file; `about` is for who cannot see it.
    pub(super) fn finish(self, about: &str) -> String {
        let (height, about) = (short(self.height + 14.0), escape(about));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <title>{about}</title>\n<style>\n{STYLE}</style>\n\
             <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// With one decimal at most.
fn short(v: f64) -> String {
    let text = format!("{v:.1}");
    text.strip_suffix(".0").unwrap_or(&text).into()
}
