//! The CPU as a [`Recurrent`]: borrows tensors, calls kernels.

use super::dropout::Mask;
use super::lstm::{self, Answers, Cell, Decoder, Grads, Sequences, States};
use super::memory::Others;
use super::{Cpu, labels_of};
use crate::backend::Tensor;
use crate::backend::recurrent::{
    Lstm, LstmCell, LstmDecoder, LstmDecoderGrad, LstmGrad, Luong, LuongGrad, Query, Recurrent,
};

/// A layer as the kernels take it.
fn layer<'a>(memory: &'a Others, lstm: &Lstm, lengths: &'a [i32]) -> Sequences<'a> {
    let [_, _, length, width] = lstm.out.dims;
    Sequences {
        w_hh: memory.get(lstm.w_hh),
        b_hh: memory.get(lstm.b_hh),
        lengths,
        length,
        width,
    }
}

/// An attention as the kernels take it.
fn luong_of<'a>(memory: &'a Others, luong: &Luong, memory_len: &'a [i32]) -> lstm::Luong<'a> {
    let [_, _, s, e] = luong.memory.dims;
    lstm::Luong {
        w_in: memory.get(luong.w_in),
        w_out: memory.get(luong.w_out),
        memory: memory.get(luong.memory),
        memory_len,
        sizes: [s, e, luong.keys.dims[3], luong.values.dims[3]],
    }
}

/// A query as the kernels take it.
fn query_of<'a>(
    memory: &'a Others,
    luong: &Luong,
    query: &Query,
    [memory_len, lengths]: [&'a [i32]; 2],
    mask: Option<Mask>,
) -> lstm::Query<'a> {
    let [_, rows, length, h] = query.h.dims;
    assert!(rows.is_multiple_of(memory_len.len()) && rows == lengths.len());
    lstm::Query {
        keys: memory.get(luong.keys),
        values: memory.get(luong.values),
        memory_len,
        sizes: [luong.memory.dims[2], h, luong.values.dims[3]],
        shared: rows / memory_len.len(),
        first: 0,
        lengths,
        length,
        mask,
    }
}

/// A layer's parameters as the kernels take them.
fn cells_of<'a>(memory: &'a Others, cells: &[LstmCell]) -> Vec<Cell<'a>> {
    let cell = |cell: &LstmCell| Cell {
        w_ih: memory.get(cell.w_ih),
        w_hh: memory.get(cell.w_hh),
        b_ih: memory.get(cell.b_ih),
        b_hh: memory.get(cell.b_hh),
    };
    cells.iter().map(cell).collect()
}

impl Cpu {
    /// Runs `op` on a decoder as the kernels take it, with what it writes.
    fn decoder<const N: usize>(
        &mut self,
        d: &LstmDecoder,
        written: [Tensor; N],
        op: impl FnOnce(&Decoder, &Others, [&mut [f32]; N]),
    ) {
        let masks: Vec<Option<Mask>> = (0..d.cells.len())
            .map(|n| self.mask(d.dropout(n)))
            .collect();
        let (of_out, masks) = masks.split_last().expect("a layer");
        let lengths = [d.luong.memory_len, d.query.lengths].map(|t| labels_of(&self.labels, t));
        self.memory.write(written, |memory, out| {
            let decoder = Decoder {
                cells: &cells_of(memory, d.cells),
                luong: luong_of(memory, &d.luong, lengths[0]),
                query: query_of(memory, &d.luong, &d.query, lengths, *of_out),
                x: memory.get(d.x),
                inputs: d.x.dims[3],
                start: d.start.map(|t| memory.get(t)),
                feed: d.feed.map(|t| memory.get(t)),
                masks,
            };
            op(&decoder, memory, out);
        });
    }

    /// From the gradients of scores `ds` and of what goes into the tangent `dpre` those of all that
    /// the answers were made from.
    fn luong_params(&mut self, l: &Luong, query: &Query, ds: &[f32], dpre: Tensor, g: LuongGrad) {
        let isa = self.isa;
        let memory_len = labels_of(&self.labels, l.memory_len);
        let length = query.h.dims[2];
        self.memory
            .write([l.keys, l.values], |memory, [keys, values]| {
                let scores = [ds, memory.get(query.probabilities)];
                let queries = [memory.get(dpre), memory.get(query.h)];
                let luong = luong_of(memory, l, memory_len);
                luong.memory_backward(isa, length, scores, queries, keys, values);
            });
        let written = [g.dmemory, g.dw_in, g.dw_out];
        self.memory
            .write(written, |memory, [dmemory, dw_in, dw_out]| {
                let memories = [memory.get(l.keys), memory.get(l.values)];
                let queries = [memory.get(dpre), memory.get(query.h)];
                let luong = luong_of(memory, l, memory_len);
                luong.params_backward(isa, memories, queries, dmemory, dw_in, dw_out);
            });
    }
}

