//! Matrix products on the SIMT executor against sums in f64.

use super::*;
use crate::backend::Executor;
use crate::backend::gpu::models::RTX_4090;
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

const SCHEDULES: [Schedule; 3] = [Schedule::Low, Schedule::High, Schedule::Random(7)];
const LANDINGS: [Landing; 3] = [Landing::Late, Landing::AtOnce, Landing::Randomly];
const LAST: u32 = STEPS[STEPS.len() - 1].number;

/// What f32 sums may lose of the sum of all magnitudes.
const SUM: f64 = 3e-6;
/// Half of the distance between neighbours in bf16, and a little.
const BF16: f64 = 1.01 / 256.0;

struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Stream::new(seed, 0, 0);
    let number = |_| bf16::from_f32(2.0 * random.f32() - 0.8).to_f32();
    (0..len).map(number).collect()
}

impl Case {
    fn new(m: usize, n: usize, k: usize) -> Case {
        let [a, b] = [(m * k, 1), (n * k, 2)].map(|(len, seed)| numbers(len, seed));
        Case { m, n, k, a, b }
    }

    fn gpu(&self, step: u32, schedule: Schedule, landing: Landing) -> (Gpu, [Tensor; 3]) {
        self.on(Gpu::simt_scheduled(schedule, landing), step)
    }

    fn on(&self, mut gpu: Gpu, step: u32) -> (Gpu, [Tensor; 3]) {
        gpu.limit(Ladder::Gemm, step);
        let dims = [[self.m, self.k], [self.n, self.k], [self.m, self.n]];
        // Rows in more than one dimension, where they can be halved.
        let split = |rows: usize| {
            if rows.is_multiple_of(2) {
                [2, rows / 2]
            } else {
                [1, rows]
            }
        };
        let tensors = dims.map(|[rows, columns]| {
            let [outer, inner] = split(rows);
            gpu.alloc(Kind::Activation, [outer, 1, inner, columns])
        });
        gpu.write(tensors[0], &self.a).expect("writes");
        gpu.write(tensors[1], &self.b).expect("writes");
        // What is not computed stays wrong.
        gpu.write(tensors[2], &vec![f32::NAN; self.m * self.n])
            .expect("writes");
        (gpu, tensors)
    }

    fn run(&self, step: u32, schedule: Schedule, landing: Landing) -> Vec<f32> {
        let (mut gpu, [a, b, c]) = self.gpu(step, schedule, landing);
        gpu.gemm(a, b, c);
        gpu.read(c).expect("the kernel runs")
    }

    /// Every element is as near as its rounding and its sum allow, and the worst error is at most
    /// twice that of the exact product rounded to bf16.
    fn check(&self, c: &[f32], what: &str) {
        let Case { m, n, k, .. } = *self;
        let (mut worst, mut naive) = (0.0_f64, 0.0_f64);
        for (i, &value) in c.iter().enumerate() {
            let (x, y) = (&self.a[i / n * k..][..k], &self.b[i % n * k..][..k]);
            let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
            let (sum, size) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
            let error = (f64::from(value) - sum).abs();
            assert!(
                error <= BF16 * sum.abs() + SUM * size,
                "{what}: {value} for {sum} at {i} of {m} x {n} x {k}"
            );
            worst = worst.max(error);
            naive = naive.max((f64::from(bf16::from_f64(sum).to_f32()) - sum).abs());
        }
        let most = 2.0 * naive + 1e-6 * k as f64;
        assert!(worst <= most, "{what}: an error of {worst}, naive {naive}");
    }
}

/// The launch that a product takes.
fn step_of(gpu: &Gpu, [a, b, c]: [Tensor; 3]) -> &'static str {
    choose(gpu, &Product::new(gpu, a, b, c)).kernel
}

#[test]
fn every_step_is_right_under_all_schedules_and_landings() {
    let cases = [
        Case::new(130, 72, 40),
        Case::new(5, 131, 272),
        Case::new(1, 1, 1),
    ];
    for case in &cases {
        for step in 1..=LAST {
            let first = case.run(step, Schedule::Low, Landing::Late);
            case.check(&first, &format!("step {step}"));
            for schedule in SCHEDULES {
                for landing in LANDINGS {
                    let what = format!("step {step}, {schedule:?}, {landing:?}");
                    assert_eq!(case.run(step, schedule, landing), first, "{what}");
                }
            }
        }
    }
}

#[test]
fn many_tiles_in_bands() {
    // Two bands, of which the second is lower, with tails on both sides.
    let case = Case::new(9 * 128 + 3, 2 * 128 + 5, 8);
    for step in 4..=LAST {
        let c = case.run(step, Schedule::Random(1), Landing::Randomly);
        case.check(&c, &format!("step {step}"));
    }
}

