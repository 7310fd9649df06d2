//! Steps 2 and 3: implicit GEMM in tiles, on FMA units or on tensor cores. Both cut the work into
//! the same tiles of pixels and leave the same partial sums.

use super::parts::{chunks, combine_moments};
use super::{Read, Shape, activation, count, gradient, int};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{BatchNorm, Load, Tensor};

/// `PIXELS` of kernels/include/conv.cuh: pixels of a tile of the forward pass or of the input
/// gradient.
pub(super) const PIXELS: usize = 128;

/// Pixels that are worth a block, and the writing and reading of its partial sum.
const LEAST_CHUNK: usize = 256;

/// A tile's width in channels: the smallest that holds them all, or the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    W16,
    W32,
    W64,
}

impl Width {
    fn of(channels: usize) -> Width {
        match channels {
            ..=16 => Width::W16,
            17..=32 => Width::W32,
            33.. => Width::W64,
        }
    }

    fn channels(self) -> usize {
        match self {
            Width::W16 => 16,
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }

    /// Tiles that cover so many channels.
    fn tiles(self, channels: usize) -> u32 {
        count(channels.div_ceil(self.channels()))
    }
}

/// One of the two steps: its kernels, and what depends on the tile's width in channels.
#[derive(Debug)]
pub(super) struct Tiles {
    pub(super) fprop: [&'static str; 3],
    pub(super) dgrad: [&'static str; 3],
    pub(super) wgrad: [&'static str; 3],
    /// Threads of a block of the forward pass and the input gradient.
    pub(super) threads: [u32; 3],
    pub(super) wgrad_threads: [u32; 3],
    /// Blocks of the weights' gradient that a multiprocessor has the registers for.
    wgrad_blocks: [u32; 3],
    /// Weights of one output channel in a tile of the weights' gradient.
    pub(super) weights: [usize; 3],
    /// What a block adds up in a step.
    pub(super) depth: usize,
}

/// `kernels/conv_*/2_tiles.cu`.
pub(super) static FMA: Tiles = Tiles {
    fprop: ["conv_fprop_16", "conv_fprop_32", "conv_fprop_64"],
    dgrad: ["conv_dgrad_16", "conv_dgrad_32", "conv_dgrad_64"],
    wgrad: ["conv_wgrad_16", "conv_wgrad_32", "conv_wgrad_64"],
    threads: [64, 128, 256],
    wgrad_threads: [64, 128, 256],
    wgrad_blocks: [8, 5, 2],
    weights: [64; 3],
    depth: 16,
};

/// `kernels/conv_*/3_tensor_cores.cu`.
pub(super) static TENSOR_CORES: Tiles = Tiles {
    fprop: [
        "conv_fprop_mma_16",
        "conv_fprop_mma_32",
        "conv_fprop_mma_64",
    ],
    dgrad: [
        "conv_dgrad_mma_16",
        "conv_dgrad_mma_32",
        "conv_dgrad_mma_64",
    ],
    wgrad: [
        "conv_wgrad_mma_16",
        "conv_wgrad_mma_32",
        "conv_wgrad_mma_64",
    ],
    threads: [128; 3],
    wgrad_threads: [96; 3],
    wgrad_blocks: [2; 3],
    weights: [144, 144, 96],
    depth: 32,
};

impl Tiles {
    /// The highest of the two steps that may be taken.
    pub(super) fn allowed(gpu: &Gpu) -> Option<&'static Tiles> {
        let steps = [(3, &TENSOR_CORES), (2, &FMA)];
        let allowed = |(step, _): &(u32, _)| gpu.allows(Ladder::Conv, *step);
        steps.into_iter().find(allowed).map(|(_, tiles)| tiles)
    }

    /// Output pixels of a block of the weights' gradient, a multiple of the depth.
    pub(super) fn chunk(&self, gpu: &Gpu, shape: &Shape) -> usize {
        let width = Width::of(shape.co);
        let weights = self.weights[width as usize];
        let tiles = shape.taps().div_ceil(weights) * shape.co.div_ceil(width.channels());
        let device = gpu.stream.capability();
        let wave = (self.wgrad_blocks[width as usize] * device.multiprocessors) as usize;
        let pixels = shape.outputs();
        let chunks = chunks(wave, tiles, pixels.div_ceil(LEAST_CHUNK));
        pixels.div_ceil(chunks).next_multiple_of(self.depth)
    }

    pub(super) fn fprop(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        x: Load,
        w: Tensor,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        let width = Width::of(shape.co);
        let blocks = shape.outputs().div_ceil(PIXELS);
        let partial = match moments {
            Some(_) => Arg::Ptr(gpu.scratch(4 * 2 * shape.co * blocks)),
            None => Arg::NULL,
        };
        let args = [
            &activation(gpu, x)[..],
            &[gpu.address(w), gpu.address(y), partial],
            &shape.args(),
        ]
        .concat();
        let (name, threads) = (self.fprop[width as usize], self.threads[width as usize]);
        let grid = [count(blocks), width.tiles(shape.co), 1];
        gpu.launch(name, grid, threads, 0, &args);
        if let Some(bn) = moments {
            combine_moments(gpu, shape, partial, blocks, bn);
        }
    }

    pub(super) fn weight_gradient(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        Read { x, dy, .. }: Read,
        partial: Arg,
    ) {
        let width = Width::of(shape.co);
        let chunk = self.chunk(gpu, shape);
        let args = [
            &gradient(gpu, dy, shape.outputs())[..],
            &activation(gpu, x),
            &[partial, int(chunk).into()],
            &shape.args(),
        ]
        .concat();
        let (name, threads) = (
            self.wgrad[width as usize],
            self.wgrad_threads[width as usize],
        );
        let grid = [
            count(shape.outputs().div_ceil(chunk)),
            count(shape.taps().div_ceil(self.weights[width as usize])),
            width.tiles(shape.co),
        ];
        gpu.launch(name, grid, threads, 0, &args);
    }

    pub(super) fn input_gradient(&self, gpu: &mut Gpu, shape: &Shape, tiles: usize, args: &[Arg]) {
        let width = Width::of(shape.ci);
        let (name, threads) = (self.dgrad[width as usize], self.threads[width as usize]);
        let grid = [count(tiles), width.tiles(shape.ci), 1];
        gpu.launch(name, grid, threads, 0, args);
    }
}

/// Tiles of the input gradient: as many for each class of pixels (see
/// `kernels/conv_dgrad/2_tiles.cu`) as the largest has.
pub(super) fn input_tiles(shape: &Shape) -> usize {
    let stride = shape.window.stride;
    let classes = stride.min(shape.h) * stride.min(shape.w);
    let largest = shape.n * shape.h.div_ceil(stride) * shape.w.div_ceil(stride);
    classes * largest.div_ceil(PIXELS)
}
