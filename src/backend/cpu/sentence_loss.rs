//! Softmax cross-entropy of sentences: rows as in [`loss`](super::loss), then each sentence's mean,
//! its rows added up in their order.

use super::loss::{Guess, IGNORED, Row, class};
use super::simd::{Isa, Kernel, Simd};
use super::slice::{Slice, SliceMut};
use rayon::prelude::*;

/// Input of [`sentence_xent`]. `R` rows, `V` classes, `B` sentences.
pub struct Sentences<'a> {
    /// `[R, V]`; without it, what lies in `dlogits`.
    pub logits: Option<Slice<'a>>,
    /// `[R]`, [`IGNORED`] or a class.
    pub labels: &'a [i32],
    /// `[B + 1]`: first row of each sentence, and R.
    pub offsets: &'a [i32],
    /// `[B]`.
    pub weights: &'a [f32],
    /// Share ε of the target that is spread over all classes.
    pub smoothing: f32,
}

/// Output of [`sentence_xent`].
pub struct Results<'a> {
    /// `[R, V]`.
    pub dlogits: SliceMut<'a>,
    /// `[R]`.
    pub token_loss: &'a mut [f32],
    /// `[B]`.
    pub loss: &'a mut [f32],
    /// `[B]`.
    pub right: &'a mut [f32],
}

/// See [`Sequence::sentence_xent`](crate::backend::sequence::Sequence::sentence_xent).
pub fn sentence_xent(isa: Isa, input: &Sentences, out: Results) {
    let Results {
        dlogits,
        token_loss,
        loss,
        right,
    } = out;
    let (n, sentences) = (input.labels.len(), input.weights.len());
    let classes = dlogits.len() / n.max(1);
    assert!(n > 0 && dlogits.len() == n * classes, "rows of classes");
    assert!(
        input
            .logits
            .is_none_or(|logits| logits.len() == n * classes)
    );
    assert_eq!(
        (token_loss.len(), loss.len(), right.len()),
        (n, sentences, sentences)
    );
    let offset = |b: usize| usize::try_from(input.offsets[b]).unwrap_or(usize::MAX);
    assert!(
        input.offsets.len() == sentences + 1
            && input.offsets.is_sorted()
            && (offset(0), offset(sentences)) == (0, n),
        "sentences {:?} of {n} rows",
        input.offsets
    );
    let counts = |row: &usize| input.labels[*row] != IGNORED;
    let total = (0..n).filter(counts).count() as f32;
    let mut scales = vec![0.0; n];
    for (b, weight) in input.weights.iter().enumerate() {
        scales[offset(b)..offset(b + 1)].fill(weight / total);
    }
    let mut tops = vec![false; n];
    let rows = dlogits
        .pieces(classes)
        .into_par_iter()
        .zip(token_loss.par_iter_mut());
    rows.zip(&mut tops).enumerate().for_each_init(
        || vec![0.0; classes],
        |room, (r, ((dlogits, loss), top))| {
            let guess = isa.run(Counted {
                logits: input.logits.map(|logits| (logits, r * classes)),
                dlogits,
                label: counts(&r).then(|| class(input.labels[r], classes)),
                smoothing: input.smoothing,
                scale: scales[r],
                room,
            });
            (*loss, *top) = guess.map_or((0.0, false), |guess| (guess.loss, guess.right));
        },
    );
    for (b, (loss, right)) in loss.iter_mut().zip(right).enumerate() {
        let rows = || (offset(b)..offset(b + 1)).filter(counts);
        let sum: f64 = rows().map(|r| f64::from(token_loss[r])).sum();
        let count = rows().count();
        *loss = (sum / count.max(1) as f64) as f32;
        *right = f32::from(count > 0 && rows().all(|r| tops[r]));
    }
}

/// A row that counts, if it has a label.
struct Counted<'a> {
    /// From an element on; without them, what lies in `dlogits`.
    logits: Option<(Slice<'a>, usize)>,
    dlogits: SliceMut<'a>,
    label: Option<usize>,
    smoothing: f32,
    scale: f32,
    /// For the row in f32.
    room: &'a mut [f32],
}

