//! Parameters in bf16, as tensor cores want them: the shadows of the f32 that optimisers keep.

use super::arena::Purpose;
use super::driver::Arg;
use super::{Gpu, Mode};
use crate::backend::Tensor;
use std::collections::HashMap;

/// Which buffers have a shadow. A step rounds all of a parameter buffer at its first use, in one
/// launch, and reuses that until an optimiser writes the buffer.
///
/// What a captured step reads of a shadow is never stale. Its first use is preceded by a rounding
/// in the same graph, since planning begins with no shadow fresh: whatever happened before the
/// replay, be it a host's write, another graph or an op outside of steps, is rounded with the rest.
/// Within the step only optimisers write parameters, and they take the freshness back.
#[derive(Default)]
pub(super) struct Shadows {
    /// Block of each buffer's shadow. It stays for good, because graphs hold its address.
    blocks: HashMap<usize, usize>,
    /// Buffers that the planned launches have rounded and not written since.
    fresh: Vec<usize>,
}

impl Shadows {
    /// At the beginning of a plan.
    pub fn forget(&mut self) {
        self.fresh.clear();
    }
}

impl Gpu {
    /// Address of a matrix of parameters in bf16, equal whenever an op asks for it. The matrix
    /// starts at a multiple of 16 bytes. Outside of a step it is rounded each time.
    pub(super) fn shadow(&mut self, w: Tensor) -> u64 {
        let buffer = self.buffers[w.buffer].block;
        let len = self.arena.bytes(buffer) / size_of::<f32>();
        let block = match self.shadows.blocks.get(&w.buffer) {
            Some(block) => *block,
            None => {
                let block = self.arena.plan(Purpose::Parameters, 2 * len);
                self.shadows.blocks.insert(w.buffer, block);
                block
            }
        };
        let (start, len) = match self.mode {
            Mode::Plan => (0, len),
            Mode::Run => (w.offset, w.len()),
        };
        if self.mode == Mode::Run {
            let claimed = self.arena.claim(&mut self.stream);
            self.note(claimed.map(drop));
        }
        // Nowhere yet when a step is planned for the first time.
        let shadow = self.arena.claimed(block).unwrap_or(0);
        if !self.shadows.fresh.contains(&w.buffer) {
            /// Elements of a block of `linear_round`, four a thread.
            const ELEMENTS: usize = 1024;
            let args = [
                Arg::Ptr(self.arena.address(buffer) + 4 * start as u64),
                Arg::Ptr(shadow + 2 * start as u64),
                Arg::U64(len as u64),
            ];
            let blocks = len.div_ceil(ELEMENTS) as u32;
            self.launch("linear_round", [blocks, 1, 1], 256, 0, &args);
            if self.mode == Mode::Plan {
                self.shadows.fresh.push(w.buffer);
            }
        }
        shadow + 2 * w.offset as u64
    }

    /// An optimiser has written parameters.
    pub(super) fn written(&mut self, params: Tensor) {
        self.shadows.fresh.retain(|buffer| *buffer != params.buffer);
    }
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::sequence::{Act, Linear};
    use crate::backend::{Executor, Kind, Pass, Sgd, StepInputs};
    use crate::rng::Stream;
    use half::bf16;

    const N: usize = 16;

    /// Two matrices in a buffer, and what each is multiplied by: an identity, so that the results
    /// are the matrices, transposed.
    struct Net {
        params: Tensor,
        grads: Tensor,
        buf: Tensor,
        x: Tensor,
        y: [Tensor; 3],
    }

    impl Net {
        fn new(exec: &mut dyn Executor) -> Net {
            let mut flat = || exec.alloc(Kind::Float, [1, 1, 1, 2 * N * N]);
            let [params, grads, buf] = [(); 3].map(|()| flat());
            let mut square = || exec.alloc(Kind::Activation, [1, 1, N, N]);
            let net = Net {
                params,
                grads,
                buf,
                x: square(),
                y: [(); 3].map(|()| square()),
            };
            let one = |i: usize| f32::from(u8::from(i.is_multiple_of(N + 1)));
            let identity: Vec<f32> = (0..N * N).map(one).collect();
            exec.write(net.x, &identity).expect("writes");
            exec.write(grads, &vec![1.0; grads.len()]).expect("writes");
            net
        }

        fn product(&self, exec: &mut dyn Executor, matrix: usize, y: usize) {
            let w = Tensor {
                offset: matrix * N * N,
                dims: [1, 1, N, N],
                ..self.params
            };
            let sequence = exec.sequence().expect("has the ops");
            sequence.linear(self.x, Linear { w, b: None }, Act::None, None, self.y[y]);
        }

        /// Both matrices, and the second once more after an update.
        fn ops(&self, exec: &mut dyn Executor) {
            self.product(exec, 0, 0);
            self.product(exec, 1, 1);
            let plain = Sgd {
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.0,
            };
            exec.sgd(self.params, self.grads, self.buf, plain, None);
            self.product(exec, 1, 2);
        }

        /// All results of three steps, between which the host writes once, and of an op after them.
        fn run(&self, exec: &mut dyn Executor) -> Vec<Vec<f32>> {
            let mut random = Stream::new(5, 0, 0);
            let weights: Vec<f32> = (0..self.params.len()).map(|_| random.f32()).collect();
            let mut seen = Vec::new();
            for step in 0..3 {
                if step != 1 {
                    exec.write(self.params, &weights).expect("writes");
                }
                let inputs = StepInputs {
                    step,
                    lr: 0.5,
                    ..StepInputs::default()
                };
                exec.step(Pass::Train, inputs, &|exec| self.ops(exec))
                    .expect("runs");
                seen.extend(self.y.map(|y| exec.read(y).expect("reads")));
            }
            self.product(exec, 0, 0);
            seen.push(exec.read(self.y[0]).expect("reads"));
            seen
        }
    }

    #[test]
    fn products_see_every_update_and_every_write() {
        let mut gpu = Gpu::simt().expect("is built");
        let net = Net::new(&mut gpu);
        let seen = net.run(&mut gpu);
        let mut cpu = Cpu::new().expect("opens");
        let want = Net::new(&mut cpu).run(&mut cpu);
        for (i, (seen, want)) in seen.iter().zip(&want).enumerate() {
            let want: Vec<f32> = want.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            assert_eq!(*seen, want, "product {i}");
        }
    }

    #[test]
    fn a_step_rounds_at_the_first_use_and_after_an_update() {
        let mut gpu = Gpu::simt().expect("is built");
        let net = Net::new(&mut gpu);
        gpu.claim().expect("memory");
        for _ in 0..2 {
            let launches = gpu.plan(Pass::Train, &|exec| net.ops(exec));
            let kernels: Vec<&str> = launches.iter().map(|launch| launch.kernel).collect();
            let product = "linear_64";
            let order = [
                "linear_round",
                product,
                product,
                "sgd",
                "linear_round",
                product,
            ];
            assert_eq!(kernels, order);
            let len = launches[0].args[2];
            assert_eq!(len, Arg::U64((2 * N * N) as u64), "all of the buffer");
        }
    }
}
