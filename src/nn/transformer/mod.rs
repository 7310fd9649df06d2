//! The encoder–decoder Transformer (Vaswani et al., 2017), with the norms before the sublayers or
//! after them, one embedding matrix for both languages and the output, and fairseq's parameter
//! names.

mod decoding;
mod inputs;
mod layers;
mod stack;

use super::beam::Decoding;
use super::network::{Bound, Built, FIRST_PLACE, Layers, Room, TABLE};
use super::params::{ParamList, Params};
use crate::backend::sequence::{
    Act, Dropout, Embedding, Linear, LinearGrad, LinearInputGrad, PositionFormula, Sequence,
    positions,
};
use crate::backend::{DeviceError, Kind, Tensor};
use crate::data::pairs::PAD;
use decoding::Caches;
use inputs::StackShape;
use stack::Stack;
use std::sync::Arc;

/// Where the layer norms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// `x + f(norm(x))`, and one more norm at the end of each stack.
    Pre,
    /// `norm(x + f(x))`.
    Post,
}

/// What distinguishes one Transformer from another.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Tokens of the shared vocabulary, the special ones included.
    pub vocab: usize,
    /// Width of the model, a multiple of `heads`.
    pub d: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward sublayers.
    pub ffn: usize,
    /// Layers of the encoder, and of the decoder.
    pub layers: [usize; 2],
    /// Where the layer norms are.
    pub norm: NormPlace,
    /// Dropout of embeddings and sublayers.
    pub dropout: f32,
}

impl TransformerConfig {
    /// `tiny` (d 128, ffn 512, 4 heads, 3+3), `iwslt` (d 512, ffn 1024, 4 heads, 6+6) or `base` (d
    /// 512, ffn 2048, 8 heads, 6+6), pre-norm; `None` for another name.
    pub fn preset(name: &str, vocab: usize) -> Option<TransformerConfig> {
        let (d, ffn, heads, layers, dropout) = match name {
            "tiny" => (128, 512, 4, 3, 0.1),
            "iwslt" => (512, 1024, 4, 6, 0.3),
            "base" => (512, 2048, 8, 6, 0.1),
            _ => return None,
        };
        Some(TransformerConfig {
            vocab,
            d,
            heads,
            ffn,
            layers: [layers; 2],
            norm: NormPlace::Pre,
            dropout,
        })
    }
}

impl TransformerConfig {
    /// Multiply-adds of a pair of sentences, forward.
    pub(super) fn products(&self, s: u64, t: u64) -> u64 {
        let [d, ffn, vocab] = [self.d, self.ffn, self.vocab].map(|n| n as u64);
        let [encoders, decoders] = self.layers.map(|n| n as u64);
        // Scores and their sums, of queries with keys.
        let attention = |queries: u64, keys: u64| 2 * queries * keys * d;
        let feed_forward = |tokens: u64| 2 * tokens * d * ffn;
        let encoder = 4 * s * d * d + attention(s, s) + feed_forward(s);
        let cross = 2 * (t + s) * d * d + attention(t, s);
        let decoder = 4 * t * d * d + attention(t, t) + cross + feed_forward(t);
        let output = t * d * vocab;
        encoders * encoder + decoders * decoder + output
    }
}

/// The layers on an executor.
pub(super) struct Transformer {
    dropout: f32,
    /// Value and gradient of the embedding.
    table: [Tensor; 2],
    places: Tensor,
    encoder: Stack,
    decoder: Arc<Stack>,
}

impl Transformer {
    pub fn declare(list: &mut ParamList, config: &TransformerConfig) {
        list.embedding(TABLE, config.vocab, config.d);
        Stack::declare(list, config, "encoder");
        Stack::declare(list, config, "decoder");
    }

    /// Allocates activations, and writes the table of places.
    pub fn build(
        exec: &mut dyn Sequence,
        config: &TransformerConfig,
        params: &Params,
        room: Room,
    ) -> Result<Built, DeviceError> {
        let Room {
            source,
            target,
            places: longest,
            ..
        } = room;
        let places = exec.alloc(Kind::Float, [1, 1, longest, config.d]);
        let logits = exec.alloc(Kind::Activation, [1, 1, target, config.vocab]);
        let mut site = 0;
        // One sentence of all tokens takes as much as many of a few each.
        let shape = StackShape {
            sentences: 1,
            length: source,
            memory: None,
        };
        let encoder = Stack::new(exec, params, config, "encoder", shape, &mut site);
        let shape = StackShape {
            sentences: 1,
            length: target,
            memory: Some(source),
        };
        let decoder = Stack::new(exec, params, config, "decoder", shape, &mut site);
        let table = positions(PositionFormula::Fairseq, FIRST_PLACE, longest, config.d);
        exec.write(places, &table)?;
        Ok(Built {
            encoded: encoder.output(),
            logits,
            layers: Box::new(Transformer {
                dropout: config.dropout,
                table: [params.value(TABLE), params.grad(TABLE)],
                places,
                encoder,
                decoder: Arc::new(decoder),
            }),
        })
    }

