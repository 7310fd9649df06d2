//! Launches of `kernels/layer_norm`.

use super::Gpu;
use crate::backend::Tensor;
use crate::backend::sequence::{Dropout, LayerNorm};

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn add_norm(
    _gpu: &mut Gpu,
    _x: Tensor,
    _branch: Option<(Tensor, Option<Dropout>)>,
    _norm: LayerNorm,
    _h: Tensor,
    _y: Tensor,
) {
    todo!()
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn add_norm_backward(
    _gpu: &mut Gpu,
    _h: Tensor,
    _norm: LayerNorm,
    _dy: Tensor,
    _dh: Option<Tensor>,
    _dx: Tensor,
    _branch: Option<(Tensor, Dropout)>,
) {
    todo!()
}
