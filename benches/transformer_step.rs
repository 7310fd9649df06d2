//! One training step of a small Transformer (vocabulary 8000, d 256, 4 heads, ffn 1024, 3+3 layers,
//! dropout 0.1) on 64 pairs of 16 tokens, data in memory: forward, loss with records, backward,
//! update by Adam. Throughput counts target tokens.

use autoassist::assist::Drain;
use autoassist::backend::sequence::Adam;
use autoassist::backend::{DeviceError, Executor, Pass, StepInputs, cpu::Cpu, gpu::Gpu};
use autoassist::nn::{NormPlace, PairShape, Transformer, TransformerConfig};
use autoassist::rng::Stream;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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
const ADAM: Adam = Adam {
    betas: [0.9, 0.98],
    eps: 1e-9,
    weight_decay: 0.0,
    decoupled: false,
};

/// A network with random sentences without padding.
fn network(exec: &mut dyn Executor, shape: PairShape) -> Result<Transformer, DeviceError> {
    let ops = exec.sequence().expect("these executors have the ops");
    let net = Transformer::new(ops, CONFIG, shape)?;
    net.params.initialise(exec, 0)?;
    let pairs = net.bind(shape).pairs;
    let mut random = Stream::new(1, 0, 0);
    let mut tokens = |n: usize| -> Vec<i32> {
        let token = |_| 4 + random.below(CONFIG.vocab as u64 - 4) as i32;
        (0..n).map(token).collect()
    };
    for labels in [pairs.source, pairs.previous, pairs.target] {
        exec.write_labels(labels, &tokens(labels.len()))?;
    }
    let (b, target) = (shape.sentences, shape.target);
    exec.write_labels(pairs.source_len, &vec![shape.source as i32; b])?;
    exec.write_labels(pairs.target_len, &vec![target as i32; b])?;
    let offsets: Vec<i32> = (0..=b).map(|i| (i * target) as i32).collect();
    exec.write_labels(pairs.offsets, &offsets)?;
    exec.write(pairs.weights, &vec![1.0; b])?;
    Ok(net)
}

fn step(c: &mut Criterion) {
    let mut executors: Vec<(Box<dyn Executor>, usize)> =
        vec![(Box::new(Cpu::new().expect("a known AUTOASSIST_ISA")), 64)];
    match Gpu::cuda(0) {
        Ok(gpu) => executors.push((Box::new(gpu), 256)),
        Err(e) => eprintln!("cuda is not measured: {e}"),
    }
    for (mut exec, sentences) in executors {
        let exec = &mut *exec;
        let shape = PairShape {
            sentences,
            source: 16,
            target: 16,
        };
        let ring = exec.create_ring(4, sentences).expect("memory for a ring");
        let net = network(exec, shape).expect("memory for a network");
        let bound = net.bind(shape);
        let mut drain = Drain::new(ring, 0);
        let mut number = 0;
        let mut group = c.benchmark_group(format!("transformer_train_step_b{sentences}_l16"));
        group
            .throughput(Throughput::Elements((sentences * shape.target) as u64))
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
                        ids: (0..sentences as u32).collect(),
                        lr: 1e-4,
                        ..StepInputs::default()
                    };
                    drain.launching(number, sentences);
                    let launched = exec.step(Pass::Train, inputs, &|exec| {
                        let ops = exec.sequence().expect("it has made the network");
                        bound.train_step(ops, 0.1, f32::INFINITY, ADAM, true);
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
