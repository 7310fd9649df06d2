//! The CPU as a [`Sequence`]: borrows tensors, calls kernels.

use super::attention::{self, Place};
use super::dropout::Mask;
use super::linear_layer::{self, Layer};
use super::memory::Others;
use super::sentence_loss::{self, Sentences};
use super::slice::SliceMut;
use super::{Cpu, adam, embedding, labels_of, layer_norm};
use crate::backend::convolutional::Convolutional;
use crate::backend::recurrent::Recurrent;
use crate::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, PairBatch, SentenceLoss, Sequence,
};
use crate::backend::{DataId, Tensor};
use crate::data::pairs::{PairShape, SentencePairs};
use std::sync::Arc;

impl Cpu {
    pub(super) fn mask(&self, dropout: Option<Dropout>) -> Option<Mask> {
        dropout.map(|d| Mask::new(&self.inputs, d))
    }
}

/// The tokens of an embedding as the kernels take them.
pub(super) fn tokens<'a>(
    e: &Embedding,
    tokens: &'a [i32],
    mask: Option<Mask>,
) -> embedding::Tokens<'a> {
    embedding::Tokens {
        tokens,
        length: e.tokens.dims[3],
        scale: e.scale,
        padding: e.padding,
        mask,
    }
}

/// A linear layer as the kernels take it.
pub(super) fn layer<'a>(memory: &'a Others, x: Tensor, w: Tensor) -> Layer<'a> {
    Layer {
        x: memory.slice(x),
        w: memory.slice(w).f32(),
        shape: linear_shape(x, w),
    }
}

/// Rows, inputs, outputs.
fn linear_shape(x: Tensor, w: Tensor) -> [usize; 3] {
    let [_, _, outputs, inputs] = w.dims;
    assert_eq!(x.dims[3], inputs, "weights {:?} for {:?}", w.dims, x.dims);
    [x.len() / inputs, inputs, outputs]
}

/// An attention as the kernels take it.
fn heads_of<'a>(memory: &'a Others, a: &Attention, key_len: &'a [i32]) -> attention::Attention<'a> {
    let [_, _, queries, width] = a.out.dims;
    assert!(
        width.is_multiple_of(a.heads),
        "{} heads in {width}",
        a.heads
    );
    let heads = |h: Heads| attention::Heads {
        values: memory.slice(h.t),
        width: h.t.dims[3],
        first: h.first,
    };
    attention::Attention {
        heads: a.heads,
        depth: width / a.heads,
        lengths: [queries, a.k.t.dims[2]],
        q: heads(a.q),
        k: heads(a.k),
        v: heads(a.v),
        key_len,
        causal: a.mask.causal,
    }
}

impl Sequence for Cpu {
    fn recurrent(&mut self) -> Option<&mut dyn Recurrent> {
        Some(self)
    }

    fn convolutional(&mut self) -> Option<&mut dyn Convolutional> {
        Some(self)
    }

    fn attach_pairs(&mut self, pairs: Arc<SentencePairs>) -> DataId {
        self.pairs.push(pairs);
        DataId(self.pairs.len() - 1)
    }

    fn gather_pairs(&mut self, data: DataId, batch: PairBatch) {
        let [.., sentences, source] = batch.source.dims;
        let target = batch.target.dims[3];
        let shape = PairShape {
            sentences,
            source,
            target,
        };
        let ids = &self.inputs.ids;
        let labels = self.pairs[data.0].batch(ids, shape);
        let offsets = (0..=sentences).map(|b| (b * target) as i32).collect();
        let parts = [
            (batch.source, labels.source),
            (batch.source_len, labels.source_len),
            (batch.previous, labels.previous),
            (batch.target_len, labels.target_len),
            (batch.target, labels.target),
            (batch.offsets, offsets),
        ];
        for (to, values) in parts {
            self.labels[to.buffer][to.range()].copy_from_slice(&values);
        }
        let given = &self.inputs.weights;
        let weight = |row: usize| match ids.len() {
            rows if row >= rows => 0.0,
            _ => given.get(row).copied().unwrap_or(1.0),
        };
        let weights: Vec<f32> = (0..sentences).map(weight).collect();
        self.memory.set(batch.weights, &weights);
    }

    fn embed(&mut self, e: Embedding, out: Tensor) {
        let (isa, mask) = (self.isa, self.mask(e.dropout));
        let labels = labels_of(&self.labels, e.tokens);
        self.memory.write_native([out], |memory, [out]| {
            let (table, positions) = (memory.get(e.table), e.positions.map(|t| memory.get(t)));
            let tokens = tokens(&e, labels, mask);
            embedding::forward(isa, tokens, e.table.dims[3], table, positions, out);
        });
    }

