//! Launches of `kernels/attention`.

use super::Gpu;
use crate::backend::Tensor;
use crate::backend::sequence::{Attention, AttentionGrad};

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn attention(_gpu: &mut Gpu, _a: Attention) {
    todo!()
}

/// See [`Sequence`](crate::backend::sequence::Sequence).
pub(super) fn attention_backward(_gpu: &mut Gpu, _a: Attention, _grad: AttentionGrad) {
    todo!()
}
