//! Attention of one head whose projections were moved to the memory.

use super::{add_to, check_lengths, step};
use crate::backend::cpu::dropout::Mask;
use crate::backend::cpu::gemm::{Matrix, Out, Packed, gemm};
use crate::backend::cpu::math::{exp, largest};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd};
use rayon::prelude::*;

/// What is asked; shapes as in [`Luong`](crate::backend::recurrent::Luong).
#[derive(Clone, Copy)]
pub struct Luong<'a> {
    pub w_in: &'a [f32],
    pub w_out: &'a [f32],
    pub memory: &'a [f32],
    /// `[B]`.
    pub memory_len: &'a [i32],
    /// S, E, H, O.
    pub sizes: [usize; 4],
}

impl<'a> Luong<'a> {
    /// Sets keys and values.
    pub fn project(&self, isa: Isa, keys: &mut [f32], values: &mut [f32]) {
        let [s, e, h, o] = self.sizes;
        let rows = self.memory_len.len() * s;
        check_lengths(self.memory_len, s);
        let (m, w_in) = (Matrix::new(self.memory, e), Matrix::new(self.w_in, h));
        gemm(isa, [rows, h, e], m, w_in, Out::new(keys, h), &());
        let w_ctx = Matrix::new(self.w_out, e + h);
        gemm(isa, [rows, o, e], m, w_ctx.t(), Out::new(values, o), &());
    }

    /// `W_h`, `[O, H]`.
    fn w_h(&self) -> Matrix<'a> {
        let [_, e, h, _] = self.sizes;
        Matrix::new(&self.w_out[e..], e + h)
    }

    /// `W_hᵀ`, for questions.
    pub fn forward_weights(&self, isa: Isa) -> Packed {
        let [_, _, h, o] = self.sizes;
        Packed::new(isa, self.w_h().t(), [h, o])
    }

    /// `W_h`, for their gradients.
    pub fn backward_weights(&self, isa: Isa) -> Packed {
        let [_, _, h, o] = self.sizes;
        Packed::new(isa, self.w_h(), [o, h])
    }

    /// From the gradients of scores and answers, of t steps a sentence, those of the keys and values, in their
    /// place.
    pub fn memory_backward(
        &self,
        isa: Isa,
        t: usize,
        [ds, p]: [&[f32]; 2],
        [dpre, queries]: [&[f32]; 2],
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let [s, _, h, o] = self.sizes;
        let sentences = keys.par_chunks_mut(s * h).zip(values.par_chunks_mut(s * o));
        sentences.enumerate().for_each(|(b, (keys, values))| {
            let [ds, p] = [ds, p].map(|x| Matrix::new(&x[b * t * s..][..t * s], s).t());
            let queries = Matrix::new(&queries[b * t * h..][..t * h], h);
            gemm(isa, [s, h, t], ds, queries, Out::new(keys, h), &());
            let dpre = Matrix::new(&dpre[b * t * o..][..t * o], o);
            gemm(isa, [s, o, t], p, dpre, Out::new(values, o), &());
        });
    }

    /// From the gradients of keys, values and what goes into the tangent (`dpre`, of `rows` queries
    /// `h`) those of `memory`, `w_in` and `w_out`.
    pub fn params_backward(
        &self,
        isa: Isa,
        [dkeys, dvalues]: [&[f32]; 2],
        [dpre, queries]: [&[f32]; 2],
        dmemory: &mut [f32],
        dw_in: &mut [f32],
        dw_out: &mut [f32],
    ) {
        let [s, e, h, o] = self.sizes;
        let (rows, all) = (self.memory_len.len() * s, queries.len() / h);
        let m = Matrix::new(self.memory, e);
        let (dk, dv) = (Matrix::new(dkeys, h), Matrix::new(dvalues, o));
        let w_in = Matrix::new(self.w_in, h);
        gemm(
            isa,
            [rows, e, h],
            dk,
            w_in.t(),
            Out::new(&mut *dmemory, e),
            &(),
        );
        let more = Out {
            accumulate: true,
            ..Out::new(dmemory, e)
        };
        let w_ctx = Matrix::new(self.w_out, e + h);
        gemm(isa, [rows, e, o], dv, w_ctx, more, &());
        gemm(isa, [e, h, rows], m.t(), dk, Out::new(dw_in, h), &());
        gemm(
            isa,
            [o, e, rows],
            dv.t(),
            m,
            Out::new(&mut *dw_out, e + h),
            &(),
        );
        let (dpre, queries) = (Matrix::new(dpre, o), Matrix::new(queries, h));
        let out = Out::new(&mut dw_out[e..], e + h);
        gemm(isa, [o, h, all], dpre.t(), queries, out, &());
    }
}

/// Some rows of queries, T a row, and what they look at.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// Of all rows: `[B, S, H]` and `[B, S, O]`.
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub memory_len: &'a [i32],
    /// S, H, O.
    pub sizes: [usize; 3],
    /// Rows that ask the same sentence.
    pub shared: usize,
    /// Number of the first row here.
    pub first: usize,
    /// Of the rows here.
    pub lengths: &'a [i32],
    /// T.
    pub length: usize,
    /// Of the answers.
    pub mask: Option<Mask>,
}

