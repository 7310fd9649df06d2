//! The fixtures' ops of recurrent networks.

use crate::fixture::{Check, Fixture};
use crate::ops::{Checks, Failure, OP, floats, upload};
use crate::sequence::labels;
use autoassist::backend::recurrent::{
    Lstm, LstmCell, LstmDecoder, LstmDecoderGrad, LstmGrad, Luong, LuongGrad, Query, Recurrent,
};
use autoassist::backend::sequence::{Act, Linear, LinearGrad, LinearInputGrad, Sequence};
use autoassist::backend::{Executor, Kind, Tensor};

/// Whether a file's op is one of those here.
pub fn is_op(op: &str) -> bool {
    ["lstm", "luong_attention", "lstm_decoder"].contains(&op)
}

/// Runs a file's op once.
pub fn run(f: &Fixture, exec: &mut dyn Executor) -> Checks {
    let ops = exec.sequence().and_then(|ops| ops.recurrent());
    let ops = ops.ok_or("an executor without these ops")?;
    match f.op.as_str() {
        "lstm" => lstm(f, ops),
        "luong_attention" => luong(f, ops),
        "lstm_decoder" => decoder(f, ops),
        other => Err(format!("unknown op {other}").into()),
    }
}

pub fn activation(ops: &mut dyn Sequence, f: &Fixture, name: &str) -> Result<Tensor, Failure> {
    upload(ops, f, Kind::Activation, name)
}

pub fn parameter(ops: &mut dyn Sequence, f: &Fixture, name: &str) -> Result<Tensor, Failure> {
    upload(ops, f, Kind::Float, name)
}

pub fn lengths(ops: &mut dyn Sequence, f: &Fixture, name: &str) -> Result<Tensor, Failure> {
    let dims = [1, 1, 1, f.ints(name)?.len()];
    labels(ops, f, name, dims)
}

/// What an op has not written would be seen.
pub fn activations(ops: &mut dyn Sequence, dims: [usize; 4]) -> Result<Tensor, Failure> {
    let t = ops.alloc(Kind::Activation, dims);
    ops.write(t, &vec![7.0; t.len()])?;
    Ok(t)
}

fn lstm(f: &Fixture, ops: &mut dyn Recurrent) -> Checks {
    let (x, dout) = (activation(ops, f, "x")?, activation(ops, f, "dout")?);
    let [_, b, l, h] = dout.dims;
    let input = Linear {
        w: parameter(ops, f, "w_ih")?,
        b: Some(parameter(ops, f, "b_ih")?),
    };
    let state = [1, 1, b, h];
    let lstm = Lstm {
        w_hh: parameter(ops, f, "w_hh")?,
        b_hh: parameter(ops, f, "b_hh")?,
        lengths: lengths(ops, f, "lengths")?,
        gates: activations(ops, [1, b, l, 4 * h])?,
        cells: activations(ops, [1, b, l, h])?,
        out: activations(ops, [1, b, l, h])?,
        last: [activations(ops, state)?, activations(ops, state)?],
    };
    ops.linear(x, input, Act::None, None, lstm.gates);
    ops.lstm(lstm);
    let mut checks = vec![
        f.check("out", ops.read(lstm.out)?, OP)?,
        f.check("h_n", ops.read(lstm.last[0])?, OP)?,
        f.check("c_n", ops.read(lstm.last[1])?, OP)?,
    ];
    let (bias, w_hh) = ([1, 1, 1, 4 * h], lstm.w_hh.dims);
    let grad = LstmGrad {
        dout,
        dlast: [activation(ops, f, "dh_n")?, activation(ops, f, "dc_n")?],
        dw_hh: floats(ops, w_hh),
        db_hh: floats(ops, bias),
    };
    ops.lstm_backward(lstm, grad);
    let of_input = LinearGrad {
        dw: floats(ops, input.w.dims),
        db: Some(floats(ops, bias)),
        accumulate: false,
    };
    let dx = LinearInputGrad {
        dx: activations(ops, x.dims)?,
        through: None,
        accumulate: false,
    };
    ops.linear_backward(x, input.w, lstm.gates, of_input, Some(dx));
    for (name, tensor) in [
        ("dx", Some(dx.dx)),
        ("dw_ih", Some(of_input.dw)),
        ("db_ih", of_input.db),
        ("dw_hh", Some(grad.dw_hh)),
        ("db_hh", Some(grad.db_hh)),
    ] {
        let tensor = tensor.ok_or("no such gradient")?;
        checks.push(f.check(name, ops.read(tensor)?, OP)?);
    }
    Ok(checks)
}

