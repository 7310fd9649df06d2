//! What forward and backward convolutions share: padded scratch images in blocks of channels, and
//! the register-tiled loop over them.
//!
//! A scratch image is `[blocks][rows][cols][width]`: `width` is 16 channels (or all of them where
//! there are fewer), so the window of one kernel row is one contiguous run of floats and pixels
//! lie at distances known at compile time, whatever the number of channels. A tile holds
//! `P` neighbouring outputs × `NV` vectors of 16 output channels in registers and walks the
//! runs: one weight vector per output block, one broadcast per pixel, `P·NV` multiply-adds.

#![allow(
    clippy::needless_range_loop,
    reason = "plain counters are what unrolls"
)]

use std::ops::Range;

use crate::backend::cpu::simd::{Buffer, Element, Kernel, LANES, Simd};

/// Size and meaning of a scratch image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Padded {
    /// Channels of the image in memory.
    pub channels: usize,
    /// Rows held.
    pub rows: usize,
    /// Columns held.
    pub cols: usize,
    /// Channels in a block: 16, or `channels` where there are fewer.
    pub width: usize,
    /// Pixel `(r, c)` is the image's `(r·sample − top, c·sample − left)`, or zero outside.
    pub sample: usize,
    /// See `sample`.
    pub top: isize,
    /// See `sample`.
    pub left: isize,
}

impl Padded {
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.width)
    }

    /// Floats from a row to the next.
    pub fn row(&self) -> usize {
        self.cols * self.width
    }

    /// Floats from a block to the next.
    pub fn block(&self) -> usize {
        self.rows * self.row()
    }

    pub fn len(&self) -> usize {
        self.blocks() * self.block()
    }

    /// Fills `to` from an `[h, w, channels]` image, read through `load`.
    #[inline(always)]
    pub fn fill<S: Simd, L: Load>(&self, s: S, load: &L, h: usize, w: usize, to: &mut [f32]) {
        assert_eq!(to.len(), self.len());
        let inside = |c: usize| {
            let x = (c * self.sample) as isize - self.left;
            (0..w as isize).contains(&x)
        };
        let first = (0..self.cols).find(|&c| inside(c)).unwrap_or(self.cols);
        let last = (first..self.cols)
            .find(|&c| !inside(c))
            .unwrap_or(self.cols);
        let rows = to.chunks_exact_mut(self.row());
        for (i, row) in rows.enumerate() {
            let (b, r) = (i / self.rows, i % self.rows);
            let y = (r * self.sample) as isize - self.top;
            if !(0..h as isize).contains(&y) || first == last {
                row.fill(0.0);
                continue;
            }
            let (before, rest) = row.split_at_mut(first * self.width);
            let (here, after) = rest.split_at_mut((last - first) * self.width);
            before.fill(0.0);
            after.fill(0.0);
            let x = (first * self.sample) as isize - self.left;
            let mut at = (y as usize * w + x as usize) * self.channels + b * LANES;
            let step = self.sample * self.channels;
            let coefficients = load.block(s, b);
            if self.channels - b * LANES >= LANES {
                for to in here.as_chunks_mut::<LANES>().0 {
                    s.store(to, load.at::<S, true>(s, &coefficients, at, LANES));
                    at += step;
                }
            } else {
                let lanes = self.channels - b * LANES;
                for to in here.chunks_exact_mut(self.width) {
                    s.store_first(to, load.at::<S, false>(s, &coefficients, at, lanes));
                    at += step;
                }
            }
        }
    }
}

/// Reads 16 lanes of an image, or `lanes` and zeros if not `FULL`.
#[inline(always)]
pub(crate) fn read<S: Simd, E: Element, const FULL: bool>(
    s: S,
    x: &[E],
    at: usize,
    lanes: usize,
) -> S::V {
    if FULL {
        E::load(s, x[at..].first_chunk().expect("16 channels"))
    } else {
        E::load_first(s, &x[at..at + lanes])
    }
}

/// Writes 16 lanes of an image, or if not `FULL` the first `lanes`.
#[inline(always)]
pub(crate) fn write<S: Simd, E: Element, const FULL: bool>(
    s: S,
    x: &mut [E],
    at: usize,
    lanes: usize,
    v: S::V,
) {
    if FULL {
        E::store(s, x[at..].first_chunk_mut().expect("16 channels"), v);
    } else {
        E::store_first(s, &mut x[at..at + lanes], v);
    }
}

