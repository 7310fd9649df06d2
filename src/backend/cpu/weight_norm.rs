//! Weights by direction and length, a row of `v` for each output.

use super::simd::{Isa, Kernel, Simd};
use rayon::prelude::*;

/// Rows of a task at least.
const ROWS: usize = 8;

/// `w = g·v/‖v‖`, row by row.
pub fn forward(isa: Isa, v: &[f32], g: &[f32], w: &mut [f32]) {
    let width = v.len() / g.len();
    assert_eq!([v.len(), w.len()], [g.len() * width; 2]);
    let rows = w.par_chunks_mut(width).zip(v.par_chunks(width)).zip(g);
    rows.with_min_len(ROWS)
        .for_each(|((w, v), g)| isa.run(Forward { v, g: *g, w }));
}

struct Forward<'a> {
    v: &'a [f32],
    g: f32,
    w: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = (f64::from(self.g) / dot(s, self.v, self.v).sqrt()) as f32;
        for (w, v) in self.w.iter_mut().zip(self.v) {
            *w = factor * v;
        }
    }
}

/// `dg = dw·v/‖v‖`, `dv = g/‖v‖·(dw − dg·v/‖v‖)`.
pub fn backward(isa: Isa, v: &[f32], g: &[f32], dw: &[f32], dv: &mut [f32], dg: &mut [f32]) {
    let width = v.len() / g.len();
    assert_eq!([v.len(), dw.len(), dv.len()], [g.len() * width; 3]);
    assert_eq!(dg.len(), g.len());
    let weights = v.par_chunks(width).zip(g).zip(dw.par_chunks(width));
    let rows = dv.par_chunks_mut(width).zip(dg).zip(weights);
    rows.with_min_len(ROWS)
        .for_each(|((dv, dg), ((v, g), dw))| *dg = isa.run(Backward { v, g: *g, dw, dv }));
}

/// Returns dg.
struct Backward<'a> {
    v: &'a [f32],
    g: f32,
    dw: &'a [f32],
    dv: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let norm = dot(s, self.v, self.v).sqrt();
        let dg = dot(s, self.dw, self.v) / norm;
        let (factor, along) = ((f64::from(self.g) / norm) as f32, (dg / norm) as f32);
        for ((dv, dw), v) in self.dv.iter_mut().zip(self.dw).zip(self.v) {
            *dv = factor * (dw - along * v);
        }
        dg as f32
    }
}

/// In f64: what is left of a gradient across `v` may be little.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f64 {
    let (a_vectors, a_tail) = a.as_chunks();
    let (b_vectors, b_tail) = b.as_chunks();
    let mut sum = s.wide_zero();
    for (a, b) in a_vectors.iter().zip(b_vectors) {
        sum = s.wide_fma(s.load(a), s.load(b), sum);
    }
    sum = s.wide_fma(s.load_first(a_tail), s.load_first(b_tail), sum);
    s.wide_lanes(sum).iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, random, slopes, threads_change_nothing, wide};
    use super::*;

    /// w, dv and dg of `rows` rows of `width`.
    fn run(isa: Isa, [rows, width]: [usize; 2]) -> [Vec<f32>; 3] {
        let [v, g, dw] = inputs([rows, width]);
        let nan = |n: usize| vec![f32::NAN; n];
        let (mut w, mut dv, mut dg) = (nan(v.len()), nan(v.len()), nan(rows));
        forward(isa, &v, &g, &mut w);
        backward(isa, &v, &g, &dw, &mut dv, &mut dg);
        [w, dv, dg]
    }

    fn inputs([rows, width]: [usize; 2]) -> [Vec<f32>; 3] {
        let draw = |seed, n| random(seed, n, 0.1, 1.0);
        [draw(1, rows * width), draw(2, rows), draw(3, rows * width)]
    }

    #[test]
    fn agrees_with_f64_and_gradients_are_slopes() {
        for shape in [[1, 1], [3, 5], [20, 33]] {
            let [v, g, dw] = inputs(shape).map(|x| wide(&x));
            let weights = |v: &[f64], g: &[f64]| -> Vec<f64> {
                let rows = v.chunks(shape[1]).zip(g);
                let row = |(v, g): (&[f64], &f64)| {
                    let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
                    v.iter().map(|v| g * v / norm).collect::<Vec<_>>()
                };
                rows.flat_map(row).collect()
            };
            let objective = |v: &[f64], g: &[f64]| -> f64 {
                weights(v, g).iter().zip(&dw).map(|(w, d)| w * d).sum()
            };
            for isa in Isa::available() {
                let [w, dv, dg] = run(isa, shape);
                close("w", &w, &weights(&v, &g), 3e-7);
                close("dv", &dv, &slopes(&v, |v| objective(v, &g)), 1e-6);
                close("dg", &dg, &slopes(&g, |g| objective(&v, g)), 1e-6);
            }
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        threads_change_nothing(
            |isa| run(isa, [100, 70]),
            |all| all.iter().flatten().map(|x| x.to_bits()).collect(),
        );
    }
}
