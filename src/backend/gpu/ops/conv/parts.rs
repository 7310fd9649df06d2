//! What blocks leave for others to add up: gradients of weights, moments, sums.

use super::{Shape, count, int};
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Arg;
use crate::backend::{BatchNorm, Tensor};

/// Threads of a channel of `conv_moments`.
pub(super) const MERGERS: u32 = 128;
/// Threads of `conv_backward_finish`.
pub(super) const ADDERS: usize = 256;
/// Chunks that one of its threads adds up, about.
const ADDED: usize = 16;

/// Chunks of the pixels for blocks that have one of so many tiles of a weights' gradient, at most
/// `most`: the device runs them all in one wave of so many blocks, or, where the tiles would leave
/// much of that empty, in four.
pub(super) fn chunks(wave: usize, tiles: usize, most: usize) -> usize {
    let blocks = if 8 * tiles <= wave { wave } else { 4 * wave };
    (blocks / tiles).clamp(1, most)
}

/// Mean and variance from the partial ones of so many blocks.
pub(super) fn combine_moments(
    gpu: &mut Gpu,
    shape: &Shape,
    partial: Arg,
    blocks: usize,
    bn: BatchNorm,
) {
    let args = [
        partial,
        int(blocks).into(),
        int(shape.outputs()).into(),
        int(shape.co).into(),
        gpu.address(bn.mean),
        gpu.address(bn.var),
    ];
    gpu.launch("conv_moments", [count(shape.co), 1, 1], MERGERS, 0, &args);
}

/// Adds up what the blocks of a backward pass have left: gradients of the weights, of so many chunks
/// of the pixels, and the sums of so many tiles for `dbeta` and `dgamma`.
pub(super) fn finish(
    gpu: &mut Gpu,
    weights: Option<(Arg, usize, Tensor)>,
    sums: Option<(Arg, usize, BatchNorm)>,
) {
    if weights.is_none() && sums.is_none() {
        return;
    }
    let (parts, chunks, len, dw) = match weights {
        Some((parts, chunks, dw)) => (parts, chunks, dw.len(), gpu.address(dw)),
        None => (Arg::NULL, 0, 0, Arg::NULL),
    };
    let (sum_parts, tiles, channels, outputs) = match sums {
        Some((parts, tiles, bn)) => {
            let outputs = [bn.dgamma, bn.dbeta].map(|t| gpu.address(t));
            (parts, tiles, bn.dgamma.len(), outputs)
        }
        None => (Arg::NULL, 0, 0, [Arg::NULL; 2]),
    };
    let slices = chunks.div_ceil(ADDED).next_power_of_two().min(32);
    let [chunks, slices_arg, len_arg] = [chunks, slices, len].map(|size| int(size).into());
    let [tiles, channels_arg] = [tiles, channels].map(|size| int(size).into());
    let args = [
        &[parts, chunks, slices_arg, len_arg, dw][..],
        &[sum_parts, tiles, channels_arg],
        &outputs,
    ]
    .concat();
    let blocks = channels + len.div_ceil(ADDERS / slices);
    let grid = [count(blocks), 1, 1];
    gpu.launch("conv_backward_finish", grid, ADDERS as u32, 0, &args);
}
