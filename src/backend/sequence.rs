//! The ops of networks over sequences of tokens: what a Transformer asks of an executor beyond
//! [`Executor`].
//!
//! Shapes: tokens and labels `[1, 1, B, L]` (B sentences padded at their right end to L tokens),
//! lengths `[1, 1, 1, B]`, all [`Kind::Label`](super::Kind); activations `[1, B, L, D]`, of which
//! most ops only see R = B·L rows of D; matrices `[1, 1, out, in]`. Fused as the hardware wants it:
//! bias and activation in a linear layer's epilogue, dropout and the residual sum in the layer norm
//! that follows them, so an activation crosses memory once an op.

use super::convolutional::Convolutional;
use super::recurrent::Recurrent;
use super::{DataId, Executor, Tensor};
use crate::data::pairs::SentencePairs;
use std::sync::Arc;

/// A padded batch of sentence pairs on an executor (contents: [`PairLabels`]).
///
/// [`PairLabels`]: crate::data::pairs::PairLabels
#[derive(Clone, Copy, Debug)]
pub struct PairBatch {
    /// `[1, 1, B, S]` labels.
    pub source: Tensor,
    /// `[1, 1, 1, B]` labels: tokens of each source.
    pub source_len: Tensor,
    /// `[1, 1, B, T]` labels: the target shifted right.
    pub previous: Tensor,
    /// `[1, 1, 1, B]` labels: tokens of each target.
    pub target_len: Tensor,
    /// `[1, 1, B, T]` labels, −100 for padding.
    pub target: Tensor,
    /// `[1, 1, 1, B + 1]` labels: `0, T, 2T, …`.
    pub offsets: Tensor,
    /// `[1, 1, 1, B]`: the weight of each sentence.
    pub weights: Tensor,
}

/// What becomes of a linear layer's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
    /// `x·Φ(x)` (Hendrycks, Gimpel, 2016).
    GeluErf,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
}

/// A linear layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[1, 1, out, in]`.
    pub w: Tensor,
    /// `[out]`; a tied output layer has none.
    pub b: Option<Tensor>,
}

/// Where a linear layer's parameter gradients go.
#[derive(Clone, Copy, Debug)]
pub struct LinearGrad {
    /// As [`Linear::w`].
    pub dw: Tensor,
    /// As [`Linear::b`].
    pub db: Option<Tensor>,
    /// Add to what is there, for parameters with several uses.
    pub accumulate: bool,
}

/// What becomes of a linear layer's input gradient before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct LinearInputGrad {
    /// `[1, B, L, in]`.
    pub dx: Tensor,
    /// Back through the activation that made the input: its derivative at the value before it.
    pub through: Option<(Act, Tensor)>,
    /// Add to what is there (queries, keys and values read the same input). Not together with
    /// `through`: an activation's output has one reader.
    pub accumulate: bool,
}

/// Multiplies each element by 0 with probability `p` and by `1/(1 − p)` otherwise; `p` counts in
/// whole 65536ths, rounded. The choice depends on the step's seed and number, `site` and the
/// element's index alone (see [`dropout_bits`](crate::rng::dropout_bits)), so host and device draw
/// the same, and the backward pass draws again what the forward pass drew. A NaN stays one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of a zero, in `[0, 1)`.
    pub p: f32,
    /// Which dropout of the network this is.
    pub site: u32,
}

impl Dropout {
    /// Of 65536 equally likely numbers, how many zero an element.
    ///
    /// # Panics
    /// If `p` is not in `[0, 1)`: a bug in the network.
    pub fn threshold(self) -> u32 {
        assert!((0.0..1.0).contains(&self.p), "dropout of {}", self.p);
        ((self.p * 65536.0).round() as u32).min(65535)
    }

    /// What the other elements are multiplied by, `1/(1 − p)` of the rounded `p`.
    pub fn scale(self) -> f32 {
        65536.0 / (65536 - self.threshold()) as f32
    }
}

/// Added to a row's variance in layer norm.
pub const NORM_EPS: f32 = 1e-5;

/// Layer norm: `y = γ·(h − mean)·rstd + β` over each row, `rstd = 1/√(var + 1e-5)` with the biased
/// variance.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Learned gain γ `[D]`.
    pub gamma: Tensor,
    /// Learned offset β `[D]`.
    pub beta: Tensor,
    /// Gradient of γ.
    pub dgamma: Tensor,
    /// Gradient of β.
    pub dbeta: Tensor,
    /// `[R]`, set by the forward pass.
    pub mean: Tensor,
    /// `[R]`, set by the forward pass.
    pub rstd: Tensor,
}

/// Heads side by side in the columns of a wider tensor: of `[1, B, L, W]`, columns `first..first +
/// H·D`, head h in the h-th D of them. So one matrix product can make queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// `[1, B, L, W]`.
    pub t: Tensor,
    /// The first column.
    pub first: usize,
}

