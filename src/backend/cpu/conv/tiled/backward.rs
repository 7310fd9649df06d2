//! Backward convolution on tiles: `dw`, and `dx` with what becomes of it, in one pass over the images.
//!
//! A task takes a fixed chunk of images, in sets of two times as many as lie side by side. Some rows
//! at a time it brings `load(x)` of a set into pairs, and `dy`, with the batch norm's backward pass on the way,
//! both into scratch images for the input's gradient and, transposed, into tiles for the weights';
//! then it takes both gradients while all of it is in L1.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::backward::{
    GradCoefficients, GradImage, GradSource, InputGradOut, NormGradImage,
};
use super::super::dgrad::Add;
use super::super::shape::ConvShape;
use super::super::source::{Coefficients, Source, SourceImage, add_lanes};
use super::super::tile::{Load, padded};
use super::dgrad::{InputGrad, Output};
use super::fill::{AHEAD, Pairs, Pixel};
use super::grid::Grid;
use super::layout::Layout;
use super::wgrad::WeightGrad;
use super::windows;
use crate::backend::cpu::scratch::{TILE_CALL, TILE_TASK};
use crate::backend::cpu::simd::{Buffer, Isa, Kernel, LANES, Simd};
use crate::backend::cpu::tiles::{DEPTH, SIDE, Step, Tiles};

/// Steps of the weights' gradient in one go, about: more do not stay in L1, fewer do not pay for the sums'
/// way to memory.
const STEPS: usize = 16;

/// As [`backward`](super::super::backward::backward), with activations and their gradients in bf16.
///
/// # Panics
/// If a slice's length is not the shape's.
pub fn backward(
    isa: Isa,
    shape: &ConvShape,
    source: Source<bf16>,
    w: &[f32],
    dy: GradSource<bf16>,
    dw: &mut [f32],
    dx: Option<InputGradOut<bf16>>,
) {
    shape.check();
    let (x_len, y_len) = (shape.n * shape.x_image(), shape.n * shape.y_image());
    assert_eq!(source.x.len(), x_len, "x of {shape:?}");
    assert_eq!(w.len(), shape.weights(), "weights of {shape:?}");
    assert_eq!(dw.len(), shape.weights(), "dw of {shape:?}");
    assert_eq!(dy.g.len(), y_len, "output gradient of {shape:?}");
    let by_windows = windows::fits(shape);
    let pixels = match by_windows {
        true => windows::as_pixels(shape),
        false => *shape,
    };
    let pairs = Layout::of_pairs(&pixels);
    let mut call = TILE_CALL.take();
    let mut whole = Whole {
        isa,
        shape,
        source: &source,
        coefficients: Coefficients::new(&source, shape.ci),
        dy: &dy,
        grads: GradCoefficients::new(&dy, shape),
        by_windows,
        pixels,
        wgrad: WeightGrad::new(shape, &pairs, pixels.kernel),
        pairs,
        dgrad: None,
        weights: &[],
        add: Add::None,
        relu: false,
        norm: None,
    };
    let images = images_in_task(shape, pairs.images);
    let chunks = shape.n.div_ceil(images);
    let partials = call.partials.resize(chunks * whole.wgrad.len());
    let mut tasks: Vec<_> = partials
        .chunks_mut(whole.wgrad.len())
        .enumerate()
        .map(|(i, dw)| Chunk {
            images: i * images..shape.n.min((i + 1) * images),
            dw,
            dx: None,
            sums: None,
        })
        .collect();
    let mut sums = None;
    let mut partial_sums = Vec::new();
    if let Some(out) = dx {
        assert_eq!(out.dx.len(), x_len, "dx of {shape:?}");
        if let Add::From(add) = out.add {
            assert_eq!(add.len(), x_len, "add of {shape:?}");
        }
        (whole.add, whole.relu) = (out.add, out.relu);
        whole.dgrad = Some(InputGrad::new(shape, w, &mut call.weights));
        whole.weights = &call.weights;
        let parts = out.dx.chunks_mut(images * shape.x_image());
        for (task, dx) in tasks.iter_mut().zip(parts) {
            task.dx = Some(dx);
        }
        if let Some(sums) = &out.sums {
            assert_eq!(sums.raw.len(), x_len, "raw of {shape:?}");
            whole.norm = Some((sums.raw, padded(shape.ci, |c| sums.mean[c])));
            partial_sums = vec![0.0; chunks * 2 * shape.ci];
            for (task, sums) in tasks.iter_mut().zip(partial_sums.chunks_mut(2 * shape.ci)) {
                task.sums = Some(sums);
            }
        }
        sums = out.sums;
    }
    let all = &whole;
    let tasks = tasks.into_par_iter().with_max_len(1);
    tasks.for_each(|chunk| isa.run(Backward { whole: all, chunk }));
    whole.wgrad.reduce(isa, partials, dw);
    if let Some(sums) = sums {
        for c in 0..shape.ci {
            let total = |first: usize| -> f64 {
                partial_sums[first + c..].iter().step_by(2 * shape.ci).sum()
            };
            sums.dbeta[c] = total(0) as f32;
            sums.dgamma[c] = (total(shape.ci) * f64::from(sums.invstd[c])) as f32;
        }
    }
    TILE_CALL.set(call);
}

