//! The functions of `cuda.h` that our programs and the tests of this driver call, with the names that the library exports.
#![allow(non_snake_case)]

use super::codes::*;
use super::device::{self, After, CONTEXT, Needs, enter};
use super::module;
use super::stream::{Capture, Event, Node, Work, argument, encode};
use autoassist::backend::gpu::driver::TensorMap;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

type Handle = usize;

/// Where a call puts an answer; a null pointer is its caller's mistake.
fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's variable of that type, as `cuda.h` declares it.
    unsafe { to.write(value) };
    Ok(())
}

/// What a pointer of the caller's points at.
fn given<T: Copy>(from: *const T) -> Result<T, Code> {
    if from.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's value of that type, as `cuda.h` declares it.
    Ok(unsafe { from.read_unaligned() })
}

const DONE: Result<After, Code> = Ok(None);

macro_rules! api {
    ($($name:ident($($arg:ident: $type:ty),*), $needs:ident, |$device:pat_param| $body:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($($arg: $type),*) -> Code {
                enter(stringify!($name), Needs::$needs, |$device| $body)
            }
        )*
    };
}

// Errors, the driver, and its devices.
api! {
    cuInit(flags: u32), Nothing, |device| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if device.count == 0 {
            return Err(NO_DEVICE);
        }
        device.initialise();
        DONE
    };
    cuDriverGetVersion(version: *mut i32), Nothing, |device| {
        let (major, minor) = device.driver;
        put(version, (1000 * major + 10 * minor) as i32)?;
        DONE
    };
    cuDeviceGetCount(count: *mut i32), Init, |device| {
        put(count, device.count as i32)?;
        DONE
    };
    cuDeviceGet(handle: *mut i32, ordinal: i32), Init, |device| {
        if ordinal < 0 || ordinal as u32 >= device.count {
            return Err(INVALID_DEVICE);
        }
        put(handle, ordinal)?;
        DONE
    };
    cuDeviceGetName(name: *mut c_char, len: i32, ordinal: i32), Init, |device| {
        let _ = ordinal;
        let text = format!("stand-in for {}\0", device.gpu.name);
        if text.len() > len as usize {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's buffer has `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), text.len()) };
        DONE
    };
    cuDeviceGetAttribute(value: *mut i32, which: u32, ordinal: i32), Init, |device| {
        let (_, gpu) = (ordinal, device.gpu.capability);
        put(value, match which {
            1 => 1024,                  // MAX_THREADS_PER_BLOCK
            8 => 48 << 10,              // MAX_SHARED_MEMORY_PER_BLOCK
            10 => 32,                   // WARP_SIZE
            16 => gpu.multiprocessors as i32,
            20 => 0,                    // COMPUTE_MODE
            75 => gpu.arch.0 as i32,
            76 => gpu.arch.1 as i32,
            81 => gpu.shared as i32,    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            97 => gpu.block_shared as i32, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            _ => {
                device.findings.add(format!("attribute {which} of a device is not known here"));
                return Err(INVALID_VALUE);
            }
        })?;
        DONE
    };
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: Code, to: *mut *const c_char) -> Code {
    texts(code).map_or(INVALID_VALUE, |(name, _)| answer(to, name))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: Code, to: *mut *const c_char) -> Code {
    texts(code).map_or(INVALID_VALUE, |(_, text)| answer(to, text))
}

fn answer(to: *mut *const c_char, text: &'static str) -> Code {
    put(to, text.as_ptr().cast()).map_or_else(|code| code, |()| SUCCESS)
}

// The context.
api! {
    cuDevicePrimaryCtxRetain(context: *mut Handle, ordinal: i32), Init, |device| {
        let _ = ordinal;
        put(context, CONTEXT)?;
        device.retained += 1;
        DONE
    };
    cuDevicePrimaryCtxRelease_v2(ordinal: i32), Init, |device| {
        let _ = ordinal;
        if device.retained == 0 {
            device.findings.add("a context is released that is not retained".into());
            return Err(INVALID_CONTEXT);
        }
        device.retained -= 1;
        if device.retained == 0 {
            device.release();
        }
        DONE
    };
    cuCtxSetCurrent(context: Handle), Init, |device| {
        if context != 0 && device.retained == 0 {
            device.findings.add("a context is made current that was released".into());
            return Err(CONTEXT_IS_DESTROYED);
        }
        device::set_current(context);
        DONE
    };
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize), Context, |device| {
        let info = device.memory.info();
        put(free, info.0)?;
        put(total, info.1)?;
        DONE
    };
}

