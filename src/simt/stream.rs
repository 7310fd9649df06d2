//! The driver that runs kernels on the CPU: the SIMT executor of `kernels/simt/` behind a stream
//! with a thread of its own, so that launches are as asynchronous as on a GPU.

use super::abi::{Kernel, RawLaunch, kernels, simt_launch, text};
use super::checker::Checker;
use super::instrumented;
use super::profiler::Profiler;
use crate::backend::error::DeviceError;
use crate::backend::gpu::driver::{
    self, ALL_GATHER, ALL_REDUCE, Arg, Capability, Driver, Graph, Launch, Mapped, Scratch,
    TensorMap, Value,
};
use crate::world::world;
use std::any::Any;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// In which order the threads of a block run. A right kernel gives the same under all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Low warps and lanes first.
    #[default]
    Low,
    /// High warps and lanes first.
    High,
    /// Drawn anew from a seed in every block.
    Random(u64),
}

impl Schedule {
    /// What `AUTOASSIST_SIMT_SCHEDULE` (`low`, `high`, `random`) asks for.
    ///
    /// # Errors
    /// Another word.
    pub fn from_env() -> Result<Schedule, DeviceError> {
        match std::env::var("AUTOASSIST_SIMT_SCHEDULE").as_deref() {
            Err(_) | Ok("low") => Ok(Schedule::Low),
            Ok("high") => Ok(Schedule::High),
            Ok("random") => Ok(Schedule::Random(0)),
            Ok(other) => Err(DeviceError::Schedule(other.into())),
        }
    }
}

/// When the bytes of asynchronous copies and the sums of `wgmma` land. A right kernel gives the same in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Landing {
    /// When they are waited for; until then the destination is NaN.
    #[default]
    Late,
    /// At once.
    AtOnce,
    /// One or the other, by a coin for each copy.
    Randomly,
}

impl Landing {
    /// What `AUTOASSIST_SIMT_LANDING` (`late`, `at-once`, `randomly`) asks for.
    ///
    /// # Errors
    /// Another word.
    pub fn from_env() -> Result<Landing, DeviceError> {
        match std::env::var("AUTOASSIST_SIMT_LANDING").as_deref() {
            Err(_) | Ok("late") => Ok(Landing::Late),
            Ok("at-once") => Ok(Landing::AtOnce),
            Ok("randomly") => Ok(Landing::Randomly),
            Ok(other) => Err(DeviceError::Landing(other.into())),
        }
    }
}

/// `TensorBox` of `kernels/simt/engines.h`.
fn encode(map: TensorMap) -> Value {
    let mut words = [0; 16];
    let row_bytes = 2 * map.columns;
    words[..4].copy_from_slice(&[map.base, map.rows, row_bytes, u64::from(map.box_rows)]);
    Value(words)
}

/// A launch that was checked.
enum Ready {
    Kernel(KernelLaunch),
    /// What ranks do together.
    Collective {
        name: &'static str,
        address: u64,
        count: usize,
    },
}

/// A launch that was checked against its kernel's parameters.
struct KernelLaunch {
    kernel: *const Kernel,
    raw: RawLaunch,
    values: Vec<Value>,
    scratch: Option<Scratch>,
}

// SAFETY: the kernel lies in an immutable table; the rest is plain data.
unsafe impl Send for KernelLaunch {}
// SAFETY: as above.
unsafe impl Sync for KernelLaunch {}

impl Ready {
    fn run(&self, watcher: Option<&Watcher>) -> Result<(), DeviceError> {
        match *self {
            Ready::Kernel(ref launch) => launch.run(watcher).map_err(DeviceError::Fault),
            Ready::Collective {
                name,
                address,
                count,
            } => {
                let at = address as *mut u8;
                // SAFETY: the executor's launch code gives a tensor or a block of its own, which the
                // stream's order keeps all others from meanwhile; both kinds of words may have any
                // bits, and blocks are aligned for them.
                unsafe {
                    match name {
                        ALL_REDUCE => {
                            world().mean(std::slice::from_raw_parts_mut(at.cast(), count))
                        }
                        _ => world().gather(std::slice::from_raw_parts_mut(at.cast(), count)),
                    }
                }
            }
        }
    }
}

