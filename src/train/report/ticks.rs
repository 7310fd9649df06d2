//! An axis and where its numbers stand.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use std::ops::Range;

use super::table::number;

/// A linear axis. Its numbers are all different as they are written, which plotters' own are not.
pub(super) struct Axis {
    range: Range<f64>,
    /// From the least to the greatest.
    ticks: Vec<f64>,
    decimals: usize,
}

/// Spaces between ticks, at most.
const SPACES: f64 = 8.0;

impl Axis {
    /// With ticks at multiples of 1, 2 or 5 times a power of ten. The range is not empty.
    pub fn new(range: Range<f64>) -> Axis {
        let least = (range.end - range.start) / SPACES;
        let power = least.log10().floor();
        let unit = 10f64.powf(power);
        let factors = [1.0, 2.0, 5.0].into_iter();
        // The last is always enough, however rounded.
        let factor = factors.chain([10.0]).find(|f| f * unit >= least);
        let factor = factor.unwrap_or(10.0);
        let step = factor * unit;
        let power = power as i32 + i32::from(factor == 10.0);
        // 0.3 / 0.05 is less than 6.
        let first = (range.start / step - 1e-9).ceil() as i64;
        let last = (range.end / step + 1e-9).floor() as i64;
        Axis {
            range,
            ticks: (first..=last).map(|i| i as f64 * step).collect(),
            decimals: (-power).max(0) as usize,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        number(*value, self.decimals)
    }
}

/// Ends of an axis for values that cannot be beyond `least` and `most`: a little more than they
/// need, and a piece around what does not vary.
pub(super) fn range(values: impl Iterator<Item = f64>, least: f64, most: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    let size = low.abs().max(high.abs());
    let margin = if high - low > 1e-4 * size {
        0.05 * (high - low)
    } else if size > 1e-9 {
        0.05 * size
    } else {
        1.0
    };
    // A value at the limit still has its whole mark on the chart.
    let beyond = 0.05 * margin;
    (
        (low - margin).max(least - beyond).min(low),
        (high + margin).min(most + beyond).max(high),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        let axis = Axis::new(low..high);
        axis.ticks.iter().map(|v| axis.format_ext(v)).collect()
    }

    #[test]
    fn numbers_are_round() {
        assert_eq!(labels(0.0, 104.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(
            labels(-0.22, 0.31),
            ["−0.2", "−0.1", "0.0", "0.1", "0.2", "0.3"]
        );
        assert_eq!(
            labels(0.0, 0.3),
            ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"]
        );
        assert_eq!(labels(1e9, 1.5e9).len(), 6);
    }

    /// Those of an axis for one value, a loss or a share in percent.
    fn of_one(value: f64, most: f64) -> Vec<String> {
        let (low, high) = range([value].into_iter(), 0.0, most);
        labels(low, high)
    }

    #[test]
    fn one_point_or_a_constant_has_an_axis_with_different_numbers() {
        assert_eq!(
            of_one(2.957, f64::INFINITY),
            ["2.85", "2.90", "2.95", "3.00", "3.05", "3.10"]
        );
        assert_eq!(
            of_one(0.0, f64::INFINITY),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(of_one(100.0, 100.0), ["95", "96", "97", "98", "99", "100"]);
        let (low, high) = range([2.3, 2.3 + 1e-15].into_iter(), 0.0, f64::INFINITY);
        assert!(labels(low, high).len() >= 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(0), ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_data_the_numbers_are_few_and_different(
            a in -1e9f64..1e9, exponent in -12f64..9.0, negative: bool,
        ) {
            let offset = 10f64.powf(exponent) * if negative { -1.0 } else { 1.0 };
            for b in [a, a + offset, offset] {
                let (low, high) = range([a, b].into_iter(), f64::NEG_INFINITY, f64::INFINITY);
                prop_assert!(low < a.min(b) && high > a.max(b));
                let labels = labels(low, high);
                prop_assert!((3..=9).contains(&labels.len()), "{labels:?}");
                let mut different = labels.clone();
                different.dedup();
                prop_assert_eq!(labels, different);
            }
        }
    }
}
