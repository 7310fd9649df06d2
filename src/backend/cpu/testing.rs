//! What tests of several kernels need.

use super::simd::{Element, Isa};
use crate::rng::Stream;

/// Uniform in `[mean − spread, mean + spread)`.
pub fn random(seed: u64, n: usize, mean: f32, spread: f32) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    let mut draw = || mean + spread * (2.0 * random.f32() - 1.0);
    (0..n).map(|_| draw()).collect()
}

/// In f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// As an activation is stored.
pub fn stored<E: Element>(x: &[f32]) -> Vec<E> {
    x.iter().map(|x| E::from_f32(*x)).collect()
}

/// What was stored.
pub fn loaded<E: Element>(x: &[E]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Asserts that numbers are those wanted but for a rounding to bf16.
#[track_caller]
pub fn rounded(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        let limit = want.abs() / 256.0 + 1e-5;
        assert!(error <= limit, "{what}[{i}]: {got} instead of {want}");
    }
}

/// Asserts `max|got − want| ≤ limit·max(0.1, max|want|)`: terms of the size of 1 may cancel.
#[track_caller]
pub fn close(what: &str, got: &[f32], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.1_f64, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / largest;
        assert!(error <= limit, "{what}[{i}]: {got} instead of {want}");
    }
}

/// The slope of `objective` in each element of `x`, by central differences.
pub fn slopes(x: &[f64], objective: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let slope = |i: usize| {
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[i] += by;
            objective(&x)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    };
    (0..x.len()).map(slope).collect()
}

/// Asserts that one thread and three give equal bits on every instruction set.
#[track_caller]
pub fn threads_change_nothing<R: Send>(
    run: impl Fn(Isa) -> R + Sync,
    bits: impl Fn(&R) -> Vec<u32>,
) {
    for isa in Isa::available() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let result = pool.build().expect("threads").install(|| run(isa));
            bits(&result)
        };
        assert!(on(1) == on(3), "{isa}");
    }
}
