//! The state of the driver: one device, its primary context, and what lives in it.

use super::codes::{
    Code, INVALID_CONTEXT, INVALID_HANDLE, NOT_INITIALIZED, STREAM_CAPTURE_INVALIDATED,
    STREAM_CAPTURE_ISOLATION, STREAM_CAPTURE_MERGE, STREAM_CAPTURE_UNJOINED,
    STREAM_CAPTURE_UNSUPPORTED, SUCCESS,
};
use super::gpus::Gpu;
use super::memory::{Memory, Misuse};
use super::module::{Function, Image};
use super::nccl::Comm;
use super::report::{Findings, totals};
use super::stream::{Capture, Event, Node, Place, Stream, Work};
use autoassist::backend::gpu::driver::Arg;
use autoassist::simt::Landing;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a call asks of the state it finds.
#[derive(Clone, Copy, PartialEq)]
pub enum Needs {
    Nothing,
    /// `cuInit`.
    Init,
    /// A context that is current to the thread and was not released.
    Context,
    /// The same, and no capture by this thread: calls that the documentation has as potentially
    /// unsafe.
    NoCapture,
}

pub struct Device {
    pub gpu: Gpu,
    /// CUDA version of the driver.
    pub driver: (u32, u32),
    pub count: u32,
    initialised: bool,
    /// How often the primary context is retained.
    pub retained: u32,
    fault: Arc<AtomicU32>,
    failing: HashMap<String, Code>,
    pub memory: Memory,
    pub streams: Handles<Stream>,
    pub modules: Handles<Image>,
    pub functions: Handles<(usize, Function)>,
    pub graphs: Handles<Vec<Node>>,
    pub execs: Handles<Arc<[Node]>>,
    pub events: Handles<Arc<Event>>,
    pub comms: Handles<Arc<Comm>>,
    pub findings: Findings,
    pub calls: u64,
    pub launches: BTreeMap<&'static str, u64>,
}

/// Objects that are known to the program by a pointer; none is ever given out twice.
pub struct Handles<T> {
    what: &'static str,
    next: usize,
    alive: HashMap<usize, T>,
}

impl<T> Handles<T> {
    fn new(what: &'static str, first: usize) -> Handles<T> {
        Handles {
            what,
            next: first,
            alive: HashMap::new(),
        }
    }

    pub fn add(&mut self, object: T) -> usize {
        self.next += 16;
        self.alive.insert(self.next, object);
        self.next
    }

    /// The object, or the error and finding that it is none.
    pub fn get(&mut self, handle: usize, findings: &mut Findings) -> Result<&mut T, Code> {
        let what = self.what;
        self.alive.get_mut(&handle).ok_or_else(|| {
            findings.add(format!("a {what} is used that is none, or not any more"));
            INVALID_HANDLE
        })
    }

    pub fn remove(&mut self, handle: usize, findings: &mut Findings) -> Result<T, Code> {
        self.get(handle, findings)?;
        Ok(self.alive.remove(&handle).expect("it was there"))
    }

    pub fn any(&self, is: impl Fn(&T) -> bool) -> bool {
        self.alive.values().any(is)
    }

    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.alive.retain(|_, object| keep(object));
    }
}

/// The context's handle.
pub const CONTEXT: usize = 0xc0;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    /// The stream that this thread captures.
    static CAPTURING: Cell<Option<usize>> = const { Cell::new(None) };
}

pub fn set_current(context: usize) {
    CURRENT.set(context);
}

