//! Whole networks: an exported file means what torchvision means by it, and results do not depend
//! on the number of threads.

use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::{Augment, Executor, Pass, Precision, Sgd, StepInputs};
use autoassist::data::{Dataset, Samples};
use autoassist::nn::{self, About, Architecture, InputShape, ResNet, WeightFile};
use autoassist::rng;
use safetensors::tensor::SafeTensors;

const BATCH: usize = 6;
const CLASSES: usize = 4;

fn data() -> Dataset {
    let samples = |seed: u64, n: usize| {
        let mut random = rng::Stream::new(seed, 0, 0);
        Samples {
            pixels: (0..n * 9 * 7 * 3).map(|_| random.bits() as u8).collect(),
            labels: (0..n).map(|i| (i % CLASSES) as u32).collect(),
        }
    };
    let classes = (0..CLASSES).map(|c| c.to_string()).collect();
    Dataset::new(
        "noise",
        classes,
        [9, 7, 3],
        samples(1, 24),
        samples(2, 8),
        true,
    )
    .unwrap()
}

/// The network after some steps, so that nothing has its initial value.
fn trained(arch: &Architecture, mut cpu: Cpu, steps: u64) -> (Cpu, ResNet, Vec<f32>) {
    let data = data();
    let input = InputShape {
        batch: BATCH,
        height: 9,
        width: 7,
        channels: 3,
    };
    let net = ResNet::new(&mut cpu, arch, input, CLASSES);
    net.params.initialise(&mut cpu, 3).unwrap();
    let images = cpu.attach_images(data.train.clone());
    let ring = cpu.create_ring(4, BATCH).unwrap();
    let sgd = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let mut losses = Vec::new();
    for step in 0..steps {
        let ids = (0..BATCH as u32)
            .map(|i| (i * 5 + step as u32) % 24)
            .collect();
        let weights = (0..BATCH).map(|i| 0.5 + i as f32 / 5.0).collect();
        let inputs = StepInputs {
            step,
            ids,
            weights,
            lr: 0.02,
            seed: 9,
            ..StepInputs::default()
        };
        let augment = Augment {
            crop: 2,
            flip: true,
        };
        cpu.step(Pass::Train, inputs, &|exec| {
            net.train_step(exec, images, augment, 0.1, sgd);
        })
        .unwrap();
        losses.extend((0..BATCH).map(|row| ring.read(step, row).expect("a record a row").loss));
        assert_eq!(
            losses[losses.len() - BATCH..],
            cpu.read(net.loss.loss).unwrap()
        );
    }
    (cpu, net, losses)
}

/// ResNet-8, and of the blocks of ResNet-50, which take minutes in plain Rust, one of each of two widths.
fn architectures() -> [Architecture; 2] {
    let bottlenecks = Architecture {
        blocks: vec![1, 1],
        widths: vec![64, 128],
        bottleneck: true,
    };
    [Architecture::of_depth(8).unwrap(), bottlenecks]
}

/// Parameters, running statistics and losses after three steps.
fn steps(arch: &Architecture, isa: Isa, precision: Precision, threads: usize) -> [Vec<f32>; 3] {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let (mut cpu, net, losses) = trained(arch, Cpu::with(isa, precision), 3);
        let [values, buffers] =
            [net.params.values, net.params.buffers].map(|t| cpu.read(t).unwrap());
        assert!(values.iter().all(|v| v.is_finite()));
        [values, buffers, losses]
    })
}

#[test]
fn equal_bits_whatever_the_number_of_threads() {
    for isa in Isa::available() {
        for arch in &architectures() {
            let run = |threads| steps(arch, isa, Precision::F32, threads);
            assert!(run(1) == run(3), "{arch:?} on {isa}");
        }
    }
}

#[test]
fn equal_bits_in_bf16_whatever_the_instruction_set_and_the_number_of_threads() {
    for arch in &architectures() {
        let run = |isa, threads| steps(arch, isa, Precision::Bf16, threads);
        let want = run(Isa::PORTABLE, 3);
        for isa in Isa::available() {
            assert!(run(isa, 1) == want, "{arch:?} on {isa}");
        }
    }
}

