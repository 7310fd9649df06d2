//! The learning rate as a function of the share of the budget that is spent.

/// Share of the budget over which the learning rate rises to its peak.
const WARMUP: f64 = 0.1;

/// A straight line up to `peak`, then a straight line down to 0 at the end of the budget (Smith,
/// 2018, without the long tail). Depends on operations, not on sweeps, so that a run that skips
/// instances goes through the whole schedule.
///
/// `spent` is the share of the budget, 0 to 1.
pub fn learning_rate(peak: f64, spent: f64) -> f64 {
    let spent = spent.clamp(0.0, 1.0);
    peak * (spent / WARMUP).min((1.0 - spent) / (1.0 - WARMUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_ends_at_zero() {
        assert_eq!(learning_rate(0.2, WARMUP), 0.2);
        assert_eq!(learning_rate(0.2, 1.0), 0.0);
        assert_eq!(learning_rate(0.2, 1.5), 0.0);
        let rates: Vec<f64> = (0..=100)
            .map(|i| learning_rate(1.0, i as f64 / 100.0))
            .collect();
        assert!(rates[..=10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
        assert!(rates.iter().all(|r| (0.0..=1.0).contains(r)));
    }
}
