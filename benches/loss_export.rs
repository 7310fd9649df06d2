//! What it costs to hand every instance's loss to the host: training steps of ResNet-20 with the
//! loss kernel's records on, with them off, and with the usual copy and synchronisation after each
//! step; and how long after its launch a step's records are there.
//!
//! Measures `cuda`. Without a device it rehearses on `simt` with a tiny network, to show that it
//! works; those times mean nothing. The three variants take turns, so that a clock that drifts
//! spoils none of them.

#[path = "common/ends.rs"]
mod ends;

use autoassist::assist::Drain;
use autoassist::backend::gpu::Gpu;
use autoassist::backend::{
    Augment, DataId, DeviceError, Executor, Pass, Sgd, StepInputs, wait_for_records,
};
use autoassist::data::{self, Dataset, Samples};
use autoassist::nn::{Architecture, InputShape, ResNet};
use std::process::ExitCode;
use std::time::Instant;

const SGD: Sgd = Sgd {
    momentum: 0.9,
    nesterov: true,
    weight_decay: 5e-4,
};
const AUGMENT: Augment = Augment {
    crop: 4,
    flip: true,
};

/// How the host learns of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Export {
    /// The loss kernel stores records in the host's memory.
    Records,
    /// Not at all.
    Off,
    /// The host copies the losses after every step and waits for them.
    Copy,
}

/// Looks at the ring between two questions whether the device still works.
const LOOKS: usize = 10_000;

/// How much of it.
struct Size {
    depth: u32,
    batch: usize,
    steps: u64,
    rounds: usize,
}

struct Trainer {
    export: Export,
    exec: Gpu,
    net: ResNet,
    data: DataId,
    drain: Option<Drain>,
    images: u64,
    batch: usize,
    step: u64,
}

impl Trainer {
    fn new(
        mut exec: Gpu,
        export: Export,
        size: &Size,
        data: &Dataset,
    ) -> Result<Trainer, DeviceError> {
        let images = &data.train;
        let input = InputShape {
            batch: size.batch,
            height: images.height,
            width: images.width,
            channels: images.channels,
        };
        let arch = Architecture::of_depth(size.depth).expect("a known depth");
        let net = ResNet::new(&mut exec, &arch, input, data.classes.len());
        let id = exec.attach_images(images.clone());
        let drain = match export {
            Export::Records => Some(Drain::new(exec.create_ring(4, size.batch)?, 0)),
            Export::Off | Export::Copy => None,
        };
        net.params.initialise(&mut exec, 0)?;
        Ok(Trainer {
            export,
            exec,
            net,
            data: id,
            drain,
            images: images.len() as u64,
            batch: size.batch,
            step: 0,
        })
    }

    fn step(&mut self) -> Result<(), DeviceError> {
        let (step, batch) = (self.step, self.batch);
        if let Some(drain) = &mut self.drain {
            while !drain.may_launch(step) {
                wait_for_records(&mut self.exec, drain)?;
            }
            drain.launching(step, batch);
        }
        let first = step * batch as u64;
        let inputs = StepInputs {
            step,
            ids: (first..)
                .take(batch)
                .map(|i| (i % self.images) as u32)
                .collect(),
            lr: 0.01,
            ..StepInputs::default()
        };
        let (net, data, record) = (&self.net, self.data, self.drain.is_some());
        self.exec.step(Pass::Train, inputs, &|exec| {
            exec.gather(data, AUGMENT, net.x, net.labels, net.weights);
            net.forward(exec, true);
            exec.softmax_xent(net.logits, net.labels, net.weights, 0.0, net.loss, record);
            net.backward(exec);
            let params = &net.params;
            exec.sgd(params.values, params.grads, params.momentum, SGD, None);
        })?;
        if self.export == Export::Copy {
            self.exec.read(self.net.loss.loss)?;
        }
        self.step += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), DeviceError> {
        if let Some(drain) = &mut self.drain {
            while drain.in_flight() > 0 {
                wait_for_records(&mut self.exec, drain)?;
            }
        }
        self.exec.read(self.net.loss.loss).map(drop)
    }

