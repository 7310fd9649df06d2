//! Tokens to vectors, and the gradients of vectors back to the table.

use super::dropout::Mask;
use super::simd::{Isa, Kernel, Simd};
use super::slice::{Slice, SliceMut};
use rayon::prelude::*;

/// Rows that are worth a task.
const ROWS: usize = 32;

/// What is embedded how. `R` rows of `d`.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    /// `[R]`.
    pub tokens: &'a [i32],
    /// Tokens of a sentence.
    pub length: usize,
    /// Of the table's vectors.
    pub scale: f32,
    /// Whose rows are zero.
    pub padding: Option<i32>,
    pub mask: Option<Mask>,
}

impl Tokens<'_> {
    /// The table's row of each token; none for padding.
    ///
    /// # Panics
    /// If there is none: a bug in the data's reader.
    fn place(&self, row: usize, vocabulary: usize) -> Option<usize> {
        if self.is_padding(row) {
            return None;
        }
        let token = self.tokens[row];
        let place = usize::try_from(token).ok().filter(|t| *t < vocabulary);
        Some(place.unwrap_or_else(|| panic!("token {token} of {vocabulary}")))
    }

    fn is_padding(&self, row: usize) -> bool {
        Some(self.tokens[row]) == self.padding
    }

    /// Sets `to` to the factors of a row: `scale` through the dropout.
    #[inline] // Compiled for the instructions of the caller.
    fn factors(&self, row: usize, scale: f32, to: &mut [f32]) {
        match self.mask {
            None => to.fill(scale),
            Some(mask) => {
                mask.factors(row * to.len(), to);
                for f in to {
                    *f *= scale;
                }
            }
        }
    }
}

/// `out[r] = dropout(scale·table[token] + positions[place in the sentence])`, 0 for padding. `table`
/// is `[V, d]`, `positions` `[P, d]`, as many as there are tokens before padding; without them they
/// are zeros.
pub fn forward(
    isa: Isa,
    tokens: Tokens,
    width: usize,
    table: &[f32],
    positions: Option<&[f32]>,
    out: SliceMut,
) {
    let vocabulary = table.len() / width;
    assert_eq!(out.len(), tokens.tokens.len() * width);
    assert_eq!(table.len(), vocabulary * width);
    let rows = out.pieces(width).into_par_iter().enumerate();
    rows.with_min_len(ROWS).for_each_init(
        || [vec![1.0; width], vec![0.0; width]],
        |[factors, room], (row, out)| {
            let place = tokens.place(row, vocabulary);
            if place.is_some() {
                tokens.factors(row, 1.0, factors);
            }
            isa.run(Embed {
                vector: place.map(|place| &table[place * width..][..width]),
                position: positions.map(|p| &p[row % tokens.length * width..][..width]),
                factors,
                scale: tokens.scale,
                room,
                out,
            });
        },
    );
}

struct Embed<'a> {
    /// None for padding.
    vector: Option<&'a [f32]>,
    position: Option<&'a [f32]>,
    factors: &'a [f32],
    scale: f32,
    /// For `out` in f32.
    room: &'a mut [f32],
    out: SliceMut<'a>,
}

impl Kernel for Embed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = self.out.floats(s, self.room);
        let Some(vector) = self.vector else {
            out.values.fill(0.0);
            out.store(s);
            return;
        };
        let inputs = out.values.iter_mut().zip(vector).zip(self.factors);
        match self.position {
            Some(position) => {
                for (((out, vector), factor), position) in inputs.zip(position) {
                    *out = factor * (self.scale * vector + position);
                }
            }
            None => {
                for ((out, vector), factor) in inputs {
                    *out = factor * (self.scale * vector);
                }
            }
        }
        out.store(s);
    }
}

