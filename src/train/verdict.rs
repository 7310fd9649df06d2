//! Was it worth it? What a comparison comes to, in one line of words.
//!
//! The Assistant is worth it if it saves operations at equal quality and no simpler way of spending as
//! many does as well. So four things must hold, each with at most 5 % left to chance: it is less than
//! [`MARGIN`] points below full training, and above uniform training at the same operations, above as
//! many skipped at random, and above InfoBatch. All must, so that none needs a correction for there
//! being four (an intersection–union test).

use super::Arm;
use super::paired::Paired;
use super::summary::{Comparison, Estimate, Summary};
use super::task::Words;
use serde::Serialize;
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

/// Points below full training that count as equal.
pub const MARGIN: f64 = 0.2;
/// Whom the Assistant is held against, and what its difference must be above.
pub const RIVALS: [(Arm, f64); 4] = [
    (Arm::Full, -MARGIN),
    (Arm::Uniform, 0.0),
    (Arm::Random, 0.0),
    (Arm::Infobatch, 0.0),
];
/// Fewer seeds say little of how much they differ.
const LEAST_SEEDS: usize = 3;
/// Flags that leave nothing out.
pub const WOULD_TELL: &str = "--compare full,uniform,random,infobatch,memory --seeds 0,1,2";

/// One of the things that must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Of this arm,
    pub arm: Arm,
    /// that its score minus that of this one
    pub against: Arm,
    /// is above this, in points.
    pub margin: f64,
    /// What was found, if both were trained with a common seed.
    #[serde(flatten)]
    pub found: Option<Paired>,
    /// Whether it holds: true or false with at most 5 % left to chance, else null.
    pub holds: Option<bool>,
    /// Seeds that would show it, if the difference is what was found; null if more than anybody
    /// trains, or not known.
    pub seeds_needed: Option<usize>,
}

impl Claim {
    fn new(comparison: &Comparison, arm: Arm, (against, margin): (Arm, f64)) -> Claim {
        let found = comparison.paired(arm, against);
        // No number is neither above nor below.
        let holds = found.and_then(|found| match () {
            () if found.lower > margin => Some(true),
            () if found.upper < margin => Some(false),
            () => None,
        });
        Claim {
            arm,
            against,
            margin,
            found,
            holds,
            seeds_needed: found.and_then(|found| found.seeds_needed(found.mean, margin)),
        }
    }

    /// What was found, in words.
    fn says(&self, unit: &str) -> String {
        let against = match self.against {
            Arm::Full => "full training".into(),
            Arm::Uniform => "uniform training".into(),
            Arm::Random => "skipping at random".into(),
            other => other.name().to_string(),
        };
        let Some(found) = self.found else {
            return format!("not compared with {against}");
        };
        let mean = rounded(found.mean, 100.0);
        let bound = match self.holds {
            Some(true) => format!("at least {:+.2}", rounded(found.lower, 100.0)),
            Some(false) => format!("at most {:+.2}", rounded(found.upper, 100.0)),
            None if found.lower.is_finite() => {
                let [low, high] = [found.lower, found.upper].map(|b| rounded(b, 100.0));
                format!("{low:+.2} to {high:+.2}")
            }
            None => "of one seed".into(),
        };
        format!("{mean:+.2} {unit} against {against} ({bound})")
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:+.2} ± {:.2}", rounded(self.mean, 100.0), self.error)
    }
}

/// To so many parts of one, with no −0.
pub(super) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts + 0.0
}

/// A share in percent, with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", rounded(100.0 * share, 10.0))
}

const UNDECIDED: &str = "UNDECIDED";

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Where it stands alone, it says what is undecided.
        let what = match self.ruling {
            UNDECIDED => " whether it was worth it",
            _ => "",
        };
        write!(f, "{}{what}: {}", self.ruling, self.reason)?;
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
                Arm::Full => format!("what an Assistant would save shows {WOULD_TELL}"),
                _ => format!("whether that was worth it takes a comparison: {WOULD_TELL}"),
            }),
        }
    }
}