    fn embed_backward(&mut self, e: Embedding, dout: Tensor, dtable: Tensor) {
        let (isa, mask) = (self.isa, self.mask(e.dropout));
        let labels = labels_of(&self.labels, e.tokens);
        self.memory.write([dtable], |memory, [dtable]| {
            let tokens = tokens(&e, labels, mask);
            let dout = memory.slice(dout);
            embedding::backward(isa, tokens, e.table.dims[3], dout, dtable);
        });
    }

    fn linear(&mut self, x: Tensor, linear: Linear, act: Act, pre: Option<Tensor>, y: Tensor) {
        let isa = self.isa;
        let forward = |memory: &Others, pre: Option<SliceMut>, y: SliceMut| {
            let bias = linear.b.map(|b| memory.get(b));
            linear_layer::forward(isa, layer(memory, x, linear.w), bias, act, pre, y);
        };
        match pre {
            None => self
                .memory
                .write_native([y], |memory, [y]| forward(memory, None, y)),
            Some(pre) => self
                .memory
                .write_native([pre, y], |memory, [pre, y]| forward(memory, Some(pre), y)),
        }
    }

    fn linear_backward(
        &mut self,
        x: Tensor,
        w: Tensor,
        dz: Tensor,
        grad: LinearGrad,
        dx: Option<LinearInputGrad>,
    ) {
        self.advance();
        let isa = self.isa;
        let params = |memory: &Others, dw: SliceMut, db: Option<SliceMut>| {
            let accumulate = grad.accumulate;
            let (dw, db) = (dw.f32(), db.map(SliceMut::f32));
            let grad = linear_layer::ParamGrad { dw, db, accumulate };
            linear_layer::backward_params(isa, layer(memory, x, w), memory.slice(dz), grad);
        };
        match grad.db {
            None => self
                .memory
                .write_native([grad.dw], |memory, [dw]| params(memory, dw, None)),
            Some(db) => self.memory.write_native([grad.dw, db], |memory, [dw, db]| {
                params(memory, dw, Some(db))
            }),
        }
        let Some(spec) = dx else { return };
        self.memory.write_native([spec.dx], |memory, [dx]| {
            let grad = linear_layer::InputGrad {
                dx,
                through: spec.through.map(|(act, at)| (act, memory.slice(at))),
                accumulate: spec.accumulate,
            };
            let (w_values, dz) = (memory.slice(w).f32(), memory.slice(dz));
            linear_layer::backward_input(isa, w_values, dz, linear_shape(x, w), grad);
        });
    }

    fn add_norm(
        &mut self,
        x: Tensor,
        branch: Option<(Tensor, Option<Dropout>)>,
        norm: LayerNorm,
        h: Tensor,
        y: Tensor,
    ) {
        let isa = self.isa;
        let branch = branch.map(|(branch, dropout)| (branch, self.mask(dropout)));
        let forward = |memory: &Others, out: layer_norm::Output| {
            let input = layer_norm::Input {
                x: memory.slice(x),
                branch: branch.map(|(branch, mask)| (memory.slice(branch), mask)),
                gamma: memory.get(norm.gamma),
                beta: memory.get(norm.beta),
            };
            layer_norm::forward(isa, input, out);
        };
        let written = [y, norm.mean, norm.rstd];
        if branch.is_none() {
            self.memory
                .write_native(written, |memory, [y, mean, rstd]| {
                    let (h, mean, rstd) = (None, mean.f32(), rstd.f32());
                    forward(memory, layer_norm::Output { h, y, mean, rstd });
                });
            return;
        }
        let [y, mean, rstd] = written;
        self.memory
            .write_native([h, y, mean, rstd], |memory, [h, y, mean, rstd]| {
                let (h, mean, rstd) = (Some(h), mean.f32(), rstd.f32());
                forward(memory, layer_norm::Output { h, y, mean, rstd });
            });
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
        self.advance();
        let isa = self.isa;
        let mask = self.mask(branch.map(|(_, dropout)| dropout));
        let backward = |memory: &Others, out: layer_norm::GradOutput| {
            let input = layer_norm::GradInput {
                h: memory.slice(h),
                gamma: memory.get(norm.gamma),
                mean: memory.get(norm.mean),
                rstd: memory.get(norm.rstd),
                dy: (dy != dx).then(|| memory.slice(dy)),
                dh: match dh {
                    None => layer_norm::Add::None,
                    Some(dh) if dh == dx => layer_norm::Add::InPlace,
                    Some(dh) => layer_norm::Add::From(memory.slice(dh)),
                },
                mask,
            };
            layer_norm::backward(isa, input, out);
        };
        let written = [dx, norm.dgamma, norm.dbeta];
        match branch {
            None => self
                .memory
                .write_native(written, |memory, [dx, dgamma, dbeta]| {
                    let (branch, dgamma, dbeta) = (None, dgamma.f32(), dbeta.f32());
                    backward(
                        memory,
                        layer_norm::GradOutput {
                            dx,
                            branch,
                            dgamma,
                            dbeta,
                        },
                    );
                }),
            Some((branch, _)) => {
                let [dx, dgamma, dbeta] = written;
                let written = [dx, branch, dgamma, dbeta];
                self.memory
                    .write_native(written, |memory, [dx, branch, dgamma, dbeta]| {
                        let branch = Some(branch);
                        let (dgamma, dbeta) = (dgamma.f32(), dbeta.f32());
                        backward(
                            memory,
                            layer_norm::GradOutput {
                                dx,
                                branch,
                                dgamma,
                                dbeta,
                            },
                        );
                    });
            }
        }
    }

