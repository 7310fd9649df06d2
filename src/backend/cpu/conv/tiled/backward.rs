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
use super::dgrad::{InputGrad, NormSums, Output};
use super::fill::{Pairs, Pixel};
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
        dgrad: InputGrad::new(shape),
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
        whole.dgrad.pack(w, &mut call.weights);
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
    tasks.for_each(|chunk| all.run(chunk));
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
    dgrad: InputGrad,
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

impl Whole<'_> {
    fn run(&self, mut chunk: Chunk) {
        let (isa, whole) = (self.isa, self);
        let (shape, pairs_layout) = (whole.shape, &whole.pairs);
        let (ho, side) = (shape.ho(), pairs_layout.images);
        let tiles = (shape.wo() * side).div_ceil(SIDE);
        let outputs = shape.co.div_ceil(SIDE);
        // Sets that are done together, and rows of them.
        let sets = (STEPS / (ho * tiles)).clamp(1, chunk.images.len().div_ceil(2 * side));
        let band = (STEPS / (sets * tiles)).clamp(1, ho);
        let unit = Tiles::new(isa);
        let mut scratch = TILE_TASK.take();

        let set_pairs = pairs_layout.channels.div_ceil(LANES) * pairs_layout.block() + SIDE;
        let pairs = scratch.pairs.resize(sets * set_pairs * LANES);
        let pairs = pairs.as_chunks_mut::<LANES>().0;
        for pairs in pairs.chunks_exact_mut(set_pairs) {
            pairs_layout.clear_pairs([whole.pixels.h, whole.pixels.w], pairs);
        }
        let apart = sets * band * tiles * SIDE * LANES;
        let transposed = scratch.transposed.resize(outputs * apart);
        let layout = &self.dgrad.layout;
        let image_len = layout.len(layout.blocks()) / DEPTH;
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
        for image in images.chunks_exact_mut(image_len) {
            layout.clear([ho, shape.wo()], image);
        }
        let mut sums = vec![[[0.0; LANES]; 2]; shape.ci.div_ceil(SIDE)];
        let mut steps = Vec::new();
        let mut first = true;
        for start in chunk.images.clone().step_by(sets * 2 * side) {
            let round = start..chunk.images.end.min(start + sets * 2 * side);
            let mut filled = 0;
            let mut done = vec![0; whole.dgrad.classes.len()];
            if round.len() < sets * 2 * side {
                // The gradients of images that there are not.
                images.fill([bf16::ZERO; DEPTH]);
            }
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
                    whole.fill_x(&set_images, filled..needed, (narrow, windows), pairs);
                    let to = Gradients {
                        tiles: &mut transposed[set * band * tiles * SIDE * LANES..],
                        apart,
                        images: &mut images[set * 2 * image_len..][..2 * image_len],
                    };
                    whole.fill_dy(&set_images, rows.clone(), to);
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
                let Some(dx) = &mut chunk.dx else { continue };
                let dgrad = &whole.dgrad;
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
                            norm: whole.norm.as_ref().map(|(raw, mean)| NormSums {
                                raw: &raw[range],
                                mean,
                                sums: &mut sums,
                            }),
                        };
                        // SAFETY: the layout has room for all that the class's taps reach, and a tile
                        // more; the weights are those of its steps.
                        unsafe { grid.run(isa, &unit, rows.clone(), &mut out) };
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
    fn fill_x(
        &self,
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
                    .fill_pairs(self.isa, [&low, &high], size, g, rows.clone(), pairs);
                continue;
            }
            let block = self.pairs.block();
            let (first, second) = windows.split_at_mut(block + SIDE);
            for (image, to) in [(&low, &mut *first), (&high, &mut *second)] {
                windows::fill(
                    self.isa,
                    self.shape,
                    image,
                    (g, side),
                    rows.clone(),
                    narrow,
                    to,
                );
            }
            let row = self.pairs.row();
            self.isa.run(PairWindows {
                images: [first, second],
                pixels: rows.start * row + g..rows.end * row,
                side,
                halves: pairs.chunks_mut(block),
            });
        }
    }

    /// Rows of a set's output gradient.
    fn fill_dy(&self, set: &Range<usize>, rows: Range<usize>, to: Gradients) {
        let len = self.shape.y_image();
        match (&self.grads.0, self.dy.norm.as_ref()) {
            (Some(coefficients), Some(norm)) => {
                let image = |i: usize| NormGradImage {
                    g: &self.dy.g[i * len..(i + 1) * len],
                    y: &norm.y[i * len..(i + 1) * len],
                    coefficients,
                };
                self.fill_gradients(image, set, rows, to);
            }
            _ => {
                let image = |i: usize| GradImage(&self.dy.g[i * len..(i + 1) * len]);
                self.fill_gradients(image, set, rows, to);
            }
        }
    }

    fn fill_gradients<L: Load>(
        &self,
        image: impl Fn(usize) -> L,
        set: &Range<usize>,
        rows: Range<usize>,
        to: Gradients,
    ) {
        let (isa, layout, side) = (self.isa, &self.dgrad.layout, self.pairs.images);
        let size = [self.shape.ho(), self.shape.wo()];
        let (first, second) = to.images.split_at_mut(to.images.len() / 2);
        // The scratch images' rows begin where `dy`'s meet the kernel's first.
        let below = rows.start + layout.top as usize..rows.end + layout.top as usize;
        for i in 0..set.len() {
            let to = if i < side { &mut *first } else { &mut *second };
            let image = image(set.start + i);
            layout.fill(isa, &image, size, i % side, below.clone(), to);
        }
        let positions = self.shape.wo() * side;
        let tiles = positions.div_ceil(SIDE);
        for block in 0..self.shape.co.div_ceil(SIDE) {
            for (i, row) in below.clone().enumerate() {
                let half = if layout.paired { 0 } else { block % 2 };
                let from =
                    block / 2 * layout.block() + row * layout.row() + layout.left as usize * side;
                let at = block * to.apart + i * tiles * SIDE * LANES;
                isa.run(Transpose {
                    images: [&first[from..][..positions], &second[from..][..positions]],
                    half,
                    tiles: &mut to.tiles[at..][..tiles * SIDE * LANES],
                });
            }
        }
    }
}

