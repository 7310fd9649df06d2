//! A ladder as one HTML page that needs nothing else: what each step brings, a roofline, and every
//! step's source with what its lines cost.

use super::gpus::Specs;
use super::roofline::{predict, shares, time};
use super::text::{GAIN, HEADER, belief, filled, less, moved, remarks, row, sample, why};
use super::{Ladder, Step};
use crate::backend::gpu::catalog::SOURCES;
use crate::files::{self, WriteError};
use crate::html::escape;
use crate::simt::counts::{Counts, LaunchProfile};
use crate::workbench::workload::Dims;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Lines around one that was counted that are always shown.
const CONTEXT: usize = 3;

/// Writes the page of a ladder.
///
/// # Errors
/// A place that cannot be written.
pub fn write(to: &Path, specs: &Specs, ladder: &Ladder) -> Result<(), WriteError> {
    files::write(to, page(specs, ladder).as_bytes())
}

fn page(specs: &Specs, ladder: &Ladder) -> String {
    let title = format!("{} of {}", ladder.op.name, Dims(&ladder.shape));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <p class=\"title\">The ladder of {title} ({})</p>\n<h1>{}</h1>\n\
         <p class=\"soft\">The kernels ran on a CPU, and every access was seen. {} Each unit’s time is \
         by itself, at its published peak.</p>\n",
        include_str!("page.css"),
        ladder.op.dims.join(" × "),
        escape(&verdict(specs, ladder)),
        belief(specs, &ladder.steps)
    );
    page += "<h2>What each idea brings</h2>\n";
    page += &table(specs, ladder);
    page += "<h2>Roofline</h2>\n";
    page += &plot(specs, ladder);
    page += "<h2>Where it goes</h2>\n<p class=\"soft\">A line’s bar is its share \
             of what bounds its launch.</p>\n";
    for step in &ladder.steps {
        page += &sources(specs, step);
    }
    page + "</body>\n</html>\n"
}

/// The steps at the ladder's shape, and at those of their own.
fn verdict(specs: &Specs, ladder: &Ladder) -> String {
    let Some(last) = ladder.steps.last() else {
        return "No step takes this shape.".into();
    };
    let groups = ladder.steps.chunk_by(|a, b| a.shape == b.shape);
    let said = groups.map(|steps| {
        let text = gain(specs, steps);
        match steps[0].shape == ladder.shape {
            true => text,
            false => format!("{text} at {}", Dims(&steps[0].shape)),
        }
    });
    let said: Vec<String> = said.collect();
    let bound = predict(specs, last.slowest(specs)).bound();
    format!(
        "{}, predicted; the last is bound by {bound}.",
        said.join("; ")
    )
}

/// What steps at one shape bring.
fn gain(specs: &Specs, steps: &[Step]) -> String {
    let (first, last) = (&steps[0], &steps[steps.len() - 1]);
    let (from, to) = (first.predicted(specs), last.predicted(specs));
    match steps.len() {
        1 => format!("One step: {}", time(to)),
        n if from / to < GAIN => {
            let less = less(last, first).map(|less| format!(", the last with {less}"));
            format!(
                "{} in each of {n} steps{}",
                time(to),
                less.unwrap_or_default()
            )
        }
        n => {
            let times = from / to;
            format!(
                "From {} to {}: {times:.1} times as fast in {n} steps",
                time(from),
                time(to)
            )
        }
    }
}

