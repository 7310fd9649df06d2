//! Convolutions over time with gated linear units: here what an op reads, and the way forward.
//!
//! Sentences are copied once into a buffer with zeros around each, and what a place sees then is a
//! row of that buffer that overlaps its neighbours': a convolution is one product, without a matrix
//! of such rows. On the way back (`backward`) it is the same with the gradient.

mod backward;
#[cfg(test)]
mod tests;
mod units;

pub use backward::{Grads, OutputGrad, backward};

use super::dropout::Mask;
use super::gemm::{Epilogue, Matrix, Out, gemm};
use super::simd::{Isa, Simd};
use crate::backend::convolutional::HALF;
use rayon::prelude::*;
use units::Forward;

/// Rows of a task at least.
const ROWS: usize = 16;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// B.
    pub sentences: usize,
    /// L.
    pub length: usize,
    /// Width of `x`.
    pub inputs: usize,
    /// C: half of what the convolution gives.
    pub width: usize,
    /// K.
    pub kernel: usize,
    /// What is before a place is all that it sees beside itself.
    pub causal: bool,
}

impl Shape {
    /// Places that are seen before one, and after it.
    fn sides(&self) -> [usize; 2] {
        let all = self.kernel - 1;
        if self.causal {
            return [all, 0];
        }
        assert!(all.is_multiple_of(2), "as many to both sides");
        [all / 2; 2]
    }

    fn rows(&self) -> usize {
        self.sentences * self.length
    }

    /// Places of a sentence with those around it.
    fn padded_length(&self) -> usize {
        self.length + self.kernel - 1
    }

    /// Rows of sentences with `before` zeros in front of each: what is seen from each place is
    /// [`Shape::windows`] of it.
    fn pad(&self, before: usize, width: usize, set: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
        let padded = self.padded_length() * width;
        let mut to = vec![0.0; self.sentences * padded];
        to.par_chunks_mut(padded).enumerate().for_each(|(b, to)| {
            let rows = to[before * width..].chunks_exact_mut(width);
            let rows = rows.take(self.length).enumerate();
            rows.for_each(|(l, to)| set(b * self.length + l, to));
        });
        to
    }

    /// A row for each place, beginning with the first that [`Shape::pad`] has for it.
    fn windows<'a>(&self, padded: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix::windows(padded, width, self.length, self.padded_length() * width)
    }
}

/// What both passes read.
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    /// `[B, L, in]`.
    pub x: &'a [f32],
    /// `[2C, K, in]`.
    pub w: &'a [f32],
    /// `[B]`: tokens of each sentence; all L without it.
    pub lengths: Option<&'a [i32]>,
    /// Of `x`.
    pub mask: Option<Mask>,
    pub shape: Shape,
}

impl Conv<'_> {
    fn check(&self) {
        let s = &self.shape;
        assert_eq!(self.x.len(), s.rows() * s.inputs, "x of {s:?}");
        let w = 2 * s.width * s.kernel * s.inputs;
        assert_eq!(self.w.len(), w, "w of {s:?}");
        assert!(self.lengths.is_none_or(|l| l.len() == s.sentences));
    }

    /// Whether a row is a token.
    fn is_token(&self, row: usize) -> bool {
        let length = self.shape.length;
        let within = |lengths: &[i32]| row % length < lengths[row / length] as usize;
        self.lengths.is_none_or(within)
    }

    /// What a row's elements are multiplied by.
    fn factors(&self, row: usize, to: &mut [f32]) {
        match self.mask {
            None => to.fill(1.0),
            Some(mask) => mask.factors(row * to.len(), to),
        }
    }

    /// `x` as the convolution reads it, with zeros around each sentence.
    fn padded(&self) -> Vec<f32> {
        let (shape, width) = (&self.shape, self.shape.inputs);
        shape.pad(shape.sides()[0], width, |row, to| {
            if self.is_token(row) {
                self.factors(row, to);
                let x = &self.x[row * width..][..width];
                to.iter_mut().zip(x).for_each(|(to, x)| *to *= x);
            }
        })
    }
}

/// What only the way forward reads.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// `[2C]`.
    pub bias: &'a [f32],
    /// `[K − 1, B, in]`: what is before the first places, else zeros.
    pub before: Option<&'a [f32]>,
    /// `[B, L, C]`.
    pub residual: Option<&'a [f32]>,
}

/// Sets `pre` `[B, L, 2C]` and `y` `[B, L, C]`.
pub fn forward(isa: Isa, conv: &Conv, input: Input, pre: &mut [f32], y: &mut [f32]) {
    conv.check();
    let Input {
        bias,
        before,
        residual,
    } = input;
    let (shape, width) = (&conv.shape, conv.shape.width);
    assert_eq!(
        [pre.len(), y.len()],
        [2, 1].map(|n| n * shape.rows() * width)
    );
    assert_eq!(bias.len(), 2 * width);
    assert!(residual.is_none_or(|r| r.len() == y.len()));
    let mut padded = conv.padded();
    if let Some(before) = before {
        put_before(shape, before, &mut padded);
    }
    let seen = shape.kernel * shape.inputs;
    let (x, w) = (
        shape.windows(&padded, shape.inputs),
        Matrix::new(conv.w, seen),
    );
    let out = Out::new(&mut *pre, 2 * width);
    let size = [shape.rows(), 2 * width, seen];
    gemm(isa, size, x, w.t(), out, &Bias(bias));
    let scale = if residual.is_some() { HALF } else { 1.0 };
    let rows = y.par_chunks_mut(width).zip(pre.par_chunks(2 * width));
    rows.enumerate()
        .with_min_len(ROWS)
        .for_each(|(row, (y, pre))| {
            let residual = residual.filter(|_| conv.is_token(row));
            isa.run(Forward {
                pre,
                residual: residual.map(|r| &r[row * width..][..width]),
                scale,
                y,
            });
        });
}

/// Rows `[K − 1, B, in]` in front of the sentences.
fn put_before(shape: &Shape, before: &[f32], padded: &mut [f32]) {
    let (b, width) = (shape.sentences, shape.inputs);
    assert!(shape.causal, "nothing of the past is seen by both sides");
    assert_eq!(before.len(), (shape.kernel - 1) * b * width);
    let sentences = padded.par_chunks_mut(shape.padded_length() * width);
    sentences.enumerate().for_each(|(sentence, to)| {
        let past = before.chunks_exact(width).skip(sentence).step_by(b);
        for (to, from) in to.chunks_exact_mut(width).zip(past) {
            to.copy_from_slice(from);
        }
    });
}

struct Bias<'a>(&'a [f32]);

impl Epilogue for Bias<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, _: S, _: usize, column: usize, c: &mut [f32]) {
        for (c, b) in c.iter_mut().zip(&self.0[column..]) {
            *c += b;
        }
    }
}
