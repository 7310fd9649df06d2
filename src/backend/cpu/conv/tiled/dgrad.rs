//! The input's gradient on tiles: the forward pass's products over `dy`, with the kernel flipped and the
//! channels' roles exchanged, and what becomes of it while it is still in L1.

use std::ops::Range;

use half::bf16;

use super::super::dgrad::{Add, Taps};
use super::super::shape::ConvShape;
use super::super::source::{Coefficients, SourceImage};
use super::super::tile::{Load, read, vector, write};
use super::fill::AHEAD;
use super::grid::{Finish, Places, add_wide};
use super::layout::{Layout, offsets, pack, side_by_side, steps};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, LANES, Simd};
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
    /// Without steps and weights, which not every convolution needs.
    pub fn new(shape: &ConvShape) -> InputGrad {
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
        InputGrad {
            shape: *shape,
            layout,
            classes,
        }
    }

    /// Sets the classes' steps and packs their weights.
    pub fn pack(&mut self, w: &[f32], packed: &mut Buffer<bf16>) {
        let (layout, shape) = (&self.layout, &self.shape);
        let (top, left) = (layout.top, layout.left);
        let (k, ci) = (shape.kernel, shape.ci);
        let mut all = Vec::new();
        for class in &mut self.classes {
            let taps = steps(layout, &class.rows.taps, &class.cols.taps);
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
    pub norm: Option<NormSums<'a>>,
}

/// What the batch norm before wants of `dx`.
pub(super) struct NormSums<'a> {
    /// Its raw input.
    pub raw: &'a [bf16],
    /// Its mean.
    pub mean: &'a Buffer,
    /// `Σ dx` and `Σ dx·(raw − mean)` of each block of channels.
    pub sums: &'a mut [[[f64; LANES]; 2]],
}

impl Finish for Output<'_> {
    fn finish(&mut self, isa: Isa, row: usize, tile: usize, block: usize, sums: &Sums) {
        let place = [row, tile, block];
        if self.channels - block * SIDE >= SIDE {
            isa.run(Tile::<true>(self, place, sums));
        } else {
            isa.run(Tile::<false>(self, place, sums));
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
        let mean = match &out.norm {
            Some(norm) => vector(s, norm.mean, block),
            None => s.splat(0.0),
        };
        let places = out.places.of(tile);
        let rows = sums.as_chunks::<LANES>().0;
        let mut pass = Pixels::<_, FULL> {
            dx: &mut *out.dx,
            add: out.add,
            source,
            coefficients,
            masked: out.mask.is_some(),
            raw: out.norm.as_ref().map(|norm| norm.raw),
            mean,
            lanes,
        };
        // Two sums of each kind: the next pixel's need not wait for the last one's.
        let mut totals = [[s.splat(0.0); 2]; 2];
        let [even, odd] = &mut totals;
        let mut pairs = places.chunks_exact(2);
        for two in &mut pairs {
            pass.one(s, &rows[two[0].0 as usize], first + two[0].1 as usize, even);
            pass.one(s, &rows[two[1].0 as usize], first + two[1].1 as usize, odd);
        }
        for &(output, at) in pairs.remainder() {
            pass.one(s, &rows[output as usize], first + at as usize, even);
        }
        if let Some(norm) = &mut out.norm {
            let all = &mut norm.sums[block];
            add_wide(s, &mut all[0], s.add(even[0], odd[0]));
            add_wide(s, &mut all[1], s.add(even[1], odd[1]));
        }
    }
}

/// What pixels of a tile have in common.
struct Pixels<'a, V, const FULL: bool> {
    dx: &'a mut [bf16],
    add: Add<'a, bf16>,
    source: SourceImage<'a, bf16>,
    coefficients: [V; 3],
    masked: bool,
    raw: Option<&'a [bf16]>,
    mean: V,
    lanes: usize,
}

impl<V: Copy, const FULL: bool> Pixels<'_, V, FULL> {
    /// The gradient of a pixel at element `at`, added to `totals`: of it, and of it times `raw − mean`.
    #[inline(always)]
    fn one<S: Simd<V = V>>(&mut self, s: S, sum: &[f32; LANES], at: usize, totals: &mut [V; 2]) {
        let lanes = self.lanes;
        let mut v = s.load(sum);
        match self.add {
            Add::None => {}
            Add::InPlace => v = s.add(v, read::<S, _, FULL>(s, self.dx, at, lanes)),
            Add::From(add) => {
                ahead(s, add, at);
                v = s.add(v, read::<S, _, FULL>(s, add, at, lanes));
            }
        }
        if self.masked {
            let x = self.source.at::<S, FULL>(s, &self.coefficients, at, lanes);
            v = s.where_positive(x, v);
        }
        write::<S, _, FULL>(s, self.dx, at, lanes, v);
        if let Some(raw) = self.raw {
            ahead(s, raw, at);
            let raw = read::<S, _, FULL>(s, raw, at, lanes);
            *totals = [
                s.add(totals[0], v),
                s.fma(v, s.sub(raw, self.mean), totals[1]),
            ];
        }
    }
}

/// Brings nearer what will be read soon.
#[inline(always)]
fn ahead<S: Simd>(s: S, x: &[bf16], at: usize) {
    s.prefetch(x.as_ptr().wrapping_add(at + AHEAD).cast());
}
