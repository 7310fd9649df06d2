//! The weights' gradient: a register tile holds `R` weights × `NV` vectors of 16 output channels
//! over all pixels of an image; a pixel costs `NV` loads of `dy` and `R` broadcasts of `x` for
//! `R·NV` multiply-adds.

#![allow(
    clippy::needless_range_loop,
    reason = "plain counters are what unrolls"
)]

use std::ops::Range;

use rayon::prelude::*;

use super::shape::ConvShape;
use super::tile::{Ahead, Padded};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd};

/// Pixels that a register sums up before it is added to memory, or so: a longer sum in f32 would
/// lose digits.
const PIXELS: usize = 1024;

/// Layout of a partial sum: the forward pass's, `[⌈co/16⌉][ci blocks][kernel][kernel·width][16]`.
pub(super) struct WeightGrad {
    shape: ConvShape,
    /// Channels of the input in a block.
    width: usize,
    /// Blocks of input channels.
    blocks: usize,
    /// Pixels of `x`'s scratch image between windows.
    stride: usize,
}

impl WeightGrad {
    pub fn new(shape: &ConvShape) -> WeightGrad {
        let width = shape.ci.min(LANES);
        WeightGrad {
            shape: *shape,
            width,
            blocks: shape.ci.div_ceil(width),
            stride: shape.scratch(0, shape.ho()).1,
        }
    }

    /// Floats of a kernel row: one run.
    fn run(&self) -> usize {
        self.shape.kernel * self.width
    }

    /// Floats of a block of output channels.
    fn block(&self) -> usize {
        self.blocks * self.shape.kernel * self.run() * LANES
    }

    /// Floats of a partial sum.
    pub fn len(&self) -> usize {
        self.shape.co.div_ceil(LANES) * self.block()
    }

    /// Adds the gradient from scratch images of `x` and of `dy`, as many. Meanwhile brings nearer
    /// what is `ahead`.
    #[inline(always)]
    pub fn add<S: Simd>(
        &self,
        s: S,
        (x_pad, x): (&Padded, &[f32]),
        (dy_pad, dy): (&Padded, &[f32]),
        dw: &mut [f32],
        ahead: Ahead,
    ) {
        assert_eq!(dw.len(), self.len());
        let (ho, wo) = (self.shape.ho(), self.shape.wo());
        let band = (PIXELS / wo).clamp(1, ho);
        for from in (0..ho).step_by(band) {
            let rows = band.min(ho - from);
            let x = &x[from * self.stride * x_pad.row()..];
            let first = (dy_pad.top as usize + from) * dy_pad.row() + dy_pad.left as usize * LANES;
            self.add_rows(
                s,
                rows,
                (x_pad, x),
                (dy_pad, &dy[first..]),
                dw,
                ahead.parts(from..from + rows, ho, 1),
            );
        }
    }

    /// As [`add`](WeightGrad::add), but `rows` rows of outputs only: `dy` begins with the first.
    #[inline(always)]
    fn add_rows<S: Simd>(
        &self,
        s: S,
        rows: usize,
        (x_pad, x): (&Padded, &[f32]),
        (dy_pad, dy): (&Padded, &[f32]),
        dw: &mut [f32],
        ahead: Ahead,
    ) {
        let blocks = self.shape.co.div_ceil(LANES);
        let runs = self.blocks * self.shape.kernel;
        let shared = self.stride == 1 && self.shape.kernel == 3 && self.shape.wo() >= 2;
        for run in 0..runs {
            let (b, kh) = (run / self.shape.kernel, run % self.shape.kernel);
            let x = &x[b * x_pad.block() + kh * x_pad.row()..];
            let mut o = 0;
            while o < blocks {
                let pair = S::REGISTERS >= 32 && !shared && o + 2 <= blocks;
                let nv = if pair { 2 } else { 1 };
                let part = run * blocks + o;
                let tiles = RunTiles {
                    ahead: ahead.parts(part..part + nv, runs * blocks, 1),
                    images: dy.len().div_ceil(dy_pad.len()),
                    rows,
                    cols: self.shape.wo(),
                    x: x.as_ptr(),
                    x_steps: [
                        x_pad.len(),
                        self.stride * x_pad.row(),
                        self.stride * self.width,
                    ],
                    dy: dy[o * dy_pad.block()..].as_ptr(),
                    dy_steps: [dy_pad.len(), dy_pad.row(), LANES],
                    dy_block: dy_pad.block(),
                    dw: dw[o * self.block() + run * self.run() * LANES..].as_mut_ptr(),
                    dw_block: self.block(),
                    tap: self.width,
                };
                // SAFETY: the scratch images hold what windows of `rows` rows of outputs reach in
                // row `kh` of the kernel, `dy` that many pixels from its margin on, and `dw` a run
                // of this row in each block; `o + nv` is at most `blocks`.
                unsafe {
                    if const { S::REGISTERS >= 32 } {
                        if shared {
                            tiles.all::<S, 6, 1, 3>(s, self.width);
                        } else if nv == 2 {
                            tiles.all::<S, 12, 2, 1>(s, self.run());
                        } else {
                            tiles.all::<S, 16, 1, 1>(s, self.run());
                        }
                    } else if const { S::REGISTERS >= 8 } {
                        tiles.all::<S, 6, 1, 1>(s, self.run());
                    } else {
                        tiles.all::<S, 2, 1, 1>(s, self.run());
                    }
                }
                o += nv;
            }
        }
    }

