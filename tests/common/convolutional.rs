//! The fixtures' ops of convolutional networks.

use crate::fixture::Fixture;
use crate::ops::{Checks, Failure, OP, floats};
use crate::recurrent::{activation, activations, lengths, parameter};
use crate::sequence::labels;
use autoassist::backend::convolutional::{
    Convolutional, GluConv, GluConvGrad, HALF, WeightNorm, WideAttention, WideAttentionGrad,
};
use autoassist::backend::sequence::{Embedding, Linear, LinearGrad, LinearInputGrad};
use autoassist::backend::{Executor, Kind, Tensor};

/// Whether a file's op is one of those here.
pub fn is_op(op: &str) -> bool {
    let ops = [
        "weight_norm",
        "embedding_learned",
        "glu_conv1d",
        "convs2s_attention",
    ];
    ops.contains(&op)
}

/// Runs a file's op once.
pub fn run(f: &Fixture, exec: &mut dyn Executor) -> Checks {
    let ops = exec.sequence().and_then(|ops| ops.convolutional());
    let ops = ops.ok_or("an executor without these ops")?;
    match f.op.as_str() {
        "weight_norm" => weight_norm(f, ops),
        "embedding_learned" => embedding(f, ops),
        "glu_conv1d" => glu_conv(f, ops),
        "convs2s_attention" => attention(f, ops),
        other => Err(format!("unknown op {other}").into()),
    }
}

/// Compares tensors with what the file has under their names.
fn compare(f: &Fixture, ops: &mut dyn Convolutional, results: &[(&str, Tensor)]) -> Checks {
    let check = |(name, tensor): &(&str, Tensor)| Ok(f.check(name, ops.read(*tensor)?, OP)?);
    results.iter().map(check).collect()
}

fn weight_norm(f: &Fixture, ops: &mut dyn Convolutional) -> Checks {
    let v = parameter(ops, f, "v")?;
    let norm = WeightNorm {
        v,
        g: parameter(ops, f, "g")?,
        w: floats(ops, v.dims),
    };
    let dw = parameter(ops, f, "dw")?;
    let grads = [floats(ops, v.dims), floats(ops, norm.g.dims)];
    ops.weight_norm(norm);
    ops.weight_norm_backward(norm, dw, grads);
    // The op keeps no lengths, but g over them is what it has multiplied by.
    let (v, g, w) = (f.floats("v")?, f.floats("g")?, ops.read(norm.w)?);
    let width = v.len() / g.len();
    let rows = v.chunks(width).zip(w.chunks(width)).zip(g);
    let length = |((v, w), g): ((&[f32], &[f32]), &f32)| {
        let largest = (0..width).max_by(|i, j| v[*i].abs().total_cmp(&v[*j].abs()));
        largest.map_or(f32::NAN, |i| g * v[i] / w[i])
    };
    let mut checks = vec![f.check("norm", rows.map(length).collect(), OP)?];
    let results = [("w", norm.w), ("dv", grads[0]), ("dg", grads[1])];
    checks.extend(compare(f, ops, &results)?);
    Ok(checks)
}

fn embedding(f: &Fixture, ops: &mut dyn Convolutional) -> Checks {
    let dout = activation(ops, f, "dout")?;
    let [_, batch, length, width] = dout.dims;
    let positions = parameter(ops, f, "positions")?;
    let padding = f.number("padding_idx")? as usize;
    // Behind the row of padding, and that before it, is the first place.
    let learned = |t: Tensor| {
        let first = padding + 1;
        t.view(first * width, [1, 1, t.dims[2] - first, width])
    };
    let embedding = Embedding {
        tokens: labels(ops, f, "tokens", [1, 1, batch, length])?,
        table: parameter(ops, f, "table")?,
        scale: 1.0,
        positions: Some(learned(positions)),
        padding: Some(padding as i32),
        dropout: None,
    };
    let out = activations(ops, dout.dims)?;
    let dtable = floats(ops, embedding.table.dims);
    let dpositions = floats(ops, positions.dims);
    ops.embed(embedding, out);
    ops.embed_backward(embedding, dout, dtable);
    ops.positions_backward(embedding, dout, learned(dpositions));
    let results = [("out", out), ("dtable", dtable), ("dpositions", dpositions)];
    compare(f, ops, &results)
}

