//! Launches of `kernels/linear`.

use super::Gpu;
use crate::backend::Tensor;
use crate::backend::sequence::{Act, Linear, LinearGrad, LinearInputGrad};

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn linear(
    _gpu: &mut Gpu,
    _x: Tensor,
    _layer: Linear,
    _act: Act,
    _pre: Option<Tensor>,
    _y: Tensor,
) {
    todo!()
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn linear_backward(
    _gpu: &mut Gpu,
    _x: Tensor,
    _w: Tensor,
    _dz: Tensor,
    _grad: LinearGrad,
    _dx: Option<LinearInputGrad>,
) {
    todo!()
}
