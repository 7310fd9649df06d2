//! Decoding token by token: all that is kept of the past are the states.

use super::decoder::Decoder;
use super::ops;
use crate::backend::recurrent::LstmDecoder;
use crate::backend::sequence::{Heads, Sequence};
use crate::backend::{DeviceError, Kind, Tensor};
use crate::nn::beam::{Decoding, Hypotheses};
use std::sync::Arc;

/// Last states of hypotheses.
pub(super) struct LastStates {
    decoder: Arc<Decoder>,
    /// Where the encoder leaves its own, `[N, B, H]`.
    encoded: [Tensor; 2],
    /// h and c of all layers, `[N, R, H]`, and the last answer, `[R, H]`.
    states: [Tensor; 2],
    feed: Tensor,
    /// `[R]`, all 1: each has one token at a time.
    ones: Tensor,
    /// `[N·R]`: rows that move, and where to.
    moves: [Tensor; 2],
}

impl LastStates {
    /// Of at most so many hypotheses.
    pub fn new(
        exec: &mut dyn Sequence,
        decoder: Arc<Decoder>,
        encoded: [Tensor; 2],
        rows: usize,
    ) -> LastStates {
        let (n, h) = (decoder.cells.len(), encoded[0].dims[3]);
        let mut floats = |rows| exec.alloc(Kind::Activation, [1, 1, rows, h]);
        let (states, feed) = ([floats(n * rows), floats(n * rows)], floats(rows));
        let mut labels = |len| exec.alloc(Kind::Label, [1, 1, 1, len]);
        LastStates {
            decoder,
            encoded,
            states,
            feed,
            ones: labels(rows),
            moves: [labels(n * rows), labels(n * rows)],
        }
    }

    fn at(&self, all: Hypotheses) -> LstmDecoder<'_> {
        let (rows, n) = (all.rows(), self.decoder.cells.len());
        let at = all.bound;
        let luong = self.decoder.luong(at.results.encoded, at.pairs.source_len);
        let ones = self.ones.view(0, [1, 1, 1, rows]);
        let start = self.states.map(|t| t.view(0, [1, n, rows, t.dims[3]]));
        self.decoder.at(luong, [rows, 1], ones, start)
    }

    /// Writes which rows of each layer's `from` rows the hypotheses have.
    fn write_moves(
        &self,
        exec: &mut dyn Sequence,
        from: usize,
        sources: &[usize],
    ) -> Result<[Tensor; 2], DeviceError> {
        let layers = 0..self.decoder.cells.len();
        let list = layers.flat_map(|n| sources.iter().map(move |row| (n * from + row) as i32));
        let list: Vec<i32> = list.collect();
        let numbers: Vec<i32> = (0..list.len() as i32).collect();
        let moves = self.moves.map(|t| t.view(0, [1, 1, 1, list.len()]));
        exec.write_labels(moves[0], &list)?;
        exec.write_labels(moves[1], &numbers)?;
        Ok(moves)
    }
}

impl Decoding for LastStates {
    /// All hypotheses of a sentence begin where its encoder ended.
    fn begin(&mut self, exec: &mut dyn Sequence, all: Hypotheses) -> Result<(), DeviceError> {
        let rows = all.rows();
        let ones = self.ones.view(0, [1, 1, 1, rows]);
        exec.write_labels(ones, &vec![1; rows])?;
        let sentences: Vec<usize> = (0..rows).map(|r| r / all.beams).collect();
        let moves = self.write_moves(exec, all.bound.shape.sentences, &sentences)?;
        for (t, to) in self.encoded.into_iter().zip(self.states) {
            exec.move_rows(Heads { t, first: 0 }, moves[0], to, moves[1]);
        }
        ops(exec).luong_memory(self.at(all).luong);
        Ok(())
    }

    fn step(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        place: usize,
        tokens: Tensor,
    ) -> Result<Tensor, DeviceError> {
        let exec = ops(exec);
        let decoder = LstmDecoder {
            feed: (place > 0).then_some(self.feed),
            ..self.at(all)
        };
        exec.embed(self.decoder.embedding(tokens), decoder.x);
        exec.lstm_decoder(decoder);
        let logits = all.bound.logits_of(all.rows());
        self.decoder.logits(exec, decoder.query.out, None, logits);
        Ok(logits)
    }

    fn follow(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        _: usize,
        parents: &[usize],
    ) -> Result<(), DeviceError> {
        let moves = self.write_moves(exec, all.rows(), parents)?;
        let decoder = self.at(all);
        for (t, to) in decoder.last.into_iter().zip(self.states) {
            exec.move_rows(Heads { t, first: 0 }, moves[0], to, moves[1]);
        }
        // The answers have one layer.
        let [source, target] = moves.map(|t| t.view(0, [1, 1, 1, parents.len()]));
        let t = decoder.query.out;
        exec.move_rows(Heads { t, first: 0 }, source, self.feed, target);
        Ok(())
    }
}
