//! What of CUDA C++ a C++ compiler cannot parse, as C++: kernels, launches (`<<<…>>>`),
//! `__shared__` variables, inline PTX, and words that belong to declarations. Everything else is for
//! the headers in `kernels/cuda/`.
//!
//! It works on what the preprocessor leaves, so that macros, comments and spliced lines are no
//! matter, and replaces tokens in their lines: what the compiler says of a line is of the user's.

mod ignored;
mod kernels;
mod launches;
mod ptx;
mod refusals;
mod shared;
#[cfg(test)]
mod tests;
mod tokens;

pub use refusals::missing_header;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tokens::{Kind, Token, tokens};

/// A place in the user's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As the preprocessor names it.
    pub file: String,
    /// From 1 on.
    pub line: u32,
}

/// Something that cannot be run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {what}", .place.file, .place.line)]
pub struct Refused {
    /// Where.
    pub place: Place,
    /// What it is, and what would do instead.
    pub what: String,
}

type Result<T = ()> = std::result::Result<T, Refused>;

/// Translates what `c++ -E` has printed.
///
/// # Errors
/// What cannot be run.
pub fn translate(text: &str) -> Result<String> {
    let mut unit = Unit::new(text);
    unit.refuse()?;
    unit.ptx()?;
    unit.kernels()?;
    unit.shared()?;
    unit.addresses();
    unit.launches()?;
    unit.ignored();
    Ok(unit.text())
}

/// What becomes of a token.
#[derive(Default)]
struct Edit {
    before: String,
    /// In its place.
    instead: Option<String>,
    after: String,
}

/// A text that is translated. Positions are those of tokens that a compiler looks at.
struct Unit<'t> {
    tokens: Vec<Token<'t>>,
    files: Vec<String>,
    /// Index of the token at each position.
    significant: Vec<usize>,
    /// Position of the bracket that belongs to the one at each position.
    partners: Vec<Option<usize>>,
    /// By index of the token.
    edits: BTreeMap<usize, Edit>,
    /// Names of `__global__` functions,
    kernels: BTreeSet<&'t str>,
    /// and what is in their braces.
    bodies: Vec<Range<usize>>,
}

impl<'t> Unit<'t> {
    fn new(text: &'t str) -> Unit<'t> {
        let (tokens, files) = tokens(text);
        let is_significant = |i: &usize| !matches!(tokens[*i].kind, Kind::Other | Kind::Marker);
        let significant: Vec<usize> = (0..tokens.len()).filter(is_significant).collect();
        let mut partners = vec![None; significant.len()];
        let mut open = Vec::new();
        for (position, index) in significant.iter().enumerate() {
            match tokens[*index].text {
                "(" | "[" | "{" => open.push(position),
                ")" | "]" | "}" => {
                    let partner = open.pop();
                    partners[position] = partner;
                    if let Some(partner) = partner {
                        partners[partner] = Some(position);
                    }
                }
                _ => {}
            }
        }
        Unit {
            tokens,
            files,
            significant,
            partners,
            edits: BTreeMap::new(),
            kernels: BTreeSet::new(),
            bodies: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.significant.len()
    }

    /// The token at a position; nothing where there is none.
    fn at(&self, position: usize) -> &'t str {
        let token = self.significant.get(position);
        token.map_or("", |i| self.tokens[*i].text)
    }

    /// The one before it.
    fn before(&self, position: usize) -> &'t str {
        position.checked_sub(1).map_or("", |before| self.at(before))
    }

    fn is(&self, position: usize, kind: Kind) -> bool {
        let token = self.significant.get(position);
        token.is_some_and(|i| self.tokens[*i].kind == kind)
    }

    fn is_word(&self, position: usize) -> bool {
        self.is(position, Kind::Word)
    }

    fn refused<T>(&self, position: usize, what: impl Into<String>) -> Result<T> {
        let token = self.tokens[self.significant[position]];
        Err(Refused {
            place: Place {
                file: self.files[token.file].clone(),
                line: token.line,
            },
            what: what.into(),
        })
    }

