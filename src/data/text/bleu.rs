//! Corpus BLEU (Papineni et al., 2002), number for number as sacreBLEU (Post, 2018) computes it
//! with its defaults: tokenizer 13a, cased, exponential smoothing, all four orders whatever the
//! lengths.

use std::collections::HashMap;

use crate::rng::Stream;

/// Longest n-grams counted.
const ORDERS: usize = 4;

/// How a score came about, in sacreBLEU's words.
pub const SIGNATURE: &str = concat!(
    "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:autoassist-",
    env!("CARGO_PKG_VERSION")
);

/// A score and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Smoothed share, in percent, of the hypotheses' 1-, 2-, 3- and 4-grams that the references
    /// have, too.
    pub precisions: [f64; ORDERS],
    /// Factor for hypotheses that are shorter than the references.
    pub brevity_penalty: f64,
    /// Words of the hypotheses.
    pub hypothesis_len: usize,
    /// Words of the references.
    pub reference_len: usize,
}

/// BLEU of translations against one reference each. No sentences have the score 0.
///
/// # Panics
/// If there are not as many of both: a bug in the caller.
pub fn bleu<H: AsRef<str>, R: AsRef<str>>(hypotheses: &[H], references: &[R]) -> Bleu {
    let counts = counts(hypotheses, references);
    score(counts.iter().fold(Counts::default(), Counts::and))
}

/// Standard error of a score that a finite test set leaves: that of `samples` test sets drawn from
/// the sentences of this one with replacement (the bootstrap; Koehn, 2004).
///
/// # Panics
/// As [`bleu`].
pub fn standard_error<H, R>(hypotheses: &[H], references: &[R], samples: u32) -> f64
where
    H: AsRef<str>,
    R: AsRef<str>,
{
    let counts = counts(hypotheses, references);
    let mut random = Stream::new(0, 0, 0);
    let mut draw = || {
        let picks = (0..counts.len()).map(|_| random.below(counts.len() as u64) as usize);
        score(picks.fold(Counts::default(), |sum, i| sum.and(&counts[i]))).score
    };
    let scores: Vec<f64> = (0..samples).map(|_| draw()).collect();
    let n = f64::from(samples);
    let mean = scores.iter().sum::<f64>() / n;
    let squares: f64 = scores.iter().map(|s| (s - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}

/// What a score is made of, for one sentence or for many.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// n-grams of hypotheses that the references have, too, and all.
    correct: [usize; ORDERS],
    total: [usize; ORDERS],
    hypothesis_len: usize,
    reference_len: usize,
}

impl Counts {
    fn and(mut self, other: &Counts) -> Counts {
        for n in 0..ORDERS {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
        self.hypothesis_len += other.hypothesis_len;
        self.reference_len += other.reference_len;
        self
    }
}

/// Of each sentence.
fn counts<H: AsRef<str>, R: AsRef<str>>(hypotheses: &[H], references: &[R]) -> Vec<Counts> {
    assert_eq!(
        hypotheses.len(),
        references.len(),
        "a reference for each translation"
    );
    let pairs = hypotheses.iter().zip(references);
    let of_one = |(hypothesis, reference): (&H, &R)| {
        let (hypothesis, reference) = (tokenize(hypothesis.as_ref()), tokenize(reference.as_ref()));
        let (hypothesis, reference) = (words(&hypothesis), words(&reference));
        let mut counts = Counts {
            hypothesis_len: hypothesis.len(),
            reference_len: reference.len(),
            ..Counts::default()
        };
        for n in 1..=ORDERS {
            let there = ngrams(&reference, n);
            for (ngram, count) in ngrams(&hypothesis, n) {
                counts.total[n - 1] += count;
                counts.correct[n - 1] += count.min(there.get(ngram).copied().unwrap_or(0));
            }
        }
        counts
    };
    pairs.map(of_one).collect()
}

fn score(counts: Counts) -> Bleu {
    let Counts {
        correct,
        total,
        hypothesis_len,
        reference_len,
    } = counts;
    let brevity_penalty = match (hypothesis_len, reference_len) {
        (hypothesis, reference) if hypothesis >= reference => 1.0,
        (0, _) => 0.0,
        (hypothesis, reference) => (1.0 - reference as f64 / hypothesis as f64).exp(),
    };
    let mut bleu = Bleu {
        score: 0.0,
        precisions: [0.0; ORDERS],
        brevity_penalty,
        hypothesis_len,
        reference_len,
    };
    if correct == [0; ORDERS] {
        return bleu;
    }
    let mut smoothing = 1.0;
    let counts = correct.into_iter().zip(total);
    // An order that no hypothesis is long enough for has precision 0, and the score with it.
    for (precision, (correct, total)) in bleu.precisions.iter_mut().zip(counts) {
        if total == 0 {
            break;
        }
        *precision = if correct == 0 {
            smoothing *= 2.0;
            100.0 / (smoothing * total as f64)
        } else {
            100.0 * correct as f64 / total as f64
        };
    }
    let log_sum: f64 = bleu.precisions.iter().map(|p| p.ln()).sum();
    bleu.score = brevity_penalty * (log_sum / ORDERS as f64).exp();
    bleu
}

fn ngrams<'a, 'b>(words: &'a [&'b str], n: usize) -> HashMap<&'a [&'b str], usize> {
    let mut counts = HashMap::new();
    for ngram in words.windows(n) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// What Python's `str.split` and `str.rstrip` take for white space: Unicode's, and four separators
/// of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn words(tokenized: &str) -> Vec<&str> {
    tokenized
        .split(is_space)
        .filter(|w| !w.is_empty())
        .collect()
}

