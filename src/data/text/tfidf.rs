//! Sentences as bags of tokens: how much of a sentence each token is, and that weighted by how
//! rare the token is in the training text (tf-idf; Salton and Buckley, 1988).

use crate::data::pairs::{EOS, Sentences};

/// A token of a sentence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Its number.
    pub token: u32,
    /// Its share of the sentence: the shares of a sentence add up to 1, so that their products with
    /// weights of terms add up to the mean weight.
    pub share: f32,
    /// Count times inverse document frequency, divided by the Euclidean norm of all such of the
    /// sentence.
    pub tfidf: f32,
}

/// Inverse document frequencies of a vocabulary in one side of the training text.
#[derive(Clone, Debug, PartialEq)]
pub struct TermWeights {
    idf: Vec<f32>,
}

impl TermWeights {
    /// Of these training sentences, over a vocabulary of `vocab` tokens: `idf = 1 + ln((1 + n)/(1 +
    /// df))` for `n` sentences of which `df` have the token; as in scikit-learn.
    ///
    /// # Panics
    /// If a sentence has a token that is not in the vocabulary: a bug in the tokenizer's user.
    pub fn new(sentences: &Sentences, vocab: usize) -> TermWeights {
        let mut frequency = vec![0usize; vocab];
        // Which sentence was the last to have a token, from 1.
        let mut seen = vec![0; vocab];
        for sentence in 0..sentences.len() {
            for &token in content(sentences.get(sentence)) {
                let token = token as usize;
                if seen[token] != sentence + 1 {
                    seen[token] = sentence + 1;
                    frequency[token] += 1;
                }
            }
        }
        let n = sentences.len();
        let idf = |df: usize| (1.0 + ((1 + n) as f64 / (1 + df) as f64).ln()) as f32;
        TermWeights {
            idf: frequency.into_iter().map(idf).collect(),
        }
    }

    /// Inverse document frequency of each token, `[vocab]`.
    pub fn idf(&self) -> &[f32] {
        &self.idf
    }

    /// The terms of a sentence of tokens, each once, by ascending token. The end of the sentence is
    /// none of them. They replace what is in `terms`.
    ///
    /// # Panics
    /// If a token is not in the vocabulary: a bug in the tokenizer's user.
    pub fn terms(&self, sentence: &[i32], terms: &mut Vec<Term>) {
        terms.clear();
        let content = content(sentence);
        terms.extend(content.iter().map(|&token| Term {
            token: token as u32,
            share: 1.0,
            tfidf: 0.0,
        }));
        terms.sort_unstable_by_key(|term| term.token);
        terms.dedup_by(|next, first| {
            let same = next.token == first.token;
            first.share += if same { next.share } else { 0.0 };
            same
        });
        let mut squares = 0.0;
        for term in terms.iter_mut() {
            term.tfidf = term.share * self.idf[term.token as usize];
            squares += term.tfidf * term.tfidf;
        }
        let norm = squares.sqrt();
        for term in terms.iter_mut() {
            term.share /= content.len() as f32;
            term.tfidf /= norm;
        }
    }
}

/// A sentence without its end.
fn content(sentence: &[i32]) -> &[i32] {
    sentence.strip_suffix(&[EOS]).unwrap_or(sentence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_are_those_of_the_definition() {
        let text: Sentences = [&[5, 4, 5, EOS][..], &[5, 6, EOS], &[5, EOS], &[EOS]]
            .into_iter()
            .collect();
        let weights = TermWeights::new(&text, 8);
        let idf = |df: f32| 1.0 + (5.0 / (1.0 + df)).ln();
        let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 1.0, 0.0].map(idf);
        for (a, b) in weights.idf().iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{:?}", weights.idf());
        }
        let mut terms = Vec::new();
        weights.terms(text.get(0), &mut terms);
        let (rare, common) = (idf(1.0), 2.0 * idf(3.0));
        let norm = (rare * rare + common * common).sqrt();
        let expected = [(4, 1.0 / 3.0, rare / norm), (5, 2.0 / 3.0, common / norm)];
        assert_eq!(terms.len(), 2);
        for (term, (token, share, tfidf)) in terms.iter().zip(expected) {
            assert_eq!(term.token, token);
            assert!((term.share - share).abs() < 1e-6 && (term.tfidf - tfidf).abs() < 1e-6);
        }
        weights.terms(&[EOS], &mut terms);
        assert_eq!(terms, []);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_vectors_are_of_length_one(
            sentences in prop::collection::vec(prop::collection::vec(3i32..20, 1..30), 1..10),
        ) {
            let ended: Vec<Vec<i32>> =
                sentences.iter().map(|s| [s.as_slice(), &[EOS]].concat()).collect();
            let text: Sentences = ended.iter().map(Vec::as_slice).collect();
            let weights = TermWeights::new(&text, 20);
            let mut terms = Vec::new();
            for sentence in &ended {
                weights.terms(sentence, &mut terms);
                prop_assert!(terms.is_sorted_by(|a, b| a.token < b.token));
                let share: f32 = terms.iter().map(|t| t.share).sum();
                let square: f32 = terms.iter().map(|t| t.tfidf * t.tfidf).sum();
                prop_assert!((share - 1.0).abs() < 1e-5 && (square - 1.0).abs() < 1e-5);
            }
        }
    }
}
