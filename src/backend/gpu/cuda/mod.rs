//! The driver for NVIDIA GPUs: the CUDA driver API. A [`Context`] is a device with all kernels, which
//! a process opens once; [`Cuda`] is a stream in it with what belongs to that: memory and graphs.
//!
//! The stream is one of its own, as the default stream cannot be captured. Where several ranks train,
//! the means of their gradients have a second one [beside](beside::Beside) it.

mod beside;
mod context;
mod fault;
mod library;
mod nccl;
mod tensor_map;

use super::driver::{
    ALL_GATHER, ALL_REDUCE, Arg, Capability, Driver, Graph, Launch, Mapped, Value, carve,
};
use crate::backend::DeviceError;
use crate::backend::wait::{Patience, Wait, step_limit};
use crate::world::world;
use context::Context;
use cudarc::driver::sys::{self, CUresult};
pub use fault::STEPWISE;
use fault::{check, cu};
use nccl::Nccl;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;
use tensor_map::encode;

/// Pinned host memory.
struct Pinned {
    host: NonNull<c_void>,
    context: Arc<Context>,
}

// SAFETY: plain memory; the records in it are accessed atomically.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.context.hangs() && self.context.bind().is_ok() {
            // SAFETY: allocated by cuMemHostAlloc, freed once. No kernel uses it any more: whoever
            // puts another in its place waits first, and so does the stream when it is dropped.
            let _ = unsafe { sys::cuMemFreeHost(self.host.as_ptr()) };
        }
    }
}

/// What was captured.
enum Captured {
    /// For a replay of all launches at once.
    Graph(sys::CUgraphExec),
    /// For one launch after the other, each of which is waited for.
    Launches(Vec<Launch>),
}

/// An NVIDIA GPU as a [`Driver`].
pub struct Cuda {
    context: Arc<Context>,
    stream: sys::CUstream,
    memory: Vec<sys::CUdeviceptr>,
    graphs: Vec<Captured>,
    /// Where several ranks train together.
    nccl: Option<Nccl>,
    /// A capture has begun.
    capturing: bool,
    /// `AUTOASSIST_CUDA_STEPWISE`: every launch is waited for, so that a failure has its kernel's
    /// name, and captures are these.
    stepwise: Option<Vec<Launch>>,
    limit: Duration,
    patience: Patience,
}

// SAFETY: the handles belong to the context, which every call makes current first.
unsafe impl Send for Cuda {}

/// A kernel with its size, for people.
fn named(launch: &Launch) -> String {
    format!("{} {:?}", launch.kernel, launch.grid)
}

impl Cuda {
    /// Opens the device of that number, with all kernels of the build.
    ///
    /// # Errors
    /// No kernels, no driver, no such device, one that is too old or taken by others, or a driver that
    /// is too old.
    pub fn new(ordinal: u32) -> Result<Cuda, DeviceError> {
        let limit = step_limit()?;
        let world = world();
        let context = world.everywhere("the GPU", context::open(ordinal))?;
        let nccl = world.is_shared().then(|| Nccl::join(&context));
        let nccl = nccl.transpose()?;
        context.bind()?;
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a local variable takes the stream, which is destroyed once.
        let created = unsafe { cu!(cuStreamCreate(&mut stream, flags)) };
        created.map_err(|e| match e {
            DeviceError::OutOfMemory { .. } => DeviceError::Taken {
                name: context.description.clone(),
                reason: "no memory for a stream".into(),
            },
            other => other,
        })?;
        let stepwise = std::env::var_os(STEPWISE).is_some_and(|v| v == "1");
        let mut cuda = Cuda {
            context,
            stream,
            memory: Vec::new(),
            graphs: Vec::new(),
            nccl,
            capturing: false,
            stepwise: stepwise.then(Vec::new),
            limit,
            patience: Patience::new(Some(limit)),
        };
        cuda.connect()?;
        Ok(cuda)
    }

    /// Ranks connect at their first exchange, which must not be one that is captured.
    fn connect(&mut self) -> Result<(), DeviceError> {
        let ranks = match &self.nccl {
            None => return Ok(()),
            Some(_) => world().size() as u64,
        };
        let at = Arg::Ptr(self.alloc(8 * ranks as usize)?);
        for (kernel, count) in [(ALL_REDUCE, 1), (ALL_GATHER, ranks)] {
            let launch = Launch {
                kernel,
                grid: [1; 3],
                threads: 1,
                shared: 0,
                args: vec![at, Arg::U64(count)],
                scratch: None,
            };
            self.inside(|cuda| cuda.launch_one(&launch))?;
        }
        self.synchronize()
    }

    /// Does what wants the context, and remembers what has made an end of it.
    fn inside<R>(
        &mut self,
        work: impl FnOnce(&mut Cuda) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        let result = self.context.bind().and_then(|()| work(self));
        result.map_err(|e| match e {
            DeviceError::Fault(text) => {
                let remedy = match self.stepwise {
                    Some(_) => String::new(),
                    None => format!("; {STEPWISE}=1 names the kernel"),
                };
                let fault = DeviceError::Fault(format!("{text}{remedy}"));
                self.context.end(&fault);
                fault
            }
            DeviceError::Hung { .. } => {
                self.context.end(&e);
                e
            }
            DeviceError::OutOfMemory { asked, .. } => self.out_of_memory(asked),
            other => other,
        })
    }