/// How an image is read on its way to scratch.
pub(super) trait Load {
    /// Coefficients of 16 channels.
    type Block<S: Simd>: Copy;
    /// Those of block `b`; 0 past the last channel.
    fn block<S: Simd>(&self, s: S, b: usize) -> Self::Block<S>;
    /// The value of the 16 (if not `FULL`, the `lanes`) channels from float `at` of the image.
    fn at<S: Simd, const FULL: bool>(
        &self,
        s: S,
        c: &Self::Block<S>,
        at: usize,
        lanes: usize,
    ) -> S::V;
    /// Brings nearer what lies from element `at` on, if there is anything.
    #[inline(always)]
    fn ahead<S: Simd>(&self, _: S, _at: usize) {}
}

/// Per-channel values, padded with zeros to whole vectors.
pub(super) fn padded(channels: usize, value: impl Fn(usize) -> f32) -> Buffer {
    let mut out = Buffer::zeroed(channels.next_multiple_of(LANES));
    for (c, out) in out[..channels].iter_mut().enumerate() {
        *out = value(c);
    }
    out
}

/// Vector `b` of a padded per-channel buffer.
#[inline(always)]
pub(super) fn vector<S: Simd>(s: S, values: &[f32], b: usize) -> S::V {
    s.load(&values.as_chunks().0[b])
}

/// A stretch of one kernel row: `len` consecutive floats of the scratch image, each multiplied by
/// one weight vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Floats from the first of the output pixel's window.
    pub offset: usize,
    /// Floats.
    pub len: usize,
}

/// A grid of outputs that share runs and weights:
/// `out[p, c] = Σ_q in[p + q]·w[q, c] (+ add[p, c])`.
pub(super) struct Grid<'a> {
    pub images: usize,
    pub rows: usize,
    pub cols: usize,
    /// Floats between the windows of neighbouring images, rows and columns of outputs.
    pub input: [usize; 3],
    /// Floats between neighbouring images, rows and columns of outputs.
    pub output: [usize; 3],
    /// Channels of the output, contiguous in memory.
    pub channels: usize,
    /// How many columns of the kernel a run spans, if windows of neighbouring columns are one such
    /// column apart; else 1.
    pub taps: usize,
    pub runs: &'a [Run],
    /// `[⌈channels/16⌉][Σ len][16]`.
    pub weights: &'a [f32],
    /// What will be read next.
    pub ahead: Ahead<'a>,
}

/// Memory that will be read soon. It is brought nearer in small steps between other work, because
/// all at once takes as long as reading it.
#[derive(Clone, Copy, Default)]
pub(super) struct Ahead<'a> {
    slices: [&'a [f32]; 3],
    /// Floats of each slice in a step.
    steps: [usize; 3],
}

impl<'a> Ahead<'a> {
    /// All of the slices.
    pub fn new(slices: [&'a [f32]; 3]) -> Ahead<'a> {
        Ahead {
            slices,
            steps: [0; 3],
        }
    }

    /// Some of `n` equal parts, in so many steps.
    #[inline(always)]
    pub fn parts(&self, which: Range<usize>, n: usize, steps: usize) -> Ahead<'a> {
        let mut part = *self;
        for (x, step) in part.slices.iter_mut().zip(&mut part.steps) {
            let lines = x.len() / LANES;
            *x = &x[lines * which.start / n * LANES..lines * which.end / n * LANES];
            *step = (x.len() / LANES).div_ceil(steps) * LANES;
        }
        part
    }

    /// One step.
    #[inline(always)]
    pub fn step<S: Simd>(&mut self, s: S) {
        for (x, step) in self.slices.iter_mut().zip(self.steps) {
            let (now, later) = x.split_at(step.min(x.len()));
            for line in now.as_chunks::<LANES>().0 {
                s.prefetch(line.as_ptr());
            }
            *x = later;
        }
    }
}

/// Where a [`Grid`] reads and writes. The three have the grid's strides.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// The first output's window.
    pub input: *const f32,
    /// Added to the sum, if not null. May equal `out`.
    pub add: *const f32,
    /// The first output.
    pub out: *mut f32,
}

