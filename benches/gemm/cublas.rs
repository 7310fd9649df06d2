//! cuBLAS, where the machine has it: loaded at run time, the only rival that needs no build.

use cudarc::driver::sys;
use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// `cublasOperation_t`, `cudaDataType_t`, `cublasComputeType_t` and `cublasGemmAlgo_t`.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

/// cuBLAS in the context that is current, on the default stream.
pub struct Cublas {
    handle: Handle,
    gemm: GemmEx,
}

/// Three matrices on the device, freed by the end of the process.
pub struct Matrices {
    /// a, b and c.
    addresses: [u64; 3],
    m: usize,
    n: usize,
    k: usize,
}

fn symbol(library: *mut c_void, name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: an open library and a name that ends with a zero.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

impl Cublas {
    /// The first of the usual names that can be loaded. A context must be current.
    pub fn open() -> Option<Cublas> {
        let names = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
        let library = names.iter().find_map(|name| {
            let name = CString::new(*name).ok()?;
            // SAFETY: loading cuBLAS runs its initialisers, which want nothing of us.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
            (!library.is_null()).then_some(library)
        })?;
        let (create, gemm) = (
            symbol(library, "cublasCreate_v2")?,
            symbol(library, "cublasGemmEx")?,
        );
        // SAFETY: the functions have these types since cuBLAS 11, and the library stays loaded.
        let (create, gemm) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Create>(create),
                std::mem::transmute::<*mut c_void, GemmEx>(gemm),
            )
        };
        let mut handle = null_mut();
        // SAFETY: a local variable takes the handle.
        let made = unsafe { create(&mut handle) } == 0;
        made.then_some(Cublas { handle, gemm })
    }

    /// c = a bᵀ, not waited for. False if cuBLAS refuses.
    pub fn gemm(&self, x: &Matrices) -> bool {
        let [a, b, c] = x.addresses;
        let [m, n, k] = [x.m, x.n, x.k].map(|size| size as c_int);
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: cuBLAS counts in columns, so it is asked for cᵀ = b aᵀ, whose factors lie with k
        // along the columns. The matrices have these sizes; the factors are read before the call
        // returns.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                OP_T,
                OP_N,
                n,
                m,
                k,
                (&raw const one).cast(),
                b as *const c_void,
                R_16BF,
                k,
                a as *const c_void,
                R_16BF,
                k,
                (&raw const zero).cast(),
                c as *mut c_void,
                R_16BF,
                n,
                COMPUTE_32F,
                GEMM_DEFAULT,
            )
        };
        status == 0
    }
}

impl Matrices {
    /// Factors from bf16 bits. None if the device has no memory for them.
    pub fn new(a: &[u16], b: &[u16], m: usize, n: usize, k: usize) -> Option<Matrices> {
        let ok = |result| result == sys::CUresult::CUDA_SUCCESS;
        let mut addresses = [0; 3];
        // SAFETY: a context is current; each copy is as long as the memory and the slice.
        unsafe {
            for (address, len) in addresses.iter_mut().zip([m * k, n * k, m * n]) {
                if !ok(sys::cuMemAlloc_v2(address, 2 * len)) {
                    return None;
                }
            }
            for (address, from) in addresses.iter().zip([a, b]) {
                let bytes = size_of_val(from);
                if !ok(sys::cuMemcpyHtoD_v2(*address, from.as_ptr().cast(), bytes)) {
                    return None;
                }
            }
        }
        Some(Matrices { addresses, m, n, k })
    }
}

/// Waits for everything in the context.
pub fn synchronize() {
    // SAFETY: a context is current.
    let result = unsafe { sys::cuCtxSynchronize() };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "the device works");
}
