//! The input's gradient on tiles: the forward pass's products over `dy`, with the kernel flipped and the
//! channels' roles exchanged, and what becomes of it while it is still in L1.

use std::ops::Range;

use half::bf16;

use super::super::dgrad::{Add, Taps};
use super::super::shape::ConvShape;
use super::super::source::{Coefficients, SourceImage};
use super::super::tile::{Load, read, vector};
use super::fill::{AHEAD, Pixel};
use super::grid::{Finish, Places, add_wide};
use super::layout::{Layout, offsets, pack, side_by_side, steps};
use crate::backend::cpu::simd::{Buffer, Element, Kernel, LANES, Simd};
use crate::backend::cpu::tiles::{SIDE, Step, Sums, TILE};

/// How the input gradient of a shape is computed.
pub(super) struct InputGrad {
    shape: ConvShape,
    /// Of `dy`, with margins for all taps.
    pub layout: Layout,
    pub classes: Vec<Class>,
}

/// Input pixels `(s·i + row, s·j + col)`, all of which are reached by the same taps of the kernel.
pub(super) struct Class {
    /// Residues of the pixels' coordinates.
    pub row: usize,
    /// See `row`.
    pub col: usize,
    rows: Taps,
    cols: Taps,
    /// How many rows and columns of such pixels there are.
    pub count: [usize; 2],
    /// The pixel of the scratch image where the first one's window begins.
    pub start: usize,
    pub steps: Vec<Step>,
    /// Numbers of its packed weights.
    pub weights: Range<usize>,
}

impl Class {
    /// How many of its rows are done with the first `filled` of `all` rows of `dy`.
    pub fn ready(&self, filled: usize, all: usize) -> usize {
        if filled == all {
            return self.count[0];
        }
        let reach = self.rows.first + self.rows.taps.len() as isize - 1;
        (filled as isize - reach).clamp(0, self.count[0] as isize) as usize
    }
}

impl InputGrad {
    pub fn new(shape: &ConvShape, w: &[f32], packed: &mut Buffer<bf16>) -> InputGrad {
        let mut classes = Vec::new();
        for row in 0..shape.stride.min(shape.h) {
            for col in 0..shape.stride.min(shape.w) {
                classes.push(Class {
                    row,
                    col,
                    rows: Taps::new(shape, row, shape.h),
                    cols: Taps::new(shape, col, shape.w),
                    count: [
                        (shape.h - row).div_ceil(shape.stride),
                        (shape.w - col).div_ceil(shape.stride),
                    ],
                    start: 0,
                    steps: Vec::new(),
                    weights: 0..0,
                });
            }
        }
        let most = |edge: fn(&Class) -> isize| classes.iter().map(edge).fold(0, isize::max);
        let (top, left) = (most(|c| -c.rows.first), most(|c| -c.cols.first));
        let bottom = most(|c| c.rows.end).max(shape.ho() as isize);
        let right = most(|c| c.cols.end).max(shape.wo() as isize);
        let layout = Layout {
            channels: shape.co,
            paired: shape.co <= SIDE,
            images: side_by_side(shape.wo()),
            rows: (top + bottom) as usize,
            cols: (left + right) as usize,
            phases: 1,
            step: 1,
            sample: 1,
            top,
            left,
        };
        let (k, ci) = (shape.kernel, shape.ci);
        let mut all = Vec::new();
        for class in &mut classes {
            let taps = steps(&layout, &class.rows.taps, &class.cols.taps);
            class.steps = offsets(&taps);
            // A class without taps reads nothing, and may begin outside.
            if !taps.is_empty() {
                let (row, col) = (top + class.rows.first, left + class.cols.first);
                class.start = row as usize * layout.row() + col as usize * layout.images;
            }
            let first = all.len();
            all.resize(first + ci.div_ceil(SIDE) * taps.len() * TILE, bf16::ZERO);
            pack(&taps, ci, shape.co, &mut all[first..], |c, [a, b], o| {
                w[((o * k + a) * k + b) * ci + c]
            });
            class.weights = first..all.len();
        }
        packed.resize(all.len()).copy_from_slice(&all);
        InputGrad {
            shape: *shape,
            layout,
            classes,
        }
    }

