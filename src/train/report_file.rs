//! Draws a report from what lies in the folders of runs: settings, measurements, summaries, and the
//! Assistant's memory of each instance.

use super::checkpoint::Checkpoint;
use super::metrics::{Metrics, Point};
use super::report::{self, Example, Report, Run};
use super::run::Job;
use super::summary::{ArmResult, Comparison};
use super::task::Curve;
use super::{Arm, TrainError};
use crate::files;

/// Instances shown of the hardest and of the easiest.
const EXAMPLES: usize = 20;

/// The report of one finished run, into its folder.
pub fn write_run(job: &Job, result: &ArmResult) -> Result<(), TrainError> {
    let summary = &result.summary;
    let words = job.task.words();
    let verdict = format!(
        "{}: {:.2}{} with {:.1} % of full training's operations saved. Whether that was worth it \
         takes a comparison: --compare full,uniform,memory.",
        words.score,
        summary.score.points(),
        words.unit,
        100.0 * summary.ops_saved,
    );
    write(job, verdict, std::slice::from_ref(result), None)
}

/// The report of a comparison, into its folder.
pub fn write_comparison(job: &Job, comparison: &Comparison) -> Result<(), TrainError> {
    write(
        job,
        comparison.verdict(job.task.words()),
        &comparison.arms,
        comparison.assistant(),
    )
}

fn write(
    job: &Job,
    verdict: String,
    results: &[ArmResult],
    assistant: Option<Arm>,
) -> Result<(), TrainError> {
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
            environment = format!("autoassist {version} · {device} · {cpu} · {data} · {started}");
        }
        runs.push(run(job, result, &points));
    }
    // The Assistant's own run knows best what is hard; else the last.
    let shown = results
        .iter()
        .rfind(|r| Some(r.arm) == assistant)
        .or(results.last());
    let dir = &shown.expect("a report has runs").summary.run_dir;
    let checkpoint = Checkpoint::load(dir).map_err(TrainError::failed)?;
    let (hardest, easiest) = examples(job, &checkpoint);
    let report = Report {
        words: *job.task.words(),
        title: job.task.title(),
        verdict,
        subtitle: environment,
        runs,
        config: toml::to_string(&job.settings()).expect("settings are plain values"),
        samples: job.task.samples(dir),
        hardest,
        easiest,
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
                assist_auc,
                ..
            } => curve.push(report::Point {
                ops_fraction,
                train_loss: loss,
                keep_rate,
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
                    Curve::TestAccuracy => 100.0 * accuracy,
                    Curve::ValidLoss => loss,
                });
                let point = report::Point {
                    ops_fraction,
                    train_loss,
                    keep_rate: None,
                    evaluation,
                    assist_auc: None,
                };
                curve.push(point);
            }
        }
    }
    Run {
        arm: result.arm.name().into(),
        seed: summary.seed,
        score: summary.score.points(),
        vs_full: result.accuracy_vs_full.map(|d| per_point * d),
        vs_uniform: result.accuracy_vs_uniform.map(|d| per_point * d),
        ops_saved: summary.ops_saved,
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

/// The instances with the highest and with the lowest averaged loss, of those that were trained on.
fn examples(job: &Job, checkpoint: &Checkpoint) -> (Vec<Example>, Vec<Example>) {
    let memory = checkpoint.assist.memory();
    let mut ids: Vec<usize> = (0..memory.len())
        .filter(|&id| memory.visits(id) > 0)
        .collect();
    let loss = |id: usize| memory.average_loss(id).unwrap_or(0.0);
    ids.sort_by(|&a, &b| loss(b).total_cmp(&loss(a)));
    let example = |&id: &usize| Example {
        id,
        loss: f64::from(loss(id)),
        times_trained: u64::from(memory.visits(id)),
        right: memory.right(id),
        shown: job.task.show(id),
    };
    let hardest = ids.iter().take(EXAMPLES).map(example).collect();
    (
        hardest,
        ids.iter().rev().take(EXAMPLES).map(example).collect(),
    )
}
