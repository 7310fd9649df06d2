//! Launches of `kernels/adam` and `kernels/clip_scale`.

use crate::backend::Tensor;
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::Adam;

#[cfg(all(test, simt))]
#[path = "adam_tests.rs"]
mod tests;

const THREADS: usize = 256;
/// Gradients of which a block adds up the squares.
const CHUNK: usize = 16384;
/// Blocks that stay on a multiprocessor.
const STAYING: usize = 8;

/// The kernels count in 32 bits, and read vectors.
fn check(gpu: &Gpu, tensors: &[Tensor]) -> usize {
    let n = tensors[0].len();
    assert!(n <= i32::MAX as usize, "{n} parameters");
    for t in tensors {
        assert_eq!(t.len(), n, "one a parameter");
        assert!(gpu.locate(*t).is_multiple_of(16), "a buffer of its own");
    }
    n
}

/// See [`Sequence::clip_scale`](crate::backend::sequence::Sequence::clip_scale).
pub(crate) fn clip_scale(gpu: &mut Gpu, grads: Tensor, clip: f32, scale: Tensor) {
    let n = check(gpu, &[grads]);
    let blocks = n.div_ceil(CHUNK);
    let partial = Arg::Ptr(gpu.scratch(8 * blocks));
    let args = [gpu.address(grads), Arg::U32(n as u32), partial];
    let grid = [blocks as u32, 1, 1];
    gpu.launch("clip_squares", grid, THREADS as u32, 0, &args);
    let args = [
        partial,
        Arg::U32(blocks as u32),
        clip.into(),
        gpu.address(scale),
    ];
    gpu.launch("clip_finish", [1, 1, 1], THREADS as u32, 0, &args);
}

/// See [`Sequence::adam`](crate::backend::sequence::Sequence::adam).
pub(crate) fn adam(
    gpu: &mut Gpu,
    params: Tensor,
    grads: Tensor,
    moments: [Tensor; 2],
    config: Adam,
    scale: Option<Tensor>,
) {
    let [m, v] = moments;
    let n = check(gpu, &[params, grads, m, v]);
    let fresh = config.betas.map(|b| (1.0 - f64::from(b)) as f32);
    let args = [
        gpu.state(),
        config.betas[0].into(),
        config.betas[1].into(),
        fresh[0].into(),
        fresh[1].into(),
        config.eps.into(),
        config.weight_decay.into(),
        Arg::I32(i32::from(config.decoupled)),
        scale.map_or(Arg::NULL, |t| gpu.address(t)),
        Arg::U32(n as u32),
        gpu.address(params),
        gpu.address(grads),
        gpu.address(m),
        gpu.address(v),
    ];
    let (kernel, blocks) = match gpu.allows(Ladder::Adam, 2) {
        true => {
            let most = STAYING * gpu.stream.capability().multiprocessors as usize;
            ("adam", n.div_ceil(4 * THREADS).min(most))
        }
        false => ("adam_elements", n.div_ceil(THREADS)),
    };
    gpu.launch(kernel, [blocks as u32, 1, 1], THREADS as u32, 0, &args);
}
