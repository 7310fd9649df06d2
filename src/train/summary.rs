//! The outcome of runs: the object that `--json` prints, and what a comparison says.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::paired::{self, Paired};
use super::task::Score;
use super::task::Words;
use super::{Arm, Claim};
use crate::assist::Calibration;

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// On the test set.
    #[serde(flatten)]
    pub score: Score,
    /// Mean loss over the last interval of training.
    pub train_loss: f64,
    /// Operations of the network, forward and backward, on the instances really trained on;
    /// evaluation excluded.
    pub boss_ops: u64,
    /// Operations of the Assistant.
    pub assist_ops: u64,
    /// Operations of full training: all sweeps over all instances.
    pub full_ops: u64,
    /// `1 − (boss_ops + assist_ops)/full_ops`.
    pub ops_saved: f64,
    /// Instances trained on, with repetition.
    pub instances_trained: u64,
    /// Instances from which they were chosen, with repetition.
    pub candidates_seen: u64,
    /// Steps done.
    pub steps: u64,
    /// Seconds in all.
    pub wall_seconds: f64,
    /// Training speed, evaluation excluded.
    pub instances_per_second: f64,
    /// Times that the host blocked on the device in the training loop, evaluation and checkpoints
    /// aside.
    pub host_syncs: u64,
    /// Losses that the Assistant never saw because it was behind.
    pub loss_records_dropped: u64,
    /// Batches that the Boss took without asking because none was ready.
    pub batches_unscored: u64,
    /// Seconds in which the Boss had no batch.
    pub feed_stall_seconds: f64,
    /// Processor seconds of the Assistant's thread.
    pub assist_cpu_seconds: f64,
    /// Mean age, in steps, of the newest loss that the Assistant knew when it composed a batch.
    pub feedback_lag_steps: f64,
    /// V = (E g)²/E g² at the end, g = 1 − e^(−loss): skipping can be for nothing as far as the share
    /// kept stays above it.
    pub v: Option<f64>,
    /// Its mean over the part of the run in which an Assistant chooses.
    pub v_choosing: Option<f64>,
    /// Area under the ROC curve of "the loss will be above the mean" by the Assistant's scores, on
    /// instances drawn without regard to them; null where there are no scores.
    pub assist_auc: Option<f64>,
    /// The scores, as probabilities, against what became of those instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assist_calibration: Vec<Calibration>,
    /// Processes that have trained together.
    #[serde(default = "alone")]
    pub world_size: usize,
    /// Seconds that the first of them has spent on exchanges with the others in training steps, since
    /// it was started or resumed; unknown, and 0, where a GPU makes them.
    #[serde(default)]
    pub reduce_seconds: f64,
    /// The executor.
    pub device: String,
    /// Of everything random.
    pub seed: u64,
    /// Where the files are.
    pub run_dir: PathBuf,
}

/// Of a run from before there was a choice.
fn alone() -> usize {
    1
}

impl Summary {
    /// [`ops_saved`](Summary::ops_saved), for people. Training ends with the step that reaches the
    /// budget, so full training goes up to a step beyond 100 %: that is nothing saved, not less.
    pub fn saved(&self) -> f64 {
        if self.assist_ops == 0 {
            self.ops_saved.max(0.0)
        } else {
            self.ops_saved
        }
    }
}

/// One run of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// Which arm.
    pub arm: Arm,
    /// Test accuracy (a share) or BLEU minus that of `full` with the same seed.
    #[serde(default)]
    pub accuracy_vs_full: Option<f64>,
    /// Test accuracy or BLEU minus that of `uniform` with the same seed.
    #[serde(default)]
    pub accuracy_vs_uniform: Option<f64>,
    /// The run itself.
    #[serde(flatten)]
    pub summary: Summary,
}

impl ArmResult {
    /// Not compared yet.
    pub fn new(arm: Arm, summary: Summary) -> ArmResult {
        ArmResult {
            arm,
            accuracy_vs_full: None,
            accuracy_vs_uniform: None,
            summary,
        }
    }

