//! Recurrences: `cell` is a step of one sentence, `luong` a question to the source, `decoder` the
//! loop of both; here is a layer alone.
//!
//! Sentences never meet, so a task takes some of them through all steps, with weights that are
//! packed once, and waits for nobody. How they are cut does not depend on the threads.

mod cell;
mod decoder;
mod luong;

pub use decoder::{Cell, Decoder, Grads, States};
pub use luong::{Answers, Luong, Query};

use super::gemm::{Matrix, Out, Packed};
use super::linear_layer::{self, Layer, ParamGrad};
use super::simd::Isa;
use super::slice::Slice;
use rayon::prelude::*;

/// Sentences of a task: as many as make a tile of a product.
const GROUP: usize = 14;

/// Rows of one step: row b is the step's row of sentence b.
fn step(values: &[f32], t: usize, length: usize, width: usize) -> Matrix<'_> {
    Matrix::new(&values[t * width..], length * width)
}

/// The same to add to.
fn add_to(values: &mut [f32], t: usize, length: usize, width: usize) -> Out<'_> {
    Out {
        accumulate: true,
        ..Out::new(&mut values[t * width..], length * width)
    }
}

/// Each row of `[B, L, width]` one step later: what the recurrence reads where it has written
/// `values`, after `first` `[B, width]` or zeros.
fn shifted(values: &[f32], length: usize, width: usize, first: Option<&[f32]>) -> Vec<f32> {
    let mut to = vec![0.0; values.len()];
    let rows = to.chunks_exact_mut(length * width);
    for (b, (to, from)) in rows.zip(values.chunks_exact(length * width)).enumerate() {
        to[width..].copy_from_slice(&from[..(length - 1) * width]);
        if let Some(first) = first {
            to[..width].copy_from_slice(&first[b * width..][..width]);
        }
    }
    to
}

/// A layer over sentences of at most `length` tokens.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    pub w_hh: &'a [f32],
    pub b_hh: &'a [f32],
    /// `[B]`.
    pub lengths: &'a [i32],
    /// L.
    pub length: usize,
    /// H.
    pub width: usize,
}

impl Sequences<'_> {
    fn check(&self, gates: &[f32], cells: &[f32], out: &[f32]) {
        let (rows, h) = (self.lengths.len() * self.length, self.width);
        assert_eq!([self.w_hh.len(), self.b_hh.len()], [4 * h * h, 4 * h]);
        let sizes = [gates.len(), cells.len(), out.len()];
        assert_eq!(sizes, [rows * 4 * h, rows * h, rows * h]);
        check_lengths(self.lengths, self.length);
    }
}

/// Asserts that all lengths are from 1 to `most`.
fn check_lengths(lengths: &[i32], most: usize) {
    let fit = |length: &i32| (1..=most as i32).contains(length);
    assert!(lengths.iter().all(fit), "{lengths:?} tokens of {most}");
}

/// See [`Lstm`](crate::backend::recurrent::Lstm).
pub fn forward(
    isa: Isa,
    all: Sequences,
    gates: &mut [f32],
    cells: &mut [f32],
    out: &mut [f32],
    last: [&mut [f32]; 2],
) {
    all.check(gates, cells, out);
    let (length, h) = (all.length, all.width);
    let w = Packed::new(isa, Matrix::new(all.w_hh, h).t(), [h, 4 * h]);
    let [last_h, last_c] = last;
    let states = cells
        .par_chunks_mut(GROUP * length * h)
        .zip(out.par_chunks_mut(GROUP * length * h));
    let last = last_h
        .par_chunks_mut(GROUP * h)
        .zip(last_c.par_chunks_mut(GROUP * h));
    let groups = gates
        .par_chunks_mut(GROUP * length * 4 * h)
        .zip(states)
        .zip(last)
        .zip(all.lengths.par_chunks(GROUP));
    groups.for_each(|(((gates, (cells, out)), (last_h, last_c)), lengths)| {
        for t in 0..length {
            if t > 0 {
                let a = step(out, t - 1, length, h);
                w.product(isa, lengths.len(), a, add_to(gates, t, length, 4 * h));
            }
            for (b, tokens) in lengths.iter().enumerate() {
                let row = b * length + t;
                let gates = &mut gates[row * 4 * h..][..4 * h];
                let (past, now) = cells.split_at_mut(row * h);
                let (c, out) = (&mut now[..h], &mut out[row * h..][..h]);
                if t >= *tokens as usize {
                    gates.fill(0.0);
                    c.fill(0.0);
                    out.fill(0.0);
                    continue;
                }
                let before = (t > 0).then(|| &past[(row - 1) * h..]);
                let bias = all.b_hh;
                let (c, h) = (&mut *c, &mut *out);
                isa.run(cell::Forward {
                    gates,
                    bias,
                    before,
                    c,
                    h,
                });
            }
        }
        take_last(out, lengths, length, h, last_h);
        take_last(cells, lengths, length, h, last_c);
    });
}

