//! The Assistant.
mod ring;
pub use ring::LossRing;
