//! Launches of `kernels/copy`.

use crate::backend::gpu::driver::Arg;
use crate::backend::gpu::{Gpu, Ladder};
use crate::backend::{Kind, Tensor};

#[cfg(all(test, simt))]
#[path = "copy_tests.rs"]
mod tests;

const THREADS: usize = 256;

/// Kernels of the steps, and elements that a thread of theirs copies.
const STEPS: [(&str, usize); 3] = [
    ("copy_strided", 8),
    ("copy_elements", 1),
    ("copy_vectors", 4),
];

impl Gpu {
    /// Copies floats, to\[i\] = from\[i\], whatever the tensors' shapes: what reading and writing
    /// once costs, the roof of all kernels that are bound by memory. Takes the highest step of
    /// [`Ladder::Copy`] that the limit allows, and the last one only where both start at multiples
    /// of 16 bytes.
    ///
    /// # Panics
    /// If the tensors are no floats, empty, differ in length or overlap.
    pub fn copy(&mut self, from: Tensor, to: Tensor) {
        self.op(|gpu| {
            let n = from.len();
            let floats = |t: Tensor| gpu.buffers[t.buffer].kind == Kind::Float;
            assert!(floats(from) && floats(to), "floats are copied");
            assert_eq!(to.len(), n, "as many elements");
            let apart = from.offset.abs_diff(to.offset) >= n;
            assert!(from.buffer != to.buffer || apart, "they overlap");
            assert!((1..=i32::MAX as usize).contains(&n), "{n} elements");
            let (kernel, a_thread) = STEPS[step(gpu, from, to) as usize - 1];
            let blocks = n.div_ceil(a_thread * THREADS) as u32;
            let args = [gpu.address(from), gpu.address(to), Arg::U32(n as u32)];
            gpu.launch(kernel, [blocks, 1, 1], THREADS as u32, 0, &args);
        });
    }
}

fn step(gpu: &Gpu, from: Tensor, to: Tensor) -> u32 {
    let aligned = (gpu.locate(from) | gpu.locate(to)).is_multiple_of(16);
    let suits = |step: &u32| gpu.allows(Ladder::Copy, *step) && (*step < 3 || aligned);
    (2..=Ladder::Copy.last()).rev().find(suits).unwrap_or(1)
}
