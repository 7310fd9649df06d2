//! Training steps of ResNet-8, ResNet-20 and a small Transformer: each whole, and op by op. On the
//! CPU always; on `cuda` where there is one, with larger batches. Data are in memory.
//!
//! The ops of a step are those that the network itself asks for (`record.rs`). Calls of the same op
//! at the same shape are timed together, one after the other on the tensors that they have in the
//! step, again and again; on a GPU as a replayed graph. So what an op finds in a cache is not quite
//! what it finds there in a step: the last line of a network's table compares the sum of the ops
//! with the step.
//!
//! Roofs are measured in the same process, just before each network. On the CPU: multiply-adds
//! without memory and copies without arithmetic, in f32. On a GPU: the best large matrix product
//! that can be had, and a copy. An op's floor is the time of its FLOPs or its bytes at the roof,
//! whichever is longer. Caches may beat it: more than 100 % means that tensors did not have to
//! travel.
//!
//! Rivals are what can be loaded at run time: cuBLAS and cuDNN on a GPU, on the CPU the usual BLAS
//! libraries or the one that `AUTOASSIST_PEER_BLAS` names by its path (the OpenBLAS in numpy's
//! wheels will do). They make an op's matrix products, or its convolutions, and nothing else of it:
//! no bias, no activation, no batch norm on load. The ratio is their time over ours, so more than 1
//! means that ours is faster. `–` is an op without a rival.
//!
//! Arguments are criterion's: a filter such as `transformer/cpu/linear`, or `--test` to see in
//! seconds that all of it works. The results are also written to `networks.json` in
//! `$CRITERION_HOME`, or in `target/bench`.

#[path = "../common/blas.rs"]
mod blas;
#[path = "../common/cublas.rs"]
mod cublas;
mod cudnn;
mod device;
#[path = "../common/ends.rs"]
mod ends;
mod nets;
mod noise;
#[path = "../common/peak.rs"]
mod peak;
#[path = "../common/product.rs"]
mod product;
mod record;
mod report;
mod rivals;

use autoassist::assist::Drain;
use autoassist::backend::{DeviceError, Executor, Kind, Pass, StepInputs, Tensor};
use criterion::{Criterion, Throughput};
use device::Device;
use nets::{Net, Spec};
use record::{Call, record};
use report::{Network, Row};
use std::cell::RefCell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Of a measurement, whatever the length of an iteration.
const SAMPLES: usize = 10;

/// Runs things under criterion and notes their times for the tables.
struct Bench {
    criterion: Criterion,
}