/// Who sees whom.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// Keys of each sentence, `[B]` labels, at least 1; those after them are not seen.
    pub key_len: Tensor,
    /// Keys after the query's own place are not seen.
    pub causal: bool,
}

/// An attention: `out[b,i,h] = Σ_j softmax_j(q[b,i,h]·k[b,j,h]/√D)·v[b,j,h]` over the keys that the
/// mask lets through.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads H.
    pub heads: usize,
    /// Queries, of `[B, Lq]`.
    pub q: Heads,
    /// Keys, of `[B, Lk]`.
    pub k: Heads,
    /// Values, of `[B, Lk]`.
    pub v: Heads,
    /// Which keys count.
    pub mask: Mask,
    /// `[1, B, Lq, H·D]`.
    pub out: Tensor,
    /// `[1, B, H, Lq]`: natural logarithm of the sum of exponentials, for the backward pass.
    pub lse: Tensor,
}

/// Where attention's gradients go.
#[derive(Clone, Copy, Debug)]
pub struct AttentionGrad {
    /// As [`Attention::out`]. Rows of padding queries are zero.
    pub dout: Tensor,
    /// As [`Attention::q`].
    pub dq: Heads,
    /// As [`Attention::k`]; 0 for keys that are padding.
    pub dk: Heads,
    /// As [`Attention::v`]; 0 for keys that are padding.
    pub dv: Heads,
}

/// Tokens to vectors: `out[b,l] = dropout(scale·table[token] + positions[l])`, exactly 0 for padding.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// `[1, 1, B, L]` labels, below V.
    pub tokens: Tensor,
    /// `[1, 1, V, d]`.
    pub table: Tensor,
    /// Of the table's vectors: √d in the Transformer, 1 elsewhere.
    pub scale: f32,
    /// `[1, 1, P, d]`, for as many places as sentences have tokens: constant (see [`positions`]) or
    /// learned. A recurrence counts by itself and has none.
    pub positions: Option<Tensor>,
    /// The token whose rows are zero and which gets no gradient.
    pub padding: Option<i32>,
    /// Of the sum.
    pub dropout: Option<Dropout>,
}

/// Which sinusoids tell places apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionFormula {
    /// `sin(P·10000^(−i/(d/2 − 1)))` for `i < d/2`, then their cosines (fairseq).
    Fairseq,
    /// `sin(P·10000^(−2i/d))` and the cosine of the same by turns (Vaswani et al., 2017).
    Vaswani,
}

/// The table `[len, d]` of places `offset, offset + 1, …`, computed in f64.
///
/// # Panics
/// If `d` is odd: a bug in the network.
pub fn positions(formula: PositionFormula, offset: usize, len: usize, d: usize) -> Vec<f32> {
    assert!(d.is_multiple_of(2), "sines and cosines come in pairs");
    let half = d / 2;
    let angle = |place: usize, i: usize| {
        let exponent = match formula {
            // One frequency has no ratio to the next.
            PositionFormula::Fairseq => i as f64 / (half.max(2) - 1) as f64,
            PositionFormula::Vaswani => 2.0 * i as f64 / d as f64,
        };
        place as f64 * 10000_f64.powf(-exponent)
    };
    let mut table = Vec::with_capacity(len * d);
    for place in offset..offset + len {
        table.extend((0..d).map(|c| {
            let (i, sine) = match formula {
                PositionFormula::Fairseq => (c % half, c < half),
                PositionFormula::Vaswani => (c / 2, c % 2 == 0),
            };
            let angle = angle(place, i);
            (if sine { angle.sin() } else { angle.cos() }) as f32
        }));
    }
    table
}

/// What the loss of sentences reads and where its results go.
#[derive(Clone, Copy, Debug)]
pub struct SentenceLoss {
    /// `[R, V]`.
    pub logits: Tensor,
    /// `[R]`; −100 ignores a row.
    pub labels: Tensor,
    /// `[B + 1]` labels, from 0 to R: sentence b has rows `offsets[b]..offsets[b + 1]`.
    pub offsets: Tensor,
    /// `[B]`: weight of each sentence.
    pub weights: Tensor,
    /// Label smoothing ε, spread over all V classes.
    pub smoothing: f32,
    /// `[R, V]`; may be `logits`, which are then overwritten.
    pub dlogits: Tensor,
    /// `[R]`, without the weight; 0 for ignored rows.
    pub token_loss: Tensor,
    /// `[B]`: mean over a sentence's rows that count, 0 if none does, without the weight.
    pub loss: Tensor,
    /// `[B]`: 1 where rows count and the largest logit of each is its label's, else 0.
    pub right: Tensor,
}

