//! The Assistant itself: composes batches and learns from what became of them. No threads here; see
//! [`super::feeder`].

use super::error::AssistError;
use super::features::{ALIKE_OPS, Memory, Moment};
use super::instances::{Inputs, Instances};
use super::judge::{Judge, Opinion};
use super::model::{SIGMOID_OPS, sigmoid};
use super::policy::{KEEP_ALL, Plan, Threshold, exploration, keep};
use super::preset::Preset;
use super::quality::Quality;
use super::sweep::{Draft, Drawn, Sweeps};
use crate::rng::{hash, unit_f64};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an Assistant is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssistConfig {
    /// How instances are chosen.
    pub preset: Preset,
    /// Sweeps over the data, E: above 0, not always whole.
    pub epochs: f64,
    /// Instances a batch, B. For sentences a batch is a pool of several padded batches' worth,
    /// which the trainer sorts by length.
    pub batch: usize,
    /// Share of the operations of E full sweeps that may be spent, in (0, 1].
    pub budget: f64,
    /// Keeps as much as [`Memory::v`] says is needed, instead of as little as the budget says: then it
    /// is the candidates that come to an end, after E sweeps, and `budget` is 1.
    pub by_v: bool,
    /// Exploration floor, in [0, 1]: the least keep probability, as long as it is at most half the
    /// keep rate.
    pub floor: f32,
    /// Exponent k of the weights `p^(−k)`, in [0, 1]; 0 for none. They are as they are, of a mean above
    /// 1, so that with k = 1 a batch's gradient is in expectation that of all its candidates: a sweep
    /// of fewer steps goes as far.
    pub rescale: f32,
    /// Seed of the sweeps and of the choices.
    pub seed: u64,
}

impl AssistConfig {
    /// Cost so far of what comes to an end: the budget, or the candidates.
    pub(super) fn done(&self, sweeps: &Sweeps) -> u64 {
        match self.by_v {
            true => sweeps.offered(),
            false => sweeps.spent(),
        }
    }
}

/// A batch to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Number of the batch, from 0: the step it is for.
    pub number: u64,
    /// B different instances.
    pub ids: Vec<u32>,
    /// Loss weight of each, at least 1; empty if all are 1.
    pub weights: Vec<f32>,
    /// What its instances cost.
    pub cost: u64,
    /// Candidates looked at to fill it.
    pub candidates: u64,
    /// What the candidates cost.
    pub offered: u64,
    /// B / candidates.
    pub keep_rate: f32,
    /// Whether what is known of the instances chose it.
    pub scored: bool,
    /// The last step whose feedback the Assistant had applied; `None` before the first, and for a
    /// batch that it did not compose.
    pub feedback_through: Option<u64>,
}

impl Batch {
    /// The next candidates as they come.
    pub(super) fn unchosen(
        number: u64,
        batch: usize,
        costs: &[u64],
        sweeps: &Mutex<Sweeps>,
    ) -> Batch {
        let mut draft = Draft::new(batch);
        while draft.ids.len() < batch {
            let drawn = lock(sweeps).draw(batch - draft.ids.len(), &mut draft, costs);
            draft.ids.extend(drawn.ids);
        }
        Batch::new(number, draft, costs, sweeps)
    }

    /// Of a full draft; enters its cost.
    fn new(number: u64, draft: Draft, costs: &[u64], sweeps: &Mutex<Sweeps>) -> Batch {
        let cost = draft.ids.iter().map(|&id| costs[id as usize]).sum();
        lock(sweeps).spend(cost);
        Batch {
            number,
            keep_rate: draft.ids.len() as f32 / draft.candidates as f32,
            ids: draft.ids,
            weights: Vec::new(),
            cost,
            candidates: draft.candidates,
            offered: draft.offered,
            scored: false,
            feedback_through: None,
        }
    }
}

/// What became of a step's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// The step.
    pub step: u64,
    /// Its instances.
    pub ids: Vec<u32>,
    /// Their losses, without weights.
    pub losses: Vec<f32>,
    /// Whether the Boss was right about them.
    pub right: Vec<bool>,
}

