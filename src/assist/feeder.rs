//! The Assistant's thread, and the two queues between it and the trainer.
//!
//! The trainer takes batches and gives feedback; it only ever holds the queues' lock (or the sweep
//! cursor's), for moments, while the thread works under the Assistant's own lock. Locks are taken
//! in the order Assistant, queue, sweeps.
//!
//! Running freely, the thread composes up to two batches ahead and applies feedback as it comes. If
//! no batch is ready the trainer takes the next candidates as they are; if the thread is slow the
//! oldest feedback is dropped; both are counted, and nobody waits. A batch gets its number when it
//! is queued, so one that was begun before the trainer helped itself may come a place later.
//!
//! Deterministic, batch `n` is composed when the feedback of steps ≤ `n − K`, and no other, has
//! been applied. That is a sequence without choices: whatever the timing, it gives the same
//! batches.
//!
//! Batches never end. The trainer stops taking them when it has spent its budget.

use super::assistant::{AssistConfig, Assistant, Batch, Feedback, lock};
use super::error::AssistError;
use super::instances::Instances;
use super::policy::Plan;
use super::quality::Quality;
use super::state::{AssistState, Counters, FeedStats, FeederConfig, Ready};
use super::sweep::Sweeps;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Batches composed ahead when running freely: more would be composed from older feedback.
const AHEAD: usize = 2;
/// Feedback held when running freely, in rings (K steps).
const BACKLOG: usize = 4;

#[derive(Debug)]
struct Queue {
    ready: VecDeque<Ready>,
    feedback: VecDeque<Feedback>,
    /// Number of the next batch to be queued.
    next: u64,
    /// Feedback of steps before this one has been given.
    received: u64,
    counters: Counters,
    /// The Assistant's as of the last batch taken.
    quality: Quality,
    v: Option<f64>,
    stop: bool,
    failed: Option<String>,
}

#[derive(Debug)]
struct Shared {
    coupling: FeederConfig,
    config: AssistConfig,
    plan: Plan,
    instances: Arc<Instances>,
    assistant: Mutex<Assistant>,
    queue: Mutex<Queue>,
    sweeps: Mutex<Sweeps>,
    /// The thread may have work.
    work: Condvar,
    /// A batch is ready, or the thread died.
    ready: Condvar,
    stall_nanos: AtomicU64,
}

