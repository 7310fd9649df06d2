//! Batches by padded tokens: instances are selected first, then put beside others of about their
//! length.
//!
//! Padded lengths are multiples of [`STEP`] and so are, but for full batches, the numbers of
//! sentences: there are few shapes, each of which an executor records once.

use super::TextError;
use crate::data::pairs::{PairShape, SentencePairs};

/// What padded lengths are multiples of.
pub const STEP: usize = 8;

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most sentence pairs B, at least 1.
    pub sentences: usize,
    /// Most padded tokens, `B·(S + T)`.
    pub max_tokens: usize,
}

impl BatchLimits {
    /// How many pairs of these padded lengths make a full batch.
    fn capacity(self, [source, target]: [usize; 2]) -> usize {
        self.sentences.min(self.max_tokens / (source + target))
    }
}

/// A sentence's length after padding, if it is the longest of its batch.
pub fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(STEP)
}

/// Batches of these pairs with their padded shapes; each pair is in as many as it has places in
/// `ids`. Pairs of equal padded lengths stay in order; batches follow each other as the shortest
/// pairs of each do in `ids`, so that shuffled pairs make batches that are not sorted by length.
///
/// # Errors
/// [`TextError::PairTooLarge`] if a pair alone has more padded tokens than a batch may have.
pub fn batches(
    pairs: &SentencePairs,
    ids: &[u32],
    limits: BatchLimits,
) -> Result<Vec<(Vec<u32>, PairShape)>, TextError> {
    let lengths = |place: usize| {
        let id = ids[place] as usize;
        [pairs.source(), pairs.target()].map(|side| side.get(id).len())
    };
    let mut places: Vec<usize> = (0..ids.len()).collect();
    // By one length, then to and fro by the other: neighbours are alike in both.
    places.sort_by_cached_key(|&place| {
        let [source, target] = lengths(place).map(|length| length.div_ceil(STEP) as isize);
        (source, if source % 2 == 0 { -target } else { target })
    });

    let mut batches: Vec<(usize, Vec<u32>, [usize; 2])> = Vec::new();
    for place in places {
        let own = lengths(place).map(padded);
        if limits.capacity(own) == 0 {
            let [source_tokens, target_tokens] = lengths(place);
            return Err(TextError::PairTooLarge {
                source_tokens,
                target_tokens,
                max_tokens: limits.max_tokens,
            });
        }
        if let Some((_, batch, longest)) = batches.last_mut() {
            let both = [own[0].max(longest[0]), own[1].max(longest[1])];
            if batch.len() < limits.capacity(both) {
                batch.push(ids[place]);
                *longest = both;
                continue;
            }
        }
        batches.push((place, vec![ids[place]], own));
    }
    batches.sort_by_key(|(first, ..)| *first);
    let shaped = batches.into_iter().map(|(_, batch, longest)| {
        let full = limits.capacity(longest);
        let shape = PairShape {
            sentences: batch.len().next_multiple_of(STEP).min(full),
            source: longest[0],
            target: longest[1],
        };
        (batch, shape)
    });
    Ok(shaped.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::pairs::{EOS, Sentences};

    fn pairs(lengths: &[(usize, usize)]) -> SentencePairs {
        let sentence = |n: usize| {
            let mut tokens = vec![7; n];
            tokens[n - 1] = EOS;
            tokens
        };
        let side = |n: &dyn Fn(&(usize, usize)) -> usize| -> Sentences {
            let sentences: Vec<_> = lengths.iter().map(|l| sentence(n(l))).collect();
            sentences.iter().map(Vec::as_slice).collect()
        };
        SentencePairs::new(side(&|l| l.0), side(&|l| l.1))
    }

    fn shape(sentences: usize, source: usize, target: usize) -> PairShape {
        PairShape {
            sentences,
            source,
            target,
        }
    }

    #[test]
    fn alike_go_together_in_order() {
        let pairs = pairs(&[(3, 4), (30, 25), (8, 8), (9, 2), (31, 26), (1, 1), (10, 3)]);
        let limits = BatchLimits {
            sentences: 2,
            max_tokens: 128,
        };
        let found = batches(&pairs, &[5, 4, 6, 2, 1, 3, 0, 2], limits).unwrap();
        assert_eq!(
            found,
            [
                (vec![5, 2], shape(2, 8, 8)),
                (vec![4, 1], shape(2, 32, 32)),
                (vec![6, 3], shape(2, 16, 8)),
                (vec![0, 2], shape(2, 8, 8)),
            ]
        );
        assert_eq!(batches(&pairs, &[], limits).unwrap(), []);
    }

    #[test]
    fn a_pair_may_fill_a_batch_but_not_pass_it() {
        let pairs = pairs(&[(3, 4), (30, 25)]);
        let limits = |max_tokens| BatchLimits {
            sentences: 64,
            max_tokens,
        };
        let found = batches(&pairs, &[0, 1], limits(64)).unwrap();
        let expected = [(vec![0], shape(4, 8, 8)), (vec![1], shape(1, 32, 32))];
        assert_eq!(found, expected);
        let error = batches(&pairs, &[0, 1], limits(63))
            .unwrap_err()
            .to_string();
        for says in ["30 and 25 tokens", "63", "--max-tokens"] {
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn all_are_there_once_within_the_limits(
            lengths in prop::collection::vec((1usize..60, 1usize..60), 1..80),
            sentences in 1usize..40,
            max_tokens in 128usize..2000,
        ) {
            let pairs = pairs(&lengths);
            let ids: Vec<u32> = (0..lengths.len() as u32).rev().collect();
            let limits = BatchLimits { sentences, max_tokens };
            let found = batches(&pairs, &ids, limits).unwrap();
            let mut all: Vec<u32> = Vec::new();
            for (batch, shape) in &found {
                prop_assert!(!batch.is_empty() && batch.len() <= shape.sentences);
                prop_assert!(shape.sentences <= sentences);
                prop_assert!(shape.sentences * (shape.source + shape.target) <= max_tokens);
                prop_assert!(shape.source % STEP == 0 && shape.target % STEP == 0);
                // Whatever cannot hold its pairs panics.
                pairs.batch(batch, *shape);
                all.extend(batch);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
        }
    }
}
