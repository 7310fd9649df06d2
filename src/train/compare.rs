//! Arms side by side: the same network, data and seeds, with and without an Assistant.

use super::checkpoint::Checkpoint;
use super::folders::{RunFolder, write_settings};
use super::job::Job;
use super::run::{Start, resume, train};
use super::summary::{ArmResult, Comparison, Summary};
use super::task::Words;
use super::verdict::percent;
use super::{Arm, Config, TrainError, report_file};
use crate::world::world;
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
    if !world().is_first() {
        return Ok(comparison);
    }
    report_file::write_comparison(job, &comparison)?;
    let all = comparison.outcome(job.task.words());
    let text = serde_json::to_string_pretty(&all).expect("plain data");
    crate::files::write(&job.dir.join("summary.json"), text.as_bytes())
        .map_err(TrainError::failed)?;
    Ok(comparison)
}

fn run_arm(job: &Job, config: &Config, dir: PathBuf) -> Result<Summary, TrainError> {
    let first = world().is_first();
    let folder = first.then(|| RunFolder::arm(&dir, job.console));
    let _folder = folder.transpose()?;
    // As the first finds it: the others may look when it is there already.
    let begun = Checkpoint::path(&dir).exists();
    let begun = world()
        .first("an arm", &[u8::from(begun)])
        .map_err(TrainError::failed)?;
    let arm_job = Job {
        config,
        dir,
        ..*job
    };
    if begun == [1] {
        resume(&arm_job)
    } else {
        if first {
            write_settings(&arm_job).map_err(TrainError::failed)?;
        }
        train(&arm_job, Start::Fresh)
    }
}

impl Comparison {
    /// The table that ends a comparison on a terminal: a line an arm, means over the seeds.
    pub fn table(&self, words: &Words) -> String {
        let score = format!("{}{}", words.score, words.unit);
        let speed = format!("{}/s", words.short);
        let row = |arm: &str, score: &str, saved: &str, [uniform, full]: [&str; 2], speed: &str| {
            format!("{arm:<10} {score:>15} {saved:>10} {uniform:>14} {full:>14} {speed:>7}")
        };
        let head = ["vs uniform", "vs full"];
        let mut lines = vec![row("arm", &score, "ops saved", head, &speed)];
        let assistant = self.assistant();
        for arm in self.names() {
            let points = |reference: Arm| match self.difference(arm, reference) {
                Some(d) if reference != arm => d.to_string(),
                _ => "–".into(),
            };
            let score = self.score(arm).expect("an arm has runs");
            let mean = |value: fn(&Summary) -> f64| {
                self.mean(arm, |r| Some(value(&r.summary)))
                    .unwrap_or(f64::NAN)
            };
            let name = match Some(arm) == assistant {
                true => format!("{}*", arm.name()),
                false => arm.name().into(),
            };
            lines.push(row(
                &name,
                &format!("{:.2} ± {:.2}", score.mean, score.error),
                &percent(mean(Summary::saved)),
                [&points(Arm::Uniform), &points(Arm::Full)],
                &format!("{:.0}", mean(|s| s.instances_per_second)),
            ));
        }
        if assistant.is_some() {
            lines.push("* the Assistant".into());
        }
        lines.push("± one standard error".into());
        lines.join("\n")
    }
}
