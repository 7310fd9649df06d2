//! The op set as kernel launches, in bf16 with f32 accumulation, on whatever [`Driver`] there is: a
//! GPU, or the SIMT executor that runs the same kernels on the CPU.
//!
//! Outside a step every op is launched when it is called. A step ([`Executor::step`]) is captured
//! the first time: its ops are called once to learn how much scratch memory they want, and once
//! more to be captured as a graph. From then on a step is one write to a slot and one replay.

mod arena;
pub mod catalog;
mod cuda;
mod data;
pub mod driver;
mod executor;
pub mod head;
mod join;
mod ladder;
pub mod models;
mod ops;
mod sequence;
mod shadow;
pub(crate) mod sources;
mod steps;
mod under_way;

use super::wait::Patience;
use super::{DataId, DeviceError, Executor, Kind, Pass, Tensor};
use crate::assist::LossRing;
#[cfg(simt)]
use crate::simt::{Landing, Schedule, Simt, checker::Checker, profiler::Profiler};
use crate::world::world;
use arena::{Arena, Purpose};
use data::{Data, Held, Resident};
use driver::{Arg, Counted, Driver, Graph, Launch};
pub use ladder::Ladder;
use ladder::Limits;
use ops::share::Shared;
use shadow::Shadows;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use steps::{StepBuffers, Steps};
use under_way::UnderWay;

/// Training steps that may be under way where no ring says how many: so many that the
/// synchronisation which then frees the slots costs nothing to speak of.
const SLOTS: usize = 16;

/// Shared memory that the system takes for every block, in bytes.
const RESERVED: u32 = 1 << 10;

/// What a launch means at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Run it.
    Run,
    /// Only note what it needs.
    Plan,
}

/// A ring of loss records as kernels see it.
struct Ring {
    host: Arc<LossRing>,
    device: u64,
}

/// Where the loss kernel stores its records.
#[derive(Clone, Copy, Debug)]
struct RingBuffer {
    address: u64,
    slots: u32,
    rows: u32,
}

/// A tensor's memory.
#[derive(Clone, Copy)]
struct Buffer {
    kind: Kind,
    block: usize,
}

/// A GPU, or its stand-in, as an [`Executor`].
pub struct Gpu {
    stream: Counted,
    arena: Arena,
    buffers: Vec<Buffer>,
    data: Vec<Data>,
    ring: Option<Ring>,
    /// Where several ranks share a step.
    shared: Option<Shared>,
    steps: Option<Steps>,
    graphs: HashMap<StepKey, Captured>,
    pass: Pass,
    mode: Mode,
    limits: Limits,
    /// Launches since planning began.
    planned: Vec<Launch>,
    scratch: Scratch,
    shadows: Shadows,
    /// Training steps before this one have been launched.
    launched: u64,
    /// Training steps before this one are known to be complete.
    complete: u64,
    /// An evaluation step may still be reading its slot.
    evaluating: bool,
    /// The last steps launched, for whoever waits for them.
    under_way: UnderWay,
    patience: Patience,
    /// The first failure; nothing is launched after it.
    fault: Option<DeviceError>,
}

/// Which steps have the same ops: those of equal pass and padded sizes.
type StepKey = (Pass, [u32; 3]);

/// A step as the driver has it.
struct Captured {
    graph: Graph,
    /// To notice a pass whose ops change.
    launches: Vec<Launch>,
}

/// Memory for partial results, shared by all ops since they run one after the other.
#[derive(Default)]
struct Scratch {
    block: Option<usize>,
    bytes: usize,
    wanted: usize,
    /// An op has asked for so much and not yet launched anything.
    asked: Option<usize>,
}

impl Gpu {
    /// The SIMT executor, under the schedule and the landing of asynchronous copies that
    /// `AUTOASSIST_SIMT_SCHEDULE` and `AUTOASSIST_SIMT_LANDING` name, with the limits of the GPU
    /// that `AUTOASSIST_SIMT_GPU` does.
    ///
    /// # Errors
    /// A build without it, or a schedule, a landing or a GPU that is none.
    #[cfg(simt)]
    pub fn simt() -> Result<Gpu, DeviceError> {
        let (schedule, landing) = (Schedule::from_env()?, Landing::from_env()?);
        match std::env::var("AUTOASSIST_SIMT_GPU") {
            Err(_) => Ok(Gpu::simt_scheduled(schedule, landing)),
            Ok(name) => match models::find(&name) {
                Some(model) => Ok(Gpu::simt_posing(schedule, landing, model)),
                None => Err(DeviceError::Model {
                    name,
                    choices: models::names(),
                }),
            },
        }
    }

