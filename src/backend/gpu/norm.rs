//! Launches of `kernels/batch_norm`.

use super::Gpu;
use super::driver::Arg;
use crate::backend::{BN_EPS, BN_MOMENTUM, BatchNorm, Grad, Load, Tensor};

#[cfg(all(test, simt))]
#[path = "norm_tests.rs"]
mod tests;

/// `WALKERS` of `kernels/include/vector.cuh`.
const WALKERS: usize = 256;
/// Channels of a tile, about: 256 bytes of a pixel.
const TILE: usize = 128;
/// Threads of the kernels that take a channel a thread, or a channel a block.
const CHANNEL_THREADS: u32 = 128;
/// Pixels that a thread should have, so that its loads are in flight together.
const LEAST_PIXELS: usize = 4;
/// Blocks of a pass that reduces: enough to fill any GPU; each leaves a partial result.
const REDUCING: usize = 1024;
/// Blocks of a pass that does not.
const MAPPING: usize = 4096;

/// How blocks walk over an activation `[.., C]`: `Walk` of `kernels/include/vector.cuh`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pixels: usize,
    channels: usize,
    /// Channels of a thread.
    vector: usize,
    /// Threads side by side.
    across: usize,
    /// Pixels of a block.
    chunk: usize,
}

impl Walk {
    /// In chunks of `chunk` pixels.
    pub(super) fn in_chunks(x: Tensor, chunk: usize) -> Walk {
        let channels = x.dims[3];
        assert!(!x.is_empty(), "a tensor of {:?}", x.dims);
        let pixels = x.len() / channels;
        // The kernels count in 32 bits, and up to a chunk past the last pixel.
        let limit = i32::MAX as usize / 2;
        assert!(
            pixels.max(channels) <= limit && chunk <= limit,
            "{:?}",
            x.dims
        );
        let vector = if channels.is_multiple_of(8) { 8 } else { 1 };
        let vectors = channels / vector;
        let across = vectors.div_ceil(channels.div_ceil(TILE));
        Walk {
            pixels,
            channels,
            vector,
            across,
            chunk,
        }
    }

    /// In `blocks` blocks, or fewer where there is too little to do.
    fn new(x: Tensor, blocks: usize) -> Walk {
        let whole = Walk::in_chunks(x, 1);
        // All threads of a block have equally many pixels.
        let unit = WALKERS / whole.across * LEAST_PIXELS;
        let chunks = (blocks / whole.tiles()).max(1);
        let chunk = whole.pixels.div_ceil(chunks).next_multiple_of(unit);
        Walk::in_chunks(x, chunk)
    }

    fn tiles(&self) -> usize {
        (self.channels / self.vector).div_ceil(self.across)
    }

    fn chunks(&self) -> usize {
        self.pixels.div_ceil(self.chunk)
    }

