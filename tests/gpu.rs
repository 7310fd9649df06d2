//! Whole training steps on the executors that run kernels: against the CPU, without a
//! synchronisation, with faults, under different schedules, and every kernel at least once.
//!
//! Has its own `main`, because people are to see which kernels ran and which tests were skipped for
//! lack of a device. `REQUIRE_CUDA=1` turns a skip of `cuda` into a failure.

#[path = "common/rounded.rs"]
mod rounded;

use autoassist::assist::{Drain, StepRecords};
use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::gpu::Gpu;
use autoassist::backend::{Augment, DataId, DeviceError, Executor, Pass, Sgd, StepInputs};
use autoassist::data::{Dataset, Samples};
use autoassist::nn::{Architecture, InputShape, ResNet};
use autoassist::rng;
use rounded::Rounded;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const BATCH: usize = 6;
const CLASSES: usize = 4;
const IMAGES: u32 = 24;
const SGD: Sgd = Sgd {
    momentum: 0.9,
    nesterov: true,
    weight_decay: 5e-4,
};

/// Odd sizes, so that tiles have tails. Labels reach `classes`.
fn data(classes: usize) -> Dataset {
    let samples = |seed: u64, n: usize| {
        let mut random = rng::Stream::new(seed, 0, 0);
        Samples {
            pixels: (0..n * 9 * 7 * 3).map(|_| random.bits() as u8).collect(),
            labels: (0..n).map(|i| (i % classes) as u32).collect(),
        }
    };
    let names = (0..classes).map(|c| c.to_string()).collect();
    let (train, test) = (samples(1, IMAGES as usize), samples(2, 9));
    Dataset::new("noise", names, [9, 7, 3], train, test, true).expect("good data")
}

/// A network with its data on an executor.
struct Setup<'a> {
    exec: &'a mut dyn Executor,
    net: ResNet,
    train: DataId,
    test: DataId,
    drain: Drain,
}

impl<'a> Setup<'a> {
    fn new(exec: &'a mut dyn Executor, arch: &Architecture, data: &Dataset, first: u64) -> Self {
        let input = InputShape {
            batch: BATCH,
            height: 9,
            width: 7,
            channels: 3,
        };
        let net = ResNet::new(exec, arch, input, CLASSES);
        let train = exec.attach_images(data.train.clone());
        let test = exec.attach_images(data.test.clone());
        let ring = exec.create_ring(4, BATCH).expect("memory for a ring");
        net.params
            .initialise(exec, 3)
            .expect("memory for a network");
        Setup {
            drain: Drain::new(ring, first),
            exec,
            net,
            train,
            test,
        }
    }

    /// Launches a step, whose credit must be there.
    fn launch(&mut self, step: u64) -> Result<(), DeviceError> {
        let rows = if step % 5 == 3 { BATCH - 1 } else { BATCH };
        let ids = (0..rows as u32).map(|i| (i * 5 + step as u32) % IMAGES);
        let inputs = StepInputs {
            step,
            ids: ids.collect(),
            weights: (0..rows).map(|i| 0.5 + i as f32 / 5.0).collect(),
            lr: 0.02,
            seed: 9,
        };
        let augment = Augment {
            crop: 2,
            flip: true,
        };
        self.drain.launching(step, rows);
        let (net, train) = (&self.net, self.train);
        self.exec.step(Pass::Train, inputs, &|exec| {
            net.train_step(exec, train, augment, 0.1, SGD);
        })
    }

    /// Waits for the oldest step's records.
    fn records(&mut self) -> Result<StepRecords, DeviceError> {
        loop {
            if let Some(records) = self.drain.poll() {
                return Ok(records);
            }
            self.exec.check()?;
            std::thread::yield_now();
        }
    }

    /// Losses of some steps, one at a time.
    fn losses(&mut self, steps: std::ops::Range<u64>) -> Vec<f32> {
        let mut losses = Vec::new();
        for step in steps {
            self.launch(step).expect("the device works");
            let records = self.records().expect("the device works");
            assert_eq!(records.step, step);
            losses.extend(records.losses);
        }
        losses
    }

