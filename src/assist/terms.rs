//! The published Assistant for sentence pairs (`--assist paper`): logistic regression on the words
//! of both sides and how many they are, and labels by a running mean that follows the losses
//! closely.
//!
//! As in the authors' code: a mean over the different tokens of a sentence, however often each is
//! in it, beside their tf-idf; SGD on the mean gradient; L2 on every weight, divided by the batch
//! like the gradient; and the worse it foretells the labels, the less it has a say. Their running
//! mean is of the sweep before; this one is that of [`PixelModel`](super::PixelModel), which needs
//! no notion of a sweep. It starts at zero: the problem is convex.

use super::model::{SIGMOID_OPS, sigmoid};
use super::paper::MovingMean;
use crate::data::text::tfidf::Term;
use serde::{Deserialize, Serialize};

/// Step size, on the mean gradient of a batch.
const RATE: f32 = 0.5;
/// L2 coefficient.
const L2: f32 = 0.1;
/// Numbers of tokens are divided by this.
const LENGTH: f32 = 10.0;
/// Weight of a new batch in the confidence.
const CONFIDENCE_RATE: f32 = 0.05;

/// The different tokens of N sentence pairs, with their tf-idf.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    vocab: usize,
    /// Sources and targets.
    sides: [Side; 2],
}

/// One side's, one sentence after the other.
#[derive(Clone, Debug, Default, PartialEq)]
struct Side {
    tokens: Vec<u32>,
    tfidf: Vec<f32>,
    /// Where each sentence ends.
    ends: Vec<usize>,
}

impl Terms {
    /// Of no sentences, over a vocabulary of `vocab` tokens.
    pub fn new(vocab: usize) -> Terms {
        let sides = Default::default();
        Terms { vocab, sides }
    }

    /// Adds a sentence pair, by the terms of its source and of its target.
    ///
    /// # Panics
    /// If a token is not in the vocabulary: a bug in the tokenizer's user.
    pub fn push(&mut self, pair: [&[Term]; 2]) {
        for (side, terms) in self.sides.iter_mut().zip(pair) {
            let known = terms.iter().all(|t| (t.token as usize) < self.vocab);
            assert!(known, "a token is not in the vocabulary of {}", self.vocab);
            side.tokens.extend(terms.iter().map(|t| t.token));
            side.tfidf.extend(terms.iter().map(|t| t.tfidf));
            side.ends.push(side.tokens.len());
        }
    }

    /// Number of sentence pairs, N.
    pub fn len(&self) -> usize {
        self.sides[0].ends.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Both sides of a pair.
    fn pair(&self, id: u32) -> [Bag<'_>; 2] {
        let id = id as usize;
        self.sides.each_ref().map(|side| {
            let start = id.checked_sub(1).map_or(0, |before| side.ends[before]);
            let range = start..side.ends[id];
            Bag {
                tokens: &side.tokens[range.clone()],
                tfidf: &side.tfidf[range],
            }
        })
    }

    /// Different tokens in some pairs, of both sides.
    fn count(&self, ids: &[u32]) -> u64 {
        let pair = |&id: &u32| self.pair(id).map(|bag| bag.tokens.len() as u64);
        ids.iter().flat_map(pair).sum()
    }
}

/// The different tokens of a sentence.
#[derive(Clone, Copy)]
struct Bag<'a> {
    tokens: &'a [u32],
    tfidf: &'a [f32],
}

impl Bag<'_> {
    /// Share of each token in their mean.
    fn share(&self) -> f32 {
        1.0 / self.tokens.len().max(1) as f32
    }

    fn length(&self) -> f32 {
        self.tokens.len() as f32 / LENGTH
    }

    fn terms(&self) -> impl Iterator<Item = (usize, f32)> {
        let tokens = self.tokens.iter().map(|&t| t as usize);
        tokens.zip(self.tfidf.iter().copied())
    }
}

