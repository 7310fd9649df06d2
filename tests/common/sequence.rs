//! The fixtures' ops of sequence networks.

use crate::fixture::Fixture;
use crate::ops::{Checks, Failure, OP, floats, upload};
use autoassist::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, Mask, PositionFormula, SentenceLoss, Sequence, positions,
};
use autoassist::backend::{Executor, Kind, Pass, Sgd, StepInputs, Tensor};

/// Whether a file's op is one of those here.
pub fn is_op(op: &str) -> bool {
    let ops = [
        "sentence_xent",
        "layernorm",
        "attention",
        "embedding",
        "ffn",
        "adam",
        "adamw",
        "nag",
    ];
    ops.contains(&op)
}

/// Runs a file's op once.
pub fn run(f: &Fixture, exec: &mut dyn Executor) -> Checks {
    let ops = exec.sequence().ok_or("an executor without these ops")?;
    match f.op.as_str() {
        "sentence_xent" => sentence_xent(f, ops),
        "layernorm" => layernorm(f, ops),
        "attention" => attention(f, ops),
        "embedding" => embedding(f, ops),
        "ffn" => ffn(f, ops),
        "adam" => adam(f, ops, false),
        "adamw" => adam(f, ops, true),
        "nag" => nag(f, ops),
        other => Err(format!("unknown op {other}").into()),
    }
}

pub fn labels(
    ops: &mut dyn Sequence,
    f: &Fixture,
    name: &str,
    dims: [usize; 4],
) -> Result<Tensor, Failure> {
    let tensor = ops.alloc(Kind::Label, dims);
    ops.write_labels(tensor, f.ints(name)?)?;
    Ok(tensor)
}

fn sentence_xent(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let logits = upload(ops, f, Kind::Activation, "logits")?;
    let (rows, offsets) = (logits.dims[2], f.ints("offsets")?);
    let sentences = [1, 1, 1, offsets.len() - 1];
    let weights = match f.flag("weighted")? {
        true => upload(ops, f, Kind::Float, "weight")?,
        false => {
            let ones = floats(ops, sentences);
            ops.write(ones, &vec![1.0; ones.len()])?;
            ones
        }
    };
    let loss = SentenceLoss {
        logits,
        labels: labels(ops, f, "labels", [1, 1, 1, rows])?,
        offsets: labels(ops, f, "offsets", [1, 1, 1, offsets.len()])?,
        weights,
        smoothing: f.number("label_smoothing")? as f32,
        dlogits: ops.alloc(Kind::Activation, logits.dims),
        token_loss: floats(ops, [1, 1, 1, rows]),
        loss: floats(ops, sentences),
        right: floats(ops, sentences),
    };
    ops.sentence_xent(loss, false);
    let (means, weights) = (ops.read(loss.loss)?, ops.read(weights)?);
    let lengths = offsets.windows(2).map(|o| (o[1] - o[0]) as f32);
    let sums: Vec<f32> = means.iter().zip(lengths).map(|(m, l)| m * l).collect();
    let weighted = sums.iter().zip(&weights).map(|(s, w)| s * w);
    let total = weighted.sum::<f32>() / rows as f32;
    // There is no reference for the right bits: they must be those of the logits.
    let classes = logits.len() / rows;
    let scores = f.floats("logits")?;
    let right = |r: usize| {
        let (row, label) = (&scores[r * classes..][..classes], f.ints("labels").ok()?[r]);
        Some(row.iter().all(|z| *z <= row[label as usize]))
    };
    for (o, got) in offsets.windows(2).zip(ops.read(loss.right)?) {
        let want = (o[0]..o[1]).all(|r| right(r as usize) == Some(true));
        if got != f32::from(want) {
            return Err(format!("rows {o:?} are right: {want}, but the result is {got}").into());
        }
    }
    Ok(vec![
        f.check("token_loss", ops.read(loss.token_loss)?, OP)?,
        f.check("sent_loss_mean", means, OP)?,
        f.check("sent_loss_sum", sums, OP)?,
        f.check("total_loss", vec![total], OP)?,
        f.check("dlogits", ops.read(loss.dlogits)?, OP)?,
    ])
}

