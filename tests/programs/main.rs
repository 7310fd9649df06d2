//! The programs as a user meets them: what they read, print, write, and end with.

#[path = "../common/contract.rs"]
mod contract;
#[path = "../common/images.rs"]
mod images;
#[path = "../common/runs.rs"]
mod runs;
#[path = "../common/sentences.rs"]
mod sentences;
#[cfg(simt)]
#[path = "../common/standin.rs"]
mod standin;
#[cfg(simt)]
#[path = "../common/store.rs"]
mod store;
#[path = "../common/weight_files.rs"]
mod weight_files;

mod cli;
#[cfg(simt)]
mod cuda;
mod download;
#[cfg(simt_counted)]
mod edited;
mod kernels;
#[cfg(simt)]
mod nccl;
#[cfg(simt_counted)]
mod own;
#[cfg(simt_counted)]
mod program;
mod resume;
#[cfg(simt)]
mod simt_run;
mod stops;
mod study;
mod translation;
mod weights;
#[cfg(simt_counted)]
mod workbench;
mod world;