    fn evaluate(&mut self, ids: std::ops::Range<u32>) -> Vec<f32> {
        let rows = ids.len();
        let inputs = StepInputs {
            ids: ids.collect(),
            ..StepInputs::default()
        };
        let (net, test) = (&self.net, self.test);
        let step = self
            .exec
            .step(Pass::Eval, inputs, &|exec| net.eval_step(exec, test));
        step.expect("the device works");
        let losses = self.exec.read(net.loss.loss).expect("the device works");
        assert!(losses[rows..].iter().all(|l| *l == 0.0));
        losses[..rows].to_vec()
    }

    fn values(&mut self) -> Vec<f32> {
        let values = self.exec.read(self.net.params.values);
        values.expect("the device works")
    }
}

fn depth(depth: u32) -> Architecture {
    Architecture::of_depth(depth).expect("a known depth")
}

/// Vector loads need multiples of 8 channels; this network has none.
fn odd() -> Architecture {
    Architecture {
        blocks: vec![1, 1],
        widths: vec![5, 11],
        bottleneck: false,
    }
}

/// Root mean square of a difference over that of the second.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let gap: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let distance = (gap / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt();
    assert!(distance.is_finite());
    distance
}

/// Losses and gradients stay as near to the CPU's f32 as a naive computation in bf16 does.
fn trains_like_the_cpu(gpu: &mut Gpu) {
    let data = data(CLASSES);
    for (arch, deep) in [(depth(8), false), (odd(), false), (depth(50), true)] {
        let run = |exec: &mut dyn Executor| {
            let mut setup = Setup::new(exec, &arch, &data, 0);
            let first = setup.losses(0..1);
            let grads = setup.exec.read(setup.net.params.grads).expect("gradients");
            // Fifty layers over six small images are chaos after a step or two.
            if deep {
                return vec![first, grads];
            }
            let losses = setup.losses(1..4);
            let eval = [setup.evaluate(0..6), setup.evaluate(6..9)].concat();
            vec![first, grads, losses, eval]
        };
        let exact = run(&mut Cpu::with_isa(Isa::PORTABLE));
        let naive = run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE)));
        let ours = run(gpu);
        let parts = ["first losses", "gradients", "losses", "evaluation"];
        for (i, part) in parts.iter().enumerate().take(exact.len()) {
            let (error, allowed) = (
                distance(&ours[i], &exact[i]),
                distance(&naive[i], &exact[i]),
            );
            assert!(
                error <= 2.0 * allowed + 0.01,
                "{part} of {arch:?}: error {error:.1e}, naively {allowed:.1e}"
            );
        }
    }
}

/// Fifty steps with as many under way as the ring has credits for.
fn a_steady_state_has_no_synchronisation(gpu: &mut Gpu) {
    let data = data(CLASSES);
    let mut setup = Setup::new(gpu, &depth(8), &data, 0);
    setup.losses(0..2);
    let before = setup.exec.host_syncs();
    let mut seen = Vec::new();
    for step in 2..52 {
        while !setup.drain.may_launch(step) {
            seen.push(setup.records().expect("the device works").step);
        }
        setup.launch(step).expect("the device works");
    }
    while setup.drain.in_flight() > 0 {
        seen.push(setup.records().expect("the device works").step);
    }
    assert_eq!(setup.exec.host_syncs() - before, 0);
    assert!(seen.into_iter().eq(2..52));
    let before = setup.exec.host_syncs();
    setup.values();
    assert_eq!(setup.exec.host_syncs() - before, 1, "a read is counted");
}

/// What is in flight changes nothing, and neither does what was evaluated between.
fn equal_runs_give_equal_bits(gpu: &mut Gpu) {
    let data = data(CLASSES);
    let one_by_one = {
        let mut setup = Setup::new(gpu, &depth(8), &data, 0);
        (setup.losses(0..8), setup.values())
    };
    let mut setup = Setup::new(gpu, &depth(8), &data, 0);
    let mut losses = Vec::new();
    for step in 0..8 {
        while !setup.drain.may_launch(step) {
            losses.extend(setup.records().expect("the device works").losses);
        }
        setup.launch(step).expect("the device works");
        if step == 4 {
            setup.evaluate(0..5);
        }
    }
    while setup.drain.in_flight() > 0 {
        losses.extend(setup.records().expect("the device works").losses);
    }
    assert!(one_by_one == (losses, setup.values()));
}

