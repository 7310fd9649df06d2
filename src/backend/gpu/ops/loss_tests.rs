//! The kernels, run by the SIMT executor, against the `cpu` executor.

use super::*;
use crate::assist::Record;
use crate::backend::cpu::Cpu;
use crate::backend::{Executor, Kind, Pass, StepInputs};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;
use proptest::prelude::*;

/// A batch of logits (rounded to bf16), labels and weights.
#[derive(Clone, Debug)]
struct Batch {
    logits: Vec<f32>,
    labels: Vec<i32>,
    weights: Vec<f32>,
    smoothing: f32,
}

impl Batch {
    fn of_row(logits: &[f32], label: i32, smoothing: f32) -> Batch {
        Batch {
            logits: logits.to_vec(),
            labels: vec![label],
            weights: vec![1.0],
            smoothing,
        }
    }

    /// Logits of up to ±`scale`, and rows that are ignored.
    fn random(n: usize, classes: usize, scale: f32, smoothing: f32, seed: u64) -> Batch {
        let mut random = Stream::new(seed, 0, 0);
        let mut logit = || bf16::from_f32(scale * (2.0 * random.f32() - 1.0)).to_f32();
        let logits = (0..n * classes).map(|_| logit()).collect();
        let mut label = || match random.below(5) {
            0 => -100,
            _ => random.below(classes as u64) as i32,
        };
        let labels = (0..n).map(|_| label()).collect();
        Batch {
            logits,
            labels,
            weights: (0..n).map(|_| 2.0 * random.f32()).collect(),
            smoothing,
        }
    }
}

struct Tensors {
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    out: LossOutputs,
}

impl Tensors {
    fn new(exec: &mut dyn Executor, batch: &Batch) -> Tensors {
        let n = batch.labels.len();
        let dims = [1, 1, n, batch.logits.len() / n];
        let mut row = |kind| exec.alloc(kind, [1, 1, 1, n]);
        let (labels, weights) = (row(Kind::Label), row(Kind::Float));
        let (loss, right) = (row(Kind::Float), row(Kind::Float));
        let tensors = Tensors {
            logits: exec.alloc(Kind::Activation, dims),
            labels,
            weights,
            out: LossOutputs {
                dlogits: exec.alloc(Kind::Activation, dims),
                loss,
                right,
            },
        };
        exec.write(tensors.logits, &batch.logits).unwrap();
        exec.write_labels(labels, &batch.labels).unwrap();
        exec.write(weights, &batch.weights).unwrap();
        for left_over in [tensors.out.dlogits, loss, right] {
            exec.write(left_over, &vec![f32::NAN; left_over.len()])
                .unwrap();
        }
        tensors
    }

