//! Linear layers on the SIMT executor against the same in f64, and against the `cpu` executor.

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::gpu::driver::Capability;
use crate::backend::gpu::models::RTX_4090;
use crate::backend::sequence::Sequence;
use crate::backend::{Executor, Pass};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

const SCHEDULES: [Schedule; 3] = [Schedule::Low, Schedule::High, Schedule::Random(7)];
const LANDINGS: [Landing; 3] = [Landing::Late, Landing::AtOnce, Landing::Randomly];
const ACTS: [Act; 4] = [Act::None, Act::Relu, Act::GeluErf, Act::GeluTanh];
const LAST: u32 = 4;

/// By way of f32: `bf16::from_f64` drops bits before it rounds.
fn round(v: f64) -> f64 {
    bf16::from_f32(v as f32).to_f64()
}

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    (0..len).map(|_| 2.0 * random.f32() - 0.8).collect()
}

fn rounded(len: usize, seed: u64) -> Vec<f32> {
    let values = random(len, seed).into_iter();
    values.map(|v| bf16::from_f32(v).to_f32()).collect()
}

/// A layer, and what there is before it is run.
#[derive(Clone)]
struct Case {
    shape: [usize; 3],
    act: Act,
    bias: bool,
    pre: bool,
    /// Add to `dw`, `db` and `dx`.
    accumulate: bool,
    /// Back through the activation of the input; not with `accumulate`.
    through: bool,
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dz: Vec<f32>,
    before: f32,
}

/// y, pre, dx, dw, db; empty where there is none.
type Results = [Vec<f32>; 5];

const NAMES: [&str; 5] = ["y", "pre", "dx", "dw", "db"];

impl Case {
    fn new(shape: [usize; 3], act: Act) -> Case {
        let [rows, inputs, outputs] = shape;
        Case {
            shape,
            act,
            bias: true,
            pre: true,
            accumulate: false,
            through: true,
            x: rounded(rows * inputs, 1),
            w: random(outputs * inputs, 2),
            b: random(outputs, 3),
            dz: rounded(rows * outputs, 4),
            before: f32::NAN,
        }
    }

    /// Without anything that may be left out, gradients on top of ones.
    fn bare(shape: [usize; 3]) -> Case {
        Case {
            bias: false,
            pre: false,
            accumulate: true,
            through: false,
            before: 1.0,
            ..Case::new(shape, Act::None)
        }
    }

    fn run(&self, exec: &mut dyn Sequence) -> Results {
        let [rows, inputs, outputs] = self.shape;
        let mut tensor = |kind, dims, values: &[f32]| {
            let t = exec.alloc(kind, dims);
            exec.write(t, values).expect("writes");
            t
        };
        let (bf16, float) = (Kind::Activation, Kind::Float);
        let x = tensor(bf16, [1, 1, rows, inputs], &self.x);
        let w = tensor(float, [1, 1, outputs, inputs], &self.w);
        let b = tensor(float, [1, 1, 1, outputs], &self.b);
        let dz = tensor(bf16, [1, 1, rows, outputs], &self.dz);
        let mut like = |kind, t: Tensor| tensor(kind, t.dims, &vec![self.before; t.len()]);
        let [pre, y, dx] = [dz, dz, x].map(|t| like(bf16, t));
        let [dw, db] = [w, b].map(|t| like(float, t));

        let layer = Linear {
            w,
            b: self.bias.then_some(b),
        };
        let pre = self.pre.then_some(pre);
        let grad = LinearGrad {
            dw,
            db: self.bias.then_some(db),
            accumulate: self.accumulate,
        };
        let input = LinearInputGrad {
            dx,
            through: self.through.then_some((self.act, x)),
            accumulate: self.accumulate,
        };
        exec.linear(x, layer, self.act, pre, y);
        exec.linear_backward(x, w, dz, grad, Some(input));
        let mut read = |t: Option<Tensor>| t.map_or(vec![], |t| exec.read(t).expect("reads"));
        [Some(y), pre, Some(dx), Some(dw), grad.db].map(&mut read)
    }

    fn simt(&self, step: u32, schedule: Schedule, landing: Landing) -> Results {
        let mut gpu = Gpu::simt_scheduled(schedule, landing);
        gpu.limit(Ladder::Linear, step);
        self.run(&mut gpu)
    }

