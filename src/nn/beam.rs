//! Translation: beam search (with one beam, greedy), batched, token by token, with what each network
//! keeps of earlier tokens.
//!
//! All hypotheses of a batch are rows of one product. Those of a sentence are neighbours, so that
//! to the encoder's output they are queries of one sentence, and it is kept once. Where hypotheses
//! change places, so does what is kept of them.

use super::network::{Bound, Network, Room};
use crate::backend::sequence::Sequence;
use crate::backend::{DeviceError, Kind, Tensor};
use crate::data::pairs::{EOS, PAD, PairShape};
use rayon::prelude::*;

/// How a translation is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchSpec {
    /// Hypotheses of a sentence; 1 is greedy.
    pub beams: usize,
    /// Most tokens of a translation, [`EOS`] included; that of a short sentence has fewer, see
    /// [`longest_translation`].
    pub most: usize,
    /// Hypotheses are compared by their log-probability over `length^penalty`.
    pub penalty: f32,
}

/// Most tokens of the translation of a source of so many, if there are places for them: a network
/// that has learnt little goes on and on, which takes time and memory and never helps.
pub fn longest_translation(source: usize) -> usize {
    3 * source + 10
}

impl SearchSpec {
    fn most_of(&self, source: usize) -> usize {
        self.most.min(longest_translation(source))
    }
}

/// Tokens of hypotheses whose keys and values are kept at a time, unless one sentence needs more.
const KEPT: usize = 1 << 15;

/// A translation.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens; the last is [`EOS`] unless there was no room for it.
    pub tokens: Vec<i32>,
    /// Log-probability over `length^penalty`.
    pub score: f32,
}

/// Hypotheses that are being extended, all by one token at a time.
#[derive(Clone, Copy)]
pub(super) struct Hypotheses<'a> {
    /// Their sentences, encoded.
    pub bound: &'a Bound<'a>,
    /// Hypotheses of a sentence, which are neighbours.
    pub beams: usize,
    /// Most tokens of one.
    pub most: usize,
}

impl Hypotheses<'_> {
    /// How many.
    pub fn rows(&self) -> usize {
        self.bound.shape.sentences * self.beams
    }
}

/// A decoder that keeps the past: what a network knows of hypotheses beside their last tokens.
pub(super) trait Decoding: Send {
    /// Begins with sentences that are encoded.
    fn begin(&mut self, exec: &mut dyn Sequence, all: Hypotheses) -> Result<(), DeviceError>;
    /// From their last `tokens` `[1, 1, R, 1]`, number `place`, the logits `[1, R, 1, V]` of what
    /// follows them.
    fn step(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        place: usize,
        tokens: Tensor,
    ) -> Result<Tensor, DeviceError>;
    /// Hypothesis r, of `places` tokens, now is what `parents[r]` was.
    fn follow(
        &mut self,
        exec: &mut dyn Sequence,
        all: Hypotheses,
        places: usize,
        parents: &[usize],
    ) -> Result<(), DeviceError>;
}

/// A network's decoder with memory for the past.
pub struct BeamSearch {
    spec: SearchSpec,
    /// Sentences at a time, and tokens of their hypotheses.
    sentences: usize,
    kept: usize,
    decoding: Box<dyn Decoding>,
    tokens: Tensor,
}

impl BeamSearch {
    /// Allocates for as many sentences at a time as the network's own activations allow.
    ///
    /// # Panics
    /// If they do not allow one, or there is no place for so many tokens: bugs in the caller.
    pub fn new(exec: &mut dyn Sequence, net: &Network, spec: SearchSpec) -> BeamSearch {
        let Room {
            sentences,
            target,
            places,
            ..
        } = net.room;
        let sentences = sentences.min(target / spec.beams);
        assert!(spec.beams >= 1 && sentences >= 1, "{} beams", spec.beams);
        assert!(spec.most <= places, "{} tokens", spec.most);
        let rows = sentences * spec.beams;
        let kept = (rows * spec.most).min(KEPT.max(spec.beams * spec.most));
        BeamSearch {
            spec,
            sentences,
            kept,
            decoding: net.layers.decoding(exec, rows, kept),
            tokens: exec.alloc(Kind::Label, [1, 1, 1, rows]),
        }
    }

