use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::Isa;
use crate::backend::{Executor, Kind, Pass, StepInputs};
use crate::rng::Stream;

/// Scales, parameters and moments after four steps, of which the third is a late one.
fn run(exec: &mut dyn Executor, n: usize, decoupled: bool, clip: f32) -> [Vec<f32>; 4] {
    let config = Adam {
        betas: [0.9, 0.98],
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled,
    };
    let [params, grads, m, v] = [(); 4].map(|()| exec.alloc(Kind::Float, [1, 1, 1, n]));
    let scale = exec.alloc(Kind::Float, [1, 1, 1, 1]);
    let mut random = Stream::new(9, 0, 0);
    let mut draw = || (0..n).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
    exec.write(params, &draw()).unwrap();
    let mut scales = Vec::new();
    for (step, lr) in [(0, 0.5), (1, 0.1), (3000, 0.02), (3001, 0.02)] {
        exec.write(grads, &draw()).unwrap();
        let inputs = StepInputs {
            step,
            lr,
            ..StepInputs::default()
        };
        let ops = |exec: &mut dyn Executor| {
            let ops = exec.sequence().unwrap();
            ops.clip_scale(grads, clip, scale);
            ops.adam(params, grads, [m, v], config, Some(scale));
        };
        exec.step(Pass::Train, inputs, &ops).unwrap();
        scales.extend(exec.read(scale).unwrap());
    }
    let [params, m, v] = [params, m, v].map(|t| exec.read(t).unwrap());
    [scales, params, m, v]
}

#[test]
fn it_is_the_cpu_s() {
    for n in [1, 3, 64, 1021, 1024, 5003, 40_001] {
        for decoupled in [false, true] {
            for clip in [0.5, f32::INFINITY] {
                // Portable, since vectors fuse multiply and add.
                let cpu = run(&mut Cpu::with_isa(Isa::PORTABLE), n, decoupled, clip);
                for step in 1..=Ladder::Adam.last() {
                    let mut gpu = Gpu::simt().unwrap();
                    gpu.limit(Ladder::Adam, step);
                    let ours = run(&mut gpu, n, decoupled, clip);
                    for (i, (ours, cpu)) in ours.iter().zip(&cpu).enumerate() {
                        for (a, b) in ours.iter().zip(cpu) {
                            // The norm's sum has another order, in f64.
                            assert!(
                                (a - b).abs() <= 2e-6 * b.abs() + 1e-9,
                                "step {step}, {n} parameters, result {i}: {a} {b}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_is_nan_and_reaches_the_parameters() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gpu = Gpu::simt().unwrap();
        let grads = gpu.alloc(Kind::Float, [1, 1, 1, 700]);
        let scale = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
        let mut values = vec![1.0; 700];
        values[650] = bad;
        gpu.write(grads, &values).unwrap();
        gpu.sequence().unwrap().clip_scale(grads, 1.0, scale);
        assert!(gpu.read(scale).unwrap()[0].is_nan(), "{bad}");
        // Large is not infinite.
        values[650] = f32::MAX;
        gpu.write(grads, &values).unwrap();
        gpu.sequence().unwrap().clip_scale(grads, 1.0, scale);
        let expected = 1.0 / f32::MAX;
        let scale = gpu.read(scale).unwrap()[0];
        assert!((scale / expected - 1.0).abs() < 1e-6, "{scale}");
    }
}
