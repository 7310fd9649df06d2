//! The encoder–decoder Transformer (Vaswani et al., 2017), with the norms before the sublayers or
//! after them, one embedding matrix for both languages and the output, and fairseq's parameter
//! names.
//!
//! Activations are allocated once, for as many tokens as the largest batch has ([`Room`]); a step
//! of any padded shape that fits uses their beginnings ([`Transformer::bind`]), so that shapes cost
//! no memory of their own.

mod beam;
mod inputs;
mod layers;
mod stack;

pub use beam::{BeamSearch, Hypothesis, SearchSpec, longest_translation};

use super::params::{ParamList, Params};
use crate::backend::sequence::{
    Act, Adam, Dropout, Embedding, Linear, LinearGrad, LinearInputGrad, PairBatch, PositionFormula,
    SentenceLoss, Sequence, positions,
};
use crate::backend::{DataId, DeviceError, Kind, Tensor};
use crate::data::pairs::{PAD, PairShape};
use inputs::StackShape;
use stack::Stack;

/// The first place has the number that fairseq gives it: one after padding's.
const FIRST_PLACE: usize = PAD as usize + 1;

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
    /// Operations (two a multiply-add) of a training step of this padded shape, from shapes: the
    /// products of linear layers and attention, forward, and twice that backward. Masks save
    /// nothing; norms, softmax, embeddings and the optimiser are not counted.
    pub fn train_ops(&self, shape: PairShape) -> u64 {
        let [d, ffn, vocab] = [self.d, self.ffn, self.vocab].map(|n| n as u64);
        let [b, s, t] = [shape.sentences, shape.source, shape.target].map(|n| n as u64);
        let [encoders, decoders] = self.layers.map(|n| n as u64);
        // Multiply-adds of a sentence: scores and their sums, of queries with keys.
        let attention = |queries: u64, keys: u64| 2 * queries * keys * d;
        let feed_forward = |tokens: u64| 2 * tokens * d * ffn;
        let encoder = 4 * s * d * d + attention(s, s) + feed_forward(s);
        let cross = 2 * (t + s) * d * d + attention(t, s);
        let decoder = 4 * t * d * d + attention(t, t) + cross + feed_forward(t);
        let output = t * d * vocab;
        3 * 2 * b * (encoders * encoder + decoders * decoder + output)
    }
}

/// What a network has memory for. Few long sentences take that of many short ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Most sentence pairs of a batch.
    pub sentences: usize,
    /// Most padded tokens of a batch's sources together.
    pub source: usize,
    /// Most padded tokens of its targets together.
    pub target: usize,
    /// Most padded tokens of one sentence.
    pub places: usize,
}

impl From<PairShape> for Room {
    /// For batches of this shape, and smaller ones.
    fn from(shape: PairShape) -> Room {
        Room {
            sentences: shape.sentences,
            source: shape.sentences * shape.source,
            target: shape.sentences * shape.target,
            places: shape.source.max(shape.target),
        }
    }
}

impl Room {
    /// Whether batches of this shape fit.
    fn fits(&self, shape: PairShape) -> bool {
        let needed = Room::from(shape);
        needed.sentences <= self.sentences
            && needed.source <= self.source
            && needed.target <= self.target
            && needed.places <= self.places
    }
}

/// What a step writes.
#[derive(Clone, Copy, Debug)]
pub struct Results {
    /// `[1, B, S, d]`: what the encoder makes of the sources.
    pub encoded: Tensor,
    /// `[1, B, T, V]`; after the loss of a training step their gradient.
    pub logits: Tensor,
    /// `[1, 1, B, T]`.
    pub token_loss: Tensor,
    /// `[1, 1, 1, B]`: mean over each target.
    pub loss: Tensor,
    /// `[1, 1, 1, B]`: 1 where every token is right.
    pub right: Tensor,
}

/// How a network is trained, beside the learning rate that comes with each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainSpec {
    /// Label smoothing ε.
    pub smoothing: f32,
    /// Largest norm of the gradient.
    pub clip: f32,
    /// The optimiser's coefficients.
    pub adam: Adam,
}

/// A network on an executor.
pub struct Transformer {
    /// What it is.
    pub config: TransformerConfig,
    /// Its parameters; `momentum` is Adam's first moment.
    pub params: Params,
    /// Adam's second moment, as `params.values`.
    pub second_moment: Tensor,
    /// Factor by which the gradient is clipped, `[1]`.
    pub scale: Tensor,
    room: Room,
    pairs: PairBatch,
    results: Results,
    places: Tensor,
    encoder: Stack,
    decoder: Stack,
}

/// The embedding, which is the output layer, too: `[vocab, d]`.
pub const TABLE: &str = "encoder.embed_tokens.weight";

