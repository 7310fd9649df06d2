//! Trains deep networks with AutoAssist (Zhang, Yu, Dhillon, NeurIPS 2019): a heavy network, the
//! *Boss*, learns while a featherweight *Assistant* learns which training instances still matter
//! and skips the rest. Neither waits for the other.

pub mod assist;
pub mod backend;
pub mod data;
pub mod files;
pub mod nn;
pub mod rng;
pub mod train;
