//! Tables of ladders in a Markdown file, between markers:
//!
//! ```text
//! <!-- ladder gemm -->
//! ...
//! <!-- /ladder -->
//! ```

use crate::files;
use crate::workbench::workload::{Op, ops};
use std::fmt::Display;
use std::fs;
use std::path::Path;

const END: &str = "<!-- /ladder -->";

/// Writes the tables of a file anew, each what `table` makes of the op that its marker names, and
/// returns how many there are.
///
/// # Errors
/// A file that cannot be read or written, a marker that names no op or has no end, and those of
/// `table`.
pub fn update(
    file: &Path,
    table: impl Fn(&'static Op) -> Result<String, String>,
) -> Result<usize, String> {
    let at = |e: &dyn Display| format!("{}: {e}", file.display());
    let old = fs::read_to_string(file).map_err(|e| at(&e))?;
    let (new, count) = rewrite(&old, table).map_err(|e| at(&e))?;
    files::write(file, new.as_bytes()).map_err(|e| e.to_string())?;
    Ok(count)
}

/// The text with what is between the markers replaced by the tables of the ops that they name, and
/// the number of tables.
fn rewrite(
    text: &str,
    table: impl Fn(&'static Op) -> Result<String, String>,
) -> Result<(String, usize), String> {
    let (mut new, mut count, mut lines) = (String::new(), 0, text.lines().enumerate());
    while let Some((at, line)) = lines.next() {
        new += line;
        new.push('\n');
        let name = line.trim().strip_prefix("<!-- ladder ");
        let Some(name) = name.and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let op = ops().find(|op| op.name == name);
        let op = op.ok_or_else(|| format!("line {}: {name} is no op", at + 1))?;
        if !lines.any(|(_, line)| line.trim() == END) {
            return Err(format!("line {}: no {END} follows", at + 1));
        }
        new += &table(op)?;
        new += END;
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
        let table = |op: &'static Op| Ok(format!("table of {}\n", op.name));
        let want = "a\n<!-- ladder copy -->\ntable of copy\n<!-- /ladder -->\nb\n";
        assert_eq!(rewrite(text, table), Ok((want.into(), 1)));
        assert_eq!(rewrite(want, table), Ok((want.into(), 1)));
        let refuse = |_: &'static Op| Err("no table".into());
        assert_eq!(rewrite(text, refuse), Err("no table".into()));
    }

    #[test]
    fn wrong_markers_are_errors_with_their_line() {
        let table = |_: &'static Op| Ok(String::new());
        let error = |text| rewrite(text, table).unwrap_err();
        let end = "line 2: no <!-- /ladder --> follows";
        assert_eq!(error("a\n<!-- ladder copy -->\nold\n"), end);
        assert_eq!(
            error("<!-- ladder x -->\n<!-- /ladder -->\n"),
            "line 1: x is no op"
        );
    }
}
