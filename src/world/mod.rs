//! The processes that train one network together, and the engine between them: MPI, or on GPUs NCCL,
//! which MPI or `torchrun`'s store has introduced to each other.
//!
//! A program's flags say what one process would do. Several *ranks* share each of its steps: all run
//! the same Assistant on the same records, so that they compose the same batch, and each trains on
//! its own part of the rows. Whatever leads to a collective call is decided by what all ranks know:
//! the number of the step, operations, losses, votes.

pub(crate) mod error;
mod exchange;
mod launcher;
mod mpi;
mod store;

pub use error::WorldError;

use crate::backend::error::DeviceError;
use crate::backend::wait::{Patience, Wait, say, step_limit};
use launcher::{Launcher, Told};
use mpi::{Channel, Mpi, Request};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use store::Store;

/// What carries bytes from rank to rank.
enum Engine {
    /// There is one rank.
    None,
    Mpi(Mpi),
    Store(Mutex<Store>),
}

/// All ranks, as one of them sees them.
pub struct World {
    rank: usize,
    size: usize,
    /// Ranks on this machine before this one, and all of them.
    local: [usize; 2],
    /// Threads that this rank may have, where several share a machine.
    threads: Option<usize>,
    engine: Engine,
    interrupt: Option<Arc<AtomicBool>>,
    /// Time spent on the collective calls of training steps.
    nanoseconds: AtomicU64,
    /// All ranks know of the error that ends them.
    agreed: AtomicBool,
}

static ALONE: World = World::alone();
static WORLD: OnceLock<World> = OnceLock::new();

/// All ranks: one, unless [`join`] has met others.
pub fn world() -> &'static World {
    WORLD.get().unwrap_or(&ALONE)
}

/// The number that the launcher has given to this process.
fn told_rank() -> usize {
    let told = launcher::told(|name| std::env::var(name));
    told.ok().flatten().map_or(0, |told| told.rank)
}

/// For a failure that all ranks find by themselves: whether this one is to say it. The others give the
/// first a moment to, as launchers end all processes when one has failed.
pub fn speaks_for_all() -> bool {
    let first = told_rank() == 0;
    if !first {
        std::thread::sleep(Duration::from_secs(1));
    }
    first
}

/// Meets the other processes that the launcher has started, if it has. Waits for none for ever, nor
/// long once `interrupt` is set.
///
/// # Errors
/// There are some, and no way to them.
pub fn join(interrupt: Arc<AtomicBool>) -> Result<(), DeviceError> {
    let limit = step_limit()?;
    let Some(told) = launcher::told(|name| std::env::var(name))? else {
        return Ok(());
    };
    let (met, news) = channel::<()>();
    std::thread::spawn(move || {
        // The engine's own wait for all ranks cannot be broken off.
        if news.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            say(format_args!(
                "no sign of all {} processes within {limit:?}",
                told.size
            ));
            // SAFETY: ends the process; nothing of it is looked at afterwards.
            unsafe { libc::_exit(1) }
        }
    });
    let mut world = World {
        interrupt: Some(interrupt),
        ..World::new(told, limit)?
    };
    drop(met);
    world.look_around()?;
    drop(WORLD.set(world));
    Ok(())
}

impl World {
    const fn alone() -> World {
        World {
            rank: 0,
            size: 1,
            local: [0, 1],
            threads: None,
            engine: Engine::None,
            interrupt: None,
            nanoseconds: AtomicU64::new(0),
            agreed: AtomicBool::new(false),
        }
    }

    fn new(told: Told, limit: Duration) -> Result<World, WorldError> {
        let (engine, rank) = match told.launcher {
            Launcher::Torchrun => {
                let store = Store::join(told.rank, told.size, limit)?;
                (Engine::Store(Mutex::new(store)), told.rank)
            }
            _ => {
                let mpi = Mpi::join(told)?;
                let rank = mpi.rank();
                (Engine::Mpi(mpi), rank)
            }
        };
        Ok(World {
            rank,
            size: told.size,
            engine,
            ..World::alone()
        })
    }

