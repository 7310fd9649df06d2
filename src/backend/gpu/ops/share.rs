//! Launches of what ranks share: collective calls, and the kernel of `kernels/share` behind them.

use crate::backend::gpu::arena::Purpose;
use crate::backend::gpu::driver::{ALL_GATHER, ALL_REDUCE, Arg};
use crate::backend::gpu::{Gpu, RingBuffer};
use crate::backend::{DeviceError, Executor, Tensor};
use crate::world::world;

#[cfg(all(test, simt))]
#[path = "share_tests.rs"]
mod tests;

/// Threads of a block, which has a rank's rows.
const THREADS: u32 = 128;

/// Records of all ranks in device memory, an equal part of each: its rows', and its vote.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    block: usize,
    ranks: usize,
    words: usize,
}

impl Shared {
    /// Of `ranks` parts of `words` records each.
    pub(crate) fn plan(gpu: &mut Gpu, ranks: usize, words: usize) -> Shared {
        let block = gpu.arena.plan(Purpose::Steps, 8 * ranks * words);
        Shared {
            block,
            ranks,
            words,
        }
    }

    /// Where a rank's part begins.
    fn part(&self, gpu: &Gpu, rank: usize) -> u64 {
        gpu.arena.address(self.block) + (8 * rank * self.words) as u64
    }

    /// A rank's part as the loss kernel takes it: a ring of one step.
    pub(crate) fn ring(&self, gpu: &Gpu, rank: usize) -> RingBuffer {
        RingBuffer {
            address: self.part(gpu, rank),
            slots: 1,
            rows: self.words as u32,
        }
    }

    /// Where a rank's vote is.
    pub(crate) fn vote(&self, gpu: &Gpu, rank: usize) -> Arg {
        Arg::Ptr(self.part(gpu, rank + 1) - 8)
    }
}

/// See [`Executor::all_reduce`](crate::backend::Executor::all_reduce).
pub(crate) fn all_reduce(gpu: &mut Gpu, t: Tensor) {
    let args = [gpu.address(t), Arg::U64(t.len() as u64)];
    gpu.launch(ALL_REDUCE, [1; 3], 1, 0, &args);
}

/// See [`Executor::share_results`](crate::backend::Executor::share_results).
pub(crate) fn share_results(gpu: &mut Gpu) {
    let shared = gpu.shared.expect("a ring is made before losses are shared");
    let all = Arg::Ptr(shared.part(gpu, 0));
    let args = [all, Arg::U64((world().size() * shared.words) as u64)];
    gpu.launch(ALL_GATHER, [1; 3], 1, 0, &args);
    store(gpu, shared);
}

impl Gpu {
    /// Stores in the ring what so many ranks would have brought, for who has none.
    ///
    /// # Errors
    /// No memory, or a failure of the device.
    #[cfg_attr(not(simt), expect(dead_code, reason = "for the checker and its cases"))]
    pub(crate) fn store_of_ranks(&mut self, ranks: usize, all: &[u64]) -> Result<(), DeviceError> {
        let shared = Shared::plan(self, ranks, all.len() / ranks);
        self.claim()?;
        let at = shared.part(self, 0);
        self.block(|driver| driver.upload(at, bytemuck::cast_slice(all)))?;
        self.op(|gpu| store(gpu, shared));
        self.check()
    }
}

/// Stores all ranks' records in the ring.
fn store(gpu: &mut Gpu, shared: Shared) {
    let ring = gpu.ring.as_ref().expect("it is made with what is shared");
    let ring = [
        Arg::Ptr(ring.device),
        Arg::U32(ring.host.slots() as u32),
        Arg::U32(ring.host.rows() as u32),
    ];
    let (all, words) = (shared.part(gpu, 0), Arg::U32(shared.words as u32));
    let args = [&[gpu.state(), Arg::Ptr(all), words], &ring[..]].concat();
    let grid = [shared.ranks as u32, 1, 1];
    gpu.launch("share_records", grid, THREADS, 0, &args);
}