    /// A build without the SIMT executor says so.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(simt))]
    pub fn simt() -> Result<Gpu, DeviceError> {
        Err(DeviceError::NoSimt)
    }

    /// The SIMT executor under a given schedule, with copies that land as given.
    #[cfg(simt)]
    pub fn simt_scheduled(schedule: Schedule, landing: Landing) -> Gpu {
        Gpu::new(Box::new(Simt::new(schedule, landing)))
    }

    /// The same with the limits of some GPU.
    #[cfg(simt)]
    pub fn simt_posing(
        schedule: Schedule,
        landing: Landing,
        capability: driver::Capability,
    ) -> Gpu {
        Gpu::new(Box::new(Simt::new(schedule, landing).posing(capability)))
    }

    /// The SIMT executor with the limits of some GPU, and all launches checked.
    #[cfg(simt)]
    pub fn simt_checked(
        schedule: Schedule,
        landing: Landing,
        capability: driver::Capability,
        checker: Arc<Checker>,
    ) -> Gpu {
        let simt = Simt::checked(schedule, landing, checker);
        Gpu::new(Box::new(simt.posing(capability)))
    }

    /// The SIMT executor with all launches profiled, as if on a device of such capabilities.
    #[cfg(simt)]
    pub fn simt_profiled(capability: driver::Capability, profiler: Arc<Profiler>) -> Gpu {
        Gpu::new(Box::new(Simt::profiled(capability, profiler)))
    }

    /// An NVIDIA GPU.
    ///
    /// # Errors
    /// No kernels, no driver, no such device, or one that is too old.
    pub fn cuda(ordinal: u32) -> Result<Gpu, DeviceError> {
        Ok(Gpu::new(Box::new(cuda::Cuda::new(ordinal)?)))
    }

    /// On any driver.
    pub fn new(driver: Box<dyn Driver>) -> Gpu {
        Gpu {
            patience: Patience::new(driver.step_limit()),
            under_way: UnderWay::default(),
            stream: Counted::new(driver),
            arena: Arena::default(),
            buffers: Vec::new(),
            data: Vec::new(),
            ring: None,
            shared: None,
            steps: None,
            graphs: HashMap::new(),
            pass: Pass::Train,
            mode: Mode::Run,
            limits: Limits::default(),
            planned: Vec::new(),
            scratch: Scratch::default(),
            shadows: Shadows::default(),
            launched: 0,
            complete: 0,
            evaluating: false,
            fault: None,
        }
    }

    /// What the device is capable of.
    pub fn capability(&self) -> driver::Capability {
        self.stream.capability()
    }

    /// Whether a device has the shared memory for a block of a kernel that asks for so much of it,
    /// in bytes, besides what the kernel has by itself.
    fn fits(&self, kernel: &str, dynamic: usize) -> bool {
        let own = catalog::static_shared(kernel) as usize;
        own + dynamic <= self.capability().block_shared as usize
    }

    /// Blocks of such a kernel that a multiprocessor has the shared memory for.
    fn blocks_by_shared(&self, kernel: &str, dynamic: usize) -> u32 {
        let block = catalog::static_shared(kernel) + dynamic as u32 + RESERVED;
        self.capability().shared / block
    }

    /// How often the stream was asked whether it still works.
    pub fn queries(&self) -> u64 {
        self.stream.queries()
    }

    /// Where a tensor's first element lies.
    fn locate(&self, t: Tensor) -> u64 {
        let buffer = self.buffers[t.buffer];
        let offset = t.offset * bytes_of(buffer.kind);
        self.arena.address(buffer.block) + offset as u64
    }

    /// The same as a kernel's argument.
    pub(crate) fn address(&self, t: Tensor) -> Arg {
        Arg::Ptr(self.locate(t))
    }