/// The tokenizer of mteval-v13a: tokens with white space between.
fn tokenize(sentence: &str) -> String {
    let mut line = sentence.trim_end_matches(is_space).replace("<skipped>", "");
    line = line.replace("-\n", "").replace('\n', " ");
    for (entity, character) in [
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ] {
        line = line.replace(entity, character);
    }
    let mut spaced = String::from(" ");
    for c in line.chars() {
        // Punctuation and symbols of ASCII, but for those that numbers and words have inside.
        if c.is_ascii_punctuation() && !"',-.".contains(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced.push(' ');
    let point = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    // Apart, unless between digits; and a dash after a digit.
    let line = pairs(
        &spaced,
        |a, b| !digit(a) && point(b),
        |a, b| [a, ' ', b, ' '],
    );
    let line = pairs(&line, |a, b| point(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    pairs(&line, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' '])
}

/// Replaces matching pairs of neighbours from left to right; none begins inside another, as with
/// regular expressions.
fn pairs(
    line: &str,
    matches: impl Fn(char, char) -> bool,
    replace: impl Fn(char, char) -> [char; 4],
) -> String {
    let mut replaced = String::with_capacity(2 * line.len());
    let mut rest = line.chars();
    while let Some(a) = rest.next() {
        match rest.clone().next() {
            Some(b) if matches(a, b) => {
                replaced.extend(replace(a, b));
                rest.next();
            }
            _ => replaced.push(a),
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[test]
    fn the_standard_error_is_that_of_a_mean_where_the_score_is_one() {
        // Of four words each, right or all wrong: BLEU is the share of right sentences, nearly.
        let references: Vec<String> = (0..400).map(|i| format!("a{i} b{i} c{i} d{i}")).collect();
        let hypotheses: Vec<&str> = (0..400)
            .map(|i| {
                if i % 4 == 0 {
                    "w x y z"
                } else {
                    references[i].as_str()
                }
            })
            .collect();
        let error = standard_error(&hypotheses, &references, 400);
        let expected = 100.0 * (0.75f64 * 0.25 / 400.0).sqrt();
        assert!((error / expected - 1.0).abs() < 0.15, "{error} {expected}");
        assert!(standard_error(&references, &references, 50) < 1e-9);
    }

    /// What sacreBLEU says of a corpus.
    #[derive(Deserialize)]
    struct Case {
        name: String,
        hypotheses: Vec<String>,
        references: Vec<String>,
        score: f64,
        precisions: [f64; ORDERS],
        bp: f64,
        sys_len: usize,
        ref_len: usize,
    }

    #[derive(Deserialize)]
    struct Fixture {
        signature: String,
        corpora: Vec<Case>,
        /// Lines and their tokens.
        tokenized: Vec<[String; 2]>,
    }

    fn fixture() -> Fixture {
        let json = include_str!("../../../tests/fixtures/bleu.json");
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9;
        let fixture = fixture();
        assert!(fixture.corpora.len() >= 10);
        for case in fixture.corpora {
            let found = bleu(&case.hypotheses, &case.references);
            let name = case.name;
            assert!(
                close(found.score, case.score),
                "{name}: {found:?} {}",
                case.score
            );
            for (a, b) in found.precisions.into_iter().zip(case.precisions) {
                assert!(close(a, b), "{name}: {found:?} {:?}", case.precisions);
            }
            assert!(close(found.brevity_penalty, case.bp), "{name}: {found:?}");
            assert_eq!(
                (found.hypothesis_len, found.reference_len),
                (case.sys_len, case.ref_len),
                "{name}"
            );
        }
        let ours = SIGNATURE.rsplit_once(':').unwrap().0;
        assert_eq!(ours, fixture.signature.rsplit_once(':').unwrap().0);
    }

    /// The scores that sacreBLEU 2.6 gives.
    #[test]
    fn empty_lines_count_as_what_they_are() {
        let (hypotheses, references) = (["a b c d e", "q", "x y"], ["a b c d e", "", "x y"]);
        assert!((bleu(&hypotheses, &references).score - 96.71682101338351).abs() < 1e-9);
        let (hypotheses, references) = (["a b c d e", "x", ""], ["a b c d e", "", "y z"]);
        assert!((bleu(&hypotheses, &references).score - 80.87648627794573).abs() < 1e-9);
        assert_eq!(bleu(&["", ""], &["", ""]).score, 0.0);
    }

    #[test]
    fn tokens_are_those_of_13a() {
        let fixture = fixture();
        assert!(fixture.tokenized.len() >= 50);
        for [line, tokens] in fixture.tokenized {
            assert_eq!(words(&tokenize(&line)).join(" "), tokens, "{line:?}");
        }
    }

    #[test]
    fn nothing_scores_nothing() {
        let none: [&str; 0] = [];
        assert_eq!(bleu(&none, &none).score, 0.0);
        let empty = bleu(&[""], &["a b"]);
        assert_eq!((empty.score, empty.brevity_penalty), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn scores_are_in_bounds_and_a_copy_scores_all(
            sentences in prop::collection::vec("[a-c.,&;0-2 -]{0,30}", 1..8),
            others in prop::collection::vec("[a-c.,&;0-2 -]{0,30}", 8),
        ) {
            let others = &others[..sentences.len()];
            let score = bleu(&sentences, others).score;
            prop_assert!((0.0..=100.0 + 1e-9).contains(&score), "{}", score);
            let copy = bleu(&sentences, &sentences);
            let longest = sentences.iter().map(|s| words(&tokenize(s)).len()).max().unwrap();
            let expected = if longest >= ORDERS { 100.0 } else { 0.0 };
            prop_assert!((copy.score - expected).abs() < 1e-9, "{:?}", copy);
        }
    }
}