    /// In f64, with weights rounded or not; and of each result what its sum adds up.
    fn exact(&self, round_weights: bool) -> [(Vec<f64>, Vec<f64>); 5] {
        let [rows, inputs, outputs] = self.shape;
        let at = |v: &[f32], i: usize| f64::from(v[i]);
        let w = |i: usize| match round_weights {
            true => round(at(&self.w, i)),
            false => at(&self.w, i),
        };
        let before = if self.accumulate { self.before } else { 0.0 };
        // Sum and sum of magnitudes of `first` and the products.
        let sum = |first: f64, products: &mut dyn Iterator<Item = f64>| {
            products.fold((first, first.abs()), |(s, t), p| (s + p, t + p.abs()))
        };
        let pre = (0..rows * outputs).map(|i| {
            let (r, o) = (i / outputs, i % outputs);
            let bias = if self.bias { at(&self.b, o) } else { 0.0 };
            sum(
                bias,
                &mut (0..inputs).map(|c| at(&self.x, r * inputs + c) * w(o * inputs + c)),
            )
        });
        let pre: (Vec<f64>, Vec<f64>) = pre.unzip();
        let y = (
            pre.0.iter().map(|x| apply(self.act, *x)).collect(),
            pre.1.clone(),
        );
        let dx = (0..rows * inputs).map(|i| {
            let (r, c) = (i / inputs, i % inputs);
            let mut products =
                (0..outputs).map(|o| at(&self.dz, r * outputs + o) * w(o * inputs + c));
            let (s, t) = sum(f64::from(before), &mut products);
            let slope = match self.through {
                true => slope(self.act, at(&self.x, i)),
                false => 1.0,
            };
            (s * slope, t * slope.abs())
        });
        let column = |o: usize, x: &dyn Fn(usize) -> f64| {
            let mut products = (0..rows).map(|r| at(&self.dz, r * outputs + o) * x(r));
            sum(f64::from(before), &mut products)
        };
        let dw = (0..outputs * inputs).map(|i| {
            let (o, c) = (i / inputs, i % inputs);
            column(o, &|r| at(&self.x, r * inputs + c))
        });
        let db = (0..outputs).map(|o| column(o, &|_| 1.0));
        let (dw, db): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) = (dw.unzip(), db.unzip());
        let nothing = || (vec![], vec![]);
        [
            y,
            if self.pre { pre } else { nothing() },
            dx.unzip(),
            dw,
            if self.bias { db } else { nothing() },
        ]
    }

    /// The worst error is at most twice that of the exact result of bf16 factors, rounded; and no
    /// element is further from that than its own rounding and its sum allow.
    fn check(&self, results: &Results, what: &str) {
        let (exact, naive) = (self.exact(false), self.exact(true));
        for (i, name) in NAMES.iter().enumerate() {
            let in_bf16 = i < 3;
            let (exact, (naive, sizes)) = (&exact[i].0, &naive[i]);
            assert_eq!(results[i].len(), exact.len(), "{what}: {name}");
            let (mut worst, mut worst_naive, mut most) = (0.0_f64, 0.0_f64, 0.0_f64);
            for (j, &value) in results[i].iter().enumerate() {
                let value = f64::from(value);
                let stored = if in_bf16 { round(naive[j]) } else { naive[j] };
                worst = worst.max((value - exact[j]).abs());
                worst_naive = worst_naive.max((stored - exact[j]).abs());
                most = most.max(sizes[j]);
                // Step 1 has the weights as they are: as far from `naive` as that is from `exact`.
                let rounding = if in_bf16 {
                    naive[j].abs() * 1.02 / 256.0
                } else {
                    0.0
                };
                let allowed =
                    1.1 * (naive[j] - exact[j]).abs() + rounding + 4e-6 * (1.0 + sizes[j]);
                assert!(
                    (value - naive[j]).abs() <= allowed,
                    "{what}: {value} for {} as {name} {j} of {:?}",
                    naive[j],
                    self.shape
                );
            }
            let allowed = 2.0 * worst_naive + 2e-6 * (1.0 + most);
            assert!(
                worst <= allowed,
                "{what}: {name} is off by {worst}, naive by {worst_naive}"
            );
        }
    }
}

fn normal(x: f64) -> f64 {
    // Simpson's rule.
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (n, h) = (400, x / 400.0);
    let term = |i: i32| match i {
        0 => density(0.0),
        _ if i == n => density(x),
        _ => density(f64::from(i) * h) * f64::from(2 + 2 * (i % 2)),
    };
    0.5 + (0..=n).map(term).sum::<f64>() * h / 3.0
}