/// The row of each sentence's last token.
fn take_last(states: &[f32], lengths: &[i32], length: usize, width: usize, last: &mut [f32]) {
    for (b, (tokens, last)) in lengths.iter().zip(last.chunks_mut(width)).enumerate() {
        let row = b * length + *tokens as usize - 1;
        last.copy_from_slice(&states[row * width..][..width]);
    }
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
pub struct GradInput<'a> {
    pub cells: &'a [f32],
    pub out: &'a [f32],
    pub dout: &'a [f32],
    /// Of h and of c.
    pub dlast: [&'a [f32]; 2],
}

/// `gates` become the gradients of z, and with them those of the parameters are `dw` and `db`.
pub fn backward(
    isa: Isa,
    all: Sequences,
    input: GradInput,
    gates: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    all.check(gates, input.cells, input.out);
    let (length, h) = (all.length, all.width);
    assert_eq!(input.dout.len(), input.out.len());
    let w = Packed::new(isa, Matrix::new(all.w_hh, h), [4 * h, h]);
    let [dlast_h, dlast_c] = input.dlast;
    let states = input
        .cells
        .par_chunks(GROUP * length * h)
        .zip(input.dout.par_chunks(GROUP * length * h));
    let last = dlast_h
        .par_chunks(GROUP * h)
        .zip(dlast_c.par_chunks(GROUP * h));
    let groups = gates
        .par_chunks_mut(GROUP * length * 4 * h)
        .zip(states)
        .zip(last)
        .zip(all.lengths.par_chunks(GROUP));
    groups.for_each(|(((gates, (cells, dout)), (dlast_h, dlast_c)), lengths)| {
        let mut dh = vec![0.0; lengths.len() * h];
        let mut dc = vec![0.0; lengths.len() * h];
        for t in (0..length).rev() {
            for (b, tokens) in lengths.iter().enumerate() {
                let (row, state) = (b * length + t, b * h..(b + 1) * h);
                let gates = &mut gates[row * 4 * h..][..4 * h];
                let last = *tokens as usize - 1;
                if t > last {
                    gates.fill(0.0);
                    continue;
                }
                let (dh, dc) = (&mut dh[state.clone()], &mut dc[state.clone()]);
                add(dh, &dout[row * h..][..h]);
                if t == last {
                    add(dh, &dlast_h[state.clone()]);
                    add(dc, &dlast_c[state]);
                }
                isa.run(cell::Backward {
                    gates,
                    before: (t > 0).then(|| &cells[(row - 1) * h..][..h]),
                    c: &cells[row * h..][..h],
                    dh,
                    dc,
                });
            }
            if t > 0 {
                let a = step(gates, t, length, 4 * h);
                w.product(isa, lengths.len(), a, Out::new(&mut dh[..], h));
            }
        }
    });
    let before = shifted(input.out, length, h, None);
    let layer = Layer {
        x: Slice::F32(&before),
        w: all.w_hh,
        shape: [before.len() / h, h, 4 * h],
    };
    let grad = ParamGrad {
        dw,
        db: Some(db),
        accumulate: false,
    };
    linear_layer::backward_params(isa, layer, Slice::F32(gates), grad);
}

/// `to += x`.
fn add(to: &mut [f32], x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}