    fn edit(&mut self, position: usize) -> &mut Edit {
        self.edits.entry(self.significant[position]).or_default()
    }

    fn replace(&mut self, position: usize, text: impl Into<String>) {
        self.edit(position).instead = Some(text.into());
    }

    fn erase(&mut self, range: Range<usize>) {
        for position in range {
            self.replace(position, "");
        }
    }

    /// Tokens as a text for another place, which has to be within a line.
    fn moved(&self, range: Range<usize>) -> Result<String> {
        let mut text = String::new();
        for position in range {
            let token = self.at(position);
            if token.contains('\n') {
                return self.refused(position, "a line break within a string is not known here");
            }
            let follows =
                position > 0 && self.significant[position] == self.significant[position - 1] + 1;
            if !text.is_empty() && !follows {
                text.push(' ');
            }
            text += token;
        }
        Ok(text)
    }

    /// Whether these marks follow one another with nothing between them.
    fn joined(&self, position: usize, marks: &str) -> bool {
        marks.char_indices().all(|(i, mark)| {
            let next = self.significant.get(position + i);
            let follows = next == self.significant.get(position).map(|at| at + i).as_ref();
            follows && self.at(position + i).starts_with(mark)
        })
    }

    /// Position behind the bracket that closes the one at `open`.
    fn closed(&self, open: usize) -> Option<usize> {
        let partner = self.partners.get(open).copied().flatten()?;
        (partner > open).then_some(partner + 1)
    }

    /// Position behind the `>` that closes the `<` at `open`.
    fn angles_closed(&self, open: usize) -> Option<usize> {
        let (mut at, mut depth) = (open, 0);
        while at < self.len() {
            match self.at(at) {
                "(" | "[" | "{" => {
                    at = self.closed(at)?;
                    continue;
                }
                ")" | "]" | "}" | ";" => return None,
                "<" => depth += 1,
                ">" if self.before(at) != "-" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    /// Position of the `<` that the `>` at `close` closes.
    fn angles_opened(&self, close: usize) -> Option<usize> {
        let (mut at, mut depth) = (close, 0);
        loop {
            match self.at(at) {
                ")" | "]" | "}" => at = self.partners[at]?,
                "(" | "[" | "{" | ";" => return None,
                ">" if self.before(at) != "-" => depth += 1,
                "<" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(at);
            }
            at = at.checked_sub(1)?;
        }
    }

    /// Position where the declaration begins that has `position` in it: behind what ends another
    /// one, or behind a label.
    fn start(&self, position: usize) -> usize {
        let mut at = position;
        while at > 0 {
            let is_label = || {
                let scope = self.before(at - 1) == ":" || self.at(at) == ":";
                self.at(at - 1) == ":" && !scope
            };
            if matches!(self.at(at - 1), ";" | "{" | "}") || is_label() {
                break;
            }
            at -= 1;
        }
        at
    }

    /// Parts of a list with commas between.
    fn parts(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut from, mut at, mut angles) = (range.start, range.start, 0);
        while at < range.end {
            match self.at(at) {
                "(" | "[" | "{" => {
                    at = self.closed(at).unwrap_or(range.end);
                    continue;
                }
                "<" => angles += 1,
                ">" if self.before(at) != "-" => angles -= 1,
                "," if angles <= 0 => {
                    parts.push(from..at);
                    from = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        if from < range.end {
            parts.push(from..range.end);
        }
        parts
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (i, token) in self.tokens.iter().enumerate() {
            let Some(edit) = self.edits.get(&i) else {
                text += token.text;
                continue;
            };
            text += &edit.before;
            match &edit.instead {
                None => text += token.text,
                Some(instead) => {
                    text += instead;
                    // Of a string of several lines, that what follows stays in its own.
                    text.extend(token.text.chars().filter(|c| *c == '\n'));
                }
            }
            text += &edit.after;
        }
        text
    }
}
