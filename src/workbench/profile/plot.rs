//! The plots of a ladder's page: a roofline, or bytes a second.

use super::gpus::Specs;
use super::labels::{Area, BASE, LINE, Labels, width};
use super::text::moved;
use super::{Ladder, Step};
use crate::html::escape;
use std::fmt::Write as _;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// The plane of the plot: intensity and rate in powers of ten.
struct Plane {
    x: [f64; 2],
    y: [f64; 2],
}

impl Plane {
    fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let part = |v: f64, [low, high]: [f64; 2]| (v.log10() - low) / (high - low);
        [
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - BOTTOM - TOP),
        ]
    }
}

fn line(class: &str, [[a, b], [c, d]]: [[f64; 2]; 2]) -> String {
    format!("<line class=\"{class}\" x1=\"{a:.1}\" y1=\"{b:.1}\" x2=\"{c:.1}\" y2=\"{d:.1}\"/>\n")
}

fn label(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> String {
    let text = escape(text);
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

/// Numbers of the form 1, 2 or 5 times a power of ten in a range of powers of ten; only the powers
/// where there are many.
fn ticks([low, high]: [f64; 2]) -> Vec<f64> {
    let factors: &[f64] = if high - low < 2.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let powers = low.floor() as i32..=high.ceil() as i32;
    let all = powers.flat_map(|e| factors.iter().map(move |f| f * 10_f64.powi(e)));
    let inside = |v: &f64| (low..=high).contains(&v.log10());
    all.filter(inside).collect()
}

/// FLOP a byte of memory traffic against FLOP a second, as much of the plane as the steps need; for
/// an op whose FLOPs nobody counts, bytes a second as bars.
pub(super) fn plot(specs: &Specs, ladder: &Ladder) -> String {
    if (ladder.op.flops)(&ladder.shape) == 0 {
        return bars(specs, ladder);
    }
    let point = |step: &Step| {
        let work = (ladder.op.flops)(&step.shape) as f64;
        let bytes: u64 = step.launches.iter().map(moved).sum();
        [work / (bytes.max(1) as f64), work / step.predicted(specs)]
    };
    let points: Vec<[f64; 2]> = ladder.steps.iter().map(point).collect();
    let names: Vec<String> = ladder.steps.iter().map(Step::name).collect();
    roofline(specs, &points, &names)
}

fn roofline(specs: &Specs, points: &[[f64; 2]], names: &[String]) -> String {
    let ridge = specs.tensor / specs.memory;
    // Room around the points, and the roofs above them.
    let range = |of: usize, roof: f64| {
        let values = || points.iter().map(|p| p[of]).chain([roof]);
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(0.0, f64::max);
        [(low / 2.5).log10(), (high * 2.0).log10()]
    };
    let plane = Plane {
        x: range(0, ridge),
        y: range(1, specs.tensor),
    };
    let [[left, right], [bottom, top]] = [plane.x, plane.y].map(|r| r.map(|e| 10_f64.powf(e)));
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline\">\n");
    for y in ticks(plane.y) {
        svg += &line("grid", [[left, y], [right, y]].map(|p| plane.at(p)));
        let at = plane.at([left, y])[1] + 4.0;
        svg += &label(LEFT - 6.0, at, "soft", "end", &rate(y));
    }
    for x in ticks(plane.x) {
        svg += &line("grid", [[x, bottom], [x, top]].map(|p| plane.at(p)));
        let [at, y] = plane.at([x, bottom]);
        svg += &label(at, y + 17.0, "soft", "middle", &format!("{x}"));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let about = "FLOP a byte of memory moved";
    svg += &label(middle, HEIGHT - 6.0, "soft", "middle", about);

    // Of each roof what is in the plane: the slope of memory, and flat ones.
    let start = (bottom / specs.memory).max(left);
    let slope = [[start, start * specs.memory], [ridge, specs.tensor]];
    let mut roofs = vec![(slope, format!("memory, {:.2} TB/s", specs.memory / 1e12))];
    for (peak, name) in [(specs.tensor, "tensor cores"), (specs.fp32, "FMA units")] {
        if peak > bottom {
            let from = (peak / specs.memory).max(left);
            roofs.push((
                [[from, peak], [right, peak]],
                format!("{name}, {}", rate(peak)),
            ));
        }
    }
    let lines = roofs.iter().map(|(ends, _)| ends.map(|p| plane.at(p)));
    let mut labels = Labels {
        all: Area {
            x: LEFT,
            y: TOP,
            wide: WIDTH - LEFT - RIGHT,
            high: HEIGHT - TOP - BOTTOM,
        },
        taken: Vec::new(),
        lines: lines.collect(),
    };
    let dots: Vec<[f64; 2]> = points.iter().map(|p| plane.at(*p)).collect();
    dots.iter().for_each(|dot| labels.dot(*dot));
    let mut texts = String::new();
    for (i, (_, name)) in roofs.iter().enumerate() {
        let [from, to] = labels.lines[i];
        svg += &line("roof", [from, to]);
        // A flat one's stands over its right end, the slope's to the left of its middle.
        let beside = match from[1] == to[1] {
            true => [to[0] + 8.0, to[1] - LINE * 0.6],
            false => [(from[0] + to[0]) / 2.0, (from[1] + to[1]) / 2.0 - 6.0],
        };
        let area = labels.place(beside, name);
        texts += &label(area.x, area.y + BASE, "soft", "start", name);
    }
    for (dot, name) in dots.iter().zip(names) {
        let [x, y] = *dot;
        let area = labels.place(*dot, name);
        let to = match area.x > x {
            true => [area.x - 1.0, area.y + LINE / 2.0],
            false => [area.x + width(name) + 1.0, area.y + LINE / 2.0],
        };
        if (to[1] - y).abs() > LINE / 2.0 {
            svg += &line("leader", [*dot, to]);
        }
        let anchor = if area.x > x {
            ("start", area.x)
        } else {
            ("end", area.x + area.wide)
        };
        texts += &label(anchor.1, area.y + BASE, "", anchor.0, name);
    }
    for [x, y] in dots {
        let _ = writeln!(
            svg,
            "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"
        );
    }
    svg + &texts + "</svg>\n"
}

fn rate(flops: f64) -> String {
    match flops {
        n if n >= 1e15 => format!("{:.0} PFLOP/s", n / 1e15),
        n if n >= 1e12 => format!("{:.0} TFLOP/s", n / 1e12),
        n if n >= 1e9 => format!("{:.0} GFLOP/s", n / 1e9),
        n => format!("{:.0} MFLOP/s", n / 1e6),
    }
}

fn bars(specs: &Specs, ladder: &Ladder) -> String {
    let height = 34.0 * ladder.steps.len() as f64 + 34.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Bytes a second\">\n"
    );
    let names = ladder.steps.iter().map(|step| width(&step.name()));
    let left = names.fold(60.0, f64::max) + 8.0;
    let wide = WIDTH - left - 84.0;
    for (i, step) in ladder.steps.iter().enumerate() {
        let rate = (ladder.op.bytes)(&step.shape) as f64 / step.predicted(specs);
        let y = 34.0 * i as f64 + 8.0;
        let width = (rate / specs.memory).min(1.0) * wide;
        let _ = writeln!(
            svg,
            "<rect class=\"dot\" x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" rx=\"3\"/>"
        );
        svg += &label(left - 8.0, y + 15.0, "", "end", &step.name());
        let text = format!("{:.0} GB/s", rate / 1e9);
        svg += &label(left + width + 8.0, y + 15.0, "", "start", &text);
    }
    let x = left + wide;
    svg += &line("roof", [[x, 0.0], [x, height - 26.0]]);
    let roof = format!("memory, {:.0} GB/s", specs.memory / 1e9);
    svg += &label(x, height - 8.0, "soft", "middle", &roof);
    svg + "</svg>\n<p class=\"soft\">Bytes that the op has to move at least, by the predicted time. A \
           small shape is bound by its launches.</p>\n"
}

#[cfg(test)]
mod tests {
    use super::super::gpus::GPUS;
    use super::*;

    /// The areas of all texts of a plot.
    fn texts(svg: &str) -> Vec<(Area, String)> {
        let part = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).expect("it has one");
            rest.split('"').next().expect("it ends").to_string()
        };
        let number = |line: &str, name: &str| part(line, name).parse::<f64>().expect("a number");
        let of = |line: &str| {
            let text = line.split(['>', '<']).nth(2).expect("a text").to_string();
            let wide = width(&text);
            let left = match part(line, "text-anchor").as_str() {
                "end" => wide,
                "middle" => wide / 2.0,
                _ => 0.0,
            };
            let [x, y] = [number(line, " x") - left, number(line, " y") - BASE];
            (
                Area {
                    x,
                    y,
                    wide,
                    high: LINE,
                },
                text,
            )
        };
        svg.lines()
            .filter(|l| l.starts_with("<text"))
            .map(of)
            .collect()
    }

    #[test]
    fn no_text_of_a_roofline_lies_on_another_or_leaves_the_plot() {
        let names: Vec<String> = (1..=7).map(|i| format!("{i} tensor cores")).collect();
        for specs in &GPUS {
            for (intensity, spread) in [(0.5, 1.0), (170.0, 1.0), (40.0, 1.3), (3000.0, 0.7)] {
                for factor in [1.0, 1.05, 2.0, 6.0] {
                    let point = |i: i32| {
                        [
                            intensity * f64::powi(spread, i),
                            2e12 * f64::powi(factor, i),
                        ]
                    };
                    let points: Vec<[f64; 2]> = (0..7).map(point).collect();
                    let texts = texts(&roofline(specs, &points, &names));
                    assert!(texts.len() > 7 + 3 + 4, "labels, roofs, axes");
                    for (i, (area, text)) in texts.iter().enumerate() {
                        assert!(
                            area.x >= 0.0 && area.x + area.wide <= WIDTH,
                            "{text}: {area:?}"
                        );
                        assert!(
                            area.y >= 0.0 && area.y + area.high <= HEIGHT,
                            "{text}: {area:?}"
                        );
                        for (other, on) in &texts[..i] {
                            assert!(!area.overlaps(other), "{text} on {on}: {area:?} {other:?}");
                        }
                    }
                }
            }
        }
    }
}
