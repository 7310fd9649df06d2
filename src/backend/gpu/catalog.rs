//! Kernels of this build.