    /// Device memory for partial results within one op; its contents are undefined.
    fn scratch(&mut self, bytes: usize) -> u64 {
        self.scratch.wanted = self.scratch.wanted.max(bytes);
        self.scratch.asked = Some(bytes);
        if self.mode == Mode::Run && self.scratch.bytes < self.scratch.wanted {
            let grown = self.grow_scratch();
            self.note(grown);
        }
        self.scratch.block.map_or(0, |b| self.arena.address(b))
    }

    fn grow_scratch(&mut self) -> Result<(), DeviceError> {
        if self.scratch.bytes < self.scratch.wanted {
            // A smaller one stays where it is: graphs may hold its address.
            let block = self.arena.plan(Purpose::Scratch, self.scratch.wanted);
            self.arena.claim(&mut self.stream)?;
            self.scratch.block = Some(block);
            self.scratch.bytes = self.scratch.wanted;
        }
        Ok(())
    }

    /// Puts a kernel into the stream, unless the device has failed.
    fn launch(
        &mut self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        dynamic_shared: u32,
        args: &[Arg],
    ) {
        let bytes = self.scratch.asked.take();
        let block = bytes.zip(self.scratch.block);
        let launch = Launch {
            kernel,
            grid,
            threads,
            shared: dynamic_shared,
            args: args.to_vec(),
            scratch: block.map(|(bytes, block)| driver::Scratch {
                address: self.arena.address(block),
                bytes,
            }),
        };
        match self.mode {
            Mode::Plan => self.planned.push(launch),
            Mode::Run => self.put(&launch),
        }
    }

    fn put(&mut self, launch: &Launch) {
        if self.fault.is_none() {
            let launched = self.stream.launch(launch);
            self.note(launched);
        }
    }

    /// The launches of `ops` as a graph, without running them. A capture is ended whatever happens in
    /// it.
    pub(crate) fn record(&mut self, ops: impl FnOnce(&mut Gpu)) -> Result<Graph, DeviceError> {
        self.known_fault()?;
        self.stream.begin_capture()?;
        ops(self);
        let graph = self.stream.end_capture();
        self.known_fault()?;
        graph.inspect_err(|e| self.fault = Some(e.clone()))
    }

    /// `StepState` of the present pass.
    fn state(&self) -> Arg {
        Arg::Ptr(self.step_buffers().state)
    }

    fn step_buffers(&self) -> StepBuffers {
        let steps = self.steps.as_ref().expect("made before the first op");
        steps.buffers(&self.arena, self.pass)
    }

    /// Where the loss kernel stores its records: what several ranks share goes into the ring later.
    fn ring_buffer(&self) -> Option<RingBuffer> {
        if let Some(shared) = self.shared {
            return Some(shared.ring(self, world().rank()));
        }
        self.ring.as_ref().map(|ring| RingBuffer {
            address: ring.device,
            slots: ring.host.slots() as u32,
            rows: ring.host.rows() as u32,
        })
    }

    fn attach(&mut self, held: Held) -> DataId {
        let parts = held.parts();
        let plan = |part: &Cow<[u8]>| self.arena.plan(Purpose::Data, part.len());
        let blocks = parts.iter().map(plan).collect();
        drop(parts);
        self.data.push(Data {
            blocks,
            held,
            uploaded: false,
        });
        DataId(self.data.len() - 1)
    }

    /// Where the parts of a data set lie.
    fn parts_of<const N: usize>(&self, data: &Data) -> [u64; N] {
        let addresses = data.blocks.iter().map(|b| self.arena.address(*b));
        let addresses: Vec<u64> = addresses.collect();
        addresses.try_into().expect("as many as it was made with")
    }

    fn resident(&self, id: DataId) -> Resident {
        let data = &self.data[id.0];
        let Held::Images(images) = &data.held else {
            panic!("these are no images");
        };
        let [pixels, labels, mean_std] = self.parts_of(data);
        Resident {
            pixels,
            labels,
            mean_std,
            count: images.len(),
            height: images.height,
            width: images.width,
            channels: images.channels,
        }
    }

    /// Keeps the first failure.
    fn note(&mut self, result: Result<(), DeviceError>) {
        if let Err(e) = result {
            self.fault.get_or_insert(e);
        }
    }