// Modules and functions.
api! {
    cuModuleLoadData(module: *mut Handle, image: *const u8), NoCapture, |device| {
        let code = module::load(image, device.gpu.capability.arch, device.driver)?;
        put(module, device.modules.add(code))?;
        DONE
    };
    cuModuleUnload(module: Handle), NoCapture, |device| {
        device.goes("cuModuleUnload");
        device.modules.remove(module, &mut device.findings)?;
        device.functions.retain(|(of, _)| *of != module);
        DONE
    };
    cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char), Context,
    |device| {
        let code = *device.modules.get(module, &mut device.findings)?;
        if name.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's string, which ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| NOT_FOUND)?;
        let found = module::function(name, code)?;
        put(function, device.functions.add((module, found)))?;
        DONE
    };
    cuFuncGetAttribute(value: *mut i32, which: u32, function: Handle), Context, |device| {
        let (_, function) = device.functions.get(function, &mut device.findings)?;
        put(value, function.attribute(which).ok_or(INVALID_VALUE)? as i32)?;
        DONE
    };
    cuFuncSetAttribute(function: Handle, which: u32, value: i32), Context, |device| {
        const MAX_DYNAMIC_SHARED: u32 = 8;
        let most = device.gpu.capability.block_shared;
        let (_, function) = device.functions.get(function, &mut device.findings)?;
        if which != MAX_DYNAMIC_SHARED || value < 0 {
            return Err(INVALID_VALUE);
        }
        function.allow(value as u32, most)?;
        DONE
    };
}

/// Options of the just-in-time compiler that are answered.
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;

/// As [`cuModuleLoadData`], with a compiler that says why it fails.
#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const u8,
    count: u32,
    options: *const u32,
    values: *const usize,
) -> Code {
    let loaded = enter("cuModuleLoadDataEx", Needs::NoCapture, |_| DONE);
    let code = match loaded {
        SUCCESS => cuModuleLoadData(module, image),
        failed => failed,
    };
    if code != SUCCESS && count > 0 {
        // SAFETY: the caller's arrays have `count` elements each.
        let (options, values) = unsafe {
            let count = count as usize;
            let values = std::slice::from_raw_parts(values, count);
            (std::slice::from_raw_parts(options, count), values)
        };
        let value = |option| {
            let at = options.iter().position(|o| *o == option);
            at.map(|at| values[at])
        };
        if let (Some(buffer), Some(bytes)) = (value(ERROR_LOG), value(ERROR_LOG_BYTES)) {
            let text = c"ptxas stand-in; as it was asked to fail".to_bytes_with_nul();
            let bytes = text.len().min(bytes);
            // SAFETY: the caller's buffer has so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer as *mut u8, bytes) };
        }
    }
    code
}

// Memory.
api! {
    cuMemAlloc_v2(address: *mut u64, bytes: usize), NoCapture, |device| {
        put(address, device.memory.alloc(bytes)?)?;
        DONE
    };
    cuMemFree_v2(address: u64), NoCapture, |device| {
        device.goes("cuMemFree");
        device.memory.free(address).inspect_err(|_| {
            device.findings.add("cuMemFree of what is no block".into());
        })?;
        DONE
    };
    cuMemHostAlloc(address: *mut u64, bytes: usize, flags: u32), NoCapture, |device| {
        let (portable, mapped, write_combined) = (1, 2, 4);
        if flags & mapped == 0 || flags & write_combined != 0 || flags & portable == 0 {
            device.findings.add(format!("cuMemHostAlloc with flags {flags}"));
        }
        put(address, device.memory.alloc_host(bytes)?)?;
        DONE
    };
    cuMemHostGetDevicePointer_v2(address: *mut u64, host: u64, flags: u32), Context, |device| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        put(address, device.memory.device_address(host)?)?;
        DONE
    };
    cuMemFreeHost(host: u64), NoCapture, |device| {
        // No text says that the driver waits.
        device.goes("cuMemFreeHost");
        device.memory.free_host(host).inspect_err(|_| {
            device.findings.add("cuMemFreeHost of what is no block".into());
        })?;
        DONE
    };
    cuMemsetD8Async(address: u64, value: u8, bytes: usize, stream: Handle), Context, |device| {
        inside(device, "cuMemsetD8Async", address, bytes)?;
        device.submit(stream, Node::Fill { address, value, bytes })
    };
    cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: Handle), Context,
    |device| {
        inside(device, "cuMemcpyHtoDAsync", to, bytes)?;
        // SAFETY: the caller's buffer has so many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec();
        device.copy("cuMemcpyHtoDAsync", stream, Work::Write { to, bytes })
    };
    cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle), Context, |device| {
        inside(device, "cuMemcpyDtoHAsync", from, bytes)?;
        device.copy("cuMemcpyDtoHAsync", stream, Work::Read { from, to, bytes })
    };
}

