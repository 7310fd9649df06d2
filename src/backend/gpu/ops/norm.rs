//! Launches of `kernels/bn_*`.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{BN_EPS, BN_MOMENTUM, BatchNorm, Grad, Load, Tensor};

#[cfg(all(test, simt))]
#[path = "norm_tests.rs"]
mod tests;

/// `WALKERS` of `kernels/include/vector.cuh`.
const WALKERS: usize = 256;
/// Threads of the kernels that take an element a thread, or a channel a block and no chunks.
const THREADS: usize = 256;
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
pub(crate) struct Walk {
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
    /// In chunks of `chunk` pixels, of threads with 8 channels where 8 divides all of them.
    pub(crate) fn in_chunks(x: Tensor, chunk: usize) -> Walk {
        Walk::of_vectors(x, chunk, 8)
    }

    /// In chunks of `chunk` pixels, of threads with `vector` channels or, where that does not divide
    /// all of them, with one.
    fn of_vectors(x: Tensor, chunk: usize, vector: usize) -> Walk {
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
        let whole = channels.is_multiple_of(vector);
        let vector = if whole { vector } else { 1 };
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
    fn new(gpu: &Gpu, x: Tensor, blocks: usize) -> Walk {
        let vector = if gpu.allows(Ladder::BatchNorm, 3) {
            8
        } else {
            1
        };
        let whole = Walk::of_vectors(x, 1, vector);
        // All threads of a block have equally many pixels.
        let unit = WALKERS / whole.across * LEAST_PIXELS;
        let chunks = (blocks / whole.tiles()).max(1);
        let chunk = whole.pixels.div_ceil(chunks).next_multiple_of(unit);
        Walk::of_vectors(x, chunk, vector)
    }

    fn tiles(&self) -> usize {
        (self.channels / self.vector).div_ceil(self.across)
    }

    fn chunks(&self) -> usize {
        self.pixels.div_ceil(self.chunk)
    }

    /// Launches the first of two kernels, which takes 8 channels a thread, or the second, which
    /// takes one. Their last arguments are the walk's.
    pub(crate) fn launch(&self, gpu: &mut Gpu, kernels: [&'static str; 2], args: &[Arg]) {
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

/// Pixels and channels of an activation, as arguments.
fn sizes(x: Tensor) -> [Arg; 2] {
    let walk = Walk::of_vectors(x, 1, 1);
    [walk.pixels, walk.channels].map(|size| Arg::I32(size as i32))
}

/// Launches a kernel that takes an element a thread. Its last arguments are the sizes.
fn launch_elements(gpu: &mut Gpu, kernel: &'static str, x: Tensor, args: &[Arg]) {
    let args = [args, &sizes(x)].concat();
    let blocks = x.len().div_ceil(THREADS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

/// Launches a kernel that takes a channel a block.
fn launch_sums(gpu: &mut Gpu, kernel: &'static str, x: Tensor, args: &[Arg]) {
    let grid = [x.dims[3] as u32, 1, 1];
    gpu.launch(kernel, grid, THREADS as u32, 0, args);
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
pub(crate) fn moments(gpu: &mut Gpu, x: Tensor, bn: BatchNorm) {
    let [mean, var] = vectors(gpu, x.dims[3], [bn.mean, bn.var]);
    if !gpu.allows(Ladder::BatchNorm, 2) {
        let [pixels, channels] = sizes(x);
        let x_at = gpu.address(x);
        launch_sums(gpu, "bn_mean", x, &[x_at, pixels, channels, mean]);
        launch_sums(gpu, "bn_variance", x, &[x_at, pixels, channels, mean, var]);
        return;
    }
    let walk = Walk::new(gpu, x, REDUCING);
    let partial = walk.partials(gpu);
    let args = [gpu.address(x), partial];
    walk.launch(gpu, ["bn_moments_8", "bn_moments_1"], &args);
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
pub(crate) fn bn_train(gpu: &mut Gpu, bn: BatchNorm, count: usize) {
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
pub(crate) fn bn_eval(gpu: &mut Gpu, bn: BatchNorm) {
    let channels = bn.gamma.len();
    let inputs = [bn.gamma, bn.beta, bn.running_mean, bn.running_var];
    let inputs = vectors(gpu, channels, inputs);
    let outputs = vectors(gpu, channels, [bn.scale, bn.shift]);
    let numbers = [BN_EPS.into(), Arg::I32(channels as i32)];
    let args = [&inputs[..], &numbers, &outputs].concat();
    launch_channels(gpu, "bn_eval", channels, &args);
}

/// See [`Executor::bn_apply`](crate::backend::Executor::bn_apply).
pub(crate) fn bn_apply(
    gpu: &mut Gpu,
    x: Tensor,
    bn: BatchNorm,
    residual: Option<Load>,
    relu: bool,
    y: Tensor,
) {
    let channels = x.dims[3];
    assert_eq!(y.dims, x.dims, "output of a batch norm");
    let [scale, shift] = vectors(gpu, channels, [bn.scale, bn.shift]);
    let (r, [r_scale, r_shift]) = match residual {
        None => (Arg::NULL, [Arg::NULL; 2]),
        Some(load) => {
            assert_eq!(load.x.dims, x.dims, "shortcut beside a batch norm");
            let affine = load.norm.map(|bn| [bn.scale, bn.shift]);
            let affine = affine.map(|pair| vectors(gpu, channels, pair));
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
    if !gpu.allows(Ladder::BatchNorm, 2) {
        return launch_elements(gpu, "bn_apply_elements", x, &args);
    }
    Walk::new(gpu, x, MAPPING).launch(gpu, ["bn_apply_8", "bn_apply_1"], &args);
}

/// See [`Executor::bn_backward_sums`](crate::backend::Executor::bn_backward_sums).
pub(crate) fn bn_backward_sums(
    gpu: &mut Gpu,
    g: Tensor,
    y: Option<Tensor>,
    x: Tensor,
    bn: BatchNorm,
) {
    assert!(
        g.dims == x.dims && y.is_none_or(|y| y.dims == x.dims),
        "gradient, output and input of a batch norm"
    );
    let tensors = [bn.mean, bn.invstd, bn.dgamma, bn.dbeta];
    let [mean, invstd, dgamma, dbeta] = vectors(gpu, x.dims[3], tensors);
    let [g_at, x_at] = [g, x].map(|t| gpu.address(t));
    let y = y.map(|y| gpu.address(y));
    if !gpu.allows(Ladder::BatchNorm, 2) {
        let [pixels, channels] = sizes(x);
        if let Some(y) = y {
            launch_elements(gpu, "bn_mask", x, &[g_at, y]);
        }
        launch_sums(gpu, "bn_dbeta", x, &[g_at, pixels, channels, dbeta]);
        let args = [g_at, x_at, mean, invstd, pixels, channels, dgamma];
        return launch_sums(gpu, "bn_dgamma", x, &args);
    }
    let walk = Walk::new(gpu, x, REDUCING);
    let partial = walk.partials(gpu);
    let args = [g_at, y.unwrap_or(Arg::NULL), x_at, mean, partial];
    walk.launch(gpu, ["bn_backward_sums_8", "bn_backward_sums_1"], &args);
    let chunks = Arg::I32(walk.chunks() as i32);
    let args = [partial, chunks, invstd, dgamma, dbeta];
    let grid = [walk.channels as u32, 1, 1];
    gpu.launch("bn_backward_sums_finish", grid, CHANNEL_THREADS, 0, &args);
}

/// See [`Executor::bn_backward`](crate::backend::Executor::bn_backward).
pub(crate) fn bn_backward(gpu: &mut Gpu, dy: Grad, dx: Tensor) {
    let (bn, y) = dy.norm.expect("there is a batch norm to pass back through");
    assert_eq!(
        [dy.g.dims, dx.dims],
        [y.dims; 2],
        "gradients of a batch norm"
    );
    let tensors = [bn.mean, bn.invstd, bn.scale, bn.dgamma, bn.dbeta];
    let channels = y.dims[3];
    let vectors = vectors(gpu, channels, tensors);
    let inverse = (1.0 / (y.len() / channels) as f64) as f32;
    let args = [
        &[gpu.address(dy.g), gpu.address(y)],
        &vectors[..],
        &[inverse.into(), gpu.address(dx)],
    ]
    .concat();
    if !gpu.allows(Ladder::BatchNorm, 2) {
        return launch_elements(gpu, "bn_backward_elements", y, &args);
    }
    Walk::new(gpu, y, MAPPING).launch(gpu, ["bn_backward_8", "bn_backward_1"], &args);
}