/// Images of a task, each of which has its own partial `dw`: a function of the shape alone, as is all
/// that results depend on.
fn images_in_task(shape: &ConvShape, side: usize) -> usize {
    let chunks = ((1 << 19) / shape.weights()).clamp(8, 32);
    shape.n.div_ceil(chunks).next_multiple_of(2 * side)
}

/// What all chunks read.
struct Whole<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    source: &'a Source<'a, bf16>,
    coefficients: Coefficients,
    dy: &'a GradSource<'a, bf16>,
    grads: GradCoefficients,
    /// Whether windows become pixels, and the convolution on those.
    by_windows: bool,
    pixels: ConvShape,
    /// Of its input.
    pairs: Layout,
    wgrad: WeightGrad,
    dgrad: Option<InputGrad>,
    /// Packed for `dgrad`.
    weights: &'a [bf16],
    add: Add<'a, bf16>,
    relu: bool,
    /// Raw input and mean (in whole vectors) of the batch norm before.
    norm: Option<(&'a [bf16], Buffer)>,
}

/// A chunk of images, and where its results go.
struct Chunk<'a> {
    images: Range<usize>,
    /// Partial sum.
    dw: &'a mut [f32],
    dx: Option<&'a mut [bf16]>,
    /// `Σ dx` and `Σ dx·(raw − mean)`, `[2][ci]`.
    sums: Option<&'a mut [f64]>,
}

