//! Adam and AdamW, and the norm of the gradients: one pass each over flat buffers.

use super::simd::{Isa, Kernel, Simd};
use crate::backend::sequence::Adam;
use rayon::prelude::*;

/// Floats of a task.
const CHUNK: usize = 1 << 14;

/// See [`Sequence::clip_scale`](crate::backend::sequence::Sequence::clip_scale).
pub fn clip_scale(isa: Isa, grads: &[f32], clip: f32) -> f32 {
    let chunks = grads.par_chunks(CHUNK);
    let squares: Vec<f64> = chunks.map(|x| isa.run(SumSquares(x))).collect();
    // No square of an f32 is too large for an f64: the norm is finite if all gradients are.
    let norm = squares.iter().sum::<f64>().sqrt();
    match f64::from(clip) {
        _ if !norm.is_finite() => f32::NAN,
        clip if clip < norm => (clip / norm) as f32,
        _ => 1.0,
    }
}

struct SumSquares<'a>(&'a [f32]);

impl Kernel for SumSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (vectors, tail) = self.0.as_chunks();
        let mut sum = s.wide_zero();
        for v in vectors {
            let v = s.load(v);
            sum = s.wide_fma(v, v, sum);
        }
        let v = s.load_first(tail);
        s.wide_lanes(s.wide_fma(v, v, sum)).iter().sum()
    }
}

/// What [`adam`] changes.
pub struct State<'a> {
    pub params: &'a mut [f32],
    /// Decaying mean of the gradients.
    pub m: &'a mut [f32],
    /// Decaying mean of their squares.
    pub v: &'a mut [f32],
}

/// Update number `t`, from 1, with `scale·grads`; see
/// [`Sequence::adam`](crate::backend::sequence::Sequence::adam).
pub fn adam(isa: Isa, state: State, grads: &[f32], scale: f32, lr: f32, t: u64, config: Adam) {
    let State { params, m, v } = state;
    let n = params.len();
    assert_eq!([grads.len(), m.len(), v.len()], [n; 3]);
    let factors = Factors::new(scale, lr, t, config);
    let state = params
        .par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK));
    state
        .zip(grads.par_chunks(CHUNK))
        .for_each(|(((params, m), v), grads)| {
            isa.run(Step {
                state: State { params, m, v },
                grads,
                factors,
            });
        });
}

/// All that is the same for every parameter, taken in f64 and rounded once.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    /// Of the gradient's part in a moment, `1 − β`.
    fresh: [f32; 2],
    betas: [f32; 2],
    /// `lr/(1 − β₁ᵗ)`.
    rate: f32,
    /// `1/√(1 − β₂ᵗ)`.
    unbias: f32,
    eps: f32,
    /// What is left of a parameter, `1 − lr·wd`, if decoupled.
    keep: f32,
    /// Of the parameter's part in its gradient, `wd`, if not.
    pull: f32,
}

impl Factors {
    fn new(scale: f32, lr: f32, t: u64, config: Adam) -> Factors {
        let (lr, wd) = (f64::from(lr), f64::from(config.weight_decay));
        let betas = config.betas.map(f64::from);
        // Zero long before t leaves the range.
        let correction = betas.map(|b| 1.0 - b.powi(i32::try_from(t).unwrap_or(i32::MAX)));
        let (keep, pull) = match config.decoupled {
            true => (1.0 - lr * wd, 0.0),
            false => (1.0, wd),
        };
        Factors {
            scale,
            fresh: betas.map(|b| (1.0 - b) as f32),
            betas: config.betas,
            rate: (lr / correction[0]) as f32,
            unbias: (1.0 / correction[1].sqrt()) as f32,
            eps: config.eps,
            keep: keep as f32,
            pull: pull as f32,
        }
    }
}