/// A finding if so many bytes from an address on are not in one live block.
pub fn inside(d: &mut device::Device, call: &str, address: u64, bytes: usize) -> Result<(), Code> {
    if d.memory.holds(address, bytes) {
        return Ok(());
    }
    d.findings.add(format!("{call} outside of a block"));
    Err(INVALID_VALUE)
}

// Streams and events.
api! {
    cuStreamCreate(stream: *mut Handle, flags: u32), NoCapture, |device| {
        const NON_BLOCKING: u32 = 1;
        if flags > NON_BLOCKING {
            return Err(INVALID_VALUE);
        }
        put(stream, device.new_stream())?;
        DONE
    };
    cuStreamDestroy_v2(stream: Handle), Context, |device| {
        let gone = device.streams.remove(stream, &mut device.findings)?;
        if gone.capture.is_some() {
            device.findings.add("a stream is destroyed that is captured".into());
        }
        DONE
    };
    cuStreamSynchronize(stream: Handle), Context, |device| {
        let stream = device.quiet("cuStreamSynchronize", stream)?;
        Ok(Some(Box::new(stream.waiting())))
    };
    cuStreamQuery(stream: Handle), Context, |device| {
        match device.quiet("cuStreamQuery", stream)?.progress.is_idle() {
            // A kernel may have failed since the call began.
            true => device.fault().map_or(DONE, Err),
            false => Err(NOT_READY),
        }
    };
    cuEventCreate(event: *mut Handle, flags: u32), Context, |device| {
        let _ = flags;
        put(event, device.events.add(Arc::new(Event::default())))?;
        DONE
    };
    cuEventRecord(event: Handle, stream: Handle), Context, |device| {
        device.record(event, stream)
    };
    cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32), Context, |device| {
        match flags {
            0 => device.wait(stream, event),
            _ => Err(INVALID_VALUE),
        }
    };
    cuEventSynchronize(event: Handle), Context, |device| {
        let event = device.events.get(event, &mut device.findings)?.clone();
        Ok(event.recorded().map(|wait| Box::new(wait) as Box<dyn FnOnce()>))
    };
    cuEventElapsedTime(ms: *mut f32, from: Handle, to: Handle), Context, |device| {
        elapsed(device, ms, from, to)
    };
    cuEventDestroy_v2(event: Handle), Context, |device| {
        device.events.remove(event, &mut device.findings)?;
        DONE
    };
}

fn elapsed(
    device: &mut device::Device,
    milliseconds: *mut f32,
    from: Handle,
    to: Handle,
) -> Result<After, Code> {
    let mut reached = [None; 2];
    for (reached, event) in reached.iter_mut().zip([from, to]) {
        let event = device.events.get(event, &mut device.findings)?;
        if event.recorded().is_none() {
            device
                .findings
                .add("the time of an event that was never recorded".into());
            return Err(INVALID_HANDLE);
        }
        *reached = event.reached();
    }
    let [Some(from), Some(to)] = reached else {
        return Err(NOT_READY);
    };
    put(milliseconds, to.duration_since(from).as_secs_f32() * 1e3)?;
    DONE
}