/// The trainer's handle on the Assistant. Dropping it ends the thread.
#[derive(Debug)]
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts the thread of an Assistant at batch 0.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn spawn(assistant: Assistant, coupling: FeederConfig) -> Result<Feeder, AssistError> {
        let sweeps = assistant.sweeps();
        let queue = Queue {
            ready: VecDeque::new(),
            feedback: VecDeque::new(),
            next: 0,
            received: 0,
            counters: Counters::default(),
            quality: Quality::default(),
            v: None,
            stop: false,
            failed: None,
        };
        Feeder::start(assistant, coupling, sweeps, queue, 0)
    }

    /// Starts the thread of a fresh `assistant` where a snapshot of one of the same configuration
    /// left off.
    ///
    /// # Errors
    /// If the state is damaged or of another run, or the system refuses a thread.
    pub fn restore(
        mut assistant: Assistant,
        coupling: FeederConfig,
        state: AssistState,
    ) -> Result<Feeder, AssistError> {
        state.check(&assistant, coupling)?;
        assistant.resume(state.mind)?;
        let queue = Queue {
            ready: state.ready.into(),
            feedback: state.feedback.into(),
            next: state.next,
            received: state.received,
            counters: state.counters,
            quality: state.quality,
            v: state.v,
            stop: false,
            failed: None,
        };
        Feeder::start(assistant, coupling, state.sweeps, queue, state.stall_nanos)
    }

    fn start(
        assistant: Assistant,
        coupling: FeederConfig,
        sweeps: Sweeps,
        queue: Queue,
        stall_nanos: u64,
    ) -> Result<Feeder, AssistError> {
        let shared = Arc::new(Shared {
            coupling,
            config: assistant.config(),
            plan: assistant.plan(),
            instances: assistant.instances().clone(),
            assistant: Mutex::new(assistant),
            queue: Mutex::new(queue),
            sweeps: Mutex::new(sweeps),
            work: Condvar::new(),
            ready: Condvar::new(),
            stall_nanos: AtomicU64::new(stall_nanos),
        });
        let thread = std::thread::Builder::new()
            .name("assistant".into())
            .spawn({
                let shared = shared.clone();
                move || shared.run()
            })
            .map_err(|error| AssistError::Thread(error.to_string()))?;
        let thread = Some(thread);
        Ok(Feeder { shared, thread })
    }

    /// The next batch to train on. Never waits, but in deterministic mode.
    ///
    /// # Errors
    /// If the thread died, or (deterministic) the feedback of step `n − K` has not been given.
    pub fn next(&self) -> Result<Batch, AssistError> {
        let started = Instant::now();
        let batch = self.shared.take();
        self.shared.stalled(started);
        batch
    }

    /// Hands over what became of a step. Never waits; the oldest feedback is dropped if the queue
    /// is full (not in deterministic mode).
    ///
    /// # Errors
    /// If a loss is not finite (nothing is handed over then), or a step is repeated or, in
    /// deterministic mode, left out.
    ///
    /// # Panics
    /// If it does not have a loss and a right bit for each instance: a bug in the trainer.
    pub fn feedback(&self, feedback: Feedback) -> Result<(), AssistError> {
        let started = Instant::now();
        let result = self.shared.give(feedback);
        self.shared.stalled(started);
        result
    }

    /// All there is to save. Waits for the batch in composition. Meant for a moment when every
    /// batch that was taken has been trained on and its feedback given, or else the restored
    /// Assistant lacks that feedback.
    ///
    /// # Errors
    /// If the thread died.
    pub fn snapshot(&self) -> Result<AssistState, AssistError> {
        let shared = &self.shared;
        let assistant = lock(&shared.assistant);
        let queue = lock(&shared.queue);
        queue.alive()?;
        Ok(AssistState {
            config: shared.config,
            coupling: shared.coupling,
            mind: assistant.mind().clone(),
            sweeps: lock(&shared.sweeps).clone(),
            ready: queue.ready.iter().cloned().collect(),
            quality: queue.quality.clone(),
            v: queue.v,
            feedback: queue.feedback.iter().cloned().collect(),
            next: queue.next,
            received: queue.received,
            counters: queue.counters,
            stall_nanos: shared.stall_nanos.load(Ordering::Relaxed),
        })
    }

    /// The figures so far, of the batches taken.
    pub fn stats(&self) -> FeedStats {
        let counters = lock(&self.shared.queue).counters;
        FeedStats {
            assist_ops: counters.assist_ops,
            candidates_seen: counters.candidates,
            offered: counters.offered,
            loss_records_dropped: counters.dropped,
            batches_unscored: counters.unscored,
            feed_stall_seconds: self.shared.stall_nanos.load(Ordering::Relaxed) as f64 * 1e-9,
            feedback_lag_steps: counters.lag_steps as f64 / counters.lag_batches.max(1) as f64,
            assist_cpu_seconds: counters.cpu_seconds,
        }
    }

    /// How well the Assistant's scores have told what would be above the mean loss, as of the last
    /// batch taken.
    pub fn quality(&self) -> Quality {
        lock(&self.shared.queue).quality.clone()
    }

    /// [`Memory::v`](super::Memory::v) as of the last batch taken.
    pub fn v(&self) -> Option<f64> {
        lock(&self.shared.queue).v
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn alive(&self) -> Result<(), AssistError> {
        match &self.failed {
            Some(message) => Err(AssistError::Thread(message.clone())),
            None => Ok(()),
        }
    }
}

/// The trainer's side.
impl Shared {
    fn take(&self) -> Result<Batch, AssistError> {
        let mut queue = lock(&self.queue);
        loop {
            queue.alive()?;
            if let Some(ready) = queue.ready.pop_front() {
                let Ready {
                    batch,
                    ops,
                    quality,
                    v,
                } = ready;
                (queue.quality, queue.v) = (quality, v);
                let counters = &mut queue.counters;
                counters.count(&batch);
                counters.assist_ops = ops;
                if let Some(step) = batch.feedback_through {
                    counters.lag_steps += batch.number.saturating_sub(step);
                    counters.lag_batches += 1;
                }
                drop(queue);
                self.work.notify_one();
                return Ok(batch);
            }
            if !self.coupling.deterministic {
                return Ok(self.help_oneself(queue));
            }
            if let Some(due) = self.due(&queue).filter(|&due| queue.received <= due) {
                // Only the caller could bring it: waiting would be for ever.
                let expected = queue.received;
                return Err(AssistError::FeedbackOrder { expected, got: due });
            }
            queue = wait(&self.ready, queue);
        }
    }

