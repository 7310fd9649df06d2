//! Launches of `kernels/embedding`.

use super::Gpu;
use crate::backend::Tensor;
use crate::backend::sequence::Embedding;

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn embed(_gpu: &mut Gpu, _e: Embedding, _out: Tensor) {
    todo!()
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn embed_backward(_gpu: &mut Gpu, _e: Embedding, _dout: Tensor, _dtable: Tensor) {
    todo!()
}