/// All that an Assistant has learned; everything else of it follows from its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mind {
    pub(super) memory: Memory,
    /// Only where the preset has one.
    judge: Option<Judge>,
    threshold: Threshold,
    mean_loss: f32,
    quality: Quality,
    /// Exploration draws whose losses are not known yet, by step.
    probes: VecDeque<Probes>,
    /// Feedback applied: how many steps, and which was the last.
    updates: u64,
    applied: Option<u64>,
    ops: u64,
}

/// The exploration draws of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Probes {
    step: u64,
    /// Place in the batch, and the score σ(logit).
    scores: Vec<(u32, f32)>,
}

/// What decides about some candidates.
struct Verdict {
    /// Keep probabilities.
    keep: Vec<f32>,
    /// Scores σ(logit), where there are any, and the floor below which they had no say.
    scores: Vec<f32>,
    floor: f32,
}

/// Least weight of a new batch in the running mean loss: an average over some 50 batches.
const MEAN_RATE: f32 = 0.02;
/// The same for sentences: instances in the average. Pools of them are so large that 50 would be a
/// good part of the run, and the mean lag far behind the losses.
const MEAN_SENTENCES: f32 = 2048.0;
/// Salt of the draws that keep or skip.
const KEEP: u64 = 0x6b65_6570;

/// Composes batches for one run.
#[derive(Clone, Debug)]
pub struct Assistant {
    config: AssistConfig,
    plan: Plan,
    instances: Arc<Instances>,
    mind: Mind,
}

impl Assistant {
    /// One that has seen nothing yet.
    ///
    /// # Errors
    /// If a setting is out of its range, the batch larger than the data, or the instances
    /// contradict themselves.
    pub fn new(config: AssistConfig, instances: Arc<Instances>) -> Result<Assistant, AssistError> {
        let mut plan = Plan::new(&instances, config.batch, config.epochs, config.budget)?;
        if config.preset == Preset::InfoBatch {
            plan = plan.infobatch();
        }
        for (name, value) in [("floor", config.floor), ("rescale", config.rescale)] {
            if !(0.0..=1.0).contains(&value) {
                let range = "0 to 1";
                return Err(AssistError::Setting { name, value, range });
            }
        }
        if u32::try_from(instances.len()).is_err() {
            return Err(AssistError::Instances("more than 2³² of them"));
        }
        if instances.features.len() != instances.len() * instances.width()
            || !instances.features.iter().all(|x| x.is_finite())
        {
            return Err(AssistError::Instances("features are missing or not finite"));
        }
        if instances
            .classes
            .iter()
            .any(|&c| c as usize >= instances.n_classes)
        {
            return Err(AssistError::Instances("a class is out of range"));
        }
        let mind = Mind {
            memory: Memory::new(instances.len()),
            judge: Judge::new(config.preset, &instances)?,
            threshold: Threshold::new(),
            mean_loss: 0.0,
            quality: Quality::default(),
            probes: VecDeque::new(),
            updates: 0,
            applied: None,
            ops: 0,
        };
        Ok(Assistant {
            config,
            plan,
            instances,
            mind,
        })
    }

    /// How its budget is laid out.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What it was asked to do.
    pub fn config(&self) -> AssistConfig {
        self.config
    }

    /// What it chooses from.
    pub fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// The first sweep over its instances.
    pub fn sweeps(&self) -> Sweeps {
        Sweeps::new(self.config.seed, self.instances.len() as u32)
    }

    /// Operations spent so far on scoring and learning, counted from shapes: each +, −, ×, ÷,
    /// comparison is one, see `SIGMOID_OPS` for σ, logarithms and powers. Measuring
    /// [`quality`](Assistant::quality) is no part of it.
    pub fn ops(&self) -> u64 {
        self.mind.ops
    }

    /// [`Memory::v`] of what it knows.
    pub fn v(&self) -> Option<f64> {
        self.mind.memory.v()
    }

    /// How well its scores have told what would be above the mean loss.
    pub fn quality(&self) -> &Quality {
        &self.mind.quality
    }

