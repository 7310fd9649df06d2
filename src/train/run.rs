//! One run: the loop that feeds the Boss, drains the loss ring, hands the losses to the Assistant
//! and keeps the books.

use super::checkpoint::{Checkpoint, CheckpointError, Progress};
use super::examples::Examples;
use super::interval::Interval;
use super::job::Job;
use super::metrics::{Metrics, Point, environment};
use super::pools::Pools;
use super::summary::{ArmResult, Summary};
use super::task::{Boss, SLOTS, Score, Task};
use super::value;
use super::{Arm, Assist, Budget, TrainError, report_file};
use crate::assist::{Drain, Feeder, FeederConfig, StepRecords, sweeps};
use crate::backend::{DeviceError, Precision, StepInputs, wait_for_records};
use crate::files;
use crate::nn;
use crate::rng::Stream;
use crate::world::{hash, world};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

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
    let bar = job.console.bar(&run.label, run.budget_ops, run.done_ops());
    while !run.over() {
        if run.eval_due() {
            run.evaluate(&bar)?;
        }
        if run.must_stop()? {
            bar.finish_and_clear();
            run.checkpoint()?;
            return Err(run.interrupted());
        }
        if !run.step()? {
            continue;
        }
        bar.set_position(run.done_ops());
        bar.set_message(run.interval.message(run.job.task.words().short));
        let done = run.progress.step;
        if done.is_multiple_of(run.metrics_every) {
            run.log_interval()?;
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
    let checkpoint = Checkpoint::load(&job.dir).map_err(TrainError::unusable);
    let mut checkpoint = world().together("the checkpoint", checkpoint)?;
    if !checkpoint.progress.finished {
        checkpoint.assist.lengthen(job.config.epochs);
        return train(job, Start::Resume(Box::new(checkpoint)));
    }
    let path = job.dir.join("summary.json");
    let text = files::read(&path).map_err(TrainError::unusable)?;
    serde_json::from_str(&text).map_err(|e| {
        let source = e.into();
        TrainError::unusable(files::ReadError { path, source })
    })
}

/// Operations and steps of a sweep over all instances as they come, in pools of `pool`.
fn sweep(boss: &dyn Boss, instances: usize, pool: usize) -> (u64, u64) {
    // Any order does: what pads is how lengths vary within a pool.
    let mut order: Vec<u32> = (0..instances as u32).collect();
    let mut random = Stream::new(0, 0, 0);
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let planned = order.chunks(pool).flat_map(|ids| boss.plan(ids));
    planned.fold((0, 0), |(ops, steps), step| (ops + step.ops, steps + 1))
}

/// Puts a checkpoint's numbers into the network.
fn restore_boss(
    boss: &mut dyn Boss,
    checkpoint: &Checkpoint,
    task: &dyn Task,
    batch: usize,
    dir: &Path,
) -> Result<(), TrainError> {
    let other = |reason: String| {
        let path = Checkpoint::path(dir);
        TrainError::unusable(CheckpointError::Other { path, reason })
    };
    if checkpoint.progress.data != task.fingerprint() {
        let many = task.words().many;
        return Err(other(format!("the {many} are not those it was trained on")));
    }
    let state = boss.state();
    let stored = |name: &str| checkpoint.state.get(name).map_or(0, Vec::len);
    if state
        .iter()
        .any(|(name, tensor)| stored(name) != tensor.len())
    {
        return Err(other("it is of another network".into()));
    }
    for (name, tensor) in state {
        let written = boss.parts().0.write(tensor, &checkpoint.state[name]);
        written.map_err(|e| TrainError::unusable(e.at_batch(batch)))?;
    }
    Ok(())
}

/// A run that was begun in one precision does not go on in another that settings ask for since.
fn check_precision(
    asked: Option<Precision>,
    begun: Option<Precision>,
    dir: &Path,
) -> Result<(), TrainError> {
    match (asked, begun) {
        (Some(asked), Some(begun)) if asked != begun => {
            let path = Checkpoint::path(dir);
            let reason = format!(
                "its activations were {begun}, and settings say precision = \"{asked}\" now; say \
                 {begun} in config.toml again, or train on from its weights in another folder: \
                 --init {}",
                dir.display()
            );
            Err(TrainError::unusable(CheckpointError::Other {
                path,
                reason,
            }))
        }
        _ => Ok(()),
    }
}

/// The same for equal numbers.
fn hash_of(state: &BTreeMap<String, Vec<f32>>) -> u64 {
    let parts = state.iter();
    let parts = parts.map(|(name, values)| (name, bytemuck::cast_slice::<_, u8>(values)));
    hash(parts.collect::<Vec<_>>())
}

/// A run under way.
struct Run<'a> {
    job: &'a Job<'a>,
    arm: Arm,
    label: String,
    boss: Box<dyn Boss>,
    /// Operations of all sweeps over all instances, and the share of them to spend, or, where V says
    /// how much is skipped, to draw candidates for.
    full_ops: u64,
    budget_ops: u64,
    /// Operations from one evaluation to the next; 0 for none before the end.
    eval_ops: u64,
    /// Operations of the Boss in one of the Assistant's, which knows of no padding.
    ops_per_cost: f64,
    feeder: Feeder,
    drain: Drain,
    pools: Pools,
    metrics: Metrics,
    metrics_every: u64,
    progress: Progress,
    /// The step before which all ranks stop, where several share the run and one of them has to: all
    /// have seen its vote, or its loss, by then.
    stop_at: Option<u64>,
    /// A loss that was not finite, for which they stop.
    not_finite: Option<TrainError>,
    /// Steps that the checkpoint on disk has done.
    good_step: u64,
    interval: Interval,
    started: Instant,
    seconds_before: f64,
    reduce_seconds_before: f64,
}

