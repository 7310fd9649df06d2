//! What there is to be profiled.

use crate::backend::gpu::catalog::FILES;
use crate::backend::gpu::head::head;
use crate::workbench::workload::{Dims, Op, ops};
use std::fmt::Write as _;

/// All ops as a table for people: their steps, sizes and usual shapes, and what they compute.
pub fn list() -> String {
    let rows = ops().map(|op| {
        let [first, last] = [op.steps.first(), op.steps.last()].map(|step| step.unwrap_or(&1));
        let steps = match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        };
        let sizes = op.dims.join("x");
        [
            op.name.into(),
            steps,
            sizes,
            Dims(op.shape).to_string(),
            what(op),
        ]
    });
    let header = ["op", "steps", "sizes", "usual", "computes"].map(String::from);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let [name, steps, sizes, shape] = [0, 1, 2, 3].map(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for [a, b, c, d, what] in &rows {
        let _ = writeln!(
            text,
            "{a:<name$}  {b:<steps$}  {c:<sizes$}  {d:<shape$}  {what}"
        );
    }
    text
}

/// What an op computes: its own folder's first file says it, or that of the first of others'.
fn what(op: &Op) -> String {
    let own = op.folders.iter().find(|folder| **folder == op.name);
    let folder = own.or(op.folders.first()).expect("every op has a folder");
    let inside = |path: &str| path.split('/').nth(1) == Some(folder);
    let file = FILES.iter().find(|file| inside(file.path));
    let head = file.and_then(|file| head(file.path));
    head.map_or(String::new(), |head| head.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_is_there_with_what_it_computes() {
        let text = list();
        assert_eq!(text.lines().count(), 1 + ops().count());
        for (line, op) in text.lines().skip(1).zip(ops()) {
            assert!(
                line.starts_with(op.name) && line.ends_with(&what(op)),
                "{line}"
            );
            assert!(!what(op).is_empty(), "{line}");
        }
    }
}