    fn rate(&self, train: bool) -> f32 {
        if train { self.dropout } else { 0.0 }
    }

    fn embedding(&self, tokens: Tensor, site: u32, train: bool) -> Embedding {
        let (p, table) = (self.rate(train), self.table[0]);
        Embedding {
            tokens,
            table,
            scale: (table.dims[3] as f32).sqrt(),
            positions: Some(self.places),
            padding: Some(PAD),
            dropout: (p > 0.0).then_some(Dropout { p, site }),
        }
    }
}

fn encoder_shape(at: &Bound) -> StackShape {
    StackShape {
        sentences: at.shape.sentences,
        length: at.shape.source,
        memory: None,
    }
}

fn decoder_shape(at: &Bound) -> StackShape {
    StackShape {
        sentences: at.shape.sentences,
        length: at.shape.target,
        memory: Some(at.shape.source),
    }
}

impl Layers for Transformer {
    fn encode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        let encoder = self.encoder.at(encoder_shape(at), self.rate(train));
        let embedding = self.embedding(at.pairs.source, encoder.embedding_site(), train);
        exec.embed(embedding, encoder.input());
        encoder.forward(exec, at.pairs.source_len, None, None);
    }

    fn decode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        let decoder = self.decoder.at(decoder_shape(at), self.rate(train));
        let embedding = self.embedding(at.pairs.previous, decoder.embedding_site(), train);
        exec.embed(embedding, decoder.input());
        let memory = Some((at.results.encoded, at.pairs.source_len));
        decoder.forward(exec, at.pairs.target_len, memory, None);
        let tied = Linear {
            w: self.table[0],
            b: None,
        };
        exec.linear(decoder.output(), tied, Act::None, None, at.results.logits);
    }

    fn backward(&self, exec: &mut dyn Sequence, at: &Bound) {
        let (params, [table, dtable]) = (&at.net.params, self.table);
        let decoder = self.decoder.at(decoder_shape(at), self.dropout);
        let encoder = self.encoder.at(encoder_shape(at), self.dropout);
        // The table's three uses: its gradient is set here and added to below.
        let grad = LinearGrad {
            dw: dtable,
            db: None,
            accumulate: false,
        };
        let dx = LinearInputGrad {
            dx: decoder.gradient(),
            through: None,
            accumulate: false,
        };
        let output = decoder.output();
        exec.linear_backward(output, table, at.results.logits, grad, Some(dx));
        let memory = Some((at.results.encoded, at.pairs.source_len));
        decoder.backward(exec, at.pairs.target_len, memory, Some(encoder.gradient()));
        let mut reduced = params.reduced.len();
        let mut reduce = |exec: &mut dyn Sequence, first: Option<Tensor>| {
            if let Some(grad) = first {
                exec.all_reduce(params.reduced_from(grad, &mut reduced));
            }
        };
        reduce(exec, params.first_grad("decoder."));
        let embedding = self.embedding(at.pairs.previous, decoder.embedding_site(), true);
        exec.embed_backward(embedding, decoder.gradient(), dtable);
        encoder.backward(exec, at.pairs.source_len, None, None);
        reduce(exec, params.first_grad("encoder.layer"));
        let embedding = self.embedding(at.pairs.source, encoder.embedding_site(), true);
        exec.embed_backward(embedding, encoder.gradient(), dtable);
        reduce(exec, Some(dtable));
    }

    fn stop_dropout(&mut self) {
        self.dropout = 0.0;
    }

    fn decoding(&self, exec: &mut dyn Sequence, rows: usize, tokens: usize) -> Box<dyn Decoding> {
        let tables = [self.table[0], self.places];
        Box::new(Caches::new(
            exec,
            self.decoder.clone(),
            tables,
            [rows, tokens],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::PairShape;
    use crate::nn::NetworkConfig;

    #[test]
    fn operations_are_those_counted_by_hand() {
        let config = TransformerConfig {
            vocab: 5,
            d: 2,
            heads: 1,
            ffn: 3,
            layers: [1, 2],
            norm: NormPlace::Pre,
            dropout: 0.0,
        };
        let shape = PairShape {
            sentences: 7,
            source: 3,
            target: 4,
        };
        // Projections, scores and sums, feed-forward.
        let encoder = 4 * (3 * 2 * 2) + 2 * (3 * 3 * 2) + 2 * (3 * 2 * 3);
        let itself = 4 * (4 * 2 * 2) + 2 * (4 * 4 * 2);
        // Queries and output over the target, keys and values over the source.
        let cross = 2 * (4 * 2 * 2) + 2 * (3 * 2 * 2) + 2 * (4 * 3 * 2);
        let decoder = itself + cross + 2 * (4 * 2 * 3);
        let sentence = encoder + 2 * decoder + 4 * 2 * 5;
        assert_eq!(
            NetworkConfig::from(config).train_ops(shape),
            7 * 6 * sentence
        );
    }
}
