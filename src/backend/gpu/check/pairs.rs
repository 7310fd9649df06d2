//! Batches of sentence pairs, and what decoding keeps.

use super::cases::{Case, case, tensor};
use crate::backend::gpu::Gpu;
use crate::backend::sequence::{Heads, PairBatch, Sequence};
use crate::backend::{DeviceError, Executor, Kind, Pass, StepInputs};
use crate::data::pairs::{EOS, SentencePairs, Sentences};
use crate::rng::Stream;
use std::sync::Arc;

/// There are no ladders here.
pub(super) fn cases() -> Vec<Case> {
    let gathers = [[1, 1, 1], [3, 5, 70]].map(|sizes| case(move |g, r| gather(g, r, sizes)));
    let moves = [[24, 8, 16], [13, 4, 9]].map(|sizes| case(move |g, r| rows(g, r, sizes)));
    gathers.into_iter().chain(moves).collect()
}

/// Sentence pairs of up to so many tokens.
pub(super) fn sentences(random: &mut Stream, longest: usize) -> Sentences {
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
