//! Pairs of tokenised sentences, as executors hold them, and batches of them.

/// Padding: the token that `<pad>` is in fairseq's dictionaries.
pub const PAD: i32 = 1;
/// End of sentence, with which the decoder's input starts, too.
pub const EOS: i32 = 2;
/// Label of a token that the loss ignores.
pub const IGNORED: i32 = -100;

/// Sentences one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentences {
    tokens: Vec<i32>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Sentences {
    /// Adds one.
    ///
    /// # Panics
    /// If it does not end with [`EOS`], or all would have more than 2³² tokens.
    pub fn push(&mut self, tokens: &[i32]) {
        assert_eq!(tokens.last(), Some(&EOS), "sentences end with {EOS}");
        self.tokens.extend(tokens);
        let end = u32::try_from(self.tokens.len());
        self.ends.push(end.expect("less than 2^32 tokens"));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of one, [`EOS`] included.
    ///
    /// # Panics
    /// If there is no such sentence.
    pub fn get(&self, index: usize) -> &[i32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.tokens[start as usize..self.ends[index] as usize]
    }

    /// Tokens of the longest; 0 if there are none.
    pub fn longest(&self) -> usize {
        (0..self.len())
            .map(|i| self.get(i).len())
            .max()
            .unwrap_or(0)
    }

    /// All tokens.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Where each sentence ends in [`tokens`](Sentences::tokens).
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}

impl<'a> FromIterator<&'a [i32]> for Sentences {
    fn from_iter<I: IntoIterator<Item = &'a [i32]>>(sentences: I) -> Sentences {
        let mut all = Sentences::default();
        sentences.into_iter().for_each(|s| all.push(s));
        all
    }
}

/// Sentences with their translations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentencePairs {
    source: Sentences,
    target: Sentences,
}

/// A batch of padded sentence pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairShape {
    /// Sentence pairs B.
    pub sentences: usize,
    /// Padded length of the sources S.
    pub source: usize,
    /// Padded length of the targets T.
    pub target: usize,
}

/// What a network reads of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairLabels {
    /// `[B, S]`, filled up with [`PAD`].
    pub source: Vec<i32>,
    /// `[B]`: tokens of each source.
    pub source_len: Vec<i32>,
    /// `[B, T]`: [`EOS`], then the target without its last token, filled up with [`PAD`].
    pub previous: Vec<i32>,
    /// `[B]`: tokens of each target.
    pub target_len: Vec<i32>,
    /// `[B, T]`, filled up with [`IGNORED`].
    pub target: Vec<i32>,
}

impl SentencePairs {
    /// # Panics
    /// If they are not as many on both sides: a bug in the reader.
    pub fn new(source: Sentences, target: Sentences) -> SentencePairs {
        assert_eq!(
            source.len(),
            target.len(),
            "a translation for each sentence"
        );
        SentencePairs { source, target }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// The sentences of the first language.
    pub fn source(&self) -> &Sentences {
        &self.source
    }

    /// Their translations.
    pub fn target(&self) -> &Sentences {
        &self.target
    }

    /// The padded batch of these pairs. Rows past the last have an [`EOS`] as their source and
    /// previous token, and nothing that the loss looks at.
    ///
    /// # Panics
    /// If there are more pairs, or longer ones, than the shape has room for, or no such pairs: bugs
    /// in whoever makes batches.
    pub fn batch(&self, ids: &[u32], shape: PairShape) -> PairLabels {
        let PairShape {
            sentences,
            source,
            target,
        } = shape;
        assert!(ids.len() <= sentences, "{} pairs for {shape:?}", ids.len());
        let mut batch = PairLabels {
            source: vec![PAD; sentences * source],
            source_len: vec![1; sentences],
            previous: vec![PAD; sentences * target],
            target_len: vec![1; sentences],
            target: vec![IGNORED; sentences * target],
        };
        for row in 0..sentences {
            let id = ids.get(row).map(|id| *id as usize);
            let (from, to) = id.map_or((&[EOS][..], &[][..]), |id| {
                (self.source.get(id), self.target.get(id))
            });
            assert!(
                from.len() <= source && to.len() <= target,
                "{} and {} tokens for {shape:?}",
                from.len(),
                to.len()
            );
            batch.source[row * source..][..from.len()].copy_from_slice(from);
            batch.source_len[row] = from.len() as i32;
            let previous = &mut batch.previous[row * target..][..to.len().max(1)];
            previous[0] = EOS;
            previous[1..].copy_from_slice(&to[..to.len().saturating_sub(1)]);
            batch.target_len[row] = to.len().max(1) as i32;
            batch.target[row * target..][..to.len()].copy_from_slice(to);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> SentencePairs {
        let source = [&[7, 8, EOS][..], &[EOS], &[9, EOS]];
        let target = [&[5, EOS][..], &[4, 6, EOS], &[EOS]];
        SentencePairs::new(source.into_iter().collect(), target.into_iter().collect())
    }

    #[test]
    fn sentences_come_back_as_they_were_put_in() {
        let pairs = pairs();
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs.source().get(0), [7, 8, EOS]);
        assert_eq!(pairs.source().get(1), [EOS]);
        assert_eq!(pairs.target().get(2), [EOS]);
        assert_eq!(pairs.target().ends(), [2, 5, 6]);
    }

    #[test]
    fn batches_are_padded_shifted_and_filled_up() {
        let shape = PairShape {
            sentences: 3,
            source: 4,
            target: 3,
        };
        let batch = pairs().batch(&[1, 0], shape);
        let expected = PairLabels {
            source: vec![EOS, PAD, PAD, PAD, 7, 8, EOS, PAD, EOS, PAD, PAD, PAD],
            source_len: vec![1, 3, 1],
            previous: vec![EOS, 4, 6, EOS, 5, PAD, EOS, PAD, PAD],
            target_len: vec![3, 2, 1],
            target: vec![4, 6, EOS, 5, EOS, IGNORED, IGNORED, IGNORED, IGNORED],
        };
        assert_eq!(batch, expected);
    }

    #[test]
    #[should_panic(expected = "3 and 2 tokens")]
    fn a_sentence_that_is_too_long_is_not_cut() {
        let shape = PairShape {
            sentences: 1,
            source: 2,
            target: 3,
        };
        pairs().batch(&[0], shape);
    }
}
