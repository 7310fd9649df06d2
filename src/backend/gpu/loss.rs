//! Launch of `kernels/softmax_xent/1_warp_per_row.cu`.

use super::driver::Arg;
use super::{Gpu, RingBuffer};
use crate::backend::{LossOutputs, Tensor};

/// Classes of which a warp holds a row in registers.
const HELD: usize = 1024;

/// See [`Executor::softmax_xent`](crate::backend::Executor::softmax_xent).
pub(super) fn softmax_xent(
    gpu: &mut Gpu,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    smoothing: f32,
    out: LossOutputs,
    record: bool,
) {
    const THREADS: usize = 128;
    const WARPS: usize = THREADS / 32;
    let n = labels.len();
    assert!(n > 0, "a batch has rows");
    let classes = logits.len() / n;
    assert_eq!(
        [logits.len(), out.dlogits.len()],
        [n * classes; 2],
        "logits and their gradient are rows of {classes} classes"
    );
    assert_eq!(
        [weights.len(), out.loss.len(), out.right.len()],
        [n; 3],
        "labels, weights, losses and right bits belong to the same rows"
    );
    let counts = [n, classes];
    assert!(
        counts.iter().all(|v| i32::try_from(*v).is_ok()),
        "the kernel counts in 32 bits"
    );
    let ring = record.then(|| gpu.ring_buffer());
    let ring = ring.map(|ring| ring.expect("a ring is made before losses are recorded"));
    let [ring, ring_slots, ring_rows] = match ring {
        None => [Arg::NULL, Arg::U32(0), Arg::U32(0)],
        Some(RingBuffer {
            address,
            slots,
            rows,
        }) => [Arg::Ptr(address), Arg::U32(slots), Arg::U32(rows)],
    };
    let args = [
        gpu.state(),
        gpu.address(logits),
        gpu.address(labels),
        gpu.address(weights),
        Arg::F32(smoothing),
        Arg::I32(n as i32),
        Arg::I32(classes as i32),
        gpu.address(out.dlogits),
        gpu.address(out.loss),
        gpu.address(out.right),
        ring,
        ring_slots,
        ring_rows,
    ];
    let kernel = if classes <= HELD {
        "softmax_xent"
    } else {
        "softmax_xent_wide"
    };
    let blocks = n.div_ceil(WARPS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::assist::Record;
    use crate::backend::cpu::Cpu;
    use crate::backend::gpu::simt::{Landing, Schedule};
    use crate::backend::{Executor, Kind, Pass, StepInputs};
    use crate::rng::Stream;
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
        let [loss, right, dlogits] =
            [out.loss, out.right, out.dlogits].map(|t| exec.read(t).unwrap());
        Results {
            loss,
            right,
            dlogits,
        }
    }

    fn simt(batch: &Batch) -> Results {
        run(&mut Gpu::simt().unwrap(), batch)
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
            check(&simt(&batch), &cpu(&batch))?;
        }
    }

    #[test]
    fn all_schedules_give_equal_bits_with_more_rows_than_a_block_has_threads() {
        for classes in [10, 100, 1100] {
            let batch = Batch::random(133, classes, 6.0, 0.1, 1);
            let first = simt(&batch);
            check(&first, &cpu(&batch)).unwrap();
            for schedule in [Schedule::High, Schedule::Random(7)] {
                let other = run(
                    &mut Gpu::simt_scheduled(schedule, Landing::Randomly),
                    &batch,
                );
                assert!(other == first, "{schedule:?}");
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
            check(&simt(&batch), &cpu(&batch)).unwrap();
        }
        // A class that cannot be, but is.
        let never = simt(&Batch::of_row(&[1.0, -inf], 1, 0.0));
        assert_eq!((never.loss[0], never.right[0]), (inf, 0.0));
    }

    #[test]
    fn a_small_loss_keeps_its_digits() {
        // ln(1 + e^-20): a sum that starts with 1 would round to 0.
        let results = simt(&Batch::of_row(&[20.0, 0.0], 0, 0.0));
        let want = (-20.0_f64).exp().ln_1p();
        assert!((f64::from(results.loss[0]) / want - 1.0).abs() < 1e-6);
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
                        let results = simt(&Batch::of_row(&logits, label as i32, 0.1));
                        assert!(!results.loss[0].is_finite(), "{bad} at {at} of {classes}");
                        assert_eq!(results.right[0], 0.0);
                        assert!(results.dlogits.iter().all(|d| d.is_nan()));
                    }
                }
            }
        }
        let all = simt(&Batch::of_row(&[f32::NEG_INFINITY; 3], 0, 0.0));
        assert!(all.loss[0].is_nan() && all.right[0] == 0.0);
        // An ignored row hides it by intent.
        let ignored = simt(&Batch::of_row(&[f32::NAN, 1.0], -100, 0.0));
        assert_eq!((ignored.loss[0], ignored.dlogits), (0.0, vec![0.0, 0.0]));
    }

    #[test]
    fn records_land_in_the_ring_while_the_step_has_rows() {
        let (slots, rows, n) = (4, 6, 5);
        let batch = Batch::random(n, 10, 3.0, 0.0, 2);
        let mut gpu = Gpu::simt().unwrap();
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
            let mut gpu = Gpu::simt().unwrap();
            let tensors = Tensors::new(&mut gpu, &Batch::of_row(&[0.0, 0.0], label, 0.0));
            tensors.xent(&mut gpu, 0.0, false);
            let error = gpu.read(tensors.out.loss).unwrap_err().to_string();
            assert!(error.contains("softmax_xent"), "{error}");
        }
    }
}