pub fn set_capturing(stream: Option<usize>) {
    CAPTURING.set(stream);
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Device>> {
    DEVICE
        .lock()
        .unwrap_or_else(|e| panic!("the stand-in has failed: {e}"))
}

/// What remains to be done when the lock is released: whatever waits.
pub type After = Option<Box<dyn FnOnce()>>;

/// Makes a call: checks what it needs, and does it.
pub fn enter(
    call: &'static str,
    needs: Needs,
    body: impl FnOnce(&mut Device) -> Result<After, Code>,
) -> Code {
    let mut device = lock();
    let device_ = device.get_or_insert_with(Device::new);
    device_.calls += 1;
    let done = device_.allows(call, needs).and_then(|()| body(device_));
    let fault = device_.fault.clone();
    drop(device);
    match done {
        Err(code) => code,
        Ok(None) => SUCCESS,
        Ok(Some(wait)) => {
            wait();
            fault.load(Ordering::Relaxed)
        }
    }
}

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn number(name: &str, default: &str) -> usize {
    let text = env(name, default);
    text.parse()
        .unwrap_or_else(|_| panic!("{name}={text}: no number"))
}

impl Device {
    fn new() -> Device {
        extern "C" fn at_exit() {
            // Who is in a call at the end, as a thread that waits for a hung kernel, is not.
            if let Some(device) = lock().as_mut() {
                totals(device);
            }
        }
        // SAFETY: a function without arguments that does not unwind in any ordinary case.
        unsafe { libc::atexit(at_exit) };
        let version = env("STANDIN_DRIVER", "13.0");
        let (major, minor) = version.split_once('.').expect("STANDIN_DRIVER=major.minor");
        let driver = (major.parse(), minor.parse());
        let failing = env("STANDIN_FAIL", "");
        let failing = failing.split(',').filter_map(|f| f.split_once(':'));
        let failing = failing.map(|(call, code)| {
            (
                call.to_string(),
                code.parse().expect("STANDIN_FAIL=call:code"),
            )
        });
        Device {
            gpu: Gpu::posed(),
            driver: (driver.0.expect("a number"), driver.1.expect("a number")),
            count: number("STANDIN_DEVICES", "1") as u32,
            initialised: false,
            retained: 0,
            fault: Arc::default(),
            failing: failing.collect(),
            memory: Memory::new(number("STANDIN_MEMORY", "16384") << 20),
            streams: Handles::new("stream", 0x1_0000_0000),
            modules: Handles::new("module", 0x2_0000_0000),
            functions: Handles::new("function", 0x3_0000_0000),
            graphs: Handles::new("graph", 0x4_0000_0000),
            execs: Handles::new("executable graph", 0x5_0000_0000),
            events: Handles::new("event", 0x6_0000_0000),
            comms: Handles::new("communicator", 0x7_0000_0000),
            findings: Findings::default(),
            calls: 0,
            launches: BTreeMap::new(),
        }
    }

    pub fn fault(&self) -> Option<Code> {
        Some(self.fault.load(Ordering::Relaxed)).filter(|code| *code != SUCCESS)
    }

    pub fn initialise(&mut self) {
        self.initialised = true;
    }

    fn allows(&mut self, call: &'static str, needs: Needs) -> Result<(), Code> {
        if let Some(code) = self.failing.get(call) {
            return Err(*code);
        }
        if needs == Needs::Nothing {
            return Ok(());
        }
        if !self.initialised {
            self.findings.add(format!("{call} before cuInit"));
            return Err(NOT_INITIALIZED);
        }
        if needs == Needs::Init {
            return Ok(());
        }
        if CURRENT.get() != CONTEXT || self.retained == 0 {
            self.findings
                .add(format!("{call} without a current context"));
            return Err(INVALID_CONTEXT);
        }
        // A fault stays: every later call returns it.
        if let Some(code) = self.fault() {
            return Err(code);
        }
        match CAPTURING.get() {
            Some(stream) if needs == Needs::NoCapture => {
                self.findings
                    .add(format!("{call} by a thread that captures a stream"));
                self.spoil(stream);
                Err(STREAM_CAPTURE_UNSUPPORTED)
            }
            _ => Ok(()),
        }
    }

    /// A capture that will give no graph.
    fn spoil(&mut self, stream: usize) {
        if let Ok(stream) = self.streams.get(stream, &mut self.findings)
            && let Some(capture) = &mut stream.capture
        {
            capture.spoilt = true;
        }
    }

    pub fn new_stream(&mut self) -> usize {
        self.streams.add(Stream::start(self.fault.clone()))
    }

    pub fn stream(&mut self, handle: usize) -> Result<&mut Stream, Code> {
        self.streams.get(handle, &mut self.findings)
    }

    /// A stream that a call waits for or asks, which must not be captured.
    pub fn quiet(&mut self, call: &str, handle: usize) -> Result<&mut Stream, Code> {
        if let Some(origin) = self.captured_from(handle)? {
            self.findings
                .add(format!("{call} of a stream that is captured"));
            self.spoil(origin);
            return Err(STREAM_CAPTURE_UNSUPPORTED);
        }
        self.stream(handle)
    }

    /// Of a stream that is being captured the one that the capture began with.
    fn captured_from(&mut self, handle: usize) -> Result<Option<usize>, Code> {
        let stream = self.stream(handle)?;
        Ok(stream.joins.or(stream.capture.is_some().then_some(handle)))
    }

    /// The capture that began with a stream.
    fn capture(&mut self, origin: usize) -> Result<&mut Capture, Code> {
        let capture = self.stream(origin)?.capture.as_mut();
        capture.ok_or(STREAM_CAPTURE_INVALIDATED)
    }

    /// Puts a node into a stream, or into the graph that it is captured into.
    pub fn submit(&mut self, handle: usize, node: Node) -> Result<After, Code> {
        self.count(std::slice::from_ref(&node));
        let Some(origin) = self.captured_from(handle)? else {
            self.stream(handle)?.tell(Work::Node(node));
            return Ok(None);
        };
        let capture = self.capture(origin)?;
        if capture.spoilt {
            return Err(STREAM_CAPTURE_INVALIDATED);
        }
        match handle == origin {
            true => capture.nodes.push(node),
            false => {
                let place = (capture.nodes.len(), node);
                capture.branches.entry(handle).or_default().push(place);
            }
        }
        Ok(None)
    }

    pub fn record(&mut self, event: usize, handle: usize) -> Result<After, Code> {
        let event = self.events.get(event, &mut self.findings)?.clone();
        let Some(origin) = self.captured_from(handle)? else {
            self.stream(handle)?.tell(Work::Record(event));
            return Ok(None);
        };
        let capture = self.capture(origin)?;
        let nodes = match handle == origin {
            true => capture.nodes.len(),
            false => capture.branches.get(&handle).map_or(0, Vec::len),
        };
        *event.captured.lock().expect("no holder panics") = Some(Place {
            origin,
            stream: handle,
            nodes,
        });
        Ok(None)
    }

    /// A stream goes on behind an event. One that is not captured joins the capture that the event is
    /// of.
    pub fn wait(&mut self, handle: usize, event: usize) -> Result<After, Code> {
        let event = self.events.get(event, &mut self.findings)?.clone();
        let place = *event.captured.lock().expect("no holder panics");
        let origin = self.captured_from(handle)?;
        let Some(place) = place else {
            if origin.is_some() {
                self.findings
                    .add("a captured stream waits for an event of none".into());
                return Err(STREAM_CAPTURE_ISOLATION);
            }
            if let Some(wait) = event.recorded() {
                self.stream(handle)?.tell(Work::Wait(Box::new(wait)));
            }
            return Ok(None);
        };
        if origin.is_some_and(|origin| origin != place.origin) {
            self.findings.add("two captures become one".into());
            return Err(STREAM_CAPTURE_MERGE);
        }
        let early = Landing::from_env().is_ok_and(|landing| landing == Landing::AtOnce);
        match handle == place.origin {
            true => {
                let capture = self.capture(place.origin)?;
                capture.join(place.stream, place.nodes, early);
            }
            false => self.stream(handle)?.joins = Some(place.origin),
        }
        Ok(None)
    }

    /// The nodes of a capture that ends. All branches have to be waited for.
    pub fn end_capture(&mut self, origin: usize) -> Result<Option<Capture>, Code> {
        let capture = self.stream(origin)?.capture.take();
        if capture.is_none() {
            return Ok(None);
        }
        set_capturing(None);
        for stream in self.streams.alive.values_mut() {
            if stream.joins == Some(origin) {
                stream.joins = None;
            }
        }
        if capture.as_ref().is_some_and(|capture| !capture.is_joined()) {
            self.findings
                .add("a capture ends before a stream that has joined it".into());
            return Err(STREAM_CAPTURE_UNJOINED);
        }
        Ok(capture)
    }

    /// Copies of pageable memory cannot be captured.
    pub fn copy(&mut self, call: &str, handle: usize, work: Work) -> Result<After, Code> {
        self.quiet(call, handle)?.tell(work);
        Ok(None)
    }

    /// Looks at what kernels are given: at launches, and again whenever a graph is launched.
    pub fn look_at(&mut self, nodes: &[Node]) {
        for node in nodes {
            let (name, args) = match node {
                Node::Kernel { function, args, .. } => (function.name, &args[..]),
                Node::Collective(c) => (c.kind.name(), &[Arg::U64(c.from), Arg::U64(c.to)][..]),
                Node::Fill { .. } => continue,
            };
            for (i, arg) in args.iter().enumerate() {
                let word = match arg {
                    Arg::U64(word) => *word,
                    Arg::Map(map) => map.base,
                    _ => continue,
                };
                let what = match self.memory.misuse(word) {
                    None => continue,
                    Some(Misuse::Freed) => "memory that was freed",
                    Some(Misuse::Host) => "the host's address of mapped memory",
                };
                self.findings.add(format!("{name}: argument {i} is {what}"));
            }
        }
    }

    /// Counts launches that a device will see.
    fn count(&mut self, nodes: &[Node]) {
        self.look_at(nodes);
        for node in nodes {
            let name = match node {
                Node::Kernel { function, .. } => function.name,
                Node::Collective(call) => call.kind.name(),
                Node::Fill { .. } => continue,
            };
            *self.launches.entry(name).or_default() += 1;
        }
    }

    pub fn launch_graph(&mut self, graph: usize, stream: usize) -> Result<After, Code> {
        let nodes = self.execs.get(graph, &mut self.findings)?.clone();
        self.count(&nodes);
        self.quiet("cuGraphLaunch", stream)?
            .tell(Work::Graph(nodes));
        Ok(None)
    }

    /// Whether a stream still has something to do.
    pub fn is_busy(&self) -> bool {
        self.streams.alive.values().any(|s| !s.progress.is_idle())
    }

    /// A finding if memory or code goes that something under way may use.
    pub fn goes(&mut self, call: &str) {
        if self.is_busy() {
            self.findings.add(format!("{call} while a stream works"));
        }
    }

    /// What has not been freed. Modules and the context may stay as long as the process.
    pub fn alive(&self) -> Vec<String> {
        let (device, pinned) = self.memory.alive();
        [
            (device, "blocks of device memory"),
            (pinned, "blocks of pinned memory"),
            (self.streams.alive.len(), "streams"),
            (self.graphs.alive.len(), "graphs"),
            (self.execs.alive.len(), "executable graphs"),
            (self.events.alive.len(), "events"),
            (self.comms.alive.len(), "communicators"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect()
    }

    /// The context goes, and everything with it.
    pub fn release(&mut self) {
        // After a fault nothing can be freed.
        if self.fault().is_none() {
            for what in self.alive() {
                self.findings
                    .add(format!("the context goes with {what} alive"));
            }
        }
        self.streams.alive.clear();
        self.graphs.alive.clear();
        self.execs.alive.clear();
        self.events.alive.clear();
        self.comms.alive.clear();
        self.modules.alive.clear();
        self.functions.alive.clear();
        self.memory.forget();
        // A new context has no fault.
        self.fault = Arc::default();
    }
}
