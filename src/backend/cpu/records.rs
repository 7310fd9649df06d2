//! Where the records of losses go: into the ring or, where several ranks share a step, first to all of
//! them.

use crate::assist::{LossRing, Record};
use crate::backend::{DeviceError, StepInputs};
use crate::world::{part, world};
use std::sync::Arc;

/// A ring, and what comes before it.
#[derive(Default)]
pub struct Records {
    ring: Option<Arc<LossRing>>,
    /// Where there are several ranks: an equal part of each, its rows' records and its vote.
    all: Vec<u64>,
}

impl Records {
    /// Into this ring.
    pub fn into(ring: Arc<LossRing>) -> Records {
        let world = world();
        let all = match world.is_shared() {
            true => vec![0; world.size() * world.words(ring.rows())],
            false => Vec::new(),
        };
        Records {
            ring: Some(ring),
            all,
        }
    }

    fn ring(&self) -> &LossRing {
        self.ring
            .as_deref()
            .expect("a ring is attached before losses are recorded")
    }

    /// Stores the records of this rank's instances.
    pub fn store(&mut self, inputs: &StepInputs, loss: &[f32], right: &[f32]) {
        let world = world();
        let own = self.all.len() / world.size() * world.rank();
        for row in 0..inputs.ids.len() {
            let (loss, right) = (loss[row], right[row] == 1.0);
            match world.is_shared() {
                true => self.all[own + row] = Record { loss, right }.pack(inputs.step),
                false => self.ring().store(inputs.step, row, loss, right),
            }
        }
    }

    /// See [`Executor::share_results`](crate::backend::Executor::share_results).
    ///
    /// # Errors
    /// A rank that is gone or hangs.
    pub fn share(&mut self, inputs: &StepInputs) -> Result<(), DeviceError> {
        let (world, step) = (world(), inputs.step);
        let words = self.all.len() / world.size();
        let vote = Record {
            loss: f32::from(u8::from(inputs.vote)),
            right: false,
        };
        self.all[words * (world.rank() + 1) - 1] = vote.pack(step);
        world.gather(&mut self.all)?;
        let (ring, total) = (self.ring(), inputs.total as usize);
        let loss = |word: u64| f32::from_bits(word as u32);
        let mut votes = 0.0;
        for (rank, words) in self.all.chunks(words).enumerate() {
            let (vote, words) = words.split_last().expect("there is the vote");
            votes += loss(*vote);
            for (row, word) in part(rank, world.size(), total).zip(words) {
                ring.store(step, row, loss(*word), word >> 63 == 1);
            }
        }
        ring.store(step, total, votes, false);
        Ok(())
    }
}
