//! The optimiser: one pass over flat buffers.

use super::simd::{Isa, Kernel, Simd};
use crate::backend::Sgd;
use rayon::prelude::*;

/// See [`Executor::sgd`](crate::backend::Executor::sgd); gradients come with their scale.
pub fn sgd(
    isa: Isa,
    params: &mut [f32],
    (grads, scale): (&[f32], f32),
    buf: &mut [f32],
    lr: f32,
    config: Sgd,
) {
    const CHUNK: usize = 1 << 14;
    assert_eq!((params.len(), params.len()), (grads.len(), buf.len()));
    let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
    chunks
        .zip(buf.par_chunks_mut(CHUNK))
        .for_each(|((params, grads), buf)| {
            isa.run(Step {
                params,
                grads,
                scale,
                buf,
                lr,
                config,
            });
        });
}

struct Step<'a> {
    params: &'a mut [f32],
    grads: &'a [f32],
    scale: f32,
    buf: &'a mut [f32],
    lr: f32,
    config: Sgd,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Sgd {
            momentum,
            nesterov,
            weight_decay,
        } = self.config;
        for ((p, g), buf) in self.params.iter_mut().zip(self.grads).zip(self.buf) {
            let g = self.scale * g + weight_decay * *p;
            *buf = momentum * *buf + g;
            *p -= self.lr * if nesterov { g + momentum * *buf } else { *buf };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn config(nesterov: bool) -> Sgd {
        Sgd {
            momentum: 0.9,
            nesterov,
            weight_decay: 0.01,
        }
    }

    const SCALE: f32 = 0.25;

    /// Parameters and momentum after three steps.
    fn run(isa: Isa, n: usize, nesterov: bool) -> [Vec<f32>; 2] {
        let mut random = Stream::new(9, 0, 0);
        let mut draw = || (0..n).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
        let (mut params, mut buf) = (draw(), vec![0.0; n]);
        for lr in [0.5, 0.1, 0.02] {
            let (grads, config) = (draw(), config(nesterov));
            sgd(isa, &mut params, (&grads, SCALE), &mut buf, lr, config);
        }
        [params, buf]
    }

    #[test]
    fn agrees_with_pytorch_s_formula_in_f64() {
        // More than a chunk, with a tail.
        let n = (1 << 14) + 5;
        for (isa, nesterov) in Isa::available()
            .into_iter()
            .flat_map(|i| [(i, false), (i, true)])
        {
            let mut random = Stream::new(9, 0, 0);
            let mut draw = || {
                (0..n)
                    .map(|_| f64::from(random.f32() - 0.5))
                    .collect::<Vec<_>>()
            };
            let (mut params, mut buf) = (draw(), vec![0.0; n]);
            for lr in [0.5, 0.1, 0.02] {
                for (i, grad) in draw().into_iter().enumerate() {
                    let g = f64::from(SCALE) * grad + 0.01 * params[i];
                    buf[i] = 0.9 * buf[i] + g;
                    params[i] -= lr * if nesterov { g + 0.9 * buf[i] } else { buf[i] };
                }
            }
            let results = run(isa, n, nesterov);
            for (got, want) in results.iter().zip([&params, &buf]) {
                for (got, want) in got.iter().zip(want) {
                    assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
                }
            }
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        for isa in Isa::available() {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| run(isa, 50_001, true))
            };
            assert!(on(1) == on(3), "{isa}");
        }
    }
}
