//! The ops of sequence networks at the shapes of a small Transformer: vocabulary 8000, d 256, 4
//! heads, feed-forward 1024, 64 sentences of 16 tokens. Three layers each of encoder and decoder
//! have 7.6 million parameters.

use super::{Bench, bytes, filled};
use autoassist::backend::cpu::Cpu;
use autoassist::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, Mask, SentenceLoss, Sequence,
};
use autoassist::backend::{Executor, Kind, Tensor};

const BATCH: usize = 64;
const LENGTH: usize = 16;
const ROWS: usize = BATCH * LENGTH;
const WIDTH: usize = 256;
const HEADS: usize = 4;
const VOCABULARY: usize = 8000;
const PARAMETERS: usize = 7_581_696;
const DROPOUT: Dropout = Dropout { p: 0.1, site: 0 };

pub fn all(bench: &mut Bench) {
    for (inputs, outputs, act) in [
        (WIDTH, WIDTH, Act::None),
        (WIDTH, 3 * WIDTH, Act::None),
        (WIDTH, 1024, Act::Relu),
        (WIDTH, 1024, Act::GeluTanh),
        (1024, WIDTH, Act::None),
        (WIDTH, VOCABULARY, Act::None),
    ] {
        linear(bench, inputs, outputs, act);
    }
    norm(bench);
    attention(bench, BATCH, LENGTH);
    attention(bench, 4, 256);
    ends(bench);
    update(bench);
}

fn activation(exec: &mut Cpu, columns: usize) -> Tensor {
    filled(exec, Kind::Activation, [1, BATCH, LENGTH, columns])
}

fn floats(exec: &mut Cpu, n: usize) -> Tensor {
    filled(exec, Kind::Float, [1, 1, 1, n])
}

fn tokens(exec: &mut Cpu, dims: [usize; 4]) -> Tensor {
    let tokens = exec.alloc(Kind::Label, dims);
    let values: Vec<i32> = (0..tokens.len())
        .map(|i| (i * i % VOCABULARY) as i32)
        .collect();
    let written = exec.write_labels(tokens, &values);
    written.expect("the CPU does not fail");
    tokens
}

fn linear(bench: &mut Bench, inputs: usize, outputs: usize, act: Act) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let [x, dx, at] = [0; 3].map(|_| activation(exec, inputs));
    let [y, dy, pre] = [0; 3].map(|_| activation(exec, outputs));
    let [w, dw] = [0; 2].map(|_| filled(exec, Kind::Float, [1, 1, outputs, inputs]));
    let (b, db) = (floats(exec, outputs), floats(exec, outputs));
    let layer = Linear { w, b: Some(b) };
    // GELU's derivative needs what went into it.
    let pre = (act == Act::GeluTanh).then_some(pre);
    let flops = 2.0 * (ROWS * inputs * outputs) as f64;
    let name = format!("{inputs}->{outputs} {act:?}");
    bench.case(&format!("linear {name}"), flops, bytes(&[x, w, y]), || {
        exec.linear(x, layer, act, pre, y);
    });
    let grad = LinearGrad {
        dw,
        db: Some(db),
        accumulate: false,
    };
    let input_grad = LinearInputGrad {
        dx,
        through: (act != Act::None).then_some((act, at)),
        accumulate: false,
    };
    let moved = bytes(&[x, w, dy, dw, dx]);
    bench.case(
        &format!("linear_backward {name}"),
        2.0 * flops,
        moved,
        || {
            exec.linear_backward(x, w, dy, grad, Some(input_grad));
        },
    );
}

fn norm(bench: &mut Bench) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let [x, branch, h, y] = [0; 4].map(|_| activation(exec, WIDTH));
    let [gamma, beta, dgamma, dbeta] = [0; 4].map(|_| floats(exec, WIDTH));
    let [mean, rstd] = [0; 2].map(|_| floats(exec, ROWS));
    let norm = LayerNorm {
        gamma,
        beta,
        dgamma,
        dbeta,
        mean,
        rstd,
    };
    let moved = bytes(&[x, branch, h, y]);
    bench.case("add_norm", 0.0, moved, || {
        exec.add_norm(x, Some((branch, None)), norm, h, y);
    });
    bench.case("add_norm dropout", 0.0, moved, || {
        exec.add_norm(x, Some((branch, Some(DROPOUT))), norm, h, y);
    });
    let [dy, dx] = [y, x];
    bench.case("add_norm_backward", 0.0, moved, || {
        exec.add_norm_backward(h, norm, dy, Some(branch), dx, None);
    });
    let moved = bytes(&[h, dy, dx, branch]);
    bench.case("add_norm_backward dropout", 0.0, moved, || {
        exec.add_norm_backward(h, norm, dy, None, dx, Some((branch, DROPOUT)));
    });
}

