//! Attention.

use super::case::{Case, case, tensor};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Attention, AttentionGrad, Heads, Mask, Sequence};
use crate::backend::{DeviceError, Executor, Kind};
use crate::rng::Stream;

/// Heads, queries, keys, depth, causal.
type Shape = (usize, usize, usize, usize, bool);

/// Every depth of tile, short and long, with tails; and rows that are not aligned.
const SHAPES: [Shape; 11] = [
    (2, 7, 5, 5, true),
    (1, 1, 1, 16, false),
    (2, 33, 20, 24, false),
    (1, 40, 40, 64, true),
    (1, 17, 70, 64, false),
    (1, 9, 66, 120, false),
    (1, 90, 15, 72, false),
    (1, 70, 77, 16, true),
    (1, 70, 130, 32, false),
    (1, 130, 130, 40, true),
    (1, 20, 135, 128, false),
];

/// Cases of this step of the ladder.
pub(super) fn cases(step: u32) -> Vec<Case> {
    if step > Ladder::Attention.last() {
        return Vec::new();
    }
    SHAPES
        .map(|shape| case(move |g, r| attention(g, r, shape)))
        .into()
}

fn attention(gpu: &mut Gpu, random: &mut Stream, shape: Shape) -> Result<(), DeviceError> {
    let (heads, queries, keys, depth, causal) = shape;
    let (batch, row) = (2, heads * depth);
    let activation = Kind::Activation;
    // The second sentence has padding, and queries have columns on both sides.
    let key_len = gpu.alloc(Kind::Label, [1, 1, 1, batch]);
    gpu.write_labels(key_len, &[keys as i32, keys.div_ceil(2) as i32])?;
    let q = tensor(gpu, random, activation, [1, batch, queries, row + 16])?;
    let [k, v] = [
        tensor(gpu, random, activation, [1, batch, keys, row])?,
        tensor(gpu, random, activation, [1, batch, keys, row])?,
    ]
    .map(|t| Heads { t, first: 0 });
    let out = gpu.alloc(activation, [1, batch, queries, row]);
    let attention = Attention {
        heads,
        q: Heads { t: q, first: 8 },
        k,
        v,
        mask: Mask { key_len, causal },
        out,
        lse: gpu.alloc(Kind::Float, [1, batch, heads, queries]),
    };
    let dout = tensor(gpu, random, activation, out.dims)?;
    let mut like = |heads: Heads| Heads {
        t: gpu.alloc(activation, heads.t.dims),
        ..heads
    };
    let grad = AttentionGrad {
        dout,
        dq: like(attention.q),
        dk: like(k),
        dv: like(v),
    };
    gpu.attention(attention);
    gpu.attention_backward(attention, grad);
    gpu.check()
}