struct Backward<'a> {
    whole: &'a Whole<'a>,
    chunk: Chunk<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { whole, mut chunk } = self;
        let (shape, pairs_layout) = (whole.shape, &whole.pairs);
        let (ho, side) = (shape.ho(), pairs_layout.images);
        let tiles = (shape.wo() * side).div_ceil(SIDE);
        let outputs = shape.co.div_ceil(SIDE);
        // Sets that are done together, and rows of them.
        let sets = (STEPS / (ho * tiles)).clamp(1, chunk.images.len().div_ceil(2 * side));
        let band = (STEPS / (sets * tiles)).clamp(1, ho);
        let unit = Tiles::new(whole.isa);
        let mut scratch = TILE_TASK.take();

        let set_pairs = pairs_layout.channels.div_ceil(LANES) * pairs_layout.block() + SIDE;
        let pairs = scratch.pairs.resize(sets * set_pairs * LANES);
        let pairs = pairs.as_chunks_mut::<LANES>().0;
        for pairs in pairs.chunks_exact_mut(set_pairs) {
            pairs_layout.clear_pairs([whole.pixels.h, whole.pixels.w], pairs);
        }
        let apart = sets * band * tiles * SIDE * LANES;
        let transposed = scratch.transposed.resize(outputs * apart);
        let mut image_len = 0;
        if let Some(dgrad) = &whole.dgrad {
            image_len = dgrad.layout.len(dgrad.layout.blocks()) / DEPTH;
        }
        // Windows on their way to pairs take the same room.
        let room = match whole.by_windows {
            true => 2 * (pairs_layout.block() + SIDE),
            false => 0,
        };
        let images = scratch.images.resize((2 * sets * image_len + room) * DEPTH);
        let (images, windows) = images
            .as_chunks_mut::<DEPTH>()
            .0
            .split_at_mut(2 * sets * image_len);
        if let Some(dgrad) = &whole.dgrad {
            for image in images.chunks_exact_mut(image_len) {
                dgrad.layout.clear([ho, shape.wo()], image);
            }
        }
        let mut sums = vec![[[0.0; LANES]; 2]; shape.ci.div_ceil(SIDE)];
        let mut steps = Vec::new();
        let mut first = true;
        for start in chunk.images.clone().step_by(sets * 2 * side) {
            let round = start..chunk.images.end.min(start + sets * 2 * side);
            let mut filled = 0;
            let mut done = vec![0; whole.dgrad.as_ref().map_or(0, |d| d.classes.len())];
            for from in (0..ho).step_by(band) {
                let rows = from..ho.min(from + band);
                let needed = match whole.pixels.kernel {
                    1 => rows.end,
                    kernel => (rows.end - 1) * shape.stride + kernel,
                };
                steps.clear();
                for set in 0..sets {
                    let low = round.start + set * 2 * side;
                    let set_images = low.min(round.end)..round.end.min(low + 2 * side);
                    let pairs = &mut pairs[set * set_pairs..][..set_pairs];
                    let narrow = &mut scratch.narrow;
                    whole.fill_x(s, &set_images, filled..needed, (narrow, windows), pairs);
                    let to = Gradients {
                        tiles: &mut transposed[set * band * tiles * SIDE * LANES..],
                        apart,
                        images: &mut images[set * 2 * image_len..][..2 * image_len],
                    };
                    whole.fill_dy(s, &set_images, rows.clone(), to);
                    for row in 0..rows.len() {
                        let above = match whole.pixels.kernel {
                            1 => rows.start + row,
                            _ => (rows.start + row) * shape.stride,
                        };
                        for tile in 0..tiles {
                            let a = (set * band + row) * tiles + tile;
                            let pixel = set * set_pairs + above * pairs_layout.row() + tile * SIDE;
                            steps.push(Step {
                                a: (a * SIDE * size_of::<Pairs>()) as u32,
                                b: (pixel * size_of::<Pairs>()) as u32,
                            });
                        }
                    }
                }
                filled = needed;
                // SAFETY: the tiles are those of the band, and the scratch images have the rows and
                // columns that windows of its outputs reach and a tile more.
                unsafe {
                    whole
                        .wgrad
                        .add(&unit, (transposed, apart), pairs, &steps, chunk.dw, first);
                }
                first = false;
                let (Some(dgrad), Some(dx)) = (&whole.dgrad, &mut chunk.dx) else {
                    continue;
                };
                for (class, done) in dgrad.classes.iter().zip(&mut done) {
                    let rows = *done..class.ready(rows.end, ho);
                    *done = rows.end;
                    for (i, pixels) in images.chunks_exact(image_len).enumerate() {
                        let low = round.start + i * side;
                        let count = round.end.saturating_sub(low).min(side);
                        if count == 0 {
                            continue;
                        }
                        let x_image = shape.x_image();
                        let range = low * x_image..(low + count) * x_image;
                        let in_chunk = (low - chunk.images.start) * x_image;
                        let places = dgrad.places(class, count);
                        let grid = Grid {
                            pixels,
                            start: class.start,
                            apart: dgrad.layout.row(),
                            tiles: places.tiles(),
                            steps: &class.steps,
                            weights: &whole.weights[class.weights.clone()],
                            channels: shape.ci,
                        };
                        let mut out = Output {
                            channels: shape.ci,
                            row: shape.stride * shape.w * shape.ci,
                            first: (class.row * shape.w + class.col) * shape.ci,
                            places,
                            dx: &mut dx[in_chunk..][..range.len()],
                            add: match whole.add {
                                Add::From(add) => Add::From(&add[range.clone()]),
                                other => other,
                            },
                            mask: whole.relu.then(|| &whole.source.x[range.clone()]),
                            coefficients: &whole.coefficients,
                            norm: whole
                                .norm
                                .as_ref()
                                .map(|(raw, mean)| (&raw[range], mean, &mut sums[..])),
                        };
                        // SAFETY: the layout has room for all that the class's taps reach, and a tile
                        // more; the weights are those of its steps.
                        unsafe { grid.run(s, &unit, rows.clone(), &mut out) };
                    }
                }
            }
        }
        if let Some(to) = chunk.sums {
            let (dbeta, dgamma) = to.split_at_mut(shape.ci);
            for (b, lanes) in sums.into_iter().enumerate() {
                let channels = b * SIDE..shape.ci.min((b + 1) * SIDE);
                add_lanes(&mut dbeta[channels.clone()], lanes[0]);
                add_lanes(&mut dgamma[channels], lanes[1]);
            }
        }
        TILE_TASK.set(scratch);
    }
}

/// Where the output gradient of a set of images goes.
struct Gradients<'a> {
    /// `A` tiles of the weights' gradient, by rows and tiles; those of a block of channels `apart` from
    /// those of the one before.
    tiles: &'a mut [f32],
    apart: usize,
    /// The scratch images of the set's first and second half.
    images: &'a mut [Pixel],
}

