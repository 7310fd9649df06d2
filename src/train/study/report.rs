//! What a study says: tables in Markdown, and plots beside them. Nothing here but what lies in the
//! results, so that the same results give the same files.

use super::Outcome;
use super::file::{Spec, Study};
use super::plot::{Mark, Plot, PlotError};
use super::results::Line;
use crate::files;
use crate::train::program::Program;
use crate::train::summary::{ArmResult, Comparison, Summary};
use crate::train::verdict::{MARGIN, percent, rounded};
use crate::train::{Arm, Claim, Estimate, TrainError};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One bed of a study with what came of it.
struct Bed<'a> {
    name: &'a str,
    lines: Vec<&'a Line>,
    comparison: Comparison,
    outcome: Outcome,
}

/// Writes the tables to `path`, and the plots beside it.
///
/// # Errors
/// A place that cannot be written.
pub fn write<P: Program>(
    study: &Study<P>,
    lines: &[Line],
    path: &Path,
) -> Result<Vec<Outcome>, TrainError> {
    let mut page = format!("# {}\n", study.title);
    let mut beds = Vec::new();
    for (name, _) in &study.beds {
        let tests = study.tests(name, lines);
        let found: Vec<&Line> = tests.iter().filter_map(|spec| spec.find(lines)).collect();
        let Some(bed) = Bed::new::<P>(name, found) else {
            continue;
        };
        page += &bed.page(study, &tests, lines);
        for (what, plot) in bed.plots(study) {
            let svg = plot.map_err(TrainError::failed)?;
            let file = beside(path, name, what);
            files::write(&file, svg.as_bytes()).map_err(TrainError::failed)?;
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            let _ = write!(page, "\n![{what}]({file})\n");
        }
        beds.push(bed);
    }
    if let Some((text, svg)) = regimes(&beds) {
        let svg = svg.map_err(TrainError::failed)?;
        let file = beside(path, "", "v");
        files::write(&file, svg.as_bytes()).map_err(TrainError::failed)?;
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(page, "\n## V\n{text}\n![V]({file})\n");
    }
    files::write(path, page.as_bytes()).map_err(TrainError::failed)?;
    Ok(beds.into_iter().map(|bed| bed.outcome).collect())
}

/// What is too few to draw a line through.
const FEW: usize = 3;

/// Whether V tells what skipping costs, over beds.
fn regimes(beds: &[Bed]) -> Option<(String, Result<String, PlotError>)> {
    let place = |bed: &Bed| {
        let cost = bed.comparison.difference(Arm::Memory, Arm::Full)?;
        let v = bed.v(Arm::Memory);
        (v.is_finite() && cost.mean.is_finite()).then_some((bed.name.to_string(), v, cost))
    };
    let places: Vec<_> = beds.iter().filter_map(place).collect();
    if places.len() < FEW {
        return None;
    }
    let points: Vec<(f64, f64)> = places.iter().map(|(_, v, cost)| (*v, cost.mean)).collect();
    let [slope, at_0, explained] = line(&points);
    let ends = points.iter().map(|p| p.0);
    let (least, most) = (
        ends.clone().fold(f64::MAX, f64::min),
        ends.fold(f64::MIN, f64::max),
    );
    let mut marks = vec![Mark::Line([least, most].map(|v| (v, at_0 + slope * v)))];
    for (name, v, Estimate { mean, error }) in &places {
        marks.push(Mark::Mean(
            Arm::Memory,
            *v,
            [mean - error, *mean, mean + error],
        ));
        marks.push(Mark::Name(name.clone(), *v, *mean));
    }
    let plot = Plot {
        names: ["V while choosing", "memory minus full, points"],
        columns: &[],
        marks,
    };
    let rows = places
        .iter()
        .map(|(name, v, cost)| vec![name.clone(), number(*v), cost.to_string()]);
    let text = table(&["bed", "V while choosing", "memory minus full"], rows)
        + &format!(
            "\nA line through {} beds: {} points for each 0.1 of V; it explains {} % of their variance.\n",
            places.len(),
            signed(0.1 * slope),
            (100.0 * explained).round()
        );
    Some((text, plot.svg()))
}

/// Slope, value at 0 and share of the variance explained of the least squares' line.
fn line(points: &[(f64, f64)]) -> [f64; 3] {
    let n = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let sum = |of: fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - x, p.1 - y)).sum::<f64>();
    let (xx, xy, yy) = (sum(|x, _| x * x), sum(|x, y| x * y), sum(|_, y| y * y));
    [xy / xx, y - xy / xx * x, xy * xy / (xx * yy)]
}

