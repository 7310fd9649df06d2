//! Scratch images as the tile unit reads them, and what it multiplies them by.
//!
//! A pixel of a scratch image is 64 bytes, a row of an `A` tile: 32 channels, or where there are no
//! more than 16, those of the pixel and of its right neighbour, so that a step takes two columns of
//! the kernel at once. The pixels that 16 neighbouring outputs meet at one tap always follow one another:
//! columns lie by phases, first those that are multiples of the stride, and of images that are
//! narrower than a tile several lie side by side, pixel by pixel.

use half::bf16;
use rayon::prelude::*;

use super::super::shape::ConvShape;
use crate::backend::cpu::tiles::{DEPTH, SIDE, Step, TILE};

/// Size and meaning of a scratch image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Channels of the image in memory.
    pub channels: usize,
    /// Whether a pixel also has its right neighbour's channels.
    pub paired: bool,
    /// Images side by side.
    pub images: usize,
    /// Rows held.
    pub rows: usize,
    /// Columns held of each phase.
    pub cols: usize,
    /// Phases held: column `c` is number `c / step` of phase `c % step`.
    pub phases: usize,
    /// See `phases`.
    pub step: usize,
    /// Pixel `(r, c)` is the image's `(r·sample − top, c·sample − left)`, or zero outside.
    pub sample: usize,
    /// See `sample`.
    pub top: isize,
    /// See `sample`.
    pub left: isize,
}

/// Images of outputs `cols` wide that lie side by side: as many as fill a tile.
pub(super) fn side_by_side(cols: usize) -> usize {
    (SIDE / cols).max(1)
}

impl Layout {
    /// Of a convolution's input, for windows of all outputs.
    pub fn of_input(shape: &ConvShape) -> Layout {
        let images = side_by_side(shape.wo());
        let (top, left) = (shape.pad as isize, shape.pad as isize);
        let image = Layout {
            channels: shape.ci,
            paired: false,
            images,
            rows: shape.ho(),
            cols: shape.wo(),
            phases: 1,
            step: 1,
            sample: shape.stride,
            top,
            left,
        };
        if shape.kernel == 1 {
            return image;
        }
        let paired = shape.ci <= SIDE;
        let cols = (shape.wo() - 1) * shape.stride + shape.kernel;
        Layout {
            paired,
            rows: (shape.ho() - 1) * shape.stride + shape.kernel,
            cols: cols.div_ceil(shape.stride),
            phases: match (paired, shape.stride) {
                // Only columns 0, 2, … of the kernel begin a pair.
                (true, 2) => 1,
                _ => shape.stride.min(shape.kernel),
            },
            step: shape.stride,
            sample: 1,
            ..image
        }
    }

    /// Of the same input for the weights' gradient, where a pixel is 16 channels of two images.
    pub fn of_pairs(shape: &ConvShape) -> Layout {
        let input = Layout::of_input(shape);
        let phases = match shape.kernel {
            1 => 1,
            kernel => shape.stride.min(kernel),
        };
        Layout {
            paired: false,
            phases,
            ..input
        }
    }

    /// Blocks of 32 channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(DEPTH)
    }

    /// Pixels from a row to the next.
    pub fn row(&self) -> usize {
        self.phases * self.cols * self.images
    }

    /// Pixels from a block to the next.
    pub fn block(&self) -> usize {
        self.rows * self.row()
    }

    /// Numbers of the scratch image if it has so many blocks. The last row's last tile may reach
    /// beyond its pixels.
    pub fn len(&self, blocks: usize) -> usize {
        (blocks * self.block() + SIDE) * DEPTH
    }

    /// Pixels from an output's first tap to the tap in column `col` of a row of the kernel.
    pub fn column(&self, col: usize) -> usize {
        (col % self.step * self.cols + col / self.step) * self.images
    }
}

/// Half of what a step sums over: 16 channels at one tap of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Half {
    /// Row and column in the kernel.
    pub tap: [usize; 2],
    /// The first of the channels.
    pub channel: usize,
}

/// What one step sums over, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    /// Pixels from the output's first.
    pub at: usize,
    /// Its halves. None: zeros.
    pub halves: [Option<Half>; 2],
}

/// The steps of windows that take the given rows and columns of a kernel: number `i` of `rows` is `i` rows
/// further down in the scratch image, and likewise for columns.
pub(super) fn steps(layout: &Layout, rows: &[usize], cols: &[usize]) -> Vec<Taps> {
    let mut all = Vec::new();
    for block in 0..layout.blocks() {
        for (i, &row) in rows.iter().enumerate() {
            let width = if layout.paired { 2 } else { 1 };
            for j in (0..cols.len()).step_by(width) {
                let half = |col: Option<&usize>, channel: usize| {
                    let inside = channel < layout.channels;
                    col.filter(|_| inside).map(|&col| Half {
                        tap: [row, col],
                        channel,
                    })
                };
                let first = half(cols.get(j), block * DEPTH);
                let second = match layout.paired {
                    true => half(cols.get(j + 1), 0),
                    false => half(cols.get(j), block * DEPTH + SIDE),
                };
                all.push(Taps {
                    at: block * layout.block() + i * layout.row() + layout.column(j),
                    halves: [first, second],
                });
            }
        }
    }
    all
}

/// The same as the tile unit takes them: weights follow one another.
pub(super) fn offsets(steps: &[Taps]) -> Vec<Step> {
    let bytes = |numbers: usize| u32::try_from(2 * numbers).expect("scratch images are small");
    let step = |(i, taps): (usize, &Taps)| Step {
        a: bytes(taps.at * DEPTH),
        b: bytes(i * TILE),
    };
    steps.iter().enumerate().map(step).collect()
}

/// Packs weights as `[⌈outputs/16⌉][steps][B tile]`; `value` gives that of an output, a tap and one of
/// `channels` channels.
pub(super) fn pack(
    steps: &[Taps],
    outputs: usize,
    channels: usize,
    to: &mut [bf16],
    value: impl Fn(usize, [usize; 2], usize) -> f32 + Sync,
) {
    let block = steps.len() * TILE;
    assert_eq!(to.len(), outputs.div_ceil(SIDE) * block);
    if block == 0 {
        return;
    }
    to.par_chunks_mut(block).enumerate().for_each(|(b, to)| {
        for (tile, taps) in to.chunks_exact_mut(TILE).zip(steps) {
            tile.fill(bf16::ZERO);
            for (part, half) in tile.chunks_exact_mut(TILE / 2).zip(taps.halves) {
                let Some(half) = half else { continue };
                for k in 0..SIDE.min(channels - half.channel) {
                    for n in 0..SIDE.min(outputs - b * SIDE) {
                        let weight = value(b * SIDE + n, half.tap, half.channel + k);
                        part[k / 2 * DEPTH + 2 * n + k % 2] = bf16::from_f32(weight);
                    }
                }
            }
        }
    });
}
