//! What the decoder is made of, of all tokens at once or one by one.

use crate::backend::Tensor;
use crate::backend::recurrent::{LstmCell, LstmDecoder, Luong, Query, Recurrent};
use crate::backend::sequence::{Act, Dropout, Embedding, Linear, LinearGrad};
use crate::data::pairs::PAD;
use crate::nn::network::part;
use crate::nn::params::Params;

/// A linear layer: values and gradients.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub value: Linear,
    pub grad: LinearGrad,
}

impl Layer {
    pub fn new(params: &Params, name: &str) -> Layer {
        let [w, dw] = params.both(&format!("{name}.weight"));
        let [b, db] = params.both(&format!("{name}.bias"));
        Layer {
            value: Linear { w, b: Some(b) },
            grad: LinearGrad {
                dw,
                db: Some(db),
                accumulate: false,
            },
        }
    }
}

/// Its layers, with activations for as many tokens as the largest batch has.
pub(super) struct Decoder {
    pub cells: Vec<LstmCell>,
    /// Of the attention: `W_in` and `W_out`; keys and values for all there is room for.
    pub attention: [Tensor; 2],
    pub keys: Tensor,
    pub values: Tensor,
    pub table: Tensor,
    /// The first one is there where states are not as wide as the output layer.
    pub narrow: Option<(Layer, Tensor)>,
    pub output: Layer,
    pub x: Tensor,
    pub out: Tensor,
    pub probabilities: Tensor,
    pub gates: Tensor,
    pub cell_states: Tensor,
    pub hidden: Tensor,
    pub last: [Tensor; 2],
}

/// All of a tensor `[1, 1, tokens, width]` that `[n, rows, columns]` tokens take, `n` layers of it.
fn stacked(t: Tensor, [n, rows, columns]: [usize; 3]) -> Tensor {
    t.view(0, [n, rows, columns, t.dims[3]])
}

impl Decoder {
    /// At `[rows, T]` tokens, for a memory of `[B, S]`.
    pub fn luong(&self, memory: Tensor, memory_len: Tensor) -> Luong {
        let [_, b, s, _] = memory.dims;
        let [w_in, w_out] = self.attention;
        Luong {
            w_in,
            w_out,
            memory,
            memory_len,
            keys: part(self.keys, [b, s]),
            values: part(self.values, [b, s]),
        }
    }

    /// At `[rows, T]` tokens of those lengths.
    pub fn at(
        &self,
        luong: Luong,
        [rows, t]: [usize; 2],
        lengths: Tensor,
        start: [Tensor; 2],
    ) -> LstmDecoder<'_> {
        let (n, s) = (self.cells.len(), luong.memory.dims[2]);
        let hidden = stacked(self.hidden, [n, rows, t]);
        let h = hidden.dims[3];
        LstmDecoder {
            cells: &self.cells,
            luong,
            x: part(self.x, [rows, t]),
            query: Query {
                h: hidden.view((n - 1) * rows * t * h, [1, rows, t, h]),
                lengths,
                probabilities: self.probabilities.view(0, [1, rows, t, s]),
                out: part(self.out, [rows, t]),
            },
            start,
            feed: None,
            dropout: None,
            gates: stacked(self.gates, [n, rows, t]),
            cell_states: stacked(self.cell_states, [n, rows, t]),
            hidden,
            last: self.last.map(|last| last.view(0, [1, n, rows, h])),
        }
    }

    pub fn embedding(&self, tokens: Tensor) -> Embedding {
        Embedding {
            tokens,
            table: self.table,
            scale: 1.0,
            positions: None,
            padding: Some(PAD),
            dropout: None,
        }
    }

    /// From the decoder's answers `[1, rows, T, H]` the logits.
    pub fn logits(
        &self,
        exec: &mut dyn Recurrent,
        out: Tensor,
        dropout: Option<Dropout>,
        logits: Tensor,
    ) {
        let [_, rows, t, _] = out.dims;
        let mut x = out;
        if let Some((layer, to)) = self.narrow {
            x = part(to, [rows, t]);
            exec.linear(out, layer.value, Act::None, None, x);
            if let Some(dropout) = dropout {
                exec.drop_out(x, dropout, x);
            }
        }
        exec.linear(x, self.output.value, Act::None, None, logits);
    }
}
