//! A strict stand-in for `libcuda.so`: what our programs ask of NVIDIA's driver, checked against
//! what its documentation allows, with the kernels run by the SIMT executor. It poses as one of the
//! GPUs of [`gpus`], so that `backend/gpu/cuda` is used as on a real one where there is none.
//!
//! ```text
//! cargo build --example standin
//! mkdir DIR && ln -s $PWD/target/debug/examples/libstandin.so DIR/libcuda.so
//! ln -s libcuda.so DIR/libnccl.so.2     # several processes: NCCL is in it, too
//! STANDIN_GPU=4090 LD_LIBRARY_PATH=DIR target/debug/resnet --device cuda …
//! ```
//!
//! It answers as the driver would, and keeps a list of *findings*: calls that a driver may forgive
//! and the documentation does not, memory that is used after it was freed, and what is still there
//! when the process ends (*leaks*). What it cannot say anything about: machine code, timing, and
//! what a GPU's memory makes visible when.
//!
//! | variable | |
//! |---|---|
//! | `STANDIN_GPU` | the GPU: `a100`, `3090`, `4090`, `h100` (default), `h200`, `h100-mig`, `b200`, `5090`; or `t4`, which is too old, or `future`, of which no build knows |
//! | `STANDIN_DRIVER` | the CUDA version of the driver, `13.0` |
//! | `STANDIN_DEVICES` | how many GPUs there are, 1 |
//! | `STANDIN_MEMORY` | MiB of device memory, 16384 |
//! | `STANDIN_FAIL` | `cuInit:999,cuMemAlloc:2`: calls that fail, with the code they return |
//! | `STANDIN_RUN` | `0`: launches are looked at and not run, for programs that would take hours |
//! | `STANDIN_HANG` | a kernel that never ends |
//! | `STANDIN_FAULT` | `sgd_update:700`: a kernel that fails, with its code |
//! | `STANDIN_NCCL` | the version of NCCL, 22703 |
//! | `STANDIN_LOG` | a file for findings and, at the end, for the totals; without it they go to stderr if there are findings |

#![cfg(simt)]

mod calls;
mod codes;
mod device;
mod gpus;
mod memory;
mod module;
mod nccl;
mod report;
mod stream;
