//! What V says: how far skipping can be for nothing, and what it costs beyond.
//!
//! V = (E g)²/E g² with g = 1 − e^(−loss), see [`Memory::v`](crate::assist::Memory::v).

use super::metrics::Point;
use super::verdict::{percent, rounded};
use crate::assist::Plan;

/// Noise of the gradient, relative to that on all data in as many steps, if a share of the candidates
/// is kept: at least so much, as losses are known late.
pub fn noise(v: Option<f64>, keep_rate: Option<f64>) -> Option<f64> {
    Some((v? / keep_rate?).max(1.0))
}

/// Mean V while an Assistant would choose: between the first tenth of a run and the last.
pub fn while_choosing(points: &[Point]) -> Option<f64> {
    let train = points.iter().filter_map(|point| match *point {
        Point::Train {
            ops_fraction, v, ..
        } => Some((ops_fraction, v?)),
        _ => None,
    });
    let all: Vec<(f64, f64)> = train.collect();
    let end = all.last()?.0;
    let middle = |at: f64| (0.1..=0.9).contains(&(at / end));
    let chosen: Vec<f64> = all.iter().filter(|p| middle(p.0)).map(|p| p.1).collect();
    // So short a run has a single line.
    let chosen = match chosen.is_empty() {
        true => vec![all.last()?.1],
        false => chosen,
    };
    Some(chosen.iter().sum::<f64>() / chosen.len() as f64)
}

/// A share of the operations too small to be worth an Assistant.
const LITTLE: f64 = 0.1;

/// One sentence: what could be skipped for nothing.
pub fn advice(v: Option<f64>, v_choosing: Option<f64>) -> Option<String> {
    let (end, mean) = (v?, v_choosing?);
    let could = 1.0 - Plan::budget_of(mean);
    let advice = match could < LITTLE {
        true => "nothing to gain by skipping".to_string(),
        false => format!(
            "up to {} of the operations can be saved here without more noise",
            percent(could)
        ),
    };
    let [end, mean] = [end, mean].map(|v| rounded(v, 100.0));
    Some(format!(
        "V {end:.2} at the end, {mean:.2} on average: {advice}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_is_for_nothing_down_to_v() {
        assert_eq!(noise(Some(0.4), Some(0.6)), Some(1.0));
        assert_eq!(noise(Some(0.9), Some(0.6)), Some(0.9 / 0.6));
        assert_eq!(noise(None, Some(0.6)), None);
        let said = |end, mean| advice(Some(end), Some(mean)).unwrap();
        assert_eq!(
            said(0.42, 0.55),
            "V 0.42 at the end, 0.55 on average: up to 39.6 % of the operations can be saved here \
             without more noise"
        );
        assert!(said(0.9, 0.95).ends_with("nothing to gain by skipping"));
        assert_eq!(advice(None, None), None);
    }
}
