//! One run: the loop that feeds the Boss, drains the loss ring, hands the losses to the Assistant
//! and keeps the books.

use super::boss::Boss;
use super::checkpoint::{Checkpoint, CheckpointError, Progress};
use super::console::Console;
use super::metrics::{Metrics, Point, environment};
use super::summary::{ArmResult, Summary};
use super::{Arm, Assist, Config, ConfigError, TrainError, learning_rate, report_file};
use crate::assist::{
    AssistConfig, AssistError, Assistant, Drain, Feedback, Feeder, FeederConfig, Instances, Preset,
    Quality, StepRecords,
};
use crate::backend::{DeviceError, StepInputs};
use crate::data::Dataset;
use crate::files;
use crate::nn;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Steps that may be under way at once (K in the protocol of the loss ring).
pub(super) const SLOTS: usize = 4;
/// Least keep probability of the Assistant, so that it hears of every instance now and then.
const EXPLORATION: f32 = 0.3;

/// Everything a run is given.
pub struct Job<'a> {
    /// Settings.
    pub config: &'a Config,
    /// Instances.
    pub data: &'a Dataset,
    /// The run's folder; exists.
    pub dir: PathBuf,
    /// Where people look.
    pub console: Console,
    /// Set by Ctrl-C.
    pub interrupt: &'a AtomicBool,
}

impl Job<'_> {
    /// A batch is drawn from the data without repetition.
    pub(super) fn check_batch(&self) -> Result<(), ConfigError> {
        let (instances, batch) = (self.data.train.len(), self.config.batch);
        if batch <= instances {
            return Ok(());
        }
        let remedy = format!("the data set has only {instances} training images; lower --batch");
        Err(ConfigError::Value {
            flag: "batch",
            value: batch.to_string(),
            remedy,
        })
    }
}

/// From where a run starts.
pub enum Start {
    /// The beginning.
    Fresh,
    /// What a checkpoint holds.
    Resume(Box<Checkpoint>),
}

/// Trains as the job says and returns what came of it. The run's folder then holds `config.toml`,
/// `metrics.jsonl`, TensorBoard events, `model.safetensors`, `summary.json`, `report.html` and the
/// last checkpoint.
///
/// # Errors
/// Unusable settings, a write that failed, a loss that is not finite, or Ctrl-C (after a
/// checkpoint).
pub fn train(job: &Job, start: Start) -> Result<Summary, TrainError> {
    let mut run = Run::new(job, start)?;
    if run.progress.step == 0 {
        run.checkpoint()?;
    }
    let bar = job.console.bar(&run.label, run.steps, run.progress.step);
    while run.progress.step < run.steps {
        if job.interrupt.load(Ordering::Relaxed) {
            bar.abandon();
            run.checkpoint()?;
            let (step, dir) = (run.progress.step, job.dir.clone());
            return Err(TrainError::Interrupted { step, dir });
        }
        run.step()?;
        bar.set_position(run.progress.step);
        bar.set_message(run.interval.message(&run));
        let done = run.progress.step;
        if done.is_multiple_of(run.metrics_every) {
            run.log_interval()?;
        }
        if run.eval_due(done) {
            run.evaluate(&bar)?;
        }
        if done.is_multiple_of(job.config.checkpoint_every) {
            run.checkpoint()?;
        }
    }
    bar.finish_and_clear();
    run.finish()
}

/// Goes on with the run in the job's folder from its checkpoint; of a finished run, returns what
/// came of it.
///
/// # Errors
/// Those of [`train`], and a checkpoint that is missing, damaged or of another run.
pub fn resume(job: &Job) -> Result<Summary, TrainError> {
    let checkpoint = Checkpoint::load(&job.dir).map_err(TrainError::unusable)?;
    if !checkpoint.progress.finished {
        return train(job, Start::Resume(Box::new(checkpoint)));
    }
    let path = job.dir.join("summary.json");
    let text = files::read(&path).map_err(TrainError::unusable)?;
    serde_json::from_str(&text).map_err(|e| {
        let source = e.into();
        TrainError::unusable(files::ReadError { path, source })
    })
}

