//! How a product is cut up: sizes of panels and blocks, which tiles, packing and tasks agree on.

use std::ops::Range;

use rayon::prelude::*;

use crate::backend::cpu::simd::LANES;

/// Most steps of `k` between two visits to an element of `C`: 14 rows of `A` in 14 KiB, which with
/// the two panels of `B` that come and go leave room in an L1 of 48 KiB.
pub(super) const KC: usize = 256;

/// Columns of a panel of `B`: two vectors.
pub(super) const PANEL: usize = 32;

/// Rows of a tile at most, on any instruction set.
pub(super) const MOST_ROWS: usize = 14;

/// Floats between rows of a panel of `A` that lies by rows: an odd number of cache lines.
pub(super) const A_ROW: usize = KC + LANES;

/// Floats between steps of `k` of a panel of `A` that lies by steps.
pub(super) const A_STEP: usize = MOST_ROWS;

/// The blocks of `k`.
pub(super) struct Depth {
    pub k: usize,
    pub blocks: usize,
}

impl Depth {
    pub fn new(k: usize) -> Depth {
        // Without steps there still is one visit, for what is not a sum.
        let blocks = k.div_ceil(KC).max(1);
        Depth { k, blocks }
    }

    /// Block `i`.
    pub fn block(&self, i: usize) -> Range<usize> {
        part(self.k, self.blocks, i)
    }
}

/// Part `i` of `count` even ones of `0..len`.
pub(super) fn part(len: usize, count: usize, i: usize) -> Range<usize> {
    len * i / count..len * (i + 1) / count
}

/// Calls `f` with each task, on this thread if there is one only or they are small.
pub(super) fn each<T: Send>(tasks: Vec<T>, small: bool, f: impl Fn(T) + Send + Sync) {
    if small || tasks.len() == 1 {
        tasks.into_iter().for_each(f);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(f);
    }
}
