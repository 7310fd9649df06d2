//! A network that translates, on an executor: what is the same for all of them. What is not are
//! their [`Layers`].
//!
//! Activations are allocated once, for as many tokens as the largest batch has ([`Room`]); a step
//! of any padded shape that fits uses their beginnings ([`Network::bind`]), so that shapes cost no
//! memory of their own.

use super::beam::Decoding;
use super::convs2s::{ConvS2S, ConvS2SConfig};
use super::lstm::{Lstm, LstmConfig};
use super::params::{ParamList, Params};
use super::transformer::{Transformer, TransformerConfig};
use crate::backend::sequence::{Adam, PairBatch, SentenceLoss, Sequence};
use crate::backend::{DataId, DeviceError, Kind, Sgd, Tensor};
use crate::data::pairs::{PAD, PairShape};

/// What distinguishes one network from another.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkConfig {
    /// Attention alone.
    Transformer(TransformerConfig),
    /// Recurrences, and attention between them.
    Lstm(LstmConfig),
    /// Convolutions, and attention between them.
    ConvS2S(ConvS2SConfig),
}

impl From<TransformerConfig> for NetworkConfig {
    fn from(config: TransformerConfig) -> NetworkConfig {
        NetworkConfig::Transformer(config)
    }
}

impl From<LstmConfig> for NetworkConfig {
    fn from(config: LstmConfig) -> NetworkConfig {
        NetworkConfig::Lstm(config)
    }
}

impl From<ConvS2SConfig> for NetworkConfig {
    fn from(config: ConvS2SConfig) -> NetworkConfig {
        NetworkConfig::ConvS2S(config)
    }
}

impl NetworkConfig {
    /// Tokens of the vocabulary, the special ones included.
    pub fn vocab(&self) -> usize {
        match self {
            NetworkConfig::Transformer(config) => config.vocab,
            NetworkConfig::Lstm(config) => config.vocab,
            NetworkConfig::ConvS2S(config) => config.vocab,
        }
    }

