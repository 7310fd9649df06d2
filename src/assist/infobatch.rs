//! The strongest simple rival (`--assist infobatch`): InfoBatch (Qin et al., ICLR 2024). In each
//! sweep an instance whose last loss is below the mean of all last losses is pruned with
//! probability r; what survives of these is weighted by 1/(1 − r).
//!
//! Each instance is decided on its own, as in the paper's text. The authors' code differs in two ways:
//! it prunes an exact number of those below the mean, and its anneal begins with the first epoch not
//! before 0.875·E, in which, where 0.875·E is not whole, the weights of the epoch before are never
//! reset. Here the anneal is the last eighth of what is spent, on all data, and every weight is 1.
//! Never seen instances are kept and are not in the mean, so the first sweep is whole.
//! Weights are not divided by their mean: a batch's gradient then is, in expectation, that of the
//! unpruned data times the ratio of their numbers, so that a sweep of fewer steps goes as far.

use super::features::Memory;
use serde::{Deserialize, Serialize};

/// Pruning probability r of an instance whose loss is below the mean.
const PRUNE: f32 = 0.5;

/// The rule, and the mean that it holds a sweep's losses against.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pruner {
    /// The sweep that `mean` is of.
    sweep: Option<u64>,
    mean: f32,
}

impl Pruner {
    /// Takes the mean anew if a sweep begins. Returns the operations it took.
    pub fn begin(&mut self, sweep: u64, memory: &Memory) -> u64 {
        if self.sweep == Some(sweep) {
            return 0;
        }
        self.sweep = Some(sweep);
        self.mean = memory.mean_last_loss();
        memory.len() as u64 + 1
    }

    /// Keep probability of each instance: 1 − r or 1. The loss is weighted by its inverse.
    pub fn keep(&self, memory: &Memory, ids: &[u32]) -> Vec<f32> {
        let easy = |id: u32| memory.last_loss(id as usize).is_some_and(|x| x < self.mean);
        ids.iter()
            .map(|&id| if easy(id) { 1.0 - PRUNE } else { 1.0 })
            .collect()
    }

    /// Operations of [`keep`](Pruner::keep) and the draws on `n` instances: two comparisons each.
    pub fn keep_ops(n: usize) -> u64 {
        2 * n as u64
    }

    /// Whether the mean is a number.
    pub fn is_sound(&self) -> bool {
        self.mean.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_the_sweep_s_beginning_and_the_unseen_are_kept() {
        let mut memory = Memory::new(4);
        let mut pruner = Pruner::default();
        assert_eq!(pruner.begin(0, &memory), 5);
        assert_eq!(pruner.keep(&memory, &[0, 3]), [1.0; 2]);
        memory.observe(0, &[0, 1, 2], &[1.0, 2.0, 6.0], &[true; 3]);
        assert_eq!(
            pruner.keep(&memory, &[0, 1, 2, 3]),
            [1.0; 4],
            "still sweep 0"
        );
        pruner.begin(1, &memory);
        assert_eq!(pruner.keep(&memory, &[0, 1, 2, 3]), [0.5, 0.5, 1.0, 1.0]);
        // What comes in during the sweep changes an instance's own loss, not the mean.
        memory.observe(9, &[1], &[100.0], &[true]);
        assert_eq!(pruner.begin(1, &memory), 0);
        assert_eq!(pruner.keep(&memory, &[0, 1, 2]), [0.5, 1.0, 1.0]);
    }
}
