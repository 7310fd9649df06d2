//! One training step of a small Transformer (vocabulary 8000, d 256, 4 heads, ffn 1024, 3+3 layers,
//! dropout 0.1) on 64 pairs of 16 tokens, data in memory: forward, loss with records, backward,
//! update by Adam. Throughput counts target tokens.

use autoassist::assist::Drain;
use autoassist::backend::sequence::Adam;
use autoassist::backend::{Executor, Pass, StepInputs, cpu::Cpu, gpu::Gpu};
use autoassist::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use autoassist::nn::{NormPlace, TrainSpec, Transformer, TransformerConfig};
use autoassist::rng::Stream;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Instant;

const CONFIG: TransformerConfig = TransformerConfig {
    vocab: 8000,
    d: 256,
    heads: 4,
    ffn: 1024,
    layers: [3, 3],
    norm: NormPlace::Pre,
    dropout: 0.1,
};
const SPEC: TrainSpec = TrainSpec {
    smoothing: 0.1,
    clip: f32::INFINITY,
    adam: Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 0.0,
        decoupled: false,
    },
};

/// Random sentences of so many tokens.
fn sentences(count: usize, length: usize) -> Sentences {
    let mut random = Stream::new(1, 0, length as u64);
    let mut all = Sentences::default();
    for _ in 0..count {
        let token = |_| 4 + random.below(CONFIG.vocab as u64 - 4) as i32;
        let mut tokens: Vec<i32> = (1..length).map(token).collect();
        tokens.push(EOS);
        all.push(&tokens);
    }
    all
}

fn step(c: &mut Criterion) {
    let mut executors: Vec<(Box<dyn Executor>, usize)> =
        vec![(Box::new(Cpu::new().expect("a known AUTOASSIST_ISA")), 64)];
    match Gpu::cuda(0) {
        Ok(gpu) => executors.push((Box::new(gpu), 256)),
        Err(e) => eprintln!("cuda is not measured: {e}"),
    }
    for (mut exec, batch) in executors {
        let exec = &mut *exec;
        let shape = PairShape {
            sentences: batch,
            source: 16,
            target: 16,
        };
        let ring = exec.create_ring(4, batch).expect("memory for a ring");
        let ops = exec.sequence().expect("these executors have the ops");
        let pairs = SentencePairs::new(sentences(batch, 16), sentences(batch, 16));
        let data = ops.attach_pairs(Arc::new(pairs));
        let net = Transformer::new(ops, CONFIG, shape).expect("memory for a network");
        net.params.initialise(exec, 0).expect("a device that works");
        let bound = net.bind(shape);
        let mut drain = Drain::new(ring, 0);
        let mut number = 0;
        let mut group = c.benchmark_group(format!("transformer_train_step_b{batch}_l16"));
        group
            .throughput(Throughput::Elements((batch * shape.target) as u64))
            .sample_size(20);
        group.bench_function(exec.describe(), |b| {
            b.iter_custom(|steps| {
                let start = Instant::now();
                for _ in 0..steps {
                    while !drain.may_launch(number) {
                        drain.poll();
                    }
                    let inputs = StepInputs {
                        step: number,
                        ids: (0..batch as u32).collect(),
                        lr: 1e-4,
                        ..StepInputs::default()
                    };
                    drain.launching(number, batch);
                    let launched = exec.step(Pass::Train, inputs, &|exec| {
                        let ops = exec.sequence().expect("it has made the network");
                        bound.train_step(ops, data, SPEC);
                    });
                    launched.expect("the device works");
                    number += 1;
                }
                while drain.in_flight() > 0 {
                    drain.poll();
                }
                start.elapsed()
            });
        });
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
