//! The report of a run or a comparison: one HTML file that needs nothing else, for a browser of any
//! width, by day and by night.
//!
//! [`render`] turns plain numbers into text; it neither measures nor writes files.

mod chart;
mod gallery;
mod ledger;
mod table;
mod ticks;

use crate::html::escape;
use std::fmt::Write;

use super::task::{Curve, Words};
use super::{Arm, Estimate, Guess, Verdict};
use crate::assist::Calibration;
pub(in crate::train) use chart::colour;
use chart::{Axes, Scale, Series};

/// All that a report shows.
#[derive(Clone, Debug)]
pub struct Report {
    /// How to speak of instances and of the result.
    pub words: Words,
    /// Of the page.
    pub title: String,
    /// The one line: was it worth it?
    pub verdict: Verdict,
    /// Data, network, device: what the numbers hold for.
    pub subtitle: String,
    /// The arms, in the order of the table.
    pub standings: Vec<Standing>,
    /// All runs, of these arms.
    pub runs: Vec<Run>,
    /// The resolved configuration, shown as it is.
    pub config: String,
    /// What the network makes of some of the test set.
    pub samples: Vec<Sample>,
    /// The training instances that stand out.
    pub examples: Examples,
}

/// How an arm did, over its seeds, in points.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Which.
    pub arm: Arm,
    /// On the test set.
    pub score: Estimate,
    /// Difference from uniform training at the same operations.
    pub vs_uniform: Option<Estimate>,
    /// Difference from full training.
    pub vs_full: Option<Estimate>,
}

/// Instances that stand out of those that were trained on lately.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Those of the highest loss, highest first.
    pub hardest: Vec<Example>,
    /// Those of the lowest loss, lowest first.
    pub easiest: Vec<Example>,
    /// Lately is from this share of training on, 0 to 1.
    pub since: f64,
}

/// One training run. What is not known yet may be NaN.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which.
    pub arm: Arm,
    /// What the run's random numbers come from.
    pub seed: u64,
    /// At the end, on the test set, in points.
    pub score: f64,
    /// This run's score minus that of the full-data run of the same seed.
    pub vs_full: Option<f64>,
    /// This run's score minus that of the uniform run of the same seed.
    pub vs_uniform: Option<f64>,
    /// 1 − (operations of Boss, Assistant and selection) / (operations of full data).
    pub ops_saved: f64,
    /// Operations of full data.
    pub full_ops: f64,
    /// Operations of the Boss.
    pub boss_ops: f64,
    /// Operations of the Assistant.
    pub assist_ops: f64,
    /// Area under the ROC curve of the Assistant's scores, where there are any.
    pub assist_auc: Option<f64>,
    /// The same scores against what became of the instances.
    pub calibration: Vec<Calibration>,
    /// From start to end.
    pub wall_seconds: f64,
    /// Instances trained on a second, evaluation excluded.
    pub instances_per_second: f64,
    /// The curves, in order of time.
    pub points: Vec<Point>,
}

/// What was measured at one moment of a run.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The Boss's operations so far / operations of the whole run on full data.
    pub ops_fraction: f64,
    /// Mean loss of the instances trained on since the last point.
    pub train_loss: f64,
    /// Share of what was offered since the last point that was trained on, by operations, where one
    /// chooses.
    pub keep_rate: Option<f64>,
    /// How alike instances are in what they teach, where it is known.
    pub v: Option<f64>,
    /// Where the network was evaluated: accuracy, in percent, or loss.
    pub evaluation: Option<f64>,
    /// The Assistant's area under the ROC curve since the last point, where it chose.
    pub assist_auc: Option<f64>,
}

/// A training instance that stands out.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its number in the training set.
    pub id: usize,
    /// Its loss when it was trained on last.
    pub loss: f64,
    /// When that was: share of training done, 0 to 1.
    pub seen: f64,
    /// How often it was trained on.
    pub times_trained: u64,
    /// What the network at the end makes of it.
    pub guess: Guess,
    /// What it looks like.
    pub shown: Shown,
}

/// An instance, for people.
#[derive(Clone, Debug)]
pub enum Shown {
    /// An image and the name of its class.
    Image {
        /// The image.
        picture: Picture,
        /// Its label.
        class: String,
    },
    /// A sentence.
    Pair {
        /// As it was written.
        source: String,
        /// Its translation.
        target: String,
    },
}

/// A sentence of the test set with what the network makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// As it was written.
    pub source: String,
    /// The translation that came with it.
    pub reference: String,
    /// The network's.
    pub translation: String,
}

/// An image `[height, width, channels]`, one byte a channel.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 3 for RGB, 1 for grey.
    pub channels: usize,
    /// Rows of pixels.
    pub pixels: Vec<u8>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A picture's bytes do not fit its shape, or cannot be a PNG.
    #[error("training image {id} cannot be shown: {reason}")]
    Picture {
        /// [`Example::id`].
        id: usize,
        /// Why.
        reason: String,
    },
    /// A curve could not be drawn.
    #[error("a curve of the report cannot be drawn: {0}")]
    Chart(String),
}