impl Recurrent for Cpu {
    fn lstm(&mut self, l: Lstm) {
        let isa = self.isa;
        let lengths = labels_of(&self.labels, l.lengths);
        let written = [l.gates, l.cells, l.out, l.last[0], l.last[1]];
        self.memory
            .write(written, |memory, [gates, cells, out, h, c]| {
                lstm::forward(isa, layer(memory, &l, lengths), gates, cells, out, [h, c]);
            });
    }

    fn lstm_backward(&mut self, l: Lstm, grad: LstmGrad) {
        self.advance();
        let isa = self.isa;
        let lengths = labels_of(&self.labels, l.lengths);
        let written = [l.gates, grad.dw_hh, grad.db_hh];
        self.memory.write(written, |memory, [gates, dw, db]| {
            let input = lstm::GradInput {
                cells: memory.get(l.cells),
                out: memory.get(l.out),
                dout: memory.get(grad.dout),
                dlast: grad.dlast.map(|t| memory.get(t)),
            };
            lstm::backward(isa, layer(memory, &l, lengths), input, gates, dw, db);
        });
    }

    fn luong_memory(&mut self, l: Luong) {
        let isa = self.isa;
        let memory_len = labels_of(&self.labels, l.memory_len);
        self.memory
            .write([l.keys, l.values], |memory, [keys, values]| {
                luong_of(memory, &l, memory_len).project(isa, keys, values);
            });
    }

    fn luong(&mut self, l: Luong, query: Query) {
        let isa = self.isa;
        let lengths = [l.memory_len, query.lengths].map(|t| labels_of(&self.labels, t));
        let written = [query.probabilities, query.out];
        self.memory.write(written, |memory, [probabilities, out]| {
            let w_h = luong_of(memory, &l, lengths[0]).forward_weights(isa);
            let asked = query_of(memory, &l, &query, lengths, None);
            let h = memory.get(query.h);
            (0..asked.length).for_each(|t| asked.ask(isa, &w_h, t, h, probabilities, out));
        });
    }

    fn luong_backward(
        &mut self,
        l: Luong,
        query: Query,
        dout: Tensor,
        dh: Tensor,
        grad: LuongGrad,
    ) {
        self.advance();
        let isa = self.isa;
        let lengths = [l.memory_len, query.lengths].map(|t| labels_of(&self.labels, t));
        let [_, rows, length, h] = query.h.dims;
        let mut ds = vec![0.0; query.probabilities.len()];
        self.memory.write([dout, dh], |memory, [dout, dh]| {
            let w_h = luong_of(memory, &l, lengths[0]).backward_weights(isa);
            let asked = query_of(memory, &l, &query, lengths, None);
            let mut step = vec![0.0; rows * h];
            for t in 0..length {
                let answers = Answers {
                    probabilities: memory.get(query.probabilities),
                    out: memory.get(query.out),
                    dout: &mut *dout,
                    ds: &mut ds,
                };
                asked.back(isa, &w_h, t, answers, &mut step);
                for (b, step) in step.chunks_exact(h).enumerate() {
                    dh[(b * length + t) * h..][..h].copy_from_slice(step);
                }
            }
        });
        self.luong_params(&l, &query, &ds, dout, grad);
    }

    fn lstm_decoder(&mut self, d: LstmDecoder) {
        let isa = self.isa;
        let Query {
            probabilities, out, ..
        } = d.query;
        let [h, c] = d.last;
        let written = [d.gates, d.cell_states, d.hidden, probabilities, out, h, c];
        self.decoder(&d, written, |decoder, _, out| {
            let [gates, cells, hidden, probabilities, out, h, c] = out;
            let states = States {
                gates,
                cells,
                hidden,
                probabilities,
                out,
                last: [h, c],
            };
            decoder.forward(isa, states);
        });
    }

    fn lstm_decoder_backward(&mut self, d: LstmDecoder, grad: LstmDecoderGrad) {
        self.advance();
        let isa = self.isa;
        let mut ds = vec![0.0; d.query.probabilities.len()];
        let written = [d.gates, grad.dout, grad.dstart[0], grad.dstart[1]];
        self.decoder(&d, written, |decoder, memory, [gates, dout, dh, dc]| {
            let grads = Grads {
                cells: memory.get(d.cell_states),
                probabilities: memory.get(d.query.probabilities),
                out: memory.get(d.query.out),
                gates,
                dout,
                ds: &mut ds,
                dstart: [dh, dc],
            };
            decoder.backward(isa, grads);
        });
        self.advance();
        self.luong_params(&d.luong, &d.query, &ds, grad.dout, grad.luong);
        self.decoder(&d, [grad.dx], |decoder, memory, [dx]| {
            decoder.inputs_backward(isa, memory.get(d.gates), dx);
        });
        for (n, cell) in grad.cells.iter().enumerate() {
            self.advance();
            let written = [cell.w_ih, cell.w_hh, cell.b_ih, cell.b_hh];
            self.decoder(&d, written, |decoder, memory, grads| {
                let made = [d.gates, d.hidden, d.query.out].map(|t| memory.get(t));
                decoder.cell_backward(isa, n, made, grads);
            });
        }
    }
}