/// The Assistant of a run.
fn assistant(config: &Config, data: &Dataset) -> Result<Assistant, AssistError> {
    let preset = match config.assist {
        Assist::Memory => Preset::Memory,
        Assist::Paper => Preset::Paper,
        Assist::Random => Preset::Random,
        Assist::Infobatch => Preset::InfoBatch,
        Assist::Off => Preset::Off,
    };
    let config = AssistConfig {
        preset,
        epochs: config.epochs as usize,
        batch: config.batch,
        budget: config.budget,
        floor: EXPLORATION,
        rescale: config.rescale as f32,
        seed: config.seed,
    };
    Assistant::new(config, Arc::new(Instances::from_images(&data.train)))
}

/// Batches that the budget is worth: each instance costs the same. The tolerance is for budgets
/// like 0.65, which no f64 is: a whole number of batches must stay one.
fn steps(config: &Config, instances: usize) -> u64 {
    let candidates = f64::from(config.epochs) * instances as f64;
    (config.budget * candidates / config.batch as f64 * (1.0 - 1e-12)).ceil() as u64
}

/// Puts a checkpoint's numbers into the network.
fn restore_boss(
    boss: &mut Boss,
    checkpoint: &Checkpoint,
    fingerprint: u64,
    dir: &Path,
) -> Result<(), TrainError> {
    let other = |reason: &str| {
        let (path, reason) = (Checkpoint::path(dir), reason.to_string());
        TrainError::unusable(CheckpointError::Other { path, reason })
    };
    if checkpoint.progress.data != fingerprint {
        return Err(other(
            "the images or labels are not those it was trained on",
        ));
    }
    let params = &boss.net.params;
    let parts = [
        (params.values, &checkpoint.values),
        (params.momentum, &checkpoint.momentum),
        (params.buffers, &checkpoint.buffers),
    ];
    if parts
        .iter()
        .any(|(tensor, values)| tensor.len() != values.len())
    {
        return Err(other("it is of another network"));
    }
    for (tensor, values) in parts {
        let written = boss.exec.write(tensor, values);
        written.map_err(|e| TrainError::unusable(e.at_batch(boss.ring.rows())))?;
    }
    Ok(())
}

/// A run under way.
struct Run<'a> {
    job: &'a Job<'a>,
    arm: Arm,
    label: String,
    boss: Boss,
    /// Steps of the whole budget.
    steps: u64,
    feeder: Feeder,
    drain: Drain,
    /// Steps launched whose losses are not all in.
    under_way: VecDeque<(u64, Vec<u32>)>,
    metrics: Metrics,
    metrics_every: u64,
    progress: Progress,
    /// Steps that the checkpoint on disk has done.
    good_step: u64,
    interval: Interval,
    /// The Assistant's at the last line of metrics.
    quality: Quality,
    started: Instant,
    seconds_before: f64,
    ops_per_instance: u64,
}

/// Sums since the last line of metrics.
#[derive(Default)]
struct Interval {
    steps: u64,
    candidates: u64,
    losses: u64,
    loss: f64,
    right: u64,
    seconds: f64,
    lr: f64,
}

impl Interval {
    fn message(&self, run: &Run) -> String {
        let (n, images) = (self.losses.max(1) as f64, (self.steps * run.batch()) as f64);
        format!(
            "loss {:.3}  acc {:4.1} %  {:5.0} img/s  kept {:3.0} %  saved {:4.1} %",
            self.loss / n,
            100.0 * self.right as f64 / n,
            images / self.seconds.max(1e-9),
            100.0 * images / self.candidates.max(1) as f64,
            100.0 * run.saved_so_far(),
        )
    }
}