fn layernorm(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let x = upload(ops, f, Kind::Activation, "x")?;
    let dy = upload(ops, f, Kind::Activation, "dy")?;
    let gamma = upload(ops, f, Kind::Float, "gamma")?;
    let norm = LayerNorm {
        gamma,
        beta: upload(ops, f, Kind::Float, "beta")?,
        dgamma: floats(ops, gamma.dims),
        dbeta: floats(ops, gamma.dims),
        mean: floats(ops, [1, 1, 1, x.dims[2]]),
        rstd: floats(ops, [1, 1, 1, x.dims[2]]),
    };
    let [y, dx] = [0; 2].map(|_| ops.alloc(Kind::Activation, x.dims));
    let mut checks = vec![];
    match f.flag("residual")? {
        true => {
            let branch = upload(ops, f, Kind::Activation, "r")?;
            let dh = upload(ops, f, Kind::Activation, "dh")?;
            let h = ops.alloc(Kind::Activation, x.dims);
            ops.add_norm(x, Some((branch, None)), norm, h, y);
            ops.add_norm_backward(h, norm, dy, Some(dh), dx, None);
            checks.push(f.check("h", ops.read(h)?, OP)?);
            checks.push(f.check("dr", ops.read(dx)?, OP)?);
        }
        false => {
            ops.add_norm(x, None, norm, x, y);
            ops.add_norm_backward(x, norm, dy, None, dx, None);
        }
    }
    let results = [
        ("y", y),
        ("mean", norm.mean),
        ("rstd", norm.rstd),
        ("dx", dx),
        ("dgamma", norm.dgamma),
        ("dbeta", norm.dbeta),
    ];
    for (name, tensor) in results {
        checks.push(f.check(name, ops.read(tensor)?, OP)?);
    }
    Ok(checks)
}

/// `[B, L, H, D]` as `[1, B, L, H·D]`.
fn heads(ops: &mut dyn Sequence, f: &Fixture, name: &str) -> Result<Heads, Failure> {
    let [b, l, h, d] = f.dims(name)?;
    let t = ops.alloc(Kind::Activation, [1, b, l, h * d]);
    ops.write(t, f.floats(name)?)?;
    Ok(Heads { t, first: 0 })
}

fn attention(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let [batch, queries, count, _] = f.dims("q")?;
    let [q, k, v] = [
        heads(ops, f, "q")?,
        heads(ops, f, "k")?,
        heads(ops, f, "v")?,
    ];
    let attention = Attention {
        heads: count,
        q,
        k,
        v,
        mask: Mask {
            key_len: labels(ops, f, "key_len", [1, 1, 1, batch])?,
            causal: f.flag("causal")?,
        },
        out: ops.alloc(Kind::Activation, q.t.dims),
        lse: floats(ops, [1, batch, count, queries]),
    };
    let mut like = |heads: Heads| Heads {
        t: ops.alloc(Kind::Activation, heads.t.dims),
        first: 0,
    };
    let [dq, dk, dv] = [like(q), like(k), like(v)];
    let grad = AttentionGrad {
        dout: heads(ops, f, "dout")?.t,
        dq,
        dk,
        dv,
    };
    ops.attention(attention);
    ops.attention_backward(attention, grad);
    // What the fixture says about padding queries is what the op does: their rows of `dout` are 0.
    let dout = f.floats("dout")?;
    let row = dout.len() / (batch * queries);
    for (b, len) in f.ints("q_len")?.iter().enumerate() {
        let padding = &dout[(b * queries + *len as usize) * row..(b + 1) * queries * row];
        assert!(padding.iter().all(|d| *d == 0.0));
    }
    let results = [
        ("out", attention.out),
        ("lse", attention.lse),
        ("dq", dq.t),
        ("dk", dk.t),
        ("dv", dv.t),
    ];
    let mut checks = vec![];
    for (name, tensor) in results {
        checks.push(f.check(name, ops.read(tensor)?, OP)?);
    }
    Ok(checks)
}

fn embedding(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let [_, batch, length, width] = f.dims("dout")?;
    let formula = match f.attrs["pos_formula"].as_str() {
        Some("fairseq") => PositionFormula::Fairseq,
        Some("vaswani") => PositionFormula::Vaswani,
        other => return Err(format!("unknown formula {other:?}").into()),
    };
    let offset = f.number("pos_offset")? as usize;
    let places = positions(formula, offset, length, width);
    let padding = f.number("padding_idx")? as i32;
    let table = floats(ops, [1, 1, length, width]);
    let embedding = Embedding {
        tokens: labels(ops, f, "tokens", [1, 1, batch, length])?,
        table: upload(ops, f, Kind::Float, "table")?,
        scale: f.number("scale")? as f32,
        positions: Some(table),
        padding: (padding >= 0).then_some(padding),
        dropout: None,
    };
    ops.write(table, &places)?;
    let dout = upload(ops, f, Kind::Activation, "dout")?;
    let out = ops.alloc(Kind::Activation, dout.dims);
    let dtable = floats(ops, embedding.table.dims);
    ops.embed(embedding, out);
    ops.embed_backward(embedding, dout, dtable);
    Ok(vec![
        f.check("pos_table", places, OP)?,
        f.check("out", ops.read(out)?, OP)?,
        f.check("dtable", ops.read(dtable)?, OP)?,
    ])
}

