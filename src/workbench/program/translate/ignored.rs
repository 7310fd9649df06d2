//! Calls of the runtime whose result nobody looks at.

use super::Unit;

impl Unit<'_> {
    /// `cudaFree(p);` as `simt_ignores(true), cudaFree(p), simt_ignores(false);`: whether a program
    /// has learnt of a failure says whose exit code is its own.
    pub(super) fn ignored(&mut self) {
        for position in 0..self.len() {
            let is_call = self.is_word(position)
                && is_runtimes(self.at(position))
                && self.at(position + 1) == "(";
            let Some(end) = self.closed(position + 1).filter(|_| is_call) else {
                continue;
            };
            if self.at(end) == ";" && self.begins_statement(position) {
                self.edit(position).before = "simt_ignores(true), ".into();
                self.edit(end - 1).after.push_str(", simt_ignores(false)");
            }
        }
    }

    /// Whether a statement begins there, or what a cast to `void` makes one.
    fn begins_statement(&self, position: usize) -> bool {
        match self.before(position) {
            ";" | "{" | "}" | "else" | "do" => true,
            ")" => self.partners[position - 1].is_some_and(|open| {
                let is_void = self.at(open + 1) == "void" && open + 3 == position;
                matches!(self.before(open), "if" | "for" | "while" | "constexpr")
                    || (is_void && self.begins_statement(open))
            }),
            _ => false,
        }
    }
}

/// `cudaFree`, and no type such as `cudaStream_t`.
fn is_runtimes(name: &str) -> bool {
    let rest = name.strip_prefix("cuda").unwrap_or_default();
    rest.starts_with(|c: char| c.is_ascii_uppercase()) && !rest.ends_with("_t")
}