fn table(specs: &Specs, ladder: &Ladder) -> String {
    let mut html = String::from("<div class=\"scroll\"><table>\n<tr>");
    for name in HEADER {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for index in 0..ladder.steps.len() {
        html += "<tr>";
        for cell in row(specs, ladder, index) {
            let _ = write!(html, "<td>{}</td>", escape(&cell));
        }
        html += "</tr>\n";
    }
    html += "</table></div>\n";
    for remark in remarks(specs, ladder) {
        let _ = writeln!(html, "<p>{}</p>", escape(&remark));
    }
    for (_, why) in &ladder.skipped {
        let _ = writeln!(html, "<p class=\"soft\">Left out: {}</p>", escape(why));
    }
    html
}

/// The plane of the plot: intensity and rate in powers of ten.
struct Plane {
    x: [f64; 2],
    y: [f64; 2],
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 98.0;
const RIGHT: f64 = 190.0;
const BOTTOM: f64 = 44.0;

impl Plane {
    fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let part = |v: f64, [low, high]: [f64; 2]| (v.log10() - low) / (high - low);
        [
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - BOTTOM - 16.0),
        ]
    }

    fn line(&self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> String {
        let ([a, b], [c, d]) = (self.at(x1, y1), self.at(x2, y2));
        format!(
            "<line class=\"{class}\" x1=\"{a:.1}\" y1=\"{b:.1}\" x2=\"{c:.1}\" y2=\"{d:.1}\"/>\n"
        )
    }
}

fn label(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> String {
    let text = escape(text);
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

/// FLOP a byte of memory traffic against FLOP a second; for an op whose FLOPs nobody counts, bytes a
/// second as bars.
fn plot(specs: &Specs, ladder: &Ladder) -> String {
    if (ladder.op.flops)(&ladder.shape) == 0 {
        return bars(specs, ladder);
    }
    let point = |step: &Step| {
        let work = (ladder.op.flops)(&step.shape) as f64;
        let bytes: u64 = step.launches.iter().map(moved).sum();
        [work / (bytes.max(1) as f64), work / step.predicted(specs)]
    };
    let points: Vec<[f64; 2]> = ladder.steps.iter().map(point).collect();
    let low = |of: usize| points.iter().map(|p| p[of]).fold(f64::INFINITY, f64::min);
    let high = |of: usize| points.iter().map(|p| p[of]).fold(1.0, f64::max);
    let ridge = specs.tensor / specs.memory;
    let plane = Plane {
        x: [
            low(0).min(1.0).log10().floor(),
            high(0).max(10.0 * ridge).log10().ceil(),
        ],
        y: [
            low(1).min(1e11).log10().floor(),
            specs.tensor.log10().ceil(),
        ],
    };
    let [left, right] = plane.x.map(|e| 10_f64.powf(e));
    let [bottom, top] = plane.y.map(|e| 10_f64.powf(e));
    let mut svg = format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline\">\n"
    );
    for e in plane.y[0] as i32..=plane.y[1] as i32 {
        let y = 10_f64.powi(e);
        svg += &plane.line("grid", [left, y], [right, y]);
        svg += &label(
            LEFT - 8.0,
            plane.at(left, y)[1] + 4.0,
            "soft",
            "end",
            &rate(y),
        );
    }
    for e in plane.x[0] as i32..=plane.x[1] as i32 {
        let x = 10_f64.powi(e);
        svg += &plane.line("grid", [x, bottom], [x, top]);
        let text = if e < 0 {
            format!("{x:.*}", -e as usize)
        } else {
            format!("{x}")
        };
        svg += &label(
            plane.at(x, bottom)[0],
            HEIGHT - BOTTOM + 17.0,
            "soft",
            "middle",
            &text,
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    svg += &label(
        middle,
        HEIGHT - 6.0,
        "soft",
        "middle",
        "FLOP a byte of memory moved",
    );
    let start = (bottom / specs.memory).max(left);
    svg += &plane.line("roof", [start, start * specs.memory], [ridge, specs.tensor]);
    for (peak, name) in [(specs.tensor, "tensor cores"), (specs.fp32, "FMA units")] {
        svg += &plane.line("roof", [peak / specs.memory, peak], [right, peak]);
        let [x, y] = plane.at(right, peak);
        svg += &label(
            x + 6.0,
            y + 4.0,
            "soft",
            "start",
            &format!("{name}, {}", rate(peak)),
        );
    }
    let mut dots: Vec<([f64; 2], String)> = ladder
        .steps
        .iter()
        .zip(&points)
        .map(|(step, [x, y])| (plane.at(*x, *y), step.name()))
        .collect();
    // Labels to the right of their dots, and below one another where dots are close.
    dots.sort_by(|a, b| a.0[1].total_cmp(&b.0[1]));
    let mut free = 0.0_f64;
    for ([x, y], name) in dots {
        let _ = writeln!(
            svg,
            "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"
        );
        let at = free.max(y + 4.0);
        free = at + 13.0;
        svg += &label(x + 10.0, at, "", "start", &name);
    }
    svg + "</svg></div>\n"
}

fn rate(flops: f64) -> String {
    match flops {
        n if n >= 1e12 => format!("{:.0} TFLOP/s", n / 1e12),
        n if n >= 1e9 => format!("{:.0} GFLOP/s", n / 1e9),
        n => format!("{:.0} MFLOP/s", n / 1e6),
    }
}

fn bars(specs: &Specs, ladder: &Ladder) -> String {
    let height = 34.0 * ladder.steps.len() as f64 + 34.0;
    let mut svg = format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Bytes a second\">\n"
    );
    let (left, wide) = (190.0, WIDTH - 310.0);
    for (i, step) in ladder.steps.iter().enumerate() {
        let rate = (ladder.op.bytes)(&step.shape) as f64 / step.predicted(specs);
        let y = 34.0 * i as f64 + 8.0;
        let width = (rate / specs.memory).min(1.0) * wide;
        let _ = writeln!(
            svg,
            "<rect class=\"dot\" x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" rx=\"3\"/>"
        );
        let name = step.name();
        svg += &label(left - 8.0, y + 15.0, "", "end", &name);
        svg += &label(
            left + width + 8.0,
            y + 15.0,
            "",
            "start",
            &format!("{:.0} GB/s", rate / 1e9),
        );
    }
    let _ = writeln!(
        svg,
        "<line class=\"roof\" x1=\"{0}\" y1=\"0\" x2=\"{0}\" y2=\"{1}\"/>",
        left + wide,
        height - 26.0
    );
    let roof = format!("memory, {:.0} GB/s", specs.memory / 1e9);
    svg += &label(left + wide, height - 8.0, "soft", "middle", &roof);
    svg + "</svg></div>\n<p class=\"soft\">Bytes that the op has to move at least, by the predicted time. A \
           small shape is bound by its launches.</p>\n"
}

/// Counts of the lines of a file, and their shares in the step's time.
type Lines = BTreeMap<usize, (Counts, f64)>;

/// Files in which lines were counted, the kernels' own first.
fn files(specs: &Specs, step: &Step) -> Vec<(&'static str, &'static str, Lines)> {
    let mut found: BTreeMap<&str, Lines> = BTreeMap::new();
    let all = step.predicted(specs);
    for launch in &step.launches {
        let part = predict(specs, launch).seconds() / all;
        for (line, share) in launch.lines.iter().zip(shares(specs, launch)) {
            let place = line.site.place.rsplit_once(':');
            let place = place.and_then(|(path, number)| Some((path, number.parse().ok()?)));
            let Some((path, number)) = place else {
                continue;
            };
            let (counts, sum) = found.entry(path).or_default().entry(number).or_default();
            *counts += line.counts;
            *sum += share * part;
        }
    }
    // Also where all of its work is done in headers.
    found.entry(step.file).or_default();
    let own = |path: &str| step.launches.iter().any(|launch| launch.file == path);
    let mut files: Vec<_> = SOURCES
        .iter()
        .filter_map(|(path, text)| Some((*path, *text, found.remove(path)?)))
        .collect();
    files.sort_by_key(|(path, ..)| !own(path));
    files
}

fn sources(specs: &Specs, step: &Step) -> String {
    let mut html = format!(
        "<details class=\"step\"><summary>{}</summary>\n",
        escape(&step.name())
    );
    for launch in &step.launches {
        let LaunchProfile {
            kernel, threads, ..
        } = launch;
        let sampled = match launch.is_sampled() {
            true => format!(", sampled: {}", sample(launch)),
            false => String::new(),
        };
        let _ = writeln!(
            html,
            "<p class=\"soft\">{kernel}, {} blocks of {threads} threads, {}{sampled}: {}</p>",
            launch.blocks(),
            filled(specs, launch),
            escape(&predict(specs, launch).to_string())
        );
    }
    for (path, text, lines) in files(specs, step) {
        let _ = writeln!(html, "<h3>{path}</h3>\n<div class=\"code\">");
        html += &annotated(text, &lines);
        html += "</div>\n";
    }
    html + "</details>\n"
}

fn annotated(text: &str, lines: &Lines) -> String {
    let near = |number: usize| {
        let from = number.saturating_sub(CONTEXT);
        lines.range(from..=number + CONTEXT).next().is_some()
    };
    let (mut html, mut folded) = (String::new(), false);
    for (i, code) in text.lines().enumerate() {
        let number = i + 1;
        if near(number) == folded {
            html += if folded {
                "</details>\n"
            } else {
                "<details><summary>…</summary>\n"
            };
            folded = !folded;
        }
        let (mut class, mut note) = (String::new(), String::new());
        if let Some((counts, share)) = lines.get(&number) {
            let share = 100.0 * share;
            class = format!(" class=\"hot\" style=\"--share: {share:.1}%\"");
            note = format!(
                "\n<div class=\"note\">        {share:>3.0} % {}</div>",
                escape(&why(counts))
            );
        }
        let _ = writeln!(
            html,
            "<div{class}><span class=\"number\">{number:>4}</span>{}</div>{note}",
            escape(code)
        );
    }
    if folded {
        html += "</details>\n";
    }
    html
}

#[cfg(all(test, simt_counted))]
mod tests {
    use super::super::gpus::find as gpu;
    use super::super::{find, ladder};
    use super::*;

    #[test]
    fn a_page_has_all_steps_and_needs_nothing_from_elsewhere() {
        let specs = gpu("h100").unwrap();
        for (name, shape) in [("copy", &[5000][..]), ("gemm", &[33, 24, 40])] {
            let op = find(name).unwrap().op;
            let ladder = ladder(op, Some(shape), specs, None, &|_| ()).unwrap();
            assert_eq!(ladder.steps.len() + ladder.skipped.len(), op.steps.len());
            let page = page(specs, &ladder);
            for step in &ladder.steps {
                let heading = format!("<summary>{}<", step.name());
                assert!(page.contains(&heading), "{heading}");
            }
            for broken in ["NaN", "inf", "http", "src=", "<include"] {
                assert!(!page.contains(broken), "{broken}");
            }
            for element in ["div", "details", "table", "svg", "summary", "p", "tr"] {
                let opened = page.matches(&format!("<{element}>")).count()
                    + page.matches(&format!("<{element} ")).count();
                assert_eq!(
                    opened,
                    page.matches(&format!("</{element}>")).count(),
                    "{element}"
                );
            }
        }
    }

    #[test]
    fn a_headline_says_what_steps_bring_that_are_no_faster() {
        let specs = gpu("h100").unwrap();
        let headline = |name: &str, shape: &[usize]| {
            let op = find(name).unwrap().op;
            let ladder = ladder(op, Some(shape), specs, None, &|_| ()).unwrap();
            (verdict(specs, &ladder), remarks(specs, &ladder))
        };
        // As long as their launches.
        let (text, remarks) = headline("sgd", &[4096]);
        let start = "2.0 µs in each of 2 steps, the last with ";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("times fewer requests to memory"), "{text}");
        assert!(text.ends_with("; the last is bound by launch."), "{text}");
        let start = "2 vectors is no faster than 1 elements on paper: both are bound by launch. ";
        assert!(
            remarks.len() == 1 && remarks[0].starts_with(start),
            "{remarks:?}"
        );
        // All at a shape that is no step's own.
        let (text, _) = headline("attention", &[1, 200, 1, 64]);
        assert!(
            text.starts_with("From ") && text.contains("in 2 steps"),
            "{text}"
        );
        assert!(!text.contains(" at "), "{text}");
    }
}
