//! Arms side by side: the same network, data and seeds, with and without an Assistant.

use super::checkpoint::Checkpoint;
use super::folders::{RunFolder, write_settings};
use super::run::{Job, Start, resume, train};
use super::summary::{ArmResult, Comparison, Summary};
use super::task::Words;
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
            let summary = run_arm(job, &arm_config, dir)?;
            results.push(ArmResult::new(arm, summary));
        }
    }
    results.sort_by_key(|r| config.compare.iter().position(|a| *a == r.arm));
    let comparison = Comparison::new(results);
    report_file::write_comparison(job, &comparison)?;
    let all = comparison.outcome(job.task.words());
    let text = serde_json::to_string_pretty(&all).expect("plain data");
    crate::files::write(&job.dir.join("summary.json"), text.as_bytes())
        .map_err(TrainError::failed)?;
    Ok(comparison)
}

fn run_arm(job: &Job, config: &Config, dir: PathBuf) -> Result<Summary, TrainError> {
    let folder = RunFolder::arm(&dir, job.console)?;
    let arm_job = Job {
        config,
        dir,
        ..*job
    };
    if Checkpoint::path(folder.path()).exists() {
        resume(&arm_job)
    } else {
        write_settings(&arm_job).map_err(TrainError::failed)?;
        train(&arm_job, Start::Fresh)
    }
}

impl Comparison {
    /// The table that ends a comparison on a terminal: a line an arm, means over the seeds.
    pub fn table(&self, words: &Words) -> String {
        let speed = format!("{}/s", words.short);
        let head = [
            "arm",
            words.score,
            "vs full",
            "vs uniform",
            "ops saved",
            &speed,
        ];
        let mut lines = vec![format!(
            "{:<9} {:>18} {:>9} {:>11} {:>10} {:>9}",
            head[0], head[1], head[2], head[3], head[4], head[5]
        )];
        for arm in self.names() {
            let points = |reference: Arm| match self.difference(arm, reference) {
                Some(d) if reference != arm => format!("{:+.2}", d.mean),
                _ => "–".into(),
            };
            let scores: Vec<f64> = self.of(arm).map(|r| r.summary.score.points()).collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            let spread = scores.iter().map(|a| (a - mean).powi(2)).sum::<f64>();
            let score = match scores.len() {
                1 => format!("{mean:.2}{}", words.unit),
                n => {
                    let deviation = (spread / (n as f64 - 1.0)).sqrt();
                    format!("{mean:.2} ± {deviation:.2}{}", words.unit)
                }
            };
            let mean = |value: fn(&Summary) -> f64| {
                self.mean(arm, |r| Some(value(&r.summary)))
                    .unwrap_or(f64::NAN)
            };
            // Full training is what the others save of.
            let saved = match arm {
                Arm::Full => "–".to_string(),
                _ => format!("{:.1} %", 100.0 * mean(|s| s.ops_saved)),
            };
            lines.push(format!(
                "{:<9} {score:>18} {:>9} {:>11} {saved:>10} {:>9.0}",
                arm.name(),
                points(Arm::Full),
                points(Arm::Uniform),
                mean(|s| s.instances_per_second),
            ));
        }
        lines.join("\n")
    }
}
