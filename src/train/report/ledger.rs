//! Where the operations went, as a bar an arm: Boss, Assistant, and what was saved of full data's.

use std::fmt::Write;

use super::{Group, Run, chart};

/// The bars, means over the seeds.
pub(super) fn bars(arms: &[Group]) -> String {
    let mut html = String::from(
        "<section>\n<h2>Ledger of operations</h2>\n\
         <p class=\"note\">In percent of full data’s: \
         <span class=\"key boss\"></span> Boss (in the arm’s colour), \
         <span class=\"key assistant\"></span> Assistant (scoring every candidate, learning), \
         <span class=\"key saved\"></span> saved.</p>\n<ul class=\"ledger\">\n",
    );
    for arm in arms {
        let mean = |part: fn(&Run) -> f64| {
            let shares = arm.runs.iter().map(|run| 100.0 * part(run));
            shares.sum::<f64>() / arm.runs.len() as f64
        };
        let parts = [
            ("boss", mean(|run| run.boss_ops / run.full_ops)),
            ("assistant", mean(|run| run.assist_ops / run.full_ops)),
            ("saved", mean(|run| run.ops_saved)),
        ];
        let _ = write!(
            html,
            "<li class=\"{}\"><b>{}</b><span class=\"bar\">",
            arm.arm.name(),
            chart::key(arm.arm)
        );
        for (part, share) in parts {
            // What cannot be seen is in the words below; a NaN has no width.
            let width = share.clamp(0.0, 100.0);
            if width > 0.0 {
                let _ = write!(html, "<i class=\"{part}\" style=\"width:{width:.3}%\"></i>");
            }
        }
        let [boss, assistant, saved] = parts.map(|(_, share)| percent(share));
        let _ = writeln!(
            html,
            "</span><small>Boss {boss} · Assistant {assistant} · saved {saved}</small></li>"
        );
    }
    html + "</ul>\n</section>\n"
}

/// With one decimal, or as many as it takes to show a small share.
fn percent(share: f64) -> String {
    let text = |decimals| super::table::number(share, decimals) + "\u{a0}%";
    match share.abs() {
        0.0 => text(1),
        size if size < 0.001 => "under 0.001\u{a0}%".to_owned(),
        size if size < 0.1 => text(3),
        _ => text(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shares_are_not_zero() {
        let text = [65.04, 0.0, 0.1, 0.0345, 3e-6, f64::NAN, -0.053].map(percent);
        let want = [
            "65.0\u{a0}%",
            "0.0\u{a0}%",
            "0.1\u{a0}%",
            "0.035\u{a0}%",
            "under 0.001\u{a0}%",
            "–\u{a0}%",
            "−0.053\u{a0}%",
        ];
        assert_eq!(text, want);
    }
}
