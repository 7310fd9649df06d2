//! [`Gpu`] as a [`Sequence`]: each op in the file of its kernels.

use super::ops::{
    adam, attention, embedding, gather_pairs, layer_norm, linear_layer, move_rows, sentence_loss,
};
use super::{Gpu, Held};
use crate::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, PairBatch, SentenceLoss, Sequence,
};
use crate::backend::{DataId, Tensor};
use crate::data::pairs::SentencePairs;
use std::sync::Arc;

impl Sequence for Gpu {
    fn attach_pairs(&mut self, pairs: Arc<SentencePairs>) -> DataId {
        self.attach(Held::Pairs(pairs))
    }

    fn gather_pairs(&mut self, data: DataId, batch: PairBatch) {
        self.op(|gpu| gather_pairs::gather_pairs(gpu, data, batch));
    }

    fn embed(&mut self, e: Embedding, out: Tensor) {
        self.op(|gpu| embedding::embed(gpu, e, out));
    }

    fn embed_backward(&mut self, e: Embedding, dout: Tensor, dtable: Tensor) {
        self.op(|gpu| embedding::embed_backward(gpu, e, dout, dtable));
    }

    fn linear(&mut self, x: Tensor, layer: Linear, act: Act, pre: Option<Tensor>, y: Tensor) {
        self.op(|gpu| linear_layer::linear(gpu, x, layer, act, pre, y));
    }

    fn linear_backward(
        &mut self,
        x: Tensor,
        w: Tensor,
        dz: Tensor,
        grad: LinearGrad,
        dx: Option<LinearInputGrad>,
    ) {
        self.op(|gpu| linear_layer::linear_backward(gpu, x, w, dz, grad, dx));
    }

    fn add_norm(
        &mut self,
        x: Tensor,
        branch: Option<(Tensor, Option<Dropout>)>,
        norm: LayerNorm,
        h: Tensor,
        y: Tensor,
    ) {
        self.op(|gpu| layer_norm::add_norm(gpu, x, branch, norm, h, y));
    }

    fn add_norm_backward(
        &mut self,
        h: Tensor,
        norm: LayerNorm,
        dy: Tensor,
        dh: Option<Tensor>,
        dx: Tensor,
        branch: Option<(Tensor, Dropout)>,
    ) {
        self.op(|gpu| layer_norm::add_norm_backward(gpu, h, norm, dy, dh, dx, branch));
    }

    fn attention(&mut self, a: Attention) {
        self.op(|gpu| attention::attention(gpu, a));
    }

    fn attention_backward(&mut self, a: Attention, grad: AttentionGrad) {
        self.op(|gpu| attention::attention_backward(gpu, a, grad));
    }

    fn move_rows(&mut self, from: Heads, source: Tensor, to: Tensor, target: Tensor) {
        self.op(|gpu| move_rows::move_rows(gpu, from, source, to, target));
    }

    fn sentence_xent(&mut self, loss: SentenceLoss, record: bool) {
        self.op(|gpu| sentence_loss::sentence_xent(gpu, loss, record));
    }

    fn clip_scale(&mut self, grads: Tensor, clip: f32, scale: Tensor) {
        self.op(|gpu| adam::clip_scale(gpu, grads, clip, scale));
    }

    fn adam(
        &mut self,
        params: Tensor,
        grads: Tensor,
        moments: [Tensor; 2],
        config: Adam,
        scale: Option<Tensor>,
    ) {
        self.op(|gpu| {
            adam::adam(gpu, params, grads, moments, config, scale);
            gpu.written(params);
        });
    }
}