/// A run that goes on at a later step, as a resumed one does, sees the same augmentation.
fn a_run_may_start_at_any_step(gpu: &mut Gpu) {
    let data = data(CLASSES);
    let start = (1_u64 << 31) - 3;
    let ours = Setup::new(gpu, &odd(), &data, start).losses(start..start + 6);
    let mut cpu = Cpu::with_isa(Isa::PORTABLE);
    let exact = Setup::new(&mut cpu, &odd(), &data, start).losses(start..start + 6);
    assert!(distance(&ours, &exact) < 0.1, "{ours:?} {exact:?}");
}

/// A label that is no class stops the loss kernel, which then stores no records.
fn a_fault_is_reported_within_seconds(gpu: &mut Gpu) {
    let data = data(CLASSES + 1);
    let began = Instant::now();
    // The first step whose batch has such a label.
    let mut setup = Setup::new(gpu, &odd(), &data, 4);
    let error = match setup.launch(4) {
        Ok(()) => setup.records().expect_err("no records come"),
        Err(e) => e,
    };
    assert!(matches!(error, DeviceError::Fault(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30));
    // It is not forgotten.
    assert!(setup.exec.read(setup.net.params.values).is_err());
    assert!(setup.launch(5).is_err());
    println!("     ({error})");
}

type Test = (&'static str, fn(&mut Gpu));

const TESTS: [Test; 4] = [
    ("trains_like_the_cpu", trains_like_the_cpu),
    (
        "a_steady_state_has_no_synchronisation",
        a_steady_state_has_no_synchronisation,
    ),
    ("equal_runs_give_equal_bits", equal_runs_give_equal_bits),
    ("a_run_may_start_at_any_step", a_run_may_start_at_any_step),
];

/// A fault ends the use of a GPU by its process, so this comes last.
const LAST: Test = (
    "a_fault_is_reported_within_seconds",
    a_fault_is_reported_within_seconds,
);

/// Executors by name, where they can be opened.
type Device = (String, fn() -> Result<Gpu, DeviceError>);

fn devices() -> Vec<Device> {
    #[cfg(simt)]
    let others: [Device; 2] = {
        use autoassist::backend::gpu::simt::Schedule;
        [
            ("simt/high".into(), || {
                Ok(Gpu::simt_scheduled(Schedule::High))
            }),
            ("simt/random".into(), || {
                Ok(Gpu::simt_scheduled(Schedule::Random(7)))
            }),
        ]
    };
    #[cfg(not(simt))]
    let others: [Device; 0] = [];
    let mut all: Vec<Device> = vec![("simt".into(), Gpu::simt)];
    all.extend(others);
    all.push(("cuda".into(), || Gpu::cuda(0)));
    all
}

/// Every kernel of the build has run by now.
fn every_kernel_has_run() -> bool {
    #[cfg(simt)]
    {
        use autoassist::backend::gpu::simt::launches;
        let all = launches();
        let all = all
            .iter()
            .filter(|(name, _)| !name.starts_with("selftest_"));
        let (ran, idle): (Vec<_>, Vec<_>) = all.partition(|(_, launches)| *launches > 0);
        println!(
            "simt: {} of {} kernels ran",
            ran.len(),
            ran.len() + idle.len()
        );
        for (name, _) in &idle {
            println!("FAILED kernel {name} was never launched");
        }
        idle.is_empty()
    }
    #[cfg(not(simt))]
    true
}

fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        println!("gpu: test");
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (device, open) in devices() {
        for (name, test) in TESTS.into_iter().chain([LAST]) {
            match open() {
                Err(e) => {
                    println!("test {device}::{name} ... skipped: {e}");
                    skipped += 1;
                }
                Ok(mut gpu) => match catch_unwind(AssertUnwindSafe(|| test(&mut gpu))) {
                    Ok(()) => {
                        println!("test {device}::{name} ... ok");
                        passed += 1;
                    }
                    Err(_) => {
                        println!("test {device}::{name} ... FAILED");
                        failed += 1;
                    }
                },
            }
        }
    }
    failed += usize::from(!every_kernel_has_run());
    if skipped > 0 && std::env::var_os("REQUIRE_CUDA").is_some_and(|v| v == "1") {
        println!("FAILED REQUIRE_CUDA=1, but tests were skipped");
        failed += 1;
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {skipped} skipped",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
