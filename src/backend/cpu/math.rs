//! Elementary functions of `f32` without branches or calls, so that a loop over a slice becomes
//! vector code in whatever instruction set its kernel is compiled for, and reductions of a row.
//! Without fused multiply-adds: equal bits on all of them.

use super::simd::{LANES, Simd};

/// `eˣ` to 2 units in the last place; 0 below −104, ∞ above 89, a NaN stays.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 90.0 { 90.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, of which the first has so few digits that n times it is exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // 2ⁿ in two steps, because n may be below or above what one exponent holds.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n - half)
}

/// The logistic function.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `2ⁿ` for `−126 ≤ n ≤ 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The error function to 5e-7: a rational function in x² on `[−4, 4]` (Eigen's coefficients), ±1
/// outside. A NaN stays.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let y = erf_within(x);
    // Exactly, because GELU multiplies what is left of 1 by x.
    let y = if x >= 4.0 { 1.0 } else { y };
    if x <= -4.0 { -1.0 } else { y }
}

#[inline(always)]
fn erf_within(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let s = x * x;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_5e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_5e-5;
    let p = p * s - 7.349_906_3e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_4e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_5e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    x * p / q
}

/// The largest number that is no NaN; −∞ if there is none.
#[inline(always)]
pub fn largest<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (vectors, tail) = x.as_chunks();
    let mut top = s.splat(f32::NEG_INFINITY);
    for v in vectors {
        top = s.at_least(s.load(v), top);
    }
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, top);
    let mut max = f32::NEG_INFINITY;
    for v in lanes.iter().chain(tail) {
        if *v > max {
            max = *v;
        }
    }
    max
}

/// `Σ (x − from)` in f64.
#[inline(always)]
pub fn sum<S: Simd>(s: S, x: &[f32], from: f32) -> f64 {
    let (vectors, tail) = x.as_chunks();
    let mut sum = s.wide_zero();
    for v in vectors {
        sum = s.wide_add(sum, s.sub(s.load(v), s.splat(from)));
    }
    let mut total: f64 = s.wide_lanes(sum).iter().sum();
    for x in tail {
        total += f64::from(x - from);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_good_to_two_units() {
        for i in -1_060_000..900_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (exp(x), f64::from(x).exp());
            if want < f64::from(f32::MIN_POSITIVE) {
                assert!((f64::from(got) - want).abs() < 3e-45, "{x}: {got}");
            } else if want <= f64::from(f32::MAX) {
                let error = (f64::from(got) - want).abs() / want;
                assert!(error < 2.4e-7, "{x}: {got} instead of {want}");
            }
        }
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert_eq!([exp(-1e4), exp(f32::NEG_INFINITY)], [0.0; 2]);
        assert_eq!([exp(90.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!(exp(f32::NAN).is_nan());
    }

    /// By its Taylor series, in f64.
    fn series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_is_good_everywhere() {
        assert!((series(1.0) - 0.842_700_792_949_715).abs() < 1e-15);
        for i in -50_000..50_000 {
            let x = i as f32 * 1e-4;
            let error = f64::from(erf(x)) - series(f64::from(x));
            assert!(error.abs() < 5e-7, "{x}: {error}");
        }
        assert_eq!([erf(f32::INFINITY), erf(-5.0), erf(0.0)], [1.0, -1.0, 0.0]);
        assert!(erf(f32::NAN).is_nan());
    }
}