    /// `dw = Σ partials` in order, as KRSC. Overwrites the partials.
    pub fn reduce(&self, isa: Isa, partials: &mut [f32], dw: &mut [f32]) {
        let sum = add_up(isa, partials, self.len());
        let ConvShape { kernel: k, ci, .. } = self.shape;
        dw.par_chunks_mut(k * k * ci)
            .enumerate()
            .for_each(|(o, dw)| {
                let sum = &sum[o / LANES * self.block() + o % LANES..];
                for (tap, dw) in dw.chunks_exact_mut(ci).enumerate() {
                    for (c, dw) in dw.iter_mut().enumerate() {
                        let q = (c / self.width * k * k + tap) * self.width + c % self.width;
                        *dw = sum[q * LANES];
                    }
                }
            });
    }
}

/// The sum of partial sums of `len` whole vectors, in order; it is in the first of them.
pub(super) fn add_up(isa: Isa, partials: &mut [f32], len: usize) -> &[f32] {
    let (sum, others) = partials.split_at_mut(len);
    sum.par_chunks_mut(PIECE).enumerate().for_each(|(i, sum)| {
        for other in others.chunks_exact(len) {
            let x = &other[i * PIECE..][..sum.len()];
            isa.run(AddTo { sum, x });
        }
    });
    sum
}

/// Floats of the sum that a task reduces.
const PIECE: usize = 4096;

/// `sum += x`, both whole vectors.
struct AddTo<'a> {
    sum: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for AddTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (sum, x) in self
            .sum
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(self.x.as_chunks().0)
        {
            let total = s.add(s.load(sum), s.load(x));
            s.store(sum, total);
        }
    }
}

/// One kernel row, `NV` blocks of output channels.
#[derive(Clone, Copy)]
struct RunTiles<'a> {
    images: usize,
    rows: usize,
    cols: usize,
    x: *const f32,
    /// Floats between the windows of neighbouring images, rows, columns of outputs.
    x_steps: [usize; 3],
    dy: *const f32,
    dy_steps: [usize; 3],
    /// Floats between blocks of output channels.
    dy_block: usize,
    dw: *mut f32,
    dw_block: usize,
    /// Floats of `x` from a column of the kernel to the next.
    tap: usize,
    ahead: Ahead<'a>,
}

impl RunTiles<'_> {
    /// All of the row's weights, `len` for each of `TAPS` columns of the kernel, in tiles of at
    /// most `MOST`, as even as can be.
    ///
    /// # Safety
    /// The pointers, strides and counts must be those of valid memory, `dw` exclusive, and there
    /// must be `TAPS − 1` columns of outputs at least.
    #[inline(always)]
    unsafe fn all<S: Simd, const MOST: usize, const NV: usize, const TAPS: usize>(
        mut self,
        s: S,
        len: usize,
    ) {
        let count = len.div_ceil(MOST);
        for tile in 0..count {
            let weights = len / count + usize::from(tile < len % count);
            let ahead = self
                .ahead
                .parts(tile..tile + 1, count, self.images * self.rows);
            let tiles = RunTiles { ahead, ..self };
            macro_rules! sizes {
                ($($r:literal)*) => {
                    match weights {
                        $($r => if const { $r <= MOST } {
                            s.call(Tile::<$r, NV, TAPS>(tiles))
                        },)*
                        _ => unreachable!("tiles are at most 16 high"),
                    }
                };
            }
            sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            self.x = self.x.wrapping_add(weights);
            self.dw = self.dw.wrapping_add(weights * LANES);
        }
    }
}

