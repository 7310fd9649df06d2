//! The ops of networks over tokens, at the shapes of a base Transformer.

use super::{Op, Result, Row, activation, noise};
use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::sequence::{
    Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Mask, SentenceLoss,
    Sequence,
};
use autoassist::backend::{Executor, Kind, Tensor};

const TOKENS: &[[usize; 4]] = &[[1, 128, 32, 512]];
const LOGITS: &[[usize; 4]] = &[[1, 1, 4096, 8000], [1, 1, 4096, 32_000]];
/// B, L, H, D.
const HEADS: &[[usize; 4]] = &[[256, 32, 8, 64], [128, 128, 8, 64], [8, 1024, 16, 64]];
const PARAMETERS: &[[usize; 4]] = &[[1, 1, 1, 60_519_424]];

pub const ROWS: [Row; 9] = [
    ("embed", Ladder::Embedding, 6, embed, TOKENS),
    (
        "embed_backward",
        Ladder::Embedding,
        10,
        embed_backward,
        TOKENS,
    ),
    ("layer_norm", Ladder::LayerNorm, 8, add_norm, TOKENS),
    (
        "layer_norm_back",
        Ladder::LayerNorm,
        10,
        add_norm_backward,
        TOKENS,
    ),
    ("attention", Ladder::Attention, 8, attend, HEADS),
    (
        "attention_back",
        Ladder::Attention,
        16,
        attend_backward,
        HEADS,
    ),
    (
        "sentence_xent",
        Ladder::SentenceXent,
        4,
        sentence_xent,
        LOGITS,
    ),
    ("adam", Ladder::Adam, 28, adam, PARAMETERS),
    ("clip_scale", Ladder::Adam, 4, clip, PARAMETERS),
];

const DROPOUT: Dropout = Dropout { p: 0.1, site: 1 };

fn ops(exec: &mut dyn Executor) -> &mut dyn Sequence {
    exec.sequence().expect("a GPU has them")
}

fn labels(gpu: &mut Gpu, dims: [usize; 4], value: impl Fn(usize) -> i32) -> Result<Tensor> {
    let t = gpu.alloc(Kind::Label, dims);
    gpu.write_labels(t, &(0..t.len()).map(value).collect::<Vec<i32>>())?;
    Ok(t)
}

fn embedding(gpu: &mut Gpu, [_, b, l, d]: [usize; 4]) -> Result<Embedding> {
    // Few words are frequent, most are rare.
    let vocabulary = 8000;
    let token =
        move |i: usize| (vocabulary as f64 * ((i * 37 % 1009) as f64 / 1009.0).powi(6)) as i32;
    Ok(Embedding {
        tokens: labels(gpu, [1, 1, b, l], token)?,
        table: noise(gpu, Kind::Float, [1, 1, vocabulary, d])?,
        positions: noise(gpu, Kind::Float, [1, 1, l, d])?,
        padding: Some(1),
        dropout: Some(DROPOUT),
    })
}

fn embed(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (e, out) = (embedding(gpu, dims)?, gpu.alloc(Kind::Activation, dims));
    Ok(Box::new(move |exec| ops(exec).embed(e, out)))
}

fn embed_backward(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (e, dout) = (embedding(gpu, dims)?, activation(gpu, dims)?);
    let dtable = gpu.alloc(Kind::Float, e.table.dims);
    Ok(Box::new(move |exec| {
        ops(exec).embed_backward(e, dout, dtable)
    }))
}

fn layer_norm(gpu: &mut Gpu, [_, b, l, d]: [usize; 4]) -> Result<LayerNorm> {
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

fn add_norm(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (x, branch, norm) = (
        activation(gpu, dims)?,
        activation(gpu, dims)?,
        layer_norm(gpu, dims)?,
    );
    let [h, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, dims));
    Ok(Box::new(move |exec| {
        ops(exec).add_norm(x, Some((branch, Some(DROPOUT))), norm, h, y);
    }))
}

fn add_norm_backward(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let (h, dy, dh) = (
        activation(gpu, dims)?,
        activation(gpu, dims)?,
        activation(gpu, dims)?,
    );
    let norm = layer_norm(gpu, dims)?;
    let [dx, dbranch] = [(); 2].map(|()| gpu.alloc(Kind::Activation, dims));
    Ok(Box::new(move |exec| {
        ops(exec).add_norm_backward(h, norm, dy, Some(dh), dx, Some((dbranch, DROPOUT)));
    }))
}

/// Self-attention without padding.
fn attention(gpu: &mut Gpu, [b, l, heads, depth]: [usize; 4]) -> Result<Attention> {
    let dims = [1, b, l, 3 * heads * depth];
    let t = activation(gpu, dims)?;
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

fn attend(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let a = attention(gpu, dims)?;
    Ok(Box::new(move |exec| ops(exec).attention(a)))
}

fn attend_backward(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let a = attention(gpu, dims)?;
    gpu.attention(a);
    let dout = activation(gpu, a.out.dims)?;
    let t = gpu.alloc(Kind::Activation, a.q.t.dims);
    let [dq, dk, dv] = [a.q, a.k, a.v].map(|of| Heads { t, ..of });
    let grad = AttentionGrad { dout, dq, dk, dv };
    Ok(Box::new(move |exec| ops(exec).attention_backward(a, grad)))
}

/// Sentences of 32 tokens, or one of fewer.
fn sentence_xent(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let [.., rows, classes] = dims;
    let (length, sentences) = (rows.min(32), rows.div_ceil(32));
    let [token_loss, loss, right] =
        [rows, sentences, sentences].map(|n| gpu.alloc(Kind::Float, [1, 1, 1, n]));
    let spec = SentenceLoss {
        logits: activation(gpu, dims)?,
        labels: labels(gpu, [1, 1, 1, rows], |r| (r * 7 % classes) as i32)?,
        offsets: labels(gpu, [1, 1, 1, sentences + 1], |b| (b * length) as i32)?,
        weights: noise(gpu, Kind::Float, [1, 1, 1, sentences])?,
        smoothing: 0.1,
        dlogits: gpu.alloc(Kind::Activation, dims),
        token_loss,
        loss,
        right,
    };
    Ok(Box::new(move |exec| ops(exec).sentence_xent(spec, false)))
}

fn adam(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 1e-4,
        decoupled: true,
    };
    let mut floats = || noise(gpu, Kind::Float, dims);
    let (params, grads, m) = (floats()?, floats()?, floats()?);
    let v = gpu.alloc(Kind::Float, dims);
    Ok(Box::new(move |exec| {
        ops(exec).adam(params, grads, [m, v], config, None);
    }))
}

fn clip(gpu: &mut Gpu, dims: [usize; 4]) -> Result<Op> {
    let grads = noise(gpu, Kind::Float, dims)?;
    let scale = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
    Ok(Box::new(move |exec| {
        ops(exec).clip_scale(grads, 1.0, scale)
    }))
}