    fn idle(&self) -> Result<bool, DeviceError> {
        // SAFETY: our own stream.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuStreamQuery", result).map(|()| true),
        }
    }

    /// Waits until everything is done, but not for ever, as the driver would.
    fn finish(&mut self, what: &dyn Fn() -> String) -> Result<(), DeviceError> {
        let mut wait = Wait::begin();
        while !self.idle()? {
            if let Some(waited) = wait.long() {
                self.patience.look(waited, what)?;
            }
            wait.pause();
        }
        Ok(())
    }

    fn finish_all(&mut self) -> Result<(), DeviceError> {
        let what = format!("the work of {}", self.context.description);
        self.finish(&|| what.clone())
    }

    fn launch_one(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        if let (ALL_REDUCE | ALL_GATHER, &[Arg::Ptr(address), Arg::U64(count)]) =
            (launch.kernel, &launch.args[..])
        {
            let nccl = self.nccl.as_mut();
            let nccl = nccl.expect("made where there are several ranks");
            // Stepwise, what is waited for is the stream.
            let beside = self.stepwise.is_none();
            return nccl.launch(launch, (address, count), self.stream, beside);
        }
        let function = self.context.function(launch.kernel);
        let function = function.ok_or_else(|| DeviceError::Call {
            call: "cuModuleGetFunction",
            reason: format!("{}: no kernel has that name", launch.kernel),
        })?;
        let values = launch.args.iter().map(|a| a.value(encode));
        let values = values.collect::<Result<Vec<Value>, _>>()?;
        let mut args: Vec<*mut c_void> = values
            .iter()
            .map(|v| std::ptr::from_ref(v).cast_mut().cast())
            .collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the function is loaded; arity and sizes of arguments are those of the kernel (the
        // SIMT driver checks the same launch code against the source); the values live until the
        // call, which copies them, returns.
        let launched = unsafe {
            cu!(cuLaunchKernel(
                function,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared,
                self.stream,
                args.as_mut_ptr(),
                null_mut(),
            ))
        };
        launched.map_err(|e| match e {
            DeviceError::Call { call, reason } => DeviceError::Call {
                call,
                reason: format!("{}: {reason}", named(launch)),
            },
            // Of this kernel, or of one before it that nobody has waited for.
            DeviceError::Fault(text) => {
                DeviceError::Fault(format!("{text}, at the launch of {}", named(launch)))
            }
            other => other,
        })
    }

    /// One launch, and waits for it.
    fn step(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.launch_one(launch)?;
        let device = self.context.description.clone();
        let what = || format!("{} on {device}", named(launch));
        self.finish(&what).map_err(|e| match e {
            DeviceError::Fault(text) => DeviceError::Fault(format!("{text}, in {}", named(launch))),
            other => other,
        })
    }

    fn run(&mut self, graph: Graph) -> Result<(), DeviceError> {
        match &self.graphs[graph.0] {
            // SAFETY: an instantiated graph of this context.
            Captured::Graph(exec) => unsafe { cu!(cuGraphLaunch(*exec, self.stream)) },
            Captured::Launches(launches) => {
                let launches = launches.clone();
                launches.iter().try_for_each(|launch| self.step(launch))
            }
        }
    }

    /// The launches of the capture that has begun.
    fn captured(&mut self) -> Result<Captured, DeviceError> {
        if let Some(launches) = &mut self.stepwise {
            return Ok(Captured::Launches(std::mem::take(launches)));
        }
        let (mut graph, mut exec) = (null_mut(), null_mut());
        // SAFETY: the stream is being captured; the graph is destroyed once, after it was
        // instantiated, which makes a copy.
        unsafe {
            cu!(cuStreamEndCapture(self.stream, &mut graph))?;
            let made = cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
        }
        Ok(Captured::Graph(exec))
    }

    fn out_of_memory(&self, asked: u64) -> DeviceError {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two local variables.
        let _ = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        DeviceError::OutOfMemory {
            asked,
            free: free as u64,
            per_batch: 0,
            fits: None,
        }
    }
}