#[test]
fn a_product_takes_the_highest_step_that_suits_it() {
    let chosen = |k, step| {
        let (mut gpu, [a, b, c]) = Case::new(4, 4, k).gpu(step, Schedule::Low, Landing::Late);
        gpu.read(c).expect("memory is claimed");
        step_of(&gpu, [a, b, c])
    };
    // Others are for other shapes and devices.
    let others = ["gemm_hopper_256", "gemm_pipeline_x3"];
    for step in STEPS.iter().filter(|step| !others.contains(&step.kernel)) {
        assert_eq!(chosen(16, step.number), step.kernel);
    }
    assert_eq!(chosen(15, LAST), "gemm_registers", "rows are not aligned");
    assert_eq!(chosen(16, 0), "gemm_naive", "there is always a step");
    // Rows of 16 bytes that start in the middle.
    let (mut gpu, [a, b, c]) = Case::new(4, 4, 8).gpu(LAST, Schedule::Low, Landing::Late);
    gpu.read(c).expect("memory is claimed");
    let a = Tensor {
        offset: 4,
        dims: [1, 1, 3, 8],
        ..a
    };
    let c = Tensor {
        dims: [1, 1, 3, 4],
        ..c
    };
    assert_eq!(step_of(&gpu, [a, b, c]), "gemm_registers");
}

#[test]
fn tiles_are_as_wide_as_the_device_wants_them() {
    let device = Gpu::simt_scheduled(Schedule::Low, Landing::Late);
    assert_eq!(device.stream.capability().multiprocessors, 2);
    // Two wide tiles keep both multiprocessors busy, one leaves one idle, and a narrow matrix has
    // nothing to fill them with.
    for (m, n, kernel) in [
        (256, 256, "gemm_hopper_256"),
        (128, 256, "gemm_hopper_128"),
        (4096, 128, "gemm_hopper_128"),
        (4096, 136, "gemm_hopper_256"),
    ] {
        let (mut gpu, [a, b, c]) = Case::new(m, n, 8).gpu(LAST, Schedule::Low, Landing::Late);
        gpu.gemm(a, b, c);
        gpu.read(c).expect("the kernel runs");
        assert_eq!(step_of(&gpu, [a, b, c]), kernel, "{m} x {n}");
    }
}

#[test]
fn with_little_shared_memory_there_are_fewer_stages_and_the_same_bits() {
    let case = Case::new(200, 136, 7 * 32 + 8);
    let little = Gpu::simt_posing(Schedule::Random(3), Landing::Randomly, RTX_4090);
    let (mut gpu, [a, b, c]) = case.on(little, LAST);
    gpu.gemm(a, b, c);
    let values = gpu.read(c).expect("the kernel runs");
    assert_eq!(step_of(&gpu, [a, b, c]), "gemm_pipeline_x3");
    assert_eq!(values, case.run(6, Schedule::Low, Landing::Late));
}

#[test]
fn blocks_that_stay_take_tile_after_tile() {
    // More tiles than multiprocessors, and more slices than stages.
    let case = Case::new(3 * 128 + 1, 3 * 256, 7 * 64 + 8);
    for schedule in SCHEDULES {
        for landing in LANDINGS {
            let c = case.run(LAST, schedule, landing);
            case.check(&c, &format!("{schedule:?}, {landing:?}"));
        }
    }
}

#[test]
fn extreme_numbers_pass_through() {
    let mut case = Case::new(3, 3, 24);
    case.a[..24].fill(f32::INFINITY);
    case.a[24] = f32::NAN;
    case.b.fill(1.0);
    for step in 1..=LAST {
        let c = case.run(step, Schedule::Low, Landing::Late);
        assert!(c[..3].iter().all(|v| *v == f32::INFINITY), "step {step}");
        assert!(c[3..6].iter().all(|v| v.is_nan()), "step {step}");
        assert!(c[6..].iter().all(|v| v.is_finite()), "step {step}");
    }
}

#[test]
#[should_panic(expected = "second factor and product")]
fn shapes_that_do_not_fit_are_refused() {
    let (mut gpu, [a, _, c]) = Case::new(4, 5, 6).gpu(1, Schedule::Low, Landing::Late);
    gpu.gemm(a, c, c);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_is_right(
        m in 1_usize..300,
        n in 1_usize..300,
        k in prop_oneof![1_usize..100, (1_usize..40).prop_map(|k| 8 * k)],
        step in 1..=LAST,
        seed in 0_u64..1000,
    ) {
        let case = Case::new(m, n, k);
        let c = case.run(step, Schedule::Random(seed), Landing::Randomly);
        case.check(&c, &format!("step {step}"));
    }
}
