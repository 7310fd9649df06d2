//! Training instances that stand out at the end of a run, and what the trained network makes of them.

use super::TrainError;
use super::task::Boss;
use crate::assist::Memory;
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The network's answer to an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// The name of a class, or a translation.
    pub answer: String,
    /// Its probability, 0 to 1; of a translation, the geometric mean over its tokens.
    pub sure: f64,
    /// How much of the given answer it has, 0 to 1: a class has all or nothing, a translation a share
    /// of the tokens.
    pub agrees: f64,
}

impl Guess {
    /// From here on the network is sure.
    pub const SURE: f64 = 0.9;
    /// A translation with a smaller share of the given one's tokens is another one.
    const OTHER: f64 = 1.0 / 3.0;

    /// Whether it is the given answer.
    pub fn right(&self) -> bool {
        self.agrees >= 1.0
    }

    /// Whether the given answer may be the wrong one: the network is sure of another.
    pub fn doubts(&self) -> bool {
        self.sure >= Guess::SURE && self.agrees < Guess::OTHER
    }
}

/// An instance that stands out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Its number in the training set.
    pub id: u32,
    /// Its loss when it was trained on last.
    pub loss: f32,
    /// When that was: share of training done.
    pub seen: f64,
    /// How often it was trained on.
    pub times_trained: u32,
    /// The network's at the end.
    pub guess: Guess,
}

/// Those of the highest loss and of the lowest, of the instances that were trained on lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// Highest loss first.
    pub hardest: Vec<Example>,
    /// Lowest loss first.
    pub easiest: Vec<Example>,
    /// Lately is from this share of training on.
    pub since: f64,
}

/// Of each; they fill a grid of three or of six columns.
const SHOWN: usize = 18;

/// Where they are, in a run's folder.
const FILE: &str = "examples.json";

impl Examples {
    /// From what is remembered after so many `batches` in `epochs` sweeps, without guesses. Losses are
    /// compared only where they are of about one time, as all fall: lately is the last sweep, but no
    /// more than half of training, unless that has too few instances to show.
    fn of(memory: &Memory, batches: u64, epochs: f64) -> Examples {
        let seen = (0..memory.len()).filter_map(|id| Some((memory.last_step(id)?, id)));
        let mut seen: Vec<(u64, usize)> = seen.collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        let sweep = (batches as f64 / epochs.max(2.0)).ceil() as u64;
        let enough = seen.get(2 * SHOWN - 1).or(seen.last()).map_or(0, |s| s.0);
        let since = batches.saturating_sub(sweep).min(enough);
        seen.retain(|(step, _)| *step >= since);
        let loss = |id: usize| memory.last_loss(id).unwrap_or(0.0);
        seen.sort_by(|(_, a), (_, b)| loss(*b).total_cmp(&loss(*a)).then(a.cmp(b)));
        let share = |batch: u64| batch as f64 / batches.max(1) as f64;
        let example = |&(step, id): &(u64, usize)| Example {
            id: id as u32,
            loss: loss(id),
            seen: share(step + 1),
            times_trained: memory.visits(id),
            guess: Guess::default(),
        };
        // None is both.
        let (hard, easy) = seen.split_at(seen.len().div_ceil(2));
        Examples {
            hardest: hard.iter().take(SHOWN).map(example).collect(),
            easiest: easy.iter().rev().take(SHOWN).map(example).collect(),
            since: share(since),
        }
    }

    /// Finds them, asks the network, and leaves all in the run's folder.
    ///
    /// # Errors
    /// A failure of the device, or a full disk.
    pub fn write(
        dir: &Path,
        memory: &Memory,
        batches: u64,
        epochs: f64,
        boss: &mut dyn Boss,
    ) -> Result<(), TrainError> {
        let mut examples = Examples::of(memory, batches, epochs);
        let Examples {
            hardest, easiest, ..
        } = &mut examples;
        let mut all: Vec<&mut Example> = hardest.iter_mut().chain(easiest).collect();
        let ids: Vec<u32> = all.iter().map(|e| e.id).collect();
        let guesses = boss.guess(&ids)?;
        for (example, guess) in all.iter_mut().zip(guesses) {
            example.guess = guess;
        }
        let text = serde_json::to_string(&examples).expect("plain data");
        files::write(&dir.join(FILE), text.as_bytes()).map_err(TrainError::failed)
    }

    /// Those of the run in this folder; none where it left none.
    pub fn read(dir: &Path) -> Examples {
        let text = files::read(&dir.join(FILE)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 batches of 10 instances each; those of the first are never seen again.
    fn memory(loss: impl Fn(u64, u32) -> f32) -> Memory {
        let mut memory = Memory::new(200);
        for step in 0..100 {
            let first = if step == 0 {
                0
            } else {
                10 + (step as u32 - 1) * 10 % 190
            };
            let ids: Vec<u32> = (first..first + 10).collect();
            let losses: Vec<f32> = ids.iter().map(|id| loss(step, *id)).collect();
            memory.observe(step, &ids, &losses, &[false; 10]);
        }
        memory
    }

    #[test]
    fn old_losses_are_left_out_however_high_or_low() {
        // Losses fall from 7; of the last, 42 is the highest, and 43 the lowest.
        let memory = memory(|step, id| match (step, id) {
            (0, 5) => 0.0,
            (0, _) => 7.0,
            (_, 42) => 2.0,
            (_, 43) => 0.01,
            (step, id) => 2.0 - step as f32 / 100.0 + id as f32 * 1e-6,
        });
        let examples = Examples::of(&memory, 100, 5.0);
        assert_eq!((examples.hardest[0].id, examples.easiest[0].id), (42, 43));
        assert_eq!(examples.since, 0.8);
        assert_eq!(
            (examples.hardest.len(), examples.easiest.len()),
            (SHOWN, SHOWN)
        );
        for example in examples.hardest.iter().chain(&examples.easiest) {
            assert!(example.seen > 0.8 && example.id >= 10, "{example:?}");
        }
        let hard: Vec<f32> = examples.hardest.iter().map(|e| e.loss).collect();
        assert!(hard.is_sorted_by(|a, b| a >= b));
        // Of one sweep, the second half.
        assert_eq!(Examples::of(&memory, 100, 1.0).since, 0.5);
    }

    #[test]
    fn few_instances_are_shown_whenever_they_were_seen_and_none_twice() {
        let mut memory = Memory::new(9);
        memory.observe(0, &[3, 4, 5], &[3.0, 1.0, 2.0], &[true; 3]);
        let examples = Examples::of(&memory, 10, 5.0);
        let ids = |examples: &[Example]| examples.iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(
            (ids(&examples.hardest), ids(&examples.easiest)),
            (vec![3, 5], vec![4])
        );
        assert_eq!((examples.since, examples.hardest[0].seen), (0.0, 0.1));
        assert_eq!(Examples::of(&Memory::new(9), 0, 5.0).hardest, []);
    }

    #[test]
    fn a_sure_network_of_another_answer_doubts_the_given_one() {
        let guess = |sure, agrees| Guess {
            answer: String::new(),
            sure,
            agrees,
        };
        assert!(guess(0.95, 0.0).doubts() && guess(0.95, 0.3).doubts());
        assert!(!guess(0.89, 0.0).doubts(), "not sure");
        assert!(!guess(1.0, 0.5).doubts(), "much the same");
        assert!(!guess(1.0, 1.0).doubts() && guess(1.0, 1.0).right());
    }
}
