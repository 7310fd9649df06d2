//! cuDNN's convolutions, NHWC in bf16 with sums in f32, by the functions that versions 8 and 9
//! share. Loaded at run time. Names and types were compared with the headers of cuDNN 9.28 by eye;
//! it has not met a GPU yet.

use crate::cublas::{reserve, upload};
use crate::noise::noise_bits;
use crate::product::Library;
use crate::record::{Convolution, Wanted};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

type Pointer = *mut c_void;
type Create = unsafe extern "C" fn(*mut Pointer) -> c_int;
/// Format and type of a tensor, type and format of filters; n, c, h and w.
type SetDescriptor =
    unsafe extern "C" fn(Pointer, c_int, c_int, c_int, c_int, c_int, c_int) -> c_int;
/// Padding, strides, dilations, mode and the type of sums.
type SetConvolution =
    unsafe extern "C" fn(Pointer, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int) -> c_int;
type SetMath = unsafe extern "C" fn(Pointer, c_int) -> c_int;
/// Handle, first operand, second operand, convolution, result; algorithms wanted, found, and what
/// they take.
type Find = unsafe extern "C" fn(
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    Pointer,
    c_int,
    *mut c_int,
    *mut Perf,
) -> c_int;
/// Handle, α, first operand, second operand, convolution, algorithm, workspace and its size, β,
/// result.
type Run = unsafe extern "C" fn(
    Pointer,
    *const f32,
    Pointer,
    *const c_void,
    Pointer,
    *const c_void,
    Pointer,
    c_int,
    *mut c_void,
    usize,
    *const f32,
    Pointer,
    *mut c_void,
) -> c_int;

/// `cudnnTensorFormat_t`, `cudnnDataType_t`, `cudnnConvolutionMode_t` and `cudnnMathType_t`.
const NHWC: c_int = 1;
const FLOAT: c_int = 0;
const BFLOAT16: c_int = 9;
const CROSS_CORRELATION: c_int = 1;
const TENSOR_OP_MATH: c_int = 1;

/// `cudnnConvolutionFwdAlgoPerf_t`, which is the same for the gradients.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Perf {
    algorithm: c_int,
    status: c_int,
    milliseconds: f32,
    memory: usize,
    determinism: c_int,
    math: c_int,
    reserved: [c_int; 3],
}

/// cuDNN in the context that is current, on the default stream.
pub struct Cudnn {
    library: Library,
    handle: Pointer,
}

/// A tensor or a filter on the device.
#[derive(Clone, Copy)]
struct Operand {
    descriptor: Pointer,
    address: u64,
}

/// One of a convolution's three products, ready to be made.
pub struct Part {
    run: Run,
    operands: [Operand; 3],
    convolution: Pointer,
    algorithm: c_int,
    workspace: (u64, usize),
}

impl Cudnn {
    /// The first of the usual names that can be loaded. A context must be current.
    pub fn open() -> Option<Cudnn> {
        let names = ["libcudnn.so.9", "libcudnn.so.8", "libcudnn.so"];
        let library = names.iter().find_map(|name| Library::open(name))?;
        let mut cudnn = Cudnn {
            library,
            handle: null_mut(),
        };
        cudnn.handle = cudnn.create("cudnnCreate")?;
        Some(cudnn)
    }

    fn create(&self, function: &str) -> Option<Pointer> {
        let mut made = null_mut();
        // SAFETY: cuDNN's functions that create something have this type; a local takes it.
        let status = unsafe { self.library.function::<Create>(function)?(&mut made) };
        (status == 0).then_some(made)
    }

    /// A tensor `[N, H, W, C]`, or filters `[K, H, W, C]`, of noise.
    fn operand(&self, dims: [usize; 4], filter: bool) -> Option<Operand> {
        let [n, h, w, c] = dims.map(|size| size as c_int);
        let (create, set, kinds) = match filter {
            false => ("TensorDescriptor", "Tensor4dDescriptor", [NHWC, BFLOAT16]),
            true => ("FilterDescriptor", "Filter4dDescriptor", [BFLOAT16, NHWC]),
        };
        let descriptor = self.create(&format!("cudnnCreate{create}"))?;
        // SAFETY: both functions have this type, the first two numbers being exchanged; sizes are
        // named in the order NCHW whatever the format.
        let status = unsafe {
            let set: SetDescriptor = self.library.function(&format!("cudnnSet{set}"))?;
            set(descriptor, kinds[0], kinds[1], n, c, h, w)
        };
        let address = upload(&noise_bits(dims.iter().product()))?;
        (status == 0).then_some(Operand {
            descriptor,
            address,
        })
    }

