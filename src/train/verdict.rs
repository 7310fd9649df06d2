//! Was it worth it? What a comparison comes to, in one line of words.

use super::Arm;
use super::summary::{Comparison, Estimate, Summary};
use super::task::Words;
use std::fmt;

/// A ruling, its reason, and what to do next. As text it is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `WORTH IT`, `UNDECIDED`, …
    pub ruling: &'static str,
    /// One sentence, without the stop.
    pub reason: String,
    /// What would tell more, as the rest of that sentence.
    pub next: Option<String>,
}

/// Standard errors that a difference takes to be more than chance, the usual bar.
const BAR: f64 = 2.0;
/// Seeds that nobody trains for one answer.
const MOST_SEEDS: f64 = 20.0;
/// Fewer say little of how much seeds differ.
const LEAST_SEEDS: f64 = 3.0;

/// What a difference is, once chance is allowed for.
#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Better,
    Worse,
    Chance,
}

impl Estimate {
    fn sign(&self) -> Sign {
        if self.mean > BAR * self.error {
            Sign::Better
        } else if self.mean < -BAR * self.error {
            Sign::Worse
        } else {
            // A NaN, too: it is never good news.
            Sign::Chance
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:+.2} ± {:.2}", rounded(self.mean, 100.0), self.error)
    }
}

/// To so many parts of one, with no −0.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts + 0.0
}

/// A share in percent, with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", rounded(100.0 * share, 10.0))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.ruling, self.reason)?;
        match &self.next {
            Some(next) => write!(f, "; {next}."),
            None => write!(f, "."),
        }
    }
}

impl Verdict {
    /// Of one run, which alone says nothing of what the saving cost.
    pub fn of_run(arm: Arm, summary: &Summary, words: &Words) -> Verdict {
        let score = &summary.score;
        Verdict {
            ruling: "ONE RUN",
            reason: format!(
                "{} {:.2}{} with {} of full training's operations saved",
                words.score,
                score.points(),
                words.unit,
                percent(summary.saved()),
            ),
            next: Some(match arm {
                Arm::Full => {
                    "what an Assistant would save shows --compare full,uniform,memory".into()
                }
                _ => "whether that was worth it takes a comparison: --compare full,uniform,memory"
                    .into(),
            }),
        }
    }
}

impl Comparison {
    /// One line: was the Assistant worth it?
    pub fn verdict(&self, words: &Words) -> String {
        self.judge(words).to_string()
    }

    /// Was the Assistant worth it? It was if it is better than uniform training at the same
    /// operations; what it lost against full training is the price, and is said with any ruling.
    pub fn judge(&self, words: &Words) -> Verdict {
        let undecided = |reason: String, arms: &str| Verdict {
            ruling: "UNDECIDED",
            reason,
            next: Some(format!("--compare {arms} would tell")),
        };
        let Some(arm) = self.assistant() else {
            let reason = "no arm of this comparison has the Assistant (memory or paper)";
            return undecided(reason.into(), "full,uniform,memory");
        };
        let whose = match arm {
            Arm::Paper => "paper's ",
            _ => "",
        };
        let saved = self.mean(arm, |r| Some(r.summary.saved())).unwrap_or(0.0);
        let saved = percent(saved);
        let saved = format!("the {whose}Assistant saved {saved} of the operations");
        let points = match words.unit {
            "" => words.score,
            _ => "points",
        };
        let against = |other: &str, e: Estimate| match e.sign() {
            Sign::Better => format!("gained {:.2} {points} on {other}", e.mean),
            Sign::Worse => format!("lost {:.2} {points} against {other}", -e.mean),
            Sign::Chance => format!("its {e} {points} against {other} may be chance"),
        };
        let full = self.difference(arm, Arm::Full);
        let price = full.map(|full| match full.sign() {
            Sign::Chance => format!(", and {}", against("full training", full)),
            _ => format!(", and it {}", against("full training", full)),
        });
        let price = price.unwrap_or_default();
        let Some(uniform) = self.difference(arm, Arm::Uniform) else {
            let reason =
                format!("{saved}{price}, but uniform training may give as much for as little");
            return undecided(reason, &format!("full,uniform,{}", arm.name()));
        };
        let and = if full.is_some() { "," } else { " and" };
        let (ruling, then) = match (uniform.sign(), full.map(|full| full.sign())) {
            (Sign::Better, Some(Sign::Worse)) => ("WORTH IT, AT A PRICE", and),
            (Sign::Better, _) => ("WORTH IT", and),
            (Sign::Worse, _) => ("NOT WORTH IT", ", but"),
            (Sign::Chance, _) => ("UNDECIDED", ", but"),
        };
        let uniform_says = against("uniform training at the same operations", uniform);
        Verdict {
            ruling,
            reason: format!("{saved}{then} {uniform_says}{price}"),
            next: self.next(arm, &uniform, full.is_some()),
        }
    }