    /// Puts 16 channels of a pixel of `dy` of image number `g` into the scratch image.
    #[inline(always)]
    pub fn put<S: Simd>(
        &self,
        s: S,
        v: S::V,
        [row, col]: [usize; 2],
        g: usize,
        block: usize,
        to: &mut [Pixel],
    ) {
        let layout = &self.layout;
        let (row, col) = (row + layout.top as usize, col + layout.left as usize);
        let pixel = (row * layout.cols + col) * layout.images + g;
        if layout.paired {
            s.store_bf16(&mut to[pixel].as_chunks_mut().0[0], v);
            if col > 0 {
                // The right neighbour of the one before.
                s.store_bf16(&mut to[pixel - layout.images].as_chunks_mut().0[1], v);
            }
        } else {
            let to = &mut to[block / 2 * layout.block() + pixel];
            s.store_bf16(&mut to.as_chunks_mut().0[block % 2], v);
        }
    }

    /// Tiles in a row of a class.
    pub fn places(&self, class: &Class, images: usize) -> Places {
        let ConvShape { stride, ci, .. } = self.shape;
        let image = self.shape.x_image();
        Places::new(
            class.count[1],
            stride * ci,
            images,
            self.layout.images,
            image,
        )
    }
}

/// Gradients of some images' inputs: `dx = (sums + add)·[load(x) > 0]`, and sums of that.
pub(super) struct Output<'a> {
    pub channels: usize,
    /// Elements from one of a class's rows to the next, and of its first pixel.
    pub row: usize,
    /// See `row`.
    pub first: usize,
    pub places: Places,
    pub dx: &'a mut [bf16],
    pub add: Add<'a, bf16>,
    /// The input, if `dx` is masked by it.
    pub mask: Option<&'a [bf16]>,
    pub coefficients: &'a Coefficients,
    /// Raw input and mean of the batch norm before, and `Σ dx`, `Σ dx·(raw − mean)` of each block of
    /// channels.
    pub norm: Option<(&'a [bf16], &'a Buffer, &'a mut [[[f64; LANES]; 2]])>,
}

impl Finish for Output<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S, row: usize, tile: usize, block: usize, sums: &Sums) {
        let place = [row, tile, block];
        if self.channels - block * SIDE >= SIDE {
            s.call(Tile::<true>(self, place, sums));
        } else {
            s.call(Tile::<false>(self, place, sums));
        }
    }
}

/// A tile of sums (row, tile in it, block of channels) on its way to memory, in a function of its own: what
/// it needs is in registers.
struct Tile<'a, 'b, const FULL: bool>(&'a mut Output<'b>, [usize; 3], &'a Sums);

impl<const FULL: bool> Kernel for Tile<'_, '_, FULL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile(out, [row, tile, block], sums) = self;
        let first = out.first + row * out.row + block * SIDE;
        let lanes = LANES.min(out.channels - block * SIDE);
        let source = SourceImage {
            x: out.mask.unwrap_or(&[]),
            coefficients: out.coefficients,
        };
        let coefficients = source.block(s, block);
        let zero = s.splat(0.0);
        let mean = match &out.norm {
            Some((_, mean, _)) => vector(s, mean, block),
            None => zero,
        };
        let (mut sum, mut products) = ([zero; 2], [zero; 2]);
        let rows = sums.as_chunks::<LANES>().0;
        let dx = &mut *out.dx;
        for (i, &(output, at)) in out.places.of(tile).iter().enumerate() {
            let at = first + at as usize;
            let mut v = s.load(&rows[output as usize]);
            match out.add {
                Add::None => {}
                Add::InPlace => v = s.add(v, read::<S, _, FULL>(s, dx, at, lanes)),
                Add::From(add) => {
                    ahead(s, add, at);
                    v = s.add(v, read::<S, _, FULL>(s, add, at, lanes));
                }
            }
            if out.mask.is_some() {
                let x = source.at::<S, FULL>(s, &coefficients, at, lanes);
                v = s.where_positive(x, v);
            }
            match dx[at..].first_chunk_mut() {
                Some(to) if FULL => s.store_bf16(to, v),
                _ => Element::store_first(s, &mut dx[at..at + lanes], v),
            }
            if let Some((raw, ..)) = &out.norm {
                ahead(s, raw, at);
                let raw = read::<S, _, FULL>(s, raw, at, lanes);
                sum[i % 2] = s.add(sum[i % 2], v);
                products[i % 2] = s.fma(v, s.sub(raw, mean), products[i % 2]);
            }
        }
        if let Some((_, _, all)) = &mut out.norm {
            let all = &mut all[block];
            add_wide(s, &mut all[0], s.add(sum[0], sum[1]));
            add_wide(s, &mut all[1], s.add(products[0], products[1]));
        }
    }
}

/// Brings nearer what will be read soon.
#[inline(always)]
fn ahead<S: Simd>(s: S, x: &[bf16], at: usize) {
    s.prefetch(x.as_ptr().wrapping_add(at + AHEAD).cast());
}
