//! Attention of one wide head: a few products a sentence, and a task for each.

use super::gemm::{Epilogue, Matrix, Out, gemm};
use super::math::{exp, largest};
use super::simd::{Isa, Kernel, Simd};
use rayon::prelude::*;

/// Queries of B sentences, and what they look at.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[B, T, E]`.
    pub q: &'a [f32],
    /// `[B, S, E]`.
    pub keys: &'a [f32],
    /// `[B, S, E]`.
    pub values: &'a [f32],
    /// `[B]`.
    pub key_len: &'a [i32],
    /// T, S, E.
    pub sizes: [usize; 3],
}

/// That of one sentence.
struct Sentence<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    len: usize,
    /// `√len`.
    scale: f32,
}

impl<'a> Attention<'a> {
    fn check(&self) {
        let ([t, s, e], b) = (self.sizes, self.key_len.len());
        let sizes = [self.q.len(), self.keys.len(), self.values.len()];
        assert_eq!(sizes, [b * t * e, b * s * e, b * s * e]);
        let fit = |len: &i32| (1..=s as i32).contains(len);
        let lengths = self.key_len;
        assert!(lengths.iter().all(fit), "{lengths:?} tokens of {s}");
    }

    fn sentence(&self, b: usize) -> Sentence<'a> {
        let [t, s, e] = self.sizes;
        let len = self.key_len[b] as usize;
        Sentence {
            q: &self.q[b * t * e..][..t * e],
            keys: &self.keys[b * s * e..][..len * e],
            values: &self.values[b * s * e..][..len * e],
            len,
            scale: (len as f32).sqrt(),
        }
    }
}

/// Sets `probabilities` `[B, T, S]` and `out` `[B, T, E]`.
pub fn forward(isa: Isa, all: Attention, probabilities: &mut [f32], out: &mut [f32]) {
    all.check();
    let [t, s, e] = all.sizes;
    assert_eq!(probabilities.len(), all.key_len.len() * t * s);
    assert_eq!(out.len(), all.q.len());
    let sentences = probabilities
        .par_chunks_mut(t * s)
        .zip(out.par_chunks_mut(t * e));
    sentences.enumerate().for_each(|(b, (p, out))| {
        let own = all.sentence(b);
        let (q, keys) = (Matrix::new(own.q, e), Matrix::new(own.keys, e));
        gemm(isa, [t, own.len, e], q, keys.t(), Out::new(&mut *p, s), &());
        for row in p.chunks_exact_mut(s) {
            let (row, padding) = row.split_at_mut(own.len);
            isa.run(Softmax { row });
            padding.fill(0.0);
        }
        let (p, values) = (Matrix::new(&p[..], s), Matrix::new(own.values, e));
        let out = Out::new(out, e);
        gemm(isa, [t, e, own.len], p, values, out, &Scale(own.scale));
    });
}

struct Scale(f32);

impl Epilogue for Scale {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, _: usize, _: usize, c: &mut [f32]) {
        for c in c {
            *c *= self.0;
        }
    }
}

struct Softmax<'a> {
    row: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let top = largest(s, self.row);
        for p in self.row.iter_mut() {
            *p = exp(*p - top);
        }
        let sum: f32 = self.row.iter().sum();
        for p in self.row {
            *p /= sum;
        }
    }
}

/// Where gradients go, as what they are of; those of keys and values are added to what is there.
pub struct Grads<'a> {
    pub dq: &'a mut [f32],
    pub dkeys: &'a mut [f32],
    pub dvalues: &'a mut [f32],
}

/// From the gradient of `out`.
pub fn backward(isa: Isa, all: Attention, probabilities: &[f32], dout: &[f32], grads: Grads) {
    all.check();
    let [t, s, e] = all.sizes;
    assert_eq!(probabilities.len(), all.key_len.len() * t * s);
    let sizes = [dout.len(), grads.dq.len()];
    assert_eq!(sizes, [all.q.len(); 2]);
    let sizes = [grads.dkeys.len(), grads.dvalues.len()];
    assert_eq!(sizes, [all.keys.len(); 2]);
    let inputs = probabilities.par_chunks(t * s).zip(dout.par_chunks(t * e));
    let memory = grads
        .dkeys
        .par_chunks_mut(s * e)
        .zip(grads.dvalues.par_chunks_mut(s * e));
    let sentences = grads.dq.par_chunks_mut(t * e).zip(memory).zip(inputs);
    sentences
        .enumerate()
        .for_each(|(b, ((dq, (dkeys, dvalues)), (p, dout)))| {
            let own = all.sentence(b);
            let (len, matrix) = (own.len, |x| Matrix::new(x, e));
            // Of the scores, and the probabilities as the values' gradient wants them.
            let mut ds = vec![0.0; t * len];
            let mut scaled = vec![0.0; t * len];
            let out = Out::new(&mut ds[..], len);
            gemm(
                isa,
                [t, len, e],
                matrix(dout),
                matrix(own.values).t(),
                out,
                &(),
            );
            let rows = ds.chunks_exact_mut(len).zip(scaled.chunks_exact_mut(len));
            for ((ds, scaled), p) in rows.zip(p.chunks_exact(s)) {
                isa.run(Scores {
                    p: &p[..len],
                    scale: own.scale,
                    ds,
                    scaled,
                });
            }
            let add_to = |c| Out {
                accumulate: true,
                ..Out::new(c, e)
            };
            let (ds, scaled) = (Matrix::new(&ds[..], len), Matrix::new(&scaled[..], len));
            let keys = matrix(own.keys);
            gemm(isa, [t, e, len], ds, keys, Out::new(dq, e), &());
            gemm(isa, [len, e, t], ds.t(), matrix(own.q), add_to(dkeys), &());
            let dout = matrix(dout);
            gemm(isa, [len, e, t], scaled.t(), dout, add_to(dvalues), &());
        });
}