    /// What would tell more.
    fn next(&self, arm: Arm, uniform: &Estimate, full: bool) -> Option<String> {
        let pairs = self.of(arm).filter_map(|a| {
            let mut others = self.of(Arm::Uniform).map(|b| b.summary.seed);
            others.find(|seed| *seed == a.summary.seed)
        });
        let seeds: Vec<u64> = pairs.collect();
        let n = seeds.len() as f64;
        if !(uniform.mean.is_finite() && uniform.error.is_finite()) {
            return Some("a result is not a number: look at the runs".into());
        }
        if uniform.sign() == Sign::Chance {
            // The error falls with the root of the number of seeds.
            let enough = n * (BAR * uniform.error / uniform.mean).powi(2);
            let enough = enough.ceil().max(n + 1.0).max(LEAST_SEEDS);
            return Some(if enough <= MOST_SEEDS {
                let list = more_seeds(&seeds, enough as usize);
                format!("about {enough} seeds would tell: rerun with --seeds {list}")
            } else {
                format!("so small a difference would take more than {MOST_SEEDS} seeds to tell")
            });
        }
        if seeds.len() == 1 {
            let list = more_seeds(&seeds, LEAST_SEEDS as usize);
            return Some(format!(
                "one seed only: --seeds {list} shows how much seeds differ"
            ));
        }
        (!full).then(|| "what full training gives shows the arm full".into())
    }
}