    /// Finds out who shares this machine, and how.
    fn look_around(&mut self) -> Result<(), DeviceError> {
        // The kernel's own number, which is a machine's whatever its containers are called.
        let machine = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let own = [machine, cores().to_vec()];
        let all = self.exchange("start", &postcard::to_stdvec(&own).expect("plain data"))?;
        let all = all.iter().map(|bytes| postcard::from_bytes(bytes).ok());
        let all: Vec<Option<[Vec<u8>; 2]>> = all.collect();
        let here = |rank: &usize| {
            all[*rank]
                .as_ref()
                .is_some_and(|[machine, _]| *machine == own[0])
        };
        let alike = |rank: &usize| all[*rank].as_ref() == Some(&own);
        let count = |ranks: Range<usize>, of: &dyn Fn(&usize) -> bool| ranks.filter(of).count();
        self.local = [count(0..self.rank, &here), count(0..self.size, &here)];
        // Launchers that bind each rank to cores of its own have divided them already.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads = Some((cores / count(0..self.size, &alike).max(1)).max(1));
        Ok(())
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there are others.
    pub fn is_shared(&self) -> bool {
        self.size > 1
    }

    /// Whether this rank prints and writes, which one does for all.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The number of this rank among those on its machine.
    pub fn local_rank(&self) -> usize {
        self.local[0]
    }

    /// Threads that this rank may have, where several share a machine.
    pub fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// Whether all ranks know of the error that ends them.
    pub fn has_agreed(&self) -> bool {
        self.agreed.load(Ordering::Relaxed)
    }

    /// Seconds that this rank has spent on the collective calls of training steps.
    pub fn seconds(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// This rank's part of so many rows: equal parts, of which some are longer by one.
    pub fn part(&self, rows: usize) -> Range<usize> {
        part(self.rank, self.size, rows)
    }

    /// Rows of the longest part.
    pub fn largest_part(&self, rows: usize) -> usize {
        rows.div_ceil(self.size)
    }

    /// Rows of a loss ring for so many instances a step: those that all ranks share have the votes
    /// behind them.
    pub fn ring_rows(&self, instances: usize) -> usize {
        instances + usize::from(self.is_shared())
    }

    /// Records of each rank's part of such a ring's: its rows', and its vote.
    pub fn words(&self, ring_rows: usize) -> usize {
        self.largest_part(ring_rows - 1) + 1
    }

    /// A device's name, for all of them.
    pub fn describe(&self, device: String) -> String {
        match self.size {
            1 => device,
            size => format!("{size} x {device}"),
        }
    }

    /// Whether arrays in host memory can be carried, which only MPI does.
    ///
    /// # Errors
    /// Not between processes of `torchrun`.
    pub fn check_engine(&self, device: &'static str) -> Result<(), WorldError> {
        match self.engine {
            Engine::Store(_) => Err(WorldError::NeedsMpi {
                device,
                size: self.size,
            }),
            _ => Ok(()),
        }
    }

    /// Replaces `x` by its mean over all ranks.
    ///
    /// # Errors
    /// A rank that is gone or hangs.
    pub fn mean(&'static self, x: &mut [f32]) -> Result<(), DeviceError> {
        // SAFETY: borrowed until the end.
        unsafe { self.begin_mean(x) }?.end()
    }

    /// Begins to replace `x` by its mean over all ranks, in the same order as they.
    ///
    /// # Errors
    /// Those of the engine.
    ///
    /// # Safety
    /// `x` must be good, and nobody else's, until the mean has ended.
    pub unsafe fn begin_mean(&'static self, x: *mut [f32]) -> Result<Mean, DeviceError> {
        let mut mean = Mean {
            world: self,
            requests: Vec::new(),
            x,
        };
        if let Engine::Mpi(mpi) = &self.engine {
            self.timed(|| {
                // SAFETY: the caller's promise.
                mean.requests = mpi.sum(unsafe { &mut *x })?;
                Ok(())
            })?;
        }
        Ok(mean)
    }

    /// Fills `words`, in which each rank has an equal part, with all ranks' parts.
    ///
    /// # Errors
    /// A rank that is gone or hangs.
    pub fn gather(&self, words: &mut [u64]) -> Result<(), DeviceError> {
        let Engine::Mpi(mpi) = &self.engine else {
            return Ok(());
        };
        self.timed(|| {
            let bytes = bytemuck::cast_slice_mut(words);
            self.wait("the losses", &mut mpi.gather(Channel::Steps, bytes)?)
        })
    }

    fn timed(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<(), DeviceError> {
        let began = Instant::now();
        let result = work();
        let nanoseconds = began.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    /// Waits for the other ranks' part of `what`, without keeping a core that others want, and not
    /// for ever.
    fn wait(&self, what: &str, request: &mut Request) -> Result<(), DeviceError> {
        let (mut wait, mut patience) = (Wait::begin(), Patience::new(Some(step_limit()?)));
        if let Some(interrupt) = &self.interrupt {
            patience.obey(interrupt.clone());
        }
        while !request.is_done()? {
            if let Some(waited) = wait.long() {
                let what = || format!("rank {}'s wait for {what} of all ranks", self.rank);
                let line = patience.judge(waited, &what)?;
                line.iter().filter(|_| self.is_first()).for_each(say);
            }
            wait.pause();
        }
        Ok(())
    }

    /// Of a random seed, this rank's own: the first keeps it.
    pub fn seed(&self, seed: u64) -> u64 {
        seed ^ (self.rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Leaves the others, when all ranks come to their end.
    pub fn leave(&self) {
        if let Engine::Mpi(mpi) = &self.engine {
            mpi.leave();
        }
    }
}

/// A mean over all ranks that is under way.
pub struct Mean {
    world: &'static World,
    requests: Vec<Request<'static>>,
    x: *mut [f32],
}

// SAFETY: of plain memory that nobody else uses meanwhile.
unsafe impl Send for Mean {}

impl Mean {
    /// Lets the engine work on it, which it does only while it is called.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn advance(&mut self) -> Result<(), DeviceError> {
        self.world.timed(|| {
            for request in &mut self.requests {
                request.is_done()?;
            }
            Ok(())
        })
    }

    /// Waits for the other ranks.
    ///
    /// # Errors
    /// A rank that is gone or hangs.
    pub fn end(mut self) -> Result<(), DeviceError> {
        let world = self.world;
        if !world.is_shared() {
            return Ok(());
        }
        world.timed(|| {
            for request in &mut self.requests {
                world.wait("the sum of gradients", request)?;
            }
            let size = world.size as f32;
            // SAFETY: the promise of whoever began; the engine is done with it.
            unsafe { &mut *self.x }.iter_mut().for_each(|v| *v /= size);
            Ok(())
        })
    }
}

/// A rank's part of so many rows.
pub(crate) fn part(rank: usize, ranks: usize, rows: usize) -> Range<usize> {
    rows * rank / ranks..rows * (rank + 1) / ranks
}

/// The same for equal things, on ranks of one build.
pub fn hash(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

/// The cores that this process may use.
fn cores() -> [u8; size_of::<libc::cpu_set_t>()] {
    let mut cores = [0; size_of::<libc::cpu_set_t>()];
    // SAFETY: the call fills so many bytes, or none.
    unsafe { libc::sched_getaffinity(0, cores.len(), cores.as_mut_ptr().cast()) };
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_rows_once_and_none_is_empty_where_there_are_enough() {
        for (ranks, rows) in [(1, 7), (2, 64), (3, 64), (4, 5), (4, 3), (7, 7)] {
            let parts: Vec<_> = (0..ranks).map(|rank| part(rank, ranks, rows)).collect();
            let all: Vec<usize> = parts.iter().cloned().flatten().collect();
            assert_eq!(all, (0..rows).collect::<Vec<_>>());
            let longest = parts.iter().map(ExactSizeIterator::len).max();
            assert_eq!(longest, Some(rows.div_ceil(ranks)));
            let empty = parts.iter().any(Range::is_empty);
            assert_eq!(empty, rows < ranks);
        }
    }

    #[test]
    fn one_rank_has_nobody_to_wait_for() {
        let world = world();
        assert_eq!(
            (world.size(), world.part(5), world.threads()),
            (1, 0..5, None)
        );
        let mut x = [1.0, f32::MIN_POSITIVE / 8.0];
        world.mean(&mut x).unwrap();
        assert_eq!(x, [1.0, f32::MIN_POSITIVE / 8.0]);
        assert_eq!(world.sums("sums", [0.1, -0.0]).unwrap()[0], 0.1);
        assert_eq!(world.exchange("bytes", b"abc").unwrap(), [b"abc"]);
        let result: Result<(), DeviceError> = Err(DeviceError::NoDriver);
        assert!(world.together("load", result).is_err() && !world.has_agreed());
        assert_eq!(
            (world.describe("cpu".into()), world.seconds()),
            ("cpu".into(), 0.0)
        );
    }
}