impl Comparison {
    /// What must hold for the Assistant to be worth it, and whether it was.
    pub fn judge(&self, words: &Words) -> (Vec<Claim>, Verdict) {
        let Some(arm) = self.assistant() else {
            let reason = "no arm of this comparison has the Assistant (memory or paper)";
            let verdict = Verdict {
                ruling: UNDECIDED,
                reason: reason.into(),
                next: Some(format!("{WOULD_TELL} would tell")),
            };
            return (Vec::new(), verdict);
        };
        let claims: Vec<Claim> = RIVALS
            .into_iter()
            .map(|rival| Claim::new(self, arm, rival))
            .collect();
        let verdict = self.rule(arm, &claims, words);
        (claims, verdict)
    }

    fn rule(&self, arm: Arm, claims: &[Claim], words: &Words) -> Verdict {
        let whose = match arm {
            Arm::Paper => "paper's ",
            _ => "",
        };
        let saved = self.mean(arm, |r| Some(r.summary.saved())).unwrap_or(0.0);
        let unit = match words.unit {
            "" => words.score,
            _ => "points",
        };
        let list = |holds: Option<bool>| {
            let of = claims.iter().filter(|claim| claim.holds == holds);
            of.map(|claim| claim.says(unit))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (shown, refuted, open) = (list(Some(true)), list(Some(false)), list(None));
        let but = |what: &str, list: &str| match list {
            "" => String::new(),
            list => format!("; {what}: {list}"),
        };
        let saves = saved > 0.0;
        let did = format!(
            "the {whose}Assistant saved {} of the operations",
            percent(saved)
        );
        let (ruling, reason) = match (refuted.is_empty(), open.is_empty()) {
            (true, true) if saves => (
                "WORTH IT",
                format!(
                    "{} fewer operations at equal {}: {shown}",
                    percent(saved),
                    words.score
                ),
            ),
            (true, true) => ("NOT WORTH IT", format!("{did}; {shown}")),
            (false, _) => (
                "NOT WORTH IT",
                format!(
                    "{did}, but {refuted}{}{}",
                    but("not shown", &open),
                    but("shown", &shown)
                ),
            ),
            (true, false) => (
                UNDECIDED,
                format!("{did}; not shown: {open}{}", but("shown", &shown)),
            ),
        };
        Verdict {
            ruling,
            reason,
            next: self.next(arm, claims),
        }
    }

    /// What would tell more, of claims that nothing speaks against yet.
    fn next(&self, arm: Arm, claims: &[Claim]) -> Option<String> {
        if claims.iter().any(|claim| claim.holds == Some(false)) {
            return None;
        }
        let open: Vec<&Claim> = claims
            .iter()
            .filter(|claim| claim.holds.is_none())
            .collect();
        if open.is_empty() {
            return None;
        }
        let no_number = |claim: &&Claim| claim.found.is_some_and(|found| found.mean.is_nan());
        if open.iter().any(no_number) {
            return Some("a result is not a number: look at the runs".into());
        }
        let seeds: Vec<u64> = self.of(arm).map(|run| run.summary.seed).collect();
        let few = seeds.len() < 2;
        if few || open.iter().any(|claim| claim.found.is_none()) {
            let arms = RIVALS.map(|(arm, _)| arm.name()).join(",");
            let many = seeds.len().max(if few { LEAST_SEEDS } else { 0 });
            let seeds = more_seeds(&seeds, many);
            return Some(format!(
                "--compare {arms},{} --seeds {seeds} would tell",
                arm.name()
            ));
        }
        let most = open.iter().map(|claim| claim.seeds_needed);
        let most: Option<Vec<usize>> = most.collect();
        Some(match most.and_then(|all| all.into_iter().max()) {
            Some(many) => {
                let many = many.max(seeds.len() + 1);
                format!("about {many} seeds would tell if the differences are what they look like")
            }
            None => {
                "more seeds are not likely to show it: the differences are too small, or on the \
                     wrong side"
                    .into()
            }
        })
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

    /// Accuracies of the five arms on 10,000 images, of which runs of a seed differ where they must.
    fn judge(arms: &[(Arm, &[f64])]) -> Verdict {
        comparison(arms, 10_000).judge(&WORDS).1
    }

    fn five([full, uniform, random, infobatch, memory]: [&[f64]; 5]) -> [(Arm, &[f64]); 5] {
        [
            (Arm::Full, full),
            (Arm::Uniform, uniform),
            (Arm::Random, random),
            (Arm::Infobatch, infobatch),
            (Arm::Memory, memory),
        ]
    }

    const FULL: &[f64] = &[0.9, 0.901, 0.902];
    const LESS: &[f64] = &[0.88, 0.8815, 0.882];

    #[test]
    fn worth_it_takes_all_four() {
        let good: &[f64] = &[0.9, 0.9012, 0.9022];
        let all = judge(&five([FULL, LESS, LESS, LESS, good]));
        assert_eq!(all.ruling, "WORTH IT", "{all}");
        assert!(
            all.reason.starts_with(
                "35.0 % fewer operations at equal test accuracy: +0.01 points against full training (at least"
            ),
            "{all}"
        );
        assert_eq!(all.next, None);
        // Any one that is as good takes it away, and is named.
        for (i, named) in [(1, "uniform training"), (2, "at random"), (3, "infobatch")] {
            let mut arms = [FULL, LESS, LESS, LESS, good];
            arms[i] = good;
            let verdict = judge(&five(arms));
            assert_eq!(verdict.ruling, "UNDECIDED", "{verdict}");
            let open = verdict.reason.split("; shown").next().unwrap();
            assert!(open.contains(named), "{verdict}");
            assert!(verdict.next.unwrap().contains("not likely"));
        }
    }

    #[test]
    fn a_loss_to_full_training_refutes_it_whatever_the_others_say() {
        let poor: &[f64] = &[0.89, 0.891, 0.892];
        let verdict = judge(&five([FULL, LESS, LESS, LESS, poor]));
        assert_eq!(verdict.ruling, "NOT WORTH IT");
        assert!(
            verdict.reason.starts_with(
                "the Assistant saved 35.0 % of the operations, but -1.00 points against full training (at most"
            ),
            "{verdict}"
        );
        assert!(verdict.reason.contains("; shown: +0.9"), "{verdict}");
        assert_eq!(verdict.next, None);
    }

    #[test]
    fn what_seeds_leave_open_takes_more_of_them() {
        let wide: &[f64] = &[0.893, 0.908, 0.9025];
        let verdict = judge(&five([FULL, LESS, LESS, LESS, wide]));
        assert_eq!(verdict.ruling, "UNDECIDED", "{verdict}");
        let next = verdict.next.unwrap();
        assert!(
            next.starts_with("about ") && next.contains("seeds would tell"),
            "{next}"
        );
    }

    #[test]
    fn one_seed_and_missing_arms_are_asked_for() {
        let one = judge(&[(Arm::Uniform, &[0.8]), (Arm::Memory, &[0.9])]);
        assert_eq!(one.ruling, "UNDECIDED");
        assert!(
            one.reason.contains("not compared with full training")
                && one
                    .reason
                    .contains("+10.00 points against uniform training (of one seed)"),
            "{one}"
        );
        assert_eq!(
            one.next.unwrap(),
            "--compare full,uniform,random,infobatch,memory --seeds 0,1,2 would tell"
        );
        let missing = judge(&[(Arm::Full, LESS), (Arm::Uniform, LESS), (Arm::Memory, FULL)]);
        assert_eq!(missing.ruling, "UNDECIDED");
        assert!(missing.to_string().contains("not compared with infobatch"));
        let none = judge(&[(Arm::Random, &[0.9, 0.9])]);
        assert!(none.to_string().ends_with("would tell."), "{none}");
        assert_eq!(more_seeds(&[7, 1], 4), "7,1,0,2");
    }

    #[test]
    fn it_is_about_memory_or_else_the_paper_s_assistant() {
        let paper = (Arm::Paper, FULL);
        let only = judge(&[(Arm::Uniform, LESS), paper]);
        assert!(
            only.reason.contains("the paper's Assistant saved"),
            "{only}"
        );
        let both = judge(&[
            (Arm::Uniform, LESS),
            paper,
            (Arm::Memory, &[0.7, 0.71, 0.69]),
        ]);
        assert_eq!(both.ruling, "NOT WORTH IT", "{both}");
    }

    #[test]
    fn a_nan_is_never_good_news() {
        let nan: &[f64] = &[f64::NAN, 0.9, 0.9];
        let verdict = judge(&five([FULL, LESS, LESS, LESS, nan]));
        assert_eq!(verdict.ruling, "UNDECIDED");
        assert!(verdict.next.unwrap().contains("not a number"));
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
             that was worth it takes a comparison: \
             --compare full,uniform,random,infobatch,memory --seeds 0,1,2."
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
