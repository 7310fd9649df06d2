//! Launches of `kernels/adam`.

use super::Gpu;
use crate::backend::Tensor;
use crate::backend::sequence::Adam;

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn clip_scale(_gpu: &mut Gpu, _grads: Tensor, _clip: f32, _scale: Tensor) {
    todo!()
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn adam(
    _gpu: &mut Gpu,
    _params: Tensor,
    _grads: Tensor,
    _moments: [Tensor; 2],
    _config: Adam,
    _scale: Option<Tensor>,
) {
    todo!()
}