impl Whole<'_> {
    /// Rows of a set's input, in pairs.
    #[inline(always)]
    fn fill_x<S: Simd>(
        &self,
        s: S,
        set: &Range<usize>,
        rows: Range<usize>,
        (narrow, windows): (&mut Vec<bf16>, &mut [Pixel]),
        pairs: &mut [Pairs],
    ) {
        let side = self.pairs.images;
        let image = |i: usize| {
            let len = self.shape.x_image();
            SourceImage {
                x: &self.source.x[i * len..(i + 1) * len],
                coefficients: &self.coefficients,
            }
        };
        for g in 0..side.min(set.len()) {
            let low = image(set.start + g);
            // Where there is no second image its gradient is zero, and any number will do.
            let high = image(match set.start + side + g {
                second if second < set.end => second,
                _ => set.start + g,
            });
            if !self.by_windows {
                let size = [self.shape.h, self.shape.w];
                self.pairs
                    .fill_pairs(s, [&low, &high], size, g, rows.clone(), pairs);
                continue;
            }
            let block = self.pairs.block();
            let (first, second) = windows.split_at_mut(block + SIDE);
            for (image, to) in [(&low, &mut *first), (&high, &mut *second)] {
                windows::fill(s, self.shape, image, (g, side), rows.clone(), narrow, to);
            }
            let row = self.pairs.row();
            for pixel in (rows.start * row + g..rows.end * row).step_by(side) {
                for half in 0..2 {
                    let low = s.load_bf16(&first[pixel].as_chunks().0[half]);
                    let high = s.load_bf16(&second[pixel].as_chunks().0[half]);
                    s.store(&mut pairs[half * block + pixel], s.pair_bf16(low, high));
                }
            }
        }
    }

    /// Rows of a set's output gradient.
    #[inline(always)]
    fn fill_dy<S: Simd>(&self, s: S, set: &Range<usize>, rows: Range<usize>, to: Gradients) {
        match (&self.grads.0, self.dy.norm.as_ref()) {
            (Some(coefficients), Some(norm)) => {
                let load = NormGradImage {
                    g: self.dy.g,
                    y: norm.y,
                    coefficients,
                };
                self.fill_gradients(s, &load, set, rows, to);
            }
            _ => self.fill_gradients(s, &GradImage(self.dy.g), set, rows, to),
        }
    }

    #[inline(always)]
    fn fill_gradients<S: Simd, L: Load>(
        &self,
        s: S,
        load: &L,
        set: &Range<usize>,
        rows: Range<usize>,
        to: Gradients,
    ) {
        let tiles = (self.shape.wo() * self.pairs.images).div_ceil(SIDE);
        let (first, second) = to.images.split_at_mut(to.images.len() / 2);
        for block in 0..self.shape.co.div_ceil(SIDE) {
            for (i, row) in rows.clone().enumerate() {
                let at = block * to.apart + i * tiles * SIDE * LANES;
                let gradients = GradientRow {
                    whole: self,
                    load,
                    set,
                    row,
                    block,
                    tiles: &mut to.tiles[at..][..tiles * SIDE * LANES],
                    images: [&mut *first, &mut *second],
                };
                if self.shape.co - block * SIDE >= LANES {
                    s.call(Full::<_, true>(gradients));
                } else {
                    s.call(Full::<_, false>(gradients));
                }
            }
        }
    }
}

/// 16 channels of a row of the output gradient of a set of images.
struct GradientRow<'a, L> {
    whole: &'a Whole<'a>,
    load: &'a L,
    set: &'a Range<usize>,
    row: usize,
    block: usize,
    /// Where its `A` tiles go.
    tiles: &'a mut [f32],
    images: [&'a mut [Pixel]; 2],
}

/// One that has all 16 channels, or not.
struct Full<'a, L, const FULL: bool>(GradientRow<'a, L>);

impl<L: Load, const FULL: bool> Kernel for Full<'_, L, FULL> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradientRow {
            whole,
            load,
            set,
            row,
            block,
            tiles,
            images: [first, second],
        } = self.0;
        let shape = whole.shape;
        let (wo, co, side, image) = (shape.wo(), shape.co, whole.pairs.images, shape.y_image());
        let coefficients = load.block(s, block);
        let lanes = LANES.min(co - block * SIDE);
        let (mut col, mut g) = (0, 0);
        for tile in tiles.as_chunks_mut::<{ SIDE * LANES }>().0 {
            let mut pairs = [s.splat(0.0); LANES];
            for pair in &mut pairs {
                if col == wo {
                    break;
                }
                let (low, high) = (set.start + g, set.start + side + g);
                let at = (row * wo + col) * co + block * SIDE;
                let mut values = [s.splat(0.0); 2];
                if low < set.end {
                    load.ahead(s, low * image + at + AHEAD);
                    values[0] = load.at::<S, FULL>(s, &coefficients, low * image + at, lanes);
                }
                if high < set.end {
                    load.ahead(s, high * image + at + AHEAD);
                    values[1] = load.at::<S, FULL>(s, &coefficients, high * image + at, lanes);
                }
                if let Some(dgrad) = &whole.dgrad {
                    dgrad.put(s, values[0], [row, col], g, block, first);
                    dgrad.put(s, values[1], [row, col], g, block, second);
                }
                *pair = s.pair_bf16(values[0], values[1]);
                g += 1;
                if g == side {
                    (col, g) = (col + 1, 0);
                }
            }
            let tile = tile.as_chunks_mut::<LANES>().0;
            for (to, row) in tile.iter_mut().zip(s.transpose(pairs)) {
                s.store(to, row);
            }
        }
    }
}
