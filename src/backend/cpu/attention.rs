//! Attention: a task is a sentence, its heads one after the other. Queries go in blocks, whose rows
//! of scores are whole and stay in the cache between the products and the softmax; the matrix
//! products share a long sentence's work among threads.

use super::gemm::{Matrix, Out, gemm};
use super::math::{exp, largest, sum};
use super::simd::{Isa, Kernel, Simd};
use super::slice::{Slice, SliceMut};
use rayon::prelude::*;

/// Queries of a block.
const BLOCK: usize = 64;

/// Heads side by side in the columns of `[B, L, W]`, from column `first` on.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// `[B, L, W]`.
    pub values: Slice<'a>,
    pub width: usize,
    pub first: usize,
}

impl<'a> Heads<'a> {
    /// From place `i` of `length` in a sentence: rows `width` apart, of which the first columns are
    /// the head's.
    fn at(&self, sentence: usize, length: usize, i: usize, column: usize) -> Slice<'a> {
        let row = sentence * length + i;
        self.values.after(row * self.width + self.first + column)
    }
}

/// What both passes read.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Number of heads.
    pub heads: usize,
    /// Columns of a head, D.
    pub depth: usize,
    /// Lq and Lk.
    pub lengths: [usize; 2],
    pub q: Heads<'a>,
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    /// `[B]`, of `1..=Lk`.
    pub key_len: &'a [i32],
    pub causal: bool,
}

impl Attention<'_> {
    fn check(&self) {
        let [queries, keys] = self.lengths;
        for (t, length) in [(&self.q, queries), (&self.k, keys), (&self.v, keys)] {
            assert_eq!(t.values.len(), self.key_len.len() * length * t.width);
            assert!(
                t.first + self.heads * self.depth <= t.width,
                "heads and columns"
            );
        }
        for len in self.key_len {
            let fits = (1..=keys as i32).contains(len);
            assert!(fits, "a sentence of {len} keys among {keys}");
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.depth as f32).sqrt()
    }

    /// Blocks of queries of a sentence.
    fn blocks(&self, sentence: usize) -> impl Iterator<Item = Block> {
        let keys = self.key_len[sentence] as usize;
        let (queries, causal) = (self.lengths[0], self.causal);
        (0..queries).step_by(BLOCK).map(move |first| {
            let rows = BLOCK.min(queries - first);
            let seen = if causal { keys.min(first + rows) } else { keys };
            Block {
                first,
                rows,
                seen,
                causal,
            }
        })
    }

    /// `q·kᵀ` of a block, `[rows, seen]`.
    fn scores(&self, isa: Isa, sentence: usize, column: usize, block: Block, scores: &mut [f32]) {
        let [queries, keys] = self.lengths;
        let q = self.q.at(sentence, queries, block.first, column);
        let k = self.k.at(sentence, keys, 0, column);
        let (q, k) = (Matrix::new(q, self.q.width), Matrix::new(k, self.k.width));
        let size = [block.rows, block.seen, self.depth];
        gemm(isa, size, q, k.t(), Out::new(scores, block.seen), &());
    }
}

/// Some queries of a sentence, and the keys that any of them sees.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
    seen: usize,
    causal: bool,
}

impl Block {
    /// The keys that a row's query sees.
    #[inline(always)]
    fn keys(&self, row: usize) -> usize {
        match self.causal {
            true => self.seen.min(self.first + row + 1),
            false => self.seen,
        }
    }
}

/// `out` is `[B, Lq, H·D]`, `lse` `[B, H, Lq]`; see
/// [`Attention`](crate::backend::sequence::Attention).
pub fn forward(isa: Isa, attention: &Attention, out: SliceMut, lse: &mut [f32]) {
    let Attention {
        heads,
        depth,
        lengths: [queries, keys],
        v,
        key_len,
        ..
    } = *attention;
    attention.check();
    assert_eq!(out.len(), key_len.len() * queries * heads * depth);
    assert_eq!(lse.len(), key_len.len() * heads * queries);
    let sentences = out
        .pieces(queries * heads * depth)
        .into_par_iter()
        .zip(lse.par_chunks_mut(heads * queries));
    sentences
        .enumerate()
        .for_each_init(Vec::new, |scores, (b, (mut out, lse))| {
            for (h, lse) in lse.chunks_exact_mut(queries).enumerate() {
                for block in attention.blocks(b) {
                    let Block {
                        first, rows, seen, ..
                    } = block;
                    scores.resize(rows * seen, 0.0);
                    attention.scores(isa, b, h * depth, block, scores);
                    isa.run(Softmax {
                        scores,
                        block,
                        scale: attention.scale(),
                        lse: &mut lse[first..first + rows],
                    });
                    let out = out.part(first * heads * depth + h * depth..out.len());
                    let v_rows = Matrix::new(v.at(b, keys, 0, h * depth), v.width);
                    let p = Matrix::new(&scores[..], seen);
                    gemm(
                        isa,
                        [rows, depth, seen],
                        p,
                        v_rows,
                        Out::new(out, heads * depth),
                        &(),
                    );
                }
            }
        });
}