    fn attention(&mut self, a: Attention) {
        let isa = self.isa;
        let key_len = labels_of(&self.labels, a.mask.key_len);
        let written = [a.out, a.lse];
        self.memory.write_native(written, |memory, [out, lse]| {
            let attention = heads_of(memory, &a, key_len);
            attention::forward(isa, &attention, out, lse.f32());
        });
    }

    fn attention_backward(&mut self, a: Attention, grad: AttentionGrad) {
        self.advance();
        let isa = self.isa;
        let key_len = labels_of(&self.labels, a.mask.key_len);
        // Gradients that lie side by side in one tensor are one output.
        let mut tensors: Vec<Tensor> = Vec::new();
        let places = [grad.dq, grad.dk, grad.dv].map(|h| {
            let known = tensors.iter().position(|t| *t == h.t);
            Place {
                tensor: known.unwrap_or_else(|| {
                    tensors.push(h.t);
                    tensors.len() - 1
                }),
                width: h.t.dims[3],
                first: h.first,
            }
        });
        let backward = |memory: &Others, tensors: Vec<SliceMut>| {
            let input = attention::GradInput {
                out: memory.slice(a.out),
                lse: memory.slice(a.lse).f32(),
                dout: memory.slice(grad.dout),
            };
            let attention = heads_of(memory, &a, key_len);
            attention::backward(isa, &attention, input, places, tensors);
        };
        let memory = &mut self.memory;
        match tensors[..] {
            [x] => memory.write_native([x], |memory, out| backward(memory, out.into())),
            [x, y] => memory.write_native([x, y], |memory, out| backward(memory, out.into())),
            _ => memory.write_native([grad.dq.t, grad.dk.t, grad.dv.t], |memory, out| {
                backward(memory, out.into());
            }),
        }
    }

    fn move_rows(&mut self, from: Heads, source: Tensor, to: Tensor, target: Tensor) {
        assert_eq!(source.len(), target.len(), "a target for each source");
        let [source, target] = [source, target].map(|t| labels_of(&self.labels, t));
        let (wide, width) = (from.t.dims[3], to.dims[3]);
        let places = source.iter().zip(target).map(|(s, t)| {
            let from = *s as usize * wide + from.first;
            (from..from + width, *t as usize * width)
        });
        self.memory.write_native([to], |memory, [mut to]| {
            for (from_row, to_row) in places {
                to.copy(to_row, memory.slice(from.t), from_row);
            }
        });
    }

    fn sentence_xent(&mut self, loss: SentenceLoss, record: bool) {
        let isa = self.isa;
        let [labels, offsets] = [loss.labels, loss.offsets].map(|t| labels_of(&self.labels, t));
        let (inputs, records) = (&self.inputs, record.then_some(&mut self.records));
        let written = [loss.dlogits, loss.token_loss, loss.loss, loss.right];
        self.memory
            .write_native(written, |memory, [dlogits, token_loss, mean, right]| {
                let input = Sentences {
                    logits: (loss.logits != loss.dlogits).then(|| memory.slice(loss.logits)),
                    labels,
                    offsets,
                    weights: memory.get(loss.weights),
                    smoothing: loss.smoothing,
                };
                let (loss, right) = (mean.f32(), right.f32());
                let out = sentence_loss::Results {
                    dlogits,
                    token_loss: token_loss.f32(),
                    loss: &mut *loss,
                    right: &mut *right,
                };
                sentence_loss::sentence_xent(isa, &input, out);
                if let Some(records) = records {
                    records.store(inputs, loss, right);
                }
            });
    }

    fn clip_scale(&mut self, grads: Tensor, clip: f32, scale: Tensor) {
        let isa = self.isa;
        self.memory.write([scale], |memory, [scale]| {
            scale[0] = adam::clip_scale(isa, memory.get(grads), clip);
        });
    }

    fn adam(
        &mut self,
        params: Tensor,
        grads: Tensor,
        moments: [Tensor; 2],
        config: Adam,
        scale: Option<Tensor>,
    ) {
        let (isa, lr, t) = (self.isa, self.inputs.lr, self.inputs.step + 1);
        let [m, v] = moments;
        self.memory.write([params, m, v], |memory, [params, m, v]| {
            let scale = scale.map_or(1.0, |scale| memory.get(scale)[0]);
            let state = adam::State { params, m, v };
            adam::adam(isa, state, memory.get(grads), scale, lr, t, config);
        });
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
