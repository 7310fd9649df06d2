//! Launches of `kernels/attention` and `kernels/attention_backward`.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder, bytes_of};
use crate::backend::sequence::{Attention, AttentionGrad, Heads};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "attention_tests.rs"]
mod tests;

/// `NAIVE_THREADS` of `kernels/include/attention_naive.cuh`: a row a warp.
const NAIVE_THREADS: usize = 128;
/// Queries and keys that the second step takes at most.
const SHORT: usize = 128;
/// Queries and keys of a tile of the third step, and its threads.
const TILE: usize = 64;
const TILED_THREADS: usize = 128;

/// Kernels on tensor cores for heads of so many columns at most.
#[derive(Debug)]
struct Kernels {
    depth: usize,
    /// Of the second step, for so many keys at most, and their threads.
    on_chip: [(usize, &'static str); 2],
    on_chip_threads: usize,
    on_chip_backward: &'static str,
    /// Of the third.
    online: &'static str,
    tiled: [&'static str; 2],
    /// Keys, then queries, that its backward pass walks over at once.
    walked: usize,
}

/// Of those that suit, the first is taken.
const KERNELS: [Kernels; 3] = [
    Kernels {
        depth: 32,
        on_chip: [
            (64, "attention_on_chip_64_32"),
            (128, "attention_on_chip_128_32"),
        ],
        on_chip_threads: 128,
        on_chip_backward: "attention_backward_on_chip_32",
        online: "attention_online_32",
        tiled: [
            "attention_backward_tiled_q_32",
            "attention_backward_tiled_kv_32",
        ],
        walked: 64,
    },
    Kernels {
        depth: 64,
        on_chip: [
            (64, "attention_on_chip_64_64"),
            (128, "attention_on_chip_128_64"),
        ],
        on_chip_threads: 128,
        on_chip_backward: "attention_backward_on_chip_64",
        online: "attention_online_64",
        tiled: [
            "attention_backward_tiled_q_64",
            "attention_backward_tiled_kv_64",
        ],
        walked: 64,
    },
    Kernels {
        depth: 128,
        on_chip: [
            (64, "attention_on_chip_64_128"),
            (128, "attention_on_chip_128_128"),
        ],
        on_chip_threads: 256,
        on_chip_backward: "attention_backward_on_chip_128",
        online: "attention_online_128",
        tiled: [
            "attention_backward_tiled_q_128",
            "attention_backward_tiled_kv_128",
        ],
        walked: 32,
    },
];

impl Kernels {
    /// Bytes of rows in shared memory.
    fn rows(&self, rows: usize) -> usize {
        rows * row_bytes(self.depth)
    }
}

/// Of a row of `Tile` of `kernels/include/attention_mma.cuh`.
fn row_bytes(columns: usize) -> usize {
    2 * columns + 16
}

/// Up to whole tiles of `mma`.
fn whole(rows: usize) -> usize {
    rows.next_multiple_of(16)
}

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

    /// Sentences' heads.
    fn pairs(&self) -> usize {
        self.batch * self.heads
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

/// Whether rows of all heads consist of vectors of 16 bytes that start at multiples of that.
fn has_vectors(gpu: &Gpu, shape: &Shape, heads: &[Heads], rows: &[Tensor]) -> bool {
    let starts = |h: &Heads| {
        let columns = h.first.is_multiple_of(8) && h.t.dims[3].is_multiple_of(8);
        columns && gpu.locate(h.t).is_multiple_of(16)
    };
    shape.depth.is_multiple_of(8)
        && heads.iter().all(starts)
        && rows.iter().all(|t| gpu.locate(*t).is_multiple_of(16))
}

/// Kernels of a step on tensor cores.
#[derive(Clone, Copy, Debug)]
struct Choice {
    step: u32,
    names: [&'static str; 2],
    /// Dynamic shared memory in bytes of each of them.
    shared: usize,
}

/// Of the second and the third step, in this order, the first that may be taken: the second where
/// everything fits on chip. `None` for the first step.
fn choose(gpu: &Gpu, shape: &Shape, choices: [Choice; 2]) -> Option<Choice> {
    let short = shape.lengths.iter().all(|length| *length <= SHORT);
    choices.into_iter().find(|choice| {
        (choice.step == 3 || short)
            && choice.names.iter().all(|n| gpu.fits(n, choice.shared))
            && gpu.allows(Ladder::Attention, choice.step)
    })
}

/// Those for heads of that depth, if there are any.
fn kernels(shape: &Shape) -> Option<&'static Kernels> {
    KERNELS.iter().find(|k| shape.depth <= k.depth)
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(crate) fn attention(gpu: &mut Gpu, a: Attention) {
    let shape = Shape::new(gpu, &a);
    let [queries, _] = shape.lengths;
    let mut args = input_args(gpu, &a, &shape);
    args.extend([a.out, a.lse].map(|t| gpu.address(t)));
    args.extend(shape.args());
    let kernels = has_vectors(gpu, &shape, &[a.q, a.k, a.v], &[a.out])
        .then(|| kernels(&shape))
        .flatten();
    let Some((kernels, choice)) =
        kernels.and_then(|k| Some((k, choose(gpu, &shape, forward_choices(&shape, k))?)))
    else {
        return naive(gpu, "attention_naive", shape.rows(0), &args);
    };
    let (blocks, threads) = match choice.step {
        2 => {
            let threads = kernels.on_chip_threads.min(2 * whole(queries));
            (shape.pairs(), threads)
        }
        _ => (shape.pairs() * queries.div_ceil(TILE), TILED_THREADS),
    };
    launch(gpu, choice.names[0], blocks, threads, choice.shared, &args);
}

fn forward_choices(shape: &Shape, kernels: &Kernels) -> [Choice; 2] {
    let [queries, keys] = shape.lengths;
    let [few, many] = kernels.on_chip;
    let (_, on_chip) = if keys <= few.0 { few } else { many };
    let [short, online] = [(2, on_chip), (3, kernels.online)].map(|(step, name)| Choice {
        step,
        names: [name; 2],
        shared: kernels.rows(match step {
            2 => whole(queries) + 2 * whole(keys),
            _ => 5 * TILE,
        }),
    });
    [short, online]
}

fn backward_choices(shape: &Shape, kernels: &Kernels) -> [Choice; 2] {
    let [queries, keys] = shape.lengths.map(whole);
    let floats = 2 * queries * size_of::<f32>();
    let ds = (keys * row_bytes(queries)).max(kernels.rows(queries));
    let on_chip = Choice {
        step: 2,
        names: [kernels.on_chip_backward; 2],
        shared: kernels.rows(2 * queries + 2 * keys) + ds + floats,
    };
    let walked = kernels.rows(4 * kernels.walked) + 4 * kernels.walked * size_of::<f32>();
    let tiled = Choice {
        step: 3,
        names: kernels.tiled,
        shared: kernels.rows(2 * TILE) + walked,
    };
    [on_chip, tiled]
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(crate) fn attention_backward(gpu: &mut Gpu, a: Attention, grad: AttentionGrad) {
    let shape = Shape::new(gpu, &a);
    let [queries, keys] = shape.lengths;
    let AttentionGrad { dout, dq, dk, dv } = grad;
    shape.check(gpu, [(dq, queries), (dk, keys), (dv, keys)]);
    shape.check_out(gpu, dout);
    let mut inputs = input_args(gpu, &a, &shape);
    inputs.extend([a.out, a.lse, dout].map(|t| gpu.address(t)));
    let sizes = shape.args();
    let choice = has_vectors(gpu, &shape, &[a.q, a.k, a.v, dq, dk, dv], &[a.out, dout])
        .then(|| kernels(&shape))
        .flatten()
        .and_then(|k| choose(gpu, &shape, backward_choices(&shape, k)));
    let [dq, dk, dv] = [dq, dk, dv].map(|h| heads_args(gpu, h));
    let Some(Choice {
        step,
        names,
        shared,
    }) = choice
    else {
        let args = [&inputs[..], &dq, &sizes].concat();
        naive(gpu, "attention_backward_naive_q", shape.rows(0), &args);
        let args = [&inputs[..], &dk, &dv, &sizes].concat();
        return naive(gpu, "attention_backward_naive_kv", shape.rows(1), &args);
    };
    match step {
        2 => {
            let args = [&inputs[..], &dq, &dk, &dv, &sizes].concat();
            let threads = 2 * whole(queries.max(keys));
            launch(gpu, names[0], shape.pairs(), threads, shared, &args);
        }
        _ => {
            let delta = [Arg::Ptr(gpu.scratch(shape.rows(0) * size_of::<f32>()))];
            let blocks = |length: usize| shape.pairs() * length.div_ceil(TILE);
            let args = [&inputs[..], &dq, &delta, &sizes].concat();
            launch(gpu, names[0], blocks(queries), TILED_THREADS, shared, &args);
            let args = [&inputs[..], &dk, &dv, &delta, &sizes].concat();
            launch(gpu, names[1], blocks(keys), TILED_THREADS, shared, &args);
        }
    }
}

fn naive(gpu: &mut Gpu, kernel: &'static str, rows: usize, args: &[Arg]) {
    let blocks = rows.div_ceil(NAIVE_THREADS / 32);
    launch(gpu, kernel, blocks, NAIVE_THREADS, 0, args);
}

fn launch(
    gpu: &mut Gpu,
    kernel: &'static str,
    blocks: usize,
    threads: usize,
    shared: usize,
    args: &[Arg],
) {
    let grid = [blocks as u32, 1, 1];
    gpu.launch(kernel, grid, threads as u32, shared as u32, args);
}
