//! Step 4: blocks that keep the weights, and all of an image that a tile needs, on chip.

use super::tiles::{PIXELS, combine_moments};
use super::{Shape, activation, count};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{BatchNorm, Load, Tensor};

/// `MMA_THREADS` of kernels/include/conv_mma.cuh.
pub(super) const THREADS: usize = 128;
/// `TAPS` of kernels/include/conv_region.cuh.
const TAPS: usize = 9;
/// Blocks of a multiprocessor are not more than this, whatever fits into its shared memory.
const MOST_BLOCKS: u32 = 8;
/// Shared memory of a block that the system takes.
const RESERVED: u32 = 1 << 10;

/// What tiles and their regions take up: `Regions` of kernels/include/conv_region.cuh.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// Input pixels of a tile.
    pub(super) pixels: usize,
    /// Tiles of the whole output.
    pub(super) tiles: usize,
}

impl Region {
    /// If a tile of the output is some whole rows of an image, or some whole images.
    pub(super) fn of(shape: &Shape) -> Option<Region> {
        let window = shape.window;
        if (shape.kernel, window.pad) != (3, 1) || window.stride > 2 || shape.wo > PIXELS {
            return None;
        }
        let rows = shape.ho.min(PIXELS / shape.wo);
        let images = PIXELS / (rows * shape.wo);
        let whole = rows * shape.wo * images == PIXELS && shape.ho.is_multiple_of(rows);
        let side = |outputs: usize| (outputs - 1) * window.stride + 3;
        whole.then(|| Region {
            pixels: images * side(rows) * side(shape.wo),
            tiles: shape.outputs().div_ceil(PIXELS),
        })
    }
}

/// Blocks of so much shared memory that a device runs at once, or fewer if there is less to do.
pub(super) fn resident_blocks(gpu: &Gpu, shared: u32, tiles: usize) -> u32 {
    let device = gpu.stream.capability();
    let each = (device.shared / (shared + RESERVED)).clamp(1, MOST_BLOCKS);
    count(tiles).min(each * device.multiprocessors)
}

/// A kernel of `kernels/conv_fprop/4_resident.cu`, with what its launch needs.
#[derive(Debug)]
pub(super) struct Fprop {
    kernel: &'static str,
    shared: u32,
    region: Region,
}

impl Fprop {
    /// The kernel for a shape, if there is one and the device has the shared memory for it.
    pub(super) fn fitting(gpu: &Gpu, shape: &Shape) -> Option<Fprop> {
        if !gpu.allows(Ladder::Conv, 4) {
            return None;
        }
        let ci = shape.ci.next_multiple_of(8);
        let kernel = match (ci, shape.co) {
            (8, 16) => "conv_fprop_resident_8_16",
            (16, 16) => "conv_fprop_resident_16_16",
            (16, 32) => "conv_fprop_resident_16_32",
            (32, 32) => "conv_fprop_resident_32_32",
            (32, 64) => "conv_fprop_resident_32_64",
            (64, 64) => "conv_fprop_resident_64_64",
            _ => return None,
        };
        if ci > 8 && ci != shape.ci {
            return None;
        }
        let region = Region::of(shape)?;
        let weights = 2 * shape.co * (TAPS * ci).next_multiple_of(16);
        let outputs = 2 * PIXELS * shape.co;
        let sums = 4 * THREADS / 32 * shape.co;
        let shared = count(weights + outputs + sums + 2 * 2 * region.pixels * ci);
        (shared <= gpu.stream.capability().block_shared).then_some(Fprop {
            kernel,
            shared,
            region,
        })
    }

    pub(super) fn launch(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        x: Load,
        w: Tensor,
        y: Tensor,
        moments: Option<BatchNorm>,
    ) {
        let Region { tiles, .. } = self.region;
        let partial = match moments {
            Some(_) => Arg::Ptr(gpu.scratch(4 * 2 * shape.co * tiles)),
            None => Arg::NULL,
        };
        let load = activation(gpu, x);
        let tensors = [gpu.address(w), gpu.address(y), partial];
        let args = [&load[..], &tensors, &shape.args()].concat();
        let grid = [resident_blocks(gpu, self.shared, tiles), 1, 1];
        gpu.launch(self.kernel, grid, THREADS as u32, self.shared, &args);
        if let Some(bn) = moments {
            combine_moments(gpu, shape, partial, bn);
        }
    }
}
