//! Draws a report from what lies in the folders of runs: settings, measurements, summaries, and the
//! Assistant's memory of each instance.

use super::checkpoint::Checkpoint;
use super::metrics::{Metrics, Point};
use super::report::{self, Example, Picture, Report, Run};
use super::run::Job;
use super::summary::{ArmResult, Comparison};
use super::{Arm, TrainError};
use crate::files;

/// Images shown of the hardest and of the easiest.
const EXAMPLES: usize = 20;

/// The report of one finished run, into its folder.
pub fn write_run(job: &Job, result: &ArmResult) -> Result<(), TrainError> {
    let summary = &result.summary;
    let verdict = format!(
        "Test accuracy {:.2} % with {:.1} % of full training's operations saved. Whether that was worth it takes a comparison: \
         --compare full,uniform,memory.",
        100.0 * summary.test_accuracy,
        100.0 * summary.ops_saved,
    );
    write(job, verdict, std::slice::from_ref(result), None)
}

/// The report of a comparison, into its folder.
pub fn write_comparison(job: &Job, comparison: &Comparison) -> Result<(), TrainError> {
    write(
        job,
        comparison.verdict(),
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
        runs.push(run(result, &points));
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
        title: format!("ResNet-{} on {}", job.config.depth, job.data.name),
        verdict,
        subtitle: environment,
        runs,
        config: job.config.to_toml(),
        hardest,
        easiest,
    };
    let html = report::render(&report).map_err(TrainError::failed)?;
    files::write(&job.dir.join("report.html"), html.as_bytes()).map_err(TrainError::failed)
}

fn run(result: &ArmResult, points: &[Point]) -> Run {
    let summary = &result.summary;
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
                keep_rate: Some(keep_rate),
                test_accuracy: None,
                assist_auc,
            }),
            Point::Eval {
                ops_fraction,
                accuracy,
                ..
            } => {
                let train_loss = curve.last().map_or(f64::NAN, |p| p.train_loss);
                let test_accuracy = Some(accuracy);
                let point = report::Point {
                    ops_fraction,
                    train_loss,
                    keep_rate: None,
                    test_accuracy,
                    assist_auc: None,
                };
                curve.push(point);
            }
        }
    }
    Run {
        arm: result.arm.name().into(),
        seed: summary.seed,
        test_accuracy: summary.test_accuracy,
        accuracy_vs_full: result.accuracy_vs_full,
        accuracy_vs_uniform: result.accuracy_vs_uniform,
        ops_saved: summary.ops_saved,
        full_ops: summary.full_ops as f64,
        boss_ops: summary.boss_ops as f64,
        assist_ops: summary.assist_ops as f64,
        assist_auc: summary.assist_auc,
        calibration: summary.assist_calibration.clone(),
        wall_seconds: summary.wall_seconds,
        images_per_second: summary.instances_per_second,
        points: curve,
    }
}

/// The instances with the highest and with the lowest averaged loss, of those that were trained on.
fn examples(job: &Job, checkpoint: &Checkpoint) -> (Vec<Example>, Vec<Example>) {
    let (data, memory) = (&job.data.train, checkpoint.assist.memory());
    let mut ids: Vec<usize> = (0..data.len())
        .filter(|&id| memory.visits(id) > 0)
        .collect();
    let loss = |id: usize| memory.average_loss(id).unwrap_or(0.0);
    ids.sort_by(|&a, &b| loss(b).total_cmp(&loss(a)));
    let example = |&id: &usize| Example {
        id,
        class: job.data.classes[data.labels[id] as usize].clone(),
        loss: f64::from(loss(id)),
        times_trained: u64::from(memory.visits(id)),
        right: memory.right(id),
        image: Picture {
            height: data.height,
            width: data.width,
            channels: data.channels,
            pixels: data.image(id).to_vec(),
        },
    };
    let hardest = ids.iter().take(EXAMPLES).map(example).collect();
    (
        hardest,
        ids.iter().rev().take(EXAMPLES).map(example).collect(),
    )
}
