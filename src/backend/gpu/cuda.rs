//! The driver for NVIDIA GPUs: the CUDA driver API, loaded when it is asked for, so that no CUDA is
//! needed to build.
//!
//! One context (the device's primary), one stream of its own (the default stream cannot be
//! captured), all kernels loaded before the first launch (loading one in the middle of a capture
//! could break it).

use super::catalog::{FILES, TOOLKIT};
use super::driver::{Capability, Driver, Graph, Launch, Mapped, TensorMap, Value, carve};
use crate::backend::DeviceError;
use cudarc::driver::sys::{self, CUresult};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// `Ok`, or what the driver said; `call` names what was asked of it.
fn check(call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    use CUresult::*;
    let text = || {
        let mut name = std::ptr::null();
        let mut reason = std::ptr::null();
        // SAFETY: both calls set their pointer to a literal of the driver, or to null.
        unsafe {
            let _ = sys::cuGetErrorName(result, &mut name);
            let _ = sys::cuGetErrorString(result, &mut reason);
        }
        let literal = |s: *const std::ffi::c_char| match s.is_null() {
            true => "unknown".into(),
            // SAFETY: the driver's literals end with a zero and live as long as the program.
            false => unsafe { CStr::from_ptr(s) }.to_string_lossy(),
        };
        format!("{}, {}", literal(name), literal(reason))
    };
    match result {
        CUDA_SUCCESS => Ok(()),
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_ECC_UNCORRECTABLE => Err(DeviceError::Fault(text())),
        _ => Err(DeviceError::Call {
            call,
            reason: text(),
        }),
    }
}

/// `cuName(args)` as a `Result`. Only to be used where an `unsafe` block argues for the call.
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {
        check(stringify!($name), sys::$name($($arg),*))
    };
}

/// The device's primary context, retained.
struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: contexts may be used by any thread that makes them current.
unsafe impl Send for Context {}
// SAFETY: the driver API locks what it needs to.
unsafe impl Sync for Context {}

impl Context {
    /// Makes it this thread's: before any other call.
    fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { cu!(cuCtxSetCurrent(self.handle)) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

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
        if self.context.bind().is_ok() {
            // SAFETY: allocated by cuMemHostAlloc, freed once. The driver waits for kernels that
            // may still use it.
            let _ = unsafe { sys::cuMemFreeHost(self.host.as_ptr()) };
        }
    }
}

/// A loaded kernel.
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it has leave to use.
    shared: u32,
}

/// What every kernel may use without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

/// An NVIDIA GPU as a [`Driver`].
pub struct Cuda {
    description: String,
    capability: Capability,
    context: Arc<Context>,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    memory: Vec<sys::CUdeviceptr>,
    graphs: Vec<sys::CUgraphExec>,
}

// SAFETY: the handles belong to the context, which every call makes current first.
unsafe impl Send for Cuda {}

/// `(major, minor)` of the driver API's version number.
fn version(number: c_int) -> (u32, u32) {
    (number as u32 / 1000, number as u32 % 1000 / 10)
}

/// Whether the build has machine code for that architecture.
fn has_code_for(arch: &str) -> bool {
    let mut resources = FILES.iter().flat_map(|file| file.resources);
    resources.any(|r| r.arch == arch)
}

/// A map as the hardware wants it.
fn encode(map: TensorMap) -> Result<Value, DeviceError> {
    use sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    use sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    use sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
    use sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    use sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    let mut value = Value([0; 16]);
    // Dimensions from the innermost one on, and the bytes from one row to the next.
    let (sizes, stride) = ([map.columns, map.rows], 2 * map.columns);
    let (box_sizes, steps) = ([64, map.box_rows], [1, 1]);
    // SAFETY: the value has the size and the alignment of a CUtensorMap; the arrays are as long as
    // two dimensions want them. The map's address is only noted.
    unsafe {
        cu!(cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut value).cast(),
            CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            map.base as *mut c_void,
            sizes.as_ptr(),
            &stride,
            box_sizes.as_ptr(),
            steps.as_ptr(),
            CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))?;
    }
    Ok(value)
}

