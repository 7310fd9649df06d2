//! Records of several ranks, without the ranks: what each would have brought lies there already.

use super::Shared;
use crate::assist::Record;
use crate::backend::gpu::Gpu;
use crate::backend::{Executor, Pass, StepInputs};
use crate::simt::{Landing, Schedule};
use crate::world::part;

const RANKS: usize = 3;
const ROWS: usize = 8;
const SLOTS: usize = 4;

/// Of a row of the whole step.
fn record(step: u64, row: usize) -> Record {
    Record {
        loss: step as f32 + row as f32 / 16.0,
        right: row.is_multiple_of(3),
    }
}

#[test]
fn all_ranks_records_and_votes_reach_the_ring_by_their_rows() {
    for schedule in [Schedule::Low, Schedule::High, Schedule::Random(3)] {
        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Late);
        let ring = gpu.create_ring(SLOTS, ROWS + 1).unwrap();
        let words = ROWS.div_ceil(RANKS) + 1;
        // Full steps and short ones, one of which leaves a rank nothing; slots come round again.
        for (step, total) in [(0, 8), (1, 7), (2, 2), (3, 8), (4, 5)] {
            let mut all = vec![u64::MAX; RANKS * words];
            for rank in 0..RANKS {
                for (i, row) in part(rank, RANKS, total).enumerate() {
                    all[rank * words + i] = record(step, row).pack(step);
                }
                let vote = Record {
                    loss: f32::from(u8::from(rank as u64 != step)),
                    right: false,
                };
                all[(rank + 1) * words - 1] = vote.pack(step);
            }
            let inputs = StepInputs {
                step,
                total: total as u32,
                ..StepInputs::default()
            };
            gpu.step(Pass::Train, inputs, &|_| ()).unwrap();
            gpu.store_of_ranks(RANKS, &all).unwrap();
            gpu.block(|driver| driver.synchronize()).unwrap();
            for row in 0..total {
                assert_eq!(ring.read(step, row), Some(record(step, row)), "row {row}");
            }
            let votes = ring.read(step, total).unwrap();
            assert_eq!(votes.loss, if step < 3 { 2.0 } else { 3.0 });
        }
    }
}

#[test]
fn a_rank_s_vote_and_records_go_where_they_are_taken_from() {
    let mut gpu = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    let shared = Shared::plan(&mut gpu, RANKS, 5);
    gpu.claim().unwrap();
    let ring = shared.ring(&gpu, 1);
    assert_eq!((ring.slots, ring.rows), (1, 5));
    assert_eq!(ring.address, shared.part(&gpu, 0) + 5 * 8);
    assert_eq!(shared.vote(&gpu, 1), (ring.address + 4 * 8).into());
}