    /// The best translation found of each source (which ends with [`EOS`]), in their order.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If a sentence is longer than the network was made for, or empty: a bug in the caller.
    pub fn translate(
        &mut self,
        exec: &mut dyn Sequence,
        net: &Network,
        sources: &[Vec<i32>],
    ) -> Result<Vec<Hypothesis>, DeviceError> {
        let mut all = Vec::with_capacity(sources.len());
        let mut rest = sources;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(self.batch(net, rest));
            all.extend(self.translate_batch(exec, net, batch)?);
            rest = after;
        }
        Ok(all)
    }

    /// How many of these there is room for at a time.
    fn batch(&self, net: &Network, sources: &[Vec<i32>]) -> usize {
        let mut longest = 0;
        let fits = |n: usize, longest: usize| {
            let hypotheses = n * self.spec.beams * self.spec.most_of(longest);
            n * longest <= net.room.source && hypotheses <= self.kept
        };
        let fitting = (1..)
            .zip(sources)
            .take(self.sentences)
            .take_while(|(n, s)| {
                longest = longest.max(s.len());
                fits(*n, longest)
            });
        // What does not fit alone is told from what does where it is bound.
        fitting.count().max(1)
    }

    fn translate_batch(
        &mut self,
        exec: &mut dyn Sequence,
        net: &Network,
        sources: &[Vec<i32>],
    ) -> Result<Vec<Hypothesis>, DeviceError> {
        let longest = sources.iter().map(Vec::len).max().expect("sentences");
        let bound = net.bind(PairShape {
            sentences: sources.len(),
            source: longest,
            target: 1,
        });
        let padded: Vec<i32> = sources
            .iter()
            .flat_map(|s| {
                let padding = std::iter::repeat(PAD);
                s.iter().copied().chain(padding).take(longest)
            })
            .collect();
        let lengths: Vec<i32> = sources.iter().map(|s| s.len() as i32).collect();
        exec.write_labels(bound.pairs.source, &padded)?;
        exec.write_labels(bound.pairs.source_len, &lengths)?;
        bound.encode(exec, false);
        let beams = self.spec.beams;
        let all = Hypotheses {
            bound: &bound,
            beams,
            most: self.spec.most_of(longest),
        };
        self.decoding.begin(exec, all)?;
        let begun = |s: &Vec<i32>| Sentence::new(beams, self.spec.most_of(s.len()));
        let mut sentences: Vec<Sentence> = sources.iter().map(begun).collect();
        let tokens = self.tokens.view(0, [1, 1, all.rows(), 1]);
        for place in 0..all.most {
            let alive = sentences.iter().flat_map(|s| &s.alive);
            let last: Vec<i32> = alive.map(|h| *h.tokens.last().unwrap_or(&EOS)).collect();
            exec.write_labels(tokens, &last)?;
            let logits = self.decoding.step(exec, all, place, tokens)?;
            let logits = exec.read(logits)?;
            let rows = logits.par_chunks(beams * net.config.vocab());
            sentences
                .par_iter_mut()
                .zip(rows)
                .for_each(|(s, logits)| s.extend(logits, place + 1, self.spec));
            if sentences.iter().all(|s| s.ended) {
                break;
            }
            let parents = sentences.iter().enumerate().flat_map(|(b, s)| {
                let parent = move |h: &Partial| b * beams + h.parent;
                s.alive.iter().map(parent)
            });
            let parents: Vec<usize> = parents.collect();
            self.decoding.follow(exec, all, place + 1, &parents)?;
        }
        Ok(sentences.into_iter().map(Sentence::best).collect())
    }
}

/// A hypothesis that has not ended.
#[derive(Clone, Debug)]
struct Partial {
    tokens: Vec<i32>,
    log_probability: f32,
    /// Which hypothesis of the step before it extends.
    parent: usize,
}

/// The search for one sentence's translation.
struct Sentence {
    /// Tokens that its translation may have.
    most: usize,
    alive: Vec<Partial>,
    ended: bool,
    finished: Vec<Hypothesis>,
}

impl Sentence {
    fn new(beams: usize, most: usize) -> Sentence {
        // All begin alike; only one of them may be extended, or all would stay alike.
        let start = |parent| Partial {
            tokens: Vec::new(),
            log_probability: if parent == 0 { 0.0 } else { f32::NEG_INFINITY },
            parent,
        };
        Sentence {
            most,
            alive: (0..beams).map(start).collect(),
            ended: false,
            finished: Vec::new(),
        }
    }

    /// Goes on to a translation of `length` tokens, given the logits `[beams, V]` of the last. As fairseq does it,
    /// but that no token is ruled out (there padding is, and the end as the first token), and that
    /// what has become too long is cut (there it has to end): with one beam it is plain argmax.
    /// Of the 2·beams best continuations those among the first `beams` that end are translations,
    /// and the first `beams` that do not end go on; it is over when there are `beams` translations.
    fn extend(&mut self, logits: &[f32], length: usize, spec: SearchSpec) {
        if self.ended {
            return;
        }
        let (last, vocab) = (length == self.most, logits.len() / spec.beams);
        let mut best: Vec<(f32, usize, i32)> = Vec::new();
        for (beam, row) in logits.chunks(vocab).enumerate() {
            let before = self.alive[beam].log_probability;
            if before == f32::NEG_INFINITY {
                continue;
            }
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|z| (z - largest).exp()).sum();
            let base = before - largest - sum.ln();
            for (token, z) in row.iter().enumerate() {
                let score = base + z;
                let full = best.len() == 2 * spec.beams;
                if full && score <= best[best.len() - 1].0 {
                    continue;
                }
                // Equals keep their order.
                let at = best.partition_point(|(other, ..)| *other >= score);
                best.insert(at, (score, beam, token as i32));
                best.truncate(2 * spec.beams);
            }
        }
        let mut alive = Vec::with_capacity(spec.beams);
        for (rank, (score, beam, token)) in best.into_iter().enumerate() {
            let tokens = [&self.alive[beam].tokens[..], &[token]].concat();
            let ends = token == EOS || last;
            if ends && rank < spec.beams && self.finished.len() < spec.beams {
                let score = score / (tokens.len() as f32).powf(spec.penalty);
                self.finished.push(Hypothesis { tokens, score });
            } else if !ends && alive.len() < spec.beams {
                alive.push(Partial {
                    tokens,
                    log_probability: score,
                    parent: beam,
                });
            }
        }
        self.ended = last || self.finished.len() == spec.beams;
        if !self.ended {
            // A vocabulary smaller than the beams leaves some without a hypothesis.
            alive.resize_with(spec.beams, || Partial {
                tokens: Vec::new(),
                log_probability: f32::NEG_INFINITY,
                parent: 0,
            });
            self.alive = alive;
        } else {
            (0..).zip(&mut self.alive).for_each(|(i, h)| h.parent = i);
        }
    }

    fn best(self) -> Hypothesis {
        let finished = self.finished.into_iter();
        finished
            .reduce(|best, other| {
                if other.score > best.score {
                    other
                } else {
                    best
                }
            })
            .expect("the last token ends all")
    }
}
