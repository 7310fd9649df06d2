//! The roof of arithmetic on the CPU: multiply-adds in registers, on all threads.

use autoassist::backend::cpu::simd::{Isa, Kernel, Simd};
use rayon::prelude::*;
use std::hint::black_box;

/// As many independent chains as hide their latency.
struct Chains;

const CHAINS: usize = 12;
const ROUNDS: usize = 1 << 18;

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut sums: [S::V; CHAINS] = [s.splat(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let mut lanes = [0.0; 16];
        let mut total = 0.0;
        for sum in sums {
            s.store(&mut lanes, sum);
            total += lanes.iter().sum::<f32>();
        }
        total
    }
}

/// Multiply-adds on all threads, for some milliseconds.
pub fn run(isa: Isa) {
    (0..rayon::current_num_threads())
        .into_par_iter()
        .for_each(|_| {
            black_box(isa.run(Chains));
        });
}

/// FLOPs of [`run`].
pub fn flops() -> f64 {
    (2 * 16 * CHAINS * ROUNDS * rayon::current_num_threads()) as f64
}