/// A plot's file.
fn beside(path: &Path, bed: &str, what: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let bed = match bed {
        "" => String::new(),
        bed => format!("-{bed}"),
    };
    path.with_file_name(format!("{stem}{bed}-{what}.svg"))
}

/// A table with a head.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!(
        "\n| {} |\n|{}\n",
        head.join(" | "),
        "---|".repeat(head.len())
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// With two decimals; a dash where there is no number.
fn number(value: f64) -> String {
    match value.is_finite() {
        true => format!("{:.2}", rounded(value, 100.0)),
        false => "–".into(),
    }
}

/// The same with its sign.
fn signed(value: f64) -> String {
    match value.is_finite() {
        true => format!("{:+.2}", rounded(value, 100.0)),
        false => "–".into(),
    }
}

fn said(settings: &Map<String, Value>) -> String {
    let all = settings.iter().map(|(key, value)| format!("{key} {value}"));
    all.collect::<Vec<_>>().join(", ")
}

impl<'a> Bed<'a> {
    /// `None` if nothing came of it.
    fn new<P: Program>(name: &'a str, lines: Vec<&'a Line>) -> Option<Bed<'a>> {
        if lines.is_empty() {
            return None;
        }
        let results = lines.iter().map(|line| line.result()).collect();
        let comparison = Comparison::new(results);
        let (claims, verdict) = comparison.judge(P::WORDS);
        let outcome = Outcome {
            bed: name.into(),
            verdict: verdict.to_string(),
            claims,
        };
        Some(Bed {
            name,
            lines,
            comparison,
            outcome,
        })
    }
    /// Its part of the page, but for the plots.
    fn page<P: Program>(&self, study: &Study<P>, tests: &[Spec], lines: &[Line]) -> String {
        let mut page = String::new();
        if !self.name.is_empty() {
            let _ = write!(page, "\n## {}\n", self.name);
        }
        let _ = write!(page, "\n**{}**\n", self.outcome.verdict);
        page += &self.made(tests);
        page += &self.arms(study, lines);
        page += &claims(&self.outcome.claims);
        page += &self.seeds(study);
        page += &self.failures();
        for &arm in &study.arms {
            page += &tuning(study, self.name, arm, lines);
        }
        page
    }

    /// With what, and how much of what was planned.
    fn made(&self, tests: &[Spec]) -> String {
        let distinct = |of: fn(&Line) -> &str| {
            let mut all: Vec<&str> = self.lines.iter().map(|line| of(line)).collect();
            all.sort_unstable();
            all.dedup();
            all.join("; ")
        };
        let mut settings = tests[0].settings.clone();
        for other in tests {
            settings.retain(|key, value| other.settings.get(key) == Some(value));
        }
        format!(
            "\n{} runs of {}; {}; {}; autoassist {}.\n",
            self.lines.len(),
            tests.len(),
            said(&settings),
            distinct(|line| &line.summary.device),
            distinct(Line::version),
        )
    }

    fn mean(&self, arm: Arm, value: impl Fn(&Summary) -> f64) -> f64 {
        let mean = self.comparison.mean(arm, |r| Some(value(&r.summary)));
        mean.unwrap_or(f64::NAN)
    }

    fn v(&self, arm: Arm) -> f64 {
        let mean = self.comparison.mean(arm, |r| r.summary.v_choosing);
        mean.unwrap_or(f64::NAN)
    }

    fn arms<P: Program>(&self, study: &Study<P>, lines: &[Line]) -> String {
        let score = format!("{}{}", P::WORDS.score, P::WORDS.unit);
        let head = [
            "arm",
            "seeds",
            &score,
            "operations saved",
            "vs full",
            "vs uniform",
            "train loss",
            "V while choosing",
            "its own settings",
        ];
        let estimate = |e: Option<Estimate>| match e {
            Some(Estimate { mean, error }) => format!("{} ± {}", signed(mean), number(error)),
            None => "–".into(),
        };
        let row = |arm: Arm| {
            let mut runs: Vec<f64> = Vec::new();
            runs.extend(self.comparison.of(arm).map(|r| r.summary.score.points()));
            let mean = runs.iter().sum::<f64>() / runs.len() as f64;
            let against = |other| {
                estimate(
                    self.comparison
                        .difference(arm, other)
                        .filter(|_| arm != other),
                )
            };
            vec![
                arm.name().into(),
                runs.len().to_string(),
                number(mean),
                percent(self.mean(arm, Summary::saved)),
                against(Arm::Full),
                against(Arm::Uniform),
                format!("{:.3}", self.mean(arm, |s| s.train_loss)),
                number(self.v(arm)),
                said(&study.chosen(self.name, arm, lines)),
            ]
        };
        let present = study
            .arms
            .iter()
            .copied()
            .filter(|&arm| self.comparison.of(arm).next().is_some());
        table(&head, present.map(row)) + "\n± one standard error.\n"
    }

    fn seeds<P: Program>(&self, study: &Study<P>) -> String {
        let arms = study.arms.iter().map(|arm| arm.name());
        let head: Vec<&str> = ["seed"].into_iter().chain(arms).collect();
        let score = |arm: Arm, seed: u64| {
            let mut of_seed = self.comparison.of(arm).filter(|r| r.summary.seed == seed);
            of_seed
                .next()
                .map_or(f64::NAN, |r| r.summary.score.points())
        };
        let rows = study.seeds.iter().map(|&seed| {
            let scores = study.arms.iter().map(|&arm| number(score(arm, seed)));
            [seed.to_string()]
                .into_iter()
                .chain(scores)
                .collect::<Vec<_>>()
        });
        let some = rows.filter(|row| row[1..].iter().any(|score| score != "–"));
        table(&head, some)
    }

    fn failures(&self) -> String {
        let failed = self.lines.iter().filter_map(|line| {
            let (spec, reason) = (line.spec(), line.failed.as_ref()?);
            Some(format!(
                "\n{} of seed {}: {reason}.\n",
                spec.arm.name(),
                spec.seed
            ))
        });
        failed.collect()
    }

    /// Of the claims: a dot a seed, and the mean with its bounds.
    fn differences(&self) -> Result<String, PlotError> {
        let mut marks = vec![Mark::Line([(-0.5, 0.0), (3.5, 0.0)])];
        let mut columns = Vec::new();
        for (i, claim) in self.outcome.claims.iter().enumerate() {
            let x = i as f64;
            columns.push(format!("− {}", claim.against.name()));
            if claim.margin < 0.0 {
                marks.push(Mark::Line([
                    (x - 0.3, claim.margin),
                    (x + 0.3, claim.margin),
                ]));
            }
            let seed = |a: &ArmResult| {
                let mut others = self.comparison.of(claim.against);
                let b = others.find(|b| b.summary.seed == a.summary.seed)?;
                let difference = a.summary.score.points() - b.summary.score.points();
                Some(Mark::Dot(claim.against, x + 0.12, difference))
            };
            marks.extend(self.comparison.of(claim.arm).filter_map(seed));
            if let Some(found) = claim.found {
                let bounds = [found.lower, found.mean, found.upper];
                marks.push(Mark::Mean(claim.against, x - 0.06, bounds));
            }
        }
        let arm = self
            .outcome
            .claims
            .first()
            .map_or("", |claim| claim.arm.name());
        let plot = Plot {
            names: [&format!("{arm} minus each"), "points, a dot a seed"],
            columns: &columns,
            marks,
        };
        plot.svg()
    }

    /// The score against the operations that it took, a dot a run.
    fn operations<P: Program>(&self, study: &Study<P>) -> Result<String, PlotError> {
        let (mut marks, mut names) = (Vec::new(), Vec::new());
        for &arm in &study.arms {
            let spent =
                |s: &Summary| 100.0 * (s.boss_ops + s.assist_ops) as f64 / s.full_ops as f64;
            let runs = self.comparison.of(arm).map(|r| &r.summary);
            marks.extend(runs.map(|s| Mark::Dot(arm, spent(s), s.score.points())));
            let Some(Estimate { mean, error }) = self.comparison.score(arm) else {
                continue;
            };
            let x = self.mean(arm, spent);
            marks.push(Mark::Mean(arm, x, [mean - error, mean, mean + error]));
            names.push((arm.name(), x, mean));
        }
        // One above the other where arms are as good.
        names.sort_by(|a, b| a.2.total_cmp(&b.2));
        let scores = self
            .comparison
            .arms
            .iter()
            .map(|r| r.summary.score.points());
        let ends = scores.fold((f64::MAX, f64::MIN), |(low, high), s| {
            (low.min(s), high.max(s))
        });
        let line = 0.04 * (ends.1 - ends.0);
        for i in 1..names.len() {
            names[i].2 = names[i].2.max(names[i - 1].2 + line);
        }
        marks.extend(
            names
                .into_iter()
                .map(|(name, x, y)| Mark::Name(name.into(), x, y)),
        );
        let score = format!("{}{}", P::WORDS.score, P::WORDS.unit);
        let plot = Plot {
            names: ["operations, % of full training", &score],
            columns: &[],
            marks,
        };
        plot.svg()
    }

    /// What there is to see: name, and the plot.
    fn plots<P: Program>(
        &self,
        study: &Study<P>,
    ) -> [(&'static str, Result<String, PlotError>); 2] {
        [
            ("differences", self.differences()),
            ("operations", self.operations(study)),
        ]
    }
}

