//! Dropout's mask as factors, drawn again wherever it is needed.

use crate::backend::StepInputs;
use crate::backend::sequence::Dropout;
use crate::rng::{dropout_bits, dropout_key};

/// One dropout in one step.
#[derive(Clone, Copy)]
pub struct Mask {
    key: u64,
    threshold: u32,
    scale: f32,
}

impl Mask {
    pub fn new(inputs: &StepInputs, dropout: Dropout) -> Mask {
        Mask {
            key: dropout_key(inputs.seed, inputs.step, dropout.site),
            threshold: dropout.threshold(),
            scale: dropout.scale(),
        }
    }

    /// Factors, 0 or `1/(1 − p)`, of the elements from number `first`.
    #[inline] // Compiled for the instructions of the caller.
    pub fn factors(&self, first: usize, to: &mut [f32]) {
        let start = (4 - first % 4) % 4;
        let (head, rest) = to.split_at_mut(start.min(to.len()));
        self.group(first / 4, first % 4, head);
        let next = first + head.len();
        for (i, four) in rest.chunks_mut(4).enumerate() {
            self.group(next / 4 + i, 0, four);
        }
    }

    /// Factors of some elements of a group of four.
    #[inline]
    fn group(&self, group: usize, first: usize, to: &mut [f32]) {
        let mut bits = dropout_bits(self.key, group as u64) >> (16 * first);
        for to in to {
            let zero = (bits as u32 & 0xffff) < self.threshold;
            *to = if zero { 0.0 } else { self.scale };
            bits >>= 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(p: f32, site: u32) -> Mask {
        let inputs = StepInputs {
            seed: 7,
            step: 3,
            ..StepInputs::default()
        };
        Mask::new(&inputs, Dropout { p, site })
    }

    fn factors(mask: Mask, first: usize, n: usize) -> Vec<f32> {
        let mut to = vec![f32::NAN; n];
        mask.factors(first, &mut to);
        to
    }

    #[test]
    fn a_factor_depends_on_its_element_alone() {
        let mask = mask(0.3, 2);
        let all = factors(mask, 0, 100);
        for first in 0..20 {
            for n in 0..20 {
                assert_eq!(factors(mask, first, n), all[first..first + n]);
            }
        }
    }

    #[test]
    fn as_many_are_zero_as_should_be_and_the_mean_stays() {
        for p in [0.0, 0.1, 0.5, 0.9] {
            let all = factors(mask(p, 0), 0, 100_000);
            let zeros = all.iter().filter(|f| **f == 0.0).count() as f32 / 1e5;
            assert!((zeros - p).abs() < 0.005, "{zeros} of {p}");
            let mean = all.iter().map(|f| f64::from(*f)).sum::<f64>() / 1e5;
            assert!((mean - 1.0).abs() < 0.03, "{mean}");
        }
        assert!(factors(mask(0.5, 0), 0, 64) != factors(mask(0.5, 1), 0, 64));
    }

    #[test]
    fn probabilities_count_in_65536ths() {
        let of = |p: f32| Dropout { p, site: 0 };
        assert_eq!((of(0.0).threshold(), of(0.0).scale()), (0, 1.0));
        assert_eq!((of(0.5).threshold(), of(0.5).scale()), (32768, 2.0));
        assert_eq!(of(0.1).threshold(), 6554);
        assert_eq!(of(0.999_999_9).threshold(), 65535);
    }
}
