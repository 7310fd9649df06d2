//! Step 5: both gradients in one pass.

use super::parts::finish;
use super::resident::{Region, Resident, THREADS};
use super::tiles::PIXELS;
use super::{Read, Shape, count, input_gradient};
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{InputGrad, Tensor};

/// A kernel of `kernels/conv_backward/5_fused.cu`, with what its launch needs.
#[derive(Debug)]
pub(super) struct Backward {
    resident: Resident,
    region: Region,
}

impl Backward {
    /// The kernel for a shape, if there is one and the device has the shared memory for it.
    pub(super) fn fitting(gpu: &Gpu, shape: &Shape) -> Option<Backward> {
        let (kernel, blocks) = match (shape.ci, shape.co, shape.window.stride) {
            (16, 16, 1) => ("conv_backward_16", 3),
            (32, 32, 1) => ("conv_backward_32", 2),
            _ => return None,
        };
        let region = Region::of(shape).filter(|_| gpu.allows(Ladder::Conv, 5))?;
        let c = shape.ci;
        let weights = 2 * shape.co * shape.taps();
        let inputs = 2 * 2 * PIXELS * c;
        // Rows of Outputs (kernels/include/conv_mma.cuh) are padded.
        let outputs = 4 * PIXELS * (c + 8);
        let sums = 4 * THREADS / 32 * c;
        let windows = 4 * PIXELS;
        // At the end the block's gradient of the weights takes the regions' place, in rows of PITCH.
        let pitch = (shape.taps() + 23) / 32 * 32 + 8;
        let regions = (2 * 2 * 2 * region.pixels * c).max(4 * shape.co * pitch);
        let shared = count(weights + inputs + outputs + sums + windows + regions);
        let resident = Resident {
            kernel,
            threads: THREADS,
            blocks,
            shared,
        };
        resident.fits(gpu).then_some(Backward { resident, region })
    }

    pub(super) fn launch(
        &self,
        gpu: &mut Gpu,
        shape: &Shape,
        from: Read,
        dw: Tensor,
        out: InputGrad,
    ) {
        let Region { tiles, .. } = self.region;
        let grid = self.resident.grid(gpu, tiles);
        let blocks = grid[0];
        let sums = 4 * 2 * shape.ci * tiles;
        let scratch = gpu.scratch(sums + 4 * dw.len() * blocks as usize);
        let weights = match blocks {
            1 => gpu.address(dw),
            _ => Arg::Ptr(scratch + sums as u64),
        };
        let partial = Arg::Ptr(scratch);
        let mut args = input_gradient(gpu, shape, from, out, partial);
        args.push(weights);
        args.extend(shape.args());
        self.resident.launch(gpu, grid, &args);
        finish(
            gpu,
            (blocks > 1).then_some((weights, blocks as usize, dw)),
            out.sums.map(|(bn, _)| (partial, tiles, bn)),
        );
    }
}