fn apply(act: Act, x: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    match act {
        Act::None => x,
        Act::Relu => x.max(0.0),
        Act::GeluErf => x * normal(x),
        Act::GeluTanh => 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()),
    }
}

fn slope(act: Act, x: f64) -> f64 {
    let h = 1e-5;
    match act {
        Act::Relu => f64::from(u8::from(x > 0.0)),
        _ => (apply(act, x + h) - apply(act, x - h)) / (2.0 * h),
    }
}

#[test]
fn every_step_is_right_under_all_schedules_and_landings() {
    let mut cases = vec![
        Case::bare([3, 40, 24]),
        Case::bare([9, 5, 3]),
        // Parts of the rows, tiles of 128, tails.
        Case::new([300, 72, 136], Act::GeluTanh),
        // Tiles of 256.
        Case::new([130, 136, 200], Act::GeluErf),
        // Blocks with several tiles, of which some are the first column's.
        Case::new([130, 264, 200], Act::Relu),
        // A weight gradient in two parts.
        Case::new([300, 72, 40], Act::Relu),
    ];
    cases.extend(ACTS.map(|act| Case::new([70, 16, 40], act)));
    for case in &cases {
        for step in 1..=LAST {
            let first = case.simt(step, Schedule::Low, Landing::Late);
            case.check(&first, &format!("step {step}, {:?}", case.act));
            for schedule in SCHEDULES {
                for landing in LANDINGS {
                    let what = format!("step {step}, {schedule:?}, {landing:?}");
                    assert_eq!(case.simt(step, schedule, landing), first, "{what}");
                }
            }
        }
    }
}

#[test]
fn with_little_shared_memory_there_are_fewer_stages_and_the_same_bits() {
    let little = Capability {
        multiprocessors: 2,
        ..RTX_4090
    };
    let case = Case::new([300, 136, 264], Act::GeluTanh);
    let mut gpu = Gpu::simt_posing(Schedule::Random(3), Landing::Randomly, little);
    let four = ["linear_128", "linear_128_x3"];
    assert_eq!(staged(&gpu, four), ("linear_128_x3", 48 << 10));
    assert_eq!(
        case.run(&mut gpu),
        case.simt(2, Schedule::Low, Landing::Late)
    );
    let usual = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    assert_eq!(staged(&usual, four), ("linear_128", 64 << 10));
}

#[test]
fn it_is_what_the_cpu_computes() {
    for act in ACTS {
        let mut case = Case::new([37, 24, 48], act);
        // Then both multiply the same numbers.
        case.w = rounded(case.w.len(), 2);
        let want = case.run(&mut Cpu::new().expect("opens"));
        for step in 1..=LAST {
            let got = case.simt(step, Schedule::Low, Landing::Late);
            for (name, (got, want)) in NAMES.iter().zip(got.iter().zip(&want)) {
                for (got, want) in got.iter().zip(want) {
                    let most = want.abs() * 1.02 / 256.0 + 1e-4;
                    assert!((got - want).abs() <= most, "{act:?} {name}: {got}, {want}");
                }
            }
        }
    }
}

/// Kernels of a forward and a backward pass, in order.
fn kernels(shape: [usize; 3], step: u32, offset: usize) -> Vec<&'static str> {
    let [rows, inputs, outputs] = shape;
    let mut gpu = Gpu::simt().expect("is built");
    gpu.limit(Ladder::Linear, step);
    let flat = gpu.alloc(Kind::Float, [1, 1, 1, outputs * inputs + offset]);
    let w = Tensor {
        offset,
        dims: [1, 1, outputs, inputs],
        ..flat
    };
    let [x, dx] = [(); 2].map(|()| gpu.alloc(Kind::Activation, [1, rows, 1, inputs]));
    let [y, dz] = [(); 2].map(|()| gpu.alloc(Kind::Activation, [1, 1, rows, outputs]));
    let dw = gpu.alloc(Kind::Float, w.dims);
    gpu.claim().expect("memory");
    let launches = gpu.plan(Pass::Train, &|exec| {
        let exec = exec.sequence().expect("has the ops");
        exec.linear(x, Linear { w, b: None }, Act::None, None, y);
        let grad = LinearGrad {
            dw,
            db: None,
            accumulate: false,
        };
        let input = LinearInputGrad {
            dx,
            through: None,
            accumulate: false,
        };
        exec.linear_backward(x, w, dz, grad, Some(input));
    });
    launches.iter().map(|launch| launch.kernel).collect()
}