// Launches and graphs.
api! {
    cuLaunchKernel(
        function: Handle, x: u32, y: u32, z: u32, bx: u32, by: u32, bz: u32, shared: u32,
        stream: Handle, args: *const *const u8, extra: *const c_void
    ), Context, |device| {
        let (_, function) = device.functions.get(function, &mut device.findings)?;
        let function = function.clone();
        function.check([x, y, z], [bx, by, bz], shared)?;
        if args.is_null() || !extra.is_null() || by != 1 || bz != 1 {
            return Err(INVALID_VALUE);
        }
        let mut values = Vec::new();
        for (i, size) in function.parameters.iter().enumerate() {
            // SAFETY: the caller's array has an address for each parameter, and a value of the
            // parameter's size lies there.
            let bytes = unsafe { std::slice::from_raw_parts(*args.add(i), *size as usize) };
            let value = argument(bytes).ok_or_else(|| {
                let name = function.name;
                device.findings.add(format!("{name}: argument {i} is no tensor map"));
                INVALID_VALUE
            });
            values.push(value?);
        }
        let grid = [x, y, z];
        let node = Node::Kernel { function, grid, threads: bx, shared, args: values };
        device.submit(stream, node)
    };
    cuStreamBeginCapture_v2(stream: Handle, mode: u32), Context, |device| {
        const RELAXED: u32 = 2;
        if device.stream(stream)?.capture.is_some() {
            device.findings.add("a capture begins within another".into());
            return Err(ILLEGAL_STATE);
        }
        if mode != RELAXED {
            device::set_capturing(Some(stream));
        }
        device.stream(stream)?.capture = Some(Capture {
            nodes: Vec::new(),
            branches: BTreeMap::new(),
            spoilt: false,
            by: std::thread::current().id(),
        });
        DONE
    };
    cuStreamEndCapture(stream: Handle, graph: *mut Handle), Context, |device| {
        let Some(capture) = device.end_capture(stream)? else {
            device.findings.add("a capture ends that was not begun".into());
            return Err(STREAM_CAPTURE_UNMATCHED);
        };
        if capture.by != std::thread::current().id() {
            device.findings.add("a capture is ended by another thread".into());
            return Err(STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.spoilt {
            put(graph, 0)?;
            return Err(STREAM_CAPTURE_INVALIDATED);
        }
        put(graph, device.graphs.add(capture.nodes))?;
        DONE
    };
    cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, flags: u64), NoCapture,
    |device| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let nodes = device.graphs.get(graph, &mut device.findings)?.clone();
        put(exec, device.execs.add(nodes.into()))?;
        DONE
    };
    cuGraphDestroy(graph: Handle), Context, |device| {
        device.graphs.remove(graph, &mut device.findings)?;
        DONE
    };
    cuGraphExecDestroy(exec: Handle), Context, |device| {
        device.execs.remove(exec, &mut device.findings)?;
        DONE
    };
    cuGraphLaunch(exec: Handle, stream: Handle), Context, |device| {
        device.launch_graph(exec, stream)
    };
    cuTensorMapEncodeTiled(
        to: *mut [u64; 16], kind: u32, rank: u32, base: u64, sizes: *const [u64; 2],
        strides: *const u64, boxes: *const [u32; 2], steps: *const [u32; 2], interleave: u32,
        swizzle: u32, promotion: u32, fill: u32
    ), Context, |device| {
        let (bf16, swizzle_128b) = (9, 3);
        let (sizes, stride) = (given(sizes)?, given(strides)?);
        let (boxes, steps) = (given(boxes)?, given(steps)?);
        let row = 2 * boxes[0];
        let legal = (to as usize).is_multiple_of(64)
            && (kind, rank, swizzle) == (bf16, 2, swizzle_128b)
            && (interleave, fill) == (0, 0)
            && promotion <= 3
            && base.is_multiple_of(16)
            && sizes.iter().all(|n| (1..=1 << 32).contains(n))
            && stride.is_multiple_of(16)
            && stride < 1 << 40
            && stride >= 2 * sizes[0]
            && boxes.iter().all(|n| (1..=256).contains(n))
            && row.is_multiple_of(16)
            && row <= 128
            && steps == [1, 1];
        if device.gpu.capability.arch < (9, 0) {
            device.findings.add("a tensor map for a GPU without TMA".into());
            return Err(NOT_SUPPORTED);
        }
        if !legal {
            device.findings.add(format!("a tensor map of {sizes:?} by {boxes:?}"));
            return Err(INVALID_VALUE);
        }
        // What the executor can do; no rule of the driver's.
        assert_eq!((row, stride), (128, 2 * sizes[0]), "boxes of 64 columns, rows without gaps");
        let [columns, rows] = sizes;
        put(to, encode(TensorMap { base, rows, columns, box_rows: boxes[1] }))?;
        DONE
    };
}
