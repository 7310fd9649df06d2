//! The recurrent translator (Luong et al., 2015) as fairseq's `lstm` has it, with its parameter
//! names: an encoder in one direction, and a decoder with attention and input feeding.

mod config;
mod decoder;
mod decoding;

pub use config::LstmConfig;

use super::beam::Decoding;
use super::network::{Bound, Built, Layers, Room, TABLE, part};
use super::params::{Init, ParamList, Params};
use crate::backend::recurrent::{
    self, LstmCell, LstmDecoder, LstmDecoderGrad, LstmGrad, LuongGrad, Recurrent,
};
use crate::backend::sequence::{
    Act, Dropout, Embedding, Linear, LinearGrad, LinearInputGrad, Sequence,
};
use crate::backend::{Kind, Tensor};
use decoder::{Decoder, Layer};
use decoding::LastStates;
use std::sync::Arc;

const DECODER_TABLE: &str = "decoder.embed_tokens.weight";
const NARROW: &str = "decoder.additional_fc";
const OUTPUT: &str = "decoder.fc_out";
const ATTENTION: [&str; 2] = [
    "decoder.attention.input_proj.weight",
    "decoder.attention.output_proj.weight",
];

/// Name of a layer's tensor: of PyTorch's module in the encoder, of cells in the decoder.
fn name_of(stack: &str, part: &str, layer: usize) -> String {
    match stack {
        "encoder" => format!("encoder.lstm.{part}_l{layer}"),
        _ => format!("decoder.layers.{layer}.{part}"),
    }
}

/// Values and gradients of a layer.
fn cells(params: &Params, stack: &str, layer: usize) -> [LstmCell; 2] {
    let both = |part| params.both(&name_of(stack, part, layer));
    let [w_ih, w_hh] = [both("weight_ih"), both("weight_hh")];
    let [b_ih, b_hh] = [both("bias_ih"), both("bias_hh")];
    [0, 1].map(|i| LstmCell {
        w_ih: w_ih[i],
        w_hh: w_hh[i],
        b_ih: b_ih[i],
        b_hh: b_hh[i],
    })
}

/// A layer of the encoder.
struct EncoderLayer {
    /// Value and gradient.
    cell: [LstmCell; 2],
    gates: Tensor,
    cells: Tensor,
    out: Tensor,
    /// `out` after dropout, which the layer above or the decoder reads, if there is any.
    dropped: Option<Tensor>,
}

/// The layers on an executor.
pub(super) struct Lstm {
    dropout: [f32; 4],
    /// Value and gradient.
    table: [Tensor; 2],
    decoder_table: [Tensor; 2],
    encoder: Vec<EncoderLayer>,
    embedded: Tensor,
    /// `[N, B, H]`: h and c with which the encoder ends and the decoder begins, and their gradients.
    start: [Tensor; 2],
    dstart: [Tensor; 2],
    decoder: Arc<Decoder>,
    cell_grads: Vec<LstmCell>,
    luong_grads: [Tensor; 2],
    /// Gradients of the memory and what is below it, of the source's embeddings, of the decoder's
    /// output and inputs, and of what the output layer reads.
    dmemory: [Tensor; 2],
    dembedded: Tensor,
    dout: Tensor,
    dx: Tensor,
    dnarrow: Option<Tensor>,
}

/// The ops.
fn ops(exec: &mut dyn Sequence) -> &mut dyn Recurrent {
    exec.recurrent().expect("who makes a network has asked")
}