    /// Composes the batch `number` from the next candidates.
    pub fn compose(&mut self, number: u64, sweeps: &Mutex<Sweeps>) -> Batch {
        let (spent, drawn, done) = {
            let sweeps = lock(sweeps);
            (sweeps.spent(), sweeps.offered(), self.config.done(&sweeps))
        };
        let selects = self.config.preset.selects(self.plan.phase(done));
        let target = match self.config.preset {
            _ if !selects => 1.0,
            // Meets no rate.
            Preset::InfoBatch => 0.0,
            _ if self.config.by_v => self.mind.memory.v().map_or(1.0, Plan::least_rate),
            _ => self.plan.target(spent, drawn),
        };
        let mut batch = if target < KEEP_ALL {
            self.choose(number, target, sweeps)
        } else {
            Batch::unchosen(number, self.config.batch, &self.instances.costs, sweeps)
        };
        batch.feedback_through = self.mind.applied;
        batch
    }

    /// The batch that was composed last as number `from` becomes number `to`.
    pub(super) fn renumber(&mut self, from: u64, to: u64) {
        if let Some(last) = self.mind.probes.back_mut().filter(|p| p.step == from) {
            last.step = to;
        }
    }

    /// Fills a batch by keeping candidates at the rate `target`. Candidates are drawn in blocks of
    /// as many as are missing, so none is drawn in vain however lucky the draws.
    fn choose(&mut self, number: u64, target: f32, sweeps: &Mutex<Sweeps>) -> Batch {
        let size = self.config.batch;
        let mut draft = Draft::new(size);
        let mut kept = Vec::with_capacity(size);
        let mut probes = Vec::new();
        while draft.ids.len() < size {
            let fresh = draft.candidates == 0;
            let missing = size - draft.ids.len();
            let drawn = lock(sweeps).draw(missing, &mut draft, &self.instances.costs);
            let verdict = self.judge(number, &drawn, target, fresh);
            for (i, (&id, &p)) in drawn.ids.iter().zip(&verdict.keep).enumerate() {
                let u = unit_f64(hash(self.config.seed, KEEP, drawn.first + i as u64));
                if u < f64::from(p) {
                    if u < f64::from(verdict.floor) {
                        probes.push((draft.ids.len() as u32, verdict.scores[i]));
                    }
                    draft.ids.push(id);
                    kept.push(p);
                }
            }
        }
        if !probes.is_empty() {
            let (step, scores) = (number, probes);
            self.mind.probes.push_back(Probes { step, scores });
        }
        Batch {
            weights: self.weights(&kept),
            scored: self.mind.judge.is_some(),
            ..Batch::new(number, draft, &self.instances.costs, sweeps)
        }
    }

    /// Decides about candidates. The threshold is solved anew at the `first` block of a batch.
    fn judge(&mut self, number: u64, drawn: &Drawn, target: f32, first: bool) -> Verdict {
        let (at, ids) = (self.moment(number), &drawn.ids);
        let mind = &mut self.mind;
        let mut floor = exploration(self.config.floor, target);
        let (opinion, ops) = match &mut mind.judge {
            Some(judge) => {
                floor = judge.floor(floor, target);
                judge.opinion(&mind.memory, &self.instances, drawn, at)
            }
            None => (Opinion::Keep(vec![target; ids.len()]), 0),
        };
        mind.ops += ops;
        let logits = match opinion {
            Opinion::Logits(logits) => logits,
            Opinion::Keep(keep) => {
                return Verdict {
                    keep,
                    scores: Vec::new(),
                    floor: 0.0,
                };
            }
        };
        let weights = ids.iter().map(|&id| {
            let cost = self.instances.costs[id as usize];
            self.plan.relative(cost)
        });
        mind.threshold.push(logits.iter().copied().zip(weights));
        // The weight is 2, and the draw a comparison.
        mind.ops += ids.len() as u64 * 3;
        let keep = if floor < target {
            if first {
                mind.ops += mind.threshold.solve((target - floor) / (1.0 - floor));
            }
            // Subtract θ, σ, multiply-add.
            mind.ops += ids.len() as u64 * (SIGMOID_OPS + 3);
            let theta = mind.threshold.theta();
            let keep = |logit: &f32| keep(floor, sigmoid(logit - theta));
            logits.iter().map(keep).collect()
        } else {
            // The scores have no say.
            vec![target; ids.len()]
        };
        Verdict {
            keep,
            scores: logits.iter().map(|&logit| sigmoid(logit)).collect(),
            floor,
        }
    }

