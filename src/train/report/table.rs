//! Numbers as text: the table of arms, that of runs, and what the words mean.

use std::fmt::Write;

use super::{Arm, Curve, Estimate, Group, Run, Words, chart};

/// The table of arms, and one of all runs if some arm has several.
pub(super) fn arms(arms: &[Group], words: &Words) -> String {
    let (score, speed) = headings(words);
    let columns = [
        &score,
        "Operations saved, %",
        "vs uniform, points",
        "vs full, points",
        "Assistant’s AUC",
        &speed,
        "Time, s",
        "Seeds",
    ];
    let mut html = String::from("<section>\n<table class=\"arms\">\n<thead><tr><th>Arm");
    columns
        .iter()
        .for_each(|name| html += &format!("<th>{name}"));
    html += "</tr></thead>\n<tbody>\n";
    for group in arms {
        let mean = |value: fn(&Run) -> f64, decimals: usize| {
            let values = group.runs.iter().map(|run| value(run));
            // One NaN makes the mean one: a failed run must not vanish in it.
            number(values.sum::<f64>() / group.runs.len() as f64, decimals)
        };
        let standing = group.standing;
        let values = [
            format!("<b>{}</b>", estimate(Some(standing.score), false)),
            format!("<b>{}</b>", mean(|r| 100.0 * r.ops_saved, 1)),
            estimate(standing.vs_uniform, true),
            estimate(standing.vs_full, true),
            mean(|r| r.assist_auc.unwrap_or(f64::NAN), 3),
            mean(|r| r.instances_per_second, 0),
            mean(|r| r.wall_seconds, 1),
            group.runs.len().to_string(),
        ];
        let who = match group.arm {
            Arm::Memory => "<br><small>the Assistant</small>",
            Arm::Paper => "<br><small>the paper’s Assistant</small>",
            _ => "",
        };
        let _ = write!(html, "<tr><th>{}{who}", chart::key(group.arm));
        for (name, value) in columns.iter().zip(values) {
            let _ = write!(html, "<td data-name=\"{name}\">{value}");
        }
        html += "</tr>\n";
    }
    html += "</tbody></table>\n<p class=\"note\">± is one standard error: of the finite test set, or of \
             the scatter over seeds where that is larger. A difference counts from two on.</p>\n";
    html += &runs(arms, words);
    html + "</section>\n"
}

/// A mean with its error; a dash if there is none.
fn estimate(estimate: Option<Estimate>, plus: bool) -> String {
    let show = if plus { signed } else { number };
    match estimate {
        Some(Estimate { mean, error }) if mean.is_finite() => format!(
            "{} <small>±\u{a0}{}</small>",
            show(mean, 2),
            number(error, 2)
        ),
        _ => number(f64::NAN, 2),
    }
}

/// Of the columns of results and of speeds.
fn headings(words: &Words) -> (String, String) {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let unit = words.unit.trim();
    let score = match unit {
        "" => capital(words.score),
        unit => format!("{}, {unit}", capital(words.score)),
    };
    (score, capital(words.many) + "/s")
}

/// Around a table that no phone is wide enough for.
const SCROLL: &str = "<p class=\"note hint\">Wider than the screen: push it sideways.</p>\n\
     <div class=\"scroll\">";

fn runs(arms: &[Group], words: &Words) -> String {
    let (score, speed) = headings(words);
    let mut html = format!(
        "<details><summary>Every run</summary>\n{SCROLL}<table>\n<thead><tr><th>Arm\
         <th>Seed<th>{score}<th>Operations saved, %<th>vs uniform, points<th>vs full, points\
         <th>Boss operations<th>Assistant operations<th>{speed}\
         <th>Time, s</tr></thead>\n<tbody>\n",
    );
    for run in arms.iter().flat_map(|arm| &arm.runs) {
        let points = |x: Option<f64>| signed(x.unwrap_or(f64::NAN), 2);
        let _ = writeln!(
            html,
            "<tr><th>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            run.arm.name(),
            run.seed,
            number(run.score, 2),
            number(100.0 * run.ops_saved, 1),
            points(run.vs_uniform),
            points(run.vs_full),
            metric(run.boss_ops),
            metric(run.assist_ops),
            number(run.instances_per_second, 0),
            number(run.wall_seconds, 1),
        );
    }
    html + "</tbody></table></div></details>\n"
}