/// Adds `scale·dropout(dout)` of each row to its token's row of `dtable` `[V, d]`, in the rows' order.
pub fn backward(isa: Isa, tokens: Tokens, width: usize, dout: Slice, dtable: &mut [f32]) {
    let (n, vocabulary) = (tokens.tokens.len(), dtable.len() / width);
    assert_eq!((dout.len(), dtable.len()), (n * width, vocabulary * width));
    // Rows sorted by token, stably: a token's are order[ends[token − 1]..ends[token]].
    let place = |row: usize| tokens.place(row, vocabulary);
    let mut ends = vec![0; vocabulary + 1];
    for token in (0..n).filter_map(place) {
        ends[token + 1] += 1;
    }
    for token in 0..vocabulary {
        ends[token + 1] += ends[token];
    }
    let mut order = vec![0; ends[vocabulary]];
    for row in 0..n {
        if let Some(token) = place(row) {
            order[ends[token]] = row;
            ends[token] += 1;
        }
    }
    let used: Vec<(&mut [f32], &[usize])> = dtable
        .chunks_exact_mut(width)
        .enumerate()
        .map(|(token, to)| {
            let first = if token == 0 { 0 } else { ends[token - 1] };
            (to, &order[first..ends[token]])
        })
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    used.into_par_iter().with_min_len(ROWS).for_each_init(
        || [vec![1.0; width], vec![0.0; width]],
        |[factors, room], (to, rows)| {
            for row in rows {
                tokens.factors(*row, tokens.scale, factors);
                isa.run(AddProduct {
                    to,
                    factors,
                    x: dout,
                    first: row * width,
                    room,
                });
            }
        },
    );
}

/// Sets `dpositions` `[P, d]` to the sum of `dropout(dout)` over the rows of each place, in their
/// order.
pub fn positions_backward(
    isa: Isa,
    tokens: Tokens,
    width: usize,
    dout: Slice,
    dpositions: &mut [f32],
) {
    let (n, length) = (tokens.tokens.len(), tokens.length);
    assert_eq!(dout.len(), n * width);
    let places = dpositions.par_chunks_exact_mut(width).enumerate();
    places.for_each_init(
        || [vec![1.0; width], vec![0.0; width]],
        |[factors, room], (place, to)| {
            to.fill(0.0);
            if place >= length {
                return;
            }
            let rows = (place..n).step_by(length);
            for row in rows.filter(|row| !tokens.is_padding(*row)) {
                tokens.factors(row, 1.0, factors);
                isa.run(AddProduct {
                    to: &mut *to,
                    factors,
                    x: dout,
                    first: row * width,
                    room,
                });
            }
        },
    );
}

struct AddProduct<'a> {
    to: &'a mut [f32],
    factors: &'a [f32],
    /// From element `first` on.
    x: Slice<'a>,
    first: usize,
    /// For those in f32.
    room: &'a mut [f32],
}

