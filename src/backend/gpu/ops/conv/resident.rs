//! Step 4: blocks that stay, and keep all of an image that a tile needs on chip.

use super::parts::{chunks, combine_moments};
use super::tiles::PIXELS;
use super::{Read, Shape, activation, count, gradient};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{BatchNorm, Load, Tensor, Window};

/// `MMA_THREADS` of kernels/include/conv_mma.cuh.
pub(super) const THREADS: usize = 128;
/// `TAPS` of kernels/include/conv_region.cuh.
const TAPS: usize = 9;
/// Floats of `Moments<8>` of kernels/include/reduce.cuh.
const MOMENTS: usize = 1 + 8 + 8;

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
    /// Threads of a block.
    pub(super) threads: usize,
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

    /// Blocks that a device runs at once.
    fn at_once(&self, gpu: &Gpu) -> u32 {
        let each = gpu.blocks_by_shared(self.kernel, self.shared as usize);
        each.clamp(1, self.blocks) * gpu.stream.capability().multiprocessors
    }

    /// As many as it runs at once, or fewer if there is less to do.
    pub(super) fn grid(&self, gpu: &Gpu, tiles: usize) -> [u32; 3] {
        [count(tiles).min(self.at_once(gpu)), 1, 1]
    }

    /// Launches so many blocks.
    pub(super) fn launch(&self, gpu: &mut Gpu, grid: [u32; 3], args: &[Arg]) {
        gpu.launch(self.kernel, grid, self.threads as u32, self.shared, args);
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
        let (kernel, threads, blocks) = match (ci, shape.co) {
            (8, 16) => ("conv_fprop_resident_8_16", THREADS, 4),
            (16, 16) => ("conv_fprop_resident_16_16", THREADS, 5),
            (16, 32) => ("conv_fprop_resident_16_32", THREADS, 4),
            (32, 32) => ("conv_fprop_resident_32_32", THREADS, 4),
            (32, 64) => ("conv_fprop_resident_32_64", 2 * THREADS, 1),
            (64, 64) => ("conv_fprop_resident_64_64", 2 * THREADS, 1),
            _ => return None,
        };
        if ci > 8 && ci != shape.ci {
            return None;
        }
        let region = Region::of(shape)?;
        let weights = 2 * shape.co * (TAPS * ci).next_multiple_of(16);
        let outputs = 2 * PIXELS * shape.co;
        let regions = 2 * 2 * region.pixels * ci;
        // At the end the threads' moments take the place of all.
        let shared = count((weights + outputs + regions).max(4 * MOMENTS * threads));
        let resident = Resident {
            kernel,
            threads,
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
        let grid = self.resident.grid(gpu, self.region.tiles);
        let blocks = grid[0] as usize;
        let partial = match moments {
            Some(_) => Arg::Ptr(gpu.scratch(4 * 2 * shape.co * blocks)),
            None => Arg::NULL,
        };
        let load = activation(gpu, x);
        let tensors = [gpu.address(w), gpu.address(y), partial];
        let args = [&load[..], &tensors, &shape.args()].concat();
        self.resident.launch(gpu, grid, &args);
        if let Some(bn) = moments {
            combine_moments(gpu, shape, partial, blocks, bn);
        }
    }
}

/// A kernel of `kernels/conv_wgrad/4_resident.cu`, with what its launch needs.
#[derive(Debug)]
pub(super) struct Wgrad {
    resident: Resident,
    /// Chunks of the pixels, and tiles of output and of input channels.
    grid: [u32; 3],
}

