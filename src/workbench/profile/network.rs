//! `kernels profile --network`: a whole training step of a network, each of its launches predicted, and
//! added up.

use super::gpus::Specs;
use super::roofline::{Unit, predict, time};
use super::text::{aligned, missing_units};
use super::{BUDGET, ProfileError, sass};
use crate::backend::gpu::Gpu;
use crate::backend::sequence::{Adam, Sequence};
use crate::backend::{Augment, Executor, Pass, Sgd, StepInputs};
use crate::data::Images;
use crate::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use crate::nn::{self, Architecture, InputShape, Optimiser, ResNet, TrainSpec, TransformerConfig};
use crate::simt::Simt;
use crate::simt::counts::LaunchProfile;
use crate::simt::once::{Once, Order};
use crate::simt::profiler::Profiler;
use std::fmt::Write as _;
use std::sync::Arc;

/// Seconds between two kernels of a graph of which the second waits for the first: its launch, and the
/// time until its blocks run. Gray, *Getting Started with CUDA Graphs*, NVIDIA 2019, has half of that
/// for the launch alone.
pub const GAP: f64 = 1e-6;

/// Of the ring of losses, which nobody reads.
const SLOTS: usize = 4;
/// Tokens of a sentence, and of the vocabulary.
const TOKENS: usize = 16;
const VOCABULARY: usize = 32_000;

/// A network that there are training steps of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// On CIFAR-10, of so many layers.
    ResNet(u32),
    /// On pairs of 16 tokens of 32,000 each; the preset's name.
    Transformer(&'static str),
}

impl Network {
    /// `resnet20`, `transformer-base`.
    pub fn named(name: &str) -> Option<Network> {
        Network::all().find(|network| network.name() == name)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Network> {
        let presets = ["tiny", "iwslt", "base"];
        let resnets = Architecture::DEPTHS.into_iter().map(Network::ResNet);
        resnets.chain(presets.map(Network::Transformer))
    }

    /// As it is named on command lines.
    pub fn name(self) -> String {
        match self {
            Network::ResNet(depth) => format!("resnet{depth}"),
            Network::Transformer(preset) => format!("transformer-{preset}"),
        }
    }

    /// Examples of a step where nobody says how many.
    pub fn usual_batch(self) -> usize {
        match self {
            Network::ResNet(_) => 1024,
            Network::Transformer(_) => 256,
        }
    }

    /// What a step is so many of a second.
    pub fn examples(self) -> &'static str {
        match self {
            Network::ResNet(_) => "images",
            Network::Transformer(_) => "pairs",
        }
    }
}

/// A training step.
pub struct Step {
    /// The network.
    pub network: Network,
    /// Examples.
    pub batch: usize,
    /// What it launches, each kind of launch once.
    pub kinds: Vec<LaunchProfile>,
    /// Its launches in order, as numbers of `kinds`.
    pub order: Vec<usize>,
    /// Why machine code was not read, if it was not.
    pub missing: Option<String>,
}

/// What the launches of a kernel take.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub kernel: &'static str,
    /// How often it is launched.
    pub calls: usize,
    /// Seconds of all calls.
    pub seconds: f64,
    /// What bounds most of that time.
    pub bound: Unit,
    /// Seconds that memory alone would take.
    pub memory: f64,
    /// Instructions that warps issue in all calls; 0 where that is not known.
    pub issued: f64,
}