/// The report as the text of an HTML file.
///
/// # Errors
/// [`ReportError`] if a picture is malformed or a curve cannot be drawn; never because of NaN,
/// infinite or missing numbers, which are shown as such or left out with a note.
pub fn render(report: &Report) -> Result<String, ReportError> {
    let (arms, words) = (Group::all(report), &report.words);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{style}{arm_style}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"title\">{title}</p>\n\
         <h1><span class=\"ruling\">{ruling}</span> {reason}</h1>\n{next}\
         <p class=\"subtitle\">{subtitle}</p>\n</header>\n",
        title = escape(&report.title),
        style = include_str!("report/style.css"),
        arm_style = chart::style(),
        ruling = escape(report.verdict.ruling),
        reason = sentence(&report.verdict.reason),
        next = report
            .verdict
            .next
            .as_deref()
            .map_or(String::new(), |next| {
                format!("<p class=\"next\">{}</p>\n", sentence(next))
            }),
        subtitle = escape(&report.subtitle),
    );
    if !arms.is_empty() {
        page += &table::arms(&arms, words);
        page += &ledger::bars(&arms);
        page += "<section>\n<h2>Curves</h2>\n";
        page += &chart::legend(&arms);
        page += "<div class=\"charts\">\n";
        let (heading, unit) = match words.curve {
            Curve::Accuracy if words.score.starts_with("valid") => ("Validation accuracy", "%"),
            Curve::Accuracy => ("Test accuracy", "%"),
            Curve::ValidLoss => ("Validation loss", ""),
        };
        let evaluation = Quantity {
            heading,
            unit,
            scale: match words.curve {
                Curve::Accuracy => Scale::Data(0.0, 100.0),
                Curve::ValidLoss => LOSS,
            },
            marks: true,
            note: String::new(),
            of: |p| p.evaluation,
        };
        page += &figure(&arms, &evaluation)?;
        let train_loss = Quantity {
            heading: "Training loss",
            unit: "",
            scale: LOSS,
            marks: false,
            note: of_kept(&arms, words),
            of: |p| Some(p.train_loss),
        };
        page += &figure(&arms, &train_loss)?;
        let keep_rate = Quantity {
            heading: "Keep rate",
            unit: "%",
            scale: Scale::Fixed(0.0, 104.0),
            of: |p| p.keep_rate.map(|k| 100.0 * k),
            note: String::new(),
            ..train_loss
        };
        page += &figure(&arms, &keep_rate)?;
        let v = Quantity {
            heading: "V",
            unit: "%",
            of: |p| p.v.map(|v| 100.0 * v),
            note: format!(
                "How alike {} are in what they still teach. Where the keep rate is above V, skipping \
                 can be for nothing; below, it makes gradients noisier than all data would.",
                words.many
            ),
            ..keep_rate
        };
        page += &figure(&arms, &v)?;
        let keep_rate = Quantity {
            note: String::new(),
            ..v
        };
        if report.runs.iter().any(|run| run.assist_auc.is_some()) {
            let auc = Quantity {
                heading: "The Assistant’s AUC",
                unit: "",
                scale: Scale::Data(0.0, 1.0),
                of: |p| p.assist_auc,
                note: String::new(),
                ..keep_rate
            };
            page += &figure(&arms, &auc)?;
            page += &calibration(&arms, words)?;
        }
        page += &table::terms(&arms, words);
        page += "</div>\n</section>\n";
    }
    page += &gallery::samples(&report.samples);
    page += &gallery::examples(&report.examples, words)?;
    if !report.config.is_empty() {
        let config = escape(&report.config);
        let _ = write!(
            page,
            "<section>\n<h2>Configuration</h2>\n<pre>{config}</pre>\n</section>\n"
        );
    }
    page += "</body>\n</html>\n";
    Ok(page)
}

/// A sentence of the console's, for the page: numbers stay with their units, and a minus is one.
fn sentence(text: &str) -> String {
    let mut html = String::new();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let number = rest.peek().is_some_and(char::is_ascii_digit);
        match c {
            '-' if number && !before.is_alphanumeric() => html.push('−'),
            ' ' if rest.peek().is_some_and(|c| "%±".contains(*c)) || before == '±' => {
                html.push('\u{a0}');
            }
            c => html.push(c),
        }
        before = c;
    }
    let mut first = html.chars();
    let capital = first.next().map(char::to_uppercase);
    let html: String = capital.into_iter().flatten().chain(first).collect();
    let word = |word: &str| match word.starts_with("--") {
        true => format!("<code>{}</code>", escape(word)),
        false => escape(word),
    };
    html.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// An arm with its runs.
struct Group<'a> {
    arm: Arm,
    standing: &'a Standing,
    runs: Vec<&'a Run>,
}