impl Wgrad {
    /// The kernel for a shape, if there is one and the device has the shared memory for it.
    pub(super) fn fitting(gpu: &Gpu, shape: &Shape) -> Option<Wgrad> {
        if !gpu.allows(Ladder::Conv, 4) {
            return None;
        }
        // Channels of a block: fewer than 8 inputs are filled up to as many.
        let inputs = match shape.ci {
            ..8 => 8,
            16 => 16,
            ci if ci.is_multiple_of(32) => 32,
            _ => return None,
        };
        let outputs = match shape.co {
            16 => 16,
            co if co.is_multiple_of(32) => 32,
            _ => return None,
        };
        let (kernel, blocks) = match (inputs, outputs) {
            (8, 16) => ("conv_wgrad_resident_8_16", 4),
            (8, 32) => ("conv_wgrad_resident_8_32", 3),
            (16, 16) => ("conv_wgrad_resident_16_16", 3),
            (16, 32) => ("conv_wgrad_resident_16_32", 2),
            (32, 32) => ("conv_wgrad_resident_32_32", 2),
            _ => return None,
        };
        let region = Region::of(shape)?;
        let gradients = 2 * 2 * 2 * PIXELS * outputs;
        let windows = 4 * PIXELS;
        let regions = 2 * 2 * region.pixels * inputs;
        // At the end the block's gradient takes the place of all, in rows of PITCH.
        let pitch = (TAPS * inputs + 23) / 32 * 32 + 8;
        let shared = count((gradients + windows + regions).max(4 * outputs * pitch));
        let resident = Resident {
            kernel,
            threads: THREADS,
            blocks,
            shared,
        };
        let tiles = [shape.co / outputs, shape.ci.div_ceil(inputs)];
        let wave = resident.at_once(gpu);
        // A chunk of two tiles at least is worth what a block leaves.
        let most = region.tiles.div_ceil(2);
        let chunks = chunks(wave as usize, tiles[0] * tiles[1], most);
        let grid = [chunks, tiles[0], tiles[1]].map(count);
        resident.fits(gpu).then_some(Wgrad { resident, grid })
    }

    /// Blocks that leave gradients of the same weights, each of its tiles.
    pub(super) fn chunks(&self) -> usize {
        self.grid[0] as usize
    }

    pub(super) fn launch(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        Read { x, dy, .. }: Read,
        partial: Arg,
    ) {
        let args = [
            &gradient(gpu, dy, shape.outputs())[..],
            &activation(gpu, x),
            &[partial],
            &shape.args(),
        ]
        .concat();
        self.resident.launch(gpu, self.grid, &args);
    }
}

/// A kernel of `kernels/conv_dgrad/4_resident.cu`, with what its launch needs.
#[derive(Debug)]
pub(super) struct Dgrad {
    resident: Resident,
    grid: [u32; 3],
}

impl Dgrad {
    /// The kernel for a shape, if there is one and the device has the shared memory for it.
    pub(super) fn fitting(gpu: &Gpu, shape: &Shape) -> Option<Dgrad> {
        if !gpu.allows(Ladder::Conv, 4) {
            return None;
        }
        let (kernel, blocks) = match (shape.kernel, shape.ci, shape.co) {
            (3, 16, 32) => ("conv_dgrad_resident_16_32", 3),
            (3, 32, 64) => ("conv_dgrad_resident_32_64", 1),
            (1, 16, 32) => ("conv_dgrad_resident_1_16_32", 3),
            (1, 32, 64) => ("conv_dgrad_resident_1_32_64", 1),
            _ => return None,
        };
        let window = Window {
            stride: 2,
            pad: shape.kernel / 2,
        };
        if shape.window != window || [shape.h, shape.w] != [2 * shape.ho, 2 * shape.wo] {
            return None;
        }
        // Of the output's gradient, with one more pixel on each side.
        let region = Region::of(&Shape {
            h: shape.ho,
            w: shape.wo,
            kernel: 3,
            window: Window { stride: 1, pad: 1 },
            ..*shape
        })?;
        let weights = 2 * shape.co * shape.taps();
        // Rows of Outputs (kernels/include/conv_mma.cuh) are padded.
        let outputs = 4 * PIXELS * (shape.ci + 8);
        let sums = 4 * THREADS / 32 * shape.ci;
        let places = 2 * 4 * PIXELS;
        let regions = 2 * 2 * 2 * region.pixels * shape.co;
        let resident = Resident {
            kernel,
            threads: THREADS,
            blocks,
            shared: count(weights + outputs + sums + places + regions),
        };
        let grid = resident.grid(gpu, region.tiles);
        resident.fits(gpu).then_some(Dgrad { resident, grid })
    }

    /// Blocks, each of which leaves the sums of its tiles.
    pub(super) fn blocks(&self) -> usize {
        self.grid[0] as usize
    }

    pub(super) fn launch(&self, gpu: &mut Gpu, args: &[Arg]) {
        self.resident.launch(gpu, self.grid, args);
    }
}
