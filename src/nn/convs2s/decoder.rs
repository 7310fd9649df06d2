//! The decoder: convolutions that see the past, with an attention after each; of all tokens at once
//! or one by one.

use super::dropped;
use super::layers::{Conv, Normed, Tables, drop_in_place, wide};
use crate::backend::convolutional::{
    Convolutional, GluConv, HALF, WideAttention, WideAttentionGrad,
};
use crate::backend::sequence::Sequence;
use crate::backend::{Kind, Tensor};
use crate::nn::convs2s::ConvS2SConfig;
use crate::nn::network::{Room, part};
use crate::nn::params::Params;

/// A convolution and its attention.
pub(super) struct Layer {
    pub conv: Conv,
    input: Normed,
    output: Normed,
    /// `[tokens, C]`: what the convolution gives.
    y: Tensor,
    q: Tensor,
    probabilities: Tensor,
    answers: Tensor,
}

/// Encoded sentences.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// `[1, B, S, E]`.
    pub keys: Tensor,
    /// `[1, B, S, E]`.
    pub values: Tensor,
    /// `[B]`.
    pub len: Tensor,
}

/// Previous tokens of `n·B` targets, of which n neighbours belong to each sentence.
#[derive(Clone, Copy)]
pub(super) struct Targets<'a> {
    /// `[1, 1, n·B, T]`.
    pub tokens: Tensor,
    /// Number of the first of each.
    pub place: usize,
    /// What each layer has read before them; nothing at a sentence's beginning.
    pub before: &'a [Option<Tensor>],
    /// Dropout.
    pub p: f32,
}

impl Targets<'_> {
    fn rows(&self) -> [usize; 2] {
        let [_, _, rows, length] = self.tokens.dims;
        [rows, length]
    }
}

/// Its layers, with activations for as many tokens as the largest batch has.
pub(super) struct Decoder {
    tables: Tables,
    first: Normed,
    pub layers: Vec<Layer>,
    last: Normed,
    output: Normed,
    site: u32,
    embedded: Tensor,
    out: Tensor,
    narrow: Tensor,
    projected: Tensor,
    /// Gradients of embeddings, queries and answers, the output layer's input, what convolutions
    /// give and the layers' outputs.
    dembedded: Tensor,
    dq: Tensor,
    danswers: Tensor,
    dnarrow: Tensor,
    dy: Tensor,
    d: [Tensor; 2],
}

impl Decoder {
    /// Its sites of dropout are those from `site` on.
    pub fn new(
        exec: &mut dyn Sequence,
        config: &ConvS2SConfig,
        params: &Params,
        room: Room,
        site: u32,
    ) -> Decoder {
        let (tokens, embed) = (room.target, config.embed);
        let named = |exec: &mut dyn Sequence, name: &str| {
            Normed::new(exec, params, &format!("decoder.{name}"))
        };
        let mut layers = Vec::new();
        for (i, [width, _]) in config.decoder.iter().enumerate() {
            let conv = Conv::new(exec, params, "decoder", i, site + 1, tokens);
            let [input, output] = ["in", "out"]
                .map(|which| named(exec, &format!("attention.{i}.{which}_projection")));
            let mut rows = |width| exec.alloc(Kind::Activation, [1, 1, tokens, width]);
            layers.push(Layer {
                conv,
                input,
                output,
                y: rows(*width),
                q: rows(embed),
                probabilities: rows(room.places),
                answers: rows(embed),
            });
        }
        let [first, last, output] = ["fc1", "fc2", "fc3"].map(|name| named(exec, name));
        let mut rows = |width| exec.alloc(Kind::Activation, [1, 1, tokens, width]);
        let mut widths = config.decoder.iter().map(|[width, _]| *width);
        let widest = widths.clone().max().expect("a layer");
        Decoder {
            tables: Tables::new(params, "decoder", site),
            first,
            site: site + 1 + layers.len() as u32,
            layers,
            last,
            output,
            embedded: rows(embed),
            out: rows(widths.next_back().expect("a layer")),
            narrow: rows(config.output),
            projected: rows(widest),
            dembedded: rows(embed),
            dq: rows(embed),
            danswers: rows(embed),
            dnarrow: rows(config.output),
            dy: rows(widest),
            d: [rows(widest), rows(widest)],
        }
    }

    pub fn normed(&self) -> impl Iterator<Item = Normed> {
        let of_layer = |layer: &Layer| {
            let attention = [layer.input, layer.output];
            layer.conv.layers().chain(attention).collect::<Vec<_>>()
        };
        let ends = [self.first, self.last, self.output];
        ends.into_iter()
            .chain(self.layers.iter().flat_map(of_layer))
    }

    /// Makes weights of the present directions and lengths.
    pub fn renew(&self, exec: &mut dyn Convolutional) {
        self.normed().for_each(|layer| layer.renew(exec));
    }