/// What a newcomer needs to read the table and the curves.
pub(super) fn terms(arms: &[Group], words: &Words) -> String {
    let Words { one, many, .. } = words;
    let mut html = String::from("<dl class=\"terms\">\n");
    let text = |arm: Arm| match arm {
        Arm::Full => format!("trains on every {one} in every epoch: 100 % of the operations."),
        Arm::Uniform => format!(
            "trains on every {one} too, but stops at the same operations as the other arms, with \
             the learning rate to match. A saving is real only against this one."
        ),
        Arm::Random => format!("keeps as many {many} as the Assistant does, chosen blindly."),
        Arm::Memory => format!("the Assistant, from what it remembers of each {one}’s loss."),
        Arm::Paper => {
            format!("the Assistant, from the {one} itself, as its authors published it.")
        }
        Arm::Infobatch => {
            format!("prunes half of the {many} of a loss below the mean, no Assistant.")
        }
    };
    let names = [Arm::Full, Arm::Uniform].into_iter();
    let others = arms.iter().map(|group| group.arm);
    let others = others.filter(|arm| ![Arm::Full, Arm::Uniform].contains(arm));
    for arm in names.chain(others) {
        let _ = writeln!(html, "<dt>{}<dd>{}", chart::key(arm), text(arm));
    }
    let _ = write!(
        html,
        "<dt>operations<dd>Arithmetic of forward and backward passes over the {many} trained \
         on, evaluation excluded. <i>Saved</i>: the part of full’s that was not spent, the \
         Assistant’s own counted as spent. Training ends with the step that reaches the budget, so \
         up to a step more is spent; beyond full’s 100 % that counts as nothing saved.\n\
         <dt>keep rate<dd>Share of the {many} offered that the Boss, the network proper, is \
         given to train on; the Assistant, a light model beside it, drops the rest.\n\
         <dt>AUC<dd>How well the Assistant’s scores tell which {many} will have a loss above the \
         mean: the chance that one that does was scored above one that does not. 1 is perfect, \
         0.5 is guessing. Measured on {many} kept whatever their score, before their loss was \
         known.\n\
         <dt>points<dd>{points}\n</dl>\n",
        points = match words.curve {
            Curve::Accuracy => "Differences of two percentages.",
            Curve::ValidLoss => "Of BLEU, which goes from 0 to 100.",
        },
    );
    html
}

/// With so many decimals; a dash if it is not finite.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    // No −0.00.
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| ('1'..='9').contains(&c)) => format!("−{digits}"),
        Some(digits) => digits.to_owned(),
        None => text,
    }
}

fn signed(value: f64, decimals: usize) -> String {
    let text = number(value, decimals);
    let plus = value > 0.0 && text.contains(|c| ('1'..='9').contains(&c));
    if plus { format!("+{text}") } else { text }
}

/// With a metric prefix: 1.23 T.
fn metric(value: f64) -> String {
    let mut scaled = value;
    for prefix in ["", " k", " M", " G", " T", " P"] {
        if scaled.abs() < 1000.0 || !scaled.is_finite() {
            let decimals = if prefix.is_empty() { 0 } else { 2 };
            return number(scaled, decimals) + if scaled.is_finite() { prefix } else { "" };
        }
        scaled /= 1000.0;
    }
    number(scaled, 2) + " E"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(number(1.005, 1), "1.0");
        assert_eq!(number(-0.001, 2), "0.00");
        assert_eq!(number(-1.5, 1), "−1.5");
        assert_eq!(number(f64::INFINITY, 1), "–");
        assert_eq!(
            (signed(0.25, 2), signed(0.001, 2)),
            ("+0.25".into(), "0.00".into())
        );
        assert_eq!(
            (signed(-3.0, 0), signed(f64::NAN, 2)),
            ("−3".into(), "–".into())
        );
        assert_eq!(
            (metric(1.234e12), metric(12.0)),
            ("1.23 T".into(), "12".into())
        );
        assert_eq!(
            (metric(2e18), metric(f64::NAN)),
            ("2.00 E".into(), "–".into())
        );
    }

    #[test]
    fn an_estimate_hides_no_failure() {
        let of = |mean| Some(Estimate { mean, error: 1.25 });
        assert_eq!(
            estimate(of(-3.25), true),
            "−3.25 <small>±\u{a0}1.25</small>"
        );
        assert_eq!(estimate(of(f64::NAN), true), "–");
        assert_eq!(estimate(None, false), "–");
    }
}
