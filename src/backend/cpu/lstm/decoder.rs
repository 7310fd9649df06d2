//! A decoder's loop: cells, a question to the source, and its answer as the next step's input.

use super::cell;
use super::luong::{Answers, Luong, Query};
use super::{GROUP, add, add_to, check_lengths, shifted, step, take_last};
use crate::backend::cpu::dropout::Mask;
use crate::backend::cpu::gemm::{Matrix, Out, Packed, gemm};
use crate::backend::cpu::linear_layer::{self, Layer, ParamGrad};
use crate::backend::cpu::simd::Isa;
use crate::backend::cpu::slice::Slice;
use rayon::prelude::*;

/// A layer's parameters.
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    pub w_ih: &'a [f32],
    pub w_hh: &'a [f32],
    pub b_ih: &'a [f32],
    pub b_hh: &'a [f32],
}

/// See [`LstmDecoder`](crate::backend::recurrent::LstmDecoder).
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    pub cells: &'a [Cell<'a>],
    pub luong: Luong<'a>,
    pub query: Query<'a>,
    pub x: &'a [f32],
    /// I.
    pub inputs: usize,
    pub start: [&'a [f32]; 2],
    pub feed: Option<&'a [f32]>,
    /// Of h as the layer above reads it.
    pub masks: &'a [Option<Mask>],
}

/// What the loop writes.
pub struct States<'a> {
    pub gates: &'a mut [f32],
    pub cells: &'a mut [f32],
    pub hidden: &'a mut [f32],
    pub probabilities: &'a mut [f32],
    pub out: &'a mut [f32],
    pub last: [&'a mut [f32]; 2],
}

/// What the way back reads and writes.
pub struct Grads<'a> {
    pub cells: &'a [f32],
    pub probabilities: &'a [f32],
    pub out: &'a [f32],
    /// What the forward pass made of z becomes the gradient of z.
    pub gates: &'a mut [f32],
    /// Becomes the gradient of what goes into the tangent.
    pub dout: &'a mut [f32],
    /// As `probabilities`: that of the scores.
    pub ds: &'a mut [f32],
    pub dstart: [&'a mut [f32]; 2],
}

/// `[N][groups]` pieces of a tensor `[N, rows, width]`, turned into `[groups][N]`.
fn by_group(x: &mut [f32], rows: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let mut groups: Vec<Vec<&mut [f32]>> = Vec::new();
    groups.resize_with(rows.div_ceil(GROUP), Vec::new);
    for layer in x.chunks_mut(rows * width) {
        for (group, piece) in groups.iter_mut().zip(layer.chunks_mut(GROUP * width)) {
            group.push(piece);
        }
    }
    groups
}

impl<'a> Decoder<'a> {
    fn rows(&self) -> usize {
        self.query.lengths.len()
    }

    fn width(&self) -> usize {
        self.query.sizes[1]
    }

    /// The first layer's columns for x, and those for the feed.
    fn input_weights(&self) -> [Matrix<'a>; 2] {
        let (w, ld) = (self.cells[0].w_ih, self.inputs + self.width());
        [Matrix::new(w, ld), Matrix::new(&w[self.inputs..], ld)]
    }

