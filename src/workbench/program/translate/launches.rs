//! Launches, and kernels' addresses.

use super::{Result, Unit};
use std::ops::Range;

/// Words that an expression follows.
const BEFORE_EXPRESSIONS: [&str; 12] = [
    "return",
    "else",
    "do",
    "case",
    "throw",
    "if",
    "while",
    "for",
    "switch",
    "goto",
    "co_return",
    "co_yield",
];

impl Unit<'_> {
    /// `f<<<grid, block, shared, stream>>>(arguments)` as
    /// `(simt::configure(grid, block, shared, stream), f(arguments))`.
    pub(super) fn launches(&mut self) -> Result {
        let mut position = 0;
        while position < self.len() {
            let is_launch = self.at(position) == "<"
                && self.joined(position, "<<<")
                && !matches!(self.before(position), "operator" | "<");
            if !is_launch {
                position += 1;
                continue;
            }
            if self.bodies.iter().any(|body| body.contains(&position)) {
                return self.refused(
                    position,
                    "a launch in a kernel (dynamic parallelism) is not run here; have the host \
                     launch it",
                );
            }
            let Some(end) = self.end_of_configuration(position + 3) else {
                return self.refused(position, "<<< without >>>(");
            };
            let callee = self.callee(position);
            if !(callee..position).any(|at| self.is_word(at)) {
                return self.refused(position, "<<< without a kernel before it");
            }
            let arguments = self.closed(end + 3).unwrap_or(end + 4) - 1;
            let function = self.moved(callee..position)?;
            self.erase(callee..position);
            self.erase(position..position + 3);
            self.edit(position).before = "(simt::configure(".into();
            self.erase(end..end + 3);
            self.edit(end).before = format!("), {function}");
            self.edit(arguments).after.push(')');
            position += 3;
        }
        Ok(())
    }

    /// Position of the `>>>` that ends what begins at `position`.
    fn end_of_configuration(&self, position: usize) -> Option<usize> {
        let mut at = position;
        while at < self.len() {
            match self.at(at) {
                "(" | "[" | "{" => {
                    at = self.closed(at)?;
                    continue;
                }
                ")" | "]" | "}" | ";" => return None,
                // The last three, after those that end a template's arguments.
                ">" if self.joined(at, ">>>") && self.at(at + 3) == "(" => return Some(at),
                _ => at += 1,
            }
        }
        None
    }

    /// Position where the expression begins that ends before `position`: a name, qualified or with
    /// template arguments, or something in parentheses, and what is selected of it.
    fn callee(&self, position: usize) -> usize {
        let is_name = |at: usize| self.is_word(at) && !BEFORE_EXPRESSIONS.contains(&self.at(at));
        let mut at = position;
        loop {
            // One name or bracket further back.
            let Some(last) = at.checked_sub(1) else {
                return at;
            };
            let bracket = match self.at(last) {
                ">" => self.angles_opened(last),
                ")" | "]" => self.partners[last],
                _ if is_name(last) => None,
                _ => return at,
            };
            at = bracket.unwrap_or(last);
            if bracket.is_some() && at > 0 && (is_name(at - 1) || self.before(at) == "]") {
                continue;
            }
            at -= usize::from(self.before(at) == "template");
            let before = self.before(at);
            let two = |mark| at >= 2 && before == ">" && self.at(at - 2) == mark;
            if before == ":" && at >= 2 && self.at(at - 2) == ":" {
                at -= 2;
                if !(at > 0 && (is_name(at - 1) || self.at(at - 1) == ">")) {
                    return at;
                }
            } else if before == "." {
                at -= 1;
            } else if two("-") {
                at -= 2;
            } else {
                return at;
            }
        }
    }

    /// `(void *)kernel<4>` as `simt::function(kernel<4>)`: who is asked about the address has to
    /// know its parameters.
    pub(super) fn addresses(&mut self) {
        for position in 0..self.len() {
            let Some(open) = self.cast(position) else {
                continue;
            };
            let Some((name, end)) = self.kernel_name(open) else {
                continue;
            };
            self.erase(position..open);
            self.edit(position).before = "simt::function(".into();
            self.edit(name.end - 1).after.push_str(end);
        }
    }

    /// Position behind `(void *)`, or behind `reinterpret_cast<void *>(`.
    fn cast(&self, position: usize) -> Option<usize> {
        let mut at = position;
        let named = self.at(at) == "reinterpret_cast" && self.at(at + 1) == "<";
        at += usize::from(named);
        if !(named || self.at(at) == "(") {
            return None;
        }
        at += 1;
        let mut is_void = false;
        while matches!(self.at(at), "const" | "void") {
            is_void |= self.at(at) == "void";
            at += 1;
        }
        let close = if named { ">" } else { ")" };
        let is_pointer = is_void && self.at(at) == "*" && self.at(at + 1) == close;
        let opens = !named || self.at(at + 2) == "(";
        (is_pointer && opens).then_some(at + 2 + usize::from(named))
    }

    /// The positions of a kernel that is named there, and what has to follow it.
    fn kernel_name(&self, from: usize) -> Option<(Range<usize>, &'static str)> {
        let inside = self.before(from) == "(";
        let mut at = from + usize::from(self.at(from) == "&");
        loop {
            while self.at(at) == ":" {
                at += 1;
            }
            if !self.is_word(at) {
                return None;
            }
            if !self.joined(at + 1, "::") {
                break;
            }
            at += 1;
        }
        if !self.kernels.contains(self.at(at)) {
            return None;
        }
        let end = match self.at(at + 1) {
            "<" => self.angles_closed(at + 1)?,
            _ => at + 1,
        };
        // Where the cast has a parenthesis of its own that one ends it.
        let closes = if inside { "" } else { ")" };
        (self.at(end) != "(").then_some((from..end, closes))
    }
}
