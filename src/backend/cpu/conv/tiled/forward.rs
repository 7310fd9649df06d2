//! Forward convolution on tiles.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::shape::ConvShape;
use super::super::source::{Coefficients, Source, SourceImage, add_lanes};
use super::super::tile::write;
use super::fill::Pixel;
use super::grid::{Finish, Grid, Places, add_wide};
use super::layout::{Layout, offsets, pack, steps};
use super::windows;
use crate::backend::cpu::scratch::{TILE_CALL, TILE_TASK};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd};
use crate::backend::cpu::tiles::{DEPTH, SIDE, Step, Sums, TILE, Tiles};

/// As [`forward`](super::super::forward::forward), with `x` and `y` in bf16 and weights rounded to it.
///
/// # Panics
/// If a slice's length is not the shape's.
pub fn forward(
    isa: Isa,
    shape: &ConvShape,
    source: Source<bf16>,
    w: &[f32],
    y: &mut [bf16],
    moments: Option<(&mut [f32], &mut [f32])>,
) {
    shape.check();
    assert_eq!(source.x.len(), shape.n * shape.x_image(), "x of {shape:?}");
    assert_eq!(w.len(), shape.weights(), "weights of {shape:?}");
    assert_eq!(y.len(), shape.n * shape.y_image(), "y of {shape:?}");
    let coefficients = Coefficients::new(&source, shape.ci);
    let by_windows = windows::fits(shape);
    let layout = Layout::of_input(&match by_windows {
        true => windows::as_pixels(shape),
        false => *shape,
    });
    let kernel: Vec<usize> = (0..if by_windows { 1 } else { shape.kernel }).collect();
    let taps = steps(&layout, &kernel, &kernel);
    let mut call = TILE_CALL.take();
    let window = shape.kernel * shape.kernel * shape.ci;
    let weights = call
        .weights
        .resize(shape.co.div_ceil(SIDE) * taps.len() * TILE);
    pack(
        &taps,
        shape.co,
        layout.channels,
        weights,
        |o, [a, b], c| match by_windows {
            true if c >= window => 0.0,
            true => w[o * window + c],
            false => w[((o * shape.kernel + a) * shape.kernel + b) * shape.ci + c],
        },
    );
    let images = images_in_task(shape, layout.images);
    let tasks = shape.n.div_ceil(images);
    let mut sums = match moments {
        Some(_) => vec![0.0; tasks * 2 * shape.co],
        None => Vec::new(),
    };
    let whole = Whole {
        isa,
        shape,
        layout,
        by_windows,
        steps: &offsets(&taps),
        weights,
        coefficients: &coefficients,
    };
    let mut parts: Vec<_> = y
        .chunks_mut(images * shape.y_image())
        .zip(source.x.chunks(images * shape.x_image()))
        .map(|(y, x)| Forward {
            whole: &whole,
            x,
            y,
            sums: None,
        })
        .collect();
    for (part, sums) in parts.iter_mut().zip(sums.chunks_mut(2 * shape.co)) {
        part.sums = Some(sums);
    }
    parts.into_par_iter().with_max_len(1).for_each(Forward::run);
    TILE_CALL.set(call);
    if let Some((mean, var)) = moments {
        assert_eq!((mean.len(), var.len()), (shape.co, shape.co));
        let count = (shape.n * shape.ho() * shape.wo()) as f64;
        for c in 0..shape.co {
            let total =
                |first: usize| -> f64 { sums[first + c..].iter().step_by(2 * shape.co).sum() };
            let m = total(0) / count;
            mean[c] = m as f32;
            // Not `max`, which would turn a NaN into 0.
            let v = total(shape.co) / count - m * m;
            var[c] = if v < 0.0 { 0.0 } else { v as f32 };
        }
    }
}

/// Images that one thread does one after the other: a function of the shape alone.
pub(super) fn images_in_task(shape: &ConvShape, side: usize) -> usize {
    shape.n.div_ceil(32).next_multiple_of(side)
}

/// What all tasks read.
struct Whole<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    layout: Layout,
    by_windows: bool,
    steps: &'a [Step],
    weights: &'a [bf16],
    coefficients: &'a Coefficients,
}

/// Some images.
struct Forward<'a> {
    whole: &'a Whole<'a>,
    x: &'a [bf16],
    y: &'a mut [bf16],
    /// Σ y and Σ y², `[2][co]`.
    sums: Option<&'a mut [f64]>,
}