impl Kernel for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x = self.x.floats(s, self.first, self.room);
        for ((to, factor), x) in self.to.iter_mut().zip(self.factors).zip(x) {
            *to += factor * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Element;
    use super::super::testing::{
        close, loaded, random, slopes, stored, threads_change_nothing, wide,
    };
    use super::*;
    use crate::backend::StepInputs;
    use crate::backend::sequence::Dropout;
    use half::bf16;

    const PADDING: i32 = 1;
    const SCALE: f32 = 2.5;

    struct Case {
        tokens: Vec<i32>,
        length: usize,
        width: usize,
        table: Vec<f32>,
        positions: Option<Vec<f32>>,
        dout: Vec<f32>,
        mask: Option<Mask>,
    }

    impl Case {
        fn new(n: usize, length: usize, width: usize, vocabulary: usize, p: Option<f32>) -> Case {
            let token = |i: usize| (i * i % 17 % vocabulary) as i32;
            Case {
                tokens: (0..n * length).map(token).collect(),
                length,
                width,
                table: random(1, vocabulary * width, 0.0, 1.0),
                // Now and then without.
                positions: (n != 3).then(|| random(2, (length + 3) * width, 0.0, 1.0)),
                dout: random(3, n * length * width, 0.2, 1.0),
                mask: p.map(|p| Mask::new(&StepInputs::default(), Dropout { p, site: 4 })),
            }
        }

        fn tokens(&self) -> Tokens<'_> {
            Tokens {
                tokens: &self.tokens,
                length: self.length,
                scale: SCALE,
                padding: Some(PADDING),
                mask: self.mask,
            }
        }

        /// `out`, and `dtable` on top of the table itself.
        fn run(&self, isa: Isa) -> [Vec<f32>; 2] {
            self.run_as::<f32>(isa)
        }

        /// With activations of a kind.
        fn run_as<E: Element>(&self, isa: Isa) -> [Vec<f32>; 2]
        where
            for<'a> Slice<'a>: From<&'a [E]>,
            for<'a> SliceMut<'a>: From<&'a mut [E]>,
        {
            let dout = stored::<E>(&self.dout);
            let mut out = stored::<E>(&vec![f32::NAN; self.dout.len()]);
            forward(
                isa,
                self.tokens(),
                self.width,
                &self.table,
                self.positions.as_deref(),
                SliceMut::from(&mut out[..]),
            );
            let mut dtable = self.table.clone();
            backward(
                isa,
                self.tokens(),
                self.width,
                Slice::from(&dout[..]),
                &mut dtable,
            );
            [loaded(&out), dtable]
        }

        fn exact(&self, table: &[f64]) -> Vec<f64> {
            let mut factors = vec![1.0; self.dout.len()];
            if let Some(mask) = self.mask {
                mask.factors(0, &mut factors);
            }
            let value = |i: usize| {
                let (row, c) = (i / self.width, i % self.width);
                let token = self.tokens[row];
                if token == PADDING {
                    return 0.0;
                }
                let place = row % self.length * self.width + c;
                let position = self.positions.as_ref().map_or(0.0, |p| p[place]);
                let vector = table[token as usize * self.width + c];
                f64::from(factors[i]) * (f64::from(SCALE) * vector + f64::from(position))
            };
            (0..self.dout.len()).map(value).collect()
        }
    }

    #[test]
    fn agrees_with_f64_and_the_gradient_is_the_slope() {
        for (n, length, width, vocabulary) in [(1, 1, 2, 1), (3, 5, 6, 4), (2, 9, 19, 40)] {
            for p in [None, Some(0.3)] {
                let case = Case::new(n, length, width, vocabulary, p);
                let table = wide(&case.table);
                let objective = |table: &[f64]| -> f64 {
                    let out = case.exact(table);
                    out.iter()
                        .zip(&case.dout)
                        .map(|(o, d)| o * f64::from(*d))
                        .sum()
                };
                let slopes = slopes(&table, objective);
                let dtable: Vec<f64> = slopes.iter().zip(&table).map(|(d, t)| d + t).collect();
                for isa in Isa::available() {
                    let [out, got] = case.run(isa);
                    close("out", &out, &case.exact(&table), 2e-7);
                    close("dtable", &got, &dtable, 1e-6);
                    for (row, token) in case.tokens.iter().enumerate() {
                        let zeros = out[row * width..][..width].iter().all(|v| *v == 0.0);
                        assert_eq!(zeros, *token == PADDING);
                    }
                    let padding = PADDING as usize * width;
                    let untouched = got.get(padding..padding + width);
                    assert_eq!(untouched, case.table.get(padding..padding + width));
                }
            }
        }
    }

    #[test]
    fn in_bf16_it_is_the_same_but_rounded() {
        for (n, width, p) in [(2, 19, None), (3, 64, Some(0.3))] {
            let mut case = Case::new(n, 9, width, 40, p);
            case.dout = loaded(&stored::<bf16>(&case.dout));
            for isa in Isa::available() {
                let ([out, dtable], want) = (case.run_as::<bf16>(isa), case.run(isa));
                assert_eq!(out, loaded(&stored::<bf16>(&want[0])), "{isa}");
                assert_eq!(dtable, want[1], "{isa}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "token 4 of 4")]
    fn a_token_out_of_the_vocabulary_panics() {
        let mut case = Case::new(2, 3, 4, 4, None);
        case.tokens[3] = 4;
        case.run(Isa::PORTABLE);
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        let case = Case::new(90, 7, 24, 50, Some(0.1));
        threads_change_nothing(
            |isa| case.run(isa),
            |results| results.iter().flatten().map(|x| x.to_bits()).collect(),
        );
    }
}
