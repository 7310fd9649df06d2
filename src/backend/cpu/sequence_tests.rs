//! Through the trait: what is drawn from the step's inputs, what goes into the ring, and tensors
//! that are one another.

use super::super::testing::random;
use super::*;
use crate::backend::{Executor, Kind, Pass, StepInputs};

fn filled(cpu: &mut Cpu, seed: u64, dims: [usize; 4]) -> Tensor {
    let t = cpu.alloc(Kind::Activation, dims);
    cpu.write(t, &random(seed, t.len(), 0.0, 2.0)).unwrap();
    t
}

fn labels(cpu: &mut Cpu, values: &[i32]) -> Tensor {
    let t = cpu.alloc(Kind::Label, [1, 1, 1, values.len()]);
    cpu.write_labels(t, values).unwrap();
    t
}

fn cpu() -> Cpu {
    Cpu::new().unwrap()
}

fn in_step(cpu: &mut Cpu, step: u64, seed: u64, ops: &dyn Fn(&mut dyn Sequence)) {
    let inputs = StepInputs {
        step,
        seed,
        ids: vec![8, 9],
        lr: 0.1,
        ..StepInputs::default()
    };
    let run = |exec: &mut dyn Executor| ops(exec.sequence().unwrap());
    cpu.step(Pass::Train, inputs, &run).unwrap();
}

fn norm(cpu: &mut Cpu, rows: usize, width: usize) -> LayerNorm {
    let [gamma, beta, dgamma, dbeta] = [0; 4].map(|_| filled(cpu, 9, [1, 1, 1, width]));
    let [mean, rstd] = [0; 2].map(|_| filled(cpu, 9, [1, 1, 1, rows]));
    LayerNorm {
        gamma,
        beta,
        dgamma,
        dbeta,
        mean,
        rstd,
    }
}

#[test]
fn dropout_is_drawn_from_the_step_and_again_in_the_backward_pass() {
    let cpu = &mut cpu();
    let dims = [1, 2, 5, 7];
    let [branch, y, dy, dx, dbranch] = [1, 2, 3, 4, 5].map(|seed| filled(cpu, seed, dims));
    let [x, h] = [0; 2].map(|_| cpu.alloc(Kind::Activation, dims));
    let norm = norm(cpu, 10, 7);
    let dropout = Dropout { p: 0.5, site: 3 };
    let mut pattern = |step: u64, seed: u64, site: u32| {
        let dropout = Dropout { site, ..dropout };
        in_step(cpu, step, seed, &|ops| {
            ops.add_norm(x, Some((branch, Some(dropout))), norm, h, y);
            ops.add_norm_backward(h, norm, dy, None, dx, Some((dbranch, dropout)));
        });
        let zeros = |cpu: &mut Cpu, t| cpu.read(t).unwrap().iter().map(|v| *v == 0.0).collect();
        let (forward, backward): (Vec<bool>, Vec<bool>) = (zeros(cpu, h), zeros(cpu, dbranch));
        assert_eq!(forward, backward);
        forward
    };
    let first = pattern(1, 2, 3);
    assert_eq!(first, pattern(1, 2, 3));
    for other in [pattern(2, 2, 3), pattern(1, 3, 3), pattern(1, 2, 4)] {
        assert_ne!(first, other);
    }
}

#[test]
fn an_embedding_s_gradient_passes_through_its_dropout() {
    let cpu = &mut cpu();
    let embedding = Embedding {
        tokens: cpu.alloc(Kind::Label, [1, 1, 1, 5]),
        table: filled(cpu, 1, [1, 1, 5, 16]),
        scale: 4.0,
        positions: Some(filled(cpu, 2, [1, 1, 8, 16])),
        padding: None,
        dropout: Some(Dropout { p: 0.5, site: 0 }),
    };
    cpu.write_labels(embedding.tokens, &[0, 1, 2, 3, 4])
        .unwrap();
    let [out, dout] = [3, 4].map(|seed| filled(cpu, seed, [1, 1, 5, 16]));
    let dtable = cpu.alloc(Kind::Float, embedding.table.dims);
    in_step(cpu, 5, 6, &|ops| {
        ops.embed(embedding, out);
        ops.embed_backward(embedding, dout, dtable);
    });
    let (out, dtable) = (cpu.read(out).unwrap(), cpu.read(dtable).unwrap());
    assert!(out.contains(&0.0));
    for (i, (out, d)) in out.iter().zip(&dtable).enumerate() {
        assert_eq!(*out == 0.0, *d == 0.0, "{i}");
    }
}