/// Weights, or their gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Weights {
    /// Of each side, of each token: for the mean, and for tf-idf.
    tokens: [Vec<[f32; 2]>; 2],
    /// Of each side, for the number of tokens.
    lengths: [f32; 2],
    bias: f32,
}

impl Weights {
    fn zero(vocab: usize) -> Weights {
        Weights {
            tokens: [vec![[0.0; 2]; vocab], vec![[0.0; 2]; vocab]],
            lengths: [0.0; 2],
            bias: 0.0,
        }
    }

    fn all(&self) -> impl Iterator<Item = &f32> {
        let tokens = self.tokens.iter().flat_map(|side| side.as_flattened());
        tokens.chain(&self.lengths).chain([&self.bias])
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut f32> {
        let tokens = self.tokens.iter_mut();
        let tokens = tokens.flat_map(|side| side.as_flattened_mut());
        tokens.chain(&mut self.lengths).chain([&mut self.bias])
    }

    fn len(&self) -> usize {
        4 * self.tokens[0].len() + 3
    }
}

/// `logit = b + Σ over both sides of (mean over its different tokens of w[token] + Σ tf-idf ·
/// v[token] + c·n/10)` for `n` different tokens; each side has `w`, `v` and `c` of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermModel {
    weights: Weights,
    mean: MovingMean,
    confidence: f32,
}

impl TermModel {
    /// All zero, for a vocabulary of `vocab` tokens.
    pub fn new(vocab: usize) -> TermModel {
        TermModel {
            weights: Weights::zero(vocab),
            mean: MovingMean::default(),
            confidence: 0.0,
        }
    }