fn ffn(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let act = match f.attrs["act"].as_str() {
        Some("relu") => Act::Relu,
        Some("gelu_erf") => Act::GeluErf,
        Some("gelu_tanh") => Act::GeluTanh,
        other => return Err(format!("unknown activation {other:?}").into()),
    };
    let mut layer = |w: &str, b: &str| -> Result<Linear, Failure> {
        Ok(Linear {
            w: upload(ops, f, Kind::Float, w)?,
            b: Some(upload(ops, f, Kind::Float, b)?),
        })
    };
    let (first, second) = (layer("w1", "b1")?, layer("w2", "b2")?);
    let mut grads = |layer: Linear| LinearGrad {
        dw: floats(ops, layer.w.dims),
        db: layer.b.map(|b| floats(ops, b.dims)),
        accumulate: false,
    };
    let (first_grad, second_grad) = (grads(first), grads(second));
    let x = upload(ops, f, Kind::Activation, "x")?;
    let dy = upload(ops, f, Kind::Activation, "dy")?;
    let [.., rows, _] = x.dims;
    let hidden = [1, 1, rows, first.w.dims[2]];
    let [pre, h, dpre] = [0; 3].map(|_| ops.alloc(Kind::Activation, hidden));
    let y = ops.alloc(Kind::Activation, dy.dims);
    let dx = ops.alloc(Kind::Activation, x.dims);
    ops.linear(x, first, act, Some(pre), h);
    ops.linear(h, second, Act::None, None, y);
    let through_act = LinearInputGrad {
        dx: dpre,
        through: Some((act, pre)),
        accumulate: false,
    };
    ops.linear_backward(h, second.w, dy, second_grad, Some(through_act));
    let plain = LinearInputGrad {
        dx,
        through: None,
        accumulate: false,
    };
    ops.linear_backward(x, first.w, dpre, first_grad, Some(plain));
    let mut checks = vec![];
    let results = [
        ("pre", Some(pre)),
        ("h", Some(h)),
        ("y", Some(y)),
        ("dx", Some(dx)),
        ("dw1", Some(first_grad.dw)),
        ("db1", first_grad.db),
        ("dw2", Some(second_grad.dw)),
        ("db2", second_grad.db),
    ];
    for (name, tensor) in results {
        let tensor = tensor.ok_or("both layers have a bias")?;
        checks.push(f.check(name, ops.read(tensor)?, OP)?);
    }
    Ok(checks)
}

fn adam(f: &Fixture, ops: &mut dyn Sequence, decoupled: bool) -> Checks {
    let params = upload(ops, f, Kind::Float, "param0")?;
    let [grads, m, v] = [0; 3].map(|_| floats(ops, params.dims));
    let betas = f.attrs["betas"].as_array().ok_or("no betas in attrs")?;
    let beta = |i: usize| betas.get(i).and_then(|b| b.as_f64()).ok_or("no number");
    let config = Adam {
        betas: [beta(0)? as f32, beta(1)? as f32],
        eps: f.number("eps")? as f32,
        weight_decay: f.number("weight_decay")? as f32,
        decoupled,
    };
    let mut after = [vec![], vec![], vec![]];
    let steps = f.floats("grads")?.chunks(params.len()).zip(f.floats("lr")?);
    for (step, (values, lr)) in steps.enumerate() {
        ops.write(grads, values)?;
        let inputs = StepInputs {
            step: step as u64,
            lr: *lr,
            ..StepInputs::default()
        };
        ops.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("it was there a moment ago");
            ops.adam(params, grads, [m, v], config, None);
        })?;
        for (all, tensor) in after.iter_mut().zip([params, m, v]) {
            all.extend(ops.read(tensor)?);
        }
    }
    let names = ["params", "exp_avg", "exp_avg_sq"];
    let checks = names.iter().zip(after);
    checks
        .map(|(name, all)| Ok(f.check(name, all, OP)?))
        .collect()
}

/// fairseq's, whose velocity is kept over −lr: momentum with Nesterov's look-ahead.
fn nag(f: &Fixture, ops: &mut dyn Sequence) -> Checks {
    let params = upload(ops, f, Kind::Float, "param0")?;
    let [grads, momentum] = [0; 2].map(|_| floats(ops, params.dims));
    let scale = floats(ops, [1, 1, 1, 1]);
    let config = Sgd {
        momentum: f.number("momentum")? as f32,
        nesterov: true,
        weight_decay: 0.0,
    };
    let clip = match f.number("clip_norm")? {
        0.0 => f32::INFINITY,
        norm => norm as f32,
    };
    let mut after = [vec![], vec![], vec![]];
    let steps = f.floats("grads")?.chunks(params.len()).zip(f.floats("lr")?);
    for (step, (values, lr)) in steps.enumerate() {
        ops.write(grads, values)?;
        let inputs = StepInputs {
            step: step as u64,
            lr: *lr,
            ..StepInputs::default()
        };
        ops.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("it was there a moment ago");
            ops.clip_scale(grads, clip, scale);
            ops.sgd(params, grads, momentum, config, Some(scale));
        })?;
        for (all, tensor) in after.iter_mut().zip([params, momentum, scale]) {
            all.extend(ops.read(tensor)?);
        }
    }
    let names = ["params", "momentum", "clip_scale"];
    let checks = names.iter().zip(after);
    checks
        .map(|(name, all)| Ok(f.check(name, all, OP)?))
        .collect()
}
