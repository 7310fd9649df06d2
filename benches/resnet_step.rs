//! One training step of ResNet-8 and ResNet-20, data in memory: gather, forward, loss, backward,
//! update. On the CPU batches of 128; on a GPU, where there is one, of 1024, replayed with the ring's
//! credits as in training.

use autoassist::assist::Drain;
use autoassist::backend::{Augment, Executor, Pass, Sgd, StepInputs, cpu::Cpu, gpu::Gpu};
use autoassist::data;
use autoassist::nn::{Architecture, InputShape, ResNet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Instant;

/// Executors of this machine, with the batch that suits each.
fn executors() -> Vec<(Box<dyn Executor>, usize)> {
    let cpu = Cpu::new().expect("a known AUTOASSIST_ISA");
    let mut all: Vec<(Box<dyn Executor>, usize)> = vec![(Box::new(cpu), 128)];
    match Gpu::cuda(0) {
        Ok(gpu) => all.push((Box::new(gpu), 1024)),
        Err(e) => eprintln!("cuda is not measured: {e}"),
    }
    all
}

fn step(c: &mut Criterion) {
    let images = data::synthetic(0).train;
    for depth in [8, 20] {
        for (mut exec, batch) in executors() {
            let mut group = c.benchmark_group(format!("resnet{depth}_train_step_b{batch}"));
            group
                .throughput(Throughput::Elements(batch as u64))
                .sample_size(20);
            let arch = Architecture::of_depth(depth).expect("a known depth");
            let input = InputShape {
                batch,
                height: 32,
                width: 32,
                channels: 3,
            };
            let net = ResNet::new(&mut *exec, &arch, input, 10);
            let data = exec.attach_images(images.clone());
            let ring = exec.create_ring(4, batch).expect("memory for a ring");
            net.params
                .initialise(&mut *exec, 0)
                .expect("memory for a batch");
            let augment = Augment {
                crop: 4,
                flip: true,
            };
            let sgd = Sgd {
                momentum: 0.9,
                nesterov: true,
                weight_decay: 5e-4,
            };
            let mut drain = Drain::new(ring, 0);
            let mut number = 0;
            group.bench_function(exec.describe(), |b| {
                b.iter_custom(|steps| {
                    let start = Instant::now();
                    for _ in 0..steps {
                        while !drain.may_launch(number) {
                            drain.poll();
                        }
                        let first = number * batch as u64;
                        let ids = (first..).take(batch).map(|i| (i % 10_000) as u32);
                        let inputs = StepInputs {
                            step: number,
                            ids: ids.collect(),
                            lr: 0.01,
                            ..StepInputs::default()
                        };
                        drain.launching(number, batch);
                        let launched = exec.step(Pass::Train, inputs, &|exec| {
                            net.train_step(exec, data, augment, 0.0, sgd);
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
            group.finish();
        }
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
