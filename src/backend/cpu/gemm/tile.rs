//! The register tile of the matrix product: up to 14 rows × 32 columns of sums that stay in
//! registers for a block of `k`. AVX-512: 14×32 in 28 of 32 registers, two loads and 14 broadcasts
//! for 28 multiply-adds. AVX2: 6×16 in 12 of 16. Portably: 2×16.

#![allow(
    clippy::needless_range_loop,
    reason = "plain counters are what unrolls"
)]

use super::layout::{A_ROW, A_STEP, MOST_ROWS, PANEL};
use super::matrix::C;
use crate::backend::cpu::simd::{Kernel, LANES, Simd};

/// Steps of `k` by which a panel of `B` is brought nearer: longer than a line takes from L3.
const AHEAD: usize = 32;

/// Rows of a tile at most.
pub(super) const fn most_rows<S: Simd>() -> usize {
    match S::REGISTERS {
        32.. => MOST_ROWS,
        8.. => 6,
        _ => 2,
    }
}

/// Some rows of `A` in a block of `k`, packed.
#[derive(Clone, Copy)]
pub(super) struct PanelA {
    pub values: *const f32,
    /// Each row is contiguous ([`A_ROW`] apart), not each step of `k` ([`A_STEP`] apart).
    pub by_rows: bool,
    /// Steps of `k`.
    pub depth: usize,
}

/// Memory that will be read soon. Line `i` of it is at `start + (i mod 16)·near + ⌊i/16⌋·far`.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub start: *const f32,
    pub near: usize,
    pub far: usize,
    /// The first line for this tile.
    pub first: usize,
}

impl Ahead {
    /// No memory.
    pub const NOTHING: Ahead = Ahead {
        start: std::ptr::null(),
        near: 0,
        far: 0,
        first: 0,
    };

    #[inline(always)]
    fn line(&self, i: usize) -> *const f32 {
        let i = self.first + i;
        self.start
            .wrapping_add(i % LANES * self.near + i / LANES * self.far)
    }
}

/// Lines brought nearer every 16 steps of `k`.
const LINES: usize = 4;

/// Tiles that together bring nearer a line for each step of `k`.
pub(super) const SPARSE: usize = LANES / LINES;

/// Columns of `B` in a block of `k`: a multiple of 16, contiguous in each step.
#[derive(Clone, Copy)]
pub(super) struct PanelB {
    pub values: *const f32,
    /// Floats from a step of `k` to the next.
    pub step: usize,
}

/// Some rows and columns of `C = a·b`, or `C += a·b` if `add`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// At most [`most_rows`].
    pub rows: usize,
    /// Columns, at most 32.
    pub width: usize,
    pub a: PanelA,
    pub b: PanelB,
    pub c: C,
    pub add: bool,
    pub ahead: Ahead,
}