    fn known_fault(&self) -> Result<(), DeviceError> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Claims what is planned and brings waiting data to the device: before any op.
    fn claim(&mut self) -> Result<(), DeviceError> {
        self.known_fault()?;
        if self.steps.is_none() {
            let (slots, rows) = self
                .ring
                .as_ref()
                .map_or((SLOTS, 1), |r| (r.host.slots(), r.host.rows()));
            self.make_steps(slots, rows)?;
        }
        if !self.arena.claim(&mut self.stream)? {
            return Ok(());
        }
        if std::env::var_os("AUTOASSIST_MEMORY").is_some() {
            eprintln!("{}: device memory {}", self.stream.describe(), self.arena);
        }
        for i in 0..self.data.len() {
            if !std::mem::replace(&mut self.data[i].uploaded, true) {
                let (held, blocks) = (self.data[i].held.clone(), self.data[i].blocks.clone());
                for (block, bytes) in blocks.into_iter().zip(held.parts()) {
                    let to = self.arena.address(block);
                    self.block(|driver| driver.upload(to, &bytes))?;
                }
            }
        }
        Ok(())
    }

    fn make_steps(&mut self, slots: usize, rows: usize) -> Result<(), DeviceError> {
        if self.steps.is_some() {
            // A step under way reads those that are given back here.
            self.block(|driver| driver.synchronize())?;
        }
        self.steps = Some(Steps::new(&mut self.arena, &mut self.stream, slots, rows)?);
        self.graphs.clear();
        Ok(())
    }

    /// Runs an op's launch code, unless the device has failed.
    fn op(&mut self, op: impl FnOnce(&mut Gpu)) {
        let ready = match self.mode {
            Mode::Plan => Ok(()),
            Mode::Run => self.claim(),
        };
        self.note(ready);
        if self.fault.is_none() {
            op(self);
        }
    }

    /// The launches of a pass, without running them.
    fn plan(&mut self, pass: Pass, ops: &dyn Fn(&mut dyn Executor)) -> Vec<Launch> {
        (self.mode, self.pass) = (Mode::Plan, pass);
        self.shadows.forget();
        ops(self);
        // Ops outside of steps are taken to be parts of training.
        (self.mode, self.pass) = (Mode::Run, Pass::Train);
        let launches = std::mem::take(&mut self.planned);
        match self.allows(Ladder::BatchNorm, 2) {
            true => join::joined(launches),
            false => launches,
        }
    }

    /// Makes the graph of such steps if there is none, and says whether it did.
    fn capture_once(
        &mut self,
        key: StepKey,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<bool, DeviceError> {
        if self.graphs.contains_key(&key) {
            return Ok(false);
        }
        let captured = self.capture(key.0, ops);
        let captured = captured.inspect_err(|e| self.fault = Some(e.clone()))?;
        self.graphs.insert(key, captured);
        Ok(true)
    }

    fn capture(
        &mut self,
        pass: Pass,
        ops: &dyn Fn(&mut dyn Executor),
    ) -> Result<Captured, DeviceError> {
        self.plan(pass, ops);
        self.grow_scratch()?;
        self.arena.claim(&mut self.stream)?;
        // Once more, now that scratch and shadows have their addresses.
        let launches = self.plan(pass, ops);
        let steps = self.steps.as_ref().expect("made by claim");
        let vote = match (pass, self.shared) {
            (Pass::Train, Some(shared)) => shared.vote(self, world().rank()),
            _ => Arg::NULL,
        };
        let begin = Launch {
            kernel: BEGIN,
            grid: [1, 1, 1],
            threads: BEGIN_THREADS,
            shared: 0,
            args: steps.begin_args(&self.arena, pass, vote),
            scratch: None,
        };
        let graph = self.record(|gpu| {
            for launch in std::iter::once(&begin).chain(&launches) {
                gpu.put(launch);
            }
        })?;
        Ok(Captured { graph, launches })
    }
}

/// The first kernel of every step.
const BEGIN: &str = "begin_step";
/// Threads of its one block.
const BEGIN_THREADS: u32 = 1024;

/// Bytes of an element in device memory.
fn bytes_of(kind: Kind) -> usize {
    match kind {
        Kind::Activation => 2,
        Kind::Float | Kind::Label => 4,
    }
}

#[cfg(all(test, simt))]
mod tests;