/// A query's row: what is the gradient of its probabilities over `scale` becomes that of its scores.
struct Scores<'a> {
    p: &'a [f32],
    scale: f32,
    ds: &'a mut [f32],
    scaled: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut mean = 0.0;
        for (ds, p) in self.ds.iter().zip(self.p) {
            mean += p * ds;
        }
        for ((ds, scaled), p) in self.ds.iter_mut().zip(self.scaled).zip(self.p) {
            *scaled = self.scale * p;
            *ds = *scaled * (*ds - mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, random, slopes, threads_change_nothing, wide};
    use super::*;

    struct Case {
        key_len: Vec<i32>,
        sizes: [usize; 3],
        inputs: [Vec<f32>; 3],
        dout: Vec<f32>,
    }

    impl Case {
        fn new(key_len: &[i32], [t, s, e]: [usize; 3]) -> Case {
            let b = key_len.len();
            let draw = |seed, rows: usize| random(seed, b * rows * e, 0.1, 1.0);
            Case {
                key_len: key_len.to_vec(),
                sizes: [t, s, e],
                inputs: [draw(1, t), draw(2, s), draw(3, s)],
                dout: draw(4, t),
            }
        }

        /// Probabilities, answers, and gradients, of keys and values on top of 1.
        fn run(&self, isa: Isa) -> [Vec<f32>; 5] {
            let [q, keys, values] = &self.inputs;
            let all = Attention {
                q,
                keys,
                values,
                key_len: &self.key_len,
                sizes: self.sizes,
            };
            let [t, s, _] = self.sizes;
            let mut p = vec![f32::NAN; self.key_len.len() * t * s];
            let fresh = |like: &[f32], value| vec![value; like.len()];
            let (mut out, mut dq) = (fresh(q, f32::NAN), fresh(q, f32::NAN));
            let (mut dkeys, mut dvalues) = (fresh(keys, 1.0), fresh(keys, 1.0));
            forward(isa, all, &mut p, &mut out);
            let grads = Grads {
                dq: &mut dq,
                dkeys: &mut dkeys,
                dvalues: &mut dvalues,
            };
            backward(isa, all, &p, &self.dout, grads);
            [p, out, dq, dkeys, dvalues]
        }

        fn exact(&self, [q, keys, values]: [&[f64]; 3]) -> Vec<f64> {
            let [t, s, e] = self.sizes;
            let mut all = Vec::new();
            for row in 0..self.key_len.len() * t {
                let (b, q) = (row / t, &q[row * e..][..e]);
                let len = self.key_len[b] as usize;
                let at = |j: usize| (b * s + j) * e;
                let score = |j: usize| {
                    let dot = q.iter().zip(&keys[at(j)..]).map(|(q, k)| q * k);
                    dot.sum::<f64>().exp()
                };
                let sum: f64 = (0..len).map(score).sum();
                all.extend((0..e).map(|c| {
                    let answer = (0..len).map(|j| score(j) / sum * values[at(j) + c]);
                    answer.sum::<f64>() * (len as f64).sqrt()
                }));
            }
            all
        }
    }

    #[test]
    fn agrees_with_f64_and_gradients_are_slopes() {
        for case in [
            Case::new(&[1], [1, 1, 1]),
            Case::new(&[3, 5, 1], [4, 5, 3]),
            Case::new(&[9, 2], [2, 9, 20]),
        ] {
            let inputs = case.inputs.each_ref().map(|x| wide(x));
            let objective = |which: usize, x: &[f64]| -> f64 {
                let mut all = inputs.each_ref().map(|x| &x[..]);
                all[which] = x;
                let out = case.exact(all);
                out.iter()
                    .zip(&case.dout)
                    .map(|(o, d)| o * f64::from(*d))
                    .sum()
            };
            let want = [0, 1, 2].map(|i| slopes(&inputs[i], |x| objective(i, x)));
            for isa in Isa::available() {
                let [p, out, dq, on_top @ ..] = case.run(isa);
                close(
                    "out",
                    &out,
                    &case.exact(inputs.each_ref().map(|x| &x[..])),
                    1e-6,
                );
                for (row, p) in p.chunks(case.sizes[1]).enumerate() {
                    let len = case.key_len[row / case.sizes[0]] as usize;
                    assert!(p[len..].iter().all(|p| *p == 0.0));
                }
                close("dq", &dq, &want[0], 3e-6);
                for (got, want) in on_top.iter().zip(&want[1..]) {
                    let want: Vec<f64> = want.iter().map(|w| w + 1.0).collect();
                    close("gradient + 1", got, &want, 3e-6);
                }
            }
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        let case = Case::new(&[40, 7, 33, 12], [37, 40, 70]);
        threads_change_nothing(
            |isa| case.run(isa),
            |all| all.iter().flatten().map(|x| x.to_bits()).collect(),
        );
    }
}
