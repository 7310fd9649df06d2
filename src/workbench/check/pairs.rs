//! Batches of sentence pairs, what decoding keeps, and a whole Transformer.

use super::case::{Case, case, tensor};
use crate::backend::gpu::Gpu;
use crate::backend::sequence::{Adam, Heads, PairBatch, Sequence};
use crate::backend::{DeviceError, Executor, Kind, Pass, StepInputs};
use crate::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use crate::nn::{
    BeamSearch, Network, NormPlace, Optimiser, SearchSpec, TrainSpec, TransformerConfig,
};
use crate::rng::Stream;
use std::sync::Arc;

/// There are no ladders here.
pub(super) fn cases() -> Vec<Case> {
    let gathers = [[1, 1, 1], [3, 5, 70]].map(|sizes| case(move |g, r| gather(g, r, sizes)));
    let moves = [[24, 8, 16], [13, 4, 9]].map(|sizes| case(move |g, r| rows(g, r, sizes)));
    gathers.into_iter().chain(moves).collect()
}

/// Sentence pairs of up to so many tokens.
fn sentences(random: &mut Stream, longest: usize) -> Sentences {
    let mut all = Sentences::default();
    for _ in 0..7 {
        let length = random.below(longest as u64);
        let mut tokens: Vec<i32> = (0..length).map(|_| 3 + random.below(20) as i32).collect();
        tokens.push(EOS);
        all.push(&tokens);
    }
    all
}

/// Batch, and lengths of both sides.
fn gather(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 3]) -> Result<(), DeviceError> {
    let [b, source, target] = sizes;
    let pairs = SentencePairs::new(sentences(random, source), sentences(random, target));
    let data = gpu.attach_pairs(Arc::new(pairs));
    let mut labels = |dims| gpu.alloc(Kind::Label, dims);
    let batch = PairBatch {
        source: labels([1, 1, b, source]),
        source_len: labels([1, 1, 1, b]),
        previous: labels([1, 1, b, target]),
        target_len: labels([1, 1, 1, b]),
        target: labels([1, 1, b, target]),
        offsets: labels([1, 1, 1, b + 1]),
        weights: gpu.alloc(Kind::Float, [1, 1, 1, b]),
    };
    // The second step has an empty row.
    for step in 0..2 {
        let inputs = StepInputs {
            step,
            ids: (0..b - step as usize)
                .map(|_| random.below(7) as u32)
                .collect(),
            ..StepInputs::default()
        };
        gpu.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("a GPU has them");
            ops.gather_pairs(data, batch);
        })?;
    }
    Ok(())
}

const SPEC: TrainSpec = TrainSpec {
    smoothing: 0.1,
    clip: 1.0,
    optimiser: Optimiser::Adam(Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 0.0,
        decoupled: false,
    }),
};

/// Two steps of training, one of evaluation, and a translation.
pub(super) fn network(gpu: &mut Gpu, random: &mut Stream) -> Result<(), DeviceError> {
    let config = TransformerConfig {
        vocab: 24,
        d: 32,
        heads: 2,
        ffn: 40,
        layers: [1, 1],
        norm: NormPlace::Pre,
        dropout: 0.1,
    };
    let shape = PairShape {
        sentences: 3,
        source: 6,
        target: 5,
    };
    let ring = gpu.create_ring(4, shape.sentences)?;
    let pairs = SentencePairs::new(sentences(random, 6), sentences(random, 5));
    let sources = vec![
        pairs.source().get(0).to_vec(),
        pairs.source().get(1).to_vec(),
    ];
    let data = gpu.attach_pairs(Arc::new(pairs));
    let net = Network::new(gpu, config, shape)?;
    let spec = SearchSpec {
        beams: 2,
        most: 3,
        penalty: 1.0,
    };
    let mut search = BeamSearch::new(gpu, &net, spec);
    net.params.initialise(gpu, 1)?;
    let bound = net.bind(shape);
    for (step, pass) in [(0, Pass::Train), (0, Pass::Eval), (1, Pass::Train)] {
        let inputs = StepInputs {
            step,
            ids: (0..3 - step as u32).collect(),
            lr: 0.01,
            ..StepInputs::default()
        };
        gpu.step(pass, inputs, &|exec| {
            let ops = exec.sequence().expect("a GPU has them");
            match pass {
                Pass::Train => bound.train_step(ops, data, SPEC),
                Pass::Eval => bound.eval_step(ops, data),
            }
        })?;
    }
    search.translate(gpu, &net, &sources)?;
    gpu.block(|driver| driver.synchronize())?;
    drop(ring);
    Ok(())
}

/// Columns of the source, the first that moves, and how many do.
fn rows(gpu: &mut Gpu, random: &mut Stream, sizes: [usize; 3]) -> Result<(), DeviceError> {
    let [wide, first, width] = sizes;
    let t = tensor(gpu, random, Kind::Activation, [1, 1, 9, wide])?;
    let to = gpu.alloc(Kind::Activation, [1, 1, 10, width]);
    let [source, target] = [(); 2].map(|()| gpu.alloc(Kind::Label, [1, 1, 1, 9]));
    let numbers = |step: i32| (0..9).map(|i| i * step % 9).collect::<Vec<i32>>();
    gpu.write_labels(source, &numbers(3))?;
    gpu.write_labels(target, &numbers(2))?;
    gpu.move_rows(Heads { t, first }, source, to, target);
    gpu.check()
}
