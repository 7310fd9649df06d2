//! The input's gradient: the forward pass's tiles over `dy`, with the kernel flipped and the
//! channels' roles exchanged.

use std::ops::Range;

use rayon::prelude::*;

use super::shape::ConvShape;
use super::tile::{Ahead, Ends, Grid, Padded, Run};
use crate::backend::cpu::simd::{Buffer, LANES, Simd};

/// The gradient from another branch.
#[derive(Clone, Copy, Debug)]
pub enum Add<'a, E = f32> {
    /// There is none.
    None,
    /// `dx` holds it.
    InPlace,
    /// Another tensor, as large as `dx`, holds it.
    From(&'a [E]),
}

/// How the input gradient of a shape is computed.
pub(super) struct InputGrad {
    shape: ConvShape,
    /// The scratch image of `dy`, with margins for all taps.
    pub dy: Padded,
    classes: Vec<Class>,
}

/// Input pixels `(s·i + row, s·j + col)`, all of which are reached by the same taps of the kernel:
/// a strided convolution's input gradient without multiplications by inserted zeros.
struct Class {
    /// Residues of the pixels' coordinates.
    row: usize,
    col: usize,
    /// The taps in each direction, in the order of the `dy` that they meet.
    rows: Taps,
    cols: Taps,
    /// Floats of its packed weights.
    weights: Range<usize>,
    /// Where the first pixel's window begins in the scratch image.
    start: usize,
    runs: Vec<Run>,
}

/// Taps of one direction: pixel `s·i + residue` meets `dy[i + first ..]`, one a tap.
pub(super) struct Taps {
    pub taps: Vec<usize>,
    pub first: isize,
    /// One past the last of `dy` that the last pixel meets.
    pub end: isize,
}

impl Taps {
    pub fn new(shape: &ConvShape, residue: usize, pixels: usize) -> Taps {
        let start = (residue + shape.pad) % shape.stride;
        let mut taps: Vec<_> = (start..shape.kernel).step_by(shape.stride).collect();
        taps.reverse();
        let reach = ((residue + shape.pad - start) / shape.stride) as isize;
        let last = ((pixels - 1 - residue) / shape.stride) as isize;
        Taps {
            first: reach + 1 - taps.len() as isize,
            end: last + reach + 1,
            taps,
        }
    }
}

impl InputGrad {
    pub fn new(shape: &ConvShape) -> InputGrad {
        let mut classes = Vec::new();
        let mut from = 0;
        for row in 0..shape.stride.min(shape.h) {
            for col in 0..shape.stride.min(shape.w) {
                let rows = Taps::new(shape, row, shape.h);
                let cols = Taps::new(shape, col, shape.w);
                let vectors = rows.taps.len() * cols.taps.len() * shape.co.next_multiple_of(LANES);
                let weights = from..from + shape.ci.next_multiple_of(LANES) * vectors;
                from = weights.end;
                let runs = Vec::new();
                classes.push(Class {
                    row,
                    col,
                    rows,
                    cols,
                    weights,
                    start: 0,
                    runs,
                });
            }
        }
        let most = |edge: fn(&Class) -> isize| classes.iter().map(edge).fold(0, isize::max);
        let (top, left) = (most(|c| -c.rows.first), most(|c| -c.cols.first));
        let bottom = most(|c| c.rows.end).max(shape.ho() as isize);
        let right = most(|c| c.cols.end).max(shape.wo() as isize);
        let dy = Padded {
            channels: shape.co,
            rows: (top + bottom) as usize,
            cols: (left + right) as usize,
            width: LANES,
            sample: 1,
            top,
            left,
        };
        for class in &mut classes {
            for b in 0..dy.blocks() {
                class.runs.extend((0..class.rows.taps.len()).map(|tap| Run {
                    offset: b * dy.block() + tap * dy.row(),
                    len: class.cols.taps.len() * LANES,
                }));
            }
            // A class without taps reads nothing, and may begin outside.
            if !class.weights.is_empty() {
                let (row, col) = (top + class.rows.first, left + class.cols.first);
                class.start = row as usize * dy.row() + col as usize * LANES;
            }
        }
        InputGrad {
            shape: *shape,
            dy,
            classes,
        }
    }

    /// Per class `[⌈ci/16⌉][⌈co/16⌉][row taps][column taps][16 of co][16 of ci]`, zeros past the
    /// last channels.
    pub fn pack<'a>(&self, w: &[f32], to: &'a mut Buffer) -> &'a [f32] {
        let ConvShape {
            kernel: k, ci, co, ..
        } = self.shape;
        let to = to.resize(self.classes.last().map_or(0, |class| class.weights.end));
        to.fill(0.0);
        for class in self
            .classes
            .iter()
            .filter(|class| !class.weights.is_empty())
        {
            let to = &mut to[class.weights.clone()];
            let block = to.len() / ci.div_ceil(LANES);
            to.par_chunks_mut(block).enumerate().for_each(|(b, to)| {
                let channels = b * LANES..ci.min((b + 1) * LANES);
                let mut vectors = to.as_chunks_mut::<LANES>().0.iter_mut();
                for first in (0..co).step_by(LANES) {
                    for kh in &class.rows.taps {
                        for kw in &class.cols.taps {
                            for (o, to) in (first..first + LANES).zip(&mut vectors) {
                                if o < co {
                                    let w = &w[((o * k + kh) * k + kw) * ci..][channels.clone()];
                                    to[..w.len()].copy_from_slice(w);
                                }
                            }
                        }
                    }
                }
            });
        }
        to
    }

    /// `dx = dgrad (+ add)` for images whose `dy` is in scratch, with packed weights. Meanwhile
    /// brings nearer what is `ahead`.
    #[inline(always)]
    pub fn run<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        dy: &[f32],
        add: Add,
        dx: &mut [f32],
        ahead: Ahead,
    ) {
        let ConvShape {
            h, w, ci, stride, ..
        } = self.shape;
        let images = dy.len() / self.dy.len();
        assert_eq!(
            (dy.len(), dx.len()),
            (images * self.dy.len(), images * h * w * ci)
        );
        for (i, class) in self.classes.iter().enumerate() {
            let grid = Grid {
                images,
                rows: (h - class.row).div_ceil(stride),
                cols: (w - class.col).div_ceil(stride),
                input: [self.dy.len(), self.dy.row(), LANES],
                output: [h * w * ci, stride * w * ci, stride * ci],
                channels: ci,
                taps: class.cols.taps.len(),
                runs: &class.runs,
                weights: &weights[class.weights.clone()],
                // The last class has as many taps as any, or nearly.
                ahead: if i + 1 == self.classes.len() {
                    ahead
                } else {
                    Ahead::default()
                },
            };
            let first = (class.row * w + class.col) * ci;
            let out = dx[first..].as_mut_ptr();
            let ends = Ends {
                input: dy[class.start..].as_ptr(),
                add: match add {
                    Add::None => std::ptr::null(),
                    Add::InPlace => out,
                    Add::From(add) => add[..images * h * w * ci][first..].as_ptr(),
                },
                out,
            };
            // SAFETY: the scratch image has room for all that the class's taps reach; the class's
            // pixels are within `dx`, which is exclusive, and within `add`, which is as large.
            unsafe { grid.run(s, ends) };
        }
    }
}
