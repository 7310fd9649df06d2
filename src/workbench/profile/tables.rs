//! Tables in a Markdown file, between markers: of a ladder, or of a network's step on a GPU.
//!
//! ```text
//! <!-- ladder gemm -->
//! ...
//! <!-- /ladder -->
//! <!-- network resnet20 1024 h100 -->
//! ...
//! <!-- /network -->
//! ```

use super::gpus::{Specs, find};
use super::network::Network;
use crate::files;
use crate::workbench::workload::{Op, ops};
use std::fmt::Display;
use std::fs;
use std::path::Path;

/// What a marker asks for.
#[derive(Clone, Copy)]
pub enum Wanted {
    /// The ladder of an op.
    Ladder(&'static Op),
    /// A step of a network, of so many examples, on a GPU.
    Network(Network, usize, &'static Specs),
}

impl Wanted {
    /// What a line asks for, and the line that ends it; none if it is no marker.
    fn of(line: &str) -> Option<Result<(Wanted, &'static str), String>> {
        let inside = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
        let words: Vec<&str> = inside.split(' ').collect();
        Some(match words[..] {
            ["ladder", name] => {
                let op = ops().find(|op| op.name == name);
                let op = op.ok_or_else(|| format!("{name} is no op"));
                op.map(|op| (Wanted::Ladder(op), "<!-- /ladder -->"))
            }
            ["network", name, batch, gpu] => {
                let wanted = Network::named(name).zip(batch.parse().ok()).zip(find(gpu));
                let wanted =
                    wanted.ok_or_else(|| format!("{inside}: no such network, batch or GPU"));
                wanted.map(|((network, batch), gpu)| {
                    (Wanted::Network(network, batch, gpu), "<!-- /network -->")
                })
            }
            _ => return None,
        })
    }
}

/// Writes the tables of a file anew, each what `table` makes of what its marker asks for, and returns
/// how many there are.
///
/// # Errors
/// A file that cannot be read or written, a marker that names nothing or has no end, and those of
/// `table`.
pub fn update(
    file: &Path,
    table: impl Fn(Wanted) -> Result<String, String>,
) -> Result<usize, String> {
    let at = |e: &dyn Display| format!("{}: {e}", file.display());
    let old = fs::read_to_string(file).map_err(|e| at(&e))?;
    let (new, count) = rewrite(&old, table).map_err(|e| at(&e))?;
    files::write(file, new.as_bytes()).map_err(|e| e.to_string())?;
    Ok(count)
}

/// The text with what is between the markers replaced by the tables that they ask for, and the number
/// of tables.
fn rewrite(
    text: &str,
    table: impl Fn(Wanted) -> Result<String, String>,
) -> Result<(String, usize), String> {
    let (mut new, mut count, mut lines) = (String::new(), 0, text.lines().enumerate());
    while let Some((at, line)) = lines.next() {
        new += line;
        new.push('\n');
        let Some(wanted) = Wanted::of(line) else {
            continue;
        };
        let (wanted, end) = wanted.map_err(|why| format!("line {}: {why}", at + 1))?;
        if !lines.any(|(_, line)| line.trim() == end) {
            return Err(format!("line {}: no {end} follows", at + 1));
        }
        new += &table(wanted)?;
        new += end;
        new.push('\n');
        count += 1;
    }
    Ok((new, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_replaced_and_the_rest_is_not() {
        let text = "a\n<!-- ladder copy -->\nold\nold\n<!-- /ladder -->\nb\n";
        let table = |wanted| match wanted {
            Wanted::Ladder(op) => Ok(format!("table of {}\n", op.name)),
            Wanted::Network(network, batch, gpu) => {
                Ok(format!("{} of {batch}, {}\n", network.name(), gpu.key))
            }
        };
        let want = "a\n<!-- ladder copy -->\ntable of copy\n<!-- /ladder -->\nb\n";
        assert_eq!(rewrite(text, table), Ok((want.into(), 1)));
        assert_eq!(rewrite(want, table), Ok((want.into(), 1)));
        let text = "<!-- network resnet20 64 4090 -->\nold\n<!-- /network -->\n";
        let (new, _) = rewrite(text, table).unwrap();
        assert!(new.contains("-->\nresnet20 of 64, 4090\n<!--"), "{new}");
        let refuse = |_: Wanted| Err("no table".into());
        assert_eq!(rewrite(text, refuse), Err("no table".into()));
    }

    #[test]
    fn wrong_markers_are_errors_with_their_line() {
        let table = |_: Wanted| Ok(String::new());
        let error = |text| rewrite(text, table).unwrap_err();
        let end = "line 2: no <!-- /ladder --> follows";
        assert_eq!(error("a\n<!-- ladder copy -->\nold\n"), end);
        assert_eq!(
            error("<!-- ladder x -->\n<!-- /ladder -->\n"),
            "line 1: x is no op"
        );
        assert_eq!(
            error("<!-- network resnet21 1 h100 -->\n"),
            "line 1: network resnet21 1 h100: no such network, batch or GPU"
        );
    }
}
