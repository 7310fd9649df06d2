//! Neighbouring launches of a captured step that one kernel does as well.

use super::driver::Launch;

/// The same work: a convolution's `conv_moments` and the `bn_train` that follows it on the same
/// statistics become `conv_moments_train` (`kernels/bn_coefficients/2_with_moments.cu`).
pub(super) fn joined(launches: Vec<Launch>) -> Vec<Launch> {
    let mut joined: Vec<Launch> = Vec::with_capacity(launches.len());
    for launch in launches {
        match joined.last_mut() {
            Some(before) if trains_on_moments(before, &launch) => {
                before.kernel = "conv_moments_train";
                before.args.extend(launch.args);
            }
            _ => joined.push(launch),
        }
    }
    joined
}

/// Whether `bn_train` takes its channels, mean and variance from `conv_moments`.
fn trains_on_moments(moments: &Launch, train: &Launch) -> bool {
    (moments.kernel, train.kernel) == ("conv_moments", "bn_train")
        && moments.args[4..6] == train.args[2..4]
        && moments.args[3] == train.args[7]
}

#[cfg(all(test, simt))]
mod tests {
    use crate::backend::gpu::{Gpu, Ladder};
    use crate::backend::{BatchNorm, Executor, Kind, Load, Pass, StepInputs, Window};
    use crate::rng::Stream;
    use crate::simt::{Landing, Schedule};

    const CHANNELS: usize = 5;

    fn batch_norm(gpu: &mut Gpu, random: &mut Stream) -> BatchNorm {
        let mut vector = || {
            let t = gpu.alloc(Kind::Float, [1, 1, 1, CHANNELS]);
            let values: Vec<f32> = (0..CHANNELS).map(|_| random.f32()).collect();
            gpu.write(t, &values).unwrap();
            t
        };
        BatchNorm {
            gamma: vector(),
            beta: vector(),
            dgamma: vector(),
            dbeta: vector(),
            running_mean: vector(),
            running_var: vector(),
            mean: vector(),
            var: vector(),
            invstd: vector(),
            scale: vector(),
            shift: vector(),
        }
    }

    /// Kernels of a step, and the bits of all vectors after two of them: a convolution and its own
    /// batch norm, then one whose moments another batch norm takes.
    fn run(step: u32, schedule: Schedule) -> (Vec<&'static str>, Vec<u32>) {
        let mut gpu = Gpu::simt_scheduled(schedule, Landing::Randomly);
        gpu.limit(Ladder::BatchNorm, step);
        gpu.limit(Ladder::Conv, 2);
        let mut random = Stream::new(1, 2, 3);
        let x = gpu.alloc(Kind::Activation, [3, 9, 7, 2]);
        let w = gpu.alloc(Kind::Float, [CHANNELS, 3, 3, 2]);
        let y = gpu.alloc(Kind::Activation, [3, 9, 7, CHANNELS]);
        for t in [x, w] {
            let values: Vec<f32> = (0..t.len()).map(|_| random.f32() + 0.5).collect();
            gpu.write(t, &values).unwrap();
        }
        let [own, first, second] = [(); 3].map(|()| batch_norm(&mut gpu, &mut random));
        let window = Window { stride: 1, pad: 1 };
        for step in 0..2 {
            let inputs = StepInputs {
                step,
                ..StepInputs::default()
            };
            gpu.step(Pass::Train, inputs, &|exec| {
                for (moments, train) in [(own, own), (first, second)] {
                    exec.conv2d(Load::plain(x), w, window, y, Some(moments));
                    exec.bn_train(train, 3 * 9 * 7);
                }
            })
            .unwrap();
        }
        let mut bits = Vec::new();
        for bn in [own, first, second] {
            let changed = [bn.mean, bn.var, bn.invstd, bn.scale, bn.shift];
            for t in changed.into_iter().chain([bn.running_mean, bn.running_var]) {
                bits.extend(gpu.read(t).unwrap().into_iter().map(f32::to_bits));
            }
        }
        let captured = &gpu.graphs[&(Pass::Train, [0; 3])];
        let kernels = captured.launches.iter().map(|l| l.kernel);
        (kernels.collect(), bits)
    }

    #[test]
    fn a_batch_norm_on_a_convolution_s_moments_is_one_launch_with_the_same_bits() {
        let (kernels, bits) = run(1, Schedule::Low);
        assert_eq!(kernels[1..3], ["conv_moments", "bn_train"]);
        for schedule in [Schedule::Low, Schedule::High, Schedule::Random(5)] {
            let (joined, same) = run(2, schedule);
            assert_eq!(joined[1], "conv_moments_train");
            // Statistics of another batch norm are none of its business.
            assert_eq!(joined[3..], ["conv_moments", "bn_train"]);
            assert!(same == bits, "{schedule:?}");
        }
    }
}
