//! Launches of `kernels/attention` and `kernels/attention_backward`.

use super::driver::Arg;
use super::{Gpu, bytes_of};
use crate::backend::sequence::{Attention, AttentionGrad, Heads};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "attention_tests.rs"]
mod tests;

/// `NAIVE_THREADS` of `kernels/include/attention_naive.cuh`: a row a warp.
const NAIVE_THREADS: u32 = 128;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    heads: usize,
    /// Lq and Lk.
    lengths: [usize; 2],
    /// Columns of a head, D.
    depth: usize,
}

impl Shape {
    fn new(gpu: &Gpu, a: &Attention) -> Shape {
        let [_, batch, queries, width] = a.out.dims;
        let keys = a.k.t.dims[2];
        assert!(!a.out.is_empty() && keys > 0, "{a:?}");
        assert!(
            width.is_multiple_of(a.heads),
            "{} heads in {width}",
            a.heads
        );
        let shape = Shape {
            batch,
            heads: a.heads,
            lengths: [queries, keys],
            depth: width / a.heads,
        };
        shape.check(gpu, [(a.q, queries), (a.k, keys), (a.v, keys)]);
        shape.check_out(gpu, a.out);
        let kinds = [a.lse, a.mask.key_len].map(|t| gpu.buffers[t.buffer].kind);
        assert_eq!(kinds, [Kind::Float, Kind::Label], "lse and key_len");
        assert_eq!(a.lse.len(), batch * a.heads * queries, "lse");
        assert_eq!(a.mask.key_len.len(), batch, "key_len");
        // The kernels count in 32 bits, and up to some tiles past the last row.
        let rows = batch * a.heads * queries.max(keys);
        assert!(rows <= i32::MAX as usize / 2, "{rows} rows");
        shape
    }

    /// That heads fit into their tensors.
    fn check(&self, gpu: &Gpu, heads: [(Heads, usize); 3]) {
        for (h, length) in heads {
            let [_, batch, rows, width] = h.t.dims;
            assert_eq!([batch, rows], [self.batch, length], "rows of {h:?}");
            assert!(
                h.first + self.heads * self.depth <= width,
                "columns of {h:?}"
            );
            assert_eq!(gpu.buffers[h.t.buffer].kind, Kind::Activation, "{h:?}");
        }
    }

    fn check_out(&self, gpu: &Gpu, t: Tensor) {
        let [queries, _] = self.lengths;
        let dims = [1, self.batch, queries, self.heads * self.depth];
        assert_eq!(t.dims, dims, "of out or its gradient");
        assert_eq!(gpu.buffers[t.buffer].kind, Kind::Activation, "{t:?}");
    }

    /// Rows of queries, or of keys, of all heads.
    fn rows(&self, which: usize) -> usize {
        self.batch * self.heads * self.lengths[which]
    }

    /// Sizes as all kernels end with them.
    fn args(&self) -> [Arg; 5] {
        let [queries, keys] = self.lengths;
        [self.batch, self.heads, queries, keys, self.depth].map(|size| Arg::I32(size as i32))
    }
}

/// The first head's first column, and how far rows are apart.
fn heads_args(gpu: &Gpu, h: Heads) -> [Arg; 2] {
    let first = gpu.locate(h.t) + (h.first * bytes_of(Kind::Activation)) as u64;
    [Arg::Ptr(first), Arg::I32(h.t.dims[3] as i32)]
}

/// What all kernels begin with.
fn input_args(gpu: &Gpu, a: &Attention, shape: &Shape) -> Vec<Arg> {
    let mut args: Vec<Arg> = [a.q, a.k, a.v]
        .into_iter()
        .flat_map(|h| heads_args(gpu, h))
        .collect();
    args.push(gpu.address(a.mask.key_len));
    args.push(Arg::I32(a.mask.causal.into()));
    args.push(Arg::F32(1.0 / (shape.depth as f32).sqrt()));
    args
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn attention(gpu: &mut Gpu, a: Attention) {
    let shape = Shape::new(gpu, &a);
    let mut args = input_args(gpu, &a, &shape);
    args.extend([a.out, a.lse].map(|t| gpu.address(t)));
    args.extend(shape.args());
    naive(gpu, "attention_naive", shape.rows(0), &args);
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn attention_backward(gpu: &mut Gpu, a: Attention, grad: AttentionGrad) {
    let shape = Shape::new(gpu, &a);
    let [queries, keys] = shape.lengths;
    shape.check(gpu, [(grad.dq, queries), (grad.dk, keys), (grad.dv, keys)]);
    shape.check_out(gpu, grad.dout);
    let mut inputs = input_args(gpu, &a, &shape);
    inputs.extend([a.out, a.lse, grad.dout].map(|t| gpu.address(t)));
    let [dq, dk, dv] = [grad.dq, grad.dk, grad.dv].map(|h| heads_args(gpu, h));
    let args = [&inputs[..], &dq, &shape.args()].concat();
    naive(gpu, "attention_backward_naive_q", shape.rows(0), &args);
    let args = [&inputs[..], &dk, &dv, &shape.args()].concat();
    naive(gpu, "attention_backward_naive_kv", shape.rows(1), &args);
}

fn naive(gpu: &mut Gpu, kernel: &'static str, rows: usize, args: &[Arg]) {
    let blocks = rows.div_ceil(NAIVE_THREADS as usize / 32) as u32;
    gpu.launch(kernel, [blocks, 1, 1], NAIVE_THREADS, 0, args);
}
