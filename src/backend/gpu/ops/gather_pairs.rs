//! Launches of `kernels/gather_pairs`.

use crate::backend::DataId;
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Held};
use crate::backend::sequence::PairBatch;

/// Threads of a block, which fills a row.
const THREADS: u32 = 64;

/// See [`Sequence::gather_pairs`](crate::backend::sequence::Sequence::gather_pairs).
pub(crate) fn gather_pairs(gpu: &mut Gpu, id: DataId, batch: PairBatch) {
    let data = &gpu.data[id.0];
    let Held::Pairs(pairs) = &data.held else {
        panic!("these are no sentence pairs");
    };
    let count = Arg::U32(pairs.len() as u32);
    let [.., rows, source] = batch.source.dims;
    let target = batch.target.dims[3];
    assert_eq!(
        [
            batch.previous.dims,
            batch.target.dims,
            batch.source_len.dims,
            batch.target_len.dims,
            batch.offsets.dims,
            batch.weights.dims,
        ],
        [
            [1, 1, rows, target],
            [1, 1, rows, target],
            [1, 1, 1, rows],
            [1, 1, 1, rows],
            [1, 1, 1, rows + 1],
            [1, 1, 1, rows],
        ],
        "a batch of {rows} pairs"
    );
    let step = gpu.step_buffers();
    let corpus: [u64; 4] = gpu.parts_of(data);
    let inputs = [step.state, step.ids, step.weights].map(Arg::Ptr);
    let sizes = [source, target].map(|length| Arg::I32(length as i32));
    let outputs = [
        batch.source,
        batch.source_len,
        batch.previous,
        batch.target_len,
        batch.target,
        batch.offsets,
        batch.weights,
    ];
    let outputs = outputs.map(|t| gpu.address(t));
    let args = [
        &inputs[..],
        &corpus.map(Arg::Ptr),
        &[count],
        &sizes,
        &outputs,
    ]
    .concat();
    gpu.launch("gather_pairs", [rows as u32, 1, 1], THREADS, 0, &args);
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::sequence::Sequence;
    use crate::backend::{Executor, Kind, Pass, StepInputs};
    use crate::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
    use crate::rng::Stream;
    use std::sync::Arc;

    fn sentences(random: &mut Stream, count: usize, longest: u64) -> Sentences {
        let mut all = Sentences::default();
        for _ in 0..count {
            let length = random.below(longest);
            let mut tokens: Vec<i32> = (0..length).map(|_| random.below(90) as i32).collect();
            tokens.push(EOS);
            all.push(&tokens);
        }
        all
    }

    fn batch(exec: &mut dyn Executor, shape: PairShape) -> PairBatch {
        let PairShape {
            sentences: b,
            source,
            target,
        } = shape;
        let mut labels = |dims| exec.alloc(Kind::Label, dims);
        PairBatch {
            source: labels([1, 1, b, source]),
            source_len: labels([1, 1, 1, b]),
            previous: labels([1, 1, b, target]),
            target_len: labels([1, 1, 1, b]),
            target: labels([1, 1, b, target]),
            offsets: labels([1, 1, 1, b + 1]),
            weights: exec.alloc(Kind::Float, [1, 1, 1, b]),
        }
    }

    /// All labels of three batches, the second with empty rows, and their weights.
    fn run(exec: &mut dyn Sequence, shape: PairShape) -> (Vec<Vec<i32>>, Vec<Vec<f32>>) {
        let mut random = Stream::new(6, 0, 0);
        let source = sentences(&mut random, 20, shape.source as u64);
        let target = sentences(&mut random, 20, shape.target as u64);
        let data = exec.attach_pairs(Arc::new(SentencePairs::new(source, target)));
        let batch = batch(exec, shape);
        let (mut labels, mut weights) = (Vec::new(), Vec::new());
        for step in 0..3 {
            let rows = shape.sentences - if step == 1 { shape.sentences / 2 } else { 0 };
            let inputs = StepInputs {
                step,
                ids: (0..rows).map(|_| random.below(20) as u32).collect(),
                weights: (0..rows).map(|_| random.f32()).collect(),
                ..StepInputs::default()
            };
            let gather = |exec: &mut dyn Executor| {
                exec.sequence().unwrap().gather_pairs(data, batch);
            };
            exec.step(Pass::Train, inputs, &gather).unwrap();
            let of = [
                batch.source,
                batch.source_len,
                batch.previous,
                batch.target_len,
                batch.target,
                batch.offsets,
            ];
            labels.extend(of.map(|t| exec.read_labels(t).unwrap()));
            weights.push(exec.read(batch.weights).unwrap());
        }
        (labels, weights)
    }

    #[test]
    fn batches_are_the_cpu_s() {
        for (sentences, source, target) in [(1, 1, 1), (5, 7, 9), (3, 70, 130)] {
            let shape = PairShape {
                sentences,
                source,
                target,
            };
            let cpu = run(&mut Cpu::new().unwrap(), shape);
            assert_eq!(run(&mut Gpu::simt().unwrap(), shape), cpu, "{shape:?}");
        }
    }

    #[test]
    fn a_sentence_that_is_too_long_is_a_fault() {
        let mut gpu = Gpu::simt().unwrap();
        let long: Sentences = [&[5, 6, 7, EOS][..]].into_iter().collect();
        let data = gpu.attach_pairs(Arc::new(SentencePairs::new(long.clone(), long)));
        let shape = PairShape {
            sentences: 1,
            source: 3,
            target: 4,
        };
        let batch = batch(&mut gpu, shape);
        let inputs = StepInputs {
            ids: vec![0],
            ..StepInputs::default()
        };
        let gather = |exec: &mut dyn Executor| {
            exec.sequence().unwrap().gather_pairs(data, batch);
        };
        let stepped = gpu.step(Pass::Train, inputs, &gather);
        let fault = stepped.and_then(|()| gpu.read(batch.weights).map(drop));
        assert!(fault.unwrap_err().to_string().contains("gather_pairs"));
    }
}