/// What must hold, with the bounds and the power.
fn claims(claims: &[Claim]) -> String {
    if claims.is_empty() {
        return String::new();
    }
    let head = [
        "against",
        "must be above",
        "difference",
        "95 % bounds, each one-sided",
        "s.d. of seeds",
        "holds",
        "seeds for 80 % power",
        "if it were +0.1",
        "if it were 0",
    ];
    let rows = claims.iter().map(|claim| {
        let found = claim.found;
        let value = |of: fn(&crate::train::Paired) -> f64| found.as_ref().map_or(f64::NAN, of);
        let seeds = |n: Option<usize>| n.map_or("–".into(), |n| n.to_string());
        let needed = |truth| seeds(found.and_then(|f| f.seeds_needed(truth, claim.margin)));
        vec![
            claim.against.name().into(),
            signed(claim.margin),
            signed(value(|f| f.mean)),
            format!(
                "{} … {}",
                signed(value(|f| f.lower)),
                signed(value(|f| f.upper))
            ),
            number(value(|f| f.seeds_deviation)),
            match claim.holds {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not shown",
            }
            .into(),
            seeds(claim.seeds_needed),
            needed(0.1),
            needed(0.0),
        ]
    });
    let arm = claims[0].arm.name();
    table(&head, rows)
        + &format!(
            "\nDifferences are of {arm} minus the other, in points; equal to full training is less than \
             {MARGIN} below it. Bounds by a paired bootstrap over seeds and test images, each with 5 % \
             left to chance. All must hold.\n"
        )
}