struct Step<'a> {
    state: State<'a>,
    grads: &'a [f32],
    factors: Factors,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let State { params, m, v } = self.state;
        let f = self.factors;
        for (((p, m), v), g) in params.iter_mut().zip(m).zip(v).zip(self.grads) {
            let kept = *p * f.keep;
            let g = f.scale * g + f.pull * *p;
            *m = f.betas[0] * *m + f.fresh[0] * g;
            *v = f.betas[1] * *v + f.fresh[1] * (g * g);
            *p = kept - f.rate * *m / (v.sqrt() * f.unbias + f.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, random, threads_change_nothing, wide};
    use super::*;

    fn config(decoupled: bool) -> Adam {
        Adam {
            betas: [0.9, 0.98],
            eps: 1e-9,
            weight_decay: 0.1,
            decoupled,
        }
    }

    /// Parameters and moments after three steps.
    fn run(isa: Isa, n: usize, decoupled: bool) -> [Vec<f32>; 3] {
        let (mut params, mut m, mut v) = (random(1, n, 0.0, 1.0), vec![0.0; n], vec![0.0; n]);
        for t in 1..4 {
            let state = State {
                params: &mut params,
                m: &mut m,
                v: &mut v,
            };
            let grads = random(1 + t, n, 0.0, 1.0);
            adam(isa, state, &grads, 0.5, 0.01, t, config(decoupled));
        }
        [params, m, v]
    }

    #[test]
    fn agrees_with_pytorch_s_formula_in_f64() {
        // One element; more than a chunk, with a tail.
        for n in [1, CHUNK + 5] {
            for decoupled in [false, true] {
                let (mut p, mut m, mut v) =
                    (wide(&random(1, n, 0.0, 1.0)), vec![0.0; n], vec![0.0; n]);
                for t in 1..4 {
                    let grads = wide(&random(1 + t, n, 0.0, 1.0));
                    for i in 0..n {
                        let mut g = 0.5 * grads[i];
                        match decoupled {
                            true => p[i] *= 1.0 - 0.01 * 0.1,
                            false => g += 0.1 * p[i],
                        }
                        m[i] = 0.9 * m[i] + 0.1 * g;
                        v[i] = 0.98 * v[i] + 0.02 * g * g;
                        let t = t as i32;
                        let (m, v) = (
                            m[i] / (1.0 - 0.9_f64.powi(t)),
                            v[i] / (1.0 - 0.98_f64.powi(t)),
                        );
                        p[i] -= 0.01 * m / (v.sqrt() + 1e-9);
                    }
                }
                for isa in Isa::available() {
                    let [params, first, second] = run(isa, n, decoupled);
                    close("params", &params, &p, 1e-6);
                    close("m", &first, &m, 1e-6);
                    close("v", &second, &v, 2e-6);
                }
            }
        }
    }

    #[test]
    fn the_norm_is_clipped_and_what_is_not_finite_shows() {
        for isa in Isa::available() {
            for n in [1, 15, 16, 17, 3 * CHUNK + 21] {
                let grads = random(3, n, 0.0, 2.0);
                let norm = wide(&grads).iter().map(|g| g * g).sum::<f64>().sqrt();
                let got = f64::from(clip_scale(isa, &grads, 0.25));
                let want = (0.25 / norm).min(1.0);
                assert!((got / want - 1.0).abs() < 1e-6, "{got} instead of {want}");
            }
            assert_eq!(clip_scale(isa, &[0.0; 20], 1.0), 1.0);
            assert_eq!(clip_scale(isa, &[3.0, 4.0], 5.0), 1.0);
            assert_eq!(clip_scale(isa, &[3.0, 4.0], f32::INFINITY), 1.0);
            // The square of the norm is out of an f32's range.
            assert_eq!(clip_scale(isa, &[3e30, 4e30], 1.0), 2e-31);
            for bad in [f32::NAN, f32::INFINITY] {
                assert!(clip_scale(isa, &[1.0, bad, 1.0], f32::INFINITY).is_nan());
            }
        }
    }

    #[test]
    fn a_nan_of_the_scale_reaches_every_parameter() {
        for isa in Isa::available() {
            let [mut params, mut m, mut v] = [[1.0_f32; 20], [0.0; 20], [0.0; 20]];
            let state = State {
                params: &mut params,
                m: &mut m,
                v: &mut v,
            };
            adam(isa, state, &[1.0; 20], f32::NAN, 0.1, 1, config(true));
            assert!(params.iter().chain(&m).chain(&v).all(|x| x.is_nan()));
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        threads_change_nothing(
            |isa| {
                let scale = clip_scale(isa, &random(8, 70_001, 0.0, 1.0), 1.0);
                (run(isa, 50_001, true), scale)
            },
            |(state, scale)| {
                let all = state.iter().flatten().chain([scale]);
                all.map(|x| x.to_bits()).collect()
            },
        );
    }
}