    /// What a step of layer n reads from below, `[4H, H]`: the feed or the layer below it.
    fn below(&self, n: usize) -> Matrix<'a> {
        match n {
            0 => self.input_weights()[1],
            n => Matrix::new(self.cells[n].w_ih, self.width()),
        }
    }

    fn check(&self) {
        let (h, length) = (self.width(), self.query.length);
        let [_, e, _, o] = self.luong.sizes;
        assert_eq!([e, o], [h; 2], "the feed and the memory are as wide as h");
        check_lengths(self.query.lengths, length);
        assert_eq!(self.x.len(), self.rows() * length * self.inputs);
        let states = self.cells.len() * self.rows() * h;
        assert_eq!(self.start.map(<[f32]>::len), [states; 2]);
        assert_eq!(self.masks.len() + 1, self.cells.len());
        for (n, cell) in self.cells.iter().enumerate() {
            let inputs = if n == 0 { self.inputs + h } else { h };
            let sizes = [cell.w_ih, cell.w_hh, cell.b_ih, cell.b_hh].map(<[f32]>::len);
            assert_eq!(sizes, [4 * h * inputs, 4 * h * h, 4 * h, 4 * h]);
        }
    }

    /// h of rows from `first` on at step t as the layer above n reads it.
    fn dropped(&self, n: usize, first: usize, t: usize, hidden: &[f32], to: &mut [f32]) {
        let (h, length) = (self.width(), self.query.length);
        for (b, to) in to.chunks_exact_mut(h).enumerate() {
            let (row, all) = (b * length + t, (first + b) * length + t);
            let hidden = &hidden[row * h..][..h];
            match self.masks[n] {
                None => to.copy_from_slice(hidden),
                Some(mask) => {
                    mask.factors(all * h, to);
                    to.iter_mut().zip(hidden).for_each(|(to, h)| *to *= h);
                }
            }
        }
    }

    /// Of each layer the packed weights of what comes from below and of its own h, for steps
    /// forward; for steps back their transposes.
    fn pack(&self, isa: Isa, back: bool) -> Vec<[Packed; 2]> {
        let h = self.width();
        let pack = |w: Matrix| match back {
            false => Packed::new(isa, w.t(), [h, 4 * h]),
            true => Packed::new(isa, w, [4 * h, h]),
        };
        let layers = self.cells.iter().enumerate();
        layers
            .map(|(n, cell)| [pack(self.below(n)), pack(Matrix::new(cell.w_hh, h))])
            .collect()
    }

    pub fn forward(&self, isa: Isa, states: States) {
        self.check();
        let (rows, h, length) = (self.rows(), self.width(), self.query.length);
        // The inputs' part of all steps at once.
        let (x, w_x) = (Matrix::new(self.x, self.inputs), self.input_weights()[0]);
        let first = &mut states.gates[..rows * length * 4 * h];
        let size = [rows * length, 4 * h, self.inputs];
        gemm(isa, size, x, w_x.t(), Out::new(first, 4 * h), &());
        let bias = |cell: &Cell| {
            let both = cell.b_ih.iter().zip(cell.b_hh);
            both.map(|(a, b)| a + b).collect()
        };
        let weights = Forward {
            layers: self.pack(isa, false),
            w_h: self.luong.forward_weights(isa),
            biases: self.cells.iter().map(bias).collect(),
        };
        let [last_h, last_c] = states.last.map(|last| by_group(last, rows, h));
        let layers = by_group(states.gates, rows, length * 4 * h)
            .into_iter()
            .zip(by_group(states.cells, rows, length * h))
            .zip(by_group(states.hidden, rows, length * h))
            .zip(last_h.into_iter().zip(last_c));
        let answers = states
            .probabilities
            .chunks_mut(GROUP * length * self.query.sizes[0])
            .zip(states.out.chunks_mut(GROUP * length * h));
        let parts = layers
            .zip(answers)
            .enumerate()
            .map(|(i, (layers, answers))| {
                let (((gates, cells), hidden), (last_h, last_c)) = layers;
                Part {
                    first: i * GROUP,
                    gates,
                    cells,
                    hidden,
                    last: [last_h, last_c],
                    probabilities: answers.0,
                    out: answers.1,
                }
            });
        let parts: Vec<Part> = parts.collect();
        parts
            .into_par_iter()
            .for_each(|part| self.steps(isa, &weights, part));
    }

    /// Lengths of a task's rows.
    fn lengths(&self, first: usize) -> &'a [i32] {
        &self.query.lengths[first..self.rows().min(first + GROUP)]
    }

    /// Layer n's h or c before the first step, of a task's rows.
    fn start(&self, which: usize, n: usize, first: usize, count: usize) -> &'a [f32] {
        let h = self.width();
        &self.start[which][(n * self.rows() + first) * h..][..count * h]
    }

    /// All steps of a task's rows.
    fn steps(&self, isa: Isa, weights: &Forward, mut part: Part) {
        let (h, length, lengths) = (self.width(), self.query.length, self.lengths(part.first));
        let (first, count) = (part.first, lengths.len());
        let query = self.query.at(first, lengths);
        let mut below = vec![0.0; count * h];
        for t in 0..length {
            for (n, [from_below, across]) in weights.layers.iter().enumerate() {
                let gates = &mut part.gates[n];
                let to = |gates| match n {
                    // The inputs' part is there already.
                    0 => add_to(gates, t, length, 4 * h),
                    _ => Out::new(&mut gates[t * 4 * h..], length * 4 * h),
                };
                if n > 0 {
                    self.dropped(n - 1, first, t, part.hidden[n - 1], &mut below);
                    from_below.product(isa, count, Matrix::new(&below[..], h), to(gates));
                } else if t > 0 {
                    from_below.product(isa, count, step(part.out, t - 1, length, h), to(gates));
                } else if let Some(feed) = self.feed {
                    let feed = Matrix::new(&feed[first * h..], h);
                    from_below.product(isa, count, feed, to(gates));
                }
                let before = match t {
                    0 => Matrix::new(self.start(0, n, first, count), h),
                    t => step(part.hidden[n], t - 1, length, h),
                };
                across.product(isa, count, before, add_to(gates, t, length, 4 * h));
                let start = self.start(1, n, first, count);
                for (b, tokens) in lengths.iter().enumerate() {
                    let row = b * length + t;
                    let gates = &mut gates[row * 4 * h..][..4 * h];
                    let (past, now) = part.cells[n].split_at_mut(row * h);
                    let (c, hidden) = (&mut now[..h], &mut part.hidden[n][row * h..][..h]);
                    if t >= *tokens as usize {
                        gates.fill(0.0);
                        c.fill(0.0);
                        hidden.fill(0.0);
                        continue;
                    }
                    let before = match t {
                        0 => &start[b * h..][..h],
                        _ => &past[(row - 1) * h..],
                    };
                    isa.run(cell::Forward {
                        gates,
                        bias: &weights.biases[n],
                        before: Some(before),
                        c,
                        h: hidden,
                    });
                }
            }
            let top = &part.hidden[self.cells.len() - 1];
            query.ask(isa, &weights.w_h, t, top, part.probabilities, part.out);
        }
        for (states, last) in [&part.hidden, &part.cells].into_iter().zip(&mut part.last) {
            for (states, last) in states.iter().zip(last) {
                take_last(states, lengths, length, h, last);
            }
        }
    }

    /// From the gradient of `out` those of z and of all that comes from outside the loop.
    pub fn backward(&self, isa: Isa, grads: Grads) {
        self.check();
        let (rows, h, length) = (self.rows(), self.width(), self.query.length);
        let weights = Backward {
            layers: self.pack(isa, true),
            w_h: self.luong.backward_weights(isa),
        };
        let [dh, dc] = grads.dstart.map(|dstart| by_group(dstart, rows, h));
        let layers = by_group(grads.gates, rows, length * 4 * h)
            .into_iter()
            .zip(dh.into_iter().zip(dc));
        let answers = grads
            .dout
            .chunks_mut(GROUP * length * h)
            .zip(grads.ds.chunks_mut(GROUP * length * self.query.sizes[0]));
        let parts = layers
            .zip(answers)
            .enumerate()
            .map(|(i, (layers, answers))| {
                let (gates, (dh, dc)) = layers;
                let (dout, ds) = answers;
                PartBack {
                    first: i * GROUP,
                    gates,
                    dh,
                    dc,
                    dout,
                    ds,
                }
            });
        let parts: Vec<PartBack> = parts.collect();
        let made = (grads.cells, grads.probabilities, grads.out);
        parts
            .into_par_iter()
            .for_each(|part| self.steps_back(isa, &weights, made, part));
    }

    fn steps_back(
        &self,
        isa: Isa,
        weights: &Backward,
        (cells, probabilities, out): (&[f32], &[f32], &[f32]),
        mut part: PartBack,
    ) {
        let (h, length, lengths) = (self.width(), self.query.length, self.lengths(part.first));
        let (first, count, layers) = (part.first, lengths.len(), self.cells.len());
        let query = self.query.at(first, lengths);
        let s = self.query.sizes[0];
        let probabilities = &probabilities[first * length * s..];
        let out = &out[first * length * h..];
        let [mut dfeed, mut dtop] = [(); 2].map(|()| vec![0.0; count * h]);
        part.dh.iter_mut().for_each(|dh| dh.fill(0.0));
        part.dc.iter_mut().for_each(|dc| dc.fill(0.0));
        for t in (0..length).rev() {
            for (b, dfeed) in dfeed.chunks_exact(h).enumerate() {
                add(&mut part.dout[(b * length + t) * h..][..h], dfeed);
            }
            let answers = Answers {
                probabilities,
                out,
                dout: part.dout,
                ds: part.ds,
            };
            query.back(isa, &weights.w_h, t, answers, &mut dtop);
            add(part.dh[layers - 1], &dtop);
            for (n, [from_below, across]) in weights.layers.iter().enumerate().rev() {
                let states = &cells[(n * self.rows() + first) * length * h..];
                let start = self.start(1, n, first, count);
                let gates = &mut *part.gates[n];
                for (b, tokens) in lengths.iter().enumerate() {
                    let (row, state) = (b * length + t, b * h..(b + 1) * h);
                    let gates = &mut gates[row * 4 * h..][..4 * h];
                    if t >= *tokens as usize {
                        gates.fill(0.0);
                        continue;
                    }
                    isa.run(cell::Backward {
                        gates,
                        before: Some(match t {
                            0 => &start[state.clone()],
                            _ => &states[(row - 1) * h..][..h],
                        }),
                        c: &states[row * h..][..h],
                        dh: &part.dh[n][state.clone()],
                        dc: &mut part.dc[n][state],
                    });
                }
                let dz = || step(gates, t, length, 4 * h);
                across.product(isa, count, dz(), Out::new(&mut *part.dh[n], h));
                from_below.product(isa, count, dz(), Out::new(&mut dfeed[..], h));
                if n > 0 {
                    self.drop_grads(n - 1, first, t, &mut dfeed);
                    add(part.dh[n - 1], &dfeed);
                }
            }
        }
    }

    /// Gradients of what the layer above n reads at step t, back through its dropout.
    fn drop_grads(&self, n: usize, first: usize, t: usize, grads: &mut [f32]) {
        let Some(mask) = self.masks[n] else { return };
        let (h, length) = (self.width(), self.query.length);
        let mut factors = vec![0.0; h];
        for (b, grads) in grads.chunks_exact_mut(h).enumerate() {
            mask.factors(((first + b) * length + t) * h, &mut factors);
            grads.iter_mut().zip(&factors).for_each(|(g, f)| *g *= f);
        }
    }

    /// `dx` from the gradients of z `[N, B, T, 4H]`.
    pub fn inputs_backward(&self, isa: Isa, dz: &[f32], dx: &mut [f32]) {
        let (rows, h) = (self.rows() * self.query.length, self.width());
        let (dz, w) = (Matrix::new(dz, 4 * h), self.input_weights()[0]);
        let size = [rows, self.inputs, 4 * h];
        gemm(isa, size, dz, w, Out::new(dx, self.inputs), &());
    }

    /// Gradients of layer n's parameters from those of z, h of all layers, and the answers.
    pub fn cell_backward(
        &self,
        isa: Isa,
        n: usize,
        [dz, hidden, out]: [&[f32]; 3],
        [dw_ih, dw_hh, db_ih, db_hh]: [&mut [f32]; 4],
    ) {
        let (rows, h, length) = (
            self.rows() * self.query.length,
            self.width(),
            self.query.length,
        );
        let dz = &dz[n * rows * 4 * h..][..rows * 4 * h];
        let layer = |n: usize| &hidden[n * rows * h..][..rows * h];
        let start = self.start(0, n, 0, self.rows());
        let before = shifted(layer(n), length, h, Some(start));
        let across = Layer {
            x: Slice::F32(&before),
            w: self.cells[n].w_hh,
            shape: [rows, h, 4 * h],
        };
        let grad = ParamGrad {
            dw: dw_hh,
            db: Some(&mut *db_hh),
            accumulate: false,
        };
        linear_layer::backward_params(isa, across, Slice::F32(dz), grad);
        db_ih.copy_from_slice(db_hh);
        let dz = Matrix::new(dz, 4 * h).t();
        if n == 0 {
            let (feed, ld) = (shifted(out, length, h, None), self.inputs + h);
            let x = Matrix::new(self.x, self.inputs);
            let size = [4 * h, self.inputs, rows];
            gemm(isa, size, dz, x, Out::new(&mut *dw_ih, ld), &());
            let (feed, to) = (Matrix::new(&feed[..], h), &mut dw_ih[self.inputs..]);
            gemm(isa, [4 * h, h, rows], dz, feed, Out::new(to, ld), &());
            return;
        }
        let mut below = vec![0.0; rows * h];
        let all = below.par_chunks_mut(length * h).enumerate();
        all.for_each(|(b, below)| {
            let hidden = &layer(n - 1)[b * length * h..];
            for (t, below) in below.chunks_exact_mut(h).enumerate() {
                self.dropped(n - 1, b, t, hidden, below);
            }
        });
        let below = Matrix::new(&below[..], h);
        gemm(isa, [4 * h, h, rows], dz, below, Out::new(dw_ih, h), &());
    }
}

/// Weights for steps forward.
struct Forward {
    layers: Vec<[Packed; 2]>,
    w_h: Packed,
    biases: Vec<Vec<f32>>,
}

/// Weights for steps back.
struct Backward {
    layers: Vec<[Packed; 2]>,
    w_h: Packed,
}

/// A task's rows of what the loop writes; of each layer where there are layers.
struct Part<'a> {
    first: usize,
    gates: Vec<&'a mut [f32]>,
    cells: Vec<&'a mut [f32]>,
    hidden: Vec<&'a mut [f32]>,
    last: [Vec<&'a mut [f32]>; 2],
    probabilities: &'a mut [f32],
    out: &'a mut [f32],
}

/// The same of the way back, where the states' gradients end up as those of the first.
struct PartBack<'a> {
    first: usize,
    gates: Vec<&'a mut [f32]>,
    dh: Vec<&'a mut [f32]>,
    dc: Vec<&'a mut [f32]>,
    dout: &'a mut [f32],
    ds: &'a mut [f32],
}
