//! How well the Assistant tells what will be above the mean loss: its ROC curve's area and its
//! calibration.
//!
//! Measured on the exploration draws of the selecting phase: a candidate is kept if `u < b + (1 −
//! b)·g`, and counts here only if `u < b`, so that it would have been kept whatever its score g. The
//! draw u knows nothing of the instance, so these are a uniform sample of just the candidates that
//! the Assistant decides about; all that were kept would be too many of high score, and the full
//! data of burn-in and anneal are unbiased, but of times when scores decide nothing. Each is scored
//! before its loss is known (prequential), and held against the label that the model then learns
//! from.

use serde::{Deserialize, Serialize};

/// Bins of the score, a probability. Scores in one bin count as tied: half right.
const BINS: usize = 1000;
/// Bins of the calibration.
const COARSE: usize = 10;

/// Scores and what became of them, as a histogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Instances whose loss was above the mean, by score.
    above: Vec<u32>,
    /// The others.
    below: Vec<u32>,
    /// Sum of the scores in each coarse bin.
    scores: Vec<f64>,
}

/// The instances with scores in one tenth of 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// How many.
    pub count: u64,
    /// Mean score: the predicted share of losses above the mean.
    pub score: f64,
    /// The share that was.
    pub observed: f64,
}

impl Default for Quality {
    fn default() -> Quality {
        Quality {
            above: vec![0; BINS],
            below: vec![0; BINS],
            scores: vec![0.0; COARSE],
        }
    }
}

impl Quality {
    /// Enters an instance that was given `score`, a probability, and whether its loss then was above
    /// the mean.
    pub fn add(&mut self, score: f32, above: bool) {
        // A float too large or negative saturates: no index is out of range.
        let bin = ((f64::from(score) * BINS as f64) as usize).min(BINS - 1);
        let side = if above {
            &mut self.above
        } else {
            &mut self.below
        };
        side[bin] += 1;
        self.scores[bin / (BINS / COARSE)] += f64::from(score);
    }

    /// Area under the ROC curve: the probability that an instance above the mean loss had a higher
    /// score than one that was not. `None` unless there are some of both.
    pub fn auc(&self) -> Option<f64> {
        self.auc_since(&Quality::default())
    }

    /// The area for what was entered since an `earlier` state of the same.
    pub fn auc_since(&self, earlier: &Quality) -> Option<f64> {
        let side = |now: &[u32], then: &[u32]| -> Vec<f64> {
            let counts = now.iter().zip(then);
            counts
                .map(|(a, b)| f64::from(a.saturating_sub(*b)))
                .collect()
        };
        let above = side(&self.above, &earlier.above);
        let below = side(&self.below, &earlier.below);
        let (mut lower, mut wins) = (0.0, 0.0);
        for (a, b) in above.iter().zip(&below) {
            wins += a * (lower + 0.5 * b);
            lower += b;
        }
        let pairs = above.iter().sum::<f64>() * lower;
        (pairs > 0.0).then(|| wins / pairs)
    }

    /// Score against observed frequency in ten bins, empty ones left out.
    pub fn calibration(&self) -> Vec<Calibration> {
        let sum = |counts: &[u32]| counts.iter().map(|&n| u64::from(n)).sum::<u64>();
        let width = BINS / COARSE;
        let bins = self.above.chunks(width).zip(self.below.chunks(width));
        bins.zip(&self.scores)
            .map(|((above, below), score)| {
                let count = sum(above) + sum(below);
                Calibration {
                    count,
                    score: score / count as f64,
                    observed: sum(above) as f64 / count as f64,
                }
            })
            .filter(|bin| bin.count > 0)
            .collect()
    }

    /// Whether it is one of these histograms.
    pub(super) fn is_sound(&self) -> bool {
        [self.above.len(), self.below.len(), self.scores.len()] == [BINS, BINS, COARSE]
            && self.scores.iter().all(|x| x.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{hash, unit_f64};

    #[test]
    fn the_area_is_the_share_of_pairs_in_order() {
        let mut quality = Quality::default();
        assert_eq!(quality.auc(), None);
        for (score, above) in [(0.9, true), (0.7, false), (0.5, true), (0.5, false)] {
            quality.add(score, above);
        }
        // Pairs: 0.9 beats both; 0.5 loses to 0.7 and ties.
        assert_eq!(quality.auc(), Some(2.5 / 4.0));
        let earlier = quality.clone();
        assert_eq!(quality.auc_since(&earlier), None);
        quality.add(1.0, false);
        quality.add(0.0, true);
        assert_eq!(quality.auc_since(&earlier), Some(0.0));
        let mut blind = Quality::default();
        (0..50).for_each(|i| blind.add(0.3, i % 3 == 0));
        assert_eq!(blind.auc(), Some(0.5));
    }

    #[test]
    fn a_histogram_is_as_good_as_all_pairs() {
        let score = |i: u64| unit_f64(hash(1, i, 0)) as f32;
        let above = |i: u64| unit_f64(hash(1, i, 1)) < f64::from(score(i));
        let mut quality = Quality::default();
        (0..2000).for_each(|i| quality.add(score(i), above(i)));
        let (mut wins, mut pairs) = (0, 0);
        for i in (0..2000).filter(|&i| above(i)) {
            for j in (0..2000).filter(|&j| !above(j)) {
                wins += u32::from(score(i) > score(j));
                pairs += 1;
            }
        }
        let exact = f64::from(wins) / f64::from(pairs);
        assert!((quality.auc().unwrap() - exact).abs() < 1e-3);
        let bins = quality.calibration();
        assert_eq!(bins.iter().map(|b| b.count).sum::<u64>(), 2000);
        for (i, bin) in bins.iter().enumerate() {
            assert!(
                (bin.score - (i as f64 + 0.5) / 10.0).abs() < 0.02,
                "{bin:?}"
            );
            assert!((bin.observed - bin.score).abs() < 0.13, "{bin:?}");
        }
    }

    #[test]
    fn scores_at_and_beyond_the_ends_have_a_place() {
        let mut quality = Quality::default();
        for score in [0.0, 1.0, f32::NAN, -1.0, 2.0] {
            quality.add(score, true);
        }
        assert_eq!(quality.above.iter().sum::<u32>(), 5);
        assert!(!quality.is_sound(), "a NaN does not pass");
    }
}