impl Cuda {
    /// Opens the device of that number and loads all kernels of the build.
    ///
    /// # Errors
    /// No kernels, no driver, no such device, one that is too old, or a driver that is.
    pub fn new(ordinal: u32) -> Result<Cuda, DeviceError> {
        let toolkit = TOOLKIT.ok_or(DeviceError::NoKernels)?;
        // SAFETY: only tries to open the library. Asked first because every other call panics
        // where there is none.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        // SAFETY: every pointer is to a local variable or a buffer of the length given; the calls
        // are in the order that the driver API asks for.
        unsafe {
            let init = sys::cuInit(0);
            if init == CUresult::CUDA_ERROR_NO_DEVICE {
                return Err(DeviceError::NoDevice);
            }
            check("cuInit", init)?;
            let mut number = 0;
            cu!(cuDriverGetVersion(&mut number))?;
            let old_driver = || DeviceError::OldDriver {
                driver: version(number),
                toolkit,
            };
            // Machine code runs on any driver of the toolkit's major version or a later one.
            if version(number).0 < toolkit.0 {
                return Err(old_driver());
            }
            let mut count = 0;
            cu!(cuDeviceGetCount(&mut count))?;
            let count = count as u32;
            if count == 0 {
                return Err(DeviceError::NoDevice);
            }
            if ordinal >= count {
                return Err(DeviceError::NoSuchDevice { ordinal, count });
            }
            let mut device = 0;
            cu!(cuDeviceGet(&mut device, ordinal as c_int))?;
            let mut buffer = [0; 256];
            cu!(cuDeviceGetName(
                buffer.as_mut_ptr(),
                buffer.len() as c_int,
                device
            ))?;
            let name = CStr::from_ptr(buffer.as_ptr())
                .to_string_lossy()
                .into_owned();
            use sys::CUdevice_attribute as Attribute;
            let attribute = |which| {
                let mut value = 0;
                cu!(cuDeviceGetAttribute(&mut value, which, device)).map(|()| value as u32)
            };
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            if major < 8 {
                return Err(DeviceError::OldDevice { name, major, minor });
            }
            let capability = Capability {
                arch: (major, minor),
                hopper: (major, minor) == (9, 0) && has_code_for("90a"),
                multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                block_shared: attribute(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                )?,
                shared: attribute(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                )?,
            };
            let mut handle = null_mut();
            cu!(cuDevicePrimaryCtxRetain(&mut handle, device))?;
            let context = Arc::new(Context { device, handle });
            context.bind()?;
            let mut stream = null_mut();
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            cu!(cuStreamCreate(&mut stream, flags))?;
            let mut cuda = Cuda {
                description: format!("{name} (cuda:{ordinal}, sm_{major}{minor})"),
                capability,
                context,
                stream,
                modules: Vec::new(),
                functions: HashMap::new(),
                memory: Vec::new(),
                graphs: Vec::new(),
            };
            cuda.load().map_err(|e| match e {
                // PTX is bound to the toolkit's minor version, too.
                DeviceError::Call { reason, .. } if reason.contains("UNSUPPORTED_PTX_VERSION") => {
                    old_driver()
                }
                other => other,
            })?;
            Ok(cuda)
        }
    }

    fn load(&mut self) -> Result<(), DeviceError> {
        for file in FILES {
            let fatbin = file.fatbin.ok_or(DeviceError::NoKernels)?;
            let mut module = null_mut();
            // SAFETY: the image is a whole fatbin, which says its own length.
            unsafe { cu!(cuModuleLoadData(&mut module, fatbin.as_ptr().cast())) }?;
            self.modules.push(module);
            for &kernel in file.kernels {
                let name = CString::new(kernel).expect("names have no zeros");
                let (mut handle, mut registers) = (null_mut(), 0);
                let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
                // SAFETY: the module is loaded; the name ends with a zero. Asking for an attribute
                // makes the driver load the kernel's code now.
                unsafe {
                    cu!(cuModuleGetFunction(&mut handle, module, name.as_ptr()))?;
                    cu!(cuFuncGetAttribute(&mut registers, attribute, handle))?;
                }
                let shared = DEFAULT_SHARED;
                self.functions.insert(kernel, Function { handle, shared });
            }
        }
        Ok(())
    }

    fn out_of_memory(&self, asked: usize) -> DeviceError {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two local variables.
        let _ = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        DeviceError::OutOfMemory {
            asked: asked as u64,
            free: free as u64,
            per_batch: 0,
            fits: None,
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        // SAFETY: each handle is destroyed once, after all work that may use it. After a fault the
        // calls fail, and the context takes everything with it.
        unsafe {
            let _ = sys::cuStreamSynchronize(self.stream);
            for graph in self.graphs.drain(..) {
                let _ = sys::cuGraphExecDestroy(graph);
            }
            for address in self.memory.drain(..) {
                let _ = sys::cuMemFree_v2(address);
            }
            for module in self.modules.drain(..) {
                let _ = sys::cuModuleUnload(module);
            }
            let _ = sys::cuStreamDestroy_v2(self.stream);
        }
    }
}

impl Driver for Cuda {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        self.context.bind()?;
        let (mut address, bytes) = (0, bytes.max(1));
        // SAFETY: a local variable takes the address; then all of the memory is set.
        unsafe {
            match sys::cuMemAlloc_v2(&mut address, bytes) {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => return Err(self.out_of_memory(bytes)),
                result => check("cuMemAlloc", result)?,
            }
            self.memory.push(address);
            cu!(cuMemsetD8Async(address, 0, bytes, self.stream))?;
        }
        Ok(address)
    }

    fn alloc_each(&mut self, sizes: &[usize]) -> Result<Vec<u64>, DeviceError> {
        carve(self, sizes)
    }

