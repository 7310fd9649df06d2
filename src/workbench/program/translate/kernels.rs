//! Kernels. A call of one is a launch (`kernels/cuda/launch.h`): its body becomes a function that
//! the executor calls, and all that is left to do is to say which one and with what.
//!
//! ```text
//! __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }
//! void scale(float *x, float by) { simt::kernel(…, [](float *x, float by) { x[threadIdx.x] *= by; }, x, by); }
//! ```
//!
//! So overloads, deduced template arguments and converted arguments are what C++ makes of a call.

use super::tokens::Kind;
use super::{Result, Unit};
use std::ops::Range;

/// Words before a declaration's name that take something in parentheses.
const ATTRIBUTES: [&str; 7] = [
    "__launch_bounds__",
    "__cluster_dims__",
    "__maxnreg__",
    "__block_size__",
    "__attribute__",
    "alignas",
    "decltype",
];

/// Words that are no names.
const TYPES: [&str; 17] = [
    "void", "bool", "char", "short", "int", "long", "float", "double", "signed", "unsigned",
    "auto", "const", "volatile", "struct", "class", "enum", "typename",
];

impl Unit<'_> {
    /// Kernels, and words that say how functions are compiled.
    pub(super) fn kernels(&mut self) -> Result {
        for position in 0..self.len() {
            if !self.is_word(position) {
                continue;
            }
            match self.at(position) {
                "__global__" => self.kernel(position)?,
                "__launch_bounds__" | "__cluster_dims__" | "__maxnreg__" | "__block_size__" => {
                    let end = self.closed(position + 1).unwrap_or(position + 1);
                    self.erase(position..end);
                }
                // `__attribute__((__noinline__))` is the compiler's own.
                "__noinline__" if self.before(position) != "(" => {
                    self.replace(position, "__attribute__((__noinline__))");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn kernel(&mut self, position: usize) -> Result {
        self.replace(position, "");
        let Some((name, open)) = self.function(position + 1) else {
            return Ok(());
        };
        self.kernels.insert(self.at(name));
        let Some(close) = self.closed(open) else {
            return Ok(());
        };
        let mut body = close;
        while body < self.len() && !matches!(self.at(body), "{" | ";" | "}") {
            body += 1;
        }
        let end = self.closed(body).filter(|_| self.at(body) == "{");
        let Some(end) = end else { return Ok(()) };
        let start = self.start(position);
        let bounds = (start..body).find(|at| self.at(*at) == "__launch_bounds__");
        let bounds = match bounds.and_then(|at| Some(at + 2..self.closed(at + 1)? - 1)) {
            Some(range) => self.moved(range)?,
            None => "1024".into(),
        };
        let (mut parameters, mut arguments) = (Vec::new(), String::new());
        for part in self.parts(open + 1..close - 1) {
            let default = part.clone().find(|at| self.at(*at) == "=");
            let part = part.start..default.unwrap_or(part.end);
            // What has no name the body has no use for.
            let Some(name) = self.parameter(part.clone()) else {
                continue;
            };
            let is_pack = (part.clone()).any(|at| self.joined(at, "..."));
            let dots = if is_pack { "..." } else { "" };
            arguments += &format!(", {}{dots}", self.at(name));
            parameters.push(self.moved(part)?);
        }
        let templates = self.template_names(start..position).join(",");
        let (name, parameters) = (self.at(name), parameters.join(", "));
        let file = &self.files[self.tokens[self.significant[body]].file];
        let start = format!(
            " simt::kernel({{{name:?}, {file:?}, {templates:?}, __PRETTY_FUNCTION__, \
             simt::bound({bounds})}}, []({parameters}) {{"
        );
        self.edit(body).after = start;
        self.edit(end - 1).before = format!("}}{arguments}); ");
        self.bodies.push(body..end);
        Ok(())
    }

    /// Positions of a function's name and of the parenthesis that opens its parameters.
    fn function(&self, from: usize) -> Option<(usize, usize)> {
        let mut at = from;
        while at < self.len() && !matches!(self.at(at), ";" | "{" | "}" | "=") {
            if ATTRIBUTES.contains(&self.at(at)) && self.at(at + 1) == "(" {
                at = self.closed(at + 1)?;
                continue;
            }
            if self.is_word(at) {
                // `f(`, or a template's own `f<int>(`.
                let arguments = self.at(at + 1) == "<";
                let after = arguments.then(|| self.angles_closed(at + 1)).flatten();
                let open = after.unwrap_or(at + 1);
                if self.at(open) == "(" {
                    return Some((at, open));
                }
                if arguments {
                    at = open;
                    continue;
                }
            }
            at += 1;
        }
        None
    }

    /// Position of a parameter's name, if it has one.
    fn parameter(&self, part: Range<usize>) -> Option<usize> {
        // void (*f)(int), float (&rows)[4]
        let pointer = part.clone().find(|at| {
            let mark = matches!(self.at(at + 1), "*" | "&") && self.is_word(at + 2);
            self.at(*at) == "(" && mark && matches!(self.at(at + 3), ")" | "[")
        });
        if let Some(open) = pointer {
            return Some(open + 2);
        }
        let dimensions = part.clone().find(|at| self.at(*at) == "[");
        let name = dimensions.unwrap_or(part.end).checked_sub(1)?;
        if name <= part.start || !self.is_word(name) || TYPES.contains(&self.at(name)) {
            return None;
        }
        // Something before it has to be a type.
        let is_type = |at: usize| {
            let word = self.at(at);
            let qualifier = matches!(word, "const" | "volatile" | "typename" | "struct" | "enum");
            !qualifier && !matches!(word, "__restrict__" | "__restrict")
        };
        let qualified = self.before(name) == ":" && self.before(name - 1) == ":";
        (!qualified && (part.start..name).any(is_type)).then_some(name)
    }

    /// Names of the parameters of a declaration's innermost template.
    fn template_names(&self, declaration: Range<usize>) -> Vec<&str> {
        let template = declaration.rev().find(|at| self.at(*at) == "template");
        let Some(open) = template.map(|at| at + 1).filter(|at| self.at(*at) == "<") else {
            return Vec::new();
        };
        let close = self.angles_closed(open).unwrap_or(open + 1);
        let name = |part: Range<usize>| {
            let default = part.clone().find(|at| self.at(*at) == "=");
            let end = default.unwrap_or(part.end);
            let last = end.checked_sub(1).filter(|last| *last > part.start)?;
            (self.is(last, Kind::Word)).then(|| self.at(last))
        };
        let parts = self.parts(open + 1..close - 1).into_iter();
        parts.filter_map(name).collect()
    }
}
