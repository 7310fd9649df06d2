//! Draws a report from what lies in the folders of runs: settings, measurements, summaries, and the
//! Assistant's memory of each instance.

use super::examples::{self, Examples};
use super::job::Job;
use super::metrics::{Metrics, Point};
use super::report::{self, Report, Run, Standing};
use super::summary::{ArmResult, Comparison, Summary};
use super::task::Curve;
use super::verdict::Verdict;
use super::{Arm, TrainError};
use crate::files;

/// The report of one finished run, into its folder.
pub fn write_run(job: &Job, result: &ArmResult) -> Result<(), TrainError> {
    let verdict = Verdict::of_run(result.arm, &result.summary, job.task.words());
    write(job, verdict, &Comparison::new(vec![result.clone()]))
}

/// The report of a comparison, into its folder.
pub fn write_comparison(job: &Job, comparison: &Comparison) -> Result<(), TrainError> {
    write(job, comparison.judge(job.task.words()).1, comparison)
}

fn write(job: &Job, verdict: Verdict, comparison: &Comparison) -> Result<(), TrainError> {
    let results = &comparison.arms;
    let mut environment = String::new();
    let mut runs = Vec::new();
    for result in results {
        let points = Metrics::read(&result.summary.run_dir)?;
        if let Some(Point::Environment {
            version,
            device,
            cpu,
            data,
            started,
            ..
        }) = points.first()
        {
            let shared = match &result.summary {
                Summary {
                    world_size: 0 | 1, ..
                } => String::new(),
                shared => format!(
                    " · {} processes, {:.1} s of exchanges",
                    shared.world_size, shared.reduce_seconds
                ),
            };
            environment =
                format!("autoassist {version} · {device}{shared} · {cpu} · {data} · {started}");
        }
        runs.push(run(job, result, &points));
    }
    // The Assistant's own run knows best what is hard; else the last.
    let shown = results
        .iter()
        .rfind(|r| Some(r.arm) == comparison.assistant())
        .or(results.last());
    let dir = &shown.expect("a report has runs").summary.run_dir;
    let mut arms: Vec<_> = results.iter().map(|r| r.arm).collect();
    arms.dedup();
    let standings = arms.into_iter().filter_map(|arm| {
        let against = |other| comparison.difference(arm, other).filter(|_| arm != other);
        Some(Standing {
            arm,
            score: comparison.score(arm)?,
            vs_uniform: against(Arm::Uniform),
            vs_full: against(Arm::Full),
        })
    });
    let report = Report {
        words: *job.task.words(),
        title: job.task.title(),
        verdict,
        subtitle: environment,
        standings: standings.collect(),
        runs,
        config: toml::to_string(&job.settings()).expect("settings are plain values"),
        samples: job.task.samples(dir),
        examples: examples(job, Examples::read(dir)),
    };
    let html = report::render(&report).map_err(TrainError::failed)?;
    files::write(&job.dir.join("report.html"), html.as_bytes()).map_err(TrainError::failed)
}

fn run(job: &Job, result: &ArmResult, points: &[Point]) -> Run {
    let summary = &result.summary;
    let per_point = summary.score.per_point();
    let mut curve: Vec<report::Point> = Vec::new();
    for point in points {
        match *point {
            Point::Environment { .. } => (),
            Point::Train {
                ops_fraction,
                loss,
                keep_rate,
                v,
                assist_auc,
                ..
            } => curve.push(report::Point {
                ops_fraction,
                train_loss: loss,
                keep_rate,
                v,
                evaluation: None,
                assist_auc,
            }),
            Point::Eval {
                ops_fraction,
                accuracy,
                loss,
                ..
            } => {
                let train_loss = curve.last().map_or(f64::NAN, |p| p.train_loss);
                let evaluation = Some(match job.task.words().curve {
                    Curve::Accuracy => 100.0 * accuracy,
                    Curve::ValidLoss => loss,
                });
                let point = report::Point {
                    ops_fraction,
                    train_loss,
                    keep_rate: None,
                    v: None,
                    evaluation,
                    assist_auc: None,
                };
                curve.push(point);
            }
        }
    }
    Run {
        arm: result.arm,
        seed: summary.seed,
        score: summary.score.points(),
        vs_full: result.accuracy_vs_full.map(|d| per_point * d),
        vs_uniform: result.accuracy_vs_uniform.map(|d| per_point * d),
        ops_saved: summary.saved(),
        full_ops: summary.full_ops as f64,
        boss_ops: summary.boss_ops as f64,
        assist_ops: summary.assist_ops as f64,
        assist_auc: summary.assist_auc,
        calibration: summary.assist_calibration.clone(),
        wall_seconds: summary.wall_seconds,
        instances_per_second: summary.instances_per_second,
        points: curve,
    }
}

/// What they look like.
fn examples(job: &Job, found: Examples) -> report::Examples {
    let shown = |example: examples::Example| report::Example {
        id: example.id as usize,
        loss: f64::from(example.loss),
        seen: example.seen,
        times_trained: u64::from(example.times_trained),
        guess: example.guess,
        shown: job.task.show(example.id as usize),
    };
    let all = |examples: Vec<examples::Example>| examples.into_iter().map(shown).collect();
    report::Examples {
        hardest: all(found.hardest),
        easiest: all(found.easiest),
        since: found.since,
    }
}