fn glu_conv(f: &Fixture, ops: &mut dyn Convolutional) -> Checks {
    let (x, dy) = (activation(ops, f, "x")?, activation(ops, f, "dy")?);
    let (w, b) = (parameter(ops, f, "w")?, parameter(ops, f, "b")?);
    let residual = f.flag("residual")?;
    let masked = f.flag("masked")?;
    let [_, batch, length, _] = x.dims;
    let conv = GluConv {
        x,
        w,
        b,
        lengths: masked.then(|| lengths(ops, f, "lengths")).transpose()?,
        causal: f.flag("causal")?,
        dropout: None,
        before: None,
        residual: residual.then_some(x),
        conv: activations(ops, [1, batch, length, b.len()])?,
        y: activations(ops, dy.dims)?,
    };
    ops.glu_conv(conv);
    let mut checks = compare(f, ops, &[("conv", conv.conv), ("y", conv.y)])?;
    // The residual is the input itself, whose gradient is in place, and added to.
    let dx = match residual {
        true => dy,
        false => activations(ops, x.dims)?,
    };
    let grad = GluConvGrad {
        dy,
        dw: floats(ops, w.dims),
        db: floats(ops, b.dims),
        dx,
        accumulate: residual,
    };
    if residual {
        ops.add_scaled(dy, None, HALF, dy);
    }
    ops.glu_conv_backward(conv, grad);
    checks.extend(compare(
        f,
        ops,
        &[("dx", dx), ("dw", grad.dw), ("db", grad.db)],
    )?);
    Ok(checks)
}

fn attention(f: &Fixture, ops: &mut dyn Convolutional) -> Checks {
    let mut layer = |w: &str, b: &str| -> Result<(Linear, LinearGrad), Failure> {
        let (w, b) = (parameter(ops, f, w)?, parameter(ops, f, b)?);
        let grad = LinearGrad {
            dw: floats(ops, w.dims),
            db: Some(floats(ops, b.dims)),
            accumulate: false,
        };
        Ok((Linear { w, b: Some(b) }, grad))
    };
    let ((input, input_grad), (output, output_grad)) =
        (layer("w_in", "b_in")?, layer("w_out", "b_out")?);
    let [x, e, dout] = [
        activation(ops, f, "x")?,
        activation(ops, f, "e")?,
        activation(ops, f, "dout")?,
    ];
    let keys = activation(ops, f, "keys")?;
    let [_, b, t, _] = e.dims;
    let attention = WideAttention {
        q: activations(ops, e.dims)?,
        keys,
        values: activation(ops, f, "values")?,
        key_len: lengths(ops, f, "src_len")?,
        probabilities: activations(ops, [1, b, t, keys.dims[2]])?,
        out: activations(ops, e.dims)?,
    };
    let out = activations(ops, x.dims)?;
    ops.linear_residual(x, input, e, HALF, attention.q);
    ops.wide_attention(attention);
    ops.linear_residual(attention.out, output, x, HALF, out);
    // Answers to padding are zeros in the reference, whatever is asked.
    let targets = f.ints("tgt_len")?.to_vec();
    let mut answers = |t: Tensor| -> Result<Vec<f32>, Failure> {
        let mut all = ops.read(t)?;
        let sentence = all.len() / targets.len();
        for (rows, len) in all.chunks_mut(sentence).zip(&targets) {
            rows[*len as usize * t.dims[3]..].fill(0.0);
        }
        Ok(all)
    };
    let mut checks = vec![
        f.check("out", answers(out)?, OP)?,
        f.check("probs", answers(attention.probabilities)?, OP)?,
    ];

    let into = |dx, accumulate| {
        Some(LinearInputGrad {
            dx,
            through: None,
            accumulate,
        })
    };
    let dattention = activations(ops, e.dims)?;
    let grad = WideAttentionGrad {
        dout: dattention,
        dq: activations(ops, e.dims)?,
        dkeys: ops.alloc(Kind::Activation, keys.dims),
        dvalues: ops.alloc(Kind::Activation, keys.dims),
    };
    ops.add_scaled(dout, None, HALF, dout);
    let of_output = into(dattention, false);
    ops.linear_backward(attention.out, output.w, dout, output_grad, of_output);
    ops.wide_attention_backward(attention, grad);
    ops.add_scaled(grad.dq, None, HALF, grad.dq);
    // On top of what the residual sum gave.
    ops.linear_backward(x, input.w, grad.dq, input_grad, into(dout, true));
    let mut results = vec![
        ("dx", dout),
        ("de", grad.dq),
        ("dkeys", grad.dkeys),
        ("dvalues", grad.dvalues),
        ("dw_in", input_grad.dw),
        ("dw_out", output_grad.dw),
    ];
    results.extend(input_grad.db.map(|db| ("db_in", db)));
    results.extend(output_grad.db.map(|db| ("db_out", db)));
    checks.extend(compare(f, ops, &results)?);
    Ok(checks)
}
