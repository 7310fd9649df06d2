//! What networks over tokens want beside products and attention: embedding, layer norm, the loss of
//! sentences, Adam.

use super::case::{Case, case, tensor};
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::sequence::{Adam, Dropout, Embedding, LayerNorm, SentenceLoss, Sequence};
use crate::backend::{DeviceError, Executor, Kind, Tensor};
use crate::rng::Stream;

/// Cases of this step of the ladders.
pub(super) fn cases(step: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    let at = |ladder: Ladder| step <= ladder.last();
    if at(Ladder::Embedding) {
        let shapes = [[1, 1, 8, 3], [3, 5, 12, 7], [4, 7, 16, 5], [70, 16, 8, 9]];
        cases.extend(shapes.map(|sizes| case(move |g, r| embedding(g, r, sizes))));
    }
    if at(Ladder::LayerNorm) {
        let shapes = [[1, 1], [3, 5], [40, 24], [5, 264], [3, 528]];
        cases.extend(shapes.map(|sizes| case(move |g, r| norm(g, r, sizes))));
    }
    if at(Ladder::SentenceXent) {
        let lengths: [(&'static [usize], usize); 4] =
            [(&[1], 8), (&[2, 0, 5, 40], 24), (&[3, 4], 37), (&[33], 600)];
        cases.extend(lengths.map(|(l, classes)| case(move |g, r| loss(g, r, l, classes))));
    }
    if at(Ladder::Adam) {
        let lengths = [1, 260, 5001, 16500];
        cases.extend(lengths.map(|n| case(move |g, r| adam(g, r, n))));
    }
    cases
}

const DROPOUT: Option<Dropout> = Some(Dropout { p: 0.3, site: 1 });

fn labels(
    gpu: &mut Gpu,
    dims: [usize; 4],
    value: impl Fn(usize) -> i32,
) -> Result<Tensor, DeviceError> {
    let t = gpu.alloc(Kind::Label, dims);
    gpu.write_labels(t, &(0..t.len()).map(value).collect::<Vec<i32>>())?;
    Ok(t)
}

/// Sentences, their length, d, vocabulary.
fn embedding(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 4]) -> Result<(), DeviceError> {
    let [b, l, d, vocabulary] = sizes;
    let e = Embedding {
        tokens: labels(gpu, [1, 1, b, l], |i| (i * i % vocabulary) as i32)?,
        table: tensor(gpu, random, Kind::Float, [1, 1, vocabulary, d])?,
        scale: (d as f32).sqrt(),
        positions: Some(tensor(gpu, random, Kind::Float, [1, 1, l, d])?),
        padding: Some(1),
        dropout: DROPOUT,
    };
    let dout = tensor(gpu, random, Kind::Activation, [1, b, l, d])?;
    let dtable = tensor(gpu, random, Kind::Float, e.table.dims)?;
    let out = gpu.alloc(Kind::Activation, dout.dims);
    gpu.embed(e, out);
    gpu.embed_backward(e, dout, dtable);
    gpu.check()
}

/// Rows, columns.
fn norm(gpu: &mut Gpu, random: &mut Stream, [rows, d]: [usize; 2]) -> Result<(), DeviceError> {
    let dims = [1, 1, rows, d];
    let mut vector = |n| tensor(gpu, random, Kind::Float, [1, 1, 1, n]);
    let norm = LayerNorm {
        gamma: vector(d)?,
        beta: vector(d)?,
        dgamma: vector(d)?,
        dbeta: vector(d)?,
        mean: vector(rows)?,
        rstd: vector(rows)?,
    };
    let [x, branch, dy, dh] = [(); 4].map(|()| tensor(gpu, random, Kind::Activation, dims));
    let (x, branch, dy, dh) = (x?, branch?, dy?, dh?);
    let [h, y, dx, dbranch] = [(); 4].map(|()| gpu.alloc(Kind::Activation, dims));
    gpu.add_norm(x, None, norm, x, y);
    gpu.add_norm_backward(x, norm, dy, None, dx, None);
    gpu.add_norm(x, Some((branch, DROPOUT)), norm, h, y);
    let back = DROPOUT.map(|dropout| (dbranch, dropout));
    gpu.add_norm_backward(h, norm, dy, Some(dh), dh, back);
    gpu.check()
}

fn loss(
    gpu: &mut Gpu,
    random: &mut Stream,
    lengths: &[usize],
    classes: usize,
) -> Result<(), DeviceError> {
    let (rows, sentences) = (lengths.iter().sum::<usize>(), lengths.len());
    let ring = gpu.create_ring(4, sentences)?;
    let logits = tensor(gpu, random, Kind::Activation, [1, 1, rows, classes])?;
    let label = |r: usize| {
        if r % 5 == 4 {
            -100
        } else {
            (r * 7 % classes) as i32
        }
    };
    let offset = |b: usize| lengths[..b].iter().sum::<usize>() as i32;
    let mut floats = |n| gpu.alloc(Kind::Float, [1, 1, 1, n]);
    let (token_loss, loss, right) = (floats(rows), floats(sentences), floats(sentences));
    let spec = SentenceLoss {
        logits,
        labels: labels(gpu, [1, 1, 1, rows], label)?,
        offsets: labels(gpu, [1, 1, 1, sentences + 1], offset)?,
        weights: tensor(gpu, random, Kind::Float, [1, 1, 1, sentences])?,
        smoothing: 0.1,
        dlogits: gpu.alloc(Kind::Activation, logits.dims),
        token_loss,
        loss,
        right,
    };
    gpu.sentence_xent(spec, true);
    let in_place = SentenceLoss {
        dlogits: logits,
        ..spec
    };
    gpu.sentence_xent(in_place, false);
    gpu.check()?;
    gpu.block(|driver| driver.synchronize())?;
    drop(ring);
    Ok(())
}

fn adam(gpu: &mut Gpu, random: &mut Stream, n: usize) -> Result<(), DeviceError> {
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 0.1,
        decoupled: true,
    };
    let mut buffer = || tensor(gpu, random, Kind::Float, [1, 1, 1, n]);
    let (params, grads, m) = (buffer()?, buffer()?, buffer()?);
    let v = gpu.alloc(Kind::Float, [1, 1, 1, n]);
    let scale = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
    gpu.clip_scale(grads, 0.5, scale);
    gpu.adam(params, grads, [m, v], config, Some(scale));
    gpu.adam(params, grads, [m, v], config, None);
    gpu.check()
}
