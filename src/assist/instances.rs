//! What is known of the training instances before training: their classes, what training on each
//! costs, a few cheap numbers about each input, and the inputs themselves.

use super::terms::Terms;
use crate::data::Images;
use crate::data::pairs::{SentencePairs, Sentences};
use crate::data::text::tfidf::{Term, TermWeights};
use rayon::prelude::*;
use std::sync::Arc;

/// The training set as the Assistant sees it.
#[derive(Clone, Debug)]
pub struct Instances {
    /// Class of each instance, `[N]`, each below `n_classes`.
    pub classes: Vec<u32>,
    /// Number of classes.
    pub n_classes: usize,
    /// Input features, `[N, F]` row-major, each of mean 0 and variance 1 over the set.
    pub features: Vec<f32>,
    /// Operations of training on each alone, `[N]`, none of them 0; or all 1 if they are equal.
    pub costs: Vec<u64>,
    /// The inputs, for a preset that reads them.
    pub inputs: Inputs,
}

/// The inputs of the training set.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// They are not known.
    None,
    /// Images, with the classes as their labels.
    Images(Arc<Images>),
    /// What sentence pairs consist of.
    Sentences(Arc<Terms>),
}

/// Features of a sentence pair.
const PAIR_FEATURES: usize = 6;

impl Instances {
    /// Pools each image into `2·C + 2` numbers: mean and standard deviation of each channel, and
    /// the mean absolute difference of neighbours, across and down.
    pub fn from_images(images: &Arc<Images>) -> Instances {
        let width = 2 * images.channels + 2;
        let mut features: Vec<f32> = (0..images.len())
            .into_par_iter()
            .flat_map_iter(|id| pool(images, id))
            .collect();
        standardise(&mut features, width);
        Instances {
            classes: images.labels.clone(),
            n_classes: images.labels.iter().max().map_or(0, |&c| c as usize + 1),
            features,
            costs: vec![1; images.len()],
            inputs: Inputs::Images(images.clone()),
        }
    }

    /// Sentence pairs over a vocabulary of `vocab` tokens, which cost `costs` (`[N]`); all of one
    /// class. Their features: the logarithms of both lengths, how far these are apart, the mean
    /// inverse document frequency of each side, and the share of the target's tokens that the
    /// source has, too (names and numbers).
    ///
    /// # Panics
    /// If a token is not in the vocabulary: a bug in the tokenizer's user.
    pub fn from_pairs(pairs: &SentencePairs, costs: Vec<u64>, vocab: usize) -> Instances {
        let sides = [pairs.source(), pairs.target()];
        let weights = sides.map(|side| TermWeights::new(side, vocab));
        let mut terms = Terms::new(vocab);
        let mut features = Vec::with_capacity(PAIR_FEATURES * pairs.len());
        let mut row = [Vec::new(), Vec::new()];
        for id in 0..pairs.len() {
            for ((weights, side), terms) in weights.iter().zip(sides).zip(&mut row) {
                weights.terms(side.get(id), terms);
            }
            terms.push([&row[0], &row[1]]);
            let length = |side: &Sentences| (side.get(id).len() as f32).ln();
            let [source, target] = sides.map(length);
            let rarity = |side: usize| -> f32 {
                let idf = |term: &Term| term.share * weights[side].idf()[term.token as usize];
                row[side].iter().map(idf).sum()
            };
            let apart = (source - target).abs();
            let copied = copied(&row[0], &row[1]);
            let all: [f32; PAIR_FEATURES] = [source, target, apart, rarity(0), rarity(1), copied];
            features.extend(all);
        }
        standardise(&mut features, PAIR_FEATURES);
        Instances {
            classes: vec![0; pairs.len()],
            n_classes: 1,
            features,
            costs,
            inputs: Inputs::Sentences(Arc::new(terms)),
        }
    }

    /// Number of instances, N.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Number of input features, F.
    pub fn width(&self) -> usize {
        self.features.len() / self.len().max(1)
    }

    /// Input features of one instance, `[F]`.
    pub(super) fn row(&self, id: usize) -> &[f32] {
        let width = self.width();
        &self.features[id * width..][..width]
    }
}

/// Share of the target's tokens that the source has, too; both by ascending token.
fn copied(source: &[Term], target: &[Term]) -> f32 {
    let has = |term: &&Term| {
        source
            .binary_search_by_key(&term.token, |t| t.token)
            .is_ok()
    };
    target.iter().filter(has).map(|term| term.share).sum()
}