/// The attention of a file whose queries are `[1, B, T, H]` and answers `[1, B, T, O]`.
fn attention(
    f: &Fixture,
    ops: &mut dyn Recurrent,
    [queries, answers]: [[usize; 4]; 2],
) -> Result<(Luong, LuongGrad), Failure> {
    let memory = activation(ops, f, "src")?;
    let [_, b, s, _] = memory.dims;
    let luong = Luong {
        w_in: parameter(ops, f, "w_in")?,
        w_out: parameter(ops, f, "w_out")?,
        memory,
        memory_len: lengths(ops, f, "src_len")?,
        keys: activations(ops, [1, b, s, queries[3]])?,
        values: activations(ops, [1, b, s, answers[3]])?,
    };
    let grad = LuongGrad {
        dmemory: activations(ops, memory.dims)?,
        dw_in: floats(ops, luong.w_in.dims),
        dw_out: floats(ops, luong.w_out.dims),
    };
    Ok((luong, grad))
}

fn attention_checks(f: &Fixture, ops: &mut dyn Recurrent, grad: LuongGrad) -> Checks {
    Ok(vec![
        f.check("dsrc", ops.read(grad.dmemory)?, OP)?,
        f.check("dw_in", ops.read(grad.dw_in)?, OP)?,
        f.check("dw_out", ops.read(grad.dw_out)?, OP)?,
    ])
}

fn luong(f: &Fixture, ops: &mut dyn Recurrent) -> Checks {
    let (h, dout) = (activation(ops, f, "h")?, activation(ops, f, "dout")?);
    let (luong, grad) = attention(f, ops, [h.dims, dout.dims])?;
    let [_, b, t, _] = h.dims;
    let query = Query {
        h,
        lengths: lengths(ops, f, "tgt_len")?,
        probabilities: activations(ops, [1, b, t, luong.memory.dims[2]])?,
        out: activations(ops, dout.dims)?,
    };
    ops.luong_memory(luong);
    ops.luong(luong, query);
    let mut checks = vec![
        f.check("out", ops.read(query.out)?, OP)?,
        f.check("probs", ops.read(query.probabilities)?, OP)?,
    ];
    let dh = activations(ops, h.dims)?;
    ops.luong_backward(luong, query, dout, dh, grad);
    checks.push(f.check("dh", ops.read(dh)?, OP)?);
    checks.extend(attention_checks(f, ops, grad)?);
    Ok(checks)
}

fn decoder(f: &Fixture, ops: &mut dyn Recurrent) -> Checks {
    let (x, dout) = (activation(ops, f, "x")?, activation(ops, f, "dout")?);
    let [_, b, t, h] = dout.dims;
    let layers = f.number("layers")? as usize;
    let names = ["w_ih", "w_hh", "b_ih", "b_hh"];
    let (mut cells, mut cell_grads) = (Vec::new(), Vec::new());
    for n in 0..layers {
        let mut cell = [x; 4];
        for (tensor, name) in cell.iter_mut().zip(names) {
            *tensor = parameter(ops, f, &format!("{name}.{n}"))?;
        }
        let list = |[w_ih, w_hh, b_ih, b_hh]: [Tensor; 4]| LstmCell {
            w_ih,
            w_hh,
            b_ih,
            b_hh,
        };
        cells.push(list(cell));
        cell_grads.push(list(cell.map(|t| floats(ops, t.dims))));
    }
    let (luong, luong_grad) = attention(f, ops, [dout.dims; 2])?;
    let hidden = activations(ops, [layers, b, t, h])?;
    let state = [1, layers, b, h];
    let start = [activation(ops, f, "h0")?, activation(ops, f, "c0")?];
    let decoder = LstmDecoder {
        cells: &cells,
        luong,
        x,
        query: Query {
            h: hidden.view((layers - 1) * b * t * h, [1, b, t, h]),
            lengths: lengths(ops, f, "tgt_len")?,
            probabilities: activations(ops, [1, b, t, luong.memory.dims[2]])?,
            out: activations(ops, dout.dims)?,
        },
        start: start.map(|s| s.view(0, state)),
        feed: None,
        dropout: None,
        gates: activations(ops, [layers, b, t, 4 * h])?,
        cell_states: activations(ops, hidden.dims)?,
        hidden,
        last: [activations(ops, state)?, activations(ops, state)?],
    };
    ops.luong_memory(luong);
    ops.lstm_decoder(decoder);
    let mut checks = vec![f.check("out", ops.read(decoder.query.out)?, OP)?];
    let grad = LstmDecoderGrad {
        cells: &cell_grads,
        luong: luong_grad,
        dout,
        dx: activations(ops, x.dims)?,
        dstart: [activations(ops, state)?, activations(ops, state)?],
    };
    ops.lstm_decoder_backward(decoder, grad);
    checks.push(f.check("dx", ops.read(grad.dx)?, OP)?);
    checks.push(f.check("dh0", ops.read(grad.dstart[0])?, OP)?);
    checks.push(f.check("dc0", ops.read(grad.dstart[1])?, OP)?);
    checks.extend(attention_checks(f, ops, luong_grad)?);
    for (n, cell) in cell_grads.iter().enumerate() {
        let tensors = [cell.w_ih, cell.w_hh, cell.b_ih, cell.b_hh];
        for (name, tensor) in names.into_iter().zip(tensors) {
            let check: Check = f.check(&format!("d{name}.{n}"), ops.read(tensor)?, OP)?;
            checks.push(check);
        }
    }
    Ok(checks)
}
