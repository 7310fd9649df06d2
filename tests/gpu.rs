//! Whole training steps on the executors that run kernels: against the CPU, without a
//! synchronisation, with faults, under different schedules, and every kernel at least once.
//!
//! Has its own `main`, because people are to see which kernels ran and which tests were skipped for
//! lack of a device. `REQUIRE_CUDA=1` turns a skip of `cuda` into a failure,
//! `AUTOASSIST_TEST_DEVICES=cuda` runs on that alone (`standin`: the same behind a stand-in for
//! libcuda that poses as several GPUs), and `--skip NAME` leaves out what has that in
//! its name.

#[path = "common/limit.rs"]
mod limit;
#[path = "common/rounded.rs"]
mod rounded;
#[path = "common/standin.rs"]
mod standin;
#[path = "common/translators.rs"]
mod translators;
#[path = "common/devices.rs"]
mod wanted;

use autoassist::assist::{Drain, StepRecords};
use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::{
    Augment, BatchNorm, DataId, DeviceError, Executor, Grad, Kind, Load, LossOutputs, Pass, Sgd,
    StepInputs, Window, wait_for_records,
};
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
    images(9, 7, classes)
}

fn images(height: usize, width: usize, classes: usize) -> Dataset {
    let samples = |seed: u64, n: usize| {
        let mut random = rng::Stream::new(seed, 0, 0);
        Samples {
            pixels: (0..n * height * width * 3)
                .map(|_| random.bits() as u8)
                .collect(),
            labels: (0..n).map(|i| (i % classes) as u32).collect(),
        }
    };
    let names = (0..classes).map(|c| c.to_string()).collect();
    let (train, test) = (samples(1, IMAGES as usize), samples(2, 9));
    Dataset::new("noise", names, [height, width, 3], train, test, true).expect("good data")
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
            height: data.train.height,
            width: data.train.width,
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
            ..StepInputs::default()
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
        wait_for_records(self.exec, &mut self.drain)
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

/// A block of each width of ResNet-50, which would take most of this test's time.
fn bottlenecks() -> Architecture {
    Architecture {
        blocks: vec![1, 1, 1, 1],
        ..depth(50)
    }
}

/// More channels on the images than the other networks begin with.
fn wide() -> Architecture {
    Architecture {
        blocks: vec![1],
        widths: vec![32],
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
    let archs = [(depth(8), false), (odd(), false), (bottlenecks(), true)];
    all_train_like_the_cpu(gpu, &archs, &data);
    // Sizes that the upper steps of convolutions are made for.
    all_train_like_the_cpu(gpu, &[(depth(14), false)], &images(32, 32, CLASSES));
    all_train_like_the_cpu(gpu, &[(wide(), false)], &images(8, 8, CLASSES));
}

/// With the lower steps of the kernels' ladders, too.
fn lower_steps_train_like_the_cpu(gpu: &mut Gpu) {
    // The longest ladder that these networks climb.
    for step in 1..Ladder::Conv.last() {
        Ladder::ALL
            .into_iter()
            .for_each(|ladder| gpu.limit(ladder, step));
        all_train_like_the_cpu(gpu, &[(odd(), false)], &data(CLASSES));
        all_train_like_the_cpu(gpu, &[(depth(8), false)], &images(8, 8, CLASSES));
    }
}

/// Architectures, and whether they are too deep for several steps.
fn all_train_like_the_cpu(gpu: &mut Gpu, archs: &[(Architecture, bool)], data: &Dataset) {
    for (arch, deep) in archs {
        let run = |exec: &mut dyn Executor| {
            let mut setup = Setup::new(exec, arch, data, 0);
            let first = setup.losses(0..1);
            let grads = setup.exec.read(setup.net.params.grads).expect("gradients");
            // So many layers over six small images are chaos after a step or two.
            if *deep {
                return vec![first, grads];
            }
            let losses = setup.losses(1..4);
            let eval = [setup.evaluate(0..6), setup.evaluate(6..9)].concat();
            vec![first, grads, losses, eval]
        };
        let exact = run(&mut Cpu::with_isa(Isa::PORTABLE));
        // Two of the ways in which roundings may fall.
        let naive = [
            run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE))),
            run(&mut Rounded::dithered(Cpu::with_isa(Isa::PORTABLE), 1)),
        ];
        let ours = run(gpu);
        let parts = ["first losses", "gradients", "losses", "evaluation"];
        for (i, part) in parts.iter().enumerate().take(exact.len()) {
            let error = distance(&ours[i], &exact[i]);
            let allowed = naive.each_ref().map(|n| distance(&n[i], &exact[i]));
            let allowed = allowed[0].max(allowed[1]);
            assert!(
                error <= 2.0 * allowed + 0.01,
                "{part} of {arch:?}: error {error:.1e}, naively {allowed:.1e}"
            );
        }
    }
}