#[test]
fn sentences_leave_their_records_in_the_ring() {
    let cpu = &mut cpu();
    // Three rows each; the last sentence is none of the step's.
    let logits = filled(cpu, 1, [1, 1, 9, 4]);
    let [token_loss, mean, right] = [9, 3, 3].map(|n| filled(cpu, 2, [1, 1, 1, n]));
    let loss = SentenceLoss {
        logits,
        labels: labels(cpu, &[0, 1, 2, 3, 0, -100, -100, -100, -100]),
        offsets: labels(cpu, &[0, 3, 6, 9]),
        weights: filled(cpu, 3, [1, 1, 1, 3]),
        smoothing: 0.1,
        dlogits: logits,
        token_loss,
        loss: mean,
        right,
    };
    let mut values = vec![0.0; 36];
    for (row, label) in [0, 1, 2, 3, 1].into_iter().enumerate() {
        values[4 * row + label] = 2.0; // The fifth is wrong.
    }
    cpu.write(logits, &values).unwrap();
    let ring = cpu.create_ring(4, 3).unwrap();
    in_step(cpu, 7, 0, &|ops| ops.sentence_xent(loss, true));
    let losses = cpu.read(mean).unwrap();
    for (row, right) in [true, false].into_iter().enumerate() {
        let record = ring.read(7, row).unwrap();
        assert_eq!((record.loss, record.right), (losses[row], right));
    }
    assert_eq!((ring.read(7, 2), losses[2]), (None, 0.0));
    in_step(cpu, 8, 0, &|ops| ops.sentence_xent(loss, false));
    assert_eq!(ring.read(8, 0), None);
}

#[test]
fn attention_s_gradients_may_share_tensors() {
    let (batch, length, width) = (2, 5, 12);
    let results = |how: usize| {
        let cpu = &mut cpu();
        let mut fresh = |seed, columns| filled(cpu, seed, [1, batch, length, columns]);
        let (qkv, dout, out) = (fresh(1, 3 * width), fresh(2, width), fresh(3, width));
        // One tensor for all three, one for keys and values, or none shared.
        let tensors = match how {
            0 => [fresh(4, 3 * width); 3],
            1 => {
                let shared = fresh(4, 3 * width);
                [fresh(5, 3 * width), shared, shared]
            }
            _ => [4, 5, 6].map(|seed| fresh(seed, 3 * width)),
        };
        let part = |t: Tensor, i: usize| Heads {
            t,
            first: i * width,
        };
        let [q, k, v] = [0, 1, 2].map(|i| part(qkv, i));
        let attention = Attention {
            heads: 3,
            q,
            k,
            v,
            mask: crate::backend::sequence::Mask {
                key_len: labels(cpu, &[5, 2]),
                causal: true,
            },
            out,
            lse: cpu.alloc(Kind::Float, [1, batch, 3, length]),
        };
        let [dq, dk, dv] = [0, 1, 2].map(|i| part(tensors[i], i));
        cpu.attention(attention);
        cpu.attention_backward(attention, AttentionGrad { dout, dq, dk, dv });
        [dq, dk, dv].map(|heads| {
            let all = cpu.read(heads.t).unwrap();
            let rows = all.chunks(3 * width);
            let columns = rows.map(|row| row[heads.first..][..width].to_vec());
            columns.collect::<Vec<_>>().concat()
        })
    };
    let apart = results(2);
    assert!(apart.iter().flatten().any(|d| *d != 0.0));
    assert!(results(0) == apart && results(1) == apart);
}

#[test]
fn a_norm_s_gradient_may_take_the_place_of_what_it_comes_from() {
    let gradient = |how: usize| {
        let cpu = &mut cpu();
        let [h, dy, dh, fresh] = [1, 2, 3, 4].map(|seed| filled(cpu, seed, [1, 2, 3, 9]));
        let norm = norm(cpu, 6, 9);
        cpu.add_norm(h, None, norm, h, fresh);
        let dx = [fresh, dy, dh][how];
        cpu.add_norm_backward(h, norm, dy, Some(dh), dx, None);
        cpu.read(dx).unwrap()
    };
    let apart = gradient(0);
    assert!(gradient(1) == apart && gradient(2) == apart);
}

#[test]
fn adam_counts_the_steps_and_takes_their_rate_and_the_scale() {
    let cpu = &mut cpu();
    let [p, g, m, v] = [0; 4].map(|_| cpu.alloc(Kind::Float, [1, 1, 1, 2]));
    let scale = cpu.alloc(Kind::Float, [1; 4]);
    cpu.write(g, &[30.0, 40.0]).unwrap();
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 0.0,
        weight_decay: 0.0,
        decoupled: false,
    };
    for step in 0..2 {
        in_step(cpu, step, 0, &|ops| {
            ops.clip_scale(g, 5.0, scale);
            ops.adam(p, g, [m, v], config, Some(scale));
        });
        assert_eq!(cpu.read(scale).unwrap(), [0.1]);
        // With equal gradients and the right count, each step is one of lr.
        let want = -0.1 * (step + 1) as f32;
        let params = cpu.read(p).unwrap();
        assert!(params.iter().all(|p| (p - want).abs() < 1e-6), "{params:?}");
    }
    let m = cpu.read(m).unwrap();
    assert!((m[0] - 3.0 * 0.19).abs() < 1e-6 && (m[1] - 4.0 * 0.19).abs() < 1e-6);
}
