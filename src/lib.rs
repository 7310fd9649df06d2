//! Trains deep networks with AutoAssist (Zhang, Yu, Dhillon, NeurIPS 2019): a heavy network, the
//! *Boss*, learns while a featherweight *Assistant* learns which training instances still matter
//! and skips the rest. Neither waits for the other: the kernel that computes the loss gradient
//! stores each instance's loss where the Assistant finds it. The kernels are written by hand, and
//! run on a GPU or, unchanged, on the CPU, which also checks and counts what they do.
//!
//! # How data flow
//!
//! ```text
//!      data                                                           backend, nn
//!       │ instances                                                         │ ops, network
//!       ▼                                                                  ▼
//!  ┌────────────────┐  batches  ┌─────────────────┐  slot s mod K    ┌──────────────────────┐
//!  │ assist         │ ────────► │ train           │ ───────────────► │ a step, one graph    │
//!  │                │           │                 │  ids, weights,   │   gather, augment    │
//!  │ the Assistant, │           │ the loop: drains│  {n, lr, seed}   │   forward            │
//!  │ on a thread of │  feedback │ the ring, keeps │                  │   loss and gradient  │
//!  │ its own        │ ◄──────── │ the books       │ ◄─── ring ────── │     stores records   │
//!  │                │           │                 │  {loss, tag},    │   backward           │
//!  │                │           │                 │  8 B an instance │   update             │
//!  └────────────────┘           └─────────────────┘                  └──────────────────────┘
//! ```
//!
//! The loop writes a slot of memory that both sides see and launches the step; only the step's
//! first kernel reads the slot. There are K of them, and step s is launched when all records of
//! step s - K + 1 have been seen: that one rule gives back-pressure, reuse of slots and run-ahead,
//! without an event or a synchronisation. Where the CPU computes, the ring lies in ordinary memory,
//! and the Assistant cannot tell.
//!
//! # Rooms and floors
//!
//! A room may know the floors below its own and nothing above or beside it (`tests/rooms.rs` fails
//! where one does):
//!
//! ```text
//!  floor   room                          what it is
//!   10     bin                           arguments, and whom to call
//!    9     train     workbench           the loop and what people see of it;
//!                                        kernels checked, profiled, packed
//!    8     nn                            networks, written once
//!    7     backend                       the op set, and who computes it:
//!            cpu/   conv/ gemm/            in Rust, a file or folder an op
//!            gpu/   ops/                   by kernels/, a file or folder an op
//!    6     simt                          runs, checks and counts kernels on the
//!                                        CPU, with kernels/simt/
//!    5     world                         the processes that train together, MPI
//!    4     backend/gpu/driver            what a machine for kernels has to do
//!          backend/wait                  how long a host waits
//!    3     backend/error                 why a device cannot be used
//!    2     assist                        the loss ring, the Assistant, its thread
//!          world/error                   why processes do not come together
//!    1     data                          data sets, read and fetched
//!    0     files  html  rng  cpu/simd    files, random numbers, vectors
//! ```
//!
//! - [`train`]: settings, the loop, its ledger of operations, checkpoints, comparisons, the report.
//! - [`workbench`]: [`check`](workbench::check), [`profile`](workbench::profile) and its ladders,
//!   [`drawings`](workbench::drawings), [`pack`](workbench::pack). It stands above networks and executors, which know nothing of it.
//! - [`nn`]: [`ResNet`](nn::ResNet), [`Network`](nn::Network), which translates.
//! - [`backend`]: the op set, [`Executor`](backend::Executor); [`Cpu`](backend::cpu::Cpu);
//!   [`Gpu`](backend::gpu::Gpu), which turns an op into launches on any
//!   [`Driver`](backend::gpu::driver::Driver).
//! - [`world`](mod@world): the ranks that share each step of a training, and what carries sums between them.
//! - [`simt`]: [`Simt`](simt::Simt), a driver that needs no GPU; [`Checker`](simt::checker::Checker)
//!   and [`Profiler`](simt::profiler::Profiler), who watch what kernels do there.
//! - [`assist`]: the [loss ring](assist::LossRing), the [`Feeder`](assist::Feeder)'s thread, the
//!   [`Assistant`](assist::Assistant) and its rivals.
//! - [`data`]: data sets, and how they are read and fetched.
//! - [`rng`]: random numbers that depend on nothing but what they are for.
//!
//! # Where to start
//!
//! **To read kernels**, and see what they do: `kernels/README.md` has the order, from a
//! [copy](backend::gpu::Gpu::copy) on; a [`Ladder`](backend::gpu::Ladder) is an op's kernels from
//! the formula to the fastest, one idea a file, and [`catalog`](backend::gpu::catalog) lists what
//! each takes. Launch code is a file an op beside [`Gpu`](backend::gpu::Gpu).
//!
//! **To check and profile kernels**, yours as well, without a GPU: a
//! [`Launch`](backend::gpu::driver::Launch) goes to a [`Driver`](backend::gpu::driver::Driver), of
//! which [`Simt`](simt::Simt) runs it on the CPU, one fiber a thread. A
//! [`Checker`](simt::checker::Checker) finds races and accesses out of bounds,
//! [`check`](workbench::check) tries everything in the build, and
//! [`profile`](workbench::profile) counts. `tests/own_kernel.rs` is the whole of it in a page.
//!
//! **To train**: the programs `resnet` and `transformer` (`--help`) are [`train::program`] with a
//! task each. From inside, a [`Job`](train::Job) goes to [`train()`](train::train); for a network
//! of your own, [`open`](backend::open) an executor and call its ops as [`nn`] does.

pub mod assist;
pub mod backend;
pub mod data;
mod files;
mod html;
pub mod nn;
pub mod rng;
#[cfg(simt)]
pub mod simt;
pub mod train;
pub mod workbench;
pub mod world;
