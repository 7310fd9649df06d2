//! The weights' gradient on tiles: sums over the pixels of two images at once.
//!
//! `dw[o, tap, c] = Σ dy[pixel, o]·x[pixel + tap, c]`: a tile of `A` is 16 output channels by 16 neighbouring
//! pixels of a pair of images, which is `dy` transposed, and a tile of `B` 16 pixels of the pair by 16
//! input channels, which is how the scratch image lies, at any tap. A block has two of the former
//! and three of the latter, six sums, and goes through all pixels there are.

use half::bf16;
use rayon::prelude::*;

use super::super::shape::ConvShape;
use super::super::wgrad::add_up;
use super::fill::Pairs;
use super::layout::Layout;
use crate::backend::cpu::simd::{Isa, LANES};
use crate::backend::cpu::tiles::{Operand, SIDE, Step, Tiles};

/// Numbers of a tile of sums.
const SUMS: usize = SIDE * SIDE;

/// Sixteen input channels at one tap: a column of tiles.
struct Column {
    /// Pixels from an output's first to the tap's in the scratch image.
    at: usize,
    /// Element of an output's weights where they belong, and how many there are.
    weights: usize,
    lanes: usize,
}

/// Tiles of sums that are in registers together.
struct Block {
    /// The first block of 16 output channels, and how many.
    output: usize,
    outputs: usize,
    /// The first column, and how many.
    column: usize,
    columns: usize,
    /// The first of its numbers in a partial sum: `[outputs][columns][16 outputs][16 channels]`.
    at: usize,
}

/// How the weights' gradient of a shape is computed.
pub(super) struct WeightGrad {
    columns: Vec<Column>,
    blocks: Vec<Block>,
    /// Weights of an output.
    weights: usize,
    outputs: usize,
}

impl WeightGrad {
    /// For a scratch image of pairs; `kernel` is that of the convolution on it.
    pub fn new(shape: &ConvShape, layout: &Layout, kernel: usize) -> WeightGrad {
        let weights = shape.weights() / shape.co;
        let mut columns = Vec::new();
        for vector in 0..layout.channels.div_ceil(LANES) {
            for tap in 0..kernel * kernel {
                let (a, b) = (tap / kernel, tap % kernel);
                let first = tap * layout.channels + vector * LANES;
                // Of a window that was made one pixel, the last numbers are no weights.
                let end = (layout.channels - vector * LANES).min(weights.saturating_sub(first));
                if end == 0 {
                    continue;
                }
                columns.push(Column {
                    at: vector * layout.block() + a * layout.row() + layout.column(b),
                    weights: first,
                    lanes: end.min(LANES),
                });
            }
        }
        let (mut blocks, mut at) = (Vec::new(), 0);
        let all = shape.co.div_ceil(SIDE);
        for output in (0..all).step_by(2) {
            let outputs = (all - output).min(2);
            for column in (0..columns.len()).step_by(3) {
                let count = (columns.len() - column).min(3);
                blocks.push(Block {
                    output,
                    outputs,
                    column,
                    columns: count,
                    at,
                });
                at += outputs * count * SUMS;
            }
        }
        WeightGrad {
            columns,
            blocks,
            weights,
            outputs: shape.co,
        }
    }

    /// Numbers of a partial sum.
    pub fn len(&self) -> usize {
        self.columns.len() * self.outputs.div_ceil(SIDE) * SUMS
    }

    /// Adds the steps' products to a partial sum, or sets it if these are its `first`. `transposed` has
    /// the `A` tiles, those of a block of output channels `apart` numbers from those of the one before.
    ///
    /// # Safety
    /// All that steps reach from the tiles and from the columns' pixels must be in the two slices.
    pub unsafe fn add(
        &self,
        unit: &Tiles,
        (transposed, apart): (&[f32], usize),
        pairs: &[Pairs],
        steps: &[Step],
        dw: &mut [f32],
        first: bool,
    ) {
        for block in &self.blocks {
            // SAFETY: the caller's.
            unsafe {
                let sums = |m: usize, n: usize| (block.outputs, block.columns) == (m, n);
                let (a, b) = (
                    transposed.as_ptr().wrapping_add(block.output * apart),
                    pairs,
                );
                if sums(2, 3) {
                    self.block::<2, 3>(unit, block, (a, apart), b, steps, dw, first);
                } else if sums(2, 2) {
                    self.block::<2, 2>(unit, block, (a, apart), b, steps, dw, first);
                } else if sums(2, 1) {
                    self.block::<2, 1>(unit, block, (a, apart), b, steps, dw, first);
                } else if sums(1, 3) {
                    self.block::<1, 3>(unit, block, (a, apart), b, steps, dw, first);
                } else if sums(1, 2) {
                    self.block::<1, 2>(unit, block, (a, apart), b, steps, dw, first);
                } else {
                    self.block::<1, 1>(unit, block, (a, apart), b, steps, dw, first);
                }
            }
        }
    }

    /// # Safety
    /// That of [`add`](WeightGrad::add).
    #[allow(clippy::too_many_arguments, reason = "one call for each size of block")]
    unsafe fn block<const M: usize, const N: usize>(
        &self,
        unit: &Tiles,
        block: &Block,
        (a, apart): (*const f32, usize),
        pairs: &[Pairs],
        steps: &[Step],
        dw: &mut [f32],
        first: bool,
    ) {
        let row = size_of::<Pairs>();
        let mut left = Operand {
            start: [std::ptr::null::<bf16>(); M],
            row,
        };
        for (i, start) in left.start.iter_mut().enumerate() {
            *start = a.wrapping_add(i * apart).cast();
        }
        let mut right = Operand {
            start: [std::ptr::null::<bf16>(); N],
            row,
        };
        for (start, column) in right.start.iter_mut().zip(&self.columns[block.column..]) {
            *start = pairs.as_ptr().wrapping_add(column.at).cast();
        }
        let sums = dw[block.at..][..M * N * SUMS].as_chunks_mut::<SUMS>().0;
        // SAFETY: the caller's.
        unsafe { unit.begin(&left, &right, steps, sums, !first) };
        unit.end(sums);
    }

    /// `dw = Σ partials` in order, as KRSC. Overwrites the partials.
    pub fn reduce(&self, isa: Isa, partials: &mut [f32], dw: &mut [f32]) {
        let sum = add_up(isa, partials, self.len());
        dw.par_chunks_mut(self.weights)
            .enumerate()
            .for_each(|(o, dw)| {
                let (output, row) = (o / SIDE, o % SIDE);
                let blocks = self.blocks.iter();
                for block in blocks.filter(|b| b.output <= output && output < b.output + b.outputs)
                {
                    for j in 0..block.columns {
                        let column = &self.columns[block.column + j];
                        let tile = (output - block.output) * block.columns + j;
                        let from = &sum[block.at + tile * SUMS + row * SIDE..][..column.lanes];
                        dw[column.weights..][..column.lanes].copy_from_slice(from);
                    }
                }
            });
    }
}