impl Step {
    /// The kernels with their times on a GPU, the costliest first.
    pub fn rows(&self, specs: &Specs) -> Vec<Row> {
        let predictions: Vec<_> = self.kinds.iter().map(|kind| predict(specs, kind)).collect();
        let mut rows: Vec<(Row, Vec<(Unit, f64)>)> = Vec::new();
        for &number in &self.order {
            let kind = &self.kinds[number];
            // The gap before a launch is counted by itself.
            let limits = || {
                predictions[number]
                    .limits
                    .iter()
                    .filter(|(unit, _)| *unit != Unit::Launch)
            };
            let (bound, seconds) = limits().next().copied().unwrap_or((Unit::Launch, 0.0));
            let memory = limits().find(|(unit, _)| *unit == Unit::Memory);
            let known = rows.iter().position(|(row, _)| row.kernel == kind.kernel);
            let at = known.unwrap_or_else(|| {
                let row = Row {
                    kernel: kind.kernel,
                    calls: 0,
                    seconds: 0.0,
                    bound,
                    memory: 0.0,
                    issued: 0.0,
                };
                rows.push((row, Vec::new()));
                rows.len() - 1
            });
            let (row, bounds) = &mut rows[at];
            row.calls += 1;
            row.seconds += seconds;
            row.memory += memory.map_or(0.0, |(_, seconds)| *seconds);
            row.issued += kind.issued.as_ref().map_or(0.0, |issued| issued.slots);
            match bounds.iter_mut().find(|(unit, _)| *unit == bound) {
                Some((_, sum)) => *sum += seconds,
                None => bounds.push((bound, seconds)),
            }
            row.bound = bounds
                .iter()
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .map_or(bound, |(unit, _)| *unit);
        }
        let mut rows: Vec<Row> = rows.into_iter().map(|(row, _)| row).collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }

    /// Seconds of all gaps between launches.
    pub fn gaps(&self) -> f64 {
        self.order.len() as f64 * GAP
    }

    /// Seconds of the step: its kernels one after the other, and the gaps.
    pub fn seconds(&self, specs: &Specs) -> f64 {
        let kernels: f64 = self.rows(specs).iter().map(|row| row.seconds).sum();
        kernels + self.gaps()
    }
}

const HEADER: [&str; 8] = [
    "kernel",
    "calls",
    "µs each",
    "µs",
    "share",
    "bound by",
    "µs of memory",
    "M instructions",
];

impl Step {
    /// A row a kernel, then the gaps, and the sum.
    fn cells(&self, specs: &Specs) -> Vec<Vec<String>> {
        let all = self.seconds(specs);
        let micros = |seconds: f64| format!("{:.1}", 1e6 * seconds);
        let share = |seconds: f64| format!("{:.1} %", 100.0 * seconds / all);
        let millions = |n: f64| match self.missing {
            None => format!("{:.2}", n / 1e6),
            Some(_) => "–".into(),
        };
        let rows = self.rows(specs);
        let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
        let mut cells = vec![HEADER.map(String::from).to_vec()];
        for row in &rows {
            cells.push(vec![
                row.kernel.into(),
                row.calls.to_string(),
                micros(row.seconds / row.calls as f64),
                micros(row.seconds),
                share(row.seconds),
                row.bound.to_string(),
                micros(row.memory),
                millions(row.issued),
            ]);
        }
        let launches = self.order.len();
        let none = || "–".to_string();
        cells.push(vec![
            "gaps between launches".into(),
            launches.to_string(),
            micros(GAP),
            micros(self.gaps()),
            share(self.gaps()),
            none(),
            none(),
            none(),
        ]);
        cells.push(vec![
            "a step".into(),
            launches.to_string(),
            none(),
            micros(all),
            share(all),
            none(),
            micros(sum(|row| row.memory)),
            millions(sum(|row| row.issued)),
        ]);
        cells
    }

    /// `ResNet-20, 1024 images a step on an H100: 5.10 ms, 200,784 images/s`, and how far to believe it.
    fn summary(&self, specs: &Specs) -> String {
        let seconds = self.seconds(specs);
        let sampled = self.kinds.iter().filter(|kind| kind.is_sampled()).count();
        let missing = self.missing.as_deref().map_or(String::new(), missing_units);
        format!(
            "{}, {} {} a step, {}: {}, {:.0} {}/s predicted. {} launches, {} of them alike but for \
             their data; counts of {sampled} kinds are estimates by a sample of their blocks.{missing}",
            self.network.name(),
            self.batch,
            self.network.examples(),
            specs.name,
            time(seconds),
            self.batch as f64 / seconds,
            self.network.examples(),
            self.order.len(),
            self.order.len() - self.kinds.len(),
        )
    }

    /// For a terminal.
    pub fn text(&self, specs: &Specs) -> String {
        format!(
            "{}\n\n{}",
            self.summary(specs),
            aligned(&self.cells(specs), &[0, 5])
        )
    }

    /// For a Markdown file.
    pub fn markdown(&self, specs: &Specs) -> String {
        let revision = env!("AUTOASSIST_REVISION");
        let mut text = format!("Revision {revision}: {}\n\n", self.summary(specs));
        for (number, row) in self.cells(specs).iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(HEADER.len()));
            }
        }
        text
    }
}

