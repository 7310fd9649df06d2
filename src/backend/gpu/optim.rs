//! Launch of `kernels/sgd/1_sgd.cu`.

use super::Gpu;
use super::driver::Arg;
use crate::backend::{Sgd, Tensor};

/// See [`Executor::sgd`](crate::backend::Executor::sgd).
pub(super) fn sgd(gpu: &mut Gpu, params: Tensor, grads: Tensor, buf: Tensor, config: Sgd) {
    const THREADS: usize = 256;
    const A_THREAD: usize = 4;
    let n = params.len();
    assert_eq!([grads.len(), buf.len()], [n; 2], "one a parameter");
    assert!(n <= i32::MAX as usize, "the kernel counts in 32 bits");
    let args = [
        gpu.state(),
        config.momentum.into(),
        config.weight_decay.into(),
        Arg::I32(i32::from(config.nesterov)),
        Arg::U32(n as u32),
        gpu.address(params),
        gpu.address(grads),
        gpu.address(buf),
    ];
    let blocks = n.div_ceil(A_THREAD * THREADS) as u32;
    gpu.launch("sgd", [blocks, 1, 1], THREADS as u32, 0, &args);
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
        let mut random = Stream::new(9, 0, 0);
        let mut draw = || (0..n).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
        exec.write(params, &draw()).unwrap();
        for (step, lr) in [0.5, 0.1, 0.02].into_iter().enumerate() {
            exec.write(grads, &draw()).unwrap();
            let inputs = StepInputs {
                step: step as u64,
                lr,
                ..StepInputs::default()
            };
            exec.step(Pass::Train, inputs, &|exec| {
                exec.sgd(params, grads, buf, config)
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
                let gpu = run(&mut Gpu::simt().unwrap(), n, nesterov);
                let cpu = run(&mut Cpu::new().unwrap(), n, nesterov);
                assert!(gpu == cpu, "{n} parameters, nesterov {nesterov}");
            }
        }
    }
}