impl Kernel for Counted<'_> {
    type Output = Option<Guess>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<Guess> {
        let mut dlogits = self.dlogits;
        let Some(label) = self.label else {
            dlogits.clear();
            return None;
        };
        if let Some((logits, first)) = self.logits {
            dlogits.copy(0, logits, first..first + dlogits.len());
        }
        let z = dlogits.floats(s, self.room);
        let row = Row {
            z: &mut *z.values,
            label,
            smoothing: self.smoothing,
            scale: self.scale,
        };
        let guess = row.run(s);
        z.store(s);
        Some(guess)
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::{Rows, softmax_xent};
    use super::super::simd::Element;
    use super::super::testing::{loaded, random, stored, threads_change_nothing};
    use super::*;
    use half::bf16;

    const CLASSES: usize = 37;
    /// Of lengths 1, 4, 0 and 7; the third has no rows, the last none that counts.
    const OFFSETS: [i32; 5] = [0, 1, 5, 5, 12];

    fn labels() -> Vec<i32> {
        let mut labels: Vec<i32> = (0..12).map(|i| i * 5 % CLASSES as i32).collect();
        labels[3] = IGNORED;
        labels[5..].fill(IGNORED);
        labels
    }

    fn run(isa: Isa, logits: &[f32], weights: &[f32; 4], in_place: bool) -> [Vec<f32>; 4] {
        run_as::<f32>(isa, logits, weights, in_place)
    }

    /// With logits of a kind.
    fn run_as<E: Element>(
        isa: Isa,
        logits: &[f32],
        weights: &[f32; 4],
        in_place: bool,
    ) -> [Vec<f32>; 4]
    where
        for<'a> Slice<'a>: From<&'a [E]>,
        for<'a> SliceMut<'a>: From<&'a mut [E]>,
    {
        let logits = stored::<E>(logits);
        let mut dlogits = match in_place {
            true => logits.clone(),
            false => stored(&vec![f32::NAN; logits.len()]),
        };
        let [mut token_loss, mut loss, mut right] = [12, 4, 4].map(|n| vec![f32::NAN; n]);
        let input = Sentences {
            logits: (!in_place).then_some(Slice::from(&logits[..])),
            labels: &labels(),
            offsets: &OFFSETS,
            weights,
            smoothing: 0.1,
        };
        let out = Results {
            dlogits: SliceMut::from(&mut dlogits[..]),
            token_loss: &mut token_loss,
            loss: &mut loss,
            right: &mut right,
        };
        sentence_xent(isa, &input, out);
        [loaded(&dlogits), token_loss, loss, right]
    }

    #[test]
    fn rows_are_those_of_the_plain_loss_and_sentences_their_means() {
        let weights = [0.5, 2.0, 1.0, 1.0];
        let logits = random(3, 12 * CLASSES, 0.0, 4.0);
        for isa in Isa::available() {
            let row_weights: Vec<f32> = (0..12).map(|r| [0.5, 2.0][usize::from(r > 0)]).collect();
            let [mut d, mut each, mut tops] = [12 * CLASSES, 12, 12].map(|n| vec![0.0; n]);
            let rows = Rows {
                logits: &logits,
                labels: &labels(),
                weights: &row_weights,
                smoothing: 0.1,
            };
            softmax_xent(isa, &rows, &mut d, &mut each, &mut tops);
            let results = run(isa, &logits, &weights, false);
            assert!(results == run(isa, &logits, &weights, true), "in place");
            let [dlogits, token_loss, loss, _] = results;
            assert!(dlogits == d && token_loss == each, "{isa}");
            let mean = (each[1] + each[2] + each[4]) / 3.0;
            assert!((loss[1] - mean).abs() < 1e-6 && loss[0] == each[0]);
            assert_eq!(loss[2..], [0.0, 0.0]);
        }
    }

    #[test]
    fn in_bf16_it_is_the_same_but_rounded() {
        let logits = loaded(&stored::<bf16>(&random(3, 12 * CLASSES, 0.0, 4.0)));
        for (isa, in_place) in Isa::available()
            .into_iter()
            .flat_map(|i| [(i, true), (i, false)])
        {
            let mut want = run(isa, &logits, &[1.5; 4], false);
            want[0] = loaded(&stored::<bf16>(&want[0]));
            assert!(
                want == run_as::<bf16>(isa, &logits, &[1.5; 4], in_place),
                "{isa}"
            );
        }
    }

    #[test]
    fn a_sentence_is_right_if_all_its_rows_that_count_are() {
        let mut logits = vec![0.0; 12 * CLASSES];
        for (r, label) in labels().iter().enumerate().take(5) {
            logits[r * CLASSES + (*label).max(0) as usize] = 3.0;
        }
        assert_eq!(
            run(Isa::PORTABLE, &logits, &[1.0; 4], false)[3],
            [1.0, 1.0, 0.0, 0.0]
        );
        logits[4 * CLASSES + 1] = 4.0;
        assert_eq!(
            run(Isa::PORTABLE, &logits, &[1.0; 4], false)[3],
            [1.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn a_nan_is_seen_where_it_counts() {
        let mut logits = random(3, 12 * CLASSES, 0.0, 4.0);
        logits[2 * CLASSES + 36] = f32::NAN;
        logits[3 * CLASSES] = f32::NAN; // Ignored.
        for isa in Isa::available() {
            let [dlogits, token_loss, loss, right] = run(isa, &logits, &[1.0; 4], true);
            for (r, d) in dlogits.chunks(CLASSES).enumerate() {
                assert!(d.iter().all(|d| d.is_nan() == (r == 2)), "{isa} {r}");
                assert_eq!(token_loss[r].is_nan(), r == 2);
            }
            assert!(loss[1].is_nan() && right[1] == 0.0 && loss[0].is_finite());
        }
    }

    #[test]
    #[should_panic(expected = "of 12 rows")]
    fn offsets_that_leave_rows_out_panic() {
        let input = Sentences {
            logits: None,
            labels: &labels(),
            offsets: &[0, 11],
            weights: &[1.0],
            smoothing: 0.0,
        };
        let out = Results {
            dlogits: SliceMut::F32(&mut [0.0; 24]),
            token_loss: &mut [0.0; 12],
            loss: &mut [0.0],
            right: &mut [0.0],
        };
        sentence_xent(Isa::PORTABLE, &input, out);
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        let logits = random(5, 12 * CLASSES, 0.0, 4.0);
        threads_change_nothing(
            |isa| run(isa, &logits, &[0.3; 4], false),
            |results| results.iter().flatten().map(|x| x.to_bits()).collect(),
        );
    }
}
