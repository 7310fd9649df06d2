//! The encoder: convolutions to both sides, and of the last one's output keys, and values that have
//! the embeddings in them.

use super::layers::{Conv, Normed, Tables, wide};
use crate::backend::convolutional::{Convolutional, GluConv, HALF};
use crate::backend::sequence::Sequence;
use crate::backend::{Kind, Tensor};
use crate::nn::convs2s::ConvS2SConfig;
use crate::nn::network::{Bound, part};
use crate::nn::params::Params;

/// Its layers, with activations for as many tokens as the largest batch has.
pub(super) struct Encoder {
    tables: Tables,
    first: Normed,
    convs: Vec<Conv>,
    last: Normed,
    embedded: Tensor,
    /// Of the last convolution.
    out: Tensor,
    /// Of what is added to a wider layer.
    projected: Tensor,
    pub keys: Tensor,
    pub values: Tensor,
    /// Gradients of keys and values, which decoders add to.
    pub dkeys: Tensor,
    pub dvalues: Tensor,
    /// Of the layers' outputs.
    d: [Tensor; 2],
    /// Of keys and values, so that many attentions move it no more than one.
    gradient: f32,
}

impl Encoder {
    /// Number of its sites of dropout.
    pub fn sites(config: &ConvS2SConfig) -> u32 {
        1 + config.encoder.len() as u32
    }

    pub fn new(
        exec: &mut dyn Sequence,
        config: &ConvS2SConfig,
        params: &Params,
        tokens: usize,
    ) -> Encoder {
        let convs = (0..config.encoder.len())
            .map(|i| Conv::new(exec, params, "encoder", i, 1, tokens))
            .collect();
        let [first, last] =
            ["encoder.fc1", "encoder.fc2"].map(|name| Normed::new(exec, params, name));
        let mut rows = |width| exec.alloc(Kind::Activation, [1, 1, tokens, width]);
        let mut widths = config.encoder.iter().map(|[width, _]| *width);
        let (widest, embed) = (widths.clone().max().expect("a layer"), config.embed);
        Encoder {
            tables: Tables::new(params, "encoder", 0),
            first,
            convs,
            last,
            embedded: rows(embed),
            out: rows(widths.next_back().expect("a layer")),
            projected: rows(widest),
            keys: rows(embed),
            values: rows(embed),
            dkeys: rows(embed),
            dvalues: rows(embed),
            d: [rows(widest), rows(widest)],
            gradient: 1.0 / (2.0 * config.decoder.len() as f32),
        }
    }

    pub fn layers(&self) -> impl Iterator<Item = Normed> {
        let convs = self.convs.iter().flat_map(Conv::layers);
        [self.first, self.last].into_iter().chain(convs)
    }

    /// Where layer `i` leaves its output.
    fn output(&self, i: usize, rows: [usize; 2]) -> Tensor {
        part(self.convs.get(i + 1).map_or(self.out, |next| next.x), rows)
    }

    fn conv(&self, i: usize, at: &Bound, p: f32) -> GluConv {
        let rows = rows_of(at);
        GluConv {
            lengths: Some(at.pairs.source_len),
            ..self.convs[i].at(rows, p, self.output(i, rows))
        }
    }

    /// Sources to keys and values.
    pub fn forward(&self, exec: &mut dyn Convolutional, at: &Bound, p: f32) {
        self.layers().for_each(|layer| layer.renew(exec));
        let rows = rows_of(at);
        let embedded = part(self.embedded, rows);
        exec.embed(self.tables.embedding(at.pairs.source, 0, p), embedded);
        self.first
            .forward(exec, embedded, part(self.convs[0].x, rows));
        for (i, own) in self.convs.iter().enumerate() {
            let residual = Some(own.residual(exec, rows, self.projected));
            exec.glu_conv(GluConv {
                residual,
                ..self.conv(i, at, p)
            });
        }
        let [keys, values] = [self.keys, self.values].map(|t| part(t, rows));
        self.last.forward(exec, part(self.out, rows), keys);
        exec.add_scaled(keys, Some(embedded), HALF, values);
    }

    /// From the gradients of keys and values those of the layers.
    pub fn backward(&self, exec: &mut dyn Convolutional, at: &Bound, p: f32, scratch: Tensor) {
        let rows = rows_of(at);
        let [embedded, dkeys, dvalues] =
            [self.embedded, self.dkeys, self.dvalues].map(|t| part(t, rows));
        // That of the embeddings' part in the values, too.
        exec.add_scaled(dvalues, None, HALF, dvalues);
        exec.add_scaled(dkeys, Some(dvalues), self.gradient, dkeys);
        let out = part(self.out, rows);
        let mut d = self.d;
        let dout = wide(d[0], rows, out.dims[3]);
        self.last
            .backward(exec, [out, dkeys], (dout, false), scratch);
        for (i, own) in self.convs.iter().enumerate().rev() {
            let dy = wide(d[0], rows, own.width);
            exec.add_scaled(dy, None, HALF, dy);
            own.backward(exec, self.conv(i, at, p), dy, &mut d, scratch);
        }
        let dfirst = wide(d[0], rows, self.convs[0].x.dims[3]);
        self.first
            .backward(exec, [embedded, dfirst], (dvalues, true), scratch);
    }

    /// After that, those of its tables.
    pub fn tables_backward(&self, exec: &mut dyn Convolutional, at: &Bound, p: f32) {
        let embedding = self.tables.embedding(at.pairs.source, 0, p);
        let dembedded = part(self.dvalues, rows_of(at));
        self.tables.backward(exec, embedding, dembedded);
    }
}

fn rows_of(at: &Bound) -> [usize; 2] {
    [at.shape.sentences, at.shape.source]
}
