//! The stand-in for `libcuda.so` notices what the driver's documentation forbids: each rule is
//! broken once, by calls of the driver API itself, in a process of its own.
#![allow(clippy::undocumented_unsafe_blocks)] // calls that break rules have no argument for them

use crate::standin;
use crate::standin::StandIn;
use autoassist::backend::gpu::catalog::FILES;
use autoassist::backend::gpu::driver::Value;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CString, c_void};
use std::ptr::null_mut;

/// Breaks a rule and says what the driver answered.
type Breach = unsafe fn(&Context) -> CUresult;

/// What is planted; where it runs; the answer that is due, and the line in the log, if any.
#[rustfmt::skip]
const BREACHES: [(&str, Breach, &str, u32, &str); 17] = [
    ("alloc_in_capture", alloc_in_capture, "h100", 900, "finding: cuMemAlloc_v2 by a thread that captures a stream"),
    ("spoilt_capture", spoilt_capture, "h100", 901, "finding: cuStreamSynchronize of a stream that is captured"),
    ("capture_in_capture", capture_in_capture, "h100", 401, "finding: a capture begins within another"),
    ("capture_of_a_dead_stream", capture_of_a_dead_stream, "h100", 0, "finding: a stream is destroyed that is captured"),
    ("unjoined", unjoined, "h100", 904, "finding: a capture ends before a stream that has joined it"),
    ("no_context", no_context, "h100", 201, "finding: cuMemAlloc_v2 without a current context"),
    ("leak", leak, "h100", 0, "leak: 1 blocks of device memory"),
    ("freed_twice", freed_twice, "h100", 1, "finding: cuMemFree of what is no block"),
    ("freed_while_busy", freed_while_busy, "h100", 0, "finding: cuMemFree while a stream works"),
    ("used_after_free", used_after_free, "h100", 0, "finding: copy_elements: argument 0 is memory that was freed"),
    ("freed_under_a_graph", freed_under_a_graph, "h100", 0, "finding: copy_elements: argument 0 is memory that was freed"),
    ("host_address", host_address, "h100", 0, "finding: copy_elements: argument 0 is the host's address of mapped memory"),
    ("copied_outside", copied_outside, "h100", 1, "finding: cuMemcpyHtoDAsync outside of a block"),
    ("static_and_dynamic", static_and_dynamic, "4090", 1, ""),
    ("unasked_shared", unasked_shared, "h100", 1, ""),
    ("many_threads", many_threads, "h100", 701, ""),
    ("map_without_tma", map_without_tma, "a100", 801, "finding: a tensor map for a GPU without TMA"),
];

#[test]
fn every_breach_is_noticed() {
    if let Some(why) = standin::absent() {
        return println!("skipped: {why}");
    }
    for (name, _, gpu, code, line) in BREACHES {
        let standin = StandIn::new();
        let mut child = standin.command(std::env::current_exe().expect("a program"), gpu);
        child.args([
            "--exact",
            "standin_rules::breach",
            "--ignored",
            "--nocapture",
        ]);
        if name == "freed_while_busy" {
            child.env("STANDIN_HANG", "copy_elements");
        }
        let output = child.env("BREACH", name).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let answered = text.contains(&format!("answer {code}\n"));
        assert!(output.status.success() && answered, "{name}: {text}");
        let log = standin.log();
        assert!(
            log.lines().any(|l| l == line) || line.is_empty(),
            "{name}: {log}"
        );
        let found = log.lines().filter(|l| l.starts_with("finding: ")).count();
        assert_eq!(
            found,
            usize::from(line.starts_with("finding: ")),
            "{name}: {log}"
        );
    }
}

/// The other side of the test above.
#[test]
#[ignore = "breaks a rule, in a process of its own"]
fn breach() {
    let name = std::env::var("BREACH").expect("which");
    let (_, breach, ..) = BREACHES
        .into_iter()
        .find(|b| b.0 == name)
        .expect("one of them");
    let answer = unsafe { breach(&Context::new()) };
    println!("answer {}", answer as u32);
}

