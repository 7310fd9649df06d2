//! `__shared__` variables.

use super::{Result, Unit};
use std::collections::BTreeSet;

/// A declared name, and where its declarator ends.
struct Declarator {
    name: usize,
    end: usize,
}

impl Unit<'_> {
    /// Position of the innermost brace around a position that is no namespace's.
    fn braces(&self, position: usize) -> Option<usize> {
        let mut at = position;
        while let Some(before) = at.checked_sub(1) {
            at = before;
            match self.at(at) {
                "}" => at = self.partners[at].unwrap_or(at),
                "{" => {
                    let mut words = (self.start(at)..at).map(|at| self.at(at));
                    if !words.any(|w| matches!(w, "namespace" | "\"C\"" | "\"C++\"")) {
                        return Some(at);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The names of a declaration from `position` on; the last one's end is the semicolon.
    fn declarators(&self, position: usize) -> Result<Vec<Declarator>> {
        let mut found = Vec::new();
        let (mut name, mut at, mut angles) = (None, position, 0);
        while at < self.len() {
            match self.at(at) {
                "<" => angles += 1,
                ">" => angles -= 1,
                // Dimensions, attributes, and the members of a type.
                "[" | "(" | "{" => {
                    at = self.closed(at).unwrap_or(self.len());
                    continue;
                }
                "=" => return self.refused(at, "__shared__ variables have no initial value"),
                "," | ";" if angles == 0 => {
                    let Some(name) = name else {
                        return self.refused(at, "__shared__ without a variable");
                    };
                    found.push(Declarator { name, end: at });
                    if self.at(at) == ";" {
                        return Ok(found);
                    }
                }
                _ if angles == 0 && self.is_word(at) => name = Some(at),
                _ => {}
            }
            at += 1;
        }
        self.refused(position - 1, "__shared__ without an end")
    }

    /// `__shared__ float tile[32][33];` as a type and a reference to what the executor has of it.
    pub(super) fn shared(&mut self) -> Result {
        let mut outside = BTreeSet::new();
        for position in 0..self.len() {
            if self.at(position) != "__shared__" {
                continue;
            }
            let start = self.start(position);
            let declarators = self.declarators(position + 1)?;
            let end = declarators.last().map_or(position, |last| last.end);
            let storage = (start..end).filter(|at| matches!(self.at(*at), "extern" | "static"));
            let storage: Vec<usize> = storage.collect();
            let external = storage.iter().any(|at| self.at(*at) == "extern");
            let inside = self.braces(start).is_some();
            if !external && !inside {
                let what = "__shared__ variables outside of functions are not known here; declare \
                            it in the kernel";
                return self.refused(position, what);
            }
            for at in storage {
                self.replace(at, "");
            }
            self.replace(position, "");
            for at in start..end {
                if self.at(at) == "alignas" {
                    // Types have none, but the attribute.
                    self.replace(at, "__attribute__((aligned");
                    if let Some(close) = self.closed(at + 1) {
                        self.replace(close - 1, ")))");
                    }
                }
            }
            self.edit(start).before.push_str("typedef ");
            let mut variables = String::new();
            for Declarator { name, .. } in &declarators {
                let variable = self.at(*name);
                let kind = format!("simt_{variable}_type");
                variables += &match (external, inside) {
                    // It may be declared again.
                    (true, false) if !outside.insert(variable) => String::new(),
                    (true, false) => format!(" static simt::Dynamic<{kind}> {variable};"),
                    (true, true) => format!(
                        " {kind} &{variable} = *static_cast<{kind} *>(simt_dynamic_shared());"
                    ),
                    (false, _) => format!(
                        " static simt::SharedVariable simt_{variable}_place = {{{{0}}, \"{variable}\"}}; \
                         {kind} &{variable} = simt::shared<{kind}>(simt_{variable}_place);"
                    ),
                };
                self.replace(*name, kind);
            }
            self.edit(end).after.push_str(&variables);
        }
        Ok(())
    }
}
