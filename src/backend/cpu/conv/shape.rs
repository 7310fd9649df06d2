//! Sizes of a convolution, and of what it keeps in scratch.

use super::tile::Padded;
use crate::backend::cpu::simd::LANES;

/// Sizes of a convolution: `x` is `[n, h, w, ci]`, the weights `[co, kernel, kernel, ci]`, `y`
/// `[n, ho, wo, co]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels of the input.
    pub ci: usize,
    /// Channels of the output.
    pub co: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between neighbouring outputs.
    pub stride: usize,
    /// Zeros on all four sides.
    pub pad: usize,
}

impl ConvShape {
    /// Rows of the output.
    pub fn ho(&self) -> usize {
        (self.h + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub fn wo(&self) -> usize {
        (self.w + 2 * self.pad - self.kernel) / self.stride + 1
    }

    /// Floats of one input image.
    pub(super) fn x_image(&self) -> usize {
        self.h * self.w * self.ci
    }

    /// Floats of one output image.
    pub(super) fn y_image(&self) -> usize {
        self.ho() * self.wo() * self.co
    }

    /// Floats of the weights.
    pub(super) fn weights(&self) -> usize {
        self.co * self.kernel * self.kernel * self.ci
    }

    /// Images worth doing together so that small ones do not reload the weights for a few pixels.
    pub(super) fn group(&self) -> usize {
        256_usize.div_ceil(self.ho() * self.wo()).min(self.n)
    }

    /// The scratch image that windows of output rows `from..from + rows` read, and the stride in
    /// it: a 1×1 kernel skips pixels once, on the way to scratch.
    pub(super) fn scratch(&self, from: usize, rows: usize) -> (Padded, usize) {
        let (sample, stride) = match self.kernel {
            1 => (self.stride, 1),
            _ => (1, self.stride),
        };
        let reach = |outputs: usize| (outputs - 1) * stride + self.kernel;
        let image = Padded {
            channels: self.ci,
            rows: reach(rows),
            cols: reach(self.wo()),
            width: self.ci.min(LANES),
            sample,
            top: self.pad as isize - (from * self.stride) as isize,
            left: self.pad as isize,
        };
        (image, stride)
    }

    pub(super) fn check(&self) {
        let sizes = [
            self.n,
            self.h,
            self.w,
            self.ci,
            self.co,
            self.kernel,
            self.stride,
        ];
        assert!(!sizes.contains(&0), "empty convolution: {self:?}");
        let smallest = self.h.min(self.w) + 2 * self.pad;
        assert!(
            self.kernel <= smallest,
            "kernel larger than image: {self:?}"
        );
    }
}