fn pool(images: &Images, id: usize) -> Vec<f32> {
    let (channels, line) = (images.channels, images.width * images.channels);
    let pixels = images.image(id);
    // Whole numbers below 2⁶⁴: exact, so the order of summation is free.
    let mut sums = vec![(0u64, 0u64); channels];
    for pixel in pixels.chunks_exact(channels) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            let value = u64::from(value);
            sum.0 += value;
            sum.1 += value * value;
        }
    }
    let difference = |a: &[u8], b: &[u8]| -> u64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| u64::from(a.abs_diff(b)))
            .sum()
    };
    let (mut across, mut down) = (0, 0);
    for row in pixels.chunks_exact(line) {
        across += difference(&row[channels..], row);
    }
    if images.height > 1 {
        down = difference(&pixels[line..], pixels);
    }
    let area = (images.height * images.width) as f64;
    let mean = sums.iter().map(|s| s.0 as f64 / area);
    let deviation = sums.iter().map(|s| {
        let mean = s.0 as f64 / area;
        (s.1 as f64 / area - mean * mean).max(0.0).sqrt()
    });
    let edges = [across, down].map(|d| d as f64 / (area * channels as f64));
    mean.chain(deviation)
        .chain(edges)
        .map(|x| x as f32)
        .collect()
}

/// Gives each column mean 0 and variance 1; a constant column becomes 0.
fn standardise(features: &mut [f32], width: usize) {
    let rows = (features.len() / width) as f64;
    for column in 0..width {
        let values = features[column..]
            .iter()
            .step_by(width)
            .map(|&x| f64::from(x));
        let mean = values.clone().sum::<f64>() / rows;
        let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / rows;
        let scale = if variance > 1e-12 {
            1.0 / variance.sqrt()
        } else {
            0.0
        };
        for x in features[column..].iter_mut().step_by(width) {
            *x = ((f64::from(*x) - mean) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::EOS;

    fn pairs(all: &[(&[i32], &[i32])]) -> SentencePairs {
        let source = all.iter().map(|p| p.0).collect();
        SentencePairs::new(source, all.iter().map(|p| p.1).collect())
    }

    #[test]
    fn sentences_have_finite_standardised_features() {
        let some = [
            (&[7, 8, 9, EOS][..], &[10, 8, EOS][..]),
            (&[EOS], &[EOS]),
            (&[9, EOS], &[9, 11, 12, 13, 11, EOS]),
            (&[EOS], &[7, EOS]),
            (&[8, 8, EOS], &[EOS]),
        ];
        let instances = Instances::from_pairs(&pairs(&some), vec![3, 1, 5, 2, 2], 14);
        assert_eq!(
            (instances.len(), instances.width(), instances.n_classes),
            (5, 6, 1)
        );
        assert_eq!(instances.costs, [3, 1, 5, 2, 2]);
        for column in 0..6 {
            let values: Vec<f32> = (0..5).map(|id| instances.row(id)[column]).collect();
            let mean = values.iter().sum::<f32>() / 5.0;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / 5.0;
            assert!(
                mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4,
                "{values:?}"
            );
        }
        // One of two of the first target's tokens is copied, and one of five of the third's.
        let copied: Vec<f32> = (0..5).map(|id| instances.row(id)[5]).collect();
        assert!(copied[0] > copied[2] && copied[2] > copied[1]);
        assert_eq!((copied[1], copied[3]), (copied[3], copied[4]));
        let lone = Instances::from_pairs(&pairs(&[(&[EOS], &[EOS])]), vec![1], 3);
        assert_eq!(lone.features, [0.0; 6], "of one, all are constant");
    }

    fn images(n: usize, pixel: impl Fn(usize, usize) -> u8) -> Arc<Images> {
        let size = 4 * 3 * 2;
        Arc::new(Images {
            pixels: (0..n * size).map(|i| pixel(i / size, i % size)).collect(),
            labels: (0..n as u32).map(|i| i % 3).collect(),
            height: 4,
            width: 3,
            channels: 2,
            mean: vec![0.5; 2],
            std: vec![0.25; 2],
        })
    }

    #[test]
    fn features_are_standardised_and_constant_ones_vanish() {
        let instances = Instances::from_images(&images(50, |id, i| (id * 37 + i * i * id) as u8));
        assert_eq!(
            (instances.len(), instances.width(), instances.n_classes),
            (50, 6, 3)
        );
        for column in 0..6 {
            let values: Vec<f32> = (0..50).map(|id| instances.row(id)[column]).collect();
            let mean = values.iter().sum::<f32>() / 50.0;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / 50.0;
            assert!(
                mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3,
                "{column}"
            );
        }
        let flat = Instances::from_images(&images(5, |_, _| 9));
        assert!(flat.features.iter().all(|&x| x == 0.0));
    }

    #[test]
    fn features_are_what_they_are_called() {
        // Channel 0 rises from left to right, channel 1 is flat.
        let ramp = images(1, |_, i| {
            if i % 2 == 0 {
                (i / 2 % 3) as u8 * 10
            } else {
                7
            }
        });
        let features = pool(&ramp, 0);
        let deviation = (200.0f32 / 3.0).sqrt();
        let expected = [10.0, 7.0, deviation, 0.0, 80.0 / 24.0, 0.0];
        for (x, y) in features.iter().zip(expected) {
            assert!((x - y).abs() < 1e-5, "{features:?}");
        }
    }
}
