//! Launches of `kernels/gather`.

use crate::backend::gpu::data::Resident;
use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{Augment, Tensor};

/// Elements that a thread stores at once.
const VECTOR: usize = 8;
/// Threads of a block that stays within one image.
const BLOCK_OF_IMAGE: usize = 128;
/// Of a grid's second dimension.
const MOST_BLOCKS: usize = 65535;
/// Threads of other blocks.
const THREADS: usize = 256;

/// See [`Executor::gather`](crate::backend::Executor::gather).
pub(crate) fn gather(
    gpu: &mut Gpu,
    data: &Resident,
    augment: Augment,
    x: Tensor,
    labels: Tensor,
    weights: Tensor,
) {
    let [n, height, width, channels] = x.dims;
    assert_eq!(
        [height, width, channels],
        [data.height, data.width, data.channels],
        "batch and images differ in shape"
    );
    assert_eq!([labels.len(), weights.len()], [n; 2], "one a row");
    assert!(x.len() <= i32::MAX as usize, "the kernel counts in 32 bits");
    let step = gpu.step_buffers();
    let args = [
        step.state.into(),
        step.ids.into(),
        step.weights.into(),
        data.pixels.into(),
        data.labels.into(),
        data.mean_std.into(),
        Arg::U32(data.count as u32),
        Arg::I32(height as i32),
        Arg::I32(width as i32),
        Arg::I32(channels as i32),
        Arg::I32(augment.crop as i32),
        Arg::I32(i32::from(augment.flip)),
        Arg::U32(n as u32),
        gpu.address(x),
        gpu.address(labels),
        gpu.address(weights),
    ];
    // Vectors that do not reach into the next image, in few enough blocks.
    let image = height * width * channels;
    let whole = image.is_multiple_of(VECTOR);
    let blocks = (image / VECTOR).div_ceil(BLOCK_OF_IMAGE);
    if whole && blocks <= MOST_BLOCKS && gpu.allows(Ladder::Gather, 3) {
        let grid = [n as u32, blocks as u32, 1];
        return gpu.launch("gather", grid, BLOCK_OF_IMAGE as u32, 0, &args);
    }
    let (kernel, a_thread) = match whole && gpu.allows(Ladder::Gather, 2) {
        true => ("gather_vectors", VECTOR),
        false => ("gather_elements", 1),
    };
    let blocks = (x.len() / a_thread).max(n).div_ceil(THREADS) as u32;
    gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::{Executor, Kind, LossOutputs, Pass, StepInputs};
    use crate::data::Images;
    use crate::rng::Stream;
    use crate::simt::{Landing, Schedule};
    use half::bf16;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn gpu(step: u32, schedule: Schedule) -> Gpu {
        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
        gpu.limit(Ladder::Gather, step);
        gpu
    }

    fn images(shape: [usize; 3], count: usize) -> Images {
        let [height, width, channels] = shape;
        let mut random = Stream::new(3, height as u64, width as u64);
        let mut moment = || (0..channels).map(|_| 0.1 + random.f32()).collect();
        let (mean, std) = (moment(), moment());
        Images {
            pixels: (0..count * height * width * channels)
                .map(|_| random.below(256) as u8)
                .collect(),
            labels: (0..count).map(|i| (i * 7 % 5) as u32).collect(),
            height,
            width,
            channels,
            mean,
            std,
        }
    }

    /// Every step's batch: images (rounded to bf16) and weights, and losses on logits that tell the
    /// labels apart.
    fn run(
        exec: &mut dyn Executor,
        images: &Images,
        batch: usize,
        augment: Augment,
        steps: &[StepInputs],
    ) -> Vec<Vec<f32>> {
        let Images {
            height,
            width,
            channels,
            ..
        } = *images;
        let data = exec.attach_images(Arc::new(images.clone()));
        let row = |n| [1, 1, 1, n];
        let x = exec.alloc(Kind::Activation, [batch, height, width, channels]);
        let labels = exec.alloc(Kind::Label, row(batch));
        let weights = exec.alloc(Kind::Float, row(batch));
        let logits = exec.alloc(Kind::Activation, [1, 1, batch, 5]);
        let out = LossOutputs {
            dlogits: exec.alloc(Kind::Activation, logits.dims),
            loss: exec.alloc(Kind::Float, row(batch)),
            right: exec.alloc(Kind::Float, row(batch)),
        };
        let scores: Vec<f32> = (0..batch * 5).map(|i| (i % 5) as f32 * 2.0).collect();
        exec.write(logits, &scores).unwrap();
        let mut seen = Vec::new();
        for inputs in steps {
            // Left over from nowhere: every element must be written.
            exec.write(x, &vec![f32::NAN; x.len()]).unwrap();
            exec.step(Pass::Train, inputs.clone(), &|exec| {
                exec.gather(data, augment, x, labels, weights);
                exec.softmax_xent(logits, labels, weights, 0.0, out, false);
            })
            .unwrap();
            let x = exec.read(x).unwrap();
            seen.push(x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect());
            seen.push(exec.read(weights).unwrap());
            let losses = exec.read(out.loss).unwrap();
            seen.push(losses.iter().map(|v| v.round()).collect());
        }
        seen
    }

    fn inputs(step: u64, seed: u64, count: usize, rows: usize) -> StepInputs {
        let mut random = Stream::new(seed, step, 1);
        StepInputs {
            step,
            ids: (0..rows)
                .map(|_| random.below(count as u64) as u32)
                .collect(),
            weights: (0..rows).map(|_| random.f32()).collect(),
            lr: 0.1,
            seed,
            ..StepInputs::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_cpu_s_batch_rounded(
            // Of half of these shapes a vector divides the elements.
            shape in prop::array::uniform3(1_usize..9),
            batch in 1_usize..7,
            crop in 0_usize..4,
            flip: bool,
            seed: u64,
            first in prop_oneof![Just(0_u64), any::<u32>().prop_map(u64::from)],
        ) {
            let (images, augment) = (images(shape, 9), Augment { crop, flip });
            let steps: Vec<StepInputs> = (0..6)
                .map(|s| inputs(first + s, seed, 9, (s as usize * 5 + 1) % (batch + 1)))
                .collect();
            let cpu = run(&mut Cpu::new().unwrap(), &images, batch, augment, &steps);
            for step in 1..=Ladder::Gather.last() {
                for schedule in [Schedule::Low, Schedule::High, Schedule::Random(seed)] {
                    let mut gpu = gpu(step, schedule);
                    prop_assert_eq!(&run(&mut gpu, &images, batch, augment, &steps), &cpu);
                }
            }
        }
    }

    #[test]
    fn cifar_s_shape_over_several_blocks() {
        let (images, augment) = (
            images([32, 32, 3], 20),
            Augment {
                crop: 4,
                flip: true,
            },
        );
        let steps = [inputs(7, 5, 20, 5), inputs(8, 5, 20, 3)];
        let cpu = run(&mut Cpu::new().unwrap(), &images, 5, augment, &steps);
        for step in 1..=Ladder::Gather.last() {
            let mut gpu = gpu(step, Schedule::Low);
            assert!(run(&mut gpu, &images, 5, augment, &steps) == cpu);
        }
    }

    #[test]
    fn ids_beyond_the_data_or_the_batch_are_faults() {
        for step in 1..=Ladder::Gather.last() {
            // With vectors and without.
            for shape in [[2, 2, 2], [2, 2, 1]] {
                for ids in [vec![3], vec![0, 1]] {
                    let mut gpu = gpu(step, Schedule::Low);
                    let data = gpu.attach_images(Arc::new(images(shape, 3)));
                    let [height, width, channels] = shape;
                    let x = gpu.alloc(Kind::Activation, [1, height, width, channels]);
                    let labels = gpu.alloc(Kind::Label, [1, 1, 1, 1]);
                    let weights = gpu.alloc(Kind::Float, [1, 1, 1, 1]);
                    let inputs = StepInputs {
                        ids,
                        ..StepInputs::default()
                    };
                    let launched = gpu.step(Pass::Train, inputs, &|exec| {
                        exec.gather(data, Augment::NONE, x, labels, weights);
                    });
                    let error = launched.and_then(|()| gpu.read(x)).unwrap_err().to_string();
                    assert!(error.contains("gather"), "{error}");
                }
            }
        }
    }
}
