//! The ops of networks over tokens.

use super::{Aside, Op, Work, activation, labels, noise};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{
    Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Mask, SentenceLoss,
    Sequence,
};
use crate::backend::{DeviceError, Executor, Kind};

type Result<T = Work> = std::result::Result<T, DeviceError>;

const TOKENS: &[&str] = &["sentences", "length", "d"];
const SENTENCES: &[usize] = &[512, 32, 512];
const ATTENTION: &[&str] = &["batch", "length", "heads", "depth"];
const HEADS: &[usize] = &[64, 128, 8, 64];
/// The third step is for sentences that the second has no room for.
const LONG: Option<Aside> = Some(Aside {
    step: 3,
    beside: 1,
    shape: &[8, 1024, 16, 64],
});

pub(super) static OPS: &[Op] = &[
    Op {
        name: "embedding",
        ladder: Some(Ladder::Embedding),
        steps: &[1, 2],
        folders: &["embedding"],
        dims: TOKENS,
        shape: SENTENCES,
        aside: None,
        flops: |_| 0,
        bytes: |s| 6 * s[0] * s[1] * s[2],
        make: embed,
    },
    Op {
        name: "embedding_backward",
        ladder: Some(Ladder::Embedding),
        steps: &[1, 2],
        folders: &["embedding"],
        dims: TOKENS,
        shape: SENTENCES,
        aside: None,
        flops: |_| 0,
        bytes: |s| 2 * s[0] * s[1] * s[2] + 4 * VOCABULARY * s[2],
        make: embed_backward,
    },
    Op {
        name: "attention",
        ladder: Some(Ladder::Attention),
        steps: &[1, 2, 3],
        folders: &["attention"],
        dims: ATTENTION,
        shape: HEADS,
        aside: LONG,
        flops: |s| 4 * s[0] * s[2] * s[1] * s[1] * s[3],
        bytes: |s| s[0] * s[1] * s[2] * (8 * s[3] + 4),
        make: attend,
    },
    Op {
        name: "attention_backward",
        ladder: Some(Ladder::Attention),
        steps: &[1, 2, 3],
        folders: &["attention_backward"],
        dims: ATTENTION,
        shape: HEADS,
        aside: LONG,
        flops: |s| 10 * s[0] * s[2] * s[1] * s[1] * s[3],
        bytes: |s| s[0] * s[1] * s[2] * (16 * s[3] + 4),
        make: attend_backward,
    },
    Op {
        name: "layer_norm",
        ladder: Some(Ladder::LayerNorm),
        steps: &[1, 2],
        folders: &["layer_norm"],
        dims: TOKENS,
        shape: SENTENCES,
        aside: None,
        flops: |_| 0,
        bytes: |s| 8 * s[0] * s[1] * s[2],
        make: add_norm,
    },
    Op {
        name: "layer_norm_backward",
        ladder: Some(Ladder::LayerNorm),
        steps: &[1, 2],
        folders: &["layer_norm_backward"],
        dims: TOKENS,
        shape: SENTENCES,
        aside: None,
        flops: |_| 0,
        bytes: |s| 10 * s[0] * s[1] * s[2],
        make: add_norm_backward,
    },
    Op {
        name: "sentence_xent",
        ladder: Some(Ladder::SentenceXent),
        steps: &[1, 2],
        folders: &["sentence_xent"],
        dims: &["tokens", "classes"],
        shape: &[1024, 8000],
        aside: None,
        flops: |_| 0,
        bytes: |s| 4 * s[0] * s[1],
        make: sentence_xent,
    },
    Op {
        name: "clip_scale",
        ladder: Some(Ladder::Adam),
        steps: &[1],
        folders: &["clip_scale"],
        dims: &["parameters"],
        shape: &[8 << 20],
        aside: None,
        flops: |_| 0,
        bytes: |s| 4 * s[0],
        make: clip,
    },
    Op {
        name: "adam",
        ladder: Some(Ladder::Adam),
        steps: &[1, 2],
        folders: &["adam"],
        dims: &["parameters"],
        shape: &[8 << 20],
        aside: None,
        flops: |_| 0,
        bytes: |s| 28 * s[0],
        make: adam,
    },
];

const DROPOUT: Dropout = Dropout { p: 0.1, site: 1 };
const VOCABULARY: usize = 8000;

fn ops(exec: &mut dyn Executor) -> &mut dyn Sequence {
    exec.sequence().expect("a GPU has them")
}

fn dims(shape: &[usize]) -> [usize; 4] {
    [1, shape[0], shape[1], shape[2]]
}

fn embedding(gpu: &mut Gpu, shape: &[usize]) -> Result<Embedding> {
    let [_, b, l, d] = dims(shape);
    // Few words are frequent, most are rare.
    let token = |i: usize| (VOCABULARY as f64 * ((i * 37 % 1009) as f64 / 1009.0).powi(6)) as i32;
    Ok(Embedding {
        tokens: labels(gpu, [1, 1, b, l], token)?,
        table: noise(gpu, Kind::Float, [1, 1, VOCABULARY, d])?,
        scale: (d as f32).sqrt(),
        positions: Some(noise(gpu, Kind::Float, [1, 1, l, d])?),
        padding: Some(1),
        dropout: Some(DROPOUT),
    })
}