    /// Number of tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.weights.tokens[0].len()
    }

    /// Whether every number in it is finite and the sizes agree.
    pub fn is_sound(&self) -> bool {
        let [source, target] = &self.weights.tokens;
        source.len() == target.len()
            && self.weights.all().all(|w| w.is_finite())
            && self.mean.is_sound()
            && (0.0..=1.0).contains(&self.confidence)
    }

    /// Moving average of the share of labels it foretold, from 0 to 1.
    pub fn confidence(&self) -> f32 {
        self.confidence
    }

    /// Logits of some pairs, `[n]`.
    pub fn logits(&self, terms: &Terms, ids: &[u32]) -> Vec<f32> {
        let side = |(bag, side): (Bag, usize)| {
            let weights = &self.weights.tokens[side];
            let (mut sum, mut dot) = (0.0, 0.0);
            for (token, tfidf) in bag.terms() {
                let [w, v] = weights[token];
                sum += w;
                dot += v * tfidf;
            }
            sum * bag.share() + dot + self.weights.lengths[side] * bag.length()
        };
        let logit = |&id: &u32| {
            let [source, target] = terms.pair(id);
            self.weights.bias + side((source, 0)) + side((target, 1))
        };
        ids.iter().map(logit).collect()
    }

    /// Operations of [`logits`](TermModel::logits): 3 a different token; two quotients, two
    /// products and two adds a side; two adds a pair.
    pub fn logits_ops(terms: &Terms, ids: &[u32]) -> u64 {
        3 * terms.count(ids) + 14 * ids.len() as u64
    }

    /// One step of SGD on what became of a batch: `w −= rate/n·(Σ r_i·x_i + λ·w)` for every weight,
    /// `r = σ(logit) − label`. Returns the labels, `loss > mean` with the batch itself in the mean.
    pub fn learn(&mut self, terms: &Terms, ids: &[u32], losses: &[f32]) -> Vec<bool> {
        let n = ids.len() as f32;
        let labels = self.mean.labels(losses);
        let logits = self.logits(terms, ids);
        let right = logits.iter().zip(&labels);
        let right = right.filter(|&(&l, &label)| (l > 0.0) == label).count() as f32;
        self.confidence += CONFIDENCE_RATE * (right / n - self.confidence);

        let mut slopes = Weights::zero(self.vocab());
        for ((&id, &logit), &label) in ids.iter().zip(&logits).zip(&labels) {
            let r = sigmoid(logit) - f32::from(label);
            for (side, bag) in terms.pair(id).into_iter().enumerate() {
                let share = r * bag.share();
                for (token, tfidf) in bag.terms() {
                    let slope = &mut slopes.tokens[side][token];
                    slope[0] += share;
                    slope[1] += r * tfidf;
                }
                slopes.lengths[side] += r * bag.length();
            }
            slopes.bias += r;
        }
        let rate = RATE / n;
        for (w, slope) in self.weights.all_mut().zip(slopes.all()) {
            *w -= rate * (slope + L2 * *w);
        }
        labels
    }

    /// Operations of [`learn`](TermModel::learn): the labels and logits; 3 a different token; two
    /// quotients, two products and an add a side; σ, residual, whether it was right and two sums a
    /// pair; 4 a weight; 5 for the confidence and the rate.
    pub fn learn_ops(&self, terms: &Terms, ids: &[u32]) -> u64 {
        let n = ids.len() as u64;
        let gradient = 3 * terms.count(ids) + n * (10 + SIGMOID_OPS + 5);
        let known = MovingMean::labels_ops(ids.len()) + TermModel::logits_ops(terms, ids);
        known + gradient + 4 * self.weights.len() as u64 + 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::{EOS, Sentences};
    use crate::data::text::tfidf::TermWeights;
    use crate::rng::{hash, unit_f64};

    const VOCAB: usize = 20;

    /// Sentences of 0 to 7 tokens from 4 on.
    fn sentences(n: usize, salt: u64) -> Vec<Vec<i32>> {
        let token = |id: u64, i: u64| 4 + (hash(salt, id, i) % 16) as i32;
        let length = |id: u64| hash(salt, id, 99) % 8;
        let sentence = |id: u64| (0..length(id)).map(|i| token(id, i)).chain([EOS]).collect();
        (0..n as u64).map(sentence).collect()
    }

    fn terms(sides: [&[Vec<i32>]; 2]) -> (Terms, [Vec<Vec<Term>>; 2]) {
        let of = |side: &[Vec<i32>]| {
            let text: Sentences = side.iter().map(Vec::as_slice).collect();
            let weights = TermWeights::new(&text, VOCAB);
            let one = |id: usize| {
                let mut terms = Vec::new();
                weights.terms(text.get(id), &mut terms);
                terms
            };
            (0..side.len()).map(one).collect::<Vec<_>>()
        };
        let bags = sides.map(of);
        let mut terms = Terms::new(VOCAB);
        let pairs = bags[0].iter().zip(&bags[1]);
        pairs.for_each(|(x, y)| terms.push([x, y]));
        (terms, bags)
    }

    #[test]
    fn scores_and_steps_are_those_of_the_definition() {
        let (source, target) = (sentences(40, 1), sentences(40, 2));
        let (terms, bags) = terms([&source, &target]);
        // A dense vector of all features: a bias, a length a side, and the tokens'.
        let features = |id: usize| {
            let mut x = vec![0.0f64; 3 + 4 * VOCAB];
            x[0] = 1.0;
            for (side, bags) in bags.iter().enumerate() {
                let bag = &bags[id];
                x[1 + side] = bag.len() as f64 / 10.0;
                for term in bag {
                    let at = 3 + 2 * side * VOCAB + term.token as usize;
                    x[at] = 1.0 / bag.len() as f64;
                    x[at + VOCAB] = f64::from(term.tfidf);
                }
            }
            x
        };
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let mut model = TermModel::new(VOCAB);
        let mut w = vec![0.0f64; 3 + 4 * VOCAB];
        let (mut sum, mut count, mut confidence) = (0.0, 0.0, 0.0);
        for step in 0..60 {
            let ids: Vec<u32> = (0..5).map(|i| (step as u32 * 7 + i) % 40).collect();
            let losses: Vec<f32> = (0..5)
                .map(|i| unit_f64(hash(5, step, i)) as f32 * 3.0)
                .collect();
            count = 0.75 * count + 0.25 * 5.0;
            sum = 0.75 * sum + 0.25 * losses.iter().map(|&x| f64::from(x)).sum::<f64>();
            let is: Vec<bool> = losses.iter().map(|&x| f64::from(x) > sum / count).collect();
            let xs: Vec<Vec<f64>> = ids.iter().map(|&id| features(id as usize)).collect();
            let logits: Vec<f64> = xs.iter().map(|x| dot(&w, x)).collect();
            let right = logits.iter().zip(&is).filter(|(l, is)| (**l > 0.0) == **is);
            confidence = 0.95 * confidence + 0.05 * right.count() as f64 / 5.0;
            let r: Vec<f64> = logits
                .iter()
                .zip(&is)
                .map(|(l, &is)| 1.0 / (1.0 + (-l).exp()) - f64::from(u8::from(is)))
                .collect();
            for (j, w) in w.iter_mut().enumerate() {
                let slope: f64 = r.iter().zip(&xs).map(|(r, x)| r * x[j]).sum();
                *w -= 0.5 / 5.0 * (slope + 0.1 * *w);
            }
            assert_eq!(model.learn(&terms, &ids, &losses), is);
            assert!((f64::from(model.confidence()) - confidence).abs() < 1e-4);
            let all: Vec<u32> = (0..40).collect();
            for (id, got) in model.logits(&terms, &all).into_iter().enumerate() {
                let want = dot(&w, &features(id));
                assert!((f64::from(got) - want).abs() < 1e-4, "{step}: {got} {want}");
            }
        }
        assert!(model.is_sound() && model.vocab() == VOCAB && terms.len() == 40);
        assert!(
            source.iter().any(|s| s.len() == 1),
            "an empty one is among them"
        );
    }

    #[test]
    fn it_learns_which_sentences_have_a_hard_word_and_knows_how_well() {
        let (source, target) = (sentences(600, 3), sentences(600, 4));
        let (terms, _) = terms([&source, &target]);
        let hard = |id: u32| target[id as usize].contains(&7);
        let mut model = TermModel::new(VOCAB);
        for step in 0..2000u64 {
            let ids: Vec<u32> = (0..32).map(|i| (hash(6, step, i) % 400) as u32).collect();
            let losses: Vec<f32> = ids.iter().map(|&id| f32::from(hard(id))).collect();
            model.learn(&terms, &ids, &losses);
        }
        let unseen: Vec<u32> = (400..600).collect();
        let logits = model.logits(&terms, &unseen);
        let right = logits.iter().zip(&unseen);
        let right = right.filter(|(l, id)| (**l > 0.0) == hard(**id)).count();
        assert!(right > 190, "{right}");
        assert!(model.confidence() > 0.95, "{}", model.confidence());
        // What no word tells cannot be foretold.
        for step in 0..500u64 {
            let ids: Vec<u32> = (0..32).map(|i| (hash(7, step, i) % 400) as u32).collect();
            let losses: Vec<f32> = (0..32).map(|i| (hash(8, step, i) % 2) as f32).collect();
            model.learn(&terms, &ids, &losses);
        }
        assert!(
            (model.confidence() - 0.5).abs() < 0.1,
            "{}",
            model.confidence()
        );
    }

    #[test]
    fn operations_are_counted_from_what_there_is() {
        let sentence = |tokens: &[i32]| [tokens, &[EOS]].concat();
        let source = [sentence(&[4, 5, 4]), sentence(&[])];
        let target = [sentence(&[6]), sentence(&[5, 6, 7])];
        let (terms, _) = terms([&source, &target]);
        // 3 and 3 different tokens.
        assert_eq!(TermModel::logits_ops(&terms, &[0, 1]), 3 * 6 + 14 * 2);
        assert_eq!(TermModel::logits_ops(&terms, &[0]), 3 * 3 + 14);
        let learn = 46 + (2 * 2 + 7) + 3 * 6 + 2 * (10 + 24 + 5) + 4 * 83 + 5;
        assert_eq!(TermModel::new(VOCAB).learn_ops(&terms, &[0, 1]), learn);
    }
}
