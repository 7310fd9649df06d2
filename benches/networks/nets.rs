//! The networks that are measured, each with its training step.

use autoassist::backend::sequence::Adam;
use autoassist::backend::{Augment, DeviceError, Executor, Sgd};
use autoassist::data;
use autoassist::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use autoassist::nn::{
    Architecture, InputShape, Network, NormPlace, Optimiser, ResNet, TrainSpec, TransformerConfig,
};
use autoassist::rng::Stream;
use std::sync::Arc;

/// Asks an executor for the ops of a step.
type Step = dyn Fn(&mut dyn Executor);

/// A network in an executor's memory, with its data.
pub struct Net {
    /// A training step.
    pub ops: Box<Step>,
    /// Instances of a step.
    pub batch: usize,
    /// Instances that there are.
    pub instances: usize,
}

/// How a network is made.
pub struct Spec {
    pub name: &'static str,
    /// For people: the shape.
    pub shape: &'static str,
    /// Of the CPU, and of a GPU.
    pub batches: [usize; 2],
    pub make: fn(&mut dyn Executor, usize) -> Result<Net, DeviceError>,
}

/// All of them.
pub const ALL: [Spec; 3] = [
    Spec {
        name: "resnet8",
        shape: "32x32x3, 10 classes",
        batches: [128, 1024],
        make: |exec, batch| resnet(exec, 8, batch),
    },
    Spec {
        name: "resnet20",
        shape: "32x32x3, 10 classes",
        batches: [128, 1024],
        make: |exec, batch| resnet(exec, 20, batch),
    },
    Spec {
        name: "transformer",
        shape: "vocabulary 8000, d 256, 4 heads, ffn 1024, 3+3 layers, 16 tokens",
        batches: [64, 256],
        make: transformer,
    },
];

fn resnet(exec: &mut dyn Executor, depth: u32, batch: usize) -> Result<Net, DeviceError> {
    let images = data::synthetic(0).train;
    let arch = Architecture::of_depth(depth).expect("a known depth");
    let input = InputShape {
        batch,
        height: images.height,
        width: images.width,
        channels: images.channels,
    };
    let net = ResNet::new(exec, &arch, input, 10);
    let instances = images.len();
    let data = exec.attach_images(images);
    net.params.initialise(exec, 0)?;
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    let sgd = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    Ok(Net {
        ops: Box::new(move |exec| net.train_step(exec, data, augment, 0.0, sgd)),
        batch,
        instances,
    })
}

const CONFIG: TransformerConfig = TransformerConfig {
    vocab: 8000,
    d: 256,
    heads: 4,
    ffn: 1024,
    layers: [3, 3],
    norm: NormPlace::Pre,
    dropout: 0.1,
};
/// Of every sentence.
const LENGTH: usize = 16;
const SPEC: TrainSpec = TrainSpec {
    smoothing: 0.1,
    clip: f32::INFINITY,
    optimiser: Optimiser::Adam(Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 0.0,
        decoupled: false,
    }),
};

/// Of random words.
fn sentences(count: usize) -> Sentences {
    let mut random = Stream::new(1, 0, 0);
    let mut all = Sentences::default();
    for _ in 0..count {
        let token = |_| 4 + random.below(CONFIG.vocab as u64 - 4) as i32;
        let mut tokens: Vec<i32> = (1..LENGTH).map(token).collect();
        tokens.push(EOS);
        all.push(&tokens);
    }
    all
}

fn transformer(exec: &mut dyn Executor, batch: usize) -> Result<Net, DeviceError> {
    let shape = PairShape {
        sentences: batch,
        source: LENGTH,
        target: LENGTH,
    };
    let ops = exec.sequence().expect("these executors have the ops");
    let pairs = SentencePairs::new(sentences(batch), sentences(batch));
    let data = ops.attach_pairs(Arc::new(pairs));
    let net = Network::new(ops, CONFIG, shape)?;
    net.params.initialise(exec, 0)?;
    Ok(Net {
        ops: Box::new(move |exec| {
            let ops = exec.sequence().expect("it has made the network");
            net.bind(shape).train_step(ops, data, SPEC);
        }),
        batch,
        instances: batch,
    })
}
