//! The executor that runs `.cu` files on the CPU, one fiber a CUDA thread, as a
//! [`Driver`](crate::backend::gpu::driver::Driver); `kernels/simt/` is its other half.

pub(crate) mod abi;
pub(crate) mod cache;
pub mod checker;
mod code;
pub mod counts;
pub mod instrumented;
pub(crate) mod notes;
pub(crate) mod once;
pub mod profiler;
mod stream;
pub(crate) mod symbols;

pub use abi::{launches, parameters};
pub use stream::{Landing, SMALL, Schedule, Simt};