/// Captures a training step as on such a GPU and profiles each kind of launch that it has, by a sample
/// of the blocks if it is large: smaller ones than of a launch that is looked at alone, as there are
/// many.
///
/// # Errors
/// No memory for such a batch, or a failure of the executor.
pub fn profile(network: Network, batch: usize, specs: &Specs) -> Result<Step, ProfileError> {
    let profiler = Profiler::sampling(BUDGET / 8)?;
    let order = Order::default();
    let simt = Simt::profiled(specs.capability, profiler.clone());
    let mut gpu = Gpu::new(Box::new(Once::new(simt, order.clone())));
    match network {
        Network::ResNet(depth) => resnet(&mut gpu, depth, batch)?,
        Network::Transformer(preset) => transformer(&mut gpu, preset, batch)?,
    }
    gpu.block(|driver| driver.synchronize())?;
    let mut kinds = profiler.profiles();
    let missing = sass::read(&mut kinds, specs).err();
    let order = order.lock().expect("no holder panics").clone();
    Ok(Step {
        network,
        batch,
        kinds,
        order,
        missing,
    })
}

/// A step on images of noise, as training has it.
fn resnet(gpu: &mut Gpu, depth: u32, batch: usize) -> Result<(), ProfileError> {
    const CLASSES: usize = 10;
    let arch = Architecture::of_depth(depth).expect("one of those that there are");
    let input = InputShape {
        batch,
        height: 32,
        width: 32,
        channels: 3,
    };
    let net = ResNet::new(gpu, &arch, input, CLASSES);
    let data = gpu.attach_images(Arc::new(Images {
        pixels: (0..batch * 32 * 32 * 3).map(|i| (i * 7919) as u8).collect(),
        labels: (0..batch).map(|i| (i % CLASSES) as u32).collect(),
        height: 32,
        width: 32,
        channels: 3,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    }));
    gpu.create_ring(SLOTS, batch)?;
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    let sgd = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let step = |e: &mut dyn Executor| net.train_step(e, data, augment, 0.0, sgd);
    Ok(gpu.step(Pass::Train, inputs(batch, [0; 3]), &step)?)
}

/// A step on pairs without padding.
fn transformer(gpu: &mut Gpu, preset: &str, batch: usize) -> Result<(), ProfileError> {
    let config =
        TransformerConfig::preset(preset, VOCABULARY).expect("one of those that there are");
    let shape = PairShape {
        sentences: batch,
        source: TOKENS,
        target: TOKENS,
    };
    let spec = TrainSpec {
        smoothing: 0.1,
        clip: 1.0,
        optimiser: Optimiser::Adam(Adam {
            betas: [0.9, 0.98],
            eps: 1e-9,
            weight_decay: 0.0,
            decoupled: true,
        }),
    };
    let net = nn::Network::new(gpu, config, shape)?;
    let data = gpu.attach_pairs(Arc::new(sentences(batch)));
    gpu.create_ring(SLOTS, batch)?;
    let bound = net.bind(shape);
    let step = |e: &mut dyn Executor| {
        bound.train_step(e.sequence().expect("GPUs have the ops"), data, spec);
    };
    let key = [batch, TOKENS, TOKENS].map(|n| n as u32);
    Ok(gpu.step(Pass::Train, inputs(batch, key), &step)?)
}

fn inputs(batch: usize, shape: [u32; 3]) -> StepInputs {
    StepInputs {
        ids: (0..batch as u32).collect(),
        lr: 0.1,
        seed: 1,
        shape,
        total: batch as u32,
        ..StepInputs::default()
    }
}

fn sentences(count: usize) -> SentencePairs {
    let side = |from: usize| {
        let mut all = Sentences::default();
        for sentence in 0..count {
            // All over the vocabulary, behind the special ones.
            let token = |i: usize| 4 + ((from + sentence * TOKENS + i) * 7919) % (VOCABULARY - 4);
            let mut tokens: Vec<i32> = (0..TOKENS - 1).map(|i| token(i) as i32).collect();
            tokens.push(EOS);
            all.push(&tokens);
        }
        all
    };
    SentencePairs::new(side(0), side(1))
}
