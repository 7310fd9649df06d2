//! Memory that threads keep from call to call.

use std::cell::Cell;

use half::bf16;

use super::simd::Buffer;

/// Memory that a thread keeps from call to call. Taken and put back rather than borrowed: a nested
/// call, such as rayon may make on a thread that waits, finds an empty one.
#[derive(Default)]
pub struct Scratch(pub Buffer, pub Buffer);

/// The same of a call whose products are by tiles.
#[derive(Default)]
pub struct TileCall {
    /// Packed, forward and backward.
    pub weights: Buffer<bf16>,
    /// Sums of tasks.
    pub partials: Buffer,
}

/// The same of its tasks.
#[derive(Default)]
pub struct TileTask {
    /// Images by pixels of 32 numbers.
    pub images: Buffer<bf16>,
    /// Pairs of images.
    pub pairs: Buffer,
    /// Pairs of output gradients, transposed.
    pub transposed: Buffer,
    /// An image with margins, as it lies in memory.
    pub narrow: Vec<bf16>,
}

thread_local! {
    /// Of a whole call on tiles.
    pub static TILE_CALL: Cell<TileCall> = Cell::default();
    /// Of a task on tiles.
    pub static TILE_TASK: Cell<TileTask> = Cell::default();
    /// Of a whole call: packed weights, partial sums.
    pub static CALL: Cell<Scratch> = Cell::default();
    /// Of a task: padded images of the input and of the output gradient.
    pub static TASK: Cell<Scratch> = Cell::default();
}