/// Scores to probabilities, and the logarithm of each row's sum.
struct Softmax<'a> {
    scores: &'a mut [f32],
    block: Block,
    scale: f32,
    lse: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.scores.chunks_exact_mut(self.block.seen);
        for (i, (row, lse)) in rows.zip(self.lse).enumerate() {
            let (row, unseen) = row.split_at_mut(self.block.keys(i));
            unseen.fill(0.0);
            for score in row.iter_mut() {
                *score *= self.scale;
            }
            let max = largest(s, row);
            for score in row.iter_mut() {
                *score = exp(*score - max);
            }
            let sum = sum(s, row, 0.0);
            let inverse = (1.0 / sum) as f32;
            for score in row.iter_mut() {
                *score *= inverse;
            }
            *lse = (f64::from(max) + sum.ln()) as f32;
        }
    }
}

/// What [`backward`] reads beside the [`Attention`].
#[derive(Clone, Copy)]
pub struct GradInput<'a> {
    /// `[B, Lq, H·D]`.
    pub out: Slice<'a>,
    /// `[B, H, Lq]`.
    pub lse: &'a [f32],
    /// As `out`.
    pub dout: Slice<'a>,
}

/// Where a gradient goes: heads in the columns of one of the tensors that are written.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which of them.
    pub tensor: usize,
    pub width: usize,
    pub first: usize,
}

/// Sets the columns `dq`, `dk` and `dv` of `tensors` (each `[B, L, width]`).
pub fn backward(
    isa: Isa,
    attention: &Attention,
    input: GradInput,
    places: [Place; 3],
    tensors: Vec<SliceMut>,
) {
    let batch = attention.key_len.len();
    attention.check();
    let rows = batch * attention.heads * attention.lengths[0];
    let size = rows * attention.depth;
    assert_eq!([input.out.len(), input.dout.len()], [size; 2]);
    assert_eq!(input.lse.len(), rows);
    let lengths = [0, 1, 1].map(|i| attention.lengths[i]);
    for (place, length) in places.iter().zip(lengths) {
        assert_eq!(tensors[place.tensor].len(), batch * length * place.width);
    }
    let mut sentences: Vec<Vec<SliceMut>> = (0..batch).map(|_| Vec::new()).collect();
    for tensor in tensors {
        let size = tensor.len() / batch;
        for (to, part) in sentences.iter_mut().zip(tensor.pieces(size)) {
            to.push(part);
        }
    }
    sentences.into_par_iter().enumerate().for_each_init(
        <[Vec<f32>; 4]>::default,
        |scratch, (sentence, mut tensors)| {
            for head in 0..attention.heads {
                let pass = Backward {
                    isa,
                    attention,
                    input,
                    places,
                    sentence,
                    head,
                };
                pass.run(scratch, &mut tensors);
            }
        },
    );
}

/// The backward pass of one head of a sentence.
struct Backward<'a> {
    isa: Isa,
    attention: &'a Attention<'a>,
    input: GradInput<'a>,
    places: [Place; 3],
    sentence: usize,
    head: usize,
}