impl<'a> Group<'a> {
    fn all(report: &'a Report) -> Vec<Group<'a>> {
        let group = |standing: &'a Standing| Group {
            arm: standing.arm,
            standing,
            runs: report
                .runs
                .iter()
                .filter(|r| r.arm == standing.arm)
                .collect(),
        };
        report.standings.iter().map(group).collect()
    }
}

/// Least and greatest value that a loss can have.
const LOSS: Scale = Scale::Data(0.0, f64::INFINITY);

/// What a chart shows against operations.
struct Quantity<'a> {
    heading: &'a str,
    unit: &'a str,
    scale: Scale,
    /// A dot on each point.
    marks: bool,
    /// Below the chart.
    note: String,
    of: fn(&Point) -> Option<f64>,
}

/// That a loss is not of all that there is to train on, if it is not.
fn of_kept(arms: &[Group], words: &Words) -> String {
    let harder = |arm: &&Group| matches!(arm.arm, Arm::Memory | Arm::Paper | Arm::Infobatch);
    let names: Vec<&str> = arms.iter().filter(harder).map(|a| a.arm.name()).collect();
    match names.join(", ").as_str() {
        "" => String::new(),
        names => format!(
            "{names}: of the {} kept, which are the harder ones: not to be compared with the curves of \
             arms that train on all.",
            words.many
        ),
    }
}

/// A chart of one quantity against operations, with its heading and what had to be left out.
fn figure(arms: &[Group], quantity: &Quantity) -> Result<String, ReportError> {
    let (mut series, mut left_out) = (Vec::new(), 0);
    // One horizontal axis for all charts, whatever each of them shows.
    let points = arms
        .iter()
        .flat_map(|arm| &arm.runs)
        .flat_map(|run| &run.points);
    let until = points
        .map(|p| 100.0 * p.ops_fraction)
        .filter(|x| x.is_finite());
    let until = until.fold(0.0, f64::max).min(1e9);
    for group in arms {
        let curves = group.runs.iter().map(|run| {
            let at = |p: &Point| (quantity.of)(p).map(|y| (100.0 * p.ops_fraction, y));
            let all: Vec<_> = run.points.iter().filter_map(at).collect();
            let good: Vec<_> = all.iter().copied().filter(chart::drawable).collect();
            left_out += all.len() - good.len();
            good
        });
        let curves = curves.filter(|c| !c.is_empty()).collect();
        let arm = group.arm;
        series.push(Series { arm, curves });
    }
    let axes = Axes {
        x: "operations, % of full data’s",
        until,
        scale: quantity.scale,
        marks: quantity.marks,
        diagonal: false,
    };
    let mut note = quantity.note.clone();
    if left_out > 0 {
        let _ = write!(
            note,
            " {left_out} value(s) were not finite and are not drawn."
        );
    }
    plot(quantity.heading, quantity.unit, &series, &axes, &note)
}

/// Instances a bin below which its frequency is mostly chance.
const MIN_COUNT: u64 = 50;

/// The chart of scores against observed frequencies.
fn calibration(arms: &[Group], words: &Words) -> Result<String, ReportError> {
    let curve = |run: &&Run| -> Vec<(f64, f64)> {
        let bins = run.calibration.iter().filter(|bin| bin.count >= MIN_COUNT);
        bins.map(|bin| (100.0 * bin.score, 100.0 * bin.observed))
            .filter(chart::drawable)
            .collect()
    };
    let series = arms.iter().map(|group| {
        let curves = group.runs.iter().map(curve);
        let curves = curves.filter(|c| !c.is_empty()).collect();
        let arm = group.arm;
        Series { arm, curves }
    });
    let axes = Axes {
        x: "predicted: loss above the mean, %",
        until: 100.0,
        scale: Scale::Fixed(0.0, 104.0),
        marks: true,
        diagonal: true,
    };
    let note = format!(
        "On the grey line predictions come true. Bins of under {MIN_COUNT} {} are left out.",
        words.many
    );
    let series: Vec<Series> = series.collect();
    plot("Calibration: observed", "%", &series, &axes, &note)
}

/// A chart with its heading and a note.
fn plot(
    heading: &str,
    unit: &str,
    series: &[Series],
    axes: &Axes,
    note: &str,
) -> Result<String, ReportError> {
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(", {unit}")
    };
    let body = match series.iter().all(|s| s.curves.is_empty()) {
        true => "<p class=\"note\">Nothing measured.</p>\n".to_owned(),
        false => chart::svg(heading, series, axes)?,
    };
    let note = match note.trim() {
        "" => String::new(),
        text => format!("<p class=\"note\">{text}</p>\n"),
    };
    Ok(format!(
        "<figure class=\"chart\">\n<h3>{heading}{unit}</h3>\n{body}{note}</figure>\n"
    ))
}

#[cfg(test)]
mod tests;