/// `R` weights from the tiles' start, of each of `TAPS` columns of the kernel. More than one tap
/// means that windows of neighbouring columns are one column of the kernel apart: a broadcast `x`
/// then meets the last `TAPS` columns of `dy`, which stay in registers.
struct Tile<'a, const R: usize, const NV: usize, const TAPS: usize>(RunTiles<'a>);

impl<const R: usize, const NV: usize, const TAPS: usize> Kernel for Tile<'_, R, NV, TAPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut ahead = t.ahead;
        let mut acc = [[[s.splat(0.0); NV]; R]; TAPS];
        for image in 0..t.images {
            for row in 0..t.rows {
                ahead.step(s);
                let mut x = t.x.wrapping_add(image * t.x_steps[0] + row * t.x_steps[1]);
                let mut dy =
                    t.dy.wrapping_add(image * t.dy_steps[0] + row * t.dy_steps[1]);
                // `recent[k]` is `dy` of `k` columns ago.
                let mut recent = [[s.splat(0.0); NV]; TAPS];
                // SAFETY: `RunTiles::all`'s caller vouches for `x` and `dy`: `cols` columns of
                // `dy`, and `cols + TAPS − 1` of `x`.
                unsafe {
                    for i in 0..TAPS - 1 {
                        t.next(s, &mut recent, dy);
                        t.column(s, &mut acc, &recent, x, 0..i + 1);
                        x = x.wrapping_add(t.x_steps[2]);
                        dy = dy.wrapping_add(t.dy_steps[2]);
                    }
                    for _ in TAPS - 1..t.cols {
                        t.next(s, &mut recent, dy);
                        t.column(s, &mut acc, &recent, x, 0..TAPS);
                        x = x.wrapping_add(t.x_steps[2]);
                        dy = dy.wrapping_add(t.dy_steps[2]);
                    }
                    for i in 1..TAPS {
                        for k in (1..TAPS).rev() {
                            recent[k] = recent[k - 1];
                        }
                        t.column(s, &mut acc, &recent, x, i..TAPS);
                        x = x.wrapping_add(t.x_steps[2]);
                    }
                }
            }
        }
        for k in 0..TAPS {
            for r in 0..R {
                for v in 0..NV {
                    let at = v * t.dw_block + (k * t.tap + r) * LANES;
                    // SAFETY: `RunTiles::all`'s caller vouches for `dw`.
                    let to = unsafe { &mut *t.dw.add(at).cast() };
                    let sum = s.add(s.load(to), acc[k][r][v]);
                    s.store(to, sum);
                }
            }
        }
    }
}

impl RunTiles<'_> {
    /// Shifts the next column of `dy` into `recent`.
    ///
    /// # Safety
    /// There must be one in each of `NV` blocks.
    #[inline(always)]
    unsafe fn next<S: Simd, const NV: usize, const TAPS: usize>(
        &self,
        s: S,
        recent: &mut [[S::V; NV]; TAPS],
        dy: *const f32,
    ) {
        for k in (1..TAPS).rev() {
            recent[k] = recent[k - 1];
        }
        for v in 0..NV {
            // SAFETY: the caller's.
            recent[0][v] = unsafe { s.load(&*dy.add(v * self.dy_block).cast()) };
        }
    }

    /// `acc[k][r] += x[r]·recent[k]` for the given taps `k`.
    ///
    /// # Safety
    /// `x` must have `R` floats.
    #[inline(always)]
    unsafe fn column<S: Simd, const R: usize, const NV: usize, const TAPS: usize>(
        &self,
        s: S,
        acc: &mut [[[S::V; NV]; R]; TAPS],
        recent: &[[S::V; NV]; TAPS],
        x: *const f32,
        taps: Range<usize>,
    ) {
        for r in 0..R {
            // SAFETY: the caller's.
            let value = s.splat(unsafe { *x.add(r) });
            for k in 0..TAPS {
                if taps.contains(&k) {
                    for v in 0..NV {
                        acc[k][r][v] = s.fma(value, recent[k][v], acc[k][r][v]);
                    }
                }
            }
        }
    }
}
