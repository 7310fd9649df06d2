//! Decoding token by token: all that is kept of the past is what each convolution still sees of it.

use super::decoder::{Decoder, Source, Targets};
use super::ops;
use crate::backend::sequence::{Heads, Sequence};
use crate::backend::{DeviceError, Kind, Tensor};
use crate::nn::beam::{Decoding, Hypotheses};
use crate::nn::network::part;
use std::sync::Arc;

/// Last inputs of convolutions.
pub(super) struct LastInputs {
    decoder: Arc<Decoder>,
    /// Where the encoder leaves the values.
    values: Tensor,
    /// Of each layer `[K − 1, R, in]`, the oldest first, unless it sees one place alone.
    past: Vec<Option<Tensor>>,
    /// `[R]`: rows that move, and where to.
    moves: [Tensor; 2],
}

impl LastInputs {
    /// Of at most so many hypotheses.
    pub fn new(
        exec: &mut dyn Sequence,
        decoder: Arc<Decoder>,
        values: Tensor,
        rows: usize,
    ) -> LastInputs {
        let mut of_layer = |kernel: usize, inputs| {
            let dims = [1, kernel - 1, rows, inputs];
            (kernel > 1).then(|| exec.alloc(Kind::Activation, dims))
        };
        let layers = decoder.layers.iter();
        let past = layers
            .map(|layer| of_layer(layer.conv.kernel, layer.conv.x.dims[3]))
            .collect();
        let moves = [(); 2].map(|()| exec.alloc(Kind::Label, [1, 1, 1, rows]));
        LastInputs {
            decoder,
            values,
            past,
            moves,
        }
    }

    /// What is kept of so many hypotheses.
    fn past(&self, rows: usize) -> Vec<Option<Tensor>> {
        let of_rows = |t: Tensor| {
            let [_, places, _, inputs] = t.dims;
            t.view(0, [1, places, rows, inputs])
        };
        self.past.iter().map(|past| past.map(of_rows)).collect()
    }
}

impl Decoding for LastInputs {
    fn begin(&mut self, exec: &mut dyn Sequence, all: Hypotheses) -> Result<(), DeviceError> {
        let exec = ops(exec);
        self.decoder.renew(exec);
        for past in self.past(all.rows()).into_iter().flatten() {
            exec.clear(past);
        }
        Ok(())
    }

    fn step(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        place: usize,
        tokens: Tensor,
    ) -> Result<Tensor, DeviceError> {
        let at = all.bound;
        let keys = at.results.encoded;
        let source = Source {
            keys,
            values: part(self.values, [keys.dims[1], keys.dims[2]]),
            len: at.pairs.source_len,
        };
        let targets = Targets {
            tokens,
            place,
            before: &self.past(all.rows()),
            p: 0.0,
        };
        let logits = at.logits_of(all.rows());
        self.decoder.forward(ops(exec), source, targets, logits);
        Ok(logits)
    }

    fn follow(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        _: usize,
        parents: &[usize],
    ) -> Result<(), DeviceError> {
        let rows = all.rows();
        let [source, target] = self.moves.map(|t| t.view(0, [1, 1, 1, rows]));
        let parents: Vec<i32> = parents.iter().map(|row| *row as i32).collect();
        exec.write_labels(source, &parents)?;
        exec.write_labels(target, &(0..rows as i32).collect::<Vec<_>>())?;
        for (layer, past) in self.decoder.layers.iter().zip(self.past(rows)) {
            let Some(past) = past else { continue };
            let [_, places, _, inputs] = past.dims;
            let place = |i: usize| past.view(i * rows * inputs, [1, 1, rows, inputs]);
            // The oldest is forgotten, and what was just read is the latest.
            for i in 0..places {
                let t = match i + 1 < places {
                    true => place(i + 1),
                    false => part(layer.conv.x, [rows, 1]),
                };
                exec.move_rows(Heads { t, first: 0 }, source, place(i), target);
            }
        }
        Ok(())
    }
}
