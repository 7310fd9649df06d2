//! Steps 2 and 3: implicit GEMM in tiles, on FMA units or on tensor cores. Both cut the work into
//! the same tiles of pixels and leave the same partial sums.

use super::{Read, Shape, activation, count, gradient, int};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{BatchNorm, InputGrad, Load, Tensor};

/// `PIXELS` of kernels/include/conv.cuh: pixels of a tile of the forward pass or of the input
/// gradient.
pub(super) const PIXELS: usize = 128;

/// Blocks of the weights' gradient to aim at: a few for every multiprocessor of any GPU.
const BLOCKS: usize = 1024;
/// Pixels that are worth a block, and the writing and reading of its partial sum.
const LEAST_CHUNK: usize = 256;
/// Threads of `conv_wgrad_add`.
const ADD_THREADS: usize = 256;

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

    /// Chunks of output pixels that blocks of the weights' gradient take, and pixels in each, a
    /// multiple of the depth.
    fn chunks(&self, shape: &Shape, width: Width) -> (usize, usize) {
        let weights = self.weights[width as usize];
        let tiles = shape.taps().div_ceil(weights) * shape.co.div_ceil(width.channels());
        let pixels = shape.outputs();
        let chunks = BLOCKS.div_ceil(tiles).min(pixels.div_ceil(LEAST_CHUNK));
        let chunk = pixels.div_ceil(chunks).next_multiple_of(self.depth);
        (pixels.div_ceil(chunk), chunk)
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
            combine_moments(gpu, shape, partial, bn);
        }
    }

    pub(super) fn backward(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        from: Read,
        dw: Tensor,
        dx: Option<InputGrad>,
    ) {
        let width = Width::of(shape.co);
        let (chunks, _) = self.chunks(shape, width);
        // One after the other, the two passes use the same scratch.
        let weight_scratch = if chunks > 1 { chunks * dw.len() } else { 0 };
        let input_scratch = match dx {
            Some(InputGrad { sums: Some(_), .. }) => 2 * shape.ci * input_tiles(shape),
            _ => 0,
        };
        let scratch = gpu.scratch(4 * weight_scratch.max(input_scratch));
        self.weight_gradient(gpu, shape, from, dw, scratch);
        if let Some(dx) = dx {
            self.input_gradient(gpu, shape, from, dx, scratch);
        }
    }

    fn weight_gradient(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        Read { x, dy, .. }: Read,
        dw: Tensor,
        scratch: u64,
    ) {
        let width = Width::of(shape.co);
        let (chunks, chunk) = self.chunks(shape, width);
        let out = gpu.address(dw);
        let partial = if chunks > 1 { Arg::Ptr(scratch) } else { out };
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
            count(chunks),
            count(shape.taps().div_ceil(self.weights[width as usize])),
            width.tiles(shape.co),
        ];
        gpu.launch(name, grid, threads, 0, &args);
        if chunks > 1 {
            add_chunks(gpu, partial, chunks, dw);
        }
    }

    fn input_gradient(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        Read { x, w, dy }: Read,
        out: InputGrad,
        scratch: u64,
    ) {
        let width = Width::of(shape.ci);
        let tiles = input_tiles(shape);
        let add = out.add.map_or(Arg::NULL, |t| gpu.address(t));
        let [raw, mean, invstd, partial] = match out.sums {
            Some((bn, raw)) => [
                gpu.address(raw),
                gpu.address(bn.mean),
                gpu.address(bn.invstd),
                Arg::Ptr(scratch),
            ],
            None => [Arg::NULL; 4],
        };
        let args = [
            &gradient(gpu, dy, shape.outputs())[..],
            &[gpu.address(w)],
            &activation(gpu, x),
            &[Arg::I32(i32::from(out.relu)), add, gpu.address(out.dx)],
            &[raw, mean, invstd, partial],
            &shape.args(),
        ]
        .concat();
        let (name, threads) = (self.dgrad[width as usize], self.threads[width as usize]);
        let grid = [count(tiles), width.tiles(shape.ci), 1];
        gpu.launch(name, grid, threads, 0, &args);
        if let Some((bn, _)) = out.sums {
            combine_sums(gpu, partial, tiles, shape.ci, bn);
        }
    }
}

/// Tiles of the input gradient: as many for each class of pixels (see
/// `kernels/conv_dgrad/2_tiles.cu`) as the largest has.
fn input_tiles(shape: &Shape) -> usize {
    let stride = shape.window.stride;
    let classes = stride.min(shape.h) * stride.min(shape.w);
    let largest = shape.n * shape.h.div_ceil(stride) * shape.w.div_ceil(stride);
    classes * largest.div_ceil(PIXELS)
}

/// Mean and variance from the partial ones of each tile.
pub(super) fn combine_moments(gpu: &mut Gpu, shape: &Shape, partial: Arg, bn: BatchNorm) {
    let args = [
        partial,
        int(shape.outputs().div_ceil(PIXELS)).into(),
        int(shape.outputs()).into(),
        int(shape.co).into(),
        gpu.address(bn.mean),
        gpu.address(bn.var),
    ];
    gpu.launch("conv_moments", [count(shape.co), 1, 1], 32, 0, &args);
}

/// `dbeta` and `dgamma` from the partial ones of each tile.
pub(super) fn combine_sums(gpu: &mut Gpu, partial: Arg, tiles: usize, ci: usize, bn: BatchNorm) {
    let args = [
        partial,
        int(tiles).into(),
        int(ci).into(),
        gpu.address(bn.dgamma),
        gpu.address(bn.dbeta),
    ];
    gpu.launch("conv_dgrad_sums", [count(ci), 1, 1], 32, 0, &args);
}

/// The weights' gradient from those of chunks of the pixels.
pub(super) fn add_chunks(gpu: &mut Gpu, partial: Arg, chunks: usize, dw: Tensor) {
    // With few elements and many chunks, threads share an element's.
    let slices = if chunks >= 32 { 8 } else { 1 };
    let args = [
        partial,
        int(chunks).into(),
        int(slices).into(),
        int(dw.len()).into(),
        gpu.address(dw),
    ];
    let blocks = dw.len().div_ceil(ADD_THREADS / slices);
    let grid = [count(blocks), 1, 1];
    gpu.launch("conv_wgrad_add", grid, ADD_THREADS as u32, 0, &args);
}