impl Lstm {
    pub fn declare(list: &mut ParamList, config: &LstmConfig) {
        let LstmConfig {
            vocab,
            embed,
            hidden,
            output,
            layers,
            ..
        } = *config;
        // All of them, as fairseq has it.
        const BOUND: f32 = 0.1;
        let (uniform, table) = (Init::Uniform(BOUND), Init::UniformTable(BOUND));
        assert!(!config.shared || embed == output, "one table is as wide");
        list.tensor(TABLE, Some(vocab), embed, table);
        for stack in ["encoder", "decoder"] {
            if stack == "decoder" && !config.shared {
                list.tensor(DECODER_TABLE, Some(vocab), embed, table);
            }
            for layer in 0..layers {
                let feed = if stack == "decoder" { hidden } else { 0 };
                let inputs = if layer == 0 { embed + feed } else { hidden };
                let mut add = |part, rows, cols| {
                    list.tensor(&name_of(stack, part, layer), rows, cols, uniform);
                };
                add("weight_ih", Some(4 * hidden), inputs);
                add("weight_hh", Some(4 * hidden), hidden);
                add("bias_ih", None, 4 * hidden);
                add("bias_hh", None, 4 * hidden);
            }
        }
        list.tensor(ATTENTION[0], Some(hidden), hidden, uniform);
        list.tensor(ATTENTION[1], Some(hidden), 2 * hidden, uniform);
        let mut linear = |name: &str, rows, cols| {
            list.tensor(&format!("{name}.weight"), Some(rows), cols, uniform);
            list.tensor(&format!("{name}.bias"), None, rows, uniform);
        };
        if output != hidden {
            linear(NARROW, output, hidden);
        }
        if !config.shared {
            linear(OUTPUT, vocab, output);
        }
    }

    /// Allocates activations.
    pub fn build(
        exec: &mut dyn Sequence,
        config: &LstmConfig,
        params: &Params,
        room: Room,
    ) -> Built {
        let LstmConfig {
            embed,
            hidden: h,
            output,
            layers: n,
            ..
        } = *config;
        let (source, target) = (room.source, room.target);
        let mut rows =
            |rows: usize, width: usize| exec.alloc(Kind::Activation, [1, 1, rows, width]);
        let encoder = (0..n).map(|layer| EncoderLayer {
            cell: cells(params, "encoder", layer),
            gates: rows(source, 4 * h),
            cells: rows(source, h),
            out: rows(source, h),
            dropped: (config.dropout[1] > 0.0).then(|| rows(source, h)),
        });
        let encoder: Vec<EncoderLayer> = encoder.collect();
        let encoded = encoder.last().expect("a layer").out;
        let table = params.both(TABLE);
        let decoder_table = match config.shared {
            true => table,
            false => params.both(DECODER_TABLE),
        };
        let tied = Layer {
            value: Linear {
                w: table[0],
                b: None,
            },
            grad: LinearGrad {
                dw: table[1],
                db: None,
                accumulate: false,
            },
        };
        let [w_in, w_out] = ATTENTION.map(|name| params.both(name));
        let decoder_cells = (0..n).map(|layer| cells(params, "decoder", layer));
        let (values, cell_grads) = decoder_cells.map(|[value, grad]| (value, grad)).unzip();
        let narrows = output != h;
        let decoder = Decoder {
            cells: values,
            attention: [w_in[0], w_out[0]],
            keys: rows(source, h),
            values: rows(source, h),
            table: decoder_table[0],
            narrow: narrows.then(|| (Layer::new(params, NARROW), rows(target, output))),
            output: if config.shared {
                tied
            } else {
                Layer::new(params, OUTPUT)
            },
            x: rows(target, embed),
            out: rows(target, h),
            probabilities: rows(target, room.places),
            gates: rows(n * target, 4 * h),
            cell_states: rows(n * target, h),
            hidden: rows(n * target, h),
            // Hypotheses are many more than sentences, but each is a token.
            last: [rows(n * target, h), rows(n * target, h)],
        };
        let states = n * room.sentences;
        let layers = Lstm {
            dropout: config.dropout,
            table,
            decoder_table,
            encoder,
            embedded: rows(source, embed),
            start: [rows(states, h), rows(states, h)],
            dstart: [rows(states, h), rows(states, h)],
            decoder: Arc::new(decoder),
            cell_grads,
            luong_grads: [w_in[1], w_out[1]],
            dmemory: [rows(source, h), rows(source, h)],
            dembedded: rows(source, embed),
            dout: rows(target, h),
            dx: rows(target, embed),
            dnarrow: narrows.then(|| rows(target, output)),
        };
        Built {
            encoded,
            logits: rows(target, config.vocab),
            layers: Box::new(layers),
        }
    }