/// A context, a stream, and a kernel that copies.
struct Context {
    stream: sys::CUstream,
}

fn ok(answer: CUresult) {
    assert_eq!(answer, CUresult::CUDA_SUCCESS);
}

impl Context {
    unsafe fn new() -> Context {
        let (mut context, mut stream) = (null_mut(), null_mut());
        unsafe {
            ok(sys::cuInit(0));
            ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
            ok(sys::cuCtxSetCurrent(context));
            ok(sys::cuStreamCreate(&mut stream, 1));
        }
        Context { stream }
    }

    unsafe fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        ok(unsafe { sys::cuMemAlloc_v2(&mut address, bytes) });
        address
    }

    unsafe fn function(&self, name: &str) -> sys::CUfunction {
        let file = FILES.iter().find(|file| file.kernels.contains(&name));
        let image = file.and_then(|file| file.fatbin).expect("compiled");
        let (mut module, mut function) = (null_mut(), null_mut());
        let name = CString::new(name).expect("no zeros");
        unsafe {
            ok(sys::cuModuleLoadData(&mut module, image.as_ptr().cast()));
            ok(sys::cuModuleGetFunction(
                &mut function,
                module,
                name.as_ptr(),
            ));
        }
        function
    }

    /// Copies four floats.
    unsafe fn copy(&self, from: u64, to: u64, threads: u32, shared: u32) -> CUresult {
        unsafe { self.put(self.function("copy_elements"), from, to, threads, shared) }
    }

    unsafe fn put(
        &self,
        copy: sys::CUfunction,
        from: u64,
        to: u64,
        threads: u32,
        shared: u32,
    ) -> CUresult {
        let (from, to, len) = (from, to, 4_u32);
        let mut args: [*mut c_void; 3] = [
            (&raw const from).cast_mut().cast(),
            (&raw const to).cast_mut().cast(),
            (&raw const len).cast_mut().cast(),
        ];
        unsafe {
            let (s, args) = (self.stream, args.as_mut_ptr());
            sys::cuLaunchKernel(copy, 1, 1, 1, threads, 1, 1, shared, s, args, null_mut())
        }
    }

    unsafe fn begin_capture(&self) -> CUresult {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) }
    }
}

unsafe fn alloc_in_capture(context: &Context) -> CUresult {
    let mut address = 0;
    unsafe {
        ok(context.begin_capture());
        sys::cuMemAlloc_v2(&mut address, 16)
    }
}

unsafe fn spoilt_capture(context: &Context) -> CUresult {
    let mut graph = null_mut();
    unsafe {
        ok(context.begin_capture());
        let _ = sys::cuStreamSynchronize(context.stream);
        sys::cuStreamEndCapture(context.stream, &mut graph)
    }
}

unsafe fn capture_in_capture(context: &Context) -> CUresult {
    unsafe {
        ok(context.begin_capture());
        context.begin_capture()
    }
}

unsafe fn capture_of_a_dead_stream(context: &Context) -> CUresult {
    unsafe {
        ok(context.begin_capture());
        sys::cuStreamDestroy_v2(context.stream)
    }
}

unsafe fn unjoined(context: &Context) -> CUresult {
    let (mut event, mut graph) = (null_mut(), null_mut());
    unsafe {
        let mut beside = Context { stream: null_mut() };
        ok(sys::cuStreamCreate(&mut beside.stream, 1));
        ok(sys::cuEventCreate(&mut event, 2));
        let (from, to) = (context.alloc(16), context.alloc(16));
        let function = context.function("copy_elements");
        ok(context.begin_capture());
        ok(sys::cuEventRecord(event, context.stream));
        ok(sys::cuStreamWaitEvent(beside.stream, event, 0));
        ok(beside.put(function, from, to, 32, 0));
        sys::cuStreamEndCapture(context.stream, &mut graph)
    }
}

unsafe fn no_context(_: &Context) -> CUresult {
    let mut address = 0;
    unsafe {
        ok(sys::cuCtxSetCurrent(null_mut()));
        sys::cuMemAlloc_v2(&mut address, 16)
    }
}