impl Backward<'_> {
    /// Block after block; the gradients of keys and values are sums over all, kept in f32.
    fn run(&self, scratch: &mut [Vec<f32>; 4], tensors: &mut [SliceMut]) {
        let Attention { depth, lengths, .. } = *self.attention;
        let [.., dk, dv] = scratch;
        for sum in [dk, dv] {
            sum.clear();
            sum.resize(lengths[1] * depth, 0.0);
        }
        for block in self.attention.blocks(self.sentence) {
            self.block(block, scratch, tensors);
        }
        let [.., dk, dv] = scratch;
        for (sum, place) in [(&*dk, self.places[1]), (&*dv, self.places[2])] {
            self.isa.run(Put {
                rows: sum,
                depth,
                to: &mut tensors[place.tensor],
                place,
                column: self.head * depth,
            });
        }
    }

    /// What a block of queries contributes: with `p = exp(s − lse)` and `dp = dout·vᵀ`,
    /// `ds = p·(dp − dout·out)/√D`: `dq = ds·k`, `dk += dsᵀ·q`, `dv += pᵀ·dout`.
    fn block(&self, block: Block, scratch: &mut [Vec<f32>; 4], tensors: &mut [SliceMut]) {
        let Attention {
            heads,
            depth,
            lengths: [queries, keys],
            q,
            k,
            v,
            ..
        } = *self.attention;
        let Block {
            first, rows, seen, ..
        } = block;
        let (isa, b, column) = (self.isa, self.sentence, self.head * depth);
        let [p, ds, dk, dv] = scratch;
        p.resize(rows * seen, 0.0);
        ds.resize(rows * seen, 0.0);
        self.attention.scores(isa, b, column, block, p);
        let width = heads * depth;
        let at = (b * queries + first) * width + column;
        let (out, dout) = (self.input.out.after(at), self.input.dout.after(at));
        let grads = Matrix::new(dout, width);
        let values = Matrix::new(v.at(b, keys, 0, column), v.width);
        let size = [rows, seen, depth];
        let to = Out::new(&mut ds[..], seen);
        gemm(isa, size, grads, values.t(), to, &());
        isa.run(ScoreGrad {
            p,
            ds,
            block,
            scale: self.attention.scale(),
            lse: &self.input.lse[(b * heads + self.head) * queries + first..][..rows],
            out,
            dout,
            width,
            depth,
        });
        let (p, ds) = (Matrix::new(&p[..], seen), Matrix::new(&ds[..], seen));
        let query = Matrix::new(q.at(b, queries, first, column), q.width);
        let key = Matrix::new(k.at(b, keys, 0, column), k.width);
        let place = self.places[0];
        let to = &mut tensors[place.tensor];
        let to = to.part(first * place.width + place.first + column..to.len());
        let size = [rows, depth, seen];
        gemm(isa, size, ds, key, Out::new(to, place.width), &());
        for (sum, grad, by) in [(dk, ds, query), (dv, p, grads)] {
            let out = Out {
                accumulate: true,
                ..Out::new(&mut sum[..], depth)
            };
            gemm(isa, [seen, depth, rows], grad.t(), by, out, &());
        }
    }
}

/// Rows of a head to their columns.
struct Put<'a, 'b> {
    /// Each of `depth`.
    rows: &'a [f32],
    depth: usize,
    to: &'a mut SliceMut<'b>,
    place: Place,
    column: usize,
}

impl Kernel for Put<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, row) in self.rows.chunks_exact(self.depth).enumerate() {
            let first = i * self.place.width + self.place.first + self.column;
            self.to.part(first..first + self.depth).put(s, row);
        }
    }
}

/// Scores to probabilities in `p`, and the gradient of those to that of the scores in `ds`.
struct ScoreGrad<'a> {
    p: &'a mut [f32],
    ds: &'a mut [f32],
    block: Block,
    scale: f32,
    lse: &'a [f32],
    /// Rows `width` apart.
    out: Slice<'a>,
    dout: Slice<'a>,
    width: usize,
    depth: usize,
}

impl Kernel for ScoreGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let seen = self.block.seen;
        let [mut out_room, mut dout_room] = std::array::from_fn(|_| vec![0.0; self.depth]);
        let rows = self
            .p
            .chunks_exact_mut(seen)
            .zip(self.ds.chunks_exact_mut(seen));
        for (i, (p, ds)) in rows.enumerate() {
            let at = i * self.width;
            let out = self.out.floats(s, at, &mut out_room);
            let delta = dot(s, out, self.dout.floats(s, at, &mut dout_room));
            let (p, unseen) = p.split_at_mut(self.block.keys(i));
            unseen.fill(0.0);
            let (ds, unseen) = ds.split_at_mut(p.len());
            unseen.fill(0.0);
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = exp(*p * self.scale - self.lse[i]);
                *ds = *p * (*ds - delta) * self.scale;
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a_vectors, a_tail) = a.as_chunks();
    let (b_vectors, b_tail) = b.as_chunks();
    let mut sum = s.wide_fma(s.load_first(a_tail), s.load_first(b_tail), s.wide_zero());
    for (a, b) in a_vectors.iter().zip(b_vectors) {
        sum = s.wide_fma(s.load(a), s.load(b), sum);
    }
    s.wide_lanes(sum).iter().sum::<f64>() as f32
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