    fn xent(&self, exec: &mut dyn Executor, smoothing: f32, record: bool) {
        let Tensors {
            logits,
            labels,
            weights,
            out,
        } = *self;
        exec.softmax_xent(logits, labels, weights, smoothing, out, record);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Results {
    loss: Vec<f32>,
    right: Vec<f32>,
    dlogits: Vec<f32>,
}

fn run(exec: &mut dyn Executor, batch: &Batch) -> Results {
    let tensors = Tensors::new(exec, batch);
    tensors.xent(exec, batch.smoothing, false);
    let out = tensors.out;
    let [loss, right, dlogits] = [out.loss, out.right, out.dlogits].map(|t| exec.read(t).unwrap());
    Results {
        loss,
        right,
        dlogits,
    }
}

/// Every step of the ladder.
fn steps() -> std::ops::RangeInclusive<u32> {
    1..=Ladder::SoftmaxXent.last()
}

fn gpu(step: u32, schedule: Schedule) -> Gpu {
    let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
    gpu.limit(Ladder::SoftmaxXent, step);
    gpu
}

fn simt(step: u32, batch: &Batch) -> Results {
    run(&mut gpu(step, Schedule::Low), batch)
}

fn cpu(batch: &Batch) -> Results {
    run(&mut Cpu::new().unwrap(), batch)
}

/// As the CPU's, within f32 sums over the classes and one rounding to bf16.
fn check(got: &Results, want: &Results) -> Result<(), TestCaseError> {
    prop_assert_eq!(&got.right, &want.right);
    for (got, want) in got.loss.iter().zip(&want.loss) {
        let limit = 4e-6 * want.abs().max(0.1);
        prop_assert!((got - want).abs() <= limit, "loss {got} instead of {want}");
    }
    for (got, want) in got.dlogits.iter().zip(&want.dlogits) {
        let limit = want.abs() / 256.0 + 1e-6;
        prop_assert!((got - want).abs() <= limit, "dlogit {got}, not {want}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_cpu_s(
        n in 1_usize..40,
        classes in prop_oneof![2_usize..70, Just(1024), 1025_usize..1200],
        scale in prop::sample::select(vec![0.0, 1.0, 20.0, 1e4]),
        smoothing in prop::sample::select(vec![0.0_f32, 0.1]),
        seed: u64,
    ) {
        let batch = Batch::random(n, classes, scale, smoothing, seed);
        let want = cpu(&batch);
        for step in steps() {
            check(&simt(step, &batch), &want)?;
        }
    }
}

#[test]
fn all_schedules_give_equal_bits_with_more_rows_than_a_block_has_threads() {
    for classes in [10, 100, 1100] {
        let batch = Batch::random(133, classes, 6.0, 0.1, 1);
        for step in steps() {
            let first = simt(step, &batch);
            check(&first, &cpu(&batch)).unwrap();
            for schedule in [Schedule::High, Schedule::Random(7)] {
                let other = run(&mut gpu(step, schedule), &batch);
                assert!(other == first, "step {step}, {schedule:?}");
            }
        }
    }
}

#[test]
fn extreme_and_impossible_logits_are_the_cpu_s() {
    let inf = f32::INFINITY;
    for (logits, label, smoothing) in [
        (&[90.0, -90.0][..], 1, 0.0),
        (&[1e4, -1e4], 0, 0.0),
        (&[-1e4, -1e4], 0, 0.1),
        (&[3e38, -3e38, 0.0], 0, 0.0),
        (&[1.0, -inf, 1.0], 0, 0.0),
        (&[2.0, 2.0, 2.0], 1, 0.0),
        (&[0.0, -0.0], 0, 0.0),
        (&[5.0], 0, 0.1),
    ] {
        let batch = Batch::of_row(logits, label, smoothing);
        for step in steps() {
            check(&simt(step, &batch), &cpu(&batch)).unwrap();
        }
    }
    // A class that cannot be, but is.
    for step in steps() {
        let never = simt(step, &Batch::of_row(&[1.0, -inf], 1, 0.0));
        assert_eq!((never.loss[0], never.right[0]), (inf, 0.0));
    }
}

#[test]
fn impossible_classes_before_between_and_after_the_largest() {
    // In every lane and in some of them; a maximum that rises comes last.
    let inf = f32::INFINITY;
    for classes in [4, 40, 1100] {
        for impossible in
            [&|c: usize| c.is_multiple_of(2), &|c: usize| c < 35] as [&dyn Fn(usize) -> bool; 2]
        {
            let logit = |c| {
                if impossible(c) {
                    -inf
                } else {
                    (c % 128) as f32 / 64.0
                }
            };
            let mut logits: Vec<f32> = (0..classes).map(logit).collect();
            logits[classes - 1] = 20.0;
            let batch = Batch::of_row(&logits, classes as i32 - 1, 0.0);
            for step in steps() {
                check(&simt(step, &batch), &cpu(&batch)).unwrap();
            }
        }
    }
}

#[test]
fn a_small_loss_keeps_its_digits() {
    // ln(1 + e^-20): a sum that starts with 1 would round to 0.
    let want = (-20.0_f64).exp().ln_1p();
    for step in steps() {
        for logits in [[20.0, 0.0], [0.0, 20.0]] {
            let label = i32::from(logits[1] > 0.0);
            let results = simt(step, &Batch::of_row(&logits, label, 0.0));
            assert!((f64::from(results.loss[0]) / want - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn what_is_not_finite_is_never_hidden() {
    // In a lane's first class and in later ones, alone and beside finite logits.
    for classes in [1, 3, 40, 1030] {
        for at in [0, classes / 2, classes - 1] {
            for bad in [f32::NAN, f32::INFINITY] {
                for label in [0, at] {
                    let mut logits = vec![1.0; classes];
                    logits[at] = bad;
                    let batch = Batch::of_row(&logits, label as i32, 0.1);
                    for step in steps() {
                        let results = simt(step, &batch);
                        let case = format!("step {step}: {bad} at {at} of {classes}");
                        assert!(!results.loss[0].is_finite(), "{case}");
                        assert_eq!(results.right[0], 0.0, "{case}");
                        assert!(results.dlogits.iter().all(|d| d.is_nan()), "{case}");
                    }
                }
            }
        }
    }
    for step in steps() {
        for classes in [1, 3, 1030] {
            let all = vec![f32::NEG_INFINITY; classes];
            let all = simt(step, &Batch::of_row(&all, 0, 0.0));
            assert!(all.loss[0].is_nan() && all.right[0] == 0.0);
        }
        // An ignored row hides it by intent.
        let ignored = simt(step, &Batch::of_row(&[f32::NAN, 1.0], -100, 0.0));
        assert_eq!((ignored.loss[0], ignored.dlogits), (0.0, vec![0.0, 0.0]));
    }
}

#[test]
fn records_land_in_the_ring_while_the_step_has_rows() {
    steps().for_each(records_land);
}

fn records_land(ladder_step: u32) {
    let (slots, rows, n) = (4, 6, 5);
    let batch = Batch::random(n, 10, 3.0, 0.0, 2);
    let mut gpu = gpu(ladder_step, Schedule::Low);
    let ring = gpu.create_ring(slots, rows).unwrap();
    let tensors = Tensors::new(&mut gpu, &batch);
    // Over more steps than slots, after the tags have wrapped.
    let first = (1_u64 << 31) + 5;
    for step in first..first + 7 {
        let live = 1 + step as usize % n;
        let inputs = StepInputs {
            step,
            ids: vec![0; live],
            ..StepInputs::default()
        };
        gpu.step(Pass::Train, inputs, &|exec| tensors.xent(exec, 0.0, true))
            .unwrap();
        let [loss, right] = [tensors.out.loss, tensors.out.right].map(|t| gpu.read(t).unwrap());
        for row in 0..rows {
            let record = (row < live).then(|| Record {
                loss: loss[row],
                right: right[row] == 1.0,
            });
            assert_eq!(ring.read(step, row), record, "step {step}, row {row}");
        }
    }
    assert!(
        gpu.read(tensors.out.loss)
            .unwrap()
            .iter()
            .any(|l| *l != 0.0)
    );
}

#[test]
fn a_label_that_is_no_class_is_a_fault() {
    for label in [2, -1, i32::MAX] {
        for step in steps() {
            let mut gpu = gpu(step, Schedule::Low);
            let tensors = Tensors::new(&mut gpu, &Batch::of_row(&[0.0, 0.0], label, 0.0));
            tensors.xent(&mut gpu, 0.0, false);
            let error = gpu.read(tensors.out.loss).unwrap_err().to_string();
            assert!(error.contains("softmax_xent"), "{error}");
        }
    }
}
