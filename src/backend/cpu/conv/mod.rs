//! Convolutions: forward, and the backward pass that takes both gradients image by image.
//!
//! `shape` and `source` say what is computed and how images are read; `tile` is the block of
//! outputs that stays in registers; forward, and the two gradients under `backward`, arrange images
//! in scratch memory so that it can run.

mod backward;
mod dgrad;
mod forward;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod tile;
pub mod tiled;
mod wgrad;

pub use backward::{GradSource, InputGradOut, NormBackward, Sums, backward};
pub use dgrad::Add;
pub use forward::forward;
pub use shape::ConvShape;
pub(super) use source::add_lanes;
pub use source::{PowerSums, Source};
pub(super) use tile::read;