/// What was tried for an arm, and what was taken.
fn tuning<P: Program>(study: &Study<P>, bed: &str, arm: Arm, lines: &[Line]) -> String {
    let Some(tried) = study.tried(bed, arm, lines) else {
        return String::new();
    };
    let chosen = study.chosen(bed, arm, lines);
    let keys: Vec<&String> = chosen.keys().collect();
    let head = keys.iter().map(|key| key.as_str());
    let head: Vec<&str> = head
        .chain(["validation accuracy %", "each seed", ""])
        .collect();
    let rows = tried.iter().map(|(point, scores)| {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let each = scores
            .iter()
            .map(|s| number(*s))
            .collect::<Vec<_>>()
            .join(", ");
        let taken = if *point == chosen { "taken" } else { "" };
        let values = keys.iter().map(|key| point[*key].to_string());
        values.chain([number(mean), each, taken.into()]).collect()
    });
    let ends = keys.iter().filter(|key| {
        let mut values: Vec<f64> = tried
            .iter()
            .filter_map(|(p, _)| p[**key].as_f64())
            .collect();
        values.sort_by(f64::total_cmp);
        let ends = [values.first().copied(), values.last().copied()];
        ends[0] != ends[1] && ends.contains(&chosen[**key].as_f64())
    });
    let ends: Vec<&str> = ends.map(|key| key.as_str()).collect();
    let beyond = match ends.is_empty() {
        true => String::new(),
        false => format!("\nAt the end of what was tried: {}.\n", ends.join(", ")),
    };
    format!("\nTuning of {} on images held out:\n", arm.name()) + &table(&head, rows) + &beyond
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_explains_what_lies_on_it() {
        let on: Vec<(f64, f64)> = (0..5)
            .map(|i| (f64::from(i), 3.0 - 2.0 * f64::from(i)))
            .collect();
        let [slope, at_0, explained] = line(&on);
        assert!(
            (slope + 2.0).abs() < 1e-12
                && (at_0 - 3.0).abs() < 1e-12
                && (explained - 1.0).abs() < 1e-12
        );
        let [slope, _, explained] = line(&[(0.0, 1.0), (1.0, -1.0), (2.0, 1.0)]);
        assert!(slope.abs() < 1e-12 && explained < 1e-12);
    }
}