    /// The next candidates, without the Assistant.
    fn help_oneself(&self, mut queue: MutexGuard<'_, Queue>) -> Batch {
        let number = queue.next;
        queue.next += 1;
        let phase = self.plan.phase(self.config.done(&lock(&self.sweeps)));
        let (size, costs) = (self.config.batch, &self.instances.costs);
        let batch = Batch::unchosen(number, size, costs, &self.sweeps);
        queue.counters.count(&batch);
        queue.counters.unscored += u64::from(self.config.preset.selects(phase));
        batch
    }

    fn give(&self, feedback: Feedback) -> Result<(), AssistError> {
        let step = feedback.step;
        let lengths = [feedback.losses.len(), feedback.right.len()];
        assert_eq!(lengths, [feedback.ids.len(); 2], "records of step {step}");
        if let Some(row) = feedback.losses.iter().position(|x| !x.is_finite()) {
            let (id, loss) = (feedback.ids[row], feedback.losses[row]);
            return Err(AssistError::NonFiniteLoss { step, id, loss });
        }
        let mut queue = lock(&self.queue);
        let expected = queue.received;
        if step < expected || (self.coupling.deterministic && step != expected) {
            return Err(AssistError::FeedbackOrder {
                expected,
                got: step,
            });
        }
        queue.received = step + 1;
        if !self.coupling.deterministic && queue.feedback.len() == BACKLOG * self.coupling.slots {
            let oldest = queue.feedback.pop_front();
            queue.counters.dropped += oldest.map_or(0, |f| f.ids.len() as u64);
        }
        queue.feedback.push_back(feedback);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    fn stalled(&self, since: Instant) {
        let nanos = since.elapsed().as_nanos() as u64;
        self.stall_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The thread's side.
impl Shared {
    fn run(&self) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            while self.wait_for_work() {
                self.work();
            }
        }));
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            let message = text.unwrap_or("it panicked").to_string();
            lock(&self.queue).failed = Some(message);
            self.ready.notify_all();
        }
    }

    /// False when it is time to end.
    fn wait_for_work(&self) -> bool {
        let mut queue = lock(&self.queue);
        while !queue.stop && !self.may_compose(&queue) && !self.may_apply(&queue) {
            queue = wait(&self.work, queue);
        }
        !queue.stop
    }

    /// In deterministic mode, the last step whose feedback the next batch must have.
    fn due(&self, queue: &Queue) -> Option<u64> {
        queue.next.checked_sub(self.coupling.slots as u64)
    }

    fn may_compose(&self, queue: &Queue) -> bool {
        let (ahead, informed) = if self.coupling.deterministic {
            let informed = self.due(queue).is_none_or(|due| due < queue.received);
            (self.coupling.slots, informed)
        } else {
            (AHEAD, true)
        };
        informed && queue.ready.len() < ahead
    }

    /// In deterministic mode feedback is only applied for a batch.
    fn may_apply(&self, queue: &Queue) -> bool {
        !self.coupling.deterministic && !queue.feedback.is_empty()
    }

    /// Applies the feedback there is (deterministic: what the next batch must have), and composes a
    /// batch if one may be. Under the Assistant's lock from beginning to end, so a snapshot never
    /// falls between a batch and its place in the queue.
    fn work(&self) {
        let mut assistant = lock(&self.assistant);
        let started = cpu_seconds();
        let mut queue = lock(&self.queue);
        let compose = self.may_compose(&queue).then_some(queue.next);
        let count = if self.coupling.deterministic {
            let due = self.due(&queue);
            queue.feedback.partition_point(|f| Some(f.step) <= due)
        } else {
            queue.feedback.len()
        };
        let feedback: Vec<Feedback> = queue.feedback.drain(..count).collect();
        drop(queue);

        feedback.iter().for_each(|f| assistant.apply(f));
        let batch = compose.map(|number| assistant.compose(number, &self.sweeps));

        let mut queue = lock(&self.queue);
        if let Some(mut batch) = batch {
            assistant.renumber(batch.number, queue.next);
            batch.number = queue.next;
            queue.next += 1;
            queue.ready.push_back(Ready {
                batch,
                ops: assistant.ops(),
                quality: assistant.quality().clone(),
                v: assistant.v(),
            });
            self.ready.notify_one();
        }
        queue.counters.cpu_seconds += cpu_seconds() - started;
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// CPU time of the calling thread in seconds.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill; the clock id is one that every
    // thread has.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(test)]
mod tests;