    /// Where layer `i` leaves its output.
    fn output(&self, i: usize, rows: [usize; 2]) -> Tensor {
        let next = self.layers.get(i + 1);
        part(next.map_or(self.out, |next| next.conv.x), rows)
    }

    fn attention(&self, layer: &Layer, source: Source, [rows, t]: [usize; 2]) -> WideAttention {
        let [_, b, s, e] = source.keys.dims;
        // To their sentence, queries of neighbours are many of one.
        let queries = rows / b * t;
        let of_sentence = |tensor: Tensor| tensor.view(0, [1, b, queries, e]);
        WideAttention {
            q: of_sentence(layer.q),
            keys: source.keys,
            values: source.values,
            key_len: source.len,
            probabilities: layer.probabilities.view(0, [1, b, queries, s]),
            out: of_sentence(layer.answers),
        }
    }

    /// To the logits `[1, n·B, T, V]`.
    pub fn forward(
        &self,
        exec: &mut dyn Convolutional,
        source: Source,
        targets: Targets,
        logits: Tensor,
    ) {
        let (rows, p) = (targets.rows(), targets.p);
        let embedded = part(self.embedded, rows);
        let embedding = self.tables.embedding(targets.tokens, targets.place, p);
        exec.embed(embedding, embedded);
        let x = part(self.layers[0].conv.x, rows);
        self.first.forward(exec, embedded, x);
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, next) = (part(layer.y, rows), self.output(i, rows));
            exec.glu_conv(GluConv {
                before: targets.before.get(i).copied().flatten(),
                ..layer.conv.at(rows, p, y)
            });
            let [q, answers] = [layer.q, layer.answers].map(|t| part(t, rows));
            exec.linear_residual(y, layer.input.linear(), embedded, HALF, q);
            exec.wide_attention(self.attention(layer, source, rows));
            exec.linear_residual(answers, layer.output.linear(), y, HALF, next);
            let residual = layer.conv.residual(exec, rows, self.projected);
            exec.add_scaled(next, Some(residual), HALF, next);
        }
        let narrow = part(self.narrow, rows);
        self.last.forward(exec, part(self.out, rows), narrow);
        drop_in_place(exec, dropped(p, self.site), narrow);
        self.output.forward(exec, narrow, logits);
    }

    /// From the gradient of the logits those of all layers and tables; adds those of keys and values
    /// to `dsource`.
    pub fn backward(
        &self,
        exec: &mut dyn Convolutional,
        (source, dsource): (Source, Source),
        targets: Targets,
        dlogits: Tensor,
        scratch: Tensor,
    ) {
        let (rows, p) = (targets.rows(), targets.p);
        let [narrow, dnarrow] = [self.narrow, self.dnarrow].map(|t| part(t, rows));
        let [embedded, dembedded] = [self.embedded, self.dembedded].map(|t| part(t, rows));
        let [dq, danswers] = [self.dq, self.danswers].map(|t| part(t, rows));
        let mut d = self.d;
        self.output
            .backward(exec, [narrow, dlogits], (dnarrow, false), scratch);
        drop_in_place(exec, dropped(p, self.site), dnarrow);
        let out = part(self.out, rows);
        let dout = wide(d[0], rows, out.dims[3]);
        self.last
            .backward(exec, [out, dnarrow], (dout, false), scratch);
        exec.clear(dembedded);
        for layer in self.layers.iter().rev() {
            let (y, answers) = (part(layer.y, rows), part(layer.answers, rows));
            let [sum, dy] = [d[0], self.dy].map(|t| wide(t, rows, layer.conv.width));
            // Of the sum with the layer's input, then of that within the attention.
            exec.add_scaled(sum, None, HALF, sum);
            exec.add_scaled(sum, None, HALF, dy);
            layer
                .output
                .backward(exec, [answers, dy], (danswers, false), scratch);
            let attention = self.attention(layer, source, rows);
            let grad = WideAttentionGrad {
                dout: danswers.view(0, attention.out.dims),
                dq: dq.view(0, attention.q.dims),
                dkeys: dsource.keys,
                dvalues: dsource.values,
            };
            exec.wide_attention_backward(attention, grad);
            exec.add_scaled(dq, None, HALF, dq);
            exec.add_scaled(dembedded, Some(dq), 1.0, dembedded);
            layer.input.backward(exec, [y, dq], (dy, true), scratch);
            let conv = layer.conv.at(rows, p, y);
            layer.conv.backward(exec, conv, dy, &mut d, scratch);
        }
        let dfirst = wide(d[0], rows, self.layers[0].conv.x.dims[3]);
        self.first
            .backward(exec, [embedded, dfirst], (dembedded, true), scratch);
        let embedding = self.tables.embedding(targets.tokens, targets.place, p);
        self.tables.backward(exec, embedding, dembedded);
    }
}
