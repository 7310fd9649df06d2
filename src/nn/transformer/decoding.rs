//! Decoding token by token, with the keys and values of earlier tokens kept.

use super::inputs::{Past, Present, StackShape};
use super::stack::Stack;
use crate::backend::sequence::{Act, Embedding, Heads, Linear, Sequence};
use crate::backend::{DeviceError, Kind, Tensor};
use crate::data::pairs::PAD;
use crate::nn::beam::{Decoding, Hypotheses};
use std::sync::Arc;

/// Keys and values of the past.
pub(super) struct Caches {
    decoder: Arc<Stack>,
    table: Tensor,
    places: Tensor,
    /// Those in use, and those that they are moved to.
    caches: [Vec<Option<Tensor>>; 2],
    rows: Tensor,
    slots: Tensor,
    lengths: Tensor,
    moves: [Tensor; 2],
}

impl Caches {
    /// For so many hypotheses, of so many tokens together.
    pub fn new(
        exec: &mut dyn Sequence,
        decoder: Arc<Stack>,
        [table, places]: [Tensor; 2],
        [rows, tokens]: [usize; 2],
    ) -> Caches {
        let mut cache = |keeps: bool| {
            let dims = [1, 1, tokens, 2 * table.dims[3]];
            keeps.then(|| exec.alloc(Kind::Activation, dims))
        };
        let caches = [(); 2].map(|()| decoder.remembering().map(&mut cache).collect());
        let mut labels = |len| exec.alloc(Kind::Label, [1, 1, 1, len]);
        Caches {
            decoder,
            table,
            places,
            caches,
            rows: labels(rows),
            slots: labels(rows),
            lengths: labels(rows),
            moves: [(); 2].map(|()| labels(tokens)),
        }
    }
}

impl Decoding for Caches {
    fn begin(&mut self, exec: &mut dyn Sequence, all: Hypotheses) -> Result<(), DeviceError> {
        self.decoder.project_memory(exec, all.bound.results.encoded);
        let numbers: Vec<i32> = (0..all.rows() as i32).collect();
        exec.write_labels(self.rows.view(0, [1, 1, 1, all.rows()]), &numbers)
    }

    fn step(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        place: usize,
        tokens: Tensor,
    ) -> Result<Tensor, DeviceError> {
        let (rows, most, d) = (all.rows(), all.most, self.table.dims[3]);
        let memory = (all.bound.results.encoded, all.bound.pairs.source_len);
        let first = |t: Tensor| t.view(0, [1, 1, 1, rows]);
        let slots: Vec<i32> = (0..rows).map(|r| (r * most + place) as i32).collect();
        exec.write_labels(first(self.slots), &slots)?;
        exec.write_labels(first(self.lengths), &vec![place as i32 + 1; rows])?;
        let shape = StackShape {
            sentences: rows,
            length: 1,
            memory: Some(memory.0.dims[2]),
        };
        let decoder = self.decoder.at(shape, 0.0);
        let embedding = Embedding {
            tokens,
            table: self.table,
            scale: (d as f32).sqrt(),
            positions: Some(self.places.view(place * d, [1, 1, 1, d])),
            padding: Some(PAD),
            dropout: None,
        };
        exec.embed(embedding, decoder.input());
        let kept = |cache: &Option<Tensor>| cache.map(|t| t.view(0, [1, rows, most, t.dims[3]]));
        let past = Past {
            caches: self.caches[0].iter().map(kept).collect(),
            now: Present {
                rows: first(self.rows),
                slots: first(self.slots),
                lengths: first(self.lengths),
                beams: all.beams,
            },
        };
        decoder.forward(exec, past.now.lengths, Some(memory), Some(&past));
        let tied = Linear {
            w: self.table,
            b: None,
        };
        let logits = all.bound.logits_of(rows);
        exec.linear(decoder.output(), tied, Act::None, None, logits);
        Ok(logits)
    }

    /// Lets keys and values follow their hypotheses.
    fn follow(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        places: usize,
        parents: &[usize],
    ) -> Result<(), DeviceError> {
        let most = all.most;
        if parents
            .iter()
            .enumerate()
            .all(|(row, parent)| row == *parent)
        {
            return Ok(());
        }
        let rows = |of: &dyn Fn(usize) -> usize| -> Vec<i32> {
            let row = |r| (0..places).map(move |p| (of(r) * most + p) as i32);
            (0..parents.len()).flat_map(row).collect()
        };
        let lists = [rows(&|r| parents[r]), rows(&|r| r)];
        let moves = self.moves.map(|t| t.view(0, [1, 1, 1, lists[0].len()]));
        for (list, to) in lists.iter().zip(moves) {
            exec.write_labels(to, list)?;
        }
        let [from, to] = &self.caches;
        for (from, to) in from.iter().zip(to).filter_map(|(f, t)| f.zip(*t)) {
            exec.move_rows(Heads { t: from, first: 0 }, moves[0], to, moves[1]);
        }
        self.caches.swap(0, 1);
        Ok(())
    }
}