fn embed(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let e = embedding(gpu, shape)?;
    let out = gpu.alloc(Kind::Activation, dims(shape));
    Ok(Work::Op(Box::new(move |exec| ops(exec).embed(e, out))))
}

fn embed_backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let (e, dout) = (embedding(gpu, shape)?, activation(gpu, dims(shape))?);
    let dtable = gpu.alloc(Kind::Float, e.table.dims);
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).embed_backward(e, dout, dtable);
    })))
}

fn layer_norm(gpu: &mut Gpu, shape: &[usize]) -> Result<LayerNorm> {
    let [_, b, l, d] = dims(shape);
    let mut vector = |n| noise(gpu, Kind::Float, [1, 1, 1, n]);
    Ok(LayerNorm {
        gamma: vector(d)?,
        beta: vector(d)?,
        dgamma: vector(d)?,
        dbeta: vector(d)?,
        mean: vector(b * l)?,
        rstd: vector(b * l)?,
    })
}

fn add_norm(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let dims = dims(shape);
    let (x, branch) = (activation(gpu, dims)?, activation(gpu, dims)?);
    let norm = layer_norm(gpu, shape)?;
    let [h, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, dims));
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).add_norm(x, Some((branch, Some(DROPOUT))), norm, h, y);
    })))
}

fn add_norm_backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let dims = dims(shape);
    let (h, dy) = (activation(gpu, dims)?, activation(gpu, dims)?);
    let dh = activation(gpu, dims)?;
    let norm = layer_norm(gpu, shape)?;
    let [dx, dbranch] = [(); 2].map(|()| gpu.alloc(Kind::Activation, dims));
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).add_norm_backward(h, norm, dy, Some(dh), dx, Some((dbranch, DROPOUT)));
    })))
}

/// Self-attention without padding.
fn attention(gpu: &mut Gpu, shape: &[usize]) -> Result<Attention> {
    let [b, l, heads, depth] = shape.try_into().expect("checked");
    let t = activation(gpu, [1, b, l, 3 * heads * depth])?;
    let at = |i: usize| Heads {
        t,
        first: i * heads * depth,
    };
    Ok(Attention {
        heads,
        q: at(0),
        k: at(1),
        v: at(2),
        mask: Mask {
            key_len: labels(gpu, [1, 1, 1, b], |_| l as i32)?,
            causal: false,
        },
        out: gpu.alloc(Kind::Activation, [1, b, l, heads * depth]),
        lse: gpu.alloc(Kind::Float, [1, b, heads, l]),
    })
}

fn attend(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let a = attention(gpu, shape)?;
    Ok(Work::Op(Box::new(move |exec| ops(exec).attention(a))))
}

fn attend_backward(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let a = attention(gpu, shape)?;
    gpu.attention(a);
    let dout = activation(gpu, a.out.dims)?;
    let t = gpu.alloc(Kind::Activation, a.q.t.dims);
    let [dq, dk, dv] = [a.q, a.k, a.v].map(|of| Heads { t, ..of });
    let grad = AttentionGrad { dout, dq, dk, dv };
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).attention_backward(a, grad);
    })))
}

/// Sentences of 32 tokens, or one of fewer.
fn sentence_xent(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let [rows, classes] = [shape[0], shape[1]];
    let (length, sentences) = (rows.min(32), rows.div_ceil(32));
    let [token_loss, loss, right] =
        [rows, sentences, sentences].map(|n| gpu.alloc(Kind::Float, [1, 1, 1, n]));
    let logits = activation(gpu, [1, 1, rows, classes])?;
    let end = |b: usize| (b * length).min(rows) as i32;
    let spec = SentenceLoss {
        logits,
        labels: labels(gpu, [1, 1, 1, rows], |r| (r * 7 % classes) as i32)?,
        offsets: labels(gpu, [1, 1, 1, sentences + 1], end)?,
        weights: noise(gpu, Kind::Float, [1, 1, 1, sentences])?,
        smoothing: 0.1,
        dlogits: gpu.alloc(Kind::Activation, logits.dims),
        token_loss,
        loss,
        right,
    };
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).sentence_xent(spec, false);
    })))
}

fn adam(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 1e-4,
        decoupled: true,
    };
    let dims = [1, 1, 1, shape[0]];
    let mut floats = || noise(gpu, Kind::Float, dims);
    let (params, grads, m) = (floats()?, floats()?, floats()?);
    let v = gpu.alloc(Kind::Float, dims);
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).adam(params, grads, [m, v], config, None);
    })))
}

fn clip(gpu: &mut Gpu, shape: &[usize]) -> Result {
    let grads = noise(gpu, Kind::Float, [1, 1, 1, shape[0]])?;
    let scale = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
    Ok(Work::Op(Box::new(move |exec| {
        ops(exec).clip_scale(grads, 1.0, scale);
    })))
}