unsafe fn leak(context: &Context) -> CUresult {
    unsafe {
        context.alloc(16);
        sys::cuStreamDestroy_v2(context.stream)
    }
}

unsafe fn freed_twice(context: &Context) -> CUresult {
    unsafe {
        let block = context.alloc(16);
        ok(sys::cuMemFree_v2(block));
        sys::cuMemFree_v2(block)
    }
}

unsafe fn freed_while_busy(context: &Context) -> CUresult {
    unsafe {
        let block = context.alloc(16);
        ok(context.copy(block, block, 32, 0));
        sys::cuMemFree_v2(block)
    }
}

unsafe fn used_after_free(context: &Context) -> CUresult {
    unsafe {
        let (gone, block) = (context.alloc(16), context.alloc(16));
        ok(sys::cuMemFree_v2(gone));
        context.copy(gone, block, 32, 0)
    }
}

unsafe fn freed_under_a_graph(context: &Context) -> CUresult {
    let (mut graph, mut exec) = (null_mut(), null_mut());
    unsafe {
        let (gone, block) = (context.alloc(16), context.alloc(16));
        ok(context.copy(gone, block, 32, 0));
        ok(sys::cuStreamSynchronize(context.stream));
        let function = context.function("copy_elements");
        ok(context.begin_capture());
        ok(context.put(function, gone, block, 32, 0));
        ok(sys::cuStreamEndCapture(context.stream, &mut graph));
        ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        ok(sys::cuMemFree_v2(gone));
        sys::cuGraphLaunch(exec, context.stream)
    }
}

unsafe fn host_address(context: &Context) -> CUresult {
    let (mut host, flags) = (null_mut(), sys::CU_MEMHOSTALLOC_DEVICEMAP | 1);
    unsafe {
        ok(sys::cuMemHostAlloc(&mut host, 16, flags));
        context.copy(host as u64, context.alloc(16), 32, 0)
    }
}

unsafe fn copied_outside(context: &Context) -> CUresult {
    let bytes = [0_u8; 16];
    unsafe {
        let block = context.alloc(16);
        sys::cuMemcpyHtoDAsync_v2(block + 8, bytes.as_ptr().cast(), 16, context.stream)
    }
}

/// A byte more than a block may have beside what the kernel has by itself.
unsafe fn static_and_dynamic(context: &Context) -> CUresult {
    use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
    use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as OWN;
    let mut own = 0;
    unsafe {
        let kernel = context.function("sentence_xent");
        ok(sys::cuFuncGetAttribute(&mut own, OWN, kernel));
        assert!(own > 0);
        ok(sys::cuFuncSetAttribute(kernel, MOST, (99 << 10) - own));
        sys::cuFuncSetAttribute(kernel, MOST, (99 << 10) - own + 1)
    }
}

unsafe fn unasked_shared(context: &Context) -> CUresult {
    unsafe {
        let block = context.alloc(16);
        context.copy(block, block, 32, (48 << 10) + 1)
    }
}

unsafe fn many_threads(context: &Context) -> CUresult {
    unsafe {
        let block = context.alloc(16);
        context.copy(block, block, 512, 0)
    }
}

unsafe fn map_without_tma(context: &Context) -> CUresult {
    use sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 as BF16;
    use sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as NO_FILL;
    use sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE as PLAIN;
    use sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE as NO_PROMOTION;
    use sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B as SWIZZLE;
    let (mut map, sizes) = (Value([0; 16]), [64, 8]);
    let (stride, boxes, steps) = (128, [64, 8], [1, 1]);
    unsafe {
        let base = context.alloc(1024) as *mut c_void;
        let (sizes, boxes, steps) = (sizes.as_ptr(), boxes.as_ptr(), steps.as_ptr());
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            BF16,
            2,
            base,
            sizes,
            &stride,
            boxes,
            steps,
            PLAIN,
            SWIZZLE,
            NO_PROMOTION,
            NO_FILL,
        )
    }
}
