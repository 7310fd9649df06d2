//! Convolutions: forward, and both gradients in one pass.

pub mod backward;
mod dgrad;
mod forward;
#[cfg(test)]
mod tests;
pub mod tile;
mod wgrad;

pub use forward::*;
