//! The ops of recurrent translators: cells (Hochreiter, Schmidhuber, 1997) over whole sequences,
//! and a decoder that looks at the source at every step (Luong et al., 2015).
//!
//! A step of a recurrence is a short product, and the next one waits for it. So each loop over a
//! sequence is one op, which an executor may run as one kernel that keeps its weights; what can be
//! taken out of the loop (the products of inputs, all gradients of weights) it does at once.
//!
//! Shapes as those of [`Sequence`](super::sequence::Sequence), with H the width of a layer's state.
//! The rows of gates, in weights and activations, are i, f, g, o (PyTorch):
//!
//! ```text
//! z = W_ih·x + b_ih + W_hh·h + b_hh
//! c' = σ(f)∘c + σ(i)∘tanh(g)    h' = σ(o)∘tanh(c')
//! ```

use super::Tensor;
use super::elements::Elements;
use super::sequence::Dropout;

/// A layer over whole sequences, from states that are zero.
#[derive(Clone, Copy, Debug)]
pub struct Lstm {
    /// `[1, 1, 4H, H]`.
    pub w_hh: Tensor,
    /// `[4H]`.
    pub b_hh: Tensor,
    /// `[B]` labels: tokens of each sentence, at least 1.
    pub lengths: Tensor,
    /// `[1, B, L, 4H]`: `W_ih·x + b_ih` at first, which the forward pass replaces by σ and tanh of
    /// z, and the backward pass by the gradient of z. 0 past a sentence's end.
    pub gates: Tensor,
    /// `[1, B, L, H]`: c', for the backward pass.
    pub cells: Tensor,
    /// `[1, B, L, H]`: h'; 0 past a sentence's end.
    pub out: Tensor,
    /// `[1, 1, B, H]` each: h and c after a sentence's last token.
    pub last: [Tensor; 2],
}

/// Gradients of [`Lstm`].
#[derive(Clone, Copy, Debug)]
pub struct LstmGrad {
    /// As [`Lstm::out`]; what is past a sentence's end does not count.
    pub dout: Tensor,
    /// As [`Lstm::last`].
    pub dlast: [Tensor; 2],
    /// As [`Lstm::w_hh`].
    pub dw_hh: Tensor,
    /// As [`Lstm::b_hh`].
    pub db_hh: Tensor,
}

/// The parameters of a layer of a decoder, or their gradients.
#[derive(Clone, Copy, Debug)]
pub struct LstmCell {
    /// `[1, 1, 4H, in]`.
    pub w_ih: Tensor,
    /// `[1, 1, 4H, H]`.
    pub w_hh: Tensor,
    /// `[4H]`.
    pub b_ih: Tensor,
    /// `[4H]`.
    pub b_hh: Tensor,
}

/// Attention with its two projections, which are moved to the memory: `s_j = (W_in·h)·m_j` is
/// `h·k_j` with the key `k_j = m_j·W_in`, and `W_out·[Σ p_j m_j; h]` is `Σ p_j v_j + W_h·h` with the
/// value `v_j = W_ctx·m_j`. So
///
/// ```text
/// p = softmax_{j < length}(h·k_j)    out = tanh(Σ p_j v_j + W_h·h)
/// ```
///
/// and the memory is projected once, not at every step.
#[derive(Clone, Copy, Debug)]
pub struct Luong {
    /// `[1, 1, E, H]`.
    pub w_in: Tensor,
    /// `[1, 1, O, E + H]`: `W_ctx`, then `W_h`.
    pub w_out: Tensor,
    /// `[1, B, S, E]`; 0 past a sentence's end.
    pub memory: Tensor,
    /// `[B]` labels: tokens of each sentence, at least 1.
    pub memory_len: Tensor,
    /// `[1, B, S, H]`, set by [`Recurrent::luong_memory`]; the backward pass replaces them by their
    /// gradient.
    pub keys: Tensor,
    /// `[1, B, S, O]`, likewise.
    pub values: Tensor,
}

/// Gradients of [`Luong`]'s inputs.
#[derive(Clone, Copy, Debug)]
pub struct LuongGrad {
    /// As [`Luong::memory`].
    pub dmemory: Tensor,
    /// As [`Luong::w_in`].
    pub dw_in: Tensor,
    /// As [`Luong::w_out`].
    pub dw_out: Tensor,
}