impl Tile {
    /// Computes it.
    ///
    /// # Safety
    /// The panels must hold `rows` and `width` (rounded up to vectors) of `a.depth` steps, `c` must
    /// reach over `rows` by `width` elements that nothing else accesses.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, s: S) {
        if const { S::REGISTERS >= 32 } && self.width > LANES {
            // SAFETY: the caller's.
            unsafe { self.layouts::<S, 2>(s) };
            return;
        }
        for column in (0..self.width).step_by(LANES) {
            let b = PanelB {
                values: self.b.values.wrapping_add(column),
                ..self.b
            };
            let part = Tile {
                width: (self.width - column).min(LANES),
                b,
                c: self.c.at(0, column),
                ..self
            };
            // SAFETY: the caller's, of some of the columns.
            unsafe { part.layouts::<S, 1>(s) };
        }
    }

    /// # Safety
    /// That of [`Tile::run`]; `width` takes `NV` vectors.
    #[inline(always)]
    unsafe fn layouts<S: Simd, const NV: usize>(self, s: S) {
        macro_rules! heights {
            ($($rows:literal)*) => {
                match self.rows {
                    $($rows => if const { $rows <= most_rows::<S>() } {
                        if self.a.by_rows {
                            s.call(Sums::<$rows, NV, A_ROW, 1>(self));
                        } else {
                            s.call(Sums::<$rows, NV, 1, A_STEP>(self));
                        }
                    },)*
                    _ => unreachable!("tiles are at most 14 high"),
                }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}

/// A tile of `ROWS` by `NV` vectors; `ROW` and `STEP` are the distances in the panel of `A`. Made
/// in [`Tile::run`] only, on whose caller's promises it relies.
struct Sums<const ROWS: usize, const NV: usize, const ROW: usize, const STEP: usize>(Tile);

impl<const ROWS: usize, const NV: usize, const ROW: usize, const STEP: usize>
    Sums<ROWS, NV, ROW, STEP>
{
    /// What is wanted after steps `16·chunk..` of `k`. A few lines at once, or there would be no
    /// room for those that are needed now; and not in every step, where each instruction counts.
    #[inline(always)]
    fn bring_nearer<S: Simd>(&self, s: S, pa: *const f32, chunk: usize) {
        for i in chunk * LINES..(chunk + 1) * LINES {
            s.prefetch(self.0.ahead.line(i));
            let (row, column) = (i % LANES, i / LANES * LANES);
            if column <= NV * LANES {
                s.prefetch(self.0.c.at(row, column).values);
            }
        }
        if STEP == 1 {
            // The panel of A and two of B are a little more than L1 holds.
            for r in 0..ROWS {
                s.prefetch_l1(pa.wrapping_add(r * ROW + 2 * LANES));
            }
        }
    }
}

impl<const ROWS: usize, const NV: usize, const ROW: usize, const STEP: usize> Kernel
    for Sums<ROWS, NV, ROW, STEP>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(NV * LANES <= PANEL) };
        let Tile { a, b, c, add, .. } = self.0;
        let lanes = self.0.width - (NV - 1) * LANES;
        let mut acc = [[s.splat(0.0); NV]; ROWS];
        let (mut pa, mut pb) = (a.values, b.values);
        for k in 0..a.depth {
            if k % LANES == 0 {
                self.bring_nearer(s, pa, k / LANES);
            }
            if STEP != 1 {
                s.prefetch_l1(pa.wrapping_add(AHEAD * STEP));
            }
            let mut columns = [s.splat(0.0); NV];
            for v in 0..NV {
                s.prefetch_l1(pb.wrapping_add(AHEAD * b.step + v * LANES));
                // SAFETY: `run`'s caller vouches for `NV` vectors of `b` in each step.
                columns[v] = unsafe { s.load(&*pb.add(v * LANES).cast()) };
            }
            // By a macro, because the compiler leaves a loop this long a loop, and then the sums
            // are not in registers.
            macro_rules! rows {
                ($($r:literal)*) => {$(
                    if const { $r < ROWS } {
                        // SAFETY: `run`'s caller vouches for `ROWS` rows of `a` in each step.
                        let value = s.splat(unsafe { *pa.add($r * ROW) });
                        for v in 0..NV {
                            acc[$r][v] = s.fma(value, columns[v], acc[$r][v]);
                        }
                    }
                )*};
            }
            rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
            pa = pa.wrapping_add(STEP);
            pb = pb.wrapping_add(b.step);
        }
        for r in 0..ROWS {
            for v in 0..NV {
                let at = c.at(r, v * LANES).values;
                // SAFETY: `run`'s caller vouches for 16 floats of all vectors of a row but the
                // last, and `lanes` of that.
                unsafe {
                    if v + 1 < NV || lanes == LANES {
                        let to = &mut *at.cast();
                        let sum = match add {
                            true => s.add(s.load(to), acc[r][v]),
                            false => acc[r][v],
                        };
                        s.store(to, sum);
                    } else {
                        let to = std::slice::from_raw_parts_mut(at, lanes);
                        let sum = match add {
                            true => s.add(s.load_first(to), acc[r][v]),
                            false => acc[r][v],
                        };
                        s.store_first(to, sum);
                    }
                }
            }
        }
    }
}