/// Ops, and sizes of ops, that the networks above have no use for: batch norm without a
/// convolution, more classes than a warp keeps in registers, a batch larger than a block's share.
/// With every step of their ladders.
fn ops_agree_with_the_cpu(gpu: &mut Gpu) {
    for step in 1..=Ladder::BatchNorm.last() {
        gpu.limit(Ladder::BatchNorm, step);
        norms_agree_with_the_cpu(gpu);
    }
    a_large_loss_agrees_with_the_cpu(gpu);
    for step in 1..=Ladder::Gemm.last() {
        gpu.limit(Ladder::Gemm, step);
        products_are_right(gpu);
    }
    for step in 1..=Ladder::Copy.last() {
        gpu.limit(Ladder::Copy, step);
        copies_are_equal(gpu);
    }
}

fn copies_are_equal(gpu: &mut Gpu) {
    for len in [1, 1023, 5001] {
        let [from, to] = [(); 2].map(|()| gpu.alloc(Kind::Float, [1, 1, 1, len]));
        let values: Vec<f32> = (1..=len).map(|i| i as f32).collect();
        gpu.write(from, &values).expect("memory");
        gpu.copy(from, to);
        assert_eq!(gpu.read(to).expect("works"), values, "{len} elements");
    }
}

/// Small whole numbers, so that only the last rounding is left.
fn products_are_right(gpu: &mut Gpu) {
    for (m, n, k) in [(130, 72, 40), (65, 260, 136), (128, 512, 64)] {
        let numbers = |len: usize, seed: usize| -> Vec<f32> {
            let number = |i: usize| ((i * 37 + seed) % 9) as f32 - 4.0;
            (0..len).map(number).collect()
        };
        let (left, right) = (numbers(m * k, 1), numbers(n * k, 5));
        let mut fresh = |values: &[f32], rows, columns| {
            let t = gpu.alloc(Kind::Activation, [1, 1, rows, columns]);
            gpu.write(t, values).expect("memory");
            t
        };
        let (a, b) = (fresh(&left, m, k), fresh(&right, n, k));
        let c = gpu.alloc(Kind::Activation, [1, 1, m, n]);
        gpu.gemm(a, b, c);
        for (i, c) in gpu.read(c).expect("works").into_iter().enumerate() {
            let (row, column) = (&left[i / n * k..][..k], &right[i % n * k..][..k]);
            let exact: f32 = row.iter().zip(column).map(|(a, b)| a * b).sum();
            assert!((c - exact).abs() <= exact.abs() / 256.0, "{m} {n} {k}, {i}");
        }
    }
}