/// Coefficients of [`Sequence::adam`]; the learning rate comes with the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the two moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment, after bias correction.
    pub eps: f32,
    /// L2 coefficient, on every parameter.
    pub weight_decay: f32,
    /// Shrink the parameters themselves by `lr·weight_decay` (AdamW; Loshchilov, Hutter, 2019)
    /// instead of adding to the gradient.
    pub decoupled: bool,
}

/// An executor with the ops of sequence networks. Deterministic, as all of [`Executor`]; within a
/// step, [`Executor::sequence`] leads here.
pub trait Sequence: Executor {
    /// This executor, if it has the ops of recurrent networks.
    fn recurrent(&mut self) -> Option<&mut dyn Recurrent> {
        None
    }
    /// This executor, if it has the ops of convolutional translators.
    fn convolutional(&mut self) -> Option<&mut dyn Convolutional> {
        None
    }

    /// Makes sentence pairs resident.
    fn attach_pairs(&mut self, pairs: Arc<SentencePairs>) -> DataId;
    /// Fills the batch from the step's ids and weights, as [`SentencePairs::batch`] does; rows past
    /// the last id have weight 0.
    fn gather_pairs(&mut self, data: DataId, batch: PairBatch);

    /// `out` `[1, B, L, d]` from tokens.
    fn embed(&mut self, embedding: Embedding, out: Tensor);
    /// **Adds** to `dtable` `[1, 1, V, d]` the rows' gradients, in the order of the rows.
    fn embed_backward(&mut self, embedding: Embedding, dout: Tensor, dtable: Tensor);

    /// `pre = x·wᵀ + b`, `y = act(pre)`. `pre` is stored if it is wanted (for [`Act::GeluErf`] and
    /// [`Act::GeluTanh`], whose derivative needs it; [`Act::Relu`]'s can do with `y`).
    fn linear(&mut self, x: Tensor, layer: Linear, act: Act, pre: Option<Tensor>, y: Tensor);
    /// From the gradient `dz` of `pre`: `dw = dzᵀ·x`, `db = Σ dz`, `dx = dz·w`.
    fn linear_backward(
        &mut self,
        x: Tensor,
        w: Tensor,
        dz: Tensor,
        grad: LinearGrad,
        dx: Option<LinearInputGrad>,
    );

    /// `h = x + dropout(branch)`, `y = norm(h)`, and the norm's `mean` and `rstd`. Without a branch
    /// `h` is `x` and not stored.
    fn add_norm(
        &mut self,
        x: Tensor,
        branch: Option<(Tensor, Option<Dropout>)>,
        norm: LayerNorm,
        h: Tensor,
        y: Tensor,
    );
    /// `dx = norm′(dy) + dh`, and the branch's gradient: `dx` through its dropout. Sets the norm's
    /// `dgamma` and `dbeta`. `dx` may be `dh` or `dy`; without dropout `branch` is not needed,
    /// since it equals `dx`.
    fn add_norm_backward(
        &mut self,
        h: Tensor,
        norm: LayerNorm,
        dy: Tensor,
        dh: Option<Tensor>,
        dx: Tensor,
        branch: Option<(Tensor, Dropout)>,
    );

    /// See [`Attention`].
    fn attention(&mut self, attention: Attention);
    /// Gradients of queries, keys and values.
    fn attention_backward(&mut self, attention: Attention, grad: AttentionGrad);

    /// `to[target[i]] = from[source[i]]`, rows as wide as `to`'s, from columns `first..` of `from`'s:
    /// for keys and values that decoding keeps. Targets are distinct; not in place.
    fn move_rows(&mut self, from: Heads, source: Tensor, to: Tensor, target: Tensor);

    /// Per row the loss of [`Executor::softmax_xent`] without its weight; per sentence its mean,
    /// and whether every row was right; `dlogits = weight[b]/T·(softmax − q)`, T all rows that
    /// count. One read and one write of the logits. With `record` each sentence's mean loss and
    /// right bit also go into the attached ring, by the same kernel.
    fn sentence_xent(&mut self, loss: SentenceLoss, record: bool);

    /// `scale = min(1, clip/‖grads‖₂)` (1 where `clip` is infinite); a norm that is not finite
    /// gives NaN, which [`Sequence::adam`] passes on rather than hide.
    fn clip_scale(&mut self, grads: Tensor, clip: f32, scale: Tensor);
    /// PyTorch's Adam or AdamW on flat buffers, with `g = scale·grad` (scale 1 if there is none)
    /// and t the step's number + 1:
    ///
    /// ```text
    /// decoupled: p *= 1 − lr·wd      else: g += wd·p
    /// m = β₁·m + (1−β₁)·g   v = β₂·v + (1−β₂)·g²
    /// p −= lr·(m/(1−β₁ᵗ))/(√(v/(1−β₂ᵗ)) + ε)
    /// ```
    fn adam(
        &mut self,
        params: Tensor,
        grads: Tensor,
        moments: [Tensor; 2],
        config: Adam,
        scale: Option<Tensor>,
    );
}