    /// Accuracy in percent, or BLEU.
    fn points(&self) -> f64 {
        self.summary.score.points()
    }

    /// That which the finite test set leaves them.
    fn variance(&self) -> f64 {
        let score = &self.summary.score;
        (score.per_point() * score.standard_error).powi(2)
    }
}

/// All runs of a comparison, arm by arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// In the order they were run.
    pub arms: Vec<ArmResult>,
}

/// What a comparison comes to: what `--json` prints and `summary.json` holds.
#[derive(Serialize)]
pub struct Outcome<'a> {
    /// The last arm's, for who reads single runs, too.
    #[serde(flatten)]
    pub last: &'a Summary,
    /// In one sentence.
    pub verdict: String,
    /// What must hold for the Assistant to be worth it, and whether it does.
    pub claims: Vec<Claim>,
    /// Every arm against `full` and against `uniform`, over the seeds that both have.
    pub differences: Vec<Difference>,
    /// All runs.
    pub arms: &'a [ArmResult],
}

/// By how much one arm is better than another: a share of accuracy, or BLEU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // what they say
pub struct Difference {
    pub arm: Arm,
    pub against: Arm,
    /// Mean over the seeds.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// A mean over seeds with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Over the seeds.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
}

impl Estimate {
    /// Of values, one a seed, each with the variance that the finite test set leaves it. The error
    /// is the larger of two: the scatter over seeds, and what the test set leaves open. `None` of
    /// none.
    fn of(values: &[(f64, f64)]) -> Option<Estimate> {
        let n = values.len() as f64;
        let mean = values.iter().map(|(value, _)| value).sum::<f64>() / n;
        let spread: f64 = values.iter().map(|(value, _)| (value - mean).powi(2)).sum();
        let scatter = if n > 1.0 {
            (spread / (n - 1.0) / n).sqrt()
        } else {
            0.0
        };
        // All runs have one test set in common.
        let sampling = (values.iter().map(|(_, var)| var).sum::<f64>() / n).sqrt();
        (n > 0.0).then_some(Estimate {
            mean,
            error: scatter.max(sampling),
        })
    }
}

impl Comparison {
    /// Sorts results into a comparison and computes the differences.
    pub fn new(mut arms: Vec<ArmResult>) -> Comparison {
        let all = arms.clone();
        for result in &mut arms {
            let per_point = result.summary.score.per_point();
            let against = |arm| {
                let mut others = all.iter().filter(|a| a.arm == arm && arm != result.arm);
                let other = others.find(|a| a.summary.seed == result.summary.seed)?;
                Some((result.points() - other.points()) / per_point)
            };
            (result.accuracy_vs_full, result.accuracy_vs_uniform) =
                (against(Arm::Full), against(Arm::Uniform));
        }
        Comparison { arms }
    }

    /// The runs of one arm.
    pub fn of(&self, arm: Arm) -> impl Iterator<Item = &ArmResult> {
        self.arms.iter().filter(move |r| r.arm == arm)
    }

    /// Mean over the seeds of one arm, `None` if a run lacks the value.
    pub fn mean(&self, arm: Arm, value: impl Fn(&ArmResult) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.of(arm).map(value).collect();
        values
            .filter(|v| !v.is_empty())
            .map(|v| v.iter().sum::<f64>() / v.len() as f64)
    }

    /// Accuracy in percent or BLEU of an arm, over its seeds.
    pub fn score(&self, arm: Arm) -> Option<Estimate> {
        let runs = self.of(arm).map(|run| (run.points(), run.variance()));
        Estimate::of(&runs.collect::<Vec<_>>())
    }

    /// The scores of two arms with the seeds that both have.
    fn pairs(&self, arm: Arm, reference: Arm) -> Vec<(&Score, &Score)> {
        let pairs = self.of(arm).filter_map(|a| {
            let mut others = self.of(reference);
            let b = others.find(|b| b.summary.seed == a.summary.seed)?;
            Some((&a.summary.score, &b.summary.score))
        });
        pairs.collect()
    }