/// An error that knows how much memory was asked for.
fn of_bytes(bytes: usize) -> impl Fn(DeviceError) -> DeviceError {
    move |e| match e {
        DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory {
            asked: bytes as u64,
            free: 0,
            per_batch: 0,
            fits: None,
        },
        other => other,
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.capturing {
            let _ = self.end_capture();
        }
        // What a kernel that never ends may still use is left to it. After a fault all calls fail,
        // and the context takes everything with it.
        if self.context.hangs() {
            return;
        }
        if let Err(DeviceError::Hung { .. }) = self.synchronize() {
            return;
        }
        // SAFETY: each handle is destroyed once, after all work that may use it.
        unsafe {
            for graph in self.graphs.drain(..) {
                if let Captured::Graph(exec) = graph {
                    let _ = sys::cuGraphExecDestroy(exec);
                }
            }
            for address in self.memory.drain(..) {
                let _ = sys::cuMemFree_v2(address);
            }
            let _ = sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

impl Driver for Cuda {
    fn describe(&self) -> String {
        self.context.description.clone()
    }

    fn capability(&self) -> Capability {
        self.context.capability
    }

    fn step_limit(&self) -> Option<Duration> {
        Some(self.limit)
    }

    fn give_up(&mut self, why: &DeviceError) {
        self.context.end(why);
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        let (mut address, bytes) = (0, bytes.max(1));
        self.inside(|cuda| {
            // SAFETY: a local variable takes the address; then all of the memory is set.
            unsafe {
                cu!(cuMemAlloc_v2(&mut address, bytes)).map_err(of_bytes(bytes))?;
                cuda.memory.push(address);
                cu!(cuMemsetD8Async(address, 0, bytes, cuda.stream))
            }
        })?;
        Ok(address)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        carve(self, sizes)
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        let (mut host, mut device, bytes) = (null_mut(), 0, bytes.max(1));
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        self.inside(|cuda| {
            // SAFETY: local variables take the addresses; all of the memory is set before anyone else
            // knows of it.
            unsafe {
                cu!(cuMemHostAlloc(&mut host, bytes, flags)).map_err(of_bytes(bytes))?;
                let none = || cuda.out_of_memory(bytes as u64);
                let host = NonNull::new(host).ok_or_else(none)?;
                let owner = Pinned {
                    host,
                    context: cuda.context.clone(),
                };
                cu!(cuMemHostGetDevicePointer_v2(&mut device, host.as_ptr(), 0))?;
                std::ptr::write_bytes(host.as_ptr().cast::<u8>(), 0, bytes);
                Ok(Mapped {
                    host: host.cast(),
                    device,
                    owner: Arc::new(owner),
                })
            }
        })
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let capturing = self.capturing;
        match &mut self.stepwise {
            Some(launches) if capturing => {
                launches.push(launch.clone());
                Ok(())
            }
            Some(_) => self.inside(|cuda| cuda.step(launch)),
            None => self.inside(|cuda| cuda.launch_one(launch)),
        }
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.inside(|cuda| {
            if cuda.stepwise.is_none() {
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
                // SAFETY: our own stream, which is not being captured.
                unsafe { cu!(cuStreamBeginCapture_v2(cuda.stream, mode)) }?;
            }
            cuda.capturing = true;
            Ok(())
        })
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.capturing = false;
        let captured = self.inside(Cuda::captured)?;
        self.graphs.push(captured);
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.inside(|cuda| cuda.run(graph))
    }

    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        let (mut events, mut milliseconds) = ([null_mut(); 2], 0.0);
        self.inside(|cuda| {
            // SAFETY: the events are made here and destroyed once; both have been recorded and waited
            // for when the time between them is asked for.
            unsafe {
                let mut timed = || {
                    for event in &mut events {
                        cu!(cuEventCreate(event, flags))?;
                    }
                    cu!(cuEventRecord(events[0], cuda.stream))?;
                    cuda.run(graph)?;
                    cu!(cuEventRecord(events[1], cuda.stream))?;
                    cuda.finish_all()?;
                    cu!(cuEventElapsedTime(&mut milliseconds, events[0], events[1]))
                };
                let result = timed();
                for event in events.into_iter().filter(|event| !event.is_null()) {
                    let _ = sys::cuEventDestroy_v2(event);
                }
                result
            }
        })?;
        Ok(Some(f64::from(milliseconds) / 1e3))
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.inside(|cuda| {
            cuda.nccl.as_mut().map_or(Ok(()), Nccl::lives)?;
            cuda.idle()
        })
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inside(|cuda| {
            // The call waits for what is before it, however long that takes.
            cuda.finish_all()?;
            // SAFETY: the executor copies into blocks that it claimed; the bytes live until the copy,
            // the only thing under way, is done.
            unsafe {
                let (from, len) = (bytes.as_ptr().cast(), bytes.len());
                cu!(cuMemcpyHtoDAsync_v2(to, from, len, cuda.stream))?;
            }
            cuda.finish_all()
        })
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inside(|cuda| {
            cuda.finish_all()?;
            // SAFETY: as in `upload`; nobody looks at the bytes before everything is done.
            unsafe {
                let (to, len) = (bytes.as_mut_ptr().cast(), bytes.len());
                cu!(cuMemcpyDtoHAsync_v2(to, from, len, cuda.stream))?;
            }
            cuda.finish_all()
        })
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.inside(Cuda::finish_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_says_what_is_missing_and_never_panics() {
        let Err(error) = Cuda::new(9999) else {
            panic!("no machine has ten thousand devices")
        };
        assert!(error.to_string().starts_with("--device cuda"), "{error}");
    }
}