impl Bench {
    /// Median seconds of an iteration of what `run` does so many times. None if the filter on the
    /// command line leaves it out.
    fn time(
        &mut self,
        group: &str,
        name: &str,
        elements: Option<u64>,
        mut run: impl FnMut(u64) -> Duration,
    ) -> Option<f64> {
        let times = RefCell::new(Vec::new());
        let mut group = self.criterion.benchmark_group(group);
        if let Some(elements) = elements {
            group.throughput(Throughput::Elements(elements));
        }
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let elapsed = run(iterations);
                let seconds = elapsed.as_secs_f64() / iterations as f64;
                times.borrow_mut().push(seconds);
                elapsed
            });
        });
        group.finish();
        let times = times.into_inner();
        // The first were to warm up.
        let mut times = times[times.len().saturating_sub(SAMPLES)..].to_vec();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }

    /// The whole step, with a loss record of every instance, and as many steps under way as the
    /// records allow.
    fn step(
        &mut self,
        group: &str,
        device: &Device,
        spec: &Spec,
    ) -> Result<Option<f64>, DeviceError> {
        let batch = spec.batches[device.batch];
        let mut exec = (device.open)()?;
        let ring = exec.create_ring(4, batch)?;
        let net = (spec.make)(&mut *exec, batch)?;
        let mut drain = Drain::new(ring, 0);
        let mut number = 0;
        Ok(self.time(group, "step", Some(batch as u64), |steps| {
            let start = Instant::now();
            for _ in 0..steps {
                while !drain.may_launch(number) {
                    drain.poll();
                }
                drain.launching(number, batch);
                let launched = exec.step(Pass::Train, inputs(&net, number), &*net.ops);
                launched.expect("the device works");
                number += 1;
            }
            while drain.in_flight() > 0 {
                drain.poll();
            }
            start.elapsed()
        }))
    }

    fn network(&mut self, device: &Device, spec: &Spec) -> Result<Network, DeviceError> {
        let batch = spec.batches[device.batch];
        let group = format!("{}/{}", spec.name, device.name);
        let roof = (device.roof)()?;
        let step = self.step(&group, device, spec)?;
        let mut exec = (device.open)()?;
        let net = (spec.make)(&mut *exec, batch)?;
        let calls = record(&*net.ops);
        let done = exec.alloc(Kind::Float, [1, 1, 1, 1]);
        let mut replay = Replay {
            exec,
            net,
            done,
            number: 0,
        };
        // So that tensors hold what they would in training.
        replay.run(0, &calls.iter().collect::<Vec<_>>(), 1, 3)?;
        let mut rows = Vec::new();
        for (i, (name, calls)) in grouped(&calls).into_iter().enumerate() {
            let copies = device.launches.div_ceil(calls.len());
            let seconds = self.time(&group, name, None, |iterations| {
                let replays = iterations.div_ceil(copies as u64);
                let elapsed = replay.run(1 + i as u32, &calls, copies, replays);
                let elapsed = elapsed.expect("the device works").as_secs_f64();
                let ours = iterations as f64 / (replays * copies as u64) as f64;
                Duration::from_secs_f64(elapsed * ours)
            });
            let Some(seconds) = seconds else { continue };
            let call_seconds = seconds / calls.len() as f64;
            rows.push(Row::new(&calls, call_seconds, device));
        }
        let tasks = grouped(&calls);
        for row in &mut rows {
            let call = tasks.iter().find(|(name, _)| *name == row.op);
            let task = call.and_then(|(_, calls)| calls[0].task.as_ref());
            row.rival = task.and_then(|task| self.rival(&group, &row.op, device, task));
        }
        Ok(Network {
            name: spec.name,
            shape: spec.shape,
            batch,
            device: replay.exec.describe(),
            roof,
            rivals: device.rivals.iter().map(|rival| rival.name()).collect(),
            step,
            rows,
        })
    }

    /// The fastest library for a task, and its seconds.
    fn rival(
        &mut self,
        group: &str,
        op: &str,
        device: &Device,
        task: &record::Task,
    ) -> Option<(String, f64)> {
        let times = device.rivals.iter().filter_map(|rival| {
            let mut run = rival.prepare(task)?;
            run(1)?;
            let mut failed = false;
            let name = format!("{op}, {}", rival.name());
            let seconds = self.time(group, &name, None, |iterations| {
                let elapsed = if failed { None } else { run(iterations) };
                failed |= elapsed.is_none();
                // Criterion wants some time, even of a failure.
                elapsed.unwrap_or(Duration::from_nanos(iterations))
            });
            let seconds = seconds.filter(|_| !failed)?;
            Some((rival.name(), seconds))
        });
        times.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Of a step: as many instances as the batch holds.
fn inputs(net: &Net, step: u64) -> StepInputs {
    let first = step * net.batch as u64;
    let instances = net.instances as u64;
    let ids = (first..).take(net.batch).map(|i| (i % instances) as u32);
    StepInputs {
        step,
        ids: ids.collect(),
        lr: 1e-4,
        ..StepInputs::default()
    }
}

/// Runs ops of a network apart from its step.
struct Replay {
    exec: Box<dyn Executor>,
    net: Net,
    done: Tensor,
    number: u64,
}

impl Replay {
    /// `calls`, so many copies of them in a step (a GPU keeps its graph under `key`) and so many
    /// such steps. Without learning, lest parameters leave what is usual after a thousand updates.
    fn run(
        &mut self,
        key: u32,
        calls: &[&Call],
        copies: usize,
        steps: u64,
    ) -> Result<Duration, DeviceError> {
        let mut inputs = StepInputs {
            lr: 0.0,
            shape: [key, 0, 0],
            ..inputs(&self.net, 0)
        };
        let start = Instant::now();
        for _ in 0..steps {
            inputs.step = self.number;
            self.exec.step(Pass::Train, inputs.clone(), &|exec| {
                for call in std::iter::repeat_n(calls, copies).flatten() {
                    (call.run)(exec);
                }
            })?;
            self.number += 1;
        }
        // Reading anything waits for everything.
        self.exec.read(self.done)?;
        Ok(start.elapsed())
    }
}

/// Calls of the same name, in the order in which names appear.
fn grouped(calls: &[Call]) -> Vec<(&str, Vec<&Call>)> {
    let mut groups: Vec<(&str, Vec<&Call>)> = Vec::new();
    for call in calls {
        match groups.iter_mut().find(|(name, _)| *name == call.name) {
            Some((_, group)) => group.push(call),
            None => groups.push((&call.name, vec![call])),
        }
    }
    groups
}

fn main() -> ExitCode {
    ends::ends("networks", run())
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(400))
        .measurement_time(Duration::from_millis(1600))
        .configure_from_args();
    let mut bench = Bench { criterion };
    let mut networks = Vec::new();
    for device in device::all()? {
        for spec in &nets::ALL {
            networks.push(bench.network(&device, spec)?);
        }
    }
    bench.criterion.final_summary();
    // A filter on the command line may have left nothing of some.
    networks.retain(|network| network.step.is_some() || !network.rows.is_empty());
    for network in &networks {
        network.print();
    }
    if !networks.is_empty() {
        let file = report::write(&networks)?;
        println!("\n{}", file.display());
    }
    Ok(())
}
