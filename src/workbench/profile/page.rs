//! A ladder as one HTML page that needs nothing else: the idea of each step and what it brings, a
//! roofline, the costliest lines, questions to try oneself, and every step's source.

use super::gpus::Specs;
use super::plot::plot;
use super::roofline::{predict, shares, time};
use super::text::{GAIN, HEADER, belief, filled, less, remarks, row, sample, source_line, why};
use super::{Ladder, Step, step_of};
use crate::backend::gpu::catalog::{self, FILES};
use crate::backend::gpu::head::{Head, head};
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
        "{}<p class=\"title\">The ladder of {title} ({})</p>\n<h1>{}</h1>\n\
         <p class=\"soft\">The kernels ran on a CPU, and every access was seen. {} Each unit’s time is \
         by itself, at its published peak.</p>\n",
        opening(&title),
        ladder.op.dims.join(" × "),
        escape(&verdict(specs, ladder)),
        belief(specs, &ladder.steps)
    );
    page += &ideas(specs, ladder);
    page += "<h2>What each idea brings</h2>\n";
    page += &table(specs, ladder);
    page += "<h2>Roofline</h2>\n";
    page += &plot(specs, ladder);
    page += "<h2>Where it goes</h2>\n<p class=\"soft\">Of each step the line that costs most, with its \
             share of what bounds its launch.</p>\n";
    for step in &ladder.steps {
        page += &section(specs, ladder, step);
    }
    page + "</body>\n</html>\n"
}

/// What a page begins with.
pub(in crate::workbench) fn opening(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
        escape(title),
        include_str!("page.css")
    )
}

/// Numbers and their units stay together.
fn whole(text: String) -> String {
    text.replace(' ', "\u{a0}")
}

/// What the files of a step say of themselves: most have one.
fn heads(ladder: &Ladder, step: &Step) -> Vec<(&'static str, Head)> {
    let of_step = FILES.iter().map(|file| file.path).filter(|path| {
        let folder = path.split('/').nth(1).unwrap_or_default();
        ladder.op.folders.contains(&folder) && step_of(path) == step.number
    });
    of_step
        .filter_map(|path| Some((path, head(path)?)))
        .collect()
}

/// A step's idea, of each of its files.
fn idea(ladder: &Ladder, step: &Step) -> String {
    let heads = heads(ladder, step);
    let mut html = String::new();
    for (path, head) in &heads {
        let folder = path.split('/').nth(1).unwrap_or_default();
        let of = match heads.len() {
            1 => String::new(),
            _ => format!("<span class=\"soft\">{folder}:</span> "),
        };
        let idea = head.idea.as_deref().map(marked).unwrap_or_default();
        let _ = writeln!(html, "<p>{of}{idea}</p>");
    }
    html
}

/// Text in which code stands in backticks.
fn marked(text: &str) -> String {
    let parts = escape(text);
    let parts = parts.split('`').enumerate();
    let part = |(i, part): (usize, &str)| match i % 2 {
        0 => part.to_string(),
        _ => format!("<code>{part}</code>"),
    };
    parts.map(part).collect()
}

fn ideas(specs: &Specs, ladder: &Ladder) -> String {
    let mut html = String::from("<ol class=\"ideas\">\n");
    let mut before: Option<&Step> = None;
    let mut seen = Vec::new();
    for step in &ladder.steps {
        let seconds = step.predicted(specs);
        let like = before
            .replace(step)
            .filter(|before| before.shape == step.shape);
        let faster = like.map(|before| before.predicted(specs) / seconds);
        let faster = faster.map_or(String::new(), |n| format!(", {n:.2}\u{a0}times as fast"));
        // Some come again, at the shape of a step that they are compared with.
        if seen.contains(&step.number) {
            continue;
        }
        seen.push(step.number);
        let _ = writeln!(
            html,
            "<li><b>{}</b> <span class=\"soft\">{}{faster}</span>\n{}</li>",
            escape(&step.name()),
            whole(time(seconds)),
            idea(ladder, step)
        );
    }
    html + "</ol>\n"
}

