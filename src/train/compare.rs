//! Arms side by side: the same network, data and seeds, with and without an Assistant.

use super::checkpoint::Checkpoint;
use super::run::{Job, Start, resume, train};
use super::setup::create_arm_folder;
use super::summary::{ArmResult, Comparison, Summary};
use super::{Arm, Config, TrainError, report_file};
use std::path::{Path, PathBuf};

/// Folder of one run of a comparison.
fn run_dir(dir: &Path, arm: Arm, seed: u64) -> PathBuf {
    dir.join(format!("{}-seed{seed}", arm.name()))
}

/// Trains every arm with every seed, each in a folder of its own under the job's, and writes the
/// report that compares them. Runs that a former try has finished are taken as they are, the one
/// that was broken off goes on.
///
/// # Errors
/// Those of [`train`].
pub fn compare(job: &Job) -> Result<Comparison, TrainError> {
    let config = job.config;
    let mut results = Vec::new();
    // Seed by seed, so that a comparison that is stopped early has whole seeds to compare.
    for seed in config.seeds() {
        for &arm in &config.compare {
            let dir = run_dir(&job.dir, arm, seed);
            let arm_config = Config {
                seed,
                ..arm.apply(config)
            };
            let summary = run_arm(job, &arm_config, &dir)?;
            results.push(ArmResult {
                arm,
                accuracy_vs_full: None,
                accuracy_vs_uniform: None,
                summary,
            });
        }
    }
    results.sort_by_key(|r| config.compare.iter().position(|a| *a == r.arm));
    let comparison = Comparison::new(results, job.data.test.len());
    report_file::write_comparison(job, &comparison)?;
    let text = serde_json::to_string_pretty(&comparison).expect("plain data");
    crate::files::write(&job.dir.join("summary.json"), text.as_bytes())
        .map_err(TrainError::failed)?;
    Ok(comparison)
}

fn run_arm(job: &Job, config: &Config, dir: &Path) -> Result<Summary, TrainError> {
    let arm_job = Job {
        config,
        dir: dir.to_path_buf(),
        ..*job
    };
    let result = if Checkpoint::path(dir).exists() {
        resume(&arm_job)
    } else {
        create_arm_folder(dir, config)?;
        train(&arm_job, Start::Fresh)
    };
    // What goes on is the comparison, not the arm alone.
    result.map_err(|e| match e {
        TrainError::Interrupted { step, .. } => TrainError::Interrupted {
            step,
            dir: job.dir.clone(),
        },
        other => other,
    })
}

impl Comparison {
    /// The table that ends a comparison on a terminal: a line an arm, means over the seeds.
    pub fn table(&self) -> String {
        let head = [
            "arm",
            "test accuracy",
            "vs full",
            "vs uniform",
            "ops saved",
            "images/s",
        ];
        let mut lines = vec![format!(
            "{:<8} {:>18} {:>9} {:>11} {:>10} {:>9}",
            head[0], head[1], head[2], head[3], head[4], head[5]
        )];
        let mut arms: Vec<Arm> = self.arms.iter().map(|r| r.arm).collect();
        arms.dedup();
        for arm in arms {
            let points = |value: Option<f64>| match value {
                Some(v) => format!("{:+.2}", 100.0 * v),
                None => "–".into(),
            };
            let accuracies: Vec<f64> = self
                .of(arm)
                .map(|r| 100.0 * r.summary.test_accuracy)
                .collect();
            let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
            let spread = accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>();
            let accuracy = match accuracies.len() {
                1 => format!("{mean:.2} %"),
                n => format!("{mean:.2} ± {:.2} %", (spread / (n as f64 - 1.0)).sqrt()),
            };
            let mean = |value: fn(&Summary) -> f64| {
                self.mean(arm, |r| Some(value(&r.summary)))
                    .unwrap_or(f64::NAN)
            };
            lines.push(format!(
                "{:<8} {accuracy:>18} {:>9} {:>11} {:>8.1} % {:>9.0}",
                arm.name(),
                points(self.mean(arm, |r| r.accuracy_vs_full)),
                points(self.mean(arm, |r| r.accuracy_vs_uniform)),
                100.0 * mean(|s| s.ops_saved),
                mean(|s| s.instances_per_second),
            ));
        }
        lines.join("\n")
    }
}