    /// At one of the network's sites: the embeddings and N layers of the encoder, then those of the
    /// decoder, then its output.
    fn site(&self, which: usize, number: usize, train: bool) -> Option<Dropout> {
        let p = self.dropout[which];
        let before = if which < 2 { 0 } else { 1 + self.encoder.len() };
        let site = (before + number) as u32;
        (train && p > 0.0).then_some(Dropout { p, site })
    }

    fn source_embedding(&self, at: &Bound, train: bool) -> Embedding {
        Embedding {
            tokens: at.pairs.source,
            table: self.table[0],
            dropout: self.site(0, 0, train),
            ..self.decoder.embedding(at.pairs.source)
        }
    }

    fn target_embedding(&self, at: &Bound, train: bool) -> Embedding {
        Embedding {
            dropout: self.site(2, 0, train),
            ..self.decoder.embedding(at.pairs.previous)
        }
    }

    /// A layer of the encoder on the batch: op, input, and what others read of its output.
    fn encoder_layer(
        &self,
        at: &Bound,
        layer: usize,
        train: bool,
    ) -> (recurrent::Lstm, Tensor, Tensor) {
        let rows = [at.shape.sentences, at.shape.source];
        let own = &self.encoder[layer];
        let read = |layer: usize| {
            let own = &self.encoder[layer];
            let dropped = own.dropped.filter(|_| train && self.dropout[1] > 0.0);
            part(dropped.unwrap_or(own.out), rows)
        };
        let input = match layer {
            0 => part(self.embedded, rows),
            layer => read(layer - 1),
        };
        let lstm = recurrent::Lstm {
            w_hh: own.cell[0].w_hh,
            b_hh: own.cell[0].b_hh,
            lengths: at.pairs.source_len,
            gates: part(own.gates, rows),
            cells: part(own.cells, rows),
            out: part(own.out, rows),
            last: self.state_of(self.start, at, layer),
        };
        (lstm, input, read(layer))
    }

    /// A layer's h and c of states `[N, B, H]`.
    fn state_of(&self, states: [Tensor; 2], at: &Bound, layer: usize) -> [Tensor; 2] {
        let b = at.shape.sentences;
        states.map(|t| t.view(layer * b * t.dims[3], [1, 1, b, t.dims[3]]))
    }

    fn decoder_at(&self, at: &Bound, train: bool) -> LstmDecoder<'_> {
        let (b, n) = (at.shape.sentences, self.encoder.len());
        let (_, _, memory) = self.encoder_layer(at, n - 1, train);
        let luong = self.decoder.luong(memory, at.pairs.source_len);
        let rows = [b, at.shape.target];
        let start = self.start.map(|t| t.view(0, [1, n, b, t.dims[3]]));
        LstmDecoder {
            dropout: self.site(3, 1, train),
            ..self.decoder.at(luong, rows, at.pairs.target_len, start)
        }
    }
}

