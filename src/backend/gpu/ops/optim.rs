//! Launches of `kernels/sgd`.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{Sgd, Tensor};

/// See [`Executor::sgd`](crate::backend::Executor::sgd).
pub(crate) fn sgd(
    gpu: &mut Gpu,
    params: Tensor,
    grads: Tensor,
    buf: Tensor,
    config: Sgd,
    scale: Option<Tensor>,
) {
    const THREADS: usize = 256;
    let n = params.len();
    assert_eq!([grads.len(), buf.len()], [n; 2], "one a parameter");
    assert!(n <= i32::MAX as usize, "the kernel counts in 32 bits");
    let args = [
        gpu.state(),
        config.momentum.into(),
        config.weight_decay.into(),
        Arg::I32(i32::from(config.nesterov)),
        scale.map_or(Arg::NULL, |t| gpu.address(t)),
        Arg::U32(n as u32),
        gpu.address(params),
        gpu.address(grads),
        gpu.address(buf),
    ];
    let (kernel, a_thread) = match gpu.allows(Ladder::Sgd, 2) {
        true => ("sgd", 4),
        false => ("sgd_elements", 1),
    };
    let blocks = n.div_ceil(a_thread * THREADS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::{Executor, Kind, Pass, StepInputs};
    use crate::rng::Stream;

    /// Parameters and momentum after three steps with three learning rates.
    fn run(exec: &mut dyn Executor, n: usize, nesterov: bool) -> [Vec<f32>; 2] {
        let config = Sgd {
            momentum: 0.9,
            nesterov,
            weight_decay: 0.01,
        };
        let [params, grads, buf] = [0; 3].map(|_| exec.alloc(Kind::Float, [1, 1, 1, n]));
        let scale = exec.alloc(Kind::Float, [1, 1, 1, 1]);
        let mut random = Stream::new(9, 0, 0);
        let mut draw = || (0..n).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
        exec.write(params, &draw()).unwrap();
        exec.write(scale, &[0.3]).unwrap();
        for (step, lr) in [0.5, 0.1, 0.02].into_iter().enumerate() {
            exec.write(grads, &draw()).unwrap();
            let inputs = StepInputs {
                step: step as u64,
                lr,
                // Another graph, with other arguments.
                shape: [step as u32; 3],
                ..StepInputs::default()
            };
            exec.step(Pass::Train, inputs, &|exec| {
                // Every other step as it is, as networks of images do.
                exec.sgd(params, grads, buf, config, (step != 1).then_some(scale));
            })
            .unwrap();
        }
        [params, buf].map(|t| exec.read(t).unwrap())
    }

    #[test]
    fn it_is_the_cpu_s_to_the_bit() {
        // Less than a vector, tails of all lengths, and more than a block. Neither build fuses
        // multiply and add.
        for n in [1, 3, 64, 1021, 1022, 1023, 1024, 4099] {
            for nesterov in [false, true] {
                let cpu = run(&mut Cpu::new().unwrap(), n, nesterov);
                for step in 1..=Ladder::Sgd.last() {
                    let mut gpu = Gpu::simt().unwrap();
                    gpu.limit(Ladder::Sgd, step);
                    let same = run(&mut gpu, n, nesterov) == cpu;
                    assert!(same, "step {step}, {n} parameters, nesterov {nesterov}");
                }
            }
        }
    }
}
