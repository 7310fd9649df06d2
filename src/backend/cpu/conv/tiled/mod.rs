//! Convolutions of bf16 images on the tile unit: no window is ever copied out, but for the smallest.
//!
//! `layout` is how scratch images lie so that 16 neighbouring outputs meet 16 neighbouring pixels at
//! every tap, and in which order weights are packed; `fill` brings images there; `grid` is the loop
//! over blocks of products, which `forward` and the input's gradient (`dgrad`) share; `wgrad` sums over
//! the pixels of two images at once; `backward` goes image by image through both gradients; `windows` is
//! for a network's first convolution.

mod backward;
mod dgrad;
mod fill;
mod forward;
mod grid;
mod layout;
mod wgrad;
mod windows;

pub use backward::backward;
pub use forward::forward;