/// So many seeds, those that there are first, for `--seeds`.
fn more_seeds(seeds: &[u64], many: usize) -> String {
    let more = (0..).filter(|seed| !seeds.contains(seed));
    let all = seeds.iter().copied().chain(more).take(many);
    all.map(|seed| seed.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::comparison;
    use super::*;
    use crate::train::images::WORDS;

    const UNIFORM: (Arm, &[f64]) = (Arm::Uniform, &[0.8, 0.81]);

    fn judge(arms: &[(Arm, &[f64])], test_images: usize) -> Verdict {
        comparison(arms, test_images).judge(&WORDS)
    }

    #[test]
    fn worth_it_takes_a_gain_on_uniform_beyond_chance() {
        let of = |memory: &[f64], n| judge(&[UNIFORM, (Arm::Memory, memory)], n);
        let better = of(&[0.85, 0.86], 10_000);
        assert_eq!(better.ruling, "WORTH IT");
        assert_eq!(
            better.to_string(),
            "WORTH IT: the Assistant saved 35.0 % of the operations and gained 5.00 points on uniform training \
             at the same operations; what full training gives shows the arm full."
        );
        let worse = of(&[0.75, 0.76], 10_000);
        assert_eq!(worse.ruling, "NOT WORTH IT");
        assert!(
            worse.reason.contains("lost 5.00 points against uniform"),
            "{worse}"
        );
        // The same difference on a hundred test images is chance, and so is one whose seeds disagree.
        let few = of(&[0.85, 0.86], 100);
        assert_eq!(few.ruling, "UNDECIDED");
        assert!(few.reason.contains("+5.00 ± 3.75 points"), "{few}");
        assert_eq!(
            few.next.unwrap(),
            "about 5 seeds would tell: rerun with --seeds 0,1,2,3,4"
        );
        assert_eq!(of(&[0.90, 0.79], 10_000).ruling, "UNDECIDED");
    }

    #[test]
    fn a_loss_against_full_is_named_with_every_ruling() {
        let of = |full: &[f64], memory: &[f64]| {
            judge(&[(Arm::Full, full), UNIFORM, (Arm::Memory, memory)], 10_000)
        };
        let price = of(&[0.90, 0.91], &[0.85, 0.86]);
        assert_eq!(price.ruling, "WORTH IT, AT A PRICE");
        assert!(
            price.reason.ends_with(
                "gained 5.00 points on uniform training at the same operations, \
                and it lost 5.00 points against full training"
            ),
            "{price}"
        );
        assert_eq!(price.next, None);
        let level = of(&[0.855, 0.852], &[0.85, 0.86]);
        assert_eq!(level.ruling, "WORTH IT");
        assert!(
            level
                .reason
                .contains("its +0.15 ± 0.65 points against full training may be chance"),
            "{level}"
        );
        let beyond = of(&[0.8, 0.81], &[0.85, 0.86]);
        assert!(
            beyond
                .reason
                .ends_with("and it gained 5.00 points on full training"),
            "{beyond}"
        );
        let nothing = of(&[0.9, 0.91], &[0.801, 0.812]);
        assert_eq!(nothing.ruling, "UNDECIDED");
        assert!(
            nothing
                .reason
                .ends_with("may be chance, and it lost 9.85 points against full training")
        );
        let worse = of(&[0.9, 0.91], &[0.7, 0.71]);
        assert!(
            worse
                .reason
                .ends_with("and it lost 20.00 points against full training"),
            "{worse}"
        );
    }

    #[test]
    fn one_seed_asks_for_more() {
        let of = |memory: &[f64]| judge(&[(Arm::Uniform, &[0.8]), (Arm::Memory, memory)], 10_000);
        assert_eq!(of(&[0.85]).ruling, "WORTH IT");
        let says = "one seed only: --seeds 0,1,2 shows how much seeds differ";
        assert_eq!(of(&[0.85]).next.unwrap(), says);
        let next = of(&[0.805]).next.unwrap();
        assert_eq!(
            next,
            "about 6 seeds would tell: rerun with --seeds 0,1,2,3,4,5"
        );
        let next = of(&[0.809]).next.unwrap();
        assert_eq!(next, "about 3 seeds would tell: rerun with --seeds 0,1,2");
        for hopeless in [0.8001, 0.8] {
            let next = of(&[hopeless]).next.unwrap();
            assert!(next.contains("more than 20 seeds"), "{next}");
        }
        assert_eq!(more_seeds(&[7, 1], 4), "7,1,0,2");
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let none = judge(&[UNIFORM, (Arm::Random, &[0.9, 0.9])], 10_000);
        assert_eq!(none.ruling, "UNDECIDED");
        assert!(
            none.to_string()
                .ends_with("--compare full,uniform,memory would tell."),
            "{none}"
        );
        let memory = (Arm::Memory, &[0.85, 0.86][..]);
        let no_uniform = judge(&[(Arm::Full, &[0.95, 0.96]), memory], 10_000);
        assert_eq!(no_uniform.ruling, "UNDECIDED");
        assert!(
            no_uniform
                .reason
                .contains("lost 10.00 points against full training"),
            "{no_uniform}"
        );
        assert_eq!(judge(&[memory], 10_000).ruling, "UNDECIDED");
    }

    #[test]
    fn it_is_about_memory_or_else_the_paper_s_assistant() {
        let paper = (Arm::Paper, &[0.9, 0.91][..]);
        let only = judge(&[UNIFORM, paper], 10_000);
        assert!(
            only.reason.contains("the paper's Assistant saved"),
            "{only}"
        );
        let both = judge(&[UNIFORM, paper, (Arm::Memory, &[0.7, 0.71])], 10_000);
        assert_eq!(both.ruling, "NOT WORTH IT");
    }

    #[test]
    fn a_nan_is_never_good_news() {
        let nan = judge(&[UNIFORM, (Arm::Memory, &[f64::NAN, 0.9])], 10_000);
        assert_eq!(nan.ruling, "UNDECIDED");
        assert!(nan.next.unwrap().contains("not a number"));
    }

    #[test]
    fn a_run_alone_is_no_comparison() {
        let comparison = comparison(&[(Arm::Memory, &[0.85]), (Arm::Full, &[0.9])], 10_000);
        let of = |arm| {
            let run = comparison.of(arm).next().unwrap();
            Verdict::of_run(arm, &run.summary, &WORDS).to_string()
        };
        assert_eq!(
            of(Arm::Memory),
            "ONE RUN: test accuracy 85.00 % with 35.0 % of full training's operations saved; whether \
             that was worth it takes a comparison: --compare full,uniform,memory."
        );
        assert!(of(Arm::Full).contains("what an Assistant would save"));
        // A step beyond the whole budget is no saving below nothing.
        let full = Summary {
            ops_saved: -0.0009,
            ..Summary::default()
        };
        let assisted = Summary {
            assist_ops: 1,
            ..full.clone()
        };
        assert_eq!((full.saved(), assisted.saved()), (0.0, -0.0009));
    }
}
