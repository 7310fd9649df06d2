//! The convolutional translator (Gehring et al., 2017) as fairseq's `fconv` has it, with its
//! parameter names: gated convolutions in both stacks, and an attention in each layer of the decoder.

mod config;
mod decoder;
mod decoding;
mod encoder;
mod layers;

pub use config::ConvS2SConfig;

use super::beam::Decoding;
use super::network::{Bound, Built, Layers, Room, TABLE, part};
use super::params::{Init, ParamList, Params};
use crate::backend::convolutional::Convolutional;
use crate::backend::sequence::{Dropout, Sequence};
use crate::backend::{Kind, Tensor};
use decoder::{Decoder, Source, Targets};
use decoding::LastInputs;
use encoder::Encoder;
use std::sync::Arc;

/// Of all tables (fairseq).
const TABLE_STD: f32 = 0.1;
/// Files without this number are taken by fairseq for ones whose weights are normalised otherwise.
const VERSION: (&str, f32) = ("decoder.version", 2.0);

/// The layers on an executor.
pub(super) struct ConvS2S {
    dropout: f32,
    encoder: Encoder,
    decoder: Arc<Decoder>,
    /// For the gradient of any layer's weights.
    scratch: Tensor,
}

/// The ops.
fn ops(exec: &mut dyn Sequence) -> &mut dyn Convolutional {
    exec.convolutional().expect("who makes a network has asked")
}

/// Dropout at a site, if there is any.
fn dropped(p: f32, site: u32) -> Option<Dropout> {
    (p > 0.0).then_some(Dropout { p, site })
}

impl ConvS2S {
    pub fn declare(list: &mut ParamList, config: &ConvS2SConfig) {
        let (embed, kept) = (config.embed, 1.0 - config.dropout);
        let table = Init::NormalTable(TABLE_STD);
        for (stack, convs) in [("encoder", &config.encoder), ("decoder", &config.decoder)] {
            let name = |part: &str| format!("{stack}.{part}");
            let mut tables = |part, rows| {
                let name = format!("{stack}.{part}.weight");
                list.tensor(&name, Some(rows), embed, table);
            };
            tables("embed_tokens", config.vocab);
            tables("embed_positions", config.places);
            // What was dropped out before is as much larger.
            let mut inputs = convs[0][0];
            list.normed_linear(&name("fc1"), inputs, embed, kept);
            for (i, [width, kernel]) in convs.iter().enumerate() {
                if *width != inputs {
                    let name = name(&format!("projections.{i}"));
                    list.normed_linear(&name, *width, inputs, 1.0);
                }
                let own = name(&format!("convolutions.{i}"));
                list.normed_conv(&own, 2 * width, *kernel, inputs, 4.0 * kept);
                if stack == "decoder" {
                    let own = |which| name(&format!("attention.{i}.{which}_projection"));
                    list.normed_linear(&own("in"), embed, *width, 1.0);
                    list.normed_linear(&own("out"), *width, embed, 1.0);
                }
                inputs = *width;
            }
            if stack == "encoder" {
                list.normed_linear(&name("fc2"), embed, inputs, 1.0);
            } else {
                list.normed_linear(&name("fc2"), config.output, inputs, 1.0);
                list.normed_linear(&name("fc3"), config.vocab, config.output, kept);
            }
        }
        list.constant(VERSION.0, VERSION.1);
    }

    /// Allocates activations.
    pub fn build(
        exec: &mut dyn Sequence,
        config: &ConvS2SConfig,
        params: &Params,
        room: Room,
    ) -> Built {
        let encoder = Encoder::new(exec, config, params, room.source);
        let decoder = Decoder::new(exec, config, params, room, Encoder::sites(config));
        let weights = encoder.layers().chain(decoder.normed());
        let largest = weights.map(|layer| layer.len()).max().expect("layers");
        Built {
            encoded: encoder.keys,
            logits: exec.alloc(Kind::Activation, [1, 1, room.target, config.vocab]),
            layers: Box::new(ConvS2S {
                dropout: config.dropout,
                encoder,
                decoder: Arc::new(decoder),
                scratch: exec.alloc(Kind::Float, [1, 1, 1, largest]),
            }),
        }
    }

    fn rate(&self, train: bool) -> f32 {
        if train { self.dropout } else { 0.0 }
    }

    /// Keys and values, or their gradients.
    fn source(&self, at: &Bound, [keys, values]: [Tensor; 2]) -> Source {
        let rows = [at.shape.sentences, at.shape.source];
        Source {
            keys: part(keys, rows),
            values: part(values, rows),
            len: at.pairs.source_len,
        }
    }

    fn encoded(&self, at: &Bound) -> Source {
        self.source(at, [self.encoder.keys, self.encoder.values])
    }
}

/// The batch's.
fn targets(at: &Bound, p: f32) -> Targets<'static> {
    Targets {
        tokens: at.pairs.previous,
        place: 0,
        before: &[],
        p,
    }
}

impl Layers for ConvS2S {
    fn encode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        self.encoder.forward(ops(exec), at, self.rate(train));
    }

    fn decode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        let exec = ops(exec);
        self.decoder.renew(exec);
        let targets = targets(at, self.rate(train));
        self.decoder
            .forward(exec, self.encoded(at), targets, at.results.logits);
    }

    fn backward(&self, exec: &mut dyn Sequence, at: &Bound) {
        let exec = ops(exec);
        let (p, params) = (self.dropout, &at.net.params);
        let dsource = self.source(at, [self.encoder.dkeys, self.encoder.dvalues]);
        exec.clear(dsource.keys);
        exec.clear(dsource.values);
        let sources = (self.encoded(at), dsource);
        let dlogits = at.results.logits;
        self.decoder
            .backward(exec, sources, targets(at, p), dlogits, self.scratch);
        let mut reduced = params.reduced.len();
        let mut reduce = |exec: &mut dyn Convolutional, first: &str| {
            if let Some(grad) = params.first_grad(first) {
                exec.all_reduce(params.reduced_from(grad, &mut reduced));
            }
        };
        reduce(exec, "decoder.");
        self.encoder.backward(exec, at, p, self.scratch);
        reduce(exec, "encoder.fc1");
        self.encoder.tables_backward(exec, at, p);
        reduce(exec, TABLE);
    }

    fn stop_dropout(&mut self) {
        self.dropout = 0.0;
    }

    fn decoding(&self, exec: &mut dyn Sequence, rows: usize, _: usize) -> Box<dyn Decoding> {
        let (decoder, values) = (self.decoder.clone(), self.encoder.values);
        Box::new(LastInputs::new(exec, decoder, values, rows))
    }
}