    /// Everything for the products of a convolution. None if cuDNN or the device refuses.
    pub fn plan(&self, wanted: &Convolution) -> Option<Vec<Part>> {
        let ([n, h, w, _], [co, kh, kw, _]) = (wanted.x, wanted.w);
        let window = wanted.window;
        let y = [n, window.output(h, kh), window.output(w, kw), co];
        let [x, y] = [self.operand(wanted.x, false)?, self.operand(y, false)?];
        let filter = self.operand(wanted.w, true)?;
        let kinds: &[(&str, [Operand; 3])] = match wanted.wanted {
            Wanted::Output => &[("Forward", [x, filter, y])],
            Wanted::WeightGrad => &[("BackwardFilter", [x, y, filter])],
            Wanted::BothGrads => &[
                ("BackwardFilter", [x, y, filter]),
                ("BackwardData", [filter, y, x]),
            ],
        };
        let part = |(kind, operands): &(&str, [Operand; 3])| {
            let [pad, stride] = [window.pad, window.stride].map(|size| size as c_int);
            self.part(kind, *operands, [pad, stride])
        };
        kinds.iter().map(part).collect()
    }

    /// With the fastest algorithm, which cuDNN looks for.
    fn part(&self, kind: &str, operands: [Operand; 3], [pad, stride]: [c_int; 2]) -> Option<Part> {
        let convolution = self.create("cudnnCreateConvolutionDescriptor")?;
        let name = format!("cudnnFindConvolution{kind}Algorithm");
        let [a, b, c] = operands.map(|operand| operand.descriptor);
        let (mut found, mut fastest) = (0, Perf::default());
        // SAFETY: the functions have these types in cuDNN 8 and 9; the order of operands and result
        // is that of each kind; there is room for the one algorithm that is asked for.
        unsafe {
            let library = &self.library;
            let set: SetConvolution = library.function("cudnnSetConvolution2dDescriptor")?;
            let math: SetMath = library.function("cudnnSetConvolutionMathType")?;
            let find: Find = library.function(&name)?;
            let run: Run = library.function(&format!("cudnnConvolution{kind}"))?;
            let (mode, sums, dilation) = (CROSS_CORRELATION, FLOAT, 1);
            let is_set = set(
                convolution,
                pad,
                pad,
                stride,
                stride,
                dilation,
                dilation,
                mode,
                sums,
            );
            if is_set != 0 || math(convolution, TENSOR_OP_MATH) != 0 {
                return None;
            }
            let handle = self.handle;
            let is_found = find(handle, a, b, convolution, c, 1, &mut found, &mut fastest);
            let usable = is_found == 0 && found == 1 && fastest.status == 0;
            if !usable || math(convolution, fastest.math) != 0 {
                return None;
            }
            let memory = fastest.memory;
            Some(Part {
                run,
                operands,
                convolution,
                algorithm: fastest.algorithm,
                workspace: (reserve(memory.max(1))?, memory),
            })
        }
    }

    /// Makes it, not waited for. False if cuDNN refuses.
    pub fn run(&self, part: &Part) -> bool {
        let [a, b, c] = part.operands;
        let (workspace, size) = part.workspace;
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: as for finding the algorithm; the memory is as large as descriptors and algorithm
        // want it, and α and β are read before the call returns.
        let status = unsafe {
            (part.run)(
                self.handle,
                &one,
                a.descriptor,
                a.address as *const c_void,
                b.descriptor,
                b.address as *const c_void,
                part.convolution,
                part.algorithm,
                workspace as *mut c_void,
                size,
                &zero,
                c.descriptor,
                c.address as *mut c_void,
            )
        };
        status == 0
    }
}
