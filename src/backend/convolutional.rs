//! The ops of convolutional translators (Gehring et al., 2017): convolutions over time with gated
//! linear units (Dauphin et al., 2016), attention of one wide head, and weights that are kept as
//! direction and length (Salimans, Kingma, 2016).
//!
//! Shapes as those of [`Sequence`](super::sequence::Sequence), with C the width of a layer's output
//! and K the places that its convolution sees. What is added to something else is scaled by
//! [`HALF`], so that variances stay.

use super::Tensor;
use super::elements::Elements;
use super::sequence::{Dropout, Embedding, Linear};

/// `√½`: the sum of two numbers of one variance, times it, has that variance, too.
pub const HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// Weights by direction and length: `w = g·v/‖v‖` for each output, which is all of `v` that belongs
/// to the same element of its first dimension (of matrices: a row).
#[derive(Clone, Copy, Debug)]
pub struct WeightNorm {
    /// `out` rows of any shape.
    pub v: Tensor,
    /// `out` elements.
    pub g: Tensor,
    /// As `v`: what ops read.
    pub w: Tensor,
}

/// A convolution over time, and half of its outputs gated by the other half:
///
/// ```text
/// conv[l] = b + Σ_k w[k]·dropout(x)[l + k − left]    y = conv[..C]·σ(conv[C..])
/// ```
///
/// or `(y + residual)·√½`. Places outside of a sentence are 0.
#[derive(Clone, Copy, Debug)]
pub struct GluConv {
    /// `[1, B, L, in]`.
    pub x: Tensor,
    /// `[1, 2C, K, in]`.
    pub w: Tensor,
    /// `[2C]`.
    pub b: Tensor,
    /// `[B]` labels: from there on a sentence's `x` and `residual` count as 0, whatever they are.
    /// Without it they count everywhere.
    pub lengths: Option<Tensor>,
    /// A place sees itself and those before it (`left = K − 1`), or as many to both sides (`left =
    /// (K − 1)/2`, K odd).
    pub causal: bool,
    /// Of `x`.
    pub dropout: Option<Dropout>,
    /// `[1, K − 1, B, in]`: what a causal convolution sees before the first place instead of zeros,
    /// the oldest first. Not in the backward pass.
    pub before: Option<Tensor>,
    /// `[1, B, L, C]`.
    pub residual: Option<Tensor>,
    /// `[1, B, L, 2C]`, for the backward pass.
    pub conv: Tensor,
    /// `[1, B, L, C]`.
    pub y: Tensor,
}

/// Gradients of [`GluConv`].
#[derive(Clone, Copy, Debug)]
pub struct GluConvGrad {
    /// As [`GluConv::y`]: of what the units give, which with a residual is that of `y` times √½ (and
    /// the residual's own).
    pub dy: Tensor,
    /// As [`GluConv::w`].
    pub dw: Tensor,
    /// As [`GluConv::b`].
    pub db: Tensor,
    /// As [`GluConv::x`]; may be `dy` where that is added to.
    pub dx: Tensor,
    /// Add to what is in `dx`.
    pub accumulate: bool,
}

/// Attention of one head to a sentence of `n` tokens, whose scores are not scaled:
/// `out = √n·Σ_{j<n} softmax_j(q·k_j)·v_j`.
#[derive(Clone, Copy, Debug)]
pub struct WideAttention {
    /// `[1, B, T, E]`.
    pub q: Tensor,
    /// `[1, B, S, E]`.
    pub keys: Tensor,
    /// `[1, B, S, E]`.
    pub values: Tensor,
    /// `[B]` labels, at least 1.
    pub key_len: Tensor,
    /// `[1, B, T, S]`; 0 past a sentence's end.
    pub probabilities: Tensor,
    /// `[1, B, T, E]`.
    pub out: Tensor,
}

/// Gradients of [`WideAttention`].
#[derive(Clone, Copy, Debug)]
pub struct WideAttentionGrad {
    /// As [`WideAttention::out`].
    pub dout: Tensor,
    /// As [`WideAttention::q`].
    pub dq: Tensor,
    /// As [`WideAttention::keys`]; **added** to, since several attentions look at them.
    pub dkeys: Tensor,
    /// As [`WideAttention::values`]; likewise.
    pub dvalues: Tensor,
}

/// An executor with the ops of convolutional translators. Deterministic, as all of
/// [`Executor`](super::Executor); [`Sequence::convolutional`](super::sequence::Sequence::convolutional)
/// leads here.
pub trait Convolutional: Elements {
    /// Sets `w`.
    fn weight_norm(&mut self, norm: WeightNorm);
    /// From the gradient of `w` those of `v` and `g`:
    /// `dg = dw·v/‖v‖`, `dv = g/‖v‖·(dw − dg·v/‖v‖)`.
    fn weight_norm_backward(&mut self, norm: WeightNorm, dw: Tensor, grads: [Tensor; 2]);

    /// Sets `dpositions`, as [`Embedding::positions`], to the sum over the sentences: of learned
    /// places. 0 for places that no sentence has.
    fn positions_backward(&mut self, embedding: Embedding, dout: Tensor, dpositions: Tensor);

    /// See [`GluConv`].
    fn glu_conv(&mut self, conv: GluConv);
    /// Gradients of weights, bias and input.
    fn glu_conv_backward(&mut self, conv: GluConv, grad: GluConvGrad);

    /// `y = (x·wᵀ + b + residual)·scale`. Its backward pass is
    /// [`linear_backward`](super::sequence::Sequence::linear_backward) from the gradient of `y` times
    /// `scale`, which is the residual's, too.
    fn linear_residual(
        &mut self,
        x: Tensor,
        layer: Linear,
        residual: Tensor,
        scale: f32,
        y: Tensor,
    );

    /// See [`WideAttention`].
    fn wide_attention(&mut self, attention: WideAttention);
    /// Gradients of queries, keys and values.
    fn wide_attention_backward(&mut self, attention: WideAttention, grad: WideAttentionGrad);
}
