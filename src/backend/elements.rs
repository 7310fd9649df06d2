//! Ops on elements, one by one: what networks beside the Transformer ask of an executor between
//! their products.

use super::Tensor;
use super::sequence::{Dropout, Sequence};

/// An executor with these ops. Deterministic, as all of [`Executor`](super::Executor).
pub trait Elements: Sequence {
    /// Zeros, where gradients are going to be added.
    fn clear(&mut self, t: Tensor);
    /// `y = dropout(x)`, also of gradients on their way back; `y` may be `x`.
    fn drop_out(&mut self, x: Tensor, dropout: Dropout, y: Tensor);
    /// `y = (a + b)·scale`, without b `y = a·scale`; `y` may be `a`, but not `b`.
    fn add_scaled(&mut self, a: Tensor, b: Option<Tensor>, scale: f32, y: Tensor);
}
