//! Memory that threads keep from call to call.

use std::cell::Cell;

use super::simd::Buffer;

/// Memory that a thread keeps from call to call. Taken and put back rather than borrowed: a nested
/// call, such as rayon may make on a thread that waits, finds an empty one.
#[derive(Default)]
pub struct Scratch(pub Buffer, pub Buffer);

thread_local! {
    /// Of a whole call: packed weights, partial sums.
    pub static CALL: Cell<Scratch> = Cell::default();
    /// Of a task: padded images of the input and of the output gradient.
    pub static TASK: Cell<Scratch> = Cell::default();
}
