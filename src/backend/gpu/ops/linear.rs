//! Launches of `kernels/pool_linear`.

use super::norm::Walk;
use crate::backend::Tensor;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Arg;

#[cfg(all(test, simt))]
#[path = "linear_tests.rs"]
mod tests;

/// `TILE` of `kernels/pool_linear/2_linear.cu`: rows and columns of a block's outputs.
const TILE: usize = 32;
/// `THREADS` there.
const THREADS: u32 = 64;
/// `ADDERS` there.
const ADDERS: usize = 256;
/// Blocks of the weights' gradient to aim at.
const BLOCKS: usize = 256;
/// Rows of the batch that are worth a block, and the writing and reading of its partial sum.
const LEAST_CHUNK: usize = 64;

/// Sizes of the layer.
#[derive(Clone, Copy)]
struct Shape {
    images: usize,
    /// Of an image.
    pixels: usize,
    channels: usize,
    outputs: usize,
}

impl Shape {
    fn new(x: Tensor, pooled: Tensor, w: Tensor, y: Tensor) -> Shape {
        let [images, height, width, channels] = x.dims;
        let outputs = w.len() / channels.max(1);
        assert!(!x.is_empty() && outputs > 0, "an input of {:?}", x.dims);
        let lengths = [pooled.len(), w.len(), y.len()];
        assert_eq!(
            lengths,
            [images * channels, outputs * channels, images * outputs],
            "pooled input, weights and outputs for an input of {:?}",
            x.dims
        );
        // The kernels count in 32 bits, and up to a tile past the last element.
        let sizes = [images, channels, outputs, height * width];
        let limit = i32::MAX as usize / 2;
        assert!(sizes.iter().all(|size| *size <= limit), "{sizes:?}");
        Shape {
            images,
            pixels: height * width,
            channels,
            outputs,
        }
    }

    /// As the matrix products take them.
    fn args(&self) -> [Arg; 3] {
        [self.images, self.channels, self.outputs].map(|size| Arg::I32(size as i32))
    }

    /// Rows of the batch that a block of the weights' gradient adds up.
    fn chunk(&self) -> usize {
        let tiles = self.outputs.div_ceil(TILE) * (self.channels + 1).div_ceil(TILE);
        let chunks = BLOCKS.div_ceil(tiles);
        self.images.div_ceil(chunks).max(LEAST_CHUNK)
    }
}

/// Tiles of a product with so many rows and columns.
fn grid(rows: usize, columns: usize, chunks: usize) -> [u32; 3] {
    [rows.div_ceil(TILE), columns.div_ceil(TILE), chunks].map(|blocks| blocks as u32)
}

/// See [`Executor::gap_linear`](crate::backend::Executor::gap_linear).
pub(crate) fn gap_linear(
    gpu: &mut Gpu,
    x: Tensor,
    w: Tensor,
    b: Tensor,
    pooled: Tensor,
    y: Tensor,
) {
    let shape = Shape::new(x, pooled, w, y);
    assert_eq!(b.len(), shape.outputs, "one bias an output");
    let pool = [gpu.address(x), gpu.address(pooled)];
    Walk::in_chunks(x, shape.pixels).launch(gpu, ["pool_8", "pool_1"], &pool);
    let inputs = [pooled, w, b].map(|t| gpu.address(t));
    let args = [&inputs[..], &shape.args(), &[gpu.address(y)]].concat();
    let grid = grid(shape.images, shape.outputs, 1);
    gpu.launch("linear", grid, THREADS, 0, &args);
}

/// See [`Executor::gap_linear_backward`](crate::backend::Executor::gap_linear_backward).
pub(crate) fn gap_linear_backward(
    gpu: &mut Gpu,
    pooled: Tensor,
    w: Tensor,
    dy: Tensor,
    dx: Tensor,
    dw: Tensor,
    db: Tensor,
) {
    let shape = Shape::new(dx, pooled, w, dy);
    let Shape {
        images,
        pixels,
        channels,
        outputs,
    } = shape;
    assert_eq!([dw.len(), db.len()], [w.len(), outputs], "gradients");
    let chunk = shape.chunk();
    let chunks = images.div_ceil(chunk);
    // The pooled input's gradient first, then parts of dw, then of db; the first two passes are
    // done with the one when the others begin.
    let parts = if chunks > 1 { chunks * outputs } else { 0 };
    let scratch = gpu.scratch((2 * images * channels).max(4 * parts * (channels + 1)));

    let da = Arg::Ptr(scratch);
    let inputs = [dy, w].map(|t| gpu.address(t));
    let args = [&inputs[..], &shape.args(), &[Arg::I32(pixels as i32), da]].concat();
    gpu.launch("linear_da", grid(images, channels, 1), THREADS, 0, &args);
    let unpool = [da, gpu.address(dx)];
    Walk::in_chunks(dx, pixels).launch(gpu, ["unpool_8", "unpool_1"], &unpool);

    let out = [dw, db].map(|t| gpu.address(t));
    let sums = match chunks {
        1 => out,
        _ => [scratch, scratch + 4 * (parts * channels) as u64].map(Arg::Ptr),
    };
    let inputs = [dy, pooled].map(|t| gpu.address(t));
    let args = [&inputs[..], &shape.args(), &[Arg::I32(chunk as i32)], &sums].concat();
    // One column more, for db.
    let blocks = grid(outputs, channels + 1, chunks);
    gpu.launch("linear_dw", blocks, THREADS, 0, &args);
    if chunks > 1 {
        let sizes = [chunks, channels, outputs].map(|size| Arg::I32(size as i32));
        let args = [&sums[..], &sizes, &out].concat();
        let blocks = (outputs * (channels + 1)).div_ceil(ADDERS) as u32;
        gpu.launch("linear_add", [blocks, 1, 1], ADDERS as u32, 0, &args);
    }
}