impl KernelLaunch {
    fn new(
        launch: &Launch,
        kernels: &[*const Kernel],
        schedule: Schedule,
        landing: Landing,
        shared_limit: u32,
    ) -> Result<KernelLaunch, DeviceError> {
        let fault = |what: String| DeviceError::Fault(format!("{}: {what}", launch.kernel));
        // SAFETY: pointers in the table are good for as long as the program runs.
        let all = kernels.iter().map(|&k| (k, unsafe { &*k }));
        let (kernel, info) = all
            .into_iter()
            .find(|(_, k)| text(k.name) == launch.kernel)
            .ok_or_else(|| fault("no kernel has that name".into()))?;
        // SAFETY: the table gives `argc` sizes.
        let sizes = unsafe { std::slice::from_raw_parts(info.arg_sizes, info.argc as usize) };
        let given: Vec<u32> = launch.args.iter().map(|a| a.size()).collect();
        if sizes != given {
            return Err(fault(format!(
                "arguments of {given:?} bytes for parameters of {sizes:?}"
            )));
        }
        let values = launch.args.iter().map(|a| a.value(|map| Ok(encode(map))));
        let (schedule, seed) = match schedule {
            Schedule::Low => (0, 0),
            Schedule::High => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        Ok(KernelLaunch {
            kernel,
            raw: RawLaunch {
                grid: launch.grid,
                block: [launch.threads, 1, 1],
                dynamic_shared: launch.shared,
                schedule,
                landing: landing as u32,
                shared_limit,
                seed,
            },
            values: values.collect::<Result<_, _>>()?,
            scratch: launch.scratch,
        })
    }

    fn run(&self, watcher: Option<&Watcher>) -> Result<(), String> {
        let mut error = vec![0_u8; 1 << 14];
        let mut args: Vec<*mut c_void> = self
            .values
            .iter()
            .map(|v| std::ptr::from_ref(v).cast_mut().cast())
            .collect();
        // SAFETY: arity and sizes of the arguments were checked; the values outlive the call, which
        // only reads them; the error buffer has the length that is given.
        let failed = unsafe {
            match watcher {
                Some(Watcher::Checker(checker)) => {
                    if let Some(scratch) = self.scratch {
                        checker.scratch(scratch.address, scratch.bytes);
                    }
                    checker.launch(self.kernel, &self.raw, &mut args, &mut error)
                }
                Some(Watcher::Profiler(profiler)) => {
                    profiler.launch(self.kernel, &self.raw, &mut args, &mut error)
                }
                None => simt_launch(
                    self.kernel,
                    &self.raw,
                    args.as_mut_ptr(),
                    error.as_mut_ptr().cast(),
                    error.len(),
                ),
            }
        };
        if failed == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).unwrap_or_default();
        Err(text.to_string_lossy().into_owned())
    }
}

/// Who looks at what kernels do, and owns the memory that they do it to.
#[derive(Clone)]
enum Watcher {
    Checker(Arc<Checker>),
    Profiler(Arc<Profiler>),
}

impl Watcher {
    fn alloc(&self, bytes: usize) -> Result<NonNull<u8>, DeviceError> {
        match self {
            Watcher::Checker(checker) => checker.alloc(bytes),
            Watcher::Profiler(profiler) => profiler.alloc(bytes),
        }
    }

    fn owner(&self) -> Arc<dyn Any + Send + Sync> {
        match self {
            Watcher::Checker(checker) => checker.clone(),
            Watcher::Profiler(profiler) => profiler.clone(),
        }
    }
}

/// A Hopper with few multiprocessors, so that blocks that stay have more than one turn.
pub const SMALL: Capability = Capability {
    arch: (9, 0),
    hopper: true,
    multiprocessors: 2,
    block_shared: 227 << 10,
    shared: 228 << 10,
};

/// What the stream's thread is told.
enum Command {
    Run(Arc<[Ready]>),
    /// Answer when everything before is done.
    Tell(Sender<()>),
}

#[derive(Default)]
struct Shared {
    /// Commands sent and not yet done.
    pending: AtomicU64,
    fault: Mutex<Option<DeviceError>>,
}