#[test]
fn each_product_takes_the_highest_step_that_suits_it() {
    const NAIVE: [&str; 3] = ["linear_naive", "linear_naive_dw", "linear_naive_dx"];
    let large = [
        "linear_round",
        "linear_128",
        "linear_dw_128",
        "linear_dx_128",
    ];
    let narrow = [
        "linear_round",
        "linear_hopper_128",
        "linear_dw_hopper_128",
        "linear_dx_hopper_128",
    ];
    let wide = [
        "linear_round",
        "linear_hopper_256",
        "linear_dw_hopper_256",
        "linear_dx_hopper_256",
    ];
    assert_eq!(kernels([300, 16, 16], 2, 0), in_parts(&large));
    let forward = [large[0], narrow[1], large[2], large[3]];
    assert_eq!(kernels([300, 16, 16], 3, 0), in_parts(&forward));
    assert_eq!(kernels([300, 16, 16], LAST, 0), in_parts(&narrow));
    assert_eq!(kernels([100, 1024, 1024], 2, 8), large);
    assert_eq!(kernels([100, 1024, 1024], LAST, 8), wide);
    let small = [
        "linear_round",
        "linear_64",
        "linear_dw_hopper_128",
        "linear_dx_64",
    ];
    assert_eq!(kernels([1, 16, 16], LAST, 0), small);
    assert_eq!(kernels([300, 16, 16], 1, 0), NAIVE);
    assert_eq!(kernels([8, 15, 16], LAST, 0), NAIVE);
    assert_eq!(
        kernels([8, 16, 16], LAST, 4),
        ["linear_naive", "linear_dw_hopper_128", "linear_naive_dx"]
    );
    // Outputs are no obstacle for the forward pass.
    let only = [
        "linear_round",
        "linear_64",
        "linear_naive_dw",
        "linear_naive_dx",
    ];
    assert_eq!(kernels([8, 16, 15], LAST, 0), only);
}

fn in_parts(kernels: &[&'static str]) -> Vec<&'static str> {
    let mut all = kernels.to_vec();
    all.insert(3, "linear_add_parts");
    all
}

#[test]
fn a_nan_is_seen_in_all_that_it_is_part_of() {
    for (inputs, outputs) in [(7, 9), (8, 16)] {
        let mut case = Case::bare([5, inputs, outputs]);
        case.bias = true;
        case.x[2 * inputs + 3] = f32::NAN;
        case.dz[4 * outputs + 8] = f32::NAN;
        for act in ACTS {
            case.act = act;
            for step in 1..=LAST {
                let [y, _, dx, dw, db] = case.simt(step, Schedule::Low, Landing::Late);
                for (i, y) in y.iter().enumerate() {
                    assert_eq!(y.is_nan(), i / outputs == 2, "{act:?}");
                }
                for (i, dx) in dx.iter().enumerate() {
                    assert_eq!(dx.is_nan(), i / inputs == 4);
                }
                for (i, dw) in dw.iter().enumerate() {
                    assert_eq!(dw.is_nan(), i / inputs == 8 || i % inputs == 3);
                }
                for (i, db) in db.iter().enumerate() {
                    assert_eq!(db.is_nan(), i == 8);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "weights of")]
fn shapes_that_do_not_fit_are_refused() {
    let mut case = Case::new([4, 5, 6], Act::None);
    case.shape = [4, 6, 5];
    let mut gpu = Gpu::simt().expect("is built");
    let [x, w] = [[1, 1, 4, 5], [1, 1, 5, 6]];
    let x = gpu.alloc(Kind::Activation, x);
    let w = gpu.alloc(Kind::Float, w);
    gpu.linear(x, Linear { w, b: None }, Act::None, None, x);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_shape_is_right(
        rows in 1_usize..400,
        inputs in prop_oneof![1_usize..40, (1_usize..20).prop_map(|n| 8 * n)],
        outputs in prop_oneof![1_usize..40, (1_usize..20).prop_map(|n| 8 * n)],
        act in 0_usize..4,
        bare in any::<bool>(),
        seed in 0_u64..1000,
    ) {
        let shape = [rows, inputs, outputs];
        let case = if bare { Case::bare(shape) } else { Case::new(shape, ACTS[act]) };
        let results = case.simt(LAST, Schedule::Random(seed), Landing::Randomly);
        case.check(&results, &format!("{:?}", case.act));
    }
}
