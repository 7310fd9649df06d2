use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Executor, Kind, Pass, StepInputs};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;

/// What is run: rows of each sentence, classes, and what the logits are multiplied by.
struct Case {
    lengths: Vec<usize>,
    classes: usize,
    scale: f32,
    smoothing: f32,
    in_place: bool,
}

/// Gradient, token losses, losses, right bits; and what arrived in the ring.
struct Results {
    values: [Vec<f32>; 4],
    records: Vec<Option<(f32, bool)>>,
}

fn run(exec: &mut dyn Executor, case: &Case) -> Results {
    let (rows, sentences) = (case.lengths.iter().sum::<usize>(), case.lengths.len());
    let ring = exec.create_ring(4, sentences).unwrap();
    let mut random = Stream::new(7, case.classes as u64, 0);
    let mut draw = |n: usize, scale: f32| -> Vec<f32> {
        let value = |_| bf16::from_f32(scale * (2.0 * random.f32() - 1.0)).to_f32();
        (0..n).map(value).collect()
    };
    let logits = exec.alloc(Kind::Activation, [1, 1, rows, case.classes]);
    let mut values = draw(logits.len(), case.scale);
    let labels: Vec<i32> = (0..rows)
        .map(|r| match r % 5 {
            3 => -100,
            _ => (r * 7 % case.classes) as i32,
        })
        .collect();
    // All rows of every other sentence are right.
    let mut row = 0;
    for (b, length) in case.lengths.iter().enumerate() {
        for r in row..row + length {
            if b % 2 == 0 && labels[r] >= 0 {
                values[r * case.classes + labels[r] as usize] = 2.0 * case.scale;
            }
        }
        row += length;
    }
    exec.write(logits, &values).unwrap();
    let float = |exec: &mut dyn Executor, n| exec.alloc(Kind::Float, [1, 1, 1, n]);
    let loss = SentenceLoss {
        logits,
        labels: exec.alloc(Kind::Label, [1, 1, 1, rows]),
        offsets: exec.alloc(Kind::Label, [1, 1, 1, sentences + 1]),
        weights: float(exec, sentences),
        smoothing: case.smoothing,
        dlogits: match case.in_place {
            true => logits,
            false => exec.alloc(Kind::Activation, logits.dims),
        },
        token_loss: float(exec, rows),
        loss: float(exec, sentences),
        right: float(exec, sentences),
    };
    exec.write_labels(loss.labels, &labels).unwrap();
    let ends = case.lengths.iter().scan(0, |end, l| {
        *end += *l as i32;
        Some(*end)
    });
    let offsets: Vec<i32> = [0].into_iter().chain(ends).collect();
    exec.write_labels(loss.offsets, &offsets).unwrap();
    let weights: Vec<f32> = (0..sentences).map(|b| 0.5 + b as f32).collect();
    exec.write(loss.weights, &weights).unwrap();
    // One row of the ring stays empty.
    let inputs = StepInputs {
        step: 5,
        ids: (1..sentences as u32).collect(),
        ..StepInputs::default()
    };
    let ops = |exec: &mut dyn Executor| exec.sequence().unwrap().sentence_xent(loss, true);
    exec.step(Pass::Train, inputs, &ops).unwrap();
    let all = [loss.dlogits, loss.token_loss, loss.loss, loss.right];
    Results {
        values: all.map(|t| exec.read(t).unwrap()),
        records: (0..sentences)
            .map(|b| ring.read(5, b).map(|r| (r.loss, r.right)))
            .collect(),
    }
}

fn close(got: &[f32], want: &[f32], relative: f32, what: &str) {
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = relative * (want.abs() + 0.01 * largest) + 1e-7;
        assert!((got - want).abs() <= allowed, "{what} {i}: {got} {want}");
    }
}

#[test]
fn every_step_agrees_with_the_cpu_and_records_what_it_says() {
    let cases = [
        (vec![1], 8, 3.0),
        (vec![2, 0, 5, 40, 1], 24, 4.0),
        (vec![3, 4], 37, 1.0),
        (vec![1, 2], 5000, 30.0),
        (vec![0, 33, 32, 0], 16, 90.0),
    ];
    for (lengths, classes, scale) in cases {
        for (smoothing, in_place) in [(0.0, false), (0.1, true)] {
            let case = Case {
                lengths: lengths.clone(),
                classes,
                scale,
                smoothing,
                in_place,
            };
            let cpu = run(&mut Cpu::new().unwrap(), &case);
            for step in 1..=Ladder::SentenceXent.last() {
                let schedules = [Schedule::Low, Schedule::High, Schedule::Random(3)];
                let runs = schedules.map(|schedule| {
                    let mut gpu = Gpu::simt_scheduled(schedule, Landing::Late);
                    gpu.limit(Ladder::SentenceXent, step);
                    run(&mut gpu, &case)
                });
                let what = format!("step {step}, {lengths:?} of {classes}");
                let [ours, others @ ..] = &runs;
                for other in others {
                    assert!(ours.values == other.values, "{what}: schedules differ");
                }
                close(&ours.values[0], &cpu.values[0], 1.0 / 256.0, &what);
                close(&ours.values[1], &cpu.values[1], 2e-6, &what);
                close(&ours.values[2], &cpu.values[2], 2e-6, &what);
                assert_eq!(ours.values[3], cpu.values[3], "{what}");
                for b in 0..lengths.len() {
                    let said = (ours.values[2][b], ours.values[3][b] == 1.0);
                    let expected = (b + 1 < lengths.len()).then_some(said);
                    assert_eq!(ours.records[b], expected, "{what}: record {b}");
                }
            }
        }
    }
}

#[test]
fn a_nan_is_seen() {
    for step in 1..=Ladder::SentenceXent.last() {
        let case = Case {
            lengths: vec![2, 3],
            classes: 16,
            scale: f32::NAN,
            smoothing: 0.1,
            in_place: false,
        };
        let mut gpu = Gpu::simt().unwrap();
        gpu.limit(Ladder::SentenceXent, step);
        let results = run(&mut gpu, &case);
        assert!(results.values[2].iter().all(|l| l.is_nan()), "step {step}");
        assert_eq!(results.values[3], [0.0; 2], "step {step}");
    }
}