fn norms_agree_with_the_cpu(gpu: &mut Gpu) {
    for channels in [5, 16] {
        let run = |exec: &mut dyn Executor| {
            let dims = [BATCH, 9, 7, channels];
            let mut fresh = |seed: u64, kind: Kind, dims: [usize; 4]| {
                let t = exec.alloc(kind, dims);
                let mut random = rng::Stream::new(seed, 0, 0);
                let values: Vec<f32> = (0..t.len()).map(|_| random.f32() + 0.5).collect();
                exec.write(t, &values).expect("memory");
                t
            };
            let (x, g) = (
                fresh(1, Kind::Activation, dims),
                fresh(2, Kind::Activation, dims),
            );
            let mut vector = |seed| fresh(seed, Kind::Float, [1, 1, 1, channels]);
            let bn = BatchNorm {
                gamma: vector(3),
                beta: vector(4),
                dgamma: vector(5),
                dbeta: vector(6),
                running_mean: vector(7),
                running_var: vector(8),
                mean: vector(9),
                var: vector(10),
                invstd: vector(11),
                scale: vector(12),
                shift: vector(13),
            };
            let w = fresh(14, Kind::Float, [channels, 1, 1, channels]);
            let [dx, y] = [(); 2].map(|()| exec.alloc(Kind::Activation, dims));
            // On its own, not in a step where its batch norm's coefficients follow.
            let window = Window { stride: 1, pad: 0 };
            exec.conv2d(Load::plain(x), w, window, y, Some(bn));
            let of_conv = [bn.mean, bn.var].map(|t| exec.read(t).expect("the device works"));
            exec.moments(x, bn);
            exec.bn_train(bn, BATCH * 9 * 7);
            exec.bn_backward_sums(g, None, x, bn);
            let dy = Grad {
                g,
                norm: Some((bn, x)),
            };
            exec.bn_backward(dy, dx);
            let all = [bn.mean, bn.var, bn.dgamma, bn.dbeta, bn.running_var, dx];
            let all = all.map(|t| exec.read(t).expect("the device works"));
            all.into_iter().chain(of_conv).collect::<Vec<_>>()
        };
        let naive = run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE)));
        for (i, (ours, naive)) in run(gpu).iter().zip(&naive).enumerate() {
            assert!(
                distance(ours, naive) < 0.01,
                "result {i}, {channels} channels"
            );
        }
    }
}

