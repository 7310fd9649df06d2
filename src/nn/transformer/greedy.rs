//! Translation by the likeliest next token.

use super::Transformer;
use crate::backend::DeviceError;
use crate::backend::sequence::Sequence;
use crate::data::pairs::{EOS, PAD, PairShape};

impl Transformer {
    /// For each source (which ends with [`EOS`]) the tokens of its translation, [`EOS`] included
    /// unless it is not among the first `most`. Each token is the one with the largest logit, the
    /// first of equals. The decoder runs over all tokens so far for each new one.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If there are more or longer sentences than the network was made for, or none, or an empty
    /// one: bugs in the caller.
    pub fn greedy(
        &self,
        exec: &mut dyn Sequence,
        sources: &[Vec<i32>],
        most: usize,
    ) -> Result<Vec<Vec<i32>>, DeviceError> {
        let longest = sources.iter().map(Vec::len).max().expect("sentences");
        let shape = |target| PairShape {
            sentences: sources.len(),
            source: longest,
            target,
        };
        let padded = |rows: &[Vec<i32>], length: usize| -> Vec<i32> {
            let row = |row: &Vec<i32>| {
                let padding = std::iter::repeat(PAD);
                row.iter().copied().chain(padding).take(length).collect()
            };
            rows.iter().flat_map::<Vec<i32>, _>(row).collect()
        };
        let first = self.bind(shape(1));
        let lengths: Vec<i32> = sources.iter().map(|s| s.len() as i32).collect();
        exec.write_labels(first.pairs.source, &padded(sources, longest))?;
        exec.write_labels(first.pairs.source_len, &lengths)?;
        first.encode(exec, false);
        let mut translations = vec![Vec::new(); sources.len()];
        let ended = |t: &Vec<i32>| t.last() == Some(&EOS);
        for length in 1..=most {
            let bound = self.bind(shape(length));
            let previous: Vec<Vec<i32>> = translations
                .iter()
                .map(|t| [&[EOS], &t[..]].concat())
                .collect();
            exec.write_labels(bound.pairs.previous, &padded(&previous, length))?;
            // Whoever has ended is padded, which nobody looks at; a length of 0 is none.
            exec.write_labels(bound.pairs.target_len, &vec![length as i32; sources.len()])?;
            bound.decode(exec, false);
            let logits = exec.read(bound.results.logits)?;
            let rows = logits.chunks(self.config.vocab).skip(length - 1);
            for (translation, row) in translations.iter_mut().zip(rows.step_by(length)) {
                if !ended(translation) {
                    translation.push(largest(row));
                }
            }
            if translations.iter().all(ended) {
                break;
            }
        }
        Ok(translations)
    }
}

/// The first of the largest.
fn largest(row: &[f32]) -> i32 {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best as i32
}