    /// `p^(−k)`, none for k = 0; InfoBatch has `1/p`.
    fn weights(&mut self, kept: &[f32]) -> Vec<f32> {
        if self.config.preset == Preset::InfoBatch {
            self.mind.ops += kept.len() as u64;
            return kept.iter().map(|p| 1.0 / p).collect();
        }
        let k = self.config.rescale;
        if k == 0.0 {
            return Vec::new();
        }
        if self.mind.judge.is_some() {
            // A power is a logarithm and an exponential.
            self.mind.ops += kept.len() as u64 * 2 * SIGMOID_OPS;
        }
        kept.iter().map(|p| p.powf(-k)).collect()
    }

    /// Learns from what became of a step's batch, with the features as they stood before it, then
    /// remembers it.
    pub fn apply(&mut self, feedback: &Feedback) {
        let Feedback {
            step,
            ids,
            losses,
            right,
        } = feedback;
        let n = ids.len();
        if n > 0 {
            let mean = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            if self.mind.updates == 0 {
                self.mind.mean_loss = mean as f32;
            }
            let at = self.moment(*step);
            let mind = &mut self.mind;
            if let Some(judge) = &mut mind.judge {
                let records = (&ids[..], &losses[..]);
                let (labels, ops) = judge.learn(&mind.memory, &self.instances, records, at);
                mind.ops += ops;
                mind.measure(*step, &labels);
            }
            mind.memory.observe(*step, ids, losses, right);
            if self.config.by_v {
                mind.ops += ALIKE_OPS * n as u64;
            }
            mind.updates += 1;
            let least = match self.instances.inputs {
                Inputs::Sentences(_) => (n as f32 / MEAN_SENTENCES).min(1.0),
                _ => MEAN_RATE,
            };
            let rate = least.max(1.0 / mind.updates as f32);
            mind.mean_loss += rate * (mean as f32 - mind.mean_loss);
        }
        self.mind.applied = Some(*step);
    }

    fn moment(&self, step: u64) -> Moment {
        Moment {
            step,
            mean_loss: self.mind.mean_loss,
            pace: self.config.batch as f32 / self.instances.len() as f32,
        }
    }

    /// What it has learned, for a snapshot.
    pub(super) fn mind(&self) -> &Mind {
        &self.mind
    }

    /// Takes over what another of the same configuration had learned.
    pub(super) fn resume(&mut self, mind: Mind) -> Result<(), AssistError> {
        let fits = match (&mind.judge, &self.mind.judge) {
            (Some(a), Some(b)) => a.fits(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if mind.memory.len() != self.instances.len() || !fits {
            return Err(AssistError::State("it is of another data set or preset"));
        }
        let sound = mind.memory.is_sound()
            && mind.threshold.is_sound()
            && mind.judge.as_ref().is_none_or(Judge::is_sound)
            && mind.mean_loss.is_finite()
            && mind.quality.is_sound()
            && mind.probes.iter().all(|p| p.is_sound(self.config.batch));
        if !sound {
            return Err(AssistError::State("it is damaged"));
        }
        self.mind = mind;
        Ok(())
    }
}

impl Mind {
    /// Holds the scores of a step's exploration draws against its labels. Those of steps before it
    /// will never be answered: their losses were dropped.
    fn measure(&mut self, step: u64, labels: &[bool]) {
        let known = self.probes.partition_point(|p| p.step <= step);
        for probes in self.probes.drain(..known).filter(|p| p.step == step) {
            for (row, score) in probes.scores {
                self.quality.add(score, labels[row as usize]);
            }
        }
    }
}

impl Probes {
    fn is_sound(&self, batch: usize) -> bool {
        let mut scores = self.scores.iter();
        scores.all(|&(row, score)| (row as usize) < batch && score.is_finite())
    }
}

/// Locks; a panic while it was locked is reported elsewhere (see [`super::feeder`]).
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