/// Pixels of 32 channels of two images, every `side`th, to pairs of 16 and 16.
struct PairWindows<'a> {
    images: [&'a [Pixel]; 2],
    pixels: Range<usize>,
    side: usize,
    halves: std::slice::ChunksMut<'a, Pairs>,
}

impl Kernel for PairWindows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [first, second] = self.images;
        for (half, to) in self.halves.take(2).enumerate() {
            for pixel in self.pixels.clone().step_by(self.side) {
                let low = s.load_bf16(&first[pixel].as_chunks().0[half]);
                let high = s.load_bf16(&second[pixel].as_chunks().0[half]);
                s.store(&mut to[pixel], s.pair_bf16(low, high));
            }
        }
    }
}

/// 16 channels of a row of two scratch images of output gradients, to `A` tiles of the weights'
/// gradient.
struct Transpose<'a> {
    images: [&'a [Pixel]; 2],
    /// Which of their pixels' channels.
    half: usize,
    tiles: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [first, second] = self.images.map(|image| image.chunks(SIDE));
        let tiles = self.tiles.as_chunks_mut::<{ SIDE * LANES }>().0;
        for ((tile, first), second) in tiles.iter_mut().zip(first).zip(second) {
            let mut pairs = [s.splat(0.0); LANES];
            for ((pair, low), high) in pairs.iter_mut().zip(first).zip(second) {
                let low = &low.as_chunks().0[self.half];
                *pair = s.interleave_bf16(low, &high.as_chunks().0[self.half]);
            }
            let tile = tile.as_chunks_mut::<LANES>().0;
            for (to, row) in tile.iter_mut().zip(s.transpose(pairs)) {
                s.store(to, row);
            }
        }
    }
}