    fn alloc_mapped(&mut self, bytes: usize) -> Result<Mapped, DeviceError> {
        self.context.bind()?;
        let (mut host, mut device, bytes) = (null_mut(), 0, bytes.max(1));
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: local variables take the addresses; all of the memory is set before anyone else
        // knows of it.
        unsafe {
            cu!(cuMemHostAlloc(&mut host, bytes, flags))?;
            let host = NonNull::new(host).ok_or_else(|| self.out_of_memory(bytes))?;
            let owner = Pinned {
                host,
                context: self.context.clone(),
            };
            cu!(cuMemHostGetDevicePointer_v2(&mut device, host.as_ptr(), 0))?;
            std::ptr::write_bytes(host.as_ptr().cast::<u8>(), 0, bytes);
            Ok(Mapped {
                host: host.cast(),
                device,
                owner: Arc::new(owner),
            })
        }
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.context.bind()?;
        let function = self.functions.get_mut(launch.kernel).ok_or_else(|| {
            DeviceError::Fault(format!("{}: no kernel has that name", launch.kernel))
        })?;
        // SAFETY: the function is loaded; arity and sizes of arguments are those of the kernel (the
        // SIMT driver checks the same launch code against the source); the values live until the
        // call, which copies them, returns.
        unsafe {
            if launch.shared > function.shared {
                use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                cu!(cuFuncSetAttribute(
                    function.handle,
                    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    launch.shared as c_int
                ))?;
                function.shared = launch.shared;
            }
            let values = launch.args.iter().map(|a| a.value(encode));
            let values = values.collect::<Result<Vec<Value>, _>>()?;
            let mut args: Vec<*mut c_void> = values
                .iter()
                .map(|v| std::ptr::from_ref(v).cast_mut().cast())
                .collect();
            let [x, y, z] = launch.grid;
            let launched = cu!(cuLaunchKernel(
                function.handle,
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
            ));
            launched.map_err(|e| match e {
                DeviceError::Call { call, reason } => DeviceError::Call {
                    call,
                    reason: format!("{} {:?}: {reason}", launch.kernel, launch.grid),
                },
                fault => fault,
            })
        }
    }

    fn begin_capture(&mut self) -> Result<(), DeviceError> {
        self.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: our own stream, which is not being captured.
        unsafe { cu!(cuStreamBeginCapture_v2(self.stream, mode)) }
    }

    fn end_capture(&mut self) -> Result<Graph, DeviceError> {
        self.context.bind()?;
        let (mut graph, mut exec) = (null_mut(), null_mut());
        // SAFETY: the stream is being captured; the graph is destroyed once, after it was
        // instantiated, which makes a copy.
        unsafe {
            cu!(cuStreamEndCapture(self.stream, &mut graph))?;
            let made = cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
        }
        self.graphs.push(exec);
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: an instantiated graph of this context.
        unsafe { cu!(cuGraphLaunch(self.graphs[graph.0], self.stream)) }
    }

    fn time(&mut self, graph: Graph) -> Result<Option<f64>, DeviceError> {
        self.context.bind()?;
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        let (mut events, mut milliseconds) = ([null_mut(); 2], 0.0);
        // SAFETY: the events are made here and destroyed once; both have been recorded and waited
        // for when the time between them is asked for.
        unsafe {
            let mut timed = || {
                for event in &mut events {
                    cu!(cuEventCreate(event, flags))?;
                }
                cu!(cuEventRecord(events[0], self.stream))?;
                cu!(cuGraphLaunch(self.graphs[graph.0], self.stream))?;
                cu!(cuEventRecord(events[1], self.stream))?;
                cu!(cuEventSynchronize(events[1]))?;
                cu!(cuEventElapsedTime(&mut milliseconds, events[0], events[1]))
            };
            let result = timed();
            for event in events.into_iter().filter(|event| !event.is_null()) {
                let _ = sys::cuEventDestroy_v2(event);
            }
            result?;
        }
        Ok(Some(f64::from(milliseconds) / 1e3))
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.context.bind()?;
        // SAFETY: our own stream.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuStreamQuery", result).map(|()| true),
        }
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: the executor copies into blocks that it claimed; the bytes live until the
        // synchronisation.
        unsafe {
            let (from, len) = (bytes.as_ptr().cast(), bytes.len());
            cu!(cuMemcpyHtoDAsync_v2(to, from, len, self.stream))?;
        }
        self.synchronize()
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: as in `upload`; nobody looks at the bytes before the synchronisation.
        unsafe {
            let (to, len) = (bytes.as_mut_ptr().cast(), bytes.len());
            cu!(cuMemcpyDtoHAsync_v2(to, from, len, self.stream))?;
        }
        self.synchronize()
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: our own stream.
        unsafe { cu!(cuStreamSynchronize(self.stream)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_driver_writes_them() {
        assert_eq!((version(12_080), version(13_000)), ((12, 8), (13, 0)));
    }

    #[test]
    fn opening_says_what_is_missing_and_never_panics() {
        let Err(error) = Cuda::new(9999) else {
            panic!("no machine has ten thousand devices")
        };
        assert!(error.to_string().starts_with("--device cuda"), "{error}");
    }
}
