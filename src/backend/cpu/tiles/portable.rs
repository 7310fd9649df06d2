//! The tile unit's arithmetic in plain Rust. Every operation is done in f64 and rounded once: there
//! the product of two bf16 is exact, and so, where it matters for the rounding to f32, is its sum
//! with an f32.

use half::bf16;

use super::{DEPTH, Operand, SIDE, Step, Sums};

/// What rounds to less than the least normal f32, as if there were denormal ones as exact.
const TINY: f64 = f32::MIN_POSITIVE as f64 - 1.0 / (1_u128 << 126) as f64 / 33_554_432.0;

/// To f32; denormal results are zero of the same sign.
fn rounded(x: f64) -> f32 {
    match x.abs() < TINY {
        true => 0.0_f32.copysign(x as f32),
        false => x as f32,
    }
}

/// Denormal numbers are zero.
fn read(x: f32) -> f64 {
    match x.abs() < f32::MIN_POSITIVE {
        true => f64::from(0.0_f32.copysign(x)),
        false => f64::from(x),
    }
}

/// A whole block, as of [`Tiles::begin`](super::Tiles::begin).
///
/// # Safety
/// That of [`Tiles::begin`](super::Tiles::begin).
pub(super) unsafe fn block<const M: usize, const N: usize>(
    a: &Operand<M>,
    b: &Operand<N>,
    steps: &[Step],
    c: &mut [Sums],
    add: bool,
) {
    let row = |from: *const bf16, step: u32, row: usize, i: usize| -> [f64; DEPTH] {
        // SAFETY: the caller vouches for 16 rows of 32 numbers.
        let row = unsafe {
            from.byte_add(step as usize + i * row)
                .cast::<[bf16; DEPTH]>()
                .read()
        };
        row.map(|x| read(x.to_f32()))
    };
    for (a_start, c) in a.start.into_iter().zip(c.chunks_exact_mut(N)) {
        for (b_start, c) in b.start.into_iter().zip(c) {
            if !add {
                c.fill(0.0);
            }
            for step in steps {
                let pairs: [_; SIDE] = std::array::from_fn(|k| row(b_start, step.b, b.row, k));
                for i in 0..SIDE {
                    let a = row(a_start, step.a, a.row, i);
                    for n in 0..SIDE {
                        let (mut even, mut odd) = (0.0, 0.0);
                        for (k, pair) in pairs.iter().enumerate() {
                            even = f64::from(rounded(a[2 * k] * pair[2 * n] + even));
                            odd = f64::from(rounded(a[2 * k + 1] * pair[2 * n + 1] + odd));
                        }
                        let sum = f64::from(rounded(even + odd));
                        let c = &mut c[i * SIDE + n];
                        *c = rounded(read(*c) + sum);
                    }
                }
            }
        }
    }
}
