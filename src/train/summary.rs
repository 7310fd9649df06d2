//! The outcome of runs: the object that `--json` prints, and what a comparison says.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::Arm;
use super::task::{Score, Words};
use crate::assist::Calibration;

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Area under the ROC curve of "the loss will be above the mean" by the Assistant's scores, on
    /// instances drawn without regard to them; null where there are no scores.
    pub assist_auc: Option<f64>,
    /// The scores, as probabilities, against what became of those instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assist_calibration: Vec<Calibration>,
    /// The executor.
    pub device: String,
    /// Of everything random.
    pub seed: u64,
    /// Where the files are.
    pub run_dir: PathBuf,
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

    /// Difference in points between two arms, over the seeds. Its error is the larger of two: the
    /// scatter over seeds, and what the finite test set leaves open.
    pub fn difference(&self, arm: Arm, reference: Arm) -> Option<Estimate> {
        let pairs: Vec<(&ArmResult, &ArmResult)> = self
            .of(arm)
            .filter_map(|a| {
                let mut others = self.of(reference);
                Some((a, others.find(|b| b.summary.seed == a.summary.seed)?))
            })
            .collect();
        let n = pairs.len() as f64;
        let differences = pairs.iter().map(|(a, b)| a.points() - b.points());
        let mean = differences.clone().sum::<f64>() / n;
        let spread: f64 = differences.map(|d| (d - mean).powi(2)).sum();
        let scatter = if n > 1.0 {
            (spread / (n - 1.0) / n).sqrt()
        } else {
            0.0
        };
        let variance = |result: &ArmResult| {
            let score = result.summary.score;
            (score.per_point() * score.standard_error).powi(2)
        };
        let variances: f64 = pairs.iter().map(|(a, b)| variance(a) + variance(b)).sum();
        let sampling = variances.sqrt() / n;
        (n > 0.0).then_some(Estimate {
            mean,
            error: scatter.max(sampling),
        })
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
        Outcome {
            last,
            verdict: self.verdict(words),
            differences: self.names().into_iter().flat_map(against).collect(),
            arms: &self.arms,
        }
    }

    /// The Assistant that the comparison is about: `memory`, else `paper`.
    pub fn assistant(&self) -> Option<Arm> {
        let mut arms = [Arm::Memory, Arm::Paper].into_iter();
        arms.find(|&arm| self.of(arm).next().is_some())
    }

    /// One sentence: was the Assistant worth it?
    pub fn verdict(&self, words: &Words) -> String {
        let against = |arm| Some((arm, self.difference(arm, Arm::Uniform)?));
        let Some((arm, uniform)) = self.assistant().and_then(against) else {
            return "Whether the Assistant was worth it takes the arms memory (or paper) and uniform \
                    to say."
                .into();
        };
        let saved = self.mean(arm, |r| Some(r.summary.ops_saved)).unwrap_or(0.0);
        let seeds = self.of(arm).count();
        let runs = if seeds == 1 {
            "one seed".to_string()
        } else {
            format!("{seeds} seeds")
        };
        let points = |e: Estimate| format!("{:+.2} ± {:.2}", e.mean, e.error);
        let against_full = match self.difference(arm, Arm::Full) {
            Some(full) => format!("{} points against full data and ", points(full)),
            None => String::new(),
        };
        // Two standard errors, the usual bar.
        let whose = match arm {
            Arm::Paper => "paper’s ",
            _ => "",
        };
        let judgement = if uniform.mean > 2.0 * uniform.error {
            format!("The {whose}Assistant was worth it")
        } else if uniform.mean < -2.0 * uniform.error {
            format!("The {whose}Assistant was not worth it")
        } else {
            format!("Whether the {whose}Assistant was worth it cannot be told from this")
        };
        format!(
            "{judgement}: with {:.1} % of the operations saved, {} was {against_full}{} points \
             against uniform training at the same operations ({runs}).",
            100.0 * saved,
            words.score,
            points(uniform),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::images::WORDS;

    fn comparison(accuracies: &[(Arm, &[f64])], test_images: usize) -> Comparison {
        let result = |arm, seed, accuracy: f64| {
            let variance = accuracy * (1.0 - accuracy) / test_images as f64;
            let score = Score {
                test_accuracy: Some(accuracy),
                standard_error: variance.sqrt(),
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
    fn the_verdict_needs_a_difference_beyond_noise() {
        let say = |memory: &[f64], n| {
            comparison(&[(Arm::Uniform, &[0.8, 0.81]), (Arm::Memory, memory)], n).verdict(&WORDS)
        };
        assert!(say(&[0.85, 0.86], 10_000).starts_with("The Assistant was worth it: with 35.0 %"));
        assert!(say(&[0.75, 0.76], 10_000).starts_with("The Assistant was not worth it"));
        // The same difference on a hundred test images is chance.
        assert!(say(&[0.85, 0.86], 100).starts_with("Whether"));
        // So is one whose seeds disagree.
        assert!(say(&[0.90, 0.79], 10_000).starts_with("Whether"));
        // A NaN is never good news.
        assert!(say(&[f64::NAN, 0.9], 10_000).starts_with("Whether"));
    }

    #[test]
    fn the_verdict_is_about_memory_or_else_the_paper_s_assistant() {
        let (uniform, paper) = ((Arm::Uniform, &[0.8][..]), (Arm::Paper, &[0.9][..]));
        let say = |arms: &[(Arm, &[f64])]| comparison(arms, 10_000).verdict(&WORDS);
        assert!(say(&[uniform, paper]).starts_with("The paper’s Assistant was worth it"));
        let memory = (Arm::Memory, &[0.7][..]);
        assert!(say(&[uniform, paper, memory]).starts_with("The Assistant was not worth it"));
        assert!(say(&[paper]).contains("uniform to say"));
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
        assert!(
            comparison(&[(Arm::Memory, &[0.5])], 1)
                .verdict(&WORDS)
                .contains("arms memory (or paper) and uniform")
        );
    }
}
