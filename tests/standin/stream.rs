//! A stream: a thread that does what it is told in the order of the calls, so that work is as
//! asynchronous as on a GPU. Kernels are run by the SIMT executor.

use super::codes::{Code, LAUNCH_FAILED, SUCCESS};
use super::module::Function;
use super::nccl::Collective;
use super::report::note;
use autoassist::backend::gpu::driver::{Arg, Driver, Launch, TensorMap};
use autoassist::simt::{Landing, Schedule, Simt};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// What can be in a graph.
#[derive(Clone, Debug)]
pub enum Node {
    Kernel {
        function: Function,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        args: Vec<Arg>,
    },
    Fill {
        address: u64,
        value: u8,
        bytes: usize,
    },
    Collective(Collective),
}

/// What a stream can be told.
pub enum Work {
    Node(Node),
    Graph(Arc<[Node]>),
    /// To device memory; the bytes were staged by the call.
    Write {
        to: u64,
        bytes: Vec<u8>,
    },
    /// From device memory.
    Read {
        from: u64,
        to: u64,
        bytes: usize,
    },
    Record(Arc<Event>),
    /// Until an event's place in another stream is reached.
    Wait(Box<dyn FnOnce() + Send>),
}

/// How much of what it was told a stream has done.
#[derive(Default)]
pub struct Progress {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    told: u64,
    done: u64,
}

impl Progress {
    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().expect("no holder panics")
    }

    /// Whether there is nothing left to do.
    pub fn is_idle(&self) -> bool {
        let counts = self.counts();
        counts.told == counts.done
    }

    fn told(&self) -> u64 {
        self.counts().told
    }

    /// Waits for what was told first.
    fn wait(&self, told: u64) {
        let counts = self.counts();
        let wait = self.changed.wait_while(counts, |c| c.done < told);
        drop(wait.expect("no holder panics"));
    }
}

/// A point in a stream, with when it was reached.
#[derive(Default)]
pub struct Event {
    reached: Mutex<Option<Instant>>,
    recorded: Mutex<Option<(Arc<Progress>, u64)>>,
    /// Instead, where the stream was being captured.
    pub captured: Mutex<Option<Place>>,
}

impl Capture {
    /// The first stream waits for so many nodes of another. They may run any time until now: `early`, as
    /// soon as they can, or at the last moment.
    pub fn join(&mut self, stream: usize, count: usize, early: bool) {
        let Some(branch) = self.branches.get_mut(&stream) else {
            return;
        };
        let now = self.nodes.len();
        // From the last one on, so that places before stay as they are.
        for (place, node) in branch.drain(..count).rev() {
            self.nodes.insert(if early { place } else { now }, node);
        }
    }

    pub fn is_joined(&self) -> bool {
        self.branches.values().all(Vec::is_empty)
    }
}

/// A place in a capture: behind so many nodes of a stream's branch.
#[derive(Clone, Copy)]
pub struct Place {
    pub origin: usize,
    pub stream: usize,
    pub nodes: usize,
}

impl Event {
    /// What to wait for, if it was ever recorded.
    pub fn recorded(&self) -> Option<impl FnOnce() + use<>> {
        let recorded = self.recorded.lock().expect("no holder panics");
        let (progress, told) = recorded.clone()?;
        Some(move || progress.wait(told))
    }

    /// When it was reached.
    pub fn reached(&self) -> Option<Instant> {
        *self.reached.lock().expect("no holder panics")
    }
}

/// A capture that has begun.
pub struct Capture {
    pub nodes: Vec<Node>,
    /// What other streams that have joined the capture were told and the first one has not waited for
    /// yet, each behind so many of its nodes.
    pub branches: BTreeMap<usize, Vec<(usize, Node)>>,
    /// A call that is illegal in between has spoilt it.
    pub spoilt: bool,
    pub by: std::thread::ThreadId,
}

pub struct Stream {
    work: Sender<Work>,
    pub progress: Arc<Progress>,
    pub capture: Option<Capture>,
    /// The stream whose capture this one has joined.
    pub joins: Option<usize>,
}

impl Stream {
    /// `fault` is the context's: what fails is kept there, and nothing is done after it.
    pub fn start(fault: Arc<AtomicU32>) -> Stream {
        let (work, inbox) = channel();
        let progress = Arc::new(Progress::default());
        let own = progress.clone();
        std::thread::spawn(move || serve(&inbox, &own, &fault));
        Stream {
            work,
            progress,
            capture: None,
            joins: None,
        }
    }