/// The steps at the ladder's shape, and at those of their own.
fn verdict(specs: &Specs, ladder: &Ladder) -> String {
    let Some(last) = ladder.steps.last() else {
        return "No step takes this shape.".into();
    };
    let mut groups: Vec<&[Step]> = ladder.steps.chunk_by(|a, b| a.shape == b.shape).collect();
    groups.sort_by_key(|steps| steps[0].shape != ladder.shape);
    let said = groups.iter().enumerate().map(|(i, steps)| match i {
        0 => gain(specs, steps),
        _ => {
            let (first, last) = (&steps[0], &steps[steps.len() - 1]);
            let times = first.predicted(specs) / last.predicted(specs);
            let (n, shape) = (steps.len(), Dims(&steps[0].shape));
            format!("{times:.1} times in {n} at {shape}")
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
        for (name, cell) in HEADER.iter().zip(row(specs, ladder, index)) {
            let _ = write!(html, "<td data-name=\"{name}\">{}</td>", escape(&cell));
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

/// Counts of the lines of a file, and their shares in the time of all launches.
pub(in crate::workbench) type Lines = BTreeMap<usize, (Counts, f64)>;

/// Files in which lines were counted, the kernels' own first.
fn files(specs: &Specs, step: &Step) -> Vec<(&'static str, &'static str, Lines)> {
    let mut found = counted(specs, &step.launches.iter().collect::<Vec<_>>());
    // Also where all of its work is done in headers.
    found.entry(step.file).or_default();
    let own = |path: &str| step.launches.iter().any(|launch| launch.file == path);
    let mut files: Vec<_> = catalog::sources()
        .filter_map(|(path, text)| Some((path, text, found.remove(path)?)))
        .collect();
    files.sort_by_key(|(path, ..)| !own(path));
    files
}

/// What launches did in the lines of each file.
pub(in crate::workbench) fn counted<'l>(
    specs: &Specs,
    launches: &[&'l LaunchProfile],
) -> BTreeMap<&'l str, Lines> {
    let mut found: BTreeMap<&str, Lines> = BTreeMap::new();
    let seconds = |launch: &&LaunchProfile| predict(specs, launch).seconds();
    let all: f64 = launches.iter().map(seconds).sum();
    for launch in launches {
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
    found
}

fn section(specs: &Specs, ladder: &Ladder, step: &Step) -> String {
    let mut html = format!(
        "<section class=\"step\">\n<h3>{}</h3>\n{}",
        escape(&step.name()),
        idea(ladder, step)
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
    html += &key_line(specs, step.slowest(specs));
    for [question, answer] in heads(ladder, step)
        .into_iter()
        .flat_map(|(_, head)| head.tries)
    {
        let _ = writeln!(
            html,
            "<details class=\"try\"><summary>Try yourself: {}</summary>\n<p>{}</p></details>",
            marked(&question),
            marked(&answer)
        );
    }
    html += "<details class=\"source\"><summary>All lines, with what they cost</summary>\n";
    for (path, text, lines) in files(specs, step) {
        let _ = writeln!(html, "<h4>{path}</h4>\n<div class=\"code\">");
        html += &annotated(text, &lines);
        html += "</div>\n";
    }
    html + "</details>\n</section>\n"
}

/// The line that costs most, if lines cost something.
pub(in crate::workbench) fn key_line(specs: &Specs, launch: &LaunchProfile) -> String {
    let lines = launch.lines.iter().zip(shares(specs, launch));
    let most = lines.max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((line, share)) = most.filter(|(_, share)| *share > 0.0) else {
        return String::new();
    };
    let place = &line.site.place;
    let Some(code) = source_line(place) else {
        return String::new();
    };
    let share = 100.0 * share;
    format!(
        "<div class=\"code key\">\n<div class=\"soft\">{}</div>\n\
         <div class=\"hot\" style=\"--share: {share:.1}%\">{}</div>\n\
         <div class=\"note\">{share:.0} % {}</div>\n</div>\n",
        escape(place),
        escape(&code),
        escape(&why(&line.counts))
    )
}

/// A source with what its lines cost below them; what is far from any is folded.
pub(in crate::workbench) fn annotated(text: &str, lines: &Lines) -> String {
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
    fn a_page_has_all_steps_with_their_ideas_and_needs_nothing_from_elsewhere() {
        let specs = gpu("h100").unwrap();
        for (name, shape) in [("copy", &[5000][..]), ("gemm", &[33, 24, 40])] {
            let op = find(name).unwrap().op;
            let ladder = ladder(op, Some(shape), specs, None, &|_| ()).unwrap();
            assert_eq!(ladder.steps.len() + ladder.skipped.len(), op.steps.len());
            let page = page(specs, &ladder);
            let (opening, rest) = page.split_once("<table>").unwrap();
            for step in &ladder.steps {
                assert!(
                    rest.contains(&format!("<h3>{}<", step.name())),
                    "{}",
                    step.name()
                );
                let head = head(step.file).unwrap();
                let idea = marked(&head.idea.unwrap());
                for part in [opening, rest] {
                    assert!(part.contains(&format!("<p>{idea}</p>")), "{idea}");
                }
                for [question, answer] in head.tries {
                    assert!(rest.contains(&marked(&question)), "{question}");
                    assert!(rest.contains(&marked(&answer)), "{answer}");
                }
            }
            assert!(
                !opening.contains("<details"),
                "what comes first is not folded"
            );
            for broken in ["NaN", "inf", "http", "src=", "<include"] {
                assert!(!page.contains(broken), "{broken}");
            }
            for element in [
                "div", "details", "table", "svg", "summary", "p", "tr", "ol", "li", "section",
                "code",
            ] {
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
