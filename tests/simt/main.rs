//! The SIMT executor by itself: every primitive against a plain computation, every mistake and what
//! is said about it. The kernels are in `kernels/simt/selftest.cu`.

#![cfg(simt)]

mod errors;
mod hopper;
mod launch;
mod pool;
mod primitives;
mod programs;
mod tensor;
mod together;

// Its library holds the executor.
use autoassist as _;
