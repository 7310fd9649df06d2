//! Convolutions whose whole window is no more than 32 numbers, as a network's first is: each output's
//! window becomes one pixel of 32 channels, and the convolution one of 1×1.

use std::ops::Range;

use half::bf16;

use super::super::shape::ConvShape;
use super::super::source::SourceImage;
use super::super::tile::Load;
use super::fill::Pixel;
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd};
use crate::backend::cpu::tiles::DEPTH;

/// Whether it is one.
pub(super) fn fits(shape: &ConvShape) -> bool {
    shape.kernel > 1 && shape.kernel * shape.kernel * shape.ci <= DEPTH
}

/// The convolution of 1×1 that it becomes.
pub(super) fn as_pixels(shape: &ConvShape) -> ConvShape {
    ConvShape {
        h: shape.ho(),
        w: shape.wo(),
        ci: DEPTH,
        kernel: 1,
        stride: 1,
        pad: 0,
        ..*shape
    }
}

/// Fills rows of outputs with the windows of image number `g` of `side` that lie side by side. `narrow` has
/// room for the padded image.
pub(super) fn fill(
    isa: Isa,
    shape: &ConvShape,
    image: &SourceImage<bf16>,
    place: (usize, usize),
    rows: Range<usize>,
    narrow: &mut Vec<bf16>,
    to: &mut [Pixel],
) {
    let row = (shape.w + 2 * shape.pad) * shape.ci;
    let needed = (rows.len() - 1) * shape.stride + shape.kernel;
    narrow.clear();
    narrow.resize(needed * row + LANES, bf16::ZERO);
    let top = rows.start * shape.stride;
    if image.coefficients.plain {
        let len = shape.w * shape.ci;
        for (r, to) in narrow[..needed * row].chunks_exact_mut(row).enumerate() {
            if let Some(y) = (top + r).checked_sub(shape.pad).filter(|y| *y < shape.h) {
                to[shape.pad * shape.ci..][..len].copy_from_slice(&image.x[y * len..][..len]);
            }
        }
    } else {
        isa.run(Narrow {
            shape,
            image,
            top,
            needed,
            to: narrow,
        });
    }
    copy(shape, place, rows, narrow, to);
}

/// Some rows of the padded image, as they lie in memory.
struct Narrow<'a> {
    shape: &'a ConvShape,
    image: &'a SourceImage<'a, bf16>,
    /// The first of the padded image, and how many.
    top: usize,
    needed: usize,
    to: &'a mut [bf16],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ConvShape { h, w, ci, pad, .. } = *self.shape;
        let row = (w + 2 * pad) * ci;
        let coefficients = self.image.block(s, 0);
        let mut pixel = [bf16::ZERO; LANES];
        for r in 0..self.needed {
            let Some(y) = (self.top + r).checked_sub(pad).filter(|y| *y < h) else {
                continue;
            };
            for x in 0..w {
                let v = self
                    .image
                    .at::<S, false>(s, &coefficients, (y * w + x) * ci, ci);
                s.store_bf16(&mut pixel, v);
                let at = r * row + (pad + x) * ci;
                self.to[at..][..ci].copy_from_slice(&pixel[..ci]);
            }
        }
    }
}

/// The windows of some rows of outputs from the padded image's rows.
fn copy(
    shape: &ConvShape,
    (g, side): (usize, usize),
    rows: Range<usize>,
    narrow: &[bf16],
    to: &mut [Pixel],
) {
    let ConvShape {
        w,
        ci,
        kernel,
        stride,
        pad,
        ..
    } = *shape;
    let row = (w + 2 * pad) * ci;
    let (width, window) = (kernel * ci, kernel * kernel * ci);
    let wo = shape.wo();
    for (r, output) in rows.enumerate() {
        for col in 0..wo {
            let from = &narrow[r * stride * row + col * stride * ci..];
            let at = (output * wo + col) * side + g;
            if side == 1 {
                // Whole vectors, each of which writes over what the one before had too much; the
                // last one's goes to the next pixel.
                let to = &mut to[at..at + 2].as_flattened_mut();
                for a in 0..kernel {
                    let from: &[bf16; LANES] = from[a * row..].first_chunk().expect("space behind");
                    to[a * width..][..LANES].copy_from_slice(from);
                }
                to[window..][..LANES].fill(bf16::ZERO);
                if window + LANES < DEPTH {
                    to[window + LANES..DEPTH].fill(bf16::ZERO);
                }
            } else {
                let to = &mut to[at];
                for a in 0..kernel {
                    to[a * width..][..width].copy_from_slice(&from[a * row..][..width]);
                }
                to[window..].fill(bf16::ZERO);
            }
        }
    }
}