impl Grid<'_> {
    /// Computes the whole grid.
    ///
    /// # Safety
    /// All that strides, counts and runs reach from the three pointers must be valid, and nothing
    /// else may access what is written.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(mut self, s: S, ends: Ends) {
        // Where outputs of all rows are equally spaced, an image is one long row.
        let ([_, in_row, in_col], [_, out_row, out_col]) = (self.input, self.output);
        if in_row == self.cols * in_col && out_row == self.cols * out_col {
            self.cols *= self.rows;
            self.rows = 1;
        }
        // SAFETY: the caller's; the constants are the distance of columns and the taps.
        unsafe {
            if const { S::REGISTERS >= 32 } {
                match (in_col, self.taps) {
                    (3, 3) => self.blocks::<S, 3, 3>(s, ends),
                    (16, 3) => self.blocks::<S, 16, 3>(s, ends),
                    (16, 2) => self.blocks::<S, 16, 2>(s, ends),
                    (16, _) => self.blocks::<S, 16, 1>(s, ends),
                    (32, _) => self.blocks::<S, 32, 1>(s, ends),
                    _ => self.blocks::<S, 0, 1>(s, ends),
                }
            } else {
                // Too few registers to hold the weights of more than one tap.
                match in_col {
                    16 => self.blocks::<S, 16, 1>(s, ends),
                    32 => self.blocks::<S, 32, 1>(s, ends),
                    _ => self.blocks::<S, 0, 1>(s, ends),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn blocks<S: Simd, const STEP: usize, const TAPS: usize>(&self, s: S, ends: Ends) {
        let blocks = self.channels.div_ceil(LANES);
        // SAFETY: the caller's; there are as many blocks left as are asked for.
        unsafe {
            if const { S::REGISTERS >= 32 && TAPS > 1 } {
                for b in 0..blocks {
                    match self.cols {
                        1..=4 if const { STEP == 16 } => {
                            self.tiles::<S, 4, 1, 4, STEP, TAPS>(s, ends, b)
                        }
                        5..=8 if const { STEP == 16 } => {
                            self.tiles::<S, 2, 1, 8, STEP, TAPS>(s, ends, b)
                        }
                        _ => self.tiles::<S, 1, 1, 16, STEP, TAPS>(s, ends, b),
                    }
                }
            } else if const { S::REGISTERS >= 32 } {
                for b in (0..blocks - blocks % 2).step_by(2) {
                    match self.cols {
                        1..=4 => self.tiles::<S, 2, 2, 4, STEP, TAPS>(s, ends, b),
                        _ => self.tiles::<S, 1, 2, 8, STEP, TAPS>(s, ends, b),
                    }
                }
                if blocks % 2 == 1 {
                    self.tiles::<S, 1, 1, 8, STEP, TAPS>(s, ends, blocks - 1);
                }
            } else if const { S::REGISTERS >= 8 } {
                for b in 0..blocks {
                    self.tiles::<S, 1, 1, 6, STEP, TAPS>(s, ends, b);
                }
            } else {
                for b in 0..blocks {
                    self.tiles::<S, 1, 1, 2, STEP, TAPS>(s, ends, b);
                }
            }
        }
    }

    /// All tiles of output blocks `b..b + NV`: `ROWS` rows by at most `MOST` columns, as even as
    /// the width allows.
    #[inline(always)]
    unsafe fn tiles<
        S: Simd,
        const ROWS: usize,
        const NV: usize,
        const MOST: usize,
        const STEP: usize,
        const TAPS: usize,
    >(
        &self,
        s: S,
        ends: Ends,
        b: usize,
    ) {
        let count = self.cols.div_ceil(MOST);
        let (small, larger) = (self.cols / count, self.cols % count);
        let blocks = self.channels.div_ceil(LANES);
        let mut ahead = self
            .ahead
            .parts(b..b + NV, blocks, self.images * self.rows / ROWS + 1);
        for image in 0..self.images {
            let mut row = 0;
            while row < self.rows {
                let rows = if row + ROWS <= self.rows { ROWS } else { 1 };
                let mut col = 0;
                for tile in 0..count {
                    let cols = small + usize::from(tile < larger);
                    let reach = |d: [usize; 3]| image * d[0] + row * d[1] + col * d[2];
                    let out = reach(self.output) + b * LANES;
                    let at = Ends {
                        input: ends.input.wrapping_add(reach(self.input)),
                        add: if ends.add.is_null() {
                            ends.add
                        } else {
                            ends.add.wrapping_add(out)
                        },
                        out: ends.out.wrapping_add(out),
                    };
                    // SAFETY: the caller's; the tile lies in the grid.
                    unsafe {
                        if rows == ROWS {
                            self.tile::<S, ROWS, NV, MOST, STEP, TAPS>(s, at, b, cols);
                        } else {
                            self.tile::<S, 1, NV, MOST, STEP, TAPS>(s, at, b, cols);
                        }
                    }
                    col += cols;
                }
                ahead.step(s);
                row += rows;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<
        S: Simd,
        const ROWS: usize,
        const NV: usize,
        const MOST: usize,
        const STEP: usize,
        const TAPS: usize,
    >(
        &self,
        s: S,
        at: Ends,
        b: usize,
        cols: usize,
    ) {
        macro_rules! widths {
            ($($p:literal)*) => {
                match cols {
                    $($p => if const { $p <= MOST } {
                        s.call(Tile::<ROWS, $p, NV, STEP, TAPS> { grid: self, at, b })
                    },)*
                    _ => unreachable!("tiles are at most 16 wide"),
                }
            };
        }
        widths!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
    }
}

/// `ROWS × P` neighbouring outputs of `NV` blocks of 16 channels. `STEP` is the distance of
/// columns in the input, 0 if it is not known at compile time. With `TAPS > 1` a broadcast value
/// is used by that many neighbours, once with each tap's weights: a third of the loads for 3.
struct Tile<
    'a,
    const ROWS: usize,
    const P: usize,
    const NV: usize,
    const STEP: usize,
    const TAPS: usize,
> {
    grid: &'a Grid<'a>,
    at: Ends,
    b: usize,
}

impl<const ROWS: usize, const P: usize, const NV: usize, const STEP: usize, const TAPS: usize>
    Kernel for Tile<'_, ROWS, P, NV, STEP, TAPS>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile { grid, at, b } = self;
        let [_, in_row, in_col] = grid.input;
        let [_, out_row, out_col] = grid.output;
        let step = if STEP == 0 { in_col } else { STEP };
        let mut acc = [[[s.splat(0.0); NV]; P]; ROWS];
        let block: usize = grid.weights.len() / grid.channels.div_ceil(LANES);
        let mut w = grid.weights[b * block..].as_ptr();
        for run in grid.runs {
            let tap = run.len / TAPS;
            let mut x = at.input.wrapping_add(run.offset);
            for _ in 0..tap {
                // SAFETY: `Grid::run`'s caller vouches for the input; weights hold `Σ len` vectors
                // a block, and `b + NV` blocks at least.
                unsafe {
                    let mut weights = [[s.splat(0.0); NV]; TAPS];
                    for t in 0..TAPS {
                        for v in 0..NV {
                            weights[t][v] = s.load(&*w.add(v * block + t * tap * LANES).cast());
                        }
                    }
                    for r in 0..ROWS {
                        // By a macro, because the compiler leaves a loop this long a loop, and
                        // then the sums are not in registers.
                        macro_rules! columns {
                            ($($j:literal)*) => {$(
                                if const { $j < P + TAPS - 1 } {
                                    let value = s.splat(*x.add(r * in_row + $j * step));
                                    for t in 0..TAPS {
                                        if t <= $j && $j - t < P {
                                            let p = $j - t;
                                            for v in 0..NV {
                                                let sum = acc[r][p][v];
                                                acc[r][p][v] = s.fma(value, weights[t][v], sum);
                                            }
                                        }
                                    }
                                }
                            )*};
                        }
                        columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);
                    }
                }
                w = w.wrapping_add(LANES);
                x = x.wrapping_add(1);
            }
            w = w.wrapping_add((TAPS - 1) * tap * LANES);
        }
        for v in 0..NV {
            let lanes = (grid.channels - (b + v) * LANES).min(LANES);
            for r in 0..ROWS {
                let offset = r * out_row + v * LANES;
                let add = at.add.wrapping_add(offset);
                let out = at.out.wrapping_add(offset);
                // SAFETY: `Grid::run`'s caller vouches for `lanes` floats of each output, at `out`
                // and, if it is not null, at `at.add`.
                unsafe {
                    if lanes < LANES {
                        let mut sums = [[0.0; LANES]; P];
                        for p in 0..P {
                            s.store(&mut sums[p], acc[r][p][v]);
                        }
                        let add = if at.add.is_null() { at.add } else { add };
                        store_first(&sums, lanes, out_col, add, out);
                        continue;
                    }
                    for p in 0..P {
                        let mut sum = acc[r][p][v];
                        if !at.add.is_null() {
                            sum = s.add(sum, s.load(&*add.add(p * out_col).cast()));
                        }
                        s.store(&mut *out.add(p * out_col).cast(), sum);
                    }
                }
            }
        }
    }
}

/// Stores the first lanes of neighbouring outputs `out_col` floats apart, plus `add` if not null.
/// Kept out of the tiles, which it would only make longer.
///
/// # Safety
/// There must be `lanes ≤ 16` floats at each output, and at each of `add`.
#[inline(never)]
unsafe fn store_first(
    sums: &[[f32; LANES]],
    lanes: usize,
    out_col: usize,
    add: *const f32,
    out: *mut f32,
) {
    for (p, sums) in sums.iter().enumerate() {
        for (i, sum) in sums[..lanes].iter().enumerate() {
            let at = p * out_col + i;
            // SAFETY: the caller's.
            unsafe {
                *out.add(at) = if add.is_null() {
                    *sum
                } else {
                    *sum + *add.add(at)
                };
            }
        }
    }
}
