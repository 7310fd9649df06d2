//! Convolutions whose whole window is no more than 32 numbers, as a network's first is: each output's
//! window becomes one pixel of 32 channels, and the convolution one of 1×1.

use std::ops::Range;

use half::bf16;

use super::super::shape::ConvShape;
use super::super::tile::Load;
use super::fill::Pixel;
use crate::backend::cpu::simd::{LANES, Simd};
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
#[inline(always)]
pub(super) fn fill<S: Simd, L: Load>(
    s: S,
    shape: &ConvShape,
    load: &L,
    (g, side): (usize, usize),
    rows: Range<usize>,
    narrow: &mut Vec<bf16>,
    to: &mut [Pixel],
) {
    let ConvShape {
        h,
        w,
        ci,
        kernel,
        stride,
        pad,
        ..
    } = *shape;
    let row = (w + 2 * pad) * ci;
    let top = rows.start * stride;
    let needed = (rows.len() - 1) * stride + kernel;
    narrow.clear();
    narrow.resize(needed * row + LANES, bf16::ZERO);
    let coefficients = load.block(s, 0);
    let mut pixel = [bf16::ZERO; LANES];
    for r in 0..needed {
        let Some(y) = (top + r).checked_sub(pad).filter(|y| *y < h) else {
            continue;
        };
        for x in 0..w {
            let v = load.at::<S, false>(s, &coefficients, (y * w + x) * ci, ci);
            s.store_bf16(&mut pixel, v);
            let at = r * row + (pad + x) * ci;
            narrow[at..][..ci].copy_from_slice(&pixel[..ci]);
        }
    }
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
