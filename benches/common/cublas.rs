//! cuBLAS, where the machine has it: loaded at run time, the only rival that needs no build.

use crate::product::{Library, Product};
use cudarc::driver::sys;
use std::ffi::{c_int, c_void};
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
    product: Product,
}

impl Cublas {
    /// The first of the usual names that can be loaded. A context must be current.
    pub fn open() -> Option<Cublas> {
        let names = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
        let library = names.iter().find_map(|name| Library::open(name))?;
        // SAFETY: the functions have these types since cuBLAS 11.
        let (create, gemm): (Create, GemmEx) = unsafe {
            (
                library.function("cublasCreate_v2")?,
                library.function("cublasGemmEx")?,
            )
        };
        let mut handle = null_mut();
        // SAFETY: a local variable takes the handle.
        let made = unsafe { create(&mut handle) } == 0;
        made.then_some(Cublas { handle, gemm })
    }

    /// The product in bf16 with sums in f32, not waited for. False if cuBLAS refuses.
    pub fn gemm(&self, x: &Matrices) -> bool {
        let [a, b, c] = x.addresses;
        let [m, n, k] = x.product.sizes.map(|size| size as c_int);
        let [a_transposed, b_transposed] = x.product.transposed;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let operation = |transposed| if transposed { OP_T } else { OP_N };
        // SAFETY: cuBLAS counts in columns, so it is asked for cᵀ = bᵀ aᵀ: what lies here by rows
        // is its transposed there, which leaves each operation as it is. The matrices have these
        // sizes; the factors one and zero are read before the call returns.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                operation(b_transposed),
                operation(a_transposed),
                n,
                m,
                k,
                (&raw const one).cast(),
                b as *const c_void,
                R_16BF,
                if b_transposed { k } else { n },
                a as *const c_void,
                R_16BF,
                if a_transposed { m } else { k },
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
    pub fn new(product: Product, a: &[u16], b: &[u16]) -> Option<Matrices> {
        let [m, n, k] = product.sizes;
        assert_eq!([a.len(), b.len()], [m * k, n * k]);
        let addresses = [upload(a)?, upload(b)?, reserve(2 * m * n)?];
        Some(Matrices { addresses, product })
    }
}

/// So many bytes on the device, freed by the end of the process. A context must be current.
pub fn reserve(bytes: usize) -> Option<u64> {
    let mut address = 0;
    // SAFETY: a context is current; a local variable takes the address.
    let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
    (result == sys::CUresult::CUDA_SUCCESS).then_some(address)
}

/// A copy on the device, freed by the end of the process. A context must be current.
pub fn upload(values: &[u16]) -> Option<u64> {
    let bytes = size_of_val(values);
    let address = reserve(bytes)?;
    // SAFETY: a context is current; the copy is as long as the memory and the slice.
    let result = unsafe { sys::cuMemcpyHtoD_v2(address, values.as_ptr().cast(), bytes) };
    (result == sys::CUresult::CUDA_SUCCESS).then_some(address)
}

/// Waits for everything in the context. False if something in it failed.
pub fn synchronize() -> bool {
    // SAFETY: a context is current.
    let result = unsafe { sys::cuCtxSynchronize() };
    result == sys::CUresult::CUDA_SUCCESS
}