impl<'a> Run<'a> {
    /// On all ranks, or none.
    fn new(job: &'a Job<'a>, start: Start) -> Result<Run<'a>, TrainError> {
        let world = world();
        let mut run = world.together("the network", Run::alone(job, start))?;
        if world.is_shared() {
            let state = run.state().map(|state| hash_of(&state));
            let (state, step) = (world.together("its state", state)?, run.progress.step);
            world.compare([("a checkpoint", step), ("weights to start from", state)])?;
        }
        Ok(run)
    }

    fn alone(job: &'a Job<'a>, start: Start) -> Result<Run<'a>, TrainError> {
        let (config, task) = (job.config, job.task);
        job.check_batch()?;
        let begun = match &start {
            Start::Fresh => None,
            Start::Resume(checkpoint) => checkpoint.progress.precision,
        };
        check_precision(config.precision, begun, &job.dir)?;
        let mut boss = job.boss(begun)?;
        boss.parts().0.obey(job.stop.share());
        let assistant = job.assistant().map_err(TrainError::unusable)?;
        let costs: u64 = assistant.instances().costs.iter().sum();
        let (sweep_ops, sweep_steps) = sweep(&*boss, task.size(), task.pool(config.batch));
        let full_ops = sweeps(sweep_ops, config.epochs);
        // The tolerance is for budgets like 0.65, which no f64 is: a whole number of batches must
        // stay one.
        let budget_ops = match config.budget {
            Budget::Share(share) => (share * full_ops as f64 * (1.0 - 1e-12)).ceil() as u64,
            Budget::Auto => full_ops,
        };
        let coupling = FeederConfig {
            slots: SLOTS,
            // Ranks compose the same batches because all compose them of the same feedback.
            deterministic: config.deterministic || world().is_shared(),
        };
        let (progress, feeder, pools, interval) = match start {
            Start::Fresh => {
                job.initialise(&mut *boss)?;
                let progress = Progress {
                    data: task.fingerprint(),
                    ..Progress::default()
                };
                let feeder = Feeder::spawn(assistant, coupling).map_err(TrainError::failed)?;
                (progress, feeder, Pools::default(), Interval::default())
            }
            Start::Resume(checkpoint) => {
                restore_boss(&mut *boss, &checkpoint, task, config.batch, &job.dir)?;
                let Checkpoint {
                    progress,
                    assist,
                    pool,
                    interval,
                    ..
                } = *checkpoint;
                let other = |reason: String| {
                    let path = Checkpoint::path(&job.dir);
                    TrainError::unusable(CheckpointError::Other { path, reason })
                };
                let feeder = Feeder::restore(assistant, coupling, assist);
                let feeder = feeder.map_err(|e| other(e.to_string()))?;
                let pools = Pools::restore(pool, task.size(), |ids| boss.plan(ids));
                let pools = pools.map_err(|e| other(e.into()))?;
                (progress, feeder, pools, interval)
            }
        };
        let progress = Progress {
            precision: Some(boss.parts().0.precision()),
            ..progress
        };
        boss.prepare()?;
        let mut metrics = match world().is_first() {
            true => Metrics::open(&job.dir, progress.metrics_lines)?,
            false => Metrics::unwritten(),
        };
        if metrics.points.is_empty() {
            let device = world().describe(boss.parts().0.describe());
            metrics.push(environment(job, &device))?;
        }
        let arm = match (config.assist, config.budget) {
            (Assist::Off, Budget::Share(1.0)) => Arm::Full,
            (Assist::Off, _) => Arm::Uniform,
            (Assist::Random, _) => Arm::Random,
            (Assist::Paper, _) => Arm::Paper,
            (Assist::Memory, _) => Arm::Memory,
            (Assist::Infobatch, _) => Arm::Infobatch,
        };
        Ok(Run {
            arm,
            label: format!("{} seed {}", arm.name(), config.seed),
            full_ops,
            budget_ops,
            eval_ops: sweeps(sweep_ops, config.eval_every),
            ops_per_cost: sweep_ops as f64 / costs as f64,
            drain: Drain::new(boss.ring(), progress.step),
            boss,
            pools,
            metrics,
            // Eight points a sweep draw a smooth curve.
            metrics_every: (sweep_steps / 8).max(1),
            good_step: progress.step,
            seconds_before: progress.wall_seconds,
            reduce_seconds_before: world().seconds(),
            progress,
            stop_at: None,
            not_finite: None,
            interval,
            started: Instant::now(),
            feeder,
            job,
        })
    }

    /// Operations done of `budget_ops`.
    fn done_ops(&self) -> u64 {
        match self.job.config.budget {
            Budget::Share(_) => self.progress.boss_ops,
            Budget::Auto => (self.feeder.stats().offered as f64 * self.ops_per_cost) as u64,
        }
    }

    /// Whether the budget is spent, or the last candidates are trained on.
    fn over(&self) -> bool {
        let begun = match self.job.config.budget {
            Budget::Share(_) => false,
            Budget::Auto => !self.pools.exhausted(),
        };
        !begun && self.done_ops() >= self.budget_ops
    }

    /// Share of the run that is over in the middle of a step of so many operations.
    fn position(&self, step_ops: u64) -> f64 {
        let done = match self.job.config.budget {
            Budget::Share(_) => self.progress.boss_ops as f64 + 0.5 * step_ops as f64,
            // Whose candidates are counted already, and were at least as many.
            Budget::Auto => (self.done_ops() as f64 - 0.5 * step_ops as f64).max(0.0),
        };
        done / self.budget_ops as f64
    }

    fn ops_fraction(&self) -> f64 {
        self.progress.boss_ops as f64 / self.full_ops as f64
    }

    /// Share saved of the operations that training on all candidates so far would have taken.
    fn saved_so_far(&self) -> f64 {
        let stats = self.feeder.stats();
        let asked = (stats.offered as f64 * self.ops_per_cost).max(1.0);
        1.0 - (self.progress.boss_ops + stats.assist_ops) as f64 / asked
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// How often a multiple of `--eval-every` sweeps' worth of operations has been passed.
    fn evals_passed(&self) -> u64 {
        self.progress
            .boss_ops
            .checked_div(self.eval_ops)
            .unwrap_or(0)
    }

    /// Whether the last of them still waits for its evaluation.
    fn eval_due(&self) -> bool {
        self.evals_passed() > self.progress.evals
    }

    /// Whether no step is begun any more. Ranks that share the run stop before the same step.
    ///
    /// # Errors
    /// They stop for a loss that was not finite.
    fn must_stop(&mut self) -> Result<bool, TrainError> {
        if !world().is_shared() {
            return Ok(self.job.stop.asked());
        }
        let stops = self.stop_at.is_some_and(|at| self.progress.step >= at);
        match self.not_finite.take_if(|_| stops) {
            Some(e) => Err(e),
            None => Ok(stops),
        }
    }

    /// Asked to stop, with all that is done in the checkpoint.
    fn interrupted(&self) -> TrainError {
        TrainError::Interrupted {
            step: self.progress.step,
            dir: self.job.whole.to_path_buf(),
        }
    }

    /// Trains on a batch; false if the run was asked to stop while it waited for its turn.
    fn step(&mut self) -> Result<bool, TrainError> {
        let (step, began) = (self.progress.step, Instant::now());
        let syncs = self.boss.parts().0.host_syncs();
        if self.pools.exhausted() {
            let batch = self.feeder.next().map_err(TrainError::failed)?;
            self.interval.cost += batch.cost;
            self.interval.offered += batch.offered;
            let steps = self.boss.plan(&batch.ids);
            self.pools.push(batch, steps);
        }
        while !self.drain.may_launch(step) {
            self.wait()?;
        }
        // A step can take long: none is begun any more.
        if self.must_stop()? {
            return Ok(false);
        }
        let launch = self.pools.launch();
        let schedule = self.job.task.schedule();
        let lr = schedule.rate(self.job.config.lr, self.position(launch.ops));
        let rows = launch.ids.len();
        self.drain.launching(step, world().ring_rows(rows));
        let inputs = StepInputs {
            step,
            ids: launch.ids,
            weights: launch.weights,
            lr: lr as f32,
            seed: self.job.config.seed,
            shape: launch.shape,
            total: rows as u32,
            vote: self.job.stop.asked(),
        };
        self.boss.step(inputs).map_err(|e| self.fault(e))?;
        self.collect()?;
        self.progress.host_syncs += self.boss.parts().0.host_syncs() - syncs;
        let seconds = began.elapsed().as_secs_f64();
        self.interval.instances += rows as u64;
        self.interval.lr = lr;
        self.interval.seconds += seconds;
        self.progress.train_seconds += seconds;
        self.progress.instances += rows as u64;
        self.progress.boss_ops += launch.ops;
        self.progress.step += 1;
        Ok(true)
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
        let records = wait_for_records(self.boss.parts().0, &mut self.drain);
        let records = records.map_err(|e| self.fault(e))?;
        self.hand_over(records)
    }

    /// Waits for the losses of all steps under way.
    fn drain(&mut self) -> Result<(), TrainError> {
        while self.drain.in_flight() > 0 {
            self.wait()?;
        }
        self.not_finite.take().map_or(Ok(()), Err)
    }

    /// The device failed in one of the steps under way, or whoever wants to stop does not wait for
    /// one that hangs.
    fn fault(&self, source: DeviceError) -> TrainError {
        if let DeviceError::Interrupted { what } = source {
            return TrainError::Abandoned {
                what,
                step: self.good_step,
                dir: self.job.whole.to_path_buf(),
            };
        }
        TrainError::Device {
            step: self.drain.seen(),
            source,
            checkpoint: Checkpoint::path(&self.job.dir),
            good_step: self.good_step,
        }
    }

    fn hand_over(&mut self, records: StepRecords) -> Result<(), TrainError> {
        let StepRecords {
            step,
            mut losses,
            right,
        } = records;
        let several = world().is_shared();
        // Behind the rows. No rank is past this step, and all see it before they launch that one.
        let after = step + SLOTS as u64 - 1;
        if several && losses.pop().is_some_and(|votes| votes > 0.0) {
            self.stop_at.get_or_insert(after);
        }
        if self.not_finite.is_some() {
            return Ok(());
        }
        let right = &right[..losses.len()];
        if let Some(row) = losses.iter().position(|l| !l.is_finite()) {
            let (job, lr) = (self.job, self.job.config.lr / 2.0);
            let remedy = match job.whole == job.dir {
                true => format!("--resume {} --lr {lr} goes on so", job.dir.display()),
                false => "for all arms alike, in another --out".into(),
            };
            let error = TrainError::NotFinite {
                step,
                instance: self.pools.instance(row),
                loss: losses[row],
                checkpoint: Checkpoint::path(&self.job.dir),
                good_step: self.good_step,
                remedy,
            };
            if several {
                self.stop_at = Some(self.stop_at.map_or(after, |at| at.min(after)));
                self.not_finite = Some(error);
                return Ok(());
            }
            return Err(error);
        }
        self.interval.losses += losses.len() as u64;
        self.interval.loss += losses.iter().map(|l| f64::from(*l)).sum::<f64>();
        self.interval.right += right.iter().filter(|r| **r).count() as u64;
        match self.pools.record(&losses, right) {
            Some(feedback) => self.feeder.feedback(feedback).map_err(TrainError::failed),
            None => Ok(()),
        }
    }

    fn log_interval(&mut self) -> Result<(), TrainError> {
        if self.interval.losses == 0 {
            return Ok(());
        }
        let quality = self.feeder.quality();
        let assist_auc = quality.auc_since(&self.interval.quality);
        let next = Interval {
            quality,
            ..Interval::default()
        };
        let interval = std::mem::replace(&mut self.interval, next);
        let loss = interval.loss / interval.losses as f64;
        self.progress.train_loss = Some(loss);
        let (v, keep_rate) = (self.feeder.v(), interval.keep_rate());
        self.metrics.push(Point::Train {
            step: self.progress.step,
            ops_fraction: self.ops_fraction(),
            loss,
            accuracy: interval.right as f64 / interval.losses as f64,
            keep_rate,
            v,
            noise: value::noise(v, keep_rate),
            lr: interval.lr,
            instances_per_second: interval.instances as f64 / interval.seconds,
            ops_saved: self.saved_so_far(),
            assist_auc,
            seconds: self.seconds(),
        })
    }

    /// Looks at the data that training does not see, unless the run is asked to stop meanwhile.
    fn evaluate(&mut self, bar: &indicatif::ProgressBar) -> Result<(), TrainError> {
        // A rank whose device has failed must not wait for those whose devices wait for it.
        if world().is_shared() {
            let complete = self.boss.parts().0.complete();
            complete.map_err(|e| self.fault(e))?;
        }
        let result = self.boss.evaluate(self.job.stop.flag());
        let Some(result) = result.map_err(|e| self.fault(e))? else {
            self.stop_at = Some(self.progress.step);
            return Ok(());
        };
        self.progress.evals = self.evals_passed();
        let (step, ops_fraction, seconds) =
            (self.progress.step, self.ops_fraction(), self.seconds());
        self.metrics.push(Point::Eval {
            step,
            ops_fraction,
            loss: result.loss,
            accuracy: result.accuracy,
            seconds,
        })?;
        // Of what was kept, where one chooses: not to be compared with that of all.
        let kept = match self.arm {
            Arm::Full | Arm::Uniform => "",
            _ => " (kept)",
        };
        let line = format!(
            "{:>12} step {step}, {:.0} % of full training's operations: {}, train loss {:.3}{kept}, {:.0} s",
            self.label,
            // The last step is a whole one, whatever is left of the sweeps.
            100.0 * ops_fraction.min(1.0),
            self.job.task.words().evaluation(result),
            self.progress.train_loss.unwrap_or(f64::NAN),
            seconds,
        );
        if self.job.console.bars() {
            bar.println(line);
        } else {
            self.job.console.note(line);
        }
        Ok(())
    }

    /// All that a checkpoint holds of the network.
    fn state(&mut self) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
        let mut state = BTreeMap::new();
        for (name, tensor) in self.boss.state() {
            let values = self.boss.parts().0.read(tensor);
            state.insert(name.to_string(), values.map_err(|e| self.fault(e))?);
        }
        Ok(state)
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        self.drain()?;
        self.progress.wall_seconds = self.seconds();
        self.progress.metrics_lines = self.metrics.points.len();
        if !world().is_first() {
            self.good_step = self.progress.step;
            return Ok(());
        }
        let checkpoint = Checkpoint {
            progress: self.progress.clone(),
            state: self.state()?,
            assist: self.feeder.snapshot().map_err(TrainError::failed)?,
            pool: self.pools.rest(),
            interval: self.interval.clone(),
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
        self.evaluate(&indicatif::ProgressBar::hidden())?;
        let (dir, end) = (&self.job.dir, self.interrupted());
        let score: Score = self.job.stop.at_once(end, || self.boss.score(Some(dir)))?;
        let device = world().describe(self.boss.parts().0.describe());
        let (stats, quality) = (self.feeder.stats(), self.feeder.quality());
        let (progress, full_ops) = (&self.progress, self.full_ops);
        let spent = progress.boss_ops + stats.assist_ops;
        let summary = Summary {
            score,
            train_loss: progress.train_loss.unwrap_or(f64::NAN),
            boss_ops: progress.boss_ops,
            assist_ops: stats.assist_ops,
            full_ops,
            ops_saved: 1.0 - spent as f64 / full_ops as f64,
            instances_trained: progress.instances,
            candidates_seen: stats.candidates_seen,
            steps: progress.step,
            wall_seconds: self.seconds(),
            instances_per_second: progress.instances as f64 / progress.train_seconds,
            host_syncs: progress.host_syncs,
            loss_records_dropped: stats.loss_records_dropped,
            batches_unscored: stats.batches_unscored,
            feed_stall_seconds: stats.feed_stall_seconds,
            assist_cpu_seconds: stats.assist_cpu_seconds,
            feedback_lag_steps: stats.feedback_lag_steps,
            v: self.feeder.v(),
            v_choosing: value::while_choosing(&self.metrics.points),
            assist_auc: quality.auc(),
            assist_calibration: quality.calibration(),
            world_size: world().size(),
            reduce_seconds: world().seconds() - self.reduce_seconds_before,
            device,
            seed: self.job.config.seed,
            run_dir: dir.clone(),
        };
        if !world().is_first() {
            return Ok(summary);
        }
        let (model, about) = (dir.join(nn::MODEL), self.job.task.about());
        let (exec, params) = self.boss.parts();
        let exported = nn::export(exec, params, self.progress.step, &about, &model);
        exported.map_err(TrainError::failed)?;
        let text = serde_json::to_string_pretty(&summary).expect("plain data");
        files::write(&dir.join("summary.json"), text.as_bytes()).map_err(TrainError::failed)?;
        let state = self.feeder.snapshot().map_err(TrainError::failed)?;
        let (memory, batches) = (state.memory(), state.step());
        let epochs = self.job.config.epochs;
        Examples::write(dir, &memory, batches, epochs, &mut *self.boss)?;
        let result = ArmResult::new(self.arm, summary);
        report_file::write_run(self.job, &result)?;
        self.progress.finished = true;
        self.checkpoint()?;
        Ok(result.summary)
    }
}