fn attention(bench: &mut Bench, batch: usize, length: usize) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let mut fresh = |columns| filled(exec, Kind::Activation, [1, batch, length, columns]);
    // Queries, keys and values side by side, as one product makes them.
    let [qkv, dqkv] = [fresh(3 * WIDTH), fresh(3 * WIDTH)];
    let [out, dout] = [fresh(WIDTH), fresh(WIDTH)];
    let key_len = exec.alloc(Kind::Label, [1, 1, 1, batch]);
    let written = exec.write_labels(key_len, &vec![length as i32; batch]);
    written.expect("the CPU does not fail");
    let lse = filled(exec, Kind::Float, [1, batch, HEADS, length]);
    let part = |t: Tensor, i: usize| Heads {
        t,
        first: i * WIDTH,
    };
    for causal in [false, true] {
        let attention = Attention {
            heads: HEADS,
            q: part(qkv, 0),
            k: part(qkv, 1),
            v: part(qkv, 2),
            mask: Mask { key_len, causal },
            out,
            lse,
        };
        let grad = AttentionGrad {
            dout,
            dq: part(dqkv, 0),
            dk: part(dqkv, 1),
            dv: part(dqkv, 2),
        };
        // The whole square, also where a mask leaves half of it.
        let flops = 4.0 * (batch * length * length * WIDTH) as f64;
        let name = format!("{batch} x {length}{}", if causal { " causal" } else { "" });
        let moved = bytes(&[qkv, out]);
        bench.case(&format!("attention {name}"), flops, moved, || {
            exec.attention(attention);
        });
        let moved = bytes(&[qkv, dqkv, out, dout]);
        let name = format!("attention_backward {name}");
        bench.case(&name, 2.5 * flops, moved, || {
            exec.attention_backward(attention, grad);
        });
    }
}

/// Embedding and loss.
fn ends(bench: &mut Bench) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let embedding = Embedding {
        tokens: tokens(exec, [1, 1, BATCH, LENGTH]),
        table: filled(exec, Kind::Float, [1, 1, VOCABULARY, WIDTH]),
        positions: filled(exec, Kind::Float, [1, 1, LENGTH, WIDTH]),
        padding: Some(1),
        dropout: Some(DROPOUT),
    };
    let x = activation(exec, WIDTH);
    let dtable = filled(exec, Kind::Float, embedding.table.dims);
    bench.case("embed", 0.0, bytes(&[x, x]), || exec.embed(embedding, x));
    bench.case("embed_backward", 0.0, bytes(&[x, x, x]), || {
        exec.embed_backward(embedding, x, dtable);
    });

    let [logits, dlogits] = [0; 2].map(|_| activation(exec, VOCABULARY));
    let labels = tokens(exec, [1, 1, 1, ROWS]);
    let offsets = exec.alloc(Kind::Label, [1, 1, 1, BATCH + 1]);
    let starts: Vec<i32> = (0..=BATCH).map(|b| (b * LENGTH) as i32).collect();
    let written = exec.write_labels(offsets, &starts);
    written.expect("the CPU does not fail");
    let loss = SentenceLoss {
        logits,
        labels,
        offsets,
        weights: floats(exec, BATCH),
        smoothing: 0.1,
        dlogits,
        token_loss: floats(exec, ROWS),
        loss: floats(exec, BATCH),
        right: floats(exec, BATCH),
    };
    bench.case("sentence_xent", 0.0, bytes(&[logits, dlogits]), || {
        exec.sentence_xent(loss, false);
    });
}

fn update(bench: &mut Bench) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let [params, grads, m, v] = [0; 4].map(|_| exec.alloc(Kind::Float, [1, 1, 1, PARAMETERS]));
    let scale = floats(exec, 1);
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 0.01,
        decoupled: true,
    };
    bench.case("clip_scale", 0.0, bytes(&[grads]), || {
        exec.clip_scale(grads, 1.0, scale);
    });
    let moved = bytes(&[params, params, grads, m, m, v, v]);
    bench.case("adamw", 0.0, moved, || {
        exec.adam(params, grads, [m, v], config, Some(scale));
    });
}