/// A plain reference in f64 that knows nothing but torchvision's names and layouts: images CHW,
/// weights OIHW.
struct Reference<'a>(SafeTensors<'a>);

#[derive(Clone)]
struct Image {
    c: usize,
    h: usize,
    w: usize,
    v: Vec<f64>,
}

impl Reference<'_> {
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let view = self
            .0
            .tensor(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (data, _) = view.data().as_chunks::<4>();
        let values = data
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect();
        (view.shape().to_vec(), values)
    }

    fn conv(&self, name: &str, x: &Image, stride: usize) -> Image {
        let (shape, weight) = self.get(&format!("{name}.weight"));
        let [co, ci, k, _] = shape[..] else {
            panic!("{name} is {shape:?}")
        };
        assert_eq!(ci, x.c);
        let pad = k / 2;
        let (h, w) = (
            (x.h + 2 * pad - k) / stride + 1,
            (x.w + 2 * pad - k) / stride + 1,
        );
        let mut v = vec![0.0; co * h * w];
        for (at, out) in v.iter_mut().enumerate() {
            let (o, i, j) = (at / (h * w), at / w % h, at % w);
            for (tap, weight) in weight[o * ci * k * k..][..ci * k * k].iter().enumerate() {
                let (c, a, b) = (tap / (k * k), tap / k % k, tap % k);
                let y = (i * stride + a).checked_sub(pad).filter(|y| *y < x.h);
                let z = (j * stride + b).checked_sub(pad).filter(|z| *z < x.w);
                if let (Some(y), Some(z)) = (y, z) {
                    *out += weight * x.v[(c * x.h + y) * x.w + z];
                }
            }
        }
        Image { c: co, h, w, v }
    }

    fn norm(&self, name: &str, mut x: Image) -> Image {
        let [gain, bias, mean, var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.get(&format!("{name}.{part}")).1);
        for (i, v) in x.v.iter_mut().enumerate() {
            let c = i / (x.h * x.w);
            *v = (*v - mean[c]) / (var[c] + 1e-5).sqrt() * gain[c] + bias[c];
        }
        x
    }

    fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    fn logits(&self, x: Image) -> Vec<f64> {
        let relu = |mut x: Image| {
            x.v.iter_mut().for_each(|v| *v = v.max(0.0));
            x
        };
        let mut x = relu(self.norm("bn1", self.conv("conv1", &x, 1)));
        for stage in 1.. {
            if !self.has(&format!("layer{stage}.0.conv1.weight")) {
                break;
            }
            for block in 0.. {
                let name = format!("layer{stage}.{block}");
                if !self.has(&format!("{name}.conv1.weight")) {
                    break;
                }
                let stride = if stage > 1 && block == 0 { 2 } else { 1 };
                let bottleneck = self.has(&format!("{name}.conv3.weight"));
                let strides = if bottleneck {
                    vec![1, stride, 1]
                } else {
                    vec![stride, 1]
                };
                let mut y = x.clone();
                for (i, s) in strides.iter().enumerate() {
                    y = self.conv(&format!("{name}.conv{}", i + 1), &y, *s);
                    y = self.norm(&format!("{name}.bn{}", i + 1), y);
                    if i + 1 < strides.len() {
                        y = relu(y);
                    }
                }
                if self.has(&format!("{name}.downsample.0.weight")) {
                    x = self.conv(&format!("{name}.downsample.0"), &x, stride);
                    x = self.norm(&format!("{name}.downsample.1"), x);
                }
                y.v.iter_mut().zip(&x.v).for_each(|(y, x)| *y += x);
                x = relu(y);
            }
        }
        let (shape, w) = self.get("fc.weight");
        let (_, b) = self.get("fc.bias");
        assert_eq!(shape, [CLASSES, x.c]);
        let pixels = x.h * x.w;
        let pool = |c: usize| x.v[c * pixels..][..pixels].iter().sum::<f64>() / pixels as f64;
        let pooled: Vec<f64> = (0..x.c).map(pool).collect();
        let row = |o: usize| {
            w[o * x.c..][..x.c]
                .iter()
                .zip(&pooled)
                .map(|(w, p)| w * p)
                .sum::<f64>()
        };
        (0..CLASSES).map(|o| row(o) + b[o]).collect()
    }
}