    /// Difference in points between two arms, over the seeds that both have.
    pub fn difference(&self, arm: Arm, reference: Arm) -> Option<Estimate> {
        paired::estimate(&self.pairs(arm, reference))
    }

    /// The same with its bounds.
    pub fn paired(&self, arm: Arm, reference: Arm) -> Option<Paired> {
        Paired::new(&self.pairs(arm, reference))
    }

    /// The arms, in order.
    pub fn names(&self) -> Vec<Arm> {
        let mut arms: Vec<Arm> = self.arms.iter().map(|r| r.arm).collect();
        arms.dedup();
        arms
    }

    /// All that there is to say, for programs.
    ///
    /// # Panics
    /// If there are no arms: a bug.
    pub fn outcome(&self, words: &Words) -> Outcome<'_> {
        let last = &self.arms.last().expect("a comparison has arms").summary;
        let per_point = last.score.per_point();
        let against = |arm| {
            let references = [Arm::Full, Arm::Uniform].into_iter();
            references.filter_map(move |against| {
                let points = self.difference(arm, against).filter(|_| arm != against)?;
                Some(Difference {
                    arm,
                    against,
                    mean: points.mean / per_point,
                    standard_error: points.error / per_point,
                })
            })
        };
        let (claims, verdict) = self.judge(words);
        Outcome {
            last,
            verdict: verdict.to_string(),
            claims,
            differences: self.names().into_iter().flat_map(against).collect(),
            arms: &self.arms,
        }
    }

    /// The Assistant that the comparison is about: `memory`, else `paper`.
    pub fn assistant(&self) -> Option<Arm> {
        let mut arms = [Arm::Memory, Arm::Paper].into_iter();
        arms.find(|&arm| self.of(arm).next().is_some())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::train::Answers;

    /// Of arms with their accuracies, seed by seed from 0, on so many test images.
    pub fn comparison(accuracies: &[(Arm, &[f64])], test_images: usize) -> Comparison {
        let result = |arm, seed, accuracy: f64| {
            let variance = accuracy * (1.0 - accuracy) / test_images as f64;
            let right = (0..test_images).map(|i| (i as f64) < accuracy * test_images as f64 - 0.5);
            let score = Score {
                test_accuracy: Some(accuracy),
                standard_error: variance.sqrt(),
                answers: Some(Answers::new(right.collect())),
                ..Score::default()
            };
            let summary = Summary {
                seed,
                score,
                ops_saved: 0.35,
                ..Summary::default()
            };
            ArmResult::new(arm, summary)
        };
        let arms = accuracies.iter().flat_map(|(arm, values)| {
            values
                .iter()
                .enumerate()
                .map(move |(seed, v)| result(*arm, seed as u64, *v))
        });
        Comparison::new(arms.collect())
    }

    #[test]
    fn differences_pair_runs_of_the_same_seed() {
        let c = comparison(
            &[
                (Arm::Full, &[0.9, 0.8]),
                (Arm::Uniform, &[0.85]),
                (Arm::Memory, &[0.88, 0.81]),
            ],
            1,
        );
        let of = |arm| c.of(arm).map(|r| r.accuracy_vs_full).collect::<Vec<_>>();
        assert_eq!(of(Arm::Full), [None, None]);
        let memory: Vec<f64> = of(Arm::Memory).into_iter().flatten().collect();
        assert!((memory[0] - -0.02).abs() < 1e-12 && (memory[1] - 0.01).abs() < 1e-12);
        assert_eq!(c.of(Arm::Memory).last().unwrap().accuracy_vs_uniform, None);
        let difference = c.difference(Arm::Memory, Arm::Full).unwrap();
        assert!((difference.mean - -0.5).abs() < 1e-12);
    }
}