    /// Launches the first of two kernels, which takes 8 channels a thread, or the second, which
    /// takes one. Their last arguments are the walk's.
    pub(super) fn launch(&self, gpu: &mut Gpu, kernels: [&'static str; 2], args: &[Arg]) {
        let Walk {
            pixels,
            channels,
            vector,
            across,
            chunk,
        } = *self;
        let walk = [pixels, channels, across, chunk].map(|size| Arg::I32(size as i32));
        let grid = [self.chunks() as u32, self.tiles() as u32, 1];
        let kernel = kernels[usize::from(vector == 1)];
        gpu.launch(kernel, grid, WALKERS as u32, 0, &[args, &walk].concat());
    }

    /// Room for two floats a channel of every chunk.
    fn partials(&self, gpu: &mut Gpu) -> Arg {
        Arg::Ptr(gpu.scratch(8 * self.channels * self.chunks()))
    }
}

fn flag(on: bool) -> Arg {
    Arg::I32(i32::from(on))
}

/// The vectors of a batch norm over `channels` channels that an op uses.
fn vectors<const N: usize>(gpu: &Gpu, channels: usize, tensors: [Tensor; N]) -> [Arg; N] {
    tensors.map(|t| {
        assert_eq!(t.len(), channels, "one value a channel");
        gpu.address(t)
    })
}

/// See [`Executor::moments`](crate::backend::Executor::moments).
pub(super) fn moments(gpu: &mut Gpu, x: Tensor, bn: BatchNorm) {
    let walk = Walk::new(x, REDUCING);
    let partial = walk.partials(gpu);
    let args = [gpu.address(x), partial];
    walk.launch(gpu, ["bn_moments_8", "bn_moments_1"], &args);
    let [mean, var] = vectors(gpu, walk.channels, [bn.mean, bn.var]);
    let sizes = [walk.pixels, walk.chunk, walk.chunks()].map(|size| Arg::I32(size as i32));
    let args = [&[partial], &sizes[..], &[mean, var]].concat();
    let grid = [walk.channels as u32, 1, 1];
    gpu.launch("bn_moments_finish", grid, CHANNEL_THREADS, 0, &args);
}

/// Launches a kernel that takes a channel a thread.
fn launch_channels(gpu: &mut Gpu, kernel: &'static str, channels: usize, args: &[Arg]) {
    let blocks = (channels as u32).div_ceil(CHANNEL_THREADS);
    gpu.launch(kernel, [blocks, 1, 1], CHANNEL_THREADS, 0, args);
}

/// See [`Executor::bn_train`](crate::backend::Executor::bn_train).
pub(super) fn bn_train(gpu: &mut Gpu, bn: BatchNorm, count: usize) {
    let channels = bn.gamma.len();
    // One element has no unbiased variance; the biased one, 0, stands in for it.
    let unbias = count as f32 / (count.max(2) - 1) as f32;
    let inputs = vectors(gpu, channels, [bn.gamma, bn.beta, bn.mean, bn.var]);
    let numbers = [BN_EPS.into(), BN_MOMENTUM.into(), unbias.into()];
    let outputs = [
        bn.invstd,
        bn.scale,
        bn.shift,
        bn.running_mean,
        bn.running_var,
    ];
    let outputs = vectors(gpu, channels, outputs);
    let args = [
        &inputs[..],
        &numbers,
        &[Arg::I32(channels as i32)],
        &outputs,
    ]
    .concat();
    launch_channels(gpu, "bn_train", channels, &args);
}

/// See [`Executor::bn_eval`](crate::backend::Executor::bn_eval).
pub(super) fn bn_eval(gpu: &mut Gpu, bn: BatchNorm) {
    let channels = bn.gamma.len();
    let inputs = [bn.gamma, bn.beta, bn.running_mean, bn.running_var];
    let inputs = vectors(gpu, channels, inputs);
    let outputs = vectors(gpu, channels, [bn.scale, bn.shift]);
    let numbers = [BN_EPS.into(), Arg::I32(channels as i32)];
    let args = [&inputs[..], &numbers, &outputs].concat();
    launch_channels(gpu, "bn_eval", channels, &args);
}

/// See [`Executor::bn_apply`](crate::backend::Executor::bn_apply).
pub(super) fn bn_apply(
    gpu: &mut Gpu,
    x: Tensor,
    bn: BatchNorm,
    residual: Option<Load>,
    relu: bool,
    y: Tensor,
) {
    let walk = Walk::new(x, MAPPING);
    assert_eq!(y.dims, x.dims, "output of a batch norm");
    let [scale, shift] = vectors(gpu, walk.channels, [bn.scale, bn.shift]);
    let (r, [r_scale, r_shift]) = match residual {
        None => (Arg::NULL, [Arg::NULL; 2]),
        Some(load) => {
            assert_eq!(load.x.dims, x.dims, "shortcut beside a batch norm");
            let affine = load.norm.map(|bn| [bn.scale, bn.shift]);
            let affine = affine.map(|pair| vectors(gpu, walk.channels, pair));
            (gpu.address(load.x), affine.unwrap_or([Arg::NULL; 2]))
        }
    };
    let args = [
        gpu.address(x),
        scale,
        shift,
        r,
        r_scale,
        r_shift,
        flag(residual.is_some_and(|load| load.relu)),
        flag(relu),
        gpu.address(y),
    ];
    walk.launch(gpu, ["bn_apply_8", "bn_apply_1"], &args);
}

/// See [`Executor::bn_backward_sums`](crate::backend::Executor::bn_backward_sums).
pub(super) fn bn_backward_sums(
    gpu: &mut Gpu,
    g: Tensor,
    y: Option<Tensor>,
    x: Tensor,
    bn: BatchNorm,
) {
    let walk = Walk::new(x, REDUCING);
    assert!(
        g.dims == x.dims && y.is_none_or(|y| y.dims == x.dims),
        "gradient, output and input of a batch norm"
    );
    let tensors = [bn.mean, bn.invstd, bn.dgamma, bn.dbeta];
    let [mean, invstd, dgamma, dbeta] = vectors(gpu, walk.channels, tensors);
    let partial = walk.partials(gpu);
    let args = [
        gpu.address(g),
        y.map_or(Arg::NULL, |y| gpu.address(y)),
        gpu.address(x),
        mean,
        partial,
    ];
    walk.launch(gpu, ["bn_backward_sums_8", "bn_backward_sums_1"], &args);
    let chunks = Arg::I32(walk.chunks() as i32);
    let args = [partial, chunks, invstd, dgamma, dbeta];
    let grid = [walk.channels as u32, 1, 1];
    gpu.launch("bn_backward_sums_finish", grid, CHANNEL_THREADS, 0, &args);
}

/// See [`Executor::bn_backward`](crate::backend::Executor::bn_backward).
pub(super) fn bn_backward(gpu: &mut Gpu, dy: Grad, dx: Tensor) {
    let (bn, y) = dy.norm.expect("there is a batch norm to pass back through");
    let walk = Walk::new(y, MAPPING);
    assert_eq!(
        [dy.g.dims, dx.dims],
        [y.dims; 2],
        "gradients of a batch norm"
    );
    let tensors = [bn.mean, bn.invstd, bn.scale, bn.dgamma, bn.dbeta];
    let vectors = vectors(gpu, walk.channels, tensors);
    let inverse = (1.0 / walk.pixels as f64) as f32;
    let args = [
        &[gpu.address(dy.g), gpu.address(y)],
        &vectors[..],
        &[inverse.into(), gpu.address(dx)],
    ]
    .concat();
    walk.launch(gpu, ["bn_backward_8", "bn_backward_1"], &args);
}