#[test]
fn an_exported_file_means_what_torchvision_means_by_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    for depth in [8, 18, 50] {
        let arch = Architecture::of_depth(depth).unwrap();
        let (mut cpu, net, _) = trained(&arch, Cpu::new().unwrap(), 4);
        let about = About::default();
        nn::export(&mut cpu, &net.params, 4, &about, &path).unwrap();
        // What is imported elsewhere is what was exported here.
        let other = ResNet::new(
            &mut cpu,
            &Architecture::of_depth(depth).unwrap(),
            InputShape {
                batch: BATCH,
                height: 9,
                width: 7,
                channels: 3,
            },
            CLASSES,
        );
        let file = WeightFile::read(&path).unwrap();
        nn::import(&mut cpu, &other.params, &file, &about).unwrap();
        assert_eq!(
            cpu.read(net.params.values).unwrap(),
            cpu.read(other.params.values).unwrap()
        );
        assert_eq!(
            cpu.read(net.params.buffers).unwrap(),
            cpu.read(other.params.buffers).unwrap()
        );

        other.forward(&mut cpu, false);
        let x = data().test;
        let images = cpu.attach_images(x);
        let inputs = StepInputs {
            ids: (0..BATCH as u32).collect(),
            ..StepInputs::default()
        };
        cpu.step(Pass::Eval, inputs, &|exec| other.eval_step(exec, images))
            .unwrap();
        let (logits, batch) = (cpu.read(other.logits).unwrap(), cpu.read(other.x).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let reference = Reference(SafeTensors::deserialize(&bytes).unwrap());
        assert_eq!(
            reference
                .0
                .tensor("bn1.num_batches_tracked")
                .unwrap()
                .data(),
            4_i64.to_le_bytes()
        );
        for (logits, image) in logits
            .chunks_exact(CLASSES)
            .zip(batch.chunks_exact(9 * 7 * 3))
        {
            let v = (0..3)
                .flat_map(|c| image.iter().skip(c).step_by(3))
                .map(|v| f64::from(*v));
            let expected = reference.logits(Image {
                c: 3,
                h: 9,
                w: 7,
                v: v.collect(),
            });
            let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            for (a, b) in logits.iter().zip(&expected) {
                assert!(
                    (f64::from(*a) - b).abs() < 2e-5 * largest,
                    "{logits:?} {expected:?}"
                );
            }
        }
    }
}

#[test]
fn every_depth_is_built_with_the_operations_its_name_promises() {
    // Multiply-adds of a forward pass on 32×32, from the literature: 41 M for ResNet-20, 0.56 G for
    // ResNet-18 with a 3×3 stem.
    for (depth, macs) in [
        (20, 41e6),
        (56, 126e6),
        (110, 254e6),
        (18, 0.556e9),
        (50, 1.30e9),
    ] {
        let mut cpu = Cpu::with_isa(Isa::PORTABLE);
        let arch = Architecture::of_depth(depth).unwrap();
        let input = InputShape {
            batch: 1,
            height: 32,
            width: 32,
            channels: 3,
        };
        let net = ResNet::new(&mut cpu, &arch, input, 10);
        let stem = 32 * 32 * 27 * arch.widths[0] as u64;
        let forward = (net.train_ops_per_instance() / 2 + stem) as f64 / 3.0;
        assert!(
            (forward / macs - 1.0).abs() < 0.02,
            "ResNet-{depth}: {forward}"
        );
    }
}
