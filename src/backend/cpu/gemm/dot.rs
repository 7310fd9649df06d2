//! Products with few rows or few columns whose sums run along contiguous memory in both operands:
//! dot products of rows of `A` and columns of `B` where they lie. Each element of the larger
//! operand is used a few times only, so the bound is reading it; packing would read it twice.

#![allow(
    clippy::needless_range_loop,
    reason = "plain counters are what unrolls"
)]

use std::ops::Range;

use super::matrix::{Epilogue, Lying, Shared};
use crate::backend::cpu::simd::{Kernel, LANES, Simd};

/// Rows, or columns, that are few.
const FEW: usize = 6;

/// Whether this is the way to compute `C[m, n] = a·b`.
pub(super) fn fits(m: usize, n: usize, a: Lying<&[f32]>, b: Lying<&[f32]>) -> bool {
    !a.transposed && b.transposed && a.is_even() && b.is_even() && m.min(n) <= FEW
}

/// Some rows and columns of `C`.
pub(super) struct Dots<'a, E> {
    pub a: Lying<&'a [f32]>,
    pub b: Lying<&'a [f32]>,
    pub k: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub out: &'a Shared<'a>,
    pub epilogue: &'a E,
}

impl<E: Epilogue> Kernel for Dots<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if const { S::REGISTERS >= 32 } {
            self.squares::<S, 4>(s);
        } else {
            self.squares::<S, 2>(s);
        }
    }
}

impl<E: Epilogue> Dots<'_, E> {
    /// All in squares of `N` by `N`; where rows or columns run out, the last one stands in for
    /// those that are missing.
    #[inline(always)]
    fn squares<S: Simd, const N: usize>(&self, s: S) {
        for row in self.rows.clone().step_by(N) {
            for column in self.columns.clone().step_by(N) {
                let mut a = [&[][..]; N];
                let mut b = [&[][..]; N];
                for i in 0..N {
                    let (row, column) = (row + i, column + i);
                    a[i] = &self.a.values[row.min(self.rows.end - 1) * self.a.ld..][..self.k];
                    b[i] = &self.b.values[column.min(self.columns.end - 1) * self.b.ld..][..self.k];
                }
                let sums = dots(s, a, b);
                let width = N.min(self.columns.end - column);
                for i in 0..N.min(self.rows.end - row) {
                    // SAFETY: the elements are this task's and within `C`.
                    unsafe {
                        let c = &mut *self.out.piece(row + i, column, width);
                        for (c, sum) in c.iter_mut().zip(sums[i]) {
                            *c = if self.out.accumulate { *c + sum } else { sum };
                        }
                        self.out.finish(s, self.epilogue, row + i, column, width);
                    }
                }
            }
        }
    }
}

/// `a·bᵀ`: 16 sums an element, added at the end.
#[inline(always)]
fn dots<S: Simd, const N: usize>(s: S, a: [&[f32]; N], b: [&[f32]; N]) -> [[f32; N]; N] {
    let mut sums = [[s.splat(0.0); N]; N];
    let k = a[0].len();
    let whole = k / LANES;
    let (vectors_a, vectors_b) = (a.map(|a| a.as_chunks().0), b.map(|b| b.as_chunks().0));
    for v in 0..k.div_ceil(LANES) {
        let (mut rows, mut columns) = ([s.splat(0.0); N], [s.splat(0.0); N]);
        for i in 0..N {
            if v < whole {
                rows[i] = s.load(&vectors_a[i][v]);
                columns[i] = s.load(&vectors_b[i][v]);
            } else {
                rows[i] = s.load_first(&a[i][v * LANES..]);
                columns[i] = s.load_first(&b[i][v * LANES..]);
            }
        }
        for i in 0..N {
            for j in 0..N {
                sums[i][j] = s.fma(rows[i], columns[j], sums[i][j]);
            }
        }
    }
    const { assert!(N * N <= LANES) };
    let mut square = [s.splat(0.0); LANES];
    for i in 0..N {
        for j in 0..N {
            square[i * N + j] = sums[i][j];
        }
    }
    let mut total = s.splat(0.0);
    for lane in s.transpose(square) {
        total = s.add(total, lane);
    }
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, total);
    let mut out = [[0.0; N]; N];
    for i in 0..N {
        out[i].copy_from_slice(&lanes[i * N..][..N]);
    }
    out
}
