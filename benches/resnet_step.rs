//! One training step of ResNet-8 and ResNet-20, batch 128, data in memory: gather, forward, loss,
//! backward, update.

use autoassist::assist::LossRing;
use autoassist::backend::{self, Augment, Sgd, StepInputs};
use autoassist::data;
use autoassist::nn::{Architecture, InputShape, ResNet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;

fn step(c: &mut Criterion) {
    const BATCH: usize = 128;
    let images = data::synthetic(0).train;
    let mut group = c.benchmark_group("resnet_train_step_b128");
    group
        .throughput(Throughput::Elements(BATCH as u64))
        .sample_size(20);
    for depth in [8, 20] {
        let mut exec = backend::open("cpu").expect("a CPU is always there");
        let arch = Architecture::of_depth(depth).expect("a known depth");
        let input = InputShape {
            batch: BATCH,
            height: 32,
            width: 32,
            channels: 3,
        };
        let net = ResNet::new(&mut *exec, &arch, input, 10);
        net.params.initialise(&mut *exec, 0);
        let data = exec.attach_images(images.clone());
        exec.attach_ring(Arc::new(LossRing::new(4, BATCH)));
        let augment = Augment {
            crop: 4,
            flip: true,
        };
        let sgd = Sgd {
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
        };
        let mut number = 0;
        group.bench_function(format!("depth{depth}/{}", exec.describe()), |b| {
            b.iter(|| {
                let ids = (0..BATCH as u64)
                    .map(|i| ((number * 128 + i) % 10_000) as u32)
                    .collect();
                let inputs = StepInputs {
                    step: number,
                    ids,
                    lr: 0.01,
                    ..StepInputs::default()
                };
                exec.begin_step(inputs);
                net.train_step(&mut *exec, data, augment, 0.0, sgd);
                number += 1;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
