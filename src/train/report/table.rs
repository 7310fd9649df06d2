//! Numbers as text: the table of arms, that of runs, and what the words mean.

use std::fmt::Write;

use super::{Arm, Curve, Run, Words, escape};

/// The table of arms, and one of all runs if some arm has several.
pub(super) fn arms(arms: &[Arm], words: &Words) -> String {
    let mut html = String::from("<section>\n<div class=\"scroll\"><table>\n");
    let (score, speed) = headings(words);
    let _ = write!(
        html,
        "<thead><tr><th>Arm<th>{score}<th>vs full, points<th>vs uniform, points\
         <th>Operations saved, %<th>Assistant’s AUC<th>{speed}<th>Time, s<th>Seeds</tr></thead>\n\
         <tbody>\n"
    );
    for arm in arms {
        let over = |value: fn(&Run) -> f64, scale: f64, decimals: usize, plus: bool| {
            let values: Vec<f64> = arm.runs.iter().map(|run| scale * value(run)).collect();
            spread(&values, decimals, plus)
        };
        let _ = writeln!(
            html,
            "<tr><th>{}<td><b>{}</b><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(arm.name),
            over(|r| r.score, 1.0, 2, false),
            over(|r| r.vs_full.unwrap_or(f64::NAN), 1.0, 2, true),
            over(|r| r.vs_uniform.unwrap_or(f64::NAN), 1.0, 2, true),
            over(|r| r.ops_saved, 100.0, 1, false),
            over(|r| r.assist_auc.unwrap_or(f64::NAN), 1.0, 3, false),
            over(|r| r.instances_per_second, 1.0, 0, false),
            over(|r| r.wall_seconds, 1.0, 1, false),
            arm.runs.len(),
        );
    }
    html += "</tbody></table></div>\n";
    if arms.iter().any(|arm| arm.runs.len() > 1) {
        html += "<p class=\"note\">Means over the seeds ± their standard deviation.</p>\n";
    }
    html += &runs(arms, words);
    html + "</section>\n"
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

fn runs(arms: &[Arm], words: &Words) -> String {
    let (score, speed) = headings(words);
    let mut html = format!(
        "<details><summary>Every run</summary>\n<div class=\"scroll\"><table>\n<thead><tr><th>Arm\
         <th>Seed<th>{score}<th>vs full, points<th>vs uniform, points\
         <th>Operations saved, %<th>Boss operations<th>Assistant operations<th>{speed}\
         <th>Time, s</tr></thead>\n<tbody>\n",
    );
    for run in arms.iter().flat_map(|arm| &arm.runs) {
        let points = |x: Option<f64>| signed(x.unwrap_or(f64::NAN), 2);
        let _ = writeln!(
            html,
            "<tr><th>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&run.arm),
            run.seed,
            number(run.score, 2),
            points(run.vs_full),
            points(run.vs_uniform),
            number(100.0 * run.ops_saved, 1),
            metric(run.boss_ops),
            metric(run.assist_ops),
            number(run.instances_per_second, 0),
            number(run.wall_seconds, 1),
        );
    }
    html + "</tbody></table></div></details>\n"
}

/// What a newcomer needs to read the table and the curves.
pub(super) fn terms(arms: &[Arm], words: &Words) -> String {
    let Words { one, many, .. } = words;
    let mut html = String::from("<dl class=\"terms\">\n");
    let arm = |name: &str| match name {
        "full" => Some(format!(
            "trains on every {one} in every epoch: 100 % of the operations."
        )),
        "uniform" => Some(format!(
            "trains on every {one} too, but stops at the same operations as the other arms, with \
             the learning rate to match. A saving is real only against this one."
        )),
        "random" => Some(format!(
            "keeps as many {many} as the Assistant does, chosen blindly."
        )),
        "memory" => Some(format!(
            "the Assistant, from what it remembers of each {one}’s loss."
        )),
        "paper" => Some(format!(
            "the Assistant, from the {one} itself, as its authors published it."
        )),
        "infobatch" => Some(format!(
            "prunes half of the {many} of a loss below the mean, no Assistant."
        )),
        _ => None,
    };
    let names = ["full", "uniform"].into_iter();
    let others = arms
        .iter()
        .map(|arm| arm.name)
        .filter(|name| !["full", "uniform"].contains(name));
    for name in names.chain(others) {
        if let Some(text) = arm(name) {
            let _ = writeln!(html, "<dt>{name}<dd>{text}");
        }
    }
    let _ = write!(
        html,
        "<dt>operations<dd>Arithmetic of forward and backward passes over the {many} trained \
         on, evaluation excluded. <i>Saved</i>: the part of full’s that was not spent, the \
         Assistant’s own counted as spent.\n\
         <dt>keep rate<dd>Share of the {many} offered that the Boss, the network proper, is \
         given to train on; the Assistant, a light model beside it, drops the rest.\n\
         <dt>AUC<dd>How well the Assistant’s scores tell which {many} will have a loss above the \
         mean: the chance that one that does was scored above one that does not. 1 is perfect, \
         0.5 is guessing. Measured on {many} kept whatever their score, before their loss was \
         known.\n\
         <dt>points<dd>{points}\n</dl>\n",
        points = match words.curve {
            Curve::TestAccuracy => "Differences of two percentages.",
            Curve::ValidLoss => "Of BLEU, which goes from 0 to 100.",
        },
    );
    html
}

/// Mean ± standard deviation of the values that are numbers; a dash if none is.
fn spread(values: &[f64], decimals: usize, plus: bool) -> String {
    let show = if plus { signed } else { number };
    // One NaN makes the mean one: a failed run must not vanish in it.
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if values.len() < 2 || !mean.is_finite() {
        return show(mean, decimals);
    }
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (squares / (values.len() - 1) as f64).sqrt();
    format!(
        "{} <small>± {}</small>",
        show(mean, decimals),
        number(deviation, decimals)
    )
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
    fn a_spread_needs_two_and_hides_no_failure() {
        assert_eq!(spread(&[1.0], 1, false), "1.0");
        assert_eq!(spread(&[1.0, 3.0], 1, true), "+2.0 <small>± 1.4</small>");
        assert_eq!(spread(&[1.0, f64::NAN], 1, true), "–");
    }
}
