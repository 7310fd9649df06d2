//! The CPU as a [`Convolutional`]: borrows tensors, calls kernels.

use super::dropout::Mask;
use super::glu_conv::{self, Conv, Input, OutputGrad, Shape};
use super::memory::Others;
use super::sequence::{layer, tokens};
use super::wide_attention::{self, Attention};
use super::{Cpu, embedding, labels_of, linear_layer, weight_norm};
use crate::backend::Tensor;
use crate::backend::convolutional::{
    Convolutional, GluConv, GluConvGrad, WeightNorm, WideAttention, WideAttentionGrad,
};
use crate::backend::sequence::{Embedding, Linear};

/// Sizes of a convolution.
fn shape(conv: &GluConv) -> Shape {
    let [_, sentences, length, inputs] = conv.x.dims;
    let [_, outputs, kernel, seen] = conv.w.dims;
    let width = conv.y.dims[3];
    assert_eq!(
        (inputs, outputs),
        (seen, 2 * width),
        "weights {:?} for {:?} and {:?}",
        conv.w.dims,
        conv.x.dims,
        conv.y.dims
    );
    Shape {
        sentences,
        length,
        inputs,
        width,
        kernel,
        causal: conv.causal,
    }
}

/// A convolution as the kernels take it.
fn conv_of<'a>(
    memory: &'a Others,
    conv: &GluConv,
    lengths: Option<&'a [i32]>,
    mask: Option<Mask>,
) -> Conv<'a> {
    Conv {
        x: memory.get(conv.x),
        w: memory.get(conv.w),
        lengths,
        mask,
        shape: shape(conv),
    }
}

/// An attention as the kernels take it.
fn attention_of<'a>(
    memory: &'a Others,
    attention: &WideAttention,
    key_len: &'a [i32],
) -> Attention<'a> {
    let [_, _, t, e] = attention.q.dims;
    Attention {
        q: memory.get(attention.q),
        keys: memory.get(attention.keys),
        values: memory.get(attention.values),
        key_len,
        sizes: [t, attention.keys.dims[2], e],
    }
}

impl Convolutional for Cpu {
    fn weight_norm(&mut self, norm: WeightNorm) {
        let isa = self.isa;
        self.memory.write([norm.w], |memory, [w]| {
            weight_norm::forward(isa, memory.get(norm.v), memory.get(norm.g), w);
        });
    }

    fn weight_norm_backward(&mut self, norm: WeightNorm, dw: Tensor, grads: [Tensor; 2]) {
        self.advance();
        let isa = self.isa;
        self.memory.write(grads, |memory, [dv, dg]| {
            let [v, g, dw] = [norm.v, norm.g, dw].map(|t| memory.get(t));
            weight_norm::backward(isa, v, g, dw, dv, dg);
        });
    }

    fn positions_backward(&mut self, e: Embedding, dout: Tensor, dpositions: Tensor) {
        let (isa, mask) = (self.isa, self.mask(e.dropout));
        let labels = labels_of(&self.labels, e.tokens);
        let width = dpositions.dims[3];
        self.memory.write([dpositions], |memory, [dpositions]| {
            let tokens = tokens(&e, labels, mask);
            embedding::positions_backward(isa, tokens, width, memory.slice(dout), dpositions);
        });
    }

    fn glu_conv(&mut self, conv: GluConv) {
        let (isa, mask) = (self.isa, self.mask(conv.dropout));
        let lengths = conv.lengths.map(|t| labels_of(&self.labels, t));
        self.memory.write([conv.conv, conv.y], |memory, [pre, y]| {
            let input = Input {
                bias: memory.get(conv.b),
                before: conv.before.map(|t| memory.get(t)),
                residual: conv.residual.map(|t| memory.get(t)),
            };
            let conv = conv_of(memory, &conv, lengths, mask);
            glu_conv::forward(isa, &conv, input, pre, y);
        });
    }

    fn glu_conv_backward(&mut self, conv: GluConv, grad: GluConvGrad) {
        self.advance();
        let (isa, mask) = (self.isa, self.mask(conv.dropout));
        let lengths = conv.lengths.map(|t| labels_of(&self.labels, t));
        // Before `dx`, which may take its place, is written.
        let dpre = self.memory.write([], |memory, []| {
            let (pre, dy) = (memory.get(conv.conv), memory.get(grad.dy));
            OutputGrad::new(isa, &shape(&conv), pre, dy)
        });
        let written = [grad.dw, grad.db, grad.dx];
        self.memory.write(written, |memory, [dw, db, dx]| {
            let conv = conv_of(memory, &conv, lengths, mask);
            let accumulate = grad.accumulate;
            let grads = glu_conv::Grads {
                dw,
                db,
                dx,
                accumulate,
            };
            glu_conv::backward(isa, &conv, &dpre, grads);
        });
    }

    fn linear_residual(
        &mut self,
        x: Tensor,
        linear: Linear,
        residual: Tensor,
        scale: f32,
        y: Tensor,
    ) {
        let isa = self.isa;
        self.memory.write_native([y], |memory, [y]| {
            let finish = linear_layer::Residual {
                bias: linear.b.map(|b| memory.get(b)),
                residual: memory.slice(residual),
                scale,
            };
            linear_layer::forward_residual(isa, layer(memory, x, linear.w), finish, y);
        });
    }

    fn wide_attention(&mut self, a: WideAttention) {
        let isa = self.isa;
        let key_len = labels_of(&self.labels, a.key_len);
        self.memory
            .write([a.probabilities, a.out], |memory, [probabilities, out]| {
                let all = attention_of(memory, &a, key_len);
                wide_attention::forward(isa, all, probabilities, out);
            });
    }

    fn wide_attention_backward(&mut self, a: WideAttention, grad: WideAttentionGrad) {
        self.advance();
        let isa = self.isa;
        let key_len = labels_of(&self.labels, a.key_len);
        let written = [grad.dq, grad.dkeys, grad.dvalues];
        self.memory.write(written, |memory, [dq, dkeys, dvalues]| {
            let [p, dout] = [a.probabilities, grad.dout].map(|t| memory.get(t));
            let grads = wide_attention::Grads { dq, dkeys, dvalues };
            let all = attention_of(memory, &a, key_len);
            wide_attention::backward(isa, all, p, dout, grads);
        });
    }
}
