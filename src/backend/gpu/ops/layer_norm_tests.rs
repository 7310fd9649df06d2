use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Executor, Kind, Pass, StepInputs};
use crate::rng::Stream;
use crate::simt::{Landing, Schedule};
use half::bf16;

/// What of the op is wanted.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    d: usize,
    branch: bool,
    dropout: Option<Dropout>,
    dh: bool,
    /// The input's gradient takes the place of another.
    in_place: bool,
}

/// h, y, mean, rstd, dx, the branch's gradient, dγ, dβ. On the CPU activations are rounded where
/// they are stored.
fn run(exec: &mut dyn Executor, case: Case, round: bool) -> Vec<Vec<f32>> {
    let mut random = Stream::new(2, case.d as u64, 0);
    let mut fresh = |exec: &mut dyn Executor, kind, dims: [usize; 4], centre: f32| {
        let t = exec.alloc(kind, dims);
        let draw = |_| bf16::from_f32(centre + 2.0 * random.f32() - 1.0).to_f32();
        let values: Vec<f32> = (0..t.len()).map(draw).collect();
        exec.write(t, &values).unwrap();
        t
    };
    let dims = [1, 1, case.rows, case.d];
    let [x, branch, dy, dh] =
        [3.0, 0.5, 0.0, 0.0].map(|centre| fresh(exec, Kind::Activation, dims, centre));
    let vector = [1, 1, 1, case.d];
    let [gamma, beta] = [1.0, 0.0].map(|centre| fresh(exec, Kind::Float, vector, centre));
    let float = |exec: &mut dyn Executor, n| exec.alloc(Kind::Float, [1, 1, 1, n]);
    let norm = LayerNorm {
        gamma,
        beta,
        dgamma: float(exec, case.d),
        dbeta: float(exec, case.d),
        mean: float(exec, case.rows),
        rstd: float(exec, case.rows),
    };
    let [h, y, fresh_dx, dbranch] = [(); 4].map(|()| exec.alloc(Kind::Activation, dims));
    let dx = match (case.in_place, case.dh) {
        (true, true) => dh,
        (true, false) => dy,
        (false, _) => fresh_dx,
    };
    let stream = if case.branch { h } else { x };
    let added = case.branch.then_some((branch, case.dropout));
    let back = case.dropout.filter(|_| case.branch).map(|d| (dbranch, d));
    let inputs = StepInputs {
        step: 9,
        seed: 4,
        ..StepInputs::default()
    };
    let forward = |exec: &mut dyn Executor| {
        exec.sequence().unwrap().add_norm(x, added, norm, h, y);
    };
    exec.step(Pass::Train, inputs.clone(), &forward).unwrap();
    if round && case.branch {
        let values = exec.read(h).unwrap();
        let rounded: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        exec.write(h, &rounded).unwrap();
        // Statistics are those of the rounded sum.
        exec.sequence().unwrap().add_norm(h, None, norm, h, y);
    }
    let forward_results = [stream, y, norm.mean, norm.rstd].map(|t| exec.read(t).unwrap());
    let given = case.dh.then_some(dh);
    let backward = |exec: &mut dyn Executor| {
        let ops = exec.sequence().unwrap();
        ops.add_norm_backward(stream, norm, dy, given, dx, back);
    };
    // The same step once more, with other ops.
    let inputs = StepInputs {
        shape: [1; 3],
        ..inputs
    };
    exec.step(Pass::Train, inputs, &backward).unwrap();
    let of_branch = if back.is_some() { dbranch } else { dx };
    let backward_results = [dx, of_branch, norm.dgamma, norm.dbeta].map(|t| exec.read(t).unwrap());
    [forward_results, backward_results].concat()
}

#[test]
fn every_step_agrees_with_the_cpu() {
    let dropout = Some(Dropout { p: 0.25, site: 3 });
    let shapes = [
        [1, 1],
        [3, 5],
        [7, 8],
        [40, 64],
        [9, 264],
        [5, 520],
        [3, 1024],
        [2, 1032],
    ];
    for [rows, d] in shapes {
        for (branch, dropout, dh, in_place) in [
            (false, None, false, false),
            (true, None, true, true),
            (true, dropout, true, false),
            (true, dropout, false, true),
        ] {
            let case = Case {
                rows,
                d,
                branch,
                dropout,
                dh,
                in_place,
            };
            let cpu = run(&mut Cpu::new().unwrap(), case, true);
            for step in 1..=Ladder::LayerNorm.last() {
                let runs = [Schedule::Low, Schedule::High, Schedule::Random(2)].map(|schedule| {
                    let mut gpu = Gpu::simt_scheduled(schedule, Landing::Late);
                    gpu.limit(Ladder::LayerNorm, step);
                    run(&mut gpu, case, false)
                });
                assert!(runs[0] == runs[1] && runs[1] == runs[2], "{case:?}");
                for (i, (ours, cpu)) in runs[0].iter().zip(&cpu).enumerate() {
                    // h is exact, y and the gradients are rounded, statistics and sums are f32.
                    let relative = [0.0, 0.004, 1e-5, 1e-5, 0.004, 0.004, 1e-5, 1e-5][i];
                    let largest = cpu.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    for (at, (a, b)) in ours.iter().zip(cpu).enumerate() {
                        let exact = if i == 0 {
                            bf16::from_f32(*b).to_f32()
                        } else {
                            *b
                        };
                        let allowed = relative * (exact.abs() + 0.01 * largest) + 1e-6 * largest;
                        assert!(
                            (a - exact).abs() <= allowed,
                            "step {step}, {case:?}: result {i}[{at}] is {a}, not {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_nan_stays_in_its_row() {
    for step in 1..=Ladder::LayerNorm.last() {
        let mut gpu = Gpu::simt().unwrap();
        gpu.limit(Ladder::LayerNorm, step);
        let [x, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, [1, 1, 3, 16]));
        let mut values = vec![1.0; 48];
        values[20] = f32::NAN;
        gpu.write(x, &values).unwrap();
        let [gamma, beta, dgamma, dbeta] = [16; 4].map(|n| gpu.alloc(Kind::Float, [1, 1, 1, n]));
        let [mean, rstd] = [3; 2].map(|n| gpu.alloc(Kind::Float, [1, 1, 1, n]));
        gpu.write(gamma, &[1.0; 16]).unwrap();
        let norm = LayerNorm {
            gamma,
            beta,
            dgamma,
            dbeta,
            mean,
            rstd,
        };
        gpu.sequence().unwrap().add_norm(x, None, norm, x, y);
        let y = gpu.read(y).unwrap();
        let rows: Vec<bool> = y.chunks(16).map(|r| r.iter().all(|v| v.is_nan())).collect();
        assert_eq!(rows, [false, true, false], "step {step}");
    }
}
