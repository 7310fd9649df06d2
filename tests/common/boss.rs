//! A simulated Boss, its data, and runs of the Assistant over it: a fifth of the instances are hard
//! and stay so, the rest are learned quickly.

use autoassist::assist::{
    AssistConfig, Assistant, Batch, Feedback, Inputs, Instances, Phase, Plan, Preset, Sweeps,
};
use autoassist::data::Images;
use autoassist::data::pairs::{EOS, SentencePairs, Sentences};
use autoassist::rng::{hash, unit_f64};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

pub const SLOTS: u64 = 6;

/// 12 bytes an instance: the first tells whether it is hard, the rest are noise.
pub fn images(n: usize) -> Arc<Images> {
    let byte = |(id, i): (u32, u64)| match (i, is_hard(id)) {
        (0, true) => 255,
        (0, false) => 0,
        _ => hash(9, u64::from(id), i) as u8,
    };
    let pixels = (0..n as u32).flat_map(|id| (0..12).map(move |i| (id, i)));
    Arc::new(Images {
        pixels: pixels.map(byte).collect(),
        labels: (0..n as u32).map(|id| id % 7).collect(),
        height: 2,
        width: 2,
        channels: 3,
        mean: vec![0.5; 3],
        std: vec![0.3; 3],
    })
}

pub fn instances(n: usize) -> Arc<Instances> {
    Arc::new(Instances {
        inputs: Inputs::Images(images(n)),
        costs: vec![1; n],
        classes: (0..n as u32).map(|id| id % 7).collect(),
        n_classes: 7,
        features: (0..2 * n as u64)
            .map(|i| unit_f64(hash(1, i, 0)) as f32 * 3.4 - 1.7)
            .collect(),
    })
}

/// Sentences that cost what they are long. The hard ones are half as long again, and hold a word
/// that the others do not.
pub fn sentence_pairs(n: usize) -> Arc<Instances> {
    let word = |id: u32, i: u64| 4 + (hash(10, u64::from(id), i) % 40) as i32;
    let sentence = |id: u32| -> Vec<i32> {
        let (least, hard) = if is_hard(id) {
            (6, Some(44))
        } else {
            (4, None)
        };
        let words = (0..least + hash(12, u64::from(id), 0) % 4).map(|i| word(id, i));
        words.chain(hard).chain([EOS]).collect()
    };
    let all: Vec<Vec<i32>> = (0..n as u32).map(sentence).collect();
    let text: Sentences = all.iter().map(Vec::as_slice).collect();
    let costs = all.iter().map(|s| 1000 * s.len() as u64).collect();
    let pairs = SentencePairs::new(text.clone(), text);
    Arc::new(Instances::from_pairs(&pairs, costs, 45))
}

pub fn config(preset: Preset, batch: usize, budget: f64) -> AssistConfig {
    AssistConfig {
        preset,
        epochs: 8.0,
        batch,
        budget,
        by_v: false,
        floor: 0.3,
        rescale: 0.0,
        seed: 11,
    }
}

pub fn is_hard(id: u32) -> bool {
    hash(2, u64::from(id), 0).is_multiple_of(5)
}

/// A Boss that knows each instance better from visit to visit.
pub struct Boss {
    pub visits: Vec<u32>,
}

impl Boss {
    pub fn train(&mut self, batch: &Batch) -> Feedback {
        let losses: Vec<f32> = batch
            .ids
            .iter()
            .map(|&id| {
                let visits = &mut self.visits[id as usize];
                *visits += 1;
                let noise = 0.5 + unit_f64(hash(3, u64::from(id), u64::from(*visits))) as f32;
                noise * 2.3 * if is_hard(id) { 0.9f32 } else { 0.4 }.powi(*visits as i32 - 1)
            })
            .collect();
        Feedback {
            step: batch.number,
            ids: batch.ids.clone(),
            right: losses.iter().map(|&x| x < 1.0).collect(),
            losses,
        }
    }
}

/// A run without threads, by the rule: batch n has the feedback of steps ≤ n − K and no other.
pub struct Run {
    pub instances: Arc<Instances>,
    pub assistant: Assistant,
    sweeps: Mutex<Sweeps>,
    pub boss: Boss,
    pending: VecDeque<Feedback>,
}

impl Run {
    pub fn new(n: usize, config: AssistConfig) -> Run {
        Run::over(instances(n), config)
    }

    pub fn over(instances: Arc<Instances>, config: AssistConfig) -> Run {
        let assistant = Assistant::new(config, instances.clone()).unwrap();
        let visits = vec![0; instances.len()];
        Run {
            instances,
            sweeps: Mutex::new(assistant.sweeps()),
            assistant,
            boss: Boss { visits },
            pending: VecDeque::new(),
        }
    }

    pub fn step(&mut self, number: u64) -> Batch {
        if self.pending.len() as u64 == SLOTS {
            let feedback = self.pending.pop_front().unwrap();
            self.assistant.apply(&feedback);
        }
        let batch = self.assistant.compose(number, &self.sweeps);
        assert_eq!(
            batch.ids.iter().collect::<HashSet<_>>().len(),
            batch.ids.len()
        );
        assert_eq!(batch.feedback_through, number.checked_sub(SLOTS));
        self.pending.push_back(self.boss.train(&batch));
        batch
    }

    /// Until the budget is spent.
    pub fn all(&mut self) -> Vec<Batch> {
        let budget = budget(&self.instances, self.assistant.config());
        let (mut batches, mut spent) = (Vec::new(), 0);
        while (spent as f64) < budget {
            let batch = self.step(batches.len() as u64);
            spent += batch.cost;
            batches.push(batch);
        }
        batches
    }
}

/// What may be spent; but for the rounding of a budget like 0.65.
pub fn budget(instances: &Instances, config: AssistConfig) -> f64 {
    let sweep = instances.costs.iter().sum::<u64>() as f64;
    config.budget * (config.epochs * sweep) * (1.0 - 1e-12)
}

/// Where all instances cost the same.
pub fn phase(plan: Plan, batch: &Batch) -> Phase {
    plan.phase(batch.number * batch.cost)
}

pub fn drawn(batches: &[Batch]) -> u64 {
    batches.iter().map(|b| b.candidates).sum()
}