impl<'a> Run<'a> {
    fn new(job: &'a Job<'a>, start: Start) -> Result<Run<'a>, TrainError> {
        let (config, data) = (job.config, job.data);
        job.check_batch()?;
        let instances = data.train.len();
        let mut boss = Boss::new(config, data, SLOTS)?;
        let assistant = assistant(config, data).map_err(TrainError::unusable)?;
        let steps = steps(config, instances);
        let coupling = FeederConfig {
            slots: SLOTS,
            deterministic: config.deterministic,
        };
        let fingerprint = data.fingerprint();
        let (progress, feeder) = match start {
            Start::Fresh => {
                boss.initialise(config)?;
                let progress = Progress {
                    data: fingerprint,
                    ..Progress::default()
                };
                (
                    progress,
                    Feeder::spawn(assistant, coupling).map_err(TrainError::failed)?,
                )
            }
            Start::Resume(checkpoint) => {
                restore_boss(&mut boss, &checkpoint, fingerprint, &job.dir)?;
                let Checkpoint {
                    progress, assist, ..
                } = *checkpoint;
                let path = Checkpoint::path(&job.dir);
                let other = |reason: String| CheckpointError::Other { path, reason };
                let feeder = Feeder::restore(assistant, coupling, assist);
                (
                    progress,
                    feeder.map_err(|e| TrainError::unusable(other(e.to_string())))?,
                )
            }
        };
        boss.prepare()?;
        let mut metrics = Metrics::open(&job.dir, progress.metrics_lines)?;
        if metrics.points.is_empty() {
            metrics.push(environment(job, &boss.exec.describe()))?;
        }
        let arm = match (config.assist, config.budget) {
            (Assist::Off, 1.0) => Arm::Full,
            (Assist::Off, _) => Arm::Uniform,
            (Assist::Random, _) => Arm::Random,
            (Assist::Paper, _) => Arm::Paper,
            (Assist::Memory, _) => Arm::Memory,
            (Assist::Infobatch, _) => Arm::Infobatch,
        };
        Ok(Run {
            arm,
            label: format!("{} seed {}", arm.name(), config.seed),
            ops_per_instance: boss.net.train_ops_per_instance(),
            drain: Drain::new(boss.ring.clone(), progress.step),
            boss,
            under_way: VecDeque::new(),
            metrics,
            // Eight points a sweep draw a smooth curve.
            metrics_every: (instances / config.batch / 8).max(1) as u64,
            steps,
            good_step: progress.step,
            seconds_before: progress.wall_seconds,
            progress,
            interval: Interval::default(),
            quality: feeder.quality(),
            started: Instant::now(),
            feeder,
            job,
        })
    }

    fn batch(&self) -> u64 {
        self.job.config.batch as u64
    }

    fn boss_ops(&self) -> u64 {
        self.progress.step * self.batch() * self.ops_per_instance
    }

    fn full_ops(&self) -> u64 {
        u64::from(self.job.config.epochs) * self.job.data.train.len() as u64 * self.ops_per_instance
    }

    fn ops_fraction(&self) -> f64 {
        self.boss_ops() as f64 / self.full_ops() as f64
    }

    /// Share saved of the operations that training on all candidates so far would have taken.
    fn saved_so_far(&self) -> f64 {
        let stats = self.feeder.stats();
        let asked = (stats.candidates_seen * self.ops_per_instance).max(1) as f64;
        1.0 - (self.boss_ops() + stats.assist_ops) as f64 / asked
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Whether `done` steps end a multiple of `--eval-every` sweeps' worth of instances.
    fn eval_due(&self, done: u64) -> bool {
        let every = u64::from(self.job.config.eval_every) * self.job.data.train.len() as u64;
        let instances = |steps: u64| steps * self.batch();
        every > 0 && done < self.steps && instances(done) / every > instances(done - 1) / every
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let (step, began) = (self.progress.step, Instant::now());
        let syncs = self.boss.exec.host_syncs();
        let batch = self.feeder.next().map_err(TrainError::failed)?;
        while !self.drain.may_launch(step) {
            self.wait()?;
        }
        let spent = (step as f64 + 0.5) / self.steps as f64;
        let lr = learning_rate(self.job.config.lr, spent);
        self.under_way.push_back((step, batch.ids.clone()));
        self.interval.candidates += batch.candidates;
        self.drain.launching(step, batch.ids.len());
        let (ids, weights, seed) = (batch.ids, batch.weights, self.job.config.seed);
        let inputs = StepInputs {
            step,
            ids,
            weights,
            lr: lr as f32,
            seed,
            ..StepInputs::default()
        };
        self.boss.step(inputs).map_err(|e| self.fault(e))?;
        self.collect()?;
        self.progress.host_syncs += self.boss.exec.host_syncs() - syncs;
        let seconds = began.elapsed().as_secs_f64();
        self.interval.steps += 1;
        self.interval.lr = lr;
        self.interval.seconds += seconds;
        self.progress.train_seconds += seconds;
        self.progress.step += 1;
        Ok(())
    }

    /// Takes what the loss kernel has stored and hands it to the Assistant.
    fn collect(&mut self) -> Result<(), TrainError> {
        while let Some(records) = self.drain.poll() {
            self.hand_over(records)?;
        }
        Ok(())
    }

    /// Waits for one step's losses.
    fn wait(&mut self) -> Result<(), TrainError> {
        let records = self.boss.wait_for_records(&mut self.drain);
        let records = records.map_err(|e| self.fault(e))?;
        self.hand_over(records)
    }

    /// Waits for the losses of all steps under way.
    fn drain(&mut self) -> Result<(), TrainError> {
        while self.drain.in_flight() > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// The device failed in one of the steps under way.
    fn fault(&self, source: DeviceError) -> TrainError {
        TrainError::Device {
            step: self.drain.seen(),
            source,
            checkpoint: Checkpoint::path(&self.job.dir),
            good_step: self.good_step,
        }
    }

    fn hand_over(&mut self, records: StepRecords) -> Result<(), TrainError> {
        let (step, ids) = self
            .under_way
            .pop_front()
            .expect("records come from launched steps");
        debug_assert_eq!(step, records.step);
        if let Some(row) = records.losses.iter().position(|l| !l.is_finite()) {
            return Err(TrainError::NotFinite {
                step,
                instance: ids[row],
                loss: records.losses[row],
                checkpoint: Checkpoint::path(&self.job.dir),
                good_step: self.good_step,
            });
        }
        self.interval.losses += ids.len() as u64;
        self.interval.loss += records.losses.iter().map(|l| f64::from(*l)).sum::<f64>();
        self.interval.right += records.right.iter().filter(|r| **r).count() as u64;
        let (losses, right) = (records.losses, records.right);
        let feedback = Feedback {
            step,
            ids,
            losses,
            right,
        };
        self.feeder.feedback(feedback).map_err(TrainError::failed)
    }

    fn log_interval(&mut self) -> Result<(), TrainError> {
        let interval = std::mem::take(&mut self.interval);
        if interval.losses == 0 {
            return Ok(());
        }
        let images = (interval.steps * self.batch()) as f64;
        let loss = interval.loss / interval.losses as f64;
        self.progress.train_loss = Some(loss);
        let quality = self.feeder.quality();
        let assist_auc = quality.auc_since(&self.quality);
        self.quality = quality;
        self.metrics.push(Point::Train {
            step: self.progress.step,
            ops_fraction: self.ops_fraction(),
            loss,
            accuracy: interval.right as f64 / interval.losses as f64,
            keep_rate: images / interval.candidates.max(1) as f64,
            lr: interval.lr,
            images_per_second: images / interval.seconds,
            ops_saved: self.saved_so_far(),
            assist_auc,
            seconds: self.seconds(),
        })
    }

    fn evaluate(&mut self, bar: &indicatif::ProgressBar) -> Result<f64, TrainError> {
        let result = self.boss.evaluate().map_err(|e| self.fault(e))?;
        let (step, ops_fraction, seconds) =
            (self.progress.step, self.ops_fraction(), self.seconds());
        let (loss, accuracy) = (result.loss, result.accuracy);
        self.metrics.push(Point::Eval {
            step,
            ops_fraction,
            loss,
            accuracy,
            seconds,
        })?;
        let line = format!(
            "{:>12} step {step} of {}, {:.0} % of full training's operations: test accuracy {:.2} %, \
             train loss {:.3}, {:.0} s",
            self.label,
            self.steps,
            100.0 * ops_fraction,
            100.0 * accuracy,
            self.progress.train_loss.unwrap_or(f64::NAN),
            seconds,
        );
        if self.job.console.bars() {
            bar.println(line);
        } else {
            self.job.console.note(line);
        }
        Ok(accuracy)
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        self.drain()?;
        self.progress.wall_seconds = self.seconds();
        self.progress.metrics_lines = self.metrics.points.len();
        let params = &self.boss.net.params;
        let tensors = [params.values, params.momentum, params.buffers];
        let mut read = |tensor| self.boss.exec.read(tensor);
        let [values, momentum, buffers] = match tensors.map(&mut read) {
            [Ok(values), Ok(momentum), Ok(buffers)] => [values, momentum, buffers],
            [Err(e), ..] | [_, Err(e), _] | [.., Err(e)] => return Err(self.fault(e)),
        };
        let checkpoint = Checkpoint {
            progress: self.progress.clone(),
            values,
            momentum,
            buffers,
            assist: self.feeder.snapshot().map_err(TrainError::failed)?,
        };
        // Before the first step nothing has been lost yet: the place cannot be used.
        let class = if self.progress.step == 0 {
            TrainError::unusable
        } else {
            TrainError::failed
        };
        checkpoint.save(&self.job.dir).map_err(class)?;
        self.good_step = self.progress.step;
        Ok(())
    }

    /// Final evaluation and files.
    fn finish(mut self) -> Result<Summary, TrainError> {
        self.drain()?;
        self.log_interval()?;
        // The report is drawn from what lies in the folder. Only when it is there, too, is the run
        // finished: whenever it is killed, a resume makes what is missing.
        self.checkpoint()?;
        let bar = indicatif::ProgressBar::hidden();
        let test_accuracy = self.evaluate(&bar)?;
        let dir = &self.job.dir;
        let model = dir.join("model.safetensors");
        nn::export(
            &mut *self.boss.exec,
            &self.boss.net.params,
            self.progress.step,
            &model,
        )
        .map_err(TrainError::failed)?;
        let (stats, quality) = (self.feeder.stats(), self.feeder.quality());
        let (boss_ops, full_ops) = (self.boss_ops(), self.full_ops());
        let instances_trained = self.progress.step * self.batch();
        let summary = Summary {
            test_accuracy,
            train_loss: self.progress.train_loss.unwrap_or(f64::NAN),
            boss_ops,
            assist_ops: stats.assist_ops,
            full_ops,
            ops_saved: 1.0 - (boss_ops + stats.assist_ops) as f64 / full_ops as f64,
            instances_trained,
            candidates_seen: stats.candidates_seen,
            steps: self.progress.step,
            wall_seconds: self.seconds(),
            instances_per_second: instances_trained as f64 / self.progress.train_seconds,
            host_syncs: self.progress.host_syncs,
            loss_records_dropped: stats.loss_records_dropped,
            batches_unscored: stats.batches_unscored,
            feed_stall_seconds: stats.feed_stall_seconds,
            assist_cpu_seconds: stats.assist_cpu_seconds,
            feedback_lag_steps: stats.feedback_lag_steps,
            assist_auc: quality.auc(),
            assist_calibration: quality.calibration(),
            device: self.boss.exec.describe(),
            seed: self.job.config.seed,
            run_dir: dir.clone(),
        };
        let text = serde_json::to_string_pretty(&summary).expect("plain data");
        files::write(&dir.join("summary.json"), text.as_bytes()).map_err(TrainError::failed)?;
        let arm = self.arm;
        let result = ArmResult {
            arm,
            accuracy_vs_full: None,
            accuracy_vs_uniform: None,
            summary,
        };
        report_file::write_run(self.job, &result)?;
        self.progress.finished = true;
        self.checkpoint()?;
        Ok(result.summary)
    }
}