/// What [`Luong`] is asked. With `n·B` rows of queries for B sentences, n neighbours ask the same
/// sentence.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// `[1, n·B, T, H]`.
    pub h: Tensor,
    /// `[n·B]` labels: tokens of each row; past them `out` and `probabilities` are 0.
    pub lengths: Tensor,
    /// `[1, n·B, T, S]`.
    pub probabilities: Tensor,
    /// `[1, n·B, T, O]`.
    pub out: Tensor,
}

/// A decoder of N layers with input feeding: at each step t the first reads `[x_t; out_{t−1}]`, the
/// others the h of the one below, and out_t is what [`Luong`] makes of the last one's.
#[derive(Clone, Copy, Debug)]
pub struct LstmDecoder<'a> {
    /// N layers; the columns of the first one's `w_ih` are those of x, then those of `out`.
    pub cells: &'a [LstmCell],
    /// `E = H = O`.
    pub luong: Luong,
    /// `[1, n·B, T, I]`.
    pub x: Tensor,
    /// The last layer's h are [`Query::h`] and a part of `hidden`.
    pub query: Query,
    /// `[1, N, n·B, H]` each: h and c before the first step.
    pub start: [Tensor; 2],
    /// `[1, 1, n·B, H]`: `out` before the first step; zeros without it. Not in the backward pass.
    pub feed: Option<Tensor>,
    /// Of h as the next layer reads it, at one site each from this one on, and of `out`, at the
    /// site after them.
    pub dropout: Option<Dropout>,
    /// `[N, n·B, T, 4H]`, `[N, n·B, T, H]`, `[N, n·B, T, H]`: gates, c and h, as in [`Lstm`].
    pub gates: Tensor,
    /// See `gates`.
    pub cell_states: Tensor,
    /// See `gates`.
    pub hidden: Tensor,
    /// As `start`: after a sentence's last token.
    pub last: [Tensor; 2],
}

impl LstmDecoder<'_> {
    /// Of layer n's h, or for the last of `out`.
    pub fn dropout(&self, layer: usize) -> Option<Dropout> {
        let site = |d: Dropout| d.site + layer as u32;
        self.dropout.map(|d| Dropout { site: site(d), ..d })
    }
}

/// Gradients of [`LstmDecoder`].
#[derive(Clone, Copy, Debug)]
pub struct LstmDecoderGrad<'a> {
    /// As [`LstmDecoder::cells`].
    pub cells: &'a [LstmCell],
    /// Of the attention.
    pub luong: LuongGrad,
    /// As [`Query::out`]; is used up. What is past a sentence's end does not count.
    pub dout: Tensor,
    /// As [`LstmDecoder::x`]; 0 past a sentence's end.
    pub dx: Tensor,
    /// As [`LstmDecoder::start`].
    pub dstart: [Tensor; 2],
}

/// An executor with the ops of recurrent networks. Deterministic, as all of
/// [`Executor`](super::Executor); [`Sequence::recurrent`](super::sequence::Sequence::recurrent) leads
/// here.
pub trait Recurrent: Elements {
    /// See [`Lstm`].
    fn lstm(&mut self, lstm: Lstm);
    /// From the gradients of `out` and `last` that of z, in `gates`, and those of the parameters.
    fn lstm_backward(&mut self, lstm: Lstm, grad: LstmGrad);

    /// Sets the keys and values of a memory.
    fn luong_memory(&mut self, luong: Luong);
    /// Asks it; see [`Luong`].
    fn luong(&mut self, luong: Luong, query: Query);
    /// From the gradient of `out` in `dout`, which is used up, those of the queries and of all that
    /// they were answered from.
    fn luong_backward(
        &mut self,
        luong: Luong,
        query: Query,
        dout: Tensor,
        dh: Tensor,
        grad: LuongGrad,
    );

    /// See [`LstmDecoder`]; after [`luong_memory`](Recurrent::luong_memory).
    fn lstm_decoder(&mut self, decoder: LstmDecoder);
    /// From the gradient of `out` all others; `last` is not looked at.
    fn lstm_decoder_backward(&mut self, decoder: LstmDecoder, grad: LstmDecoderGrad);
}
