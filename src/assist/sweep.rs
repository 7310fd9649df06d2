//! Where candidates come from: shuffled sweeps over the data, from a cursor of a few words.

use crate::rng::hash;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A permutation of `0..n` that needs no memory: a Feistel network over the next power of two,
/// whose results past the end are sent through again (Black and Rogaway, "Ciphers with arbitrary
/// finite domains", 2002). So a new sweep costs nothing when it starts, and the cursor is all there
/// is to save.
fn permute(seed: u64, sweep: u64, n: u32, index: u32) -> u32 {
    const ROUNDS: u64 = 6;
    let bits = u32::BITS - (n - 1).leading_zeros();
    let (low, high) = (bits / 2, bits - bits / 2);
    let key = hash(seed, sweep, 0x5eed);
    let mut x = index;
    loop {
        for round in 0..ROUNDS {
            // The halves swap their sizes along with their places.
            let (low, high) = if round % 2 == 0 {
                (low, high)
            } else {
                (high, low)
            };
            let (left, right) = (x >> low, x & ((1 << low) - 1));
            let mixed = left ^ (hash(key, round, u64::from(right)) as u32 & ((1 << high) - 1));
            x = right << high | mixed;
        }
        if x < n {
            return x;
        }
    }
}

/// A batch in composition.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Instances kept so far, all different.
    pub ids: Vec<u32>,
    /// Candidates drawn for it so far.
    pub candidates: u64,
    /// Cost of the candidates.
    pub offered: u64,
    /// Sweep of the first candidate.
    sweep: Option<u64>,
}

impl Draft {
    /// Empty, with room for `batch` instances.
    pub fn new(batch: usize) -> Draft {
        Draft {
            ids: Vec::with_capacity(batch),
            candidates: 0,
            offered: 0,
            sweep: None,
        }
    }
}

/// Candidates of one sweep.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Number of the first: candidates are numbered from 0.
    pub first: u64,
    /// The sweep, from 0.
    pub sweep: u64,
    /// The instances.
    pub ids: Vec<u32>,
}

/// The cursor. Each sweep offers each instance once, in a new order; the one exception is an
/// instance that would come into a batch twice where a batch spans two sweeps. It waits until the
/// end of its sweep, and is passed over if it is still in the batch then (that takes fewer
/// instances than a batch has candidates).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweeps {
    seed: u64,
    n: u32,
    sweep: u64,
    /// Next place in the sweep: `0..n` in the permutation, then in `deferred`.
    position: u32,
    deferred: Vec<u32>,
    drawn: u64,
    /// Cost of the candidates drawn, and of those that went into batches.
    offered: u64,
    spent: u64,
}

impl Sweeps {
    /// Starts the first sweep over `n` ≥ 1 instances.
    pub fn new(seed: u64, n: u32) -> Sweeps {
        Sweeps {
            seed,
            n,
            sweep: 0,
            position: 0,
            deferred: Vec::new(),
            drawn: 0,
            offered: 0,
            spent: 0,
        }
    }