/// What of a tensor for all tokens a batch uses.
fn part(t: Tensor, rows: [usize; 2]) -> Tensor {
    t.view(0, [1, rows[0], rows[1], t.dims[3]])
}

impl Transformer {
    /// Allocates parameters, and activations for batches that fit into `room`, and writes the table
    /// of places.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        exec: &mut dyn Sequence,
        config: TransformerConfig,
        room: impl Into<Room>,
    ) -> Result<Transformer, DeviceError> {
        let mut list = ParamList::default();
        list.embedding(TABLE, config.vocab, config.d);
        Stack::declare(&mut list, &config, "encoder");
        Stack::declare(&mut list, &config, "decoder");
        let params = list.allocate(exec);
        let second_moment = exec.alloc(Kind::Float, params.values.dims);
        let scale = exec.alloc(Kind::Float, [1, 1, 1, 1]);

        let room = room.into();
        let Room {
            sentences: b,
            source,
            target,
            places: longest,
        } = room;
        let mut labels = |dims| exec.alloc(Kind::Label, dims);
        let [source_tokens, previous, targets] =
            [source, target, target].map(|tokens| labels([1, 1, 1, tokens]));
        let [source_len, target_len] = [(); 2].map(|()| labels([1, 1, 1, b]));
        let offsets = labels([1, 1, 1, b + 1]);
        let mut floats = |dims| exec.alloc(Kind::Float, dims);
        let [weights, loss, right] = [(); 3].map(|()| floats([1, 1, 1, b]));
        let token_loss = floats([1, 1, 1, target]);
        let places = floats([1, 1, longest, config.d]);
        let logits = exec.alloc(Kind::Activation, [1, 1, target, config.vocab]);
        let mut site = 0;
        // One sentence of all tokens takes as much as many of a few each.
        let shape = StackShape {
            sentences: 1,
            length: source,
            memory: None,
        };
        let encoder = Stack::new(exec, &params, &config, "encoder", shape, &mut site);
        let shape = StackShape {
            sentences: 1,
            length: target,
            memory: Some(source),
        };
        let decoder = Stack::new(exec, &params, &config, "decoder", shape, &mut site);
        let table = positions(PositionFormula::Fairseq, FIRST_PLACE, longest, config.d);
        exec.write(places, &table)?;
        Ok(Transformer {
            params,
            second_moment,
            scale,
            room,
            pairs: PairBatch {
                source: source_tokens,
                source_len,
                previous,
                target_len,
                target: targets,
                offsets,
                weights,
            },
            results: Results {
                encoded: encoder.output(),
                logits,
                token_loss,
                loss,
                right,
            },
            places,
            encoder,
            decoder,
            config,
        })
    }

    /// `[1, 1, L, d]`: the table of places, for the longest sentences.
    pub fn places(&self) -> Tensor {
        self.places
    }

    /// The network at a padded shape.
    ///
    /// # Panics
    /// If there is no room for it: a bug in the caller.
    pub fn bind(&self, shape: PairShape) -> Bound<'_> {
        let PairShape {
            sentences: b,
            source,
            target,
        } = shape;
        assert!(self.room.fits(shape), "{shape:?} into {:?}", self.room);
        let labels = |t: Tensor, rows, columns| t.view(0, [1, 1, rows, columns]);
        let (p, r) = (self.pairs, self.results);
        Bound {
            net: self,
            shape,
            pairs: PairBatch {
                source: labels(p.source, b, source),
                source_len: labels(p.source_len, 1, b),
                previous: labels(p.previous, b, target),
                target_len: labels(p.target_len, 1, b),
                target: labels(p.target, b, target),
                offsets: labels(p.offsets, 1, b + 1),
                weights: labels(p.weights, 1, b),
            },
            results: Results {
                encoded: part(r.encoded, [b, source]),
                logits: part(r.logits, [b, target]),
                token_loss: labels(r.token_loss, b, target),
                loss: labels(r.loss, 1, b),
                right: labels(r.right, 1, b),
            },
        }
    }
}

/// A [`Transformer`] at a padded shape.
pub struct Bound<'a> {
    net: &'a Transformer,
    /// The shape.
    pub shape: PairShape,
    /// What its steps read.
    pub pairs: PairBatch,
    /// What they write.
    pub results: Results,
}

