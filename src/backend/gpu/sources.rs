//! The texts of `kernels/`: for people, and for a compiler at run time.

include!(concat!(env!("OUT_DIR"), "/sources.rs"));