impl<'a> Query<'a> {
    /// Those of the present rows and after them, that a task goes on with.
    pub fn at(&self, first: usize, lengths: &'a [i32]) -> Query<'a> {
        Query {
            first,
            lengths,
            ..*self
        }
    }

    fn sentence(&self, row: usize) -> (&'a [f32], &'a [f32], usize) {
        let ([s, h, o], b) = (self.sizes, (self.first + row) / self.shared);
        let len = self.memory_len[b] as usize;
        let (keys, values) = (&self.keys[b * s * h..], &self.values[b * s * o..]);
        (&keys[..len * h], &values[..len * o], len)
    }

    /// Factors of an answer's elements.
    fn factors(&self, row: usize, t: usize, to: &mut [f32]) {
        match self.mask {
            None => to.fill(1.0),
            Some(mask) => {
                let row = (self.first + row) * self.length + t;
                mask.factors(row * to.len(), to);
            }
        }
    }

    /// The answers to step t: `h`, `probabilities` and `out` are the present rows'.
    pub fn ask(
        &self,
        isa: Isa,
        w_h: &Packed,
        t: usize,
        h: &[f32],
        probabilities: &mut [f32],
        out: &mut [f32],
    ) {
        let ([s, width, o], length) = (self.sizes, self.length);
        let to = Out::new(&mut out[t * o..], length * o);
        w_h.product(isa, self.lengths.len(), step(h, t, length, width), to);
        let mut factors = vec![0.0; o];
        for (b, tokens) in self.lengths.iter().enumerate() {
            let row = b * length + t;
            let p = &mut probabilities[row * s..][..s];
            let out = &mut out[row * o..][..o];
            p.fill(0.0);
            if t >= *tokens as usize {
                out.fill(0.0);
                continue;
            }
            self.factors(b, t, &mut factors);
            let (keys, values, len) = self.sentence(b);
            isa.run(Ask {
                h: &h[row * width..][..width],
                keys,
                values,
                factors: &factors,
                p: &mut p[..len],
                out,
            });
        }
    }

    /// Step t back. `dout` becomes the gradient of what goes into the tangent, `ds` gets that of the
    /// scores, and `dh` `[rows, H]` is set.
    pub fn back(&self, isa: Isa, w_h: &Packed, t: usize, answers: Answers, dh: &mut [f32]) {
        let ([s, width, o], length) = (self.sizes, self.length);
        let Answers {
            probabilities,
            out,
            dout,
            ds,
        } = answers;
        let mut factors = vec![0.0; o];
        dh.fill(0.0);
        for (b, tokens) in self.lengths.iter().enumerate() {
            let row = b * length + t;
            let (ds, dout) = (&mut ds[row * s..][..s], &mut dout[row * o..][..o]);
            ds.fill(0.0);
            if t >= *tokens as usize {
                dout.fill(0.0);
                continue;
            }
            self.factors(b, t, &mut factors);
            let (keys, values, len) = self.sentence(b);
            isa.run(Back {
                keys,
                values,
                factors: &factors,
                p: &probabilities[row * s..][..len],
                out: &out[row * o..][..o],
                dout,
                ds: &mut ds[..len],
                dh: &mut dh[b * width..][..width],
            });
        }
        let a = step(dout, t, length, o);
        w_h.product(isa, self.lengths.len(), a, add_to(dh, 0, 1, width));
    }
}

/// What the steps back look at and write, of the present rows.
pub struct Answers<'a> {
    pub probabilities: &'a [f32],
    pub out: &'a [f32],
    pub dout: &'a mut [f32],
    pub ds: &'a mut [f32],
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a_vectors, a_tail) = a.as_chunks();
    let (b_vectors, b_tail) = b.as_chunks();
    let mut sum = s.mul(s.load_first(a_tail), s.load_first(b_tail));
    for (a, b) in a_vectors.iter().zip(b_vectors) {
        sum = s.fma(s.load(a), s.load(b), sum);
    }
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, sum);
    lanes.iter().sum()
}

/// `to += k·x`.
#[inline(always)]
fn add_scaled(k: f32, x: &[f32], to: &mut [f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += k * x;
    }
}

/// One query.
struct Ask<'a> {
    h: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    factors: &'a [f32],
    p: &'a mut [f32],
    /// `W_h·h` becomes the answer.
    out: &'a mut [f32],
}

impl Kernel for Ask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (p, key) in self.p.iter_mut().zip(self.keys.chunks_exact(self.h.len())) {
            *p = dot(s, self.h, key);
        }
        let top = largest(s, self.p);
        let mut sum = 0.0;
        for p in self.p.iter_mut() {
            *p = exp(*p - top);
            sum += *p;
        }
        for p in self.p.iter_mut() {
            *p /= sum;
        }
        for (p, value) in self.p.iter().zip(self.values.chunks_exact(self.out.len())) {
            add_scaled(*p, value, self.out);
        }
        for (out, factor) in self.out.iter_mut().zip(self.factors) {
            *out = super::cell::tanh(*out) * factor;
        }
    }
}

/// One query's way back.
struct Back<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    factors: &'a [f32],
    p: &'a [f32],
    out: &'a [f32],
    dout: &'a mut [f32],
    ds: &'a mut [f32],
    dh: &'a mut [f32],
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((d, out), factor) in self.dout.iter_mut().zip(self.out).zip(self.factors) {
            // What was dropped has no gradient, whatever its tangent was.
            let tanh = out / if *factor == 0.0 { 1.0 } else { *factor };
            *d *= factor * (1.0 - tanh * tanh);
        }
        let mut mean = 0.0;
        let rows = self.values.chunks_exact(self.dout.len());
        for ((ds, value), p) in self.ds.iter_mut().zip(rows).zip(self.p) {
            *ds = dot(s, self.dout, value);
            mean += p * *ds;
        }
        let rows = self.keys.chunks_exact(self.dh.len());
        for ((ds, key), p) in self.ds.iter_mut().zip(rows).zip(self.p) {
            *ds = p * (*ds - mean);
            add_scaled(*ds, key, self.dh);
        }
    }
}
