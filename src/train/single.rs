//! Uses of a network that are not training runs.

use super::job::Job;
use super::{ConfigError, Summary, TrainError};
use crate::assist::Drain;
use crate::backend::{StepInputs, wait_for_records};
use crate::nn;
use crate::world::world;
use std::path::Path;

/// Evaluates the weights of `--init` on the test set, and writes them as a run would have to
/// `export`.
///
/// # Errors
/// No `--init`, weights that do not fit, or a place that cannot be written.
pub fn evaluate_only(job: &Job, export: Option<&Path>) -> Result<Summary, TrainError> {
    if job.config.init.is_none() {
        let remedy = "--eval-only needs the weights to evaluate: --init FILE";
        return Err(ConfigError::Together(remedy.into()).into());
    }
    let evaluated = job.stop.at_once(TrainError::Stopped, || {
        let opened = || {
            let mut boss = job.boss(None)?;
            job.initialise(&mut *boss)?;
            boss.prepare()?;
            Ok::<_, TrainError>(boss)
        };
        let mut boss = world().together("the network", opened())?;
        let score = boss.score(None)?;
        Ok::<_, TrainError>((boss, score))
    });
    let (mut boss, score) = evaluated?;
    let (exec, params) = boss.parts();
    if let Some(file) = export.filter(|_| world().is_first()) {
        nn::export(exec, params, 0, &job.task.about(), file).map_err(TrainError::failed)?;
    }
    Ok(Summary {
        score,
        // Nothing was trained: null in JSON.
        train_loss: f64::NAN,
        seed: job.config.seed,
        world_size: world().size(),
        device: world().describe(boss.parts().0.describe()),
        ..Summary::default()
    })
}

/// Steps after which a network that can learn has one batch by heart.
const OVERFIT_STEPS: u64 = 400;
/// Mean loss at which it has.
const OVERFIT_LOSS: f64 = 0.02;

/// The network could not learn one batch by heart.
#[derive(Debug, thiserror::Error)]
#[error("one batch was not learnt in {OVERFIT_STEPS} steps (loss {0:.4}); try another --lr")]
struct NotOverfitted(f64);

/// Trains on one batch alone, at a constant learning rate and without augmentation, dropout and
/// label smoothing, until its loss is next to nothing: whatever cannot do this cannot train.
///
/// # Errors
/// [`TrainError::Failed`] if it does not succeed.
pub fn overfit_one_batch(job: &Job) -> Result<Summary, TrainError> {
    let batch = job.config.batch;
    job.check_batch()?;
    let opened = || {
        let mut boss = job.boss(None)?;
        boss.plain();
        job.initialise(&mut *boss)?;
        boss.prepare()?;
        Ok::<_, TrainError>(boss)
    };
    let mut boss = world().together("the network", opened())?;
    let mut drain = Drain::new(boss.ring(), 0);
    // Spread over the data set, which may be sorted.
    let stride = job.task.size() / batch;
    let spread: Vec<u32> = (0..batch).map(|i| (i * stride) as u32).collect();
    let planned = boss.plan(&spread).swap_remove(0);
    let ids: Vec<u32> = planned.places.iter().map(|p| spread[*p as usize]).collect();
    let (mut loss, mut step) = (f64::INFINITY, 0);
    let started = std::time::Instant::now();
    while step < OVERFIT_STEPS && loss > OVERFIT_LOSS {
        drain.launching(step, world().ring_rows(ids.len()));
        let inputs = StepInputs {
            step,
            ids: ids.clone(),
            lr: job.config.lr as f32,
            seed: job.config.seed,
            shape: planned.shape,
            total: ids.len() as u32,
            ..StepInputs::default()
        };
        boss.step(inputs).map_err(TrainError::failed)?;
        let records = wait_for_records(boss.parts().0, &mut drain).map_err(TrainError::failed)?;
        let losses = &records.losses[..ids.len()];
        loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64;
        if step % 20 == 0 {
            job.console
                .note(format_args!("step {step:>4}  loss {loss:.4}"));
        }
        step += 1;
    }
    // Written so that NaN fails.
    let learnt = loss <= OVERFIT_LOSS;
    if !learnt {
        return Err(TrainError::failed(NotOverfitted(loss)));
    }
    job.console.say(format_args!(
        "one batch of {} learnt by heart: loss {loss:.4} after {step} steps",
        ids.len()
    ));
    let instances = step * ids.len() as u64;
    let boss_ops = step * planned.ops;
    let wall_seconds = started.elapsed().as_secs_f64();
    Ok(Summary {
        score: boss.score(None)?,
        train_loss: loss,
        boss_ops,
        full_ops: boss_ops,
        instances_trained: instances,
        candidates_seen: instances,
        steps: step,
        wall_seconds,
        instances_per_second: instances as f64 / wall_seconds,
        world_size: world().size(),
        device: world().describe(boss.parts().0.describe()),
        seed: job.config.seed,
        ..Summary::default()
    })
}