impl Shared {
    fn fault(&self) -> Result<(), DeviceError> {
        let fault = self.fault.lock().expect("no holder panics");
        match &*fault {
            None => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }
}

/// The SIMT executor as a [`Driver`].
pub struct Simt {
    schedule: Schedule,
    landing: Landing,
    shared: Arc<Shared>,
    /// Taken when the stream is closed.
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// Launches since the capture began.
    capture: Option<Vec<Ready>>,
    graphs: Vec<Arc<[Ready]>>,
    memory: Vec<Block>,
    watcher: Option<Watcher>,
    capability: Capability,
}

/// Zeroed memory with a generous alignment.
struct Block {
    start: NonNull<u8>,
    layout: std::alloc::Layout,
}

// SAFETY: plain memory; who may touch it when is the stream's order.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn new(bytes: usize) -> Result<Block, DeviceError> {
        let layout = std::alloc::Layout::from_size_align(bytes.max(1), 256).ok();
        let block = layout.and_then(|layout| {
            // SAFETY: the size is not zero.
            let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
            Some(Block { start, layout })
        });
        block.ok_or(DeviceError::OutOfMemory {
            asked: bytes as u64,
            free: 0,
            per_batch: 0,
            fits: None,
        })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Simt {
    /// Starts a stream.
    pub fn new(schedule: Schedule, landing: Landing) -> Simt {
        Simt::start(schedule, landing, None, SMALL)
    }

    /// Starts a stream whose launches are checked. Launches that the checker finds fault with are
    /// no errors; see [`Checker::findings`].
    pub fn checked(schedule: Schedule, landing: Landing, checker: Arc<Checker>) -> Simt {
        Simt::start(schedule, landing, Some(Watcher::Checker(checker)), SMALL)
    }

    /// The same with the limits of another device.
    pub fn posing(mut self, capability: Capability) -> Simt {
        self.capability = capability;
        self
    }

    /// Starts a stream whose launches are profiled, and which claims to be such a device.
    pub fn profiled(capability: Capability, profiler: Arc<Profiler>) -> Simt {
        let watcher = Some(Watcher::Profiler(profiler));
        Simt::start(Schedule::Low, Landing::Late, watcher, capability)
    }

    fn start(
        schedule: Schedule,
        landing: Landing,
        watcher: Option<Watcher>,
        capability: Capability,
    ) -> Simt {
        let shared = Arc::new(Shared::default());
        let (commands, inbox) = channel();
        let (state, watching) = (shared.clone(), watcher.clone());
        let thread = std::thread::spawn(move || {
            for command in inbox {
                match command {
                    Command::Run(launches) => {
                        for launch in launches.iter() {
                            if state.fault().is_err() {
                                break;
                            }
                            if let Err(fault) = launch.run(watching.as_ref()) {
                                *state.fault.lock().expect("no holder panics") = Some(fault);
                            }
                        }
                        state.pending.fetch_sub(1, Ordering::Release);
                    }
                    // Who asked may have gone away.
                    Command::Tell(done) => drop(done.send(())),
                }
            }
        });
        Simt {
            schedule,
            landing,
            shared,
            commands: Some(commands),
            thread: Some(thread),
            capture: None,
            graphs: Vec::new(),
            memory: Vec::new(),
            watcher,
            capability,
        }
    }

    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("open until it is dropped");
        commands.send(command).expect("the stream's thread lives");
    }

    fn run(&self, launches: Arc<[Ready]>) -> Result<(), DeviceError> {
        self.shared.fault()?;
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Run(launches));
        Ok(())
    }
}

impl Drop for Simt {
    fn drop(&mut self) {
        // The memory must not go before the kernels that use it.
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Driver for Simt {
    fn describe(&self) -> String {
        match self.schedule {
            Schedule::Low => "simt".into(),
            schedule => format!("simt ({schedule:?})"),
        }
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        if let Some(watcher) = &self.watcher {
            return Ok(watcher.alloc(bytes)?.as_ptr() as u64);
        }
        let block = Block::new(bytes)?;
        let address = block.address();
        self.memory.push(block);
        Ok(address)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        match self.watcher {
            // Each by itself, so that whoever leaves one is noticed, and what is read of each counted.
            Some(_) => sizes.iter().map(|&bytes| self.alloc(bytes)).collect(),
            None => driver::carve(self, sizes),
        }
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        if let Some(watcher) = &self.watcher {
            let host = watcher.alloc(bytes)?;
            return Ok(Mapped {
                host,
                device: host.as_ptr() as u64,
                owner: watcher.owner(),
            });
        }
        let block = Block::new(bytes)?;
        let (host, device) = (block.start, block.address());
        Ok(Mapped {
            host,
            device,
            owner: Arc::new(block),
        })
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let ready = match (launch.kernel, &launch.args[..]) {
            (name @ (ALL_REDUCE | ALL_GATHER), &[Arg::Ptr(address), Arg::U64(count)]) => {
                Ready::Collective {
                    name,
                    address,
                    count: count as usize,
                }
            }
            _ => {
                let kernels = match self.watcher {
                    Some(_) => {
                        instrumented::kernels().map_err(|e| DeviceError::Fault(e.to_string()))?
                    }
                    None => kernels(),
                };
                let limit = self.capability.block_shared;
                let (schedule, landing) = (self.schedule, self.landing);
                Ready::Kernel(KernelLaunch::new(
                    launch, kernels, schedule, landing, limit,
                )?)
            }
        };
        match &mut self.capture {
            Some(launches) => launches.push(ready),
            None => self.run(Arc::new([ready]))?,
        }
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        let launches = self.capture.take().expect("a capture has begun");
        self.graphs.push(launches.into());
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.run(self.graphs[graph.0].clone())
    }

    /// The time that the CPU takes says nothing about a GPU.
    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError> {
        self.replay(graph)?;
        self.synchronize()?;
        Ok(None)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.shared.fault()?;
        Ok(self.shared.pending.load(Ordering::Acquire) == 0)
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.synchronize()?;
        // SAFETY: the executor copies into blocks that it claimed, and no kernel runs.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.synchronize()?;
        // SAFETY: as in `upload`.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        let (done, answer) = channel();
        self.send(Command::Tell(done));
        answer.recv().expect("the stream's thread lives");
        self.shared.fault()
    }
}
