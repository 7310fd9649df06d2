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

/// A kernel whose blocks stay, and what it asks of a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    pub(super) kernel: &'static str,
    /// Blocks that its registers allow: the last number of its `KERNEL_BLOCKS`.
    pub(super) blocks: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub(super) shared: u32,
}

impl Resident {
    /// Whether a block fits at all.
    pub(super) fn fits(&self, gpu: &Gpu) -> bool {
        gpu.fits(self.kernel, self.shared as usize)
    }

    /// Blocks that a device runs at once, or fewer if there is less to do.
    pub(super) fn grid(&self, gpu: &Gpu, tiles: usize) -> [u32; 3] {
        let device = gpu.stream.capability();
        let each = gpu.blocks_by_shared(self.kernel, self.shared as usize);
        let each = each.clamp(1, self.blocks);
        [count(tiles).min(each * device.multiprocessors), 1, 1]
    }
}

/// A kernel of `kernels/conv_fprop/4_resident.cu`, with what its launch needs.
#[derive(Debug)]
pub(super) struct Fprop {
    resident: Resident,
    region: Region,
}

impl Fprop {
    /// The kernel for a shape, if there is one and the device has the shared memory for it.
    pub(super) fn fitting(gpu: &Gpu, shape: &Shape) -> Option<Fprop> {
        if !gpu.allows(Ladder::Conv, 4) {
            return None;
        }
        let ci = shape.ci.next_multiple_of(8);
        let (kernel, blocks) = match (ci, shape.co) {
            (8, 16) => ("conv_fprop_resident_8_16", 4),
            (16, 16) => ("conv_fprop_resident_16_16", 5),
            (16, 32) => ("conv_fprop_resident_16_32", 4),
            (32, 32) => ("conv_fprop_resident_32_32", 4),
            (32, 64) => ("conv_fprop_resident_32_64", 3),
            (64, 64) => ("conv_fprop_resident_64_64", 3),
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
        let resident = Resident {
            kernel,
            blocks,
            shared,
        };
        resident.fits(gpu).then_some(Fprop { resident, region })
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
        let Resident { kernel, shared, .. } = self.resident;
        let grid = self.resident.grid(gpu, tiles);
        gpu.launch(kernel, grid, THREADS as u32, shared, &args);
        if let Some(bn) = moments {
            combine_moments(gpu, shape, partial, bn);
        }
    }
}
