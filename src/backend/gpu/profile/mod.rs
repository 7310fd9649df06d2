//! `kernels profile` and `kernels ladder`: what launches do, counted while they run on the CPU, and
//! what that would mean on a GPU.

pub mod counts;