impl Layers for Lstm {
    fn encode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        let exec = ops(exec);
        let embedded = part(self.embedded, [at.shape.sentences, at.shape.source]);
        exec.embed(self.source_embedding(at, train), embedded);
        for (layer, own) in self.encoder.iter().enumerate() {
            let (lstm, input, read) = self.encoder_layer(at, layer, train);
            let of_input = Linear {
                w: own.cell[0].w_ih,
                b: Some(own.cell[0].b_ih),
            };
            exec.linear(input, of_input, Act::None, None, lstm.gates);
            exec.lstm(lstm);
            if let Some(dropout) = self.site(1, 1 + layer, train) {
                exec.drop_out(lstm.out, dropout, read);
            }
        }
    }

    fn decode(&self, exec: &mut dyn Sequence, at: &Bound, train: bool) {
        let exec = ops(exec);
        let decoder = self.decoder_at(at, train);
        exec.embed(self.target_embedding(at, train), decoder.x);
        exec.luong_memory(decoder.luong);
        exec.lstm_decoder(decoder);
        let dropout = self.site(3, 1 + self.encoder.len(), train);
        let out = decoder.query.out;
        self.decoder.logits(exec, out, dropout, at.results.logits);
    }

    fn backward(&self, exec: &mut dyn Sequence, at: &Bound) {
        let exec = ops(exec);
        let params = &at.net.params;
        let (own, n) = (&*self.decoder, self.encoder.len());
        let [source, target] =
            [at.shape.source, at.shape.target].map(|length| [at.shape.sentences, length]);
        let into = |dx: Tensor| {
            Some(LinearInputGrad {
                dx,
                through: None,
                accumulate: false,
            })
        };
        let decoder = self.decoder_at(at, true);
        let (out, dout) = (decoder.query.out, part(self.dout, target));
        let mut backward = |layer: &Layer, x: Tensor, dz: Tensor, dx: Tensor| {
            exec.linear_backward(x, layer.value.w, dz, layer.grad, into(dx));
        };
        match (&own.narrow, self.dnarrow) {
            (Some((layer, narrow)), Some(dnarrow)) => {
                let [x, dx] = [*narrow, dnarrow].map(|t| part(t, target));
                backward(&own.output, x, at.results.logits, dx);
                if let Some(dropout) = self.site(3, 1 + n, true) {
                    exec.drop_out(dx, dropout, dx);
                }
                exec.linear_backward(out, layer.value.w, dx, layer.grad, into(dout));
            }
            _ => backward(&own.output, out, at.results.logits, dout),
        }
        let b = at.shape.sentences;
        let mut dmemory = self.dmemory.map(|t| part(t, source));
        let grad = LstmDecoderGrad {
            cells: &self.cell_grads,
            luong: LuongGrad {
                dmemory: dmemory[0],
                dw_in: self.luong_grads[0],
                dw_out: self.luong_grads[1],
            },
            dout,
            dx: part(self.dx, target),
            dstart: self.dstart.map(|t| t.view(0, [1, n, b, t.dims[3]])),
        };
        exec.lstm_decoder_backward(decoder, grad);
        // The output layer has set the gradient of a table that it shares.
        let shared = self.table == self.decoder_table;
        if !shared {
            exec.clear(self.decoder_table[1]);
            exec.clear(self.table[1]);
        }
        exec.embed_backward(
            self.target_embedding(at, true),
            grad.dx,
            self.decoder_table[1],
        );
        let mut reduced = params.reduced.len();
        let mut reduce = |exec: &mut dyn Recurrent, first: &str| {
            if let Some(grad) = params.first_grad(first) {
                exec.all_reduce(params.reduced_from(grad, &mut reduced));
            }
        };
        reduce(exec, "decoder.");
        for (layer, own) in self.encoder.iter().enumerate().rev() {
            if let Some(dropout) = self.site(1, 1 + layer, true) {
                exec.drop_out(dmemory[0], dropout, dmemory[0]);
            }
            let (lstm, input, _) = self.encoder_layer(at, layer, true);
            let [value, cell] = own.cell;
            let grad = LstmGrad {
                dout: dmemory[0],
                dlast: self.state_of(self.dstart, at, layer),
                dw_hh: cell.w_hh,
                db_hh: cell.b_hh,
            };
            exec.lstm_backward(lstm, grad);
            let of_input = LinearGrad {
                dw: cell.w_ih,
                db: Some(cell.b_ih),
                accumulate: false,
            };
            let below = match layer {
                0 => part(self.dembedded, source),
                _ => dmemory[1],
            };
            exec.linear_backward(input, value.w_ih, lstm.gates, of_input, into(below));
            dmemory.swap(0, 1);
        }
        reduce(exec, "encoder.lstm");
        let dembedded = part(self.dembedded, source);
        exec.embed_backward(self.source_embedding(at, true), dembedded, self.table[1]);
        reduce(exec, TABLE);
    }

    fn stop_dropout(&mut self) {
        self.dropout = [0.0; 4];
    }

    fn decoding(&self, exec: &mut dyn Sequence, rows: usize, _: usize) -> Box<dyn Decoding> {
        Box::new(LastStates::new(
            exec,
            self.decoder.clone(),
            self.start,
            rows,
        ))
    }
}