fn a_large_loss_agrees_with_the_cpu(gpu: &mut Gpu) {
    let run = |exec: &mut dyn Executor| {
        let (rows, classes, features) = (700, 1100, 8);
        let mut random = rng::Stream::new(1, 0, 0);
        let mut fresh = |kind: Kind, dims: [usize; 4]| {
            let t = exec.alloc(kind, dims);
            let values: Vec<f32> = (0..t.len()).map(|_| random.f32() - 0.5).collect();
            exec.write(t, &values).expect("memory");
            t
        };
        let x = fresh(Kind::Activation, [rows, 1, 2, features]);
        let w = fresh(Kind::Float, [1, 1, classes, features]);
        let b = fresh(Kind::Float, [1, 1, 1, classes]);
        let weights = fresh(Kind::Float, [1, 1, 1, rows]);
        let pooled = exec.alloc(Kind::Activation, [1, 1, rows, features]);
        let logits = exec.alloc(Kind::Activation, [1, 1, rows, classes]);
        let labels = exec.alloc(Kind::Label, [1, 1, 1, rows]);
        let numbers: Vec<i32> = (0..rows as i32).map(|i| i * 3 % classes as i32).collect();
        exec.write_labels(labels, &numbers).expect("memory");
        let out = LossOutputs {
            dlogits: exec.alloc(Kind::Activation, logits.dims),
            loss: exec.alloc(Kind::Float, weights.dims),
            right: exec.alloc(Kind::Float, weights.dims),
        };
        let dx = exec.alloc(Kind::Activation, x.dims);
        let (dw, db) = (
            exec.alloc(Kind::Float, w.dims),
            exec.alloc(Kind::Float, b.dims),
        );
        exec.gap_linear(x, w, b, pooled, logits);
        exec.softmax_xent(logits, labels, weights, 0.1, out, false);
        exec.gap_linear_backward(pooled, w, out.dlogits, dx, dw, db);
        let all = [logits, out.loss, out.dlogits, dx, dw, db];
        all.map(|t| exec.read(t).expect("the device works"))
    };
    let naive = run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE)));
    for (i, (ours, naive)) in run(gpu).iter().zip(&naive).enumerate() {
        assert!(distance(ours, naive) < 0.02, "result {i} of the head");
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

const TESTS: [Test; 9] = [
    ("trains_like_the_cpu", trains_like_the_cpu),
    (
        "lower_steps_train_like_the_cpu",
        lower_steps_train_like_the_cpu,
    ),
    ("ops_agree_with_the_cpu", ops_agree_with_the_cpu),
    (
        "a_steady_state_has_no_synchronisation",
        a_steady_state_has_no_synchronisation,
    ),
    ("equal_runs_give_equal_bits", equal_runs_give_equal_bits),
    ("a_run_may_start_at_any_step", a_run_may_start_at_any_step),
    (
        "transformers_train_like_the_cpu",
        translators::they_train_like_the_cpu,
    ),
    (
        "ops_of_transformers_agree_with_the_cpu",
        translators::their_ops_agree_with_the_cpu,
    ),
    (
        "transformers_have_graphs_of_each_shape",
        translators::they_have_graphs_of_each_shape,
    ),
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
        use autoassist::backend::gpu::driver::Capability;
        use autoassist::backend::gpu::models::RTX_4090;
        use autoassist::simt::{Landing, Schedule};
        [
            ("simt/high".into(), || {
                Ok(Gpu::simt_scheduled(Schedule::High, Landing::AtOnce))
            }),
            // Some kernels are for GPUs with little shared memory.
            ("simt/little".into(), || {
                let little = Capability {
                    multiprocessors: 2,
                    ..RTX_4090
                };
                let (schedule, landing) = (Schedule::Random(7), Landing::Randomly);
                Ok(Gpu::simt_posing(schedule, landing, little))
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
        use autoassist::simt::launches;
        let all = launches();
        // `share_records` is of several processes: `kernels check` and tests/programs/world.rs run it.
        let all = all
            .iter()
            .filter(|(name, _)| !name.starts_with("selftest_") && *name != "share_records");
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
    limit::steps();
    let wanted = match wanted::wanted() {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("gpu: {why}");
            return ExitCode::from(2);
        }
    };
    let args: Vec<String> = std::env::args().collect();
    let left_out = args.windows(2).filter(|pair| pair[0] == "--skip");
    let left_out: Vec<&String> = left_out.map(|pair| &pair[1]).collect();
    let is_left_out = |name: &str| left_out.iter().any(|part| name.contains(part.as_str()));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut devices = devices();
    devices.retain(|(device, _)| wanted.contains(&device.split('/').next().expect("a name")));
    for (device, open) in devices {
        let tests = || {
            let all = TESTS.into_iter().chain([LAST]);
            all.filter(|(name, _)| !is_left_out(name))
        };
        if let Err(e) = open() {
            println!("{device}: {} tests skipped: {e}", tests().count());
            skipped += tests().count();
            failed += usize::from(device == "cuda" && e.unless_required().is_err());
            continue;
        }
        for (name, test) in tests() {
            // A test that leaves a GPU with a fault, or a kernel that hangs, fails those after it.
            let result = open().map(|mut gpu| catch_unwind(AssertUnwindSafe(|| test(&mut gpu))));
            match result {
                Ok(Ok(())) => {
                    println!("test {device}::{name} ... ok");
                    passed += 1;
                }
                failure => {
                    let why = failure.err().map(|e| format!(": {e}"));
                    println!(
                        "test {device}::{name} ... FAILED{}",
                        why.unwrap_or_default()
                    );
                    failed += 1;
                }
            }
        }
    }
    if wanted.contains(&"simt") && left_out.is_empty() {
        failed += usize::from(!every_kernel_has_run());
    }
    if wanted.contains(&"standin") {
        failed += standin::again();
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