    /// Operations (two a multiply-add) of a training step of this padded shape, from shapes: the
    /// products of weights and of attention, forward, and twice that backward. Masks save nothing;
    /// norms, softmax, embeddings and the optimiser are not counted.
    pub fn train_ops(&self, shape: PairShape) -> u64 {
        let [source, target] = [shape.source, shape.target].map(|n| n as u64);
        let sentence = match self {
            NetworkConfig::Transformer(config) => config.products(source, target),
            NetworkConfig::Lstm(config) => config.products(source, target),
            NetworkConfig::ConvS2S(config) => config.products(source, target),
        };
        3 * 2 * shape.sentences as u64 * sentence
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
    pub(super) fn fits(&self, shape: PairShape) -> bool {
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
    /// `[1, B, S, width]`: what the encoder makes of the sources.
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

/// What makes new parameters of gradients.
#[derive(Clone, Copy, Debug)]
pub enum Optimiser {
    /// Adam or AdamW.
    Adam(Adam),
    /// Momentum; with Nesterov's look-ahead and no decay fairseq's NAG.
    Sgd(Sgd),
}

/// How a network is trained, beside the learning rate that comes with each step.
#[derive(Clone, Copy, Debug)]
pub struct TrainSpec {
    /// Label smoothing ε.
    pub smoothing: f32,
    /// Largest norm of the gradient.
    pub clip: f32,
    /// The optimiser with its coefficients.
    pub optimiser: Optimiser,
}

/// What a network is made of between the tokens of a batch and the loss.
pub(super) trait Layers: Send {
    /// Sources to `encoded`.
    fn encode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool);
    /// `encoded` and previous tokens to `logits`.
    fn decode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool);
    /// From the gradient in `logits` those of all parameters; the ranks' mean of them is under way.
    fn backward(&self, exec: &mut dyn Sequence, at: &Bound);
    /// From now on nothing is dropped.
    fn stop_dropout(&mut self);
    /// Memory to decode so many hypotheses, of so many tokens together, one by one.
    fn decoding(&self, exec: &mut dyn Sequence, rows: usize, tokens: usize) -> Box<dyn Decoding>;
}

/// A network's layers with what they write that others read.
pub(super) struct Built {
    pub layers: Box<dyn Layers>,
    /// See [`Results`]; for all tokens there is room for.
    pub encoded: Tensor,
    pub logits: Tensor,
}

/// A network on an executor.
pub struct Network {
    /// What it is.
    pub config: NetworkConfig,
    /// Its parameters; `momentum` is Adam's first moment, or momentum.
    pub params: Params,
    /// Adam's second moment, as `params.values`.
    pub second_moment: Tensor,
    /// Factor by which the gradient is clipped, `[1]`.
    pub scale: Tensor,
    pub(super) room: Room,
    pub(super) layers: Box<dyn Layers>,
    pairs: PairBatch,
    results: Results,
}

/// The embedding of sources, and where it is the only one of all: `[vocab, d]`.
pub const TABLE: &str = "encoder.embed_tokens.weight";

/// The first place of a sentence has the number that fairseq gives it: one after padding's.
pub(super) const FIRST_PLACE: usize = PAD as usize + 1;

/// What of a tensor for all tokens a batch uses.
pub(super) fn part(t: Tensor, rows: [usize; 2]) -> Tensor {
    t.view(0, [1, rows[0], rows[1], t.dims[3]])
}

impl Network {
    /// Allocates parameters, and activations for batches that fit into `room`.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// Later, if the executor lacks the network's ops: a bug in the caller.
    pub fn new(
        exec: &mut dyn Sequence,
        config: impl Into<NetworkConfig>,
        room: impl Into<Room>,
    ) -> Result<Network, DeviceError> {
        let (config, room) = (config.into(), room.into());
        let mut list = ParamList::default();
        match &config {
            NetworkConfig::Transformer(config) => Transformer::declare(&mut list, config),
            NetworkConfig::Lstm(config) => Lstm::declare(&mut list, config),
            NetworkConfig::ConvS2S(config) => ConvS2S::declare(&mut list, config),
        }
        let params = list.allocate(exec);
        let second_moment = exec.alloc(Kind::Float, params.values.dims);
        let scale = exec.alloc(Kind::Float, [1, 1, 1, 1]);

        let Room {
            sentences: b,
            source,
            target,
            ..
        } = room;
        let mut labels = |dims| exec.alloc(Kind::Label, dims);
        let [source_tokens, previous, targets] =
            [source, target, target].map(|tokens| labels([1, 1, 1, tokens]));
        let [source_len, target_len] = [(); 2].map(|()| labels([1, 1, 1, b]));
        let offsets = labels([1, 1, 1, b + 1]);
        let mut floats = |dims| exec.alloc(Kind::Float, dims);
        let [weights, loss, right] = [(); 3].map(|()| floats([1, 1, 1, b]));
        let token_loss = floats([1, 1, 1, target]);
        let built = match &config {
            NetworkConfig::Transformer(config) => Transformer::build(exec, config, &params, room)?,
            NetworkConfig::Lstm(config) => Lstm::build(exec, config, &params, room),
            NetworkConfig::ConvS2S(config) => ConvS2S::build(exec, config, &params, room),
        };
        Ok(Network {
            params,
            second_moment,
            scale,
            room,
            layers: built.layers,
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
                encoded: built.encoded,
                logits: built.logits,
                token_loss,
                loss,
                right,
            },
            config,
        })
    }

    /// From now on nothing is dropped.
    pub fn stop_dropout(&mut self) {
        self.layers.stop_dropout();
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

/// A [`Network`] at a padded shape.
pub struct Bound<'a> {
    pub(super) net: &'a Network,
    /// The shape.
    pub shape: PairShape,
    /// What its steps read.
    pub pairs: PairBatch,
    /// What they write.
    pub results: Results,
}

impl Bound<'_> {
    /// `[1, R, 1, V]`: logits of one token each.
    pub(super) fn logits_of(&self, rows: usize) -> Tensor {
        part(self.net.results.logits, [rows, 1])
    }

    /// Sources to `encoded`.
    pub fn encode(&self, exec: &mut dyn Sequence, train: bool) {
        self.net.layers.encode(exec, self, train);
    }

    /// `encoded` and previous tokens to `logits`.
    pub fn decode(&self, exec: &mut dyn Sequence, train: bool) {
        self.net.layers.decode(exec, self, train);
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
        self.net.layers.backward(exec, self);
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

    /// Clipping, then the optimiser.
    pub fn update(&self, exec: &mut dyn Sequence, spec: TrainSpec) {
        let net = self.net;
        let Params {
            values,
            grads,
            momentum,
            ..
        } = net.params;
        exec.clip_scale(grads, spec.clip, net.scale);
        let scale = Some(net.scale);
        match spec.optimiser {
            Optimiser::Adam(adam) => {
                let moments = [momentum, net.second_moment];
                exec.adam(values, grads, moments, adam, scale);
            }
            Optimiser::Sgd(sgd) => exec.sgd(values, grads, momentum, sgd, scale),
        }
    }
}
