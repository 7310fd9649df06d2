//! The pools of instances that the Assistant has handed out, on their way through training: each is
//! one step's batch, or several padded batches, and comes back to the Assistant as a whole.

use super::task::Planned;
use crate::assist::{Batch, Feedback};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A pool that is trained on in part: what a checkpoint holds of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartialPool {
    batch: Batch,
    /// Steps done.
    done: usize,
    /// What they said, by place in the pool.
    losses: Vec<f32>,
    right: Vec<bool>,
}

/// A pool and the steps that train on it.
struct Pool {
    state: PartialPool,
    steps: Vec<Planned>,
    launched: usize,
}

/// Pools whose losses are not all in, oldest first. Only the newest has steps to launch.
#[derive(Default)]
pub struct Pools(VecDeque<Pool>);

/// A step to launch.
pub struct Launch {
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
    pub shape: [u32; 3],
    pub ops: u64,
}

impl Pools {
    /// Whether all steps of all pools are launched.
    pub fn exhausted(&self) -> bool {
        self.0.back().is_none_or(|p| p.launched == p.steps.len())
    }

    /// Adds what the Assistant has handed out.
    pub fn push(&mut self, batch: Batch, steps: Vec<Planned>) {
        let n = batch.ids.len();
        let state = PartialPool {
            batch,
            done: 0,
            losses: vec![0.0; n],
            right: vec![false; n],
        };
        let launched = 0;
        self.0.push_back(Pool {
            state,
            steps,
            launched,
        });
    }

    /// The next step.
    ///
    /// # Panics
    /// If there is none: a bug in the trainer.
    pub fn launch(&mut self) -> Launch {
        let pool = self.0.back_mut().expect("a pool with steps to launch");
        let step = &pool.steps[pool.launched];
        pool.launched += 1;
        let batch = &pool.state.batch;
        let places = step.places.iter().map(|p| *p as usize);
        Launch {
            ids: places.clone().map(|p| batch.ids[p]).collect(),
            weights: match batch.weights.is_empty() {
                true => Vec::new(),
                false => places.map(|p| batch.weights[p]).collect(),
            },
            shape: step.shape,
            ops: step.ops,
        }
    }

    /// The instance in a row of the oldest step whose losses are not in.
    pub fn instance(&self, row: usize) -> u32 {
        let pool = self.0.front().expect("a launched step");
        pool.state.batch.ids[pool.steps[pool.state.done].places[row] as usize]
    }

    /// Enters the losses of the oldest step whose losses are not in. Returns the whole pool's if
    /// they are complete now.
    pub fn record(&mut self, losses: &[f32], right: &[bool]) -> Option<Feedback> {
        let pool = self.0.front_mut().expect("a launched step");
        let state = &mut pool.state;
        let places = &pool.steps[state.done].places;
        for (place, (loss, right)) in places.iter().zip(losses.iter().zip(right)) {
            state.losses[*place as usize] = *loss;
            state.right[*place as usize] = *right;
        }
        state.done += 1;
        if state.done < pool.steps.len() {
            return None;
        }
        let PartialPool {
            batch,
            losses,
            right,
            ..
        } = self.0.pop_front()?.state;
        Some(Feedback {
            step: batch.number,
            ids: batch.ids,
            losses,
            right,
        })
    }

    /// The pool that is trained on in part, where all losses of launched steps are in.
    pub fn rest(&self) -> Option<PartialPool> {
        debug_assert!(self.0.iter().all(|p| p.state.done == p.launched));
        self.0.front().map(|p| p.state.clone())
    }

    /// Goes on with that pool, of the `instances` that there are.
    ///
    /// # Errors
    /// It cannot be one of this run.
    pub fn restore(
        rest: Option<PartialPool>,
        instances: usize,
        plan: impl Fn(&[u32]) -> Vec<Planned>,
    ) -> Result<Pools, &'static str> {
        let Some(state) = rest else {
            return Ok(Pools::default());
        };
        let (ids, n) = (&state.batch.ids, state.batch.ids.len());
        let weights = [0, n].contains(&state.batch.weights.len());
        let sound = ids.iter().all(|id| (*id as usize) < instances)
            && [state.losses.len(), state.right.len()] == [n; 2]
            && state.losses.iter().all(|loss| loss.is_finite());
        let steps = if sound && weights {
            plan(ids)
        } else {
            Vec::new()
        };
        if state.done >= steps.len() {
            return Err("its pool of instances is damaged");
        }
        let launched = state.done;
        Ok(Pools(VecDeque::from([Pool {
            state,
            steps,
            launched,
        }])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two instances a step.
    fn plan(ids: &[u32]) -> Vec<Planned> {
        let places: Vec<u32> = (0..ids.len() as u32).rev().collect();
        let step = |places: &[u32]| Planned {
            places: places.to_vec(),
            shape: [2, 8, 8],
            ops: 10 * places.len() as u64,
        };
        places.chunks(2).map(step).collect()
    }

    fn batch(number: u64, ids: &[u32], weights: &[f32]) -> Batch {
        Batch {
            number,
            ids: ids.to_vec(),
            weights: weights.to_vec(),
            candidates: 9,
            offered: 9,
            cost: 3,
            keep_rate: 0.5,
            scored: true,
            feedback_through: None,
        }
    }

    #[test]
    fn losses_find_their_places_and_pools_overlap() {
        let mut pools = Pools::default();
        assert!(pools.exhausted());
        pools.push(
            batch(7, &[40, 41, 42], &[0.5, 1.0, 1.5]),
            plan(&[40, 41, 42]),
        );
        let first = pools.launch();
        assert_eq!(
            (first.ids, first.weights, first.ops),
            (vec![42, 41], vec![1.5, 1.0], 20)
        );
        let second = pools.launch();
        assert_eq!((second.ids, second.weights), (vec![40], vec![0.5]));
        assert!(pools.exhausted());
        pools.push(batch(8, &[50], &[]), plan(&[50]));
        assert!(pools.launch().weights.is_empty());
        assert_eq!(pools.instance(1), 41);
        assert_eq!(pools.record(&[4.2, 4.1], &[true, false]), None);
        let feedback = pools.record(&[4.0], &[true]).unwrap();
        assert_eq!((feedback.step, &feedback.ids[..]), (7, &[40, 41, 42][..]));
        assert_eq!(feedback.losses, [4.0, 4.1, 4.2]);
        assert_eq!(feedback.right, [true, false, true]);
        assert_eq!(pools.record(&[5.0], &[true]).unwrap().step, 8);
        assert_eq!(pools.rest(), None);
    }

    #[test]
    fn a_rest_goes_on_where_it_was_or_is_refused() {
        let mut pools = Pools::default();
        pools.push(batch(7, &[40, 41, 42], &[]), plan(&[40, 41, 42]));
        pools.launch();
        assert_eq!(pools.record(&[4.2, 4.1], &[true, false]), None);
        let rest = pools.rest().unwrap();
        let mut again = Pools::restore(Some(rest.clone()), 50, plan).unwrap();
        assert_eq!(again.launch().ids, [40]);
        assert_eq!(
            again.record(&[4.0], &[true]).unwrap().losses,
            [4.0, 4.1, 4.2]
        );
        assert!(Pools::restore(Some(rest.clone()), 42, plan).is_err());
        let spoilt = PartialPool { done: 2, ..rest };
        assert!(Pools::restore(Some(spoilt), 50, plan).is_err());
    }
}