    pub fn tell(&self, work: Work) {
        if let Work::Record(event) = &work {
            *event.reached.lock().expect("no holder panics") = None;
            let recorded = (self.progress.clone(), self.progress.told() + 1);
            *event.recorded.lock().expect("no holder panics") = Some(recorded);
            *event.captured.lock().expect("no holder panics") = None;
        }
        self.progress.counts().told += 1;
        self.work.send(work).expect("its thread lives");
    }

    /// What waits for all that was told until now.
    pub fn waiting(&self) -> impl FnOnce() + use<> {
        let (progress, told) = (self.progress.clone(), self.progress.told());
        move || progress.wait(told)
    }
}

fn serve(inbox: &Receiver<Work>, progress: &Progress, fault: &AtomicU32) {
    let schedule = Schedule::from_env().expect("a schedule");
    let mut simt = Simt::new(schedule, Landing::from_env().expect("a landing"));
    let (hanging, failing) = (
        std::env::var("STANDIN_HANG"),
        std::env::var("STANDIN_FAULT"),
    );
    let idle = std::env::var_os("STANDIN_RUN").is_some_and(|v| v == "0");
    let mut run = |node: &Node| -> Result<(), Code> {
        let (function, grid, threads, shared, args) = match node {
            Node::Kernel {
                function,
                grid,
                threads,
                shared,
                args,
            } => (function, grid, threads, shared, args),
            Node::Fill {
                address,
                value,
                bytes,
            } => {
                // SAFETY: the call has checked that this is in a live block.
                unsafe { std::ptr::write_bytes(*address as *mut u8, *value, *bytes) };
                return Ok(());
            }
            Node::Collective(call) => {
                call.comm.run(call);
                return Ok(());
            }
        };
        while hanging.as_deref() == Ok(function.name) {
            std::thread::park();
        }
        let failing = failing.as_deref().ok().and_then(|f| f.split_once(':'));
        if let Some((_, code)) = failing.filter(|(name, _)| *name == function.name) {
            return Err(code.parse().expect("STANDIN_FAULT=kernel:code"));
        }
        if function.traps {
            note(&format!(
                "{} has no code for this GPU and traps",
                function.name
            ));
            return Err(LAUNCH_FAILED);
        }
        if idle {
            return Ok(());
        }
        let launch = Launch {
            kernel: function.name,
            grid: *grid,
            threads: *threads,
            shared: *shared,
            args: args.clone(),
            scratch: None,
        };
        let ran = simt.launch(&launch).and_then(|()| simt.synchronize());
        ran.map_err(|e| {
            note(&e.to_string());
            LAUNCH_FAILED
        })
    };
    for work in inbox {
        let done = match work {
            _ if fault.load(Ordering::Relaxed) != SUCCESS => Ok(()),
            Work::Node(node) => run(&node),
            Work::Graph(nodes) => nodes.iter().try_for_each(&mut run),
            Work::Write { to, bytes } => {
                // SAFETY: the call has checked that this is in a live block.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len())
                };
                Ok(())
            }
            Work::Read { from, to, bytes } => {
                // SAFETY: as above; the caller keeps its buffer until it has synchronised.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
                Ok(())
            }
            Work::Wait(wait) => {
                wait();
                Ok(())
            }
            Work::Record(event) => {
                *event.reached.lock().expect("no holder panics") = Some(Instant::now());
                Ok(())
            }
        };
        if let Err(code) = done {
            fault.store(code, Ordering::Relaxed);
        }
        progress.counts().done += 1;
        progress.changed.notify_all();
    }
}

/// `CUtensorMap` as this driver writes it: what [`Arg::Map`] says, behind a word that no other
/// parameter begins with.
const MAP: u64 = 0x70616d5f726f736e;

pub fn encode(map: TensorMap) -> [u64; 16] {
    let mut words = [0; 16];
    words[..5].copy_from_slice(&[
        MAP,
        map.base,
        map.rows,
        map.columns,
        u64::from(map.box_rows),
    ]);
    words
}

/// A kernel's argument of its bytes; none where they are no tensor map.
pub fn argument(bytes: &[u8]) -> Option<Arg> {
    let word = |i: usize| {
        let eight = bytes[8 * i..][..8].try_into();
        u64::from_le_bytes(eight.expect("eight bytes"))
    };
    match bytes.len() {
        4 => Some(Arg::U32(u32::from_le_bytes(bytes.try_into().ok()?))),
        8 => Some(Arg::U64(word(0))),
        128 if word(0) == MAP => Some(Arg::Map(TensorMap {
            base: word(1),
            rows: word(2),
            columns: word(3),
            box_rows: word(4) as u32,
        })),
        _ => None,
    }
}