impl Forward<'_> {
    fn run(self) {
        let Forward { whole, x, y, sums } = self;
        let (isa, shape, layout) = (whole.isa, whole.shape, &whole.layout);
        let side = layout.images;
        let (x_image, y_image) = (shape.x_image(), shape.y_image());
        let unit = Tiles::new(isa);
        let mut scratch = TILE_TASK.take();
        let pixels = scratch.images.resize(layout.len(layout.blocks()));
        let pixels = pixels.as_chunks_mut::<DEPTH>().0;
        let blocks = shape.co.div_ceil(SIDE);
        let mut out = Output {
            channels: shape.co,
            row: shape.wo() * shape.co,
            places: Places::new(shape.wo(), shape.co, side, side, y_image),
            y: &mut [],
            sums: sums.is_some().then(|| vec![[[0.0; LANES]; 2]; blocks]),
        };
        match whole.by_windows {
            true => pixels.fill([bf16::ZERO; DEPTH]),
            false => layout.clear([shape.h, shape.w], pixels),
        }
        let tiles = out.places.tiles();
        // As many rows as make a few blocks: they stay in L1 from the fill to the products.
        let band = (8 / tiles).clamp(1, shape.ho());
        let groups = y.chunks_mut(side * y_image).zip(x.chunks(side * x_image));
        for (y, x) in groups {
            let images = x.len() / x_image;
            if images < side {
                out.places = Places::new(shape.wo(), shape.co, images, side, y_image);
            }
            out.y = y;
            let mut filled = 0;
            for from in (0..shape.ho()).step_by(band) {
                let rows = from..shape.ho().min(from + band);
                let needed = match whole.by_windows {
                    true => rows.end,
                    false if shape.kernel == 1 => rows.end,
                    false => (rows.end - 1) * shape.stride + shape.kernel,
                };
                for (g, x) in x.chunks_exact(x_image).enumerate() {
                    let image = SourceImage {
                        x,
                        coefficients: whole.coefficients,
                    };
                    whole.fill(&image, g, filled..needed, &mut scratch.narrow, pixels);
                }
                filled = needed;
                let grid = Grid {
                    pixels,
                    start: 0,
                    apart: match shape.kernel {
                        1 => layout.row(),
                        _ if whole.by_windows => layout.row(),
                        _ => shape.stride * layout.row(),
                    },
                    tiles,
                    steps: whole.steps,
                    weights: whole.weights,
                    channels: shape.co,
                };
                // SAFETY: the layout has the rows and columns that windows of all outputs reach,
                // and 16 pixels more, as a tile may have; weights are packed for the steps.
                unsafe { grid.run(isa, &unit, rows, &mut out) };
            }
        }
        if let (Some(sums), Some(all)) = (sums, out.sums) {
            let (sum, squares) = sums.split_at_mut(shape.co);
            for (b, lanes) in all.into_iter().enumerate() {
                let channels = b * SIDE..shape.co.min((b + 1) * SIDE);
                add_lanes(&mut sum[channels.clone()], lanes[0]);
                add_lanes(&mut squares[channels], lanes[1]);
            }
        }
        TILE_TASK.set(scratch);
    }
}

impl Whole<'_> {
    fn fill(
        &self,
        image: &SourceImage<bf16>,
        g: usize,
        rows: Range<usize>,
        narrow: &mut Vec<bf16>,
        to: &mut [Pixel],
    ) {
        let (shape, layout) = (self.shape, &self.layout);
        match self.by_windows {
            true => windows::fill(self.isa, shape, image, (g, layout.images), rows, narrow, to),
            false => layout.fill(self.isa, image, [shape.h, shape.w], g, rows, to),
        }
    }
}

/// `y` of the images side by side, and its sums.
struct Output<'a> {
    channels: usize,
    /// Elements of a row.
    row: usize,
    places: Places,
    y: &'a mut [bf16],
    /// Σ y and Σ y² of each block of channels.
    sums: Option<Vec<[[f64; LANES]; 2]>>,
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
        let first = row * out.row + block * SIDE;
        let lanes = LANES.min(out.channels - block * SIDE);
        let rows = sums.as_chunks::<LANES>().0;
        let y = &mut *out.y;
        let mut totals = [[s.splat(0.0); 2]; 2];
        let [even, odd] = &mut totals;
        // Two sums of each kind: the next pixel's need not wait for the last one's.
        let mut places = out.places.of(tile).chunks_exact(2);
        for two in &mut places {
            let v = s.load(&rows[two[0].0 as usize]);
            write::<S, _, FULL>(s, y, first + two[0].1 as usize, lanes, v);
            *even = [s.add(even[0], v), s.fma(v, v, even[1])];
            let v = s.load(&rows[two[1].0 as usize]);
            write::<S, _, FULL>(s, y, first + two[1].1 as usize, lanes, v);
            *odd = [s.add(odd[0], v), s.fma(v, v, odd[1])];
        }
        for &(output, at) in places.remainder() {
            let v = s.load(&rows[output as usize]);
            write::<S, _, FULL>(s, y, first + at as usize, lanes, v);
            *even = [s.add(even[0], v), s.fma(v, v, even[1])];
        }
        if let Some(all) = &mut out.sums {
            let all = &mut all[block];
            add_wide(s, &mut all[0], s.add(even[0], odd[0]));
            add_wide(s, &mut all[1], s.add(even[1], odd[1]));
        }
    }
}