    /// Microseconds a step, with as many under way as its way of export allows.
    fn time(&mut self, steps: u64) -> Result<f64, DeviceError> {
        let start = Instant::now();
        for _ in 0..steps {
            self.step()?;
        }
        self.finish()?;
        Ok(start.elapsed().as_secs_f64() * 1e6 / steps as f64)
    }

    /// Microseconds from the launch of a step on an idle device until all its records are seen, and
    /// until the step is complete.
    fn arrival(&mut self) -> Result<[f64; 2], DeviceError> {
        let start = Instant::now();
        self.step()?;
        let micros = || start.elapsed().as_secs_f64() * 1e6;
        let drain = self.drain.as_mut().expect("records are on");
        while drain.in_flight() > 0 {
            // What is timed is the look at the memory; the device is asked in between, now and then.
            if (0..LOOKS).all(|_| drain.poll().is_none()) {
                self.exec.overdue(drain.seen(), start.elapsed())?;
            }
        }
        let seen = micros();
        self.finish()?;
        Ok([seen, micros()])
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tiny() -> Dataset {
    let samples = || Samples {
        pixels: (0..64 * 64 * 3).map(|i| (i % 251) as u8).collect(),
        labels: (0..64).map(|i| i % 2).collect(),
    };
    let classes = vec!["a".into(), "b".into()];
    Dataset::new("tiny", classes, [8, 8, 3], samples(), samples(), true).expect("good data")
}

fn main() -> ExitCode {
    ends::ends("loss_export", run())
}

fn run() -> Result<(), DeviceError> {
    type Open = fn() -> Result<Gpu, DeviceError>;
    let (open, size, data): (Open, _, _) = match Gpu::cuda(0) {
        Ok(_) => {
            let (depth, batch, steps, rounds) = (20, 1024, 100, 15);
            let size = Size {
                depth,
                batch,
                steps,
                rounds,
            };
            (|| Gpu::cuda(0), size, data::synthetic(0))
        }
        Err(e) => {
            let e = e.unless_required()?;
            println!("rehearsal on simt, whose times mean nothing: {e}");
            let (depth, batch, steps, rounds) = (8, 4, 3, 3);
            let size = Size {
                depth,
                batch,
                steps,
                rounds,
            };
            (Gpu::simt, size, tiny())
        }
    };
    let mut trainers = Vec::new();
    for export in [Export::Records, Export::Off, Export::Copy] {
        let mut trainer = Trainer::new(open()?, export, &size, &data)?;
        trainer.time(size.steps)?;
        trainers.push(trainer);
    }
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..size.rounds {
        for (trainer, times) in trainers.iter_mut().zip(&mut times) {
            times.push(trainer.time(size.steps)?);
        }
    }
    let device = trainers[0].exec.describe();
    let (depth, batch) = (size.depth, size.batch);
    println!(
        "{device}: ResNet-{depth}, batch {batch}, median of {} rounds",
        size.rounds
    );
    let times = times.map(median);
    let names = [
        "records stored by the kernel",
        "no export",
        "copy and synchronise",
    ];
    for (name, time) in names.iter().zip(times) {
        println!(
            "{name:<30} {time:>10.1} us a step {:>12.0} images/s {:>+7.2} % of no export",
            batch as f64 / time * 1e6,
            100.0 * (time / times[1] - 1.0),
        );
    }
    let arrivals: Result<Vec<_>, _> = (0..size.rounds * 10)
        .map(|_| trainers[0].arrival())
        .collect();
    let arrivals = arrivals?;
    let of = |i: usize| median(arrivals.iter().map(|a| a[i]).collect());
    println!(
        "from launch on an idle device: records seen after {:.1} us, step complete after {:.1} us",
        of(0),
        of(1)
    );
    let json = serde_json::json!({
        "device": device, "depth": depth, "batch": batch,
        "us_per_step": { "records": times[0], "off": times[1], "copy": times[2] },
        "us_to_records": of(0), "us_to_complete": of(1),
    });
    println!("{json}");
    Ok(())
}