    /// Cost of the candidates drawn since the start.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Cost of all that has been put into batches since the start.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Enters a batch of this cost.
    pub fn spend(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// Whether it is a cursor of these sweeps.
    pub fn is_sound(&self, seed: u64, n: u32) -> bool {
        self.seed == seed
            && self.n == n
            && self.position as usize <= n as usize + self.deferred.len()
            && self.deferred.iter().all(|&id| id < n)
            && self.spent <= self.offered
    }

    /// Draws up to `count` candidates for `draft`, at least one, all of one sweep, none of them in
    /// the draft. `costs` (`[n]`) is what each instance costs.
    ///
    /// The draft must hold fewer than `n` instances.
    pub fn draw(&mut self, count: usize, draft: &mut Draft, costs: &[u64]) -> Drawn {
        let mut ids = Vec::with_capacity(count);
        let mut taken = self.taken(draft);
        while ids.len() < count {
            let deferred = self.position.checked_sub(self.n).map(|i| i as usize);
            let id = match deferred {
                None => permute(self.seed, self.sweep, self.n, self.position),
                Some(i) if i < self.deferred.len() => self.deferred[i],
                Some(_) if !ids.is_empty() => break,
                Some(_) => {
                    self.sweep += 1;
                    self.position = 0;
                    self.deferred.clear();
                    taken = self.taken(draft);
                    continue;
                }
            };
            self.position += 1;
            if !taken.contains(&id) {
                ids.push(id);
            } else if deferred.is_none() {
                self.deferred.push(id);
            }
        }
        draft.sweep.get_or_insert(self.sweep);
        let cost = ids.iter().map(|&id| costs[id as usize]).sum::<u64>();
        draft.candidates += ids.len() as u64;
        draft.offered += cost;
        let first = self.drawn;
        self.drawn += ids.len() as u64;
        self.offered += cost;
        Drawn {
            first,
            sweep: self.sweep,
            ids,
        }
    }

    /// What the present sweep must not offer to the draft: its instances, if any are from a sweep
    /// before.
    fn taken(&self, draft: &Draft) -> HashSet<u32> {
        match draft.sweep {
            Some(sweep) if sweep != self.sweep => draft.ids.iter().copied().collect(),
            _ => HashSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]
        #[test]
        fn every_sweep_is_a_permutation(seed: u64, sweep: u64, n in 1u32..600) {
            let mut seen: Vec<u32> = (0..n).map(|i| permute(seed, sweep, n, i)).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..n));
        }
    }

    #[test]
    fn places_are_uniform_and_sweeps_differ() {
        // Each instance's place over 4000 sweeps of 10: every (instance, place) pair has 400 ± 20
        // hits.
        let mut hits = [[0i32; 10]; 10];
        for sweep in 0..4000 {
            for place in 0..10 {
                hits[permute(3, sweep, 10, place) as usize][place as usize] += 1;
            }
        }
        assert!(
            hits.iter().flatten().all(|h| (h - 400).abs() < 100),
            "{hits:?}"
        );
        let order = |sweep| {
            (0..1000)
                .map(|i| permute(3, sweep, 1000, i))
                .collect::<Vec<_>>()
        };
        let same = order(0)
            .iter()
            .zip(order(1))
            .filter(|(a, b)| **a == *b)
            .count();
        assert!(same < 10, "{same}");
    }

    /// Takes whole batches and returns them.
    fn batches(n: u32, batch: usize, count: usize) -> Vec<Vec<u32>> {
        let (mut sweeps, costs) = (Sweeps::new(5, n), vec![1; n as usize]);
        (0..count)
            .map(|_| {
                let mut draft = Draft::new(batch);
                while draft.ids.len() < batch {
                    let drawn = sweeps.draw(batch - draft.ids.len(), &mut draft, &costs);
                    draft.ids.extend(drawn.ids);
                }
                draft.ids
            })
            .collect()
    }

    #[test]
    fn full_batches_hold_no_instance_twice_and_visits_stay_even() {
        for (n, batch) in [(100, 32), (33, 32), (64, 32), (32, 32), (1, 1), (45, 32)] {
            let count = 40 * n as usize / batch;
            let mut visits = vec![0i32; n as usize];
            for ids in batches(n, batch, count) {
                assert_eq!(ids.len(), batch);
                assert_eq!(
                    ids.iter().collect::<HashSet<_>>().len(),
                    batch,
                    "{n} {batch}"
                );
                ids.iter().for_each(|&id| visits[id as usize] += 1);
            }
            let (least, most) = (visits.iter().min().unwrap(), visits.iter().max().unwrap());
            let slack = if n as usize >= 2 * batch { 1 } else { 9 };
            assert!(most - least <= slack, "{n} {batch}: {least}..{most}");
        }
    }

    #[test]
    fn costs_are_those_of_the_candidates() {
        let (mut sweeps, costs) = (Sweeps::new(5, 4), [1, 20, 300, 4000]);
        let mut draft = Draft::new(3);
        let first = sweeps.draw(3, &mut draft, &costs);
        let cost = |ids: &[u32]| ids.iter().map(|&id| costs[id as usize]).sum::<u64>();
        assert_eq!(draft.offered, cost(&first.ids));
        assert!(sweeps.is_sound(5, 4));
        sweeps.spend(7);
        sweeps.draw(1, &mut draft, &costs);
        assert_eq!(
            (draft.offered, sweeps.offered(), sweeps.spent()),
            (4321, 4321, 7)
        );
    }

    #[test]
    fn a_sweep_over_many_batches_offers_each_instance_exactly_once() {
        // 97 and 16 have no common divisor, so every sweep begins in the middle of a batch.
        let all: Vec<u32> = batches(97, 16, 97).concat();
        let mut visits = vec![0; 97];
        all.iter().for_each(|&id| visits[id as usize] += 1);
        assert!(visits.iter().all(|&v| v == 16), "{visits:?}");
    }
}