impl Bound<'_> {
    fn embedding(&self, tokens: Tensor, site: u32, train: bool) -> Embedding {
        let p = self.net.config.dropout;
        Embedding {
            tokens,
            table: self.net.params.value(TABLE),
            positions: self.net.places,
            padding: Some(PAD),
            dropout: (train && p > 0.0).then_some(Dropout { p, site }),
        }
    }

    fn encoder_shape(&self) -> StackShape {
        StackShape {
            sentences: self.shape.sentences,
            length: self.shape.source,
            memory: None,
        }
    }

    fn decoder_shape(&self) -> StackShape {
        StackShape {
            sentences: self.shape.sentences,
            length: self.shape.target,
            memory: Some(self.shape.source),
        }
    }

    /// Sources to `encoded`.
    pub fn encode(&self, exec: &mut dyn Sequence, train: bool) {
        let encoder = self.net.encoder.at(self.encoder_shape(), train);
        let embedding = self.embedding(self.pairs.source, encoder.embedding_site(), train);
        exec.embed(embedding, encoder.input());
        encoder.forward(exec, self.pairs.source_len, None, None);
    }

    /// `encoded` and previous tokens to `logits`.
    pub fn decode(&self, exec: &mut dyn Sequence, train: bool) {
        let decoder = self.net.decoder.at(self.decoder_shape(), train);
        let embedding = self.embedding(self.pairs.previous, decoder.embedding_site(), train);
        exec.embed(embedding, decoder.input());
        let memory = Some((self.results.encoded, self.pairs.source_len));
        decoder.forward(exec, self.pairs.target_len, memory, None);
        let tied = Linear {
            w: self.net.params.value(TABLE),
            b: None,
        };
        let output = decoder.output();
        exec.linear(output, tied, Act::None, None, self.results.logits);
    }

    /// The loss of `logits`, which become their gradient.
    pub fn loss(&self, exec: &mut dyn Sequence, smoothing: f32, record: bool) {
        let Results {
            logits,
            token_loss,
            loss,
            right,
            ..
        } = self.results;
        let spec = SentenceLoss {
            logits,
            labels: self.pairs.target,
            offsets: self.pairs.offsets,
            weights: self.pairs.weights,
            smoothing,
            dlogits: logits,
            token_loss,
            loss,
            right,
        };
        exec.sentence_xent(spec, record);
    }

    /// From the gradient in `logits` those of all parameters; the ranks' mean of them is under way.
    pub fn backward(&self, exec: &mut dyn Sequence) {
        let (net, params) = (self.net, &self.net.params);
        let (table, dtable) = (params.value(TABLE), params.grad(TABLE));
        let decoder = net.decoder.at(self.decoder_shape(), true);
        let encoder = net.encoder.at(self.encoder_shape(), true);
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
        exec.linear_backward(output, table, self.results.logits, grad, Some(dx));
        let memory = Some((self.results.encoded, self.pairs.source_len));
        decoder.backward(
            exec,
            self.pairs.target_len,
            memory,
            Some(encoder.gradient()),
        );
        let mut reduced = params.reduced.len();
        let mut reduce = |exec: &mut dyn Sequence, first: Option<Tensor>| {
            if let Some(grad) = first {
                exec.all_reduce(params.reduced_from(grad, &mut reduced));
            }
        };
        reduce(exec, params.first_grad("decoder."));
        let embedding = self.embedding(self.pairs.previous, decoder.embedding_site(), true);
        exec.embed_backward(embedding, decoder.gradient(), dtable);
        encoder.backward(exec, self.pairs.source_len, None, None);
        reduce(exec, params.first_grad("encoder.layer"));
        let embedding = self.embedding(self.pairs.source, encoder.embedding_site(), true);
        exec.embed_backward(embedding, encoder.gradient(), dtable);
        reduce(exec, Some(dtable));
    }

    /// A training step: batch, forward, loss with records, backward, clipping, update.
    pub fn train_step(&self, exec: &mut dyn Sequence, data: DataId, spec: TrainSpec) {
        exec.gather_pairs(data, self.pairs);
        self.encode(exec, true);
        self.decode(exec, true);
        self.loss(exec, spec.smoothing, true);
        self.backward(exec);
        exec.share_results();
        self.update(exec, spec);
    }

    /// A step of evaluation: batch, forward without dropout, and the loss.
    pub fn eval_step(&self, exec: &mut dyn Sequence, data: DataId) {
        exec.gather_pairs(data, self.pairs);
        self.encode(exec, false);
        self.decode(exec, false);
        self.loss(exec, 0.0, false);
    }

    /// Clipping, then Adam.
    pub fn update(&self, exec: &mut dyn Sequence, spec: TrainSpec) {
        let net = self.net;
        let Params {
            values,
            grads,
            momentum,
            ..
        } = net.params;
        exec.clip_scale(grads, spec.clip, net.scale);
        let moments = [momentum, net.second_moment];
        exec.adam(values, grads, moments, spec.adam, Some(net.scale));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(config.train_ops(shape), 7 * 6 * sentence);
    }
}
