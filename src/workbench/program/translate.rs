//! What of CUDA C++ a C++ compiler cannot parse, as C++: launches (`<<<…>>>`), `__shared__`
//! variables, and words that belong to declarations. Everything else is for the headers in
//! `kernels/cuda/`.
//!
//! It works on what the preprocessor leaves, so that macros, comments and spliced lines are no
//! matter, and replaces tokens in their lines: what the compiler says of a line is of the user's.

use std::collections::BTreeMap;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    /// Strings, characters and numbers.
    Literal,
    /// One character.
    Mark,
    /// Where the lines that follow come from.
    Marker,
    /// Blanks, and all that is in system headers.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Token<'t> {
    kind: Kind,
    text: &'t str,
    /// Index into the file names.
    file: usize,
    line: u32,
}

/// A `__global__` function.
struct Kernel {
    file: usize,
    is_template: bool,
}

/// Translates what `c++ -E` has printed.
///
/// # Errors
/// What cannot be run.
pub fn translate(text: &str) -> Result<String, Refused> {
    let (tokens, files) = tokens(text);
    let mut unit = Unit {
        significant: (0..tokens.len())
            .filter(|i| !matches!(tokens[*i].kind, Kind::Other | Kind::Marker))
            .collect(),
        edits: BTreeMap::new(),
        kernels: BTreeMap::new(),
        tokens,
        files,
    };
    unit.words()?;
    unit.shared()?;
    unit.launches()?;
    Ok(unit.text())
}

/// Cuts a text up. Nothing of it is lost.
fn tokens(text: &str) -> (Vec<Token<'_>>, Vec<String>) {
    let mut tokens = Vec::new();
    let mut files = vec![String::new()];
    let (mut file, mut line, mut system) = (0, 1, false);
    let mut rest = text;
    let mut fresh = true; // nothing but blanks in the line so far
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if fresh && first == '#' {
            let end = rest.find('\n').map_or(rest.len(), |at| at + 1);
            (Kind::Marker, end)
        } else if system {
            (Kind::Other, rest.find('\n').map_or(rest.len(), |at| at + 1))
        } else {
            scan(rest, first)
        };
        let (text, after) = rest.split_at(length);
        rest = after;
        tokens.push(Token {
            kind,
            text,
            file,
            line,
        });
        if kind == Kind::Marker {
            if let Some((number, name, flags)) = marker(text) {
                file = files.iter().position(|f| *f == name).unwrap_or_else(|| {
                    files.push(name);
                    files.len() - 1
                });
                (line, system) = (number, flags.contains('3'));
            }
            continue;
        }
        line += text.matches('\n').count() as u32;
        fresh = match text.rfind('\n') {
            Some(at) => text[at..].trim().is_empty(),
            None => fresh && text.trim().is_empty(),
        };
    }
    (tokens, files)
}

/// `# 12 "file.cu" 1 3`
fn marker(text: &str) -> Option<(u32, String, &str)> {
    let (number, rest) = text.strip_prefix("# ")?.split_once(' ')?;
    let (name, flags) = rest.strip_prefix('"')?.rsplit_once('"')?;
    Some((number.parse().ok()?, name.replace("\\\\", "\\"), flags))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Kind and length of the token that a text starts with.
fn scan(text: &str, first: char) -> (Kind, usize) {
    let until = |stop: fn(char) -> bool| text.find(stop).unwrap_or(text.len());
    if first.is_whitespace() {
        return (Kind::Other, until(|c| !c.is_whitespace()));
    }
    if first == '"' || first == '\'' {
        return (Kind::Literal, quoted(text, first));
    }
    if first.is_ascii_digit() {
        // 1'000.5e-3f
        let mut before = ' ';
        let end = text.find(|c: char| {
            let sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E' | 'p' | 'P');
            before = c;
            !(is_word(c) || matches!(c, '.' | '\'') || sign)
        });
        return (Kind::Literal, end.unwrap_or(text.len()));
    }
    if is_word(first) {
        let length = until(|c| !is_word(c));
        let (word, rest) = text.split_at(length);
        if rest.starts_with('"') && matches!(word, "R" | "LR" | "uR" | "UR" | "u8R") {
            return (Kind::Literal, length + raw(rest));
        }
        let prefix = matches!(word, "L" | "u" | "U" | "u8");
        return match rest.chars().next() {
            Some(mark @ ('"' | '\'')) if prefix => (Kind::Literal, length + quoted(rest, mark)),
            _ => (Kind::Word, length),
        };
    }
    (Kind::Mark, first.len_utf8())
}

/// Length of a string or character, to the end of the text where it has none.
fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let is_end = !escaped && (*c == mark || *c == '\n');
        escaped = !escaped && *c == '\\';
        is_end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Length of `"x(...)x"`.
fn raw(text: &str) -> usize {
    let Some((delimiter, _)) = text[1..].split_once('(') else {
        return text.len();
    };
    let end = format!("){delimiter}\"");
    text.find(&end).map_or(text.len(), |at| at + end.len())
}

struct Unit<'t> {
    tokens: Vec<Token<'t>>,
    files: Vec<String>,
    /// Indices of the tokens that a compiler looks at.
    significant: Vec<usize>,
    /// By index of the token that they take the place of.
    edits: BTreeMap<usize, String>,
    kernels: BTreeMap<&'t str, Kernel>,
}

impl<'t> Unit<'t> {
    /// The significant token at a position; nothing behind the last.
    fn at(&self, position: usize) -> &'t str {
        let token = self.significant.get(position);
        token.map_or("", |i| self.tokens[*i].text)
    }

    fn token(&self, position: usize) -> Token<'t> {
        self.tokens[self.significant[position]]
    }

    fn place(&self, position: usize) -> Place {
        let token = self.token(position);
        Place {
            file: self.files[token.file].clone(),
            line: token.line,
        }
    }

    fn refused<T>(&self, position: usize, what: impl Into<String>) -> Result<T, Refused> {
        Err(Refused {
            place: self.place(position),
            what: what.into(),
        })
    }

    fn replace(&mut self, position: usize, text: impl Into<String>) {
        self.edits.insert(self.significant[position], text.into());
    }

    /// Whether these marks follow one another with nothing between them.
    fn joined(&self, position: usize, marks: &str) -> bool {
        marks.chars().enumerate().all(|(i, mark)| {
            let next = self.significant.get(position + i);
            let follows = next == self.significant.get(position).map(|at| at + i).as_ref();
            follows && self.at(position + i).starts_with(mark)
        })
    }

    /// Position behind the bracket that closes the one at `open`.
    fn closed(&self, open: usize) -> Option<usize> {
        let mut depth = 0;
        for position in open..self.significant.len() {
            match self.at(position) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(position + 1);
            }
        }
        None
    }

    /// Position where the declaration or statement begins that has `position` in it.
    fn start(&self, position: usize) -> usize {
        let mut at = position;
        while at > 0 && !matches!(self.at(at - 1), ";" | "{" | "}") {
            at -= 1;
        }
        at
    }

    fn text(&self) -> String {
        let texts = self.tokens.iter().enumerate().map(|(i, token)| {
            let edit = self.edits.get(&i).map(String::as_str);
            edit.unwrap_or(token.text)
        });
        texts.collect()
    }

    /// Words that say where a declaration belongs.
    fn words(&mut self) -> Result<(), Refused> {
        for position in 0..self.significant.len() {
            if self.token(position).kind != Kind::Word {
                continue;
            }
            match self.at(position) {
                "__global__" => self.kernel(position)?,
                "__launch_bounds__" => {
                    let end = self.closed(position + 1);
                    for at in position..end.unwrap_or(position + 1) {
                        self.replace(at, "");
                    }
                }
                // `__attribute__((__noinline__))` is the compiler's own.
                "__noinline__" if self.at(position.wrapping_sub(1)) != "(" => {
                    self.replace(position, "__attribute__((__noinline__))");
                }
                "asm" | "__asm__" => {
                    return self.refused(
                        position,
                        "inline PTX is not run here; use the CUDA function of the instruction",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes a kernel.
    fn kernel(&mut self, position: usize) -> Result<(), Refused> {
        self.replace(position, "");
        let start = self.start(position);
        let is_template = (start..position).any(|at| self.at(at) == "template");
        let mut at = position + 1;
        // Its name is the first word before a parenthesis.
        while at < self.significant.len() && !matches!(self.at(at), ";" | "{") {
            let attribute = matches!(
                self.at(at),
                "__launch_bounds__" | "__attribute__" | "__cluster_dims__" | "alignas"
            );
            if attribute {
                at = self.closed(at + 1).unwrap_or(at + 1);
                continue;
            }
            if self.token(at).kind == Kind::Word && self.at(at + 1) == "(" {
                let file = self.token(at).file;
                self.kernels
                    .insert(self.at(at), Kernel { file, is_template });
                return Ok(());
            }
            at += 1;
        }
        self.refused(position, "__global__ without a function")
    }
}

/// A declared name, and where its declarator ends.
struct Declarator {
    name: usize,
    end: usize,
}

impl Unit<'_> {
    /// Whether the innermost braces around a position, if any, are a namespace's.
    fn in_namespace(&self, position: usize) -> bool {
        let mut depth = 0;
        for at in (0..position).rev() {
            match self.at(at) {
                "}" => depth += 1,
                "{" if depth > 0 => depth -= 1,
                "{" => {
                    let mut words = (self.start(at)..at).map(|at| self.at(at));
                    return words.any(|w| matches!(w, "namespace" | "\"C\"" | "\"C++\""));
                }
                _ => {}
            }
        }
        true
    }

    /// The names of a declaration from `position` on; the last one's end is the semicolon.
    fn declarators(&self, position: usize) -> Result<Vec<Declarator>, Refused> {
        let mut found = Vec::new();
        let (mut name, mut at, mut angles) = (None, position, 0);
        while at < self.significant.len() {
            match self.at(at) {
                "<" => angles += 1,
                ">" => angles -= 1,
                // Dimensions, attributes, and the members of a type.
                "[" | "(" | "{" => {
                    at = self.closed(at).unwrap_or(self.significant.len());
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
                _ if angles == 0 && self.token(at).kind == Kind::Word => name = Some(at),
                _ => {}
            }
            at += 1;
        }
        self.refused(position, "__shared__ without an end")
    }

    /// `__shared__ float tile[32][33];` as a type and a reference to what the executor has of it.
    fn shared(&mut self) -> Result<(), Refused> {
        for position in 0..self.significant.len() {
            if self.at(position) != "__shared__" {
                continue;
            }
            let start = self.start(position);
            let declarators = self.declarators(position + 1)?;
            let end = declarators.last().map_or(position, |last| last.end);
            let storage = (start..end).filter(|at| matches!(self.at(*at), "extern" | "static"));
            let storage: Vec<usize> = storage.collect();
            let external = storage.iter().any(|at| self.at(*at) == "extern");
            if !external && self.in_namespace(start) {
                let what = "__shared__ variables outside of functions are not known here";
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
                    let close = self.closed(at + 1).unwrap_or(at + 2) - 1;
                    self.replace(close, ")))");
                }
            }
            let first = self.significant[start];
            let before = self
                .edits
                .get(&first)
                .map_or(self.at(start), String::as_str);
            let before = format!("typedef {before}");
            self.edits.insert(first, before);
            let mut variables = String::new();
            for Declarator { name, .. } in &declarators {
                let (variable, kind) = (
                    self.at(*name).to_string(),
                    format!("simt_{}_type", self.at(*name)),
                );
                variables += &match (external, self.in_namespace(start)) {
                    (true, true) => format!(" static simt::Dynamic<{kind}> {variable};"),
                    (true, false) => format!(
                        " {kind} &{variable} = *static_cast<{kind} *>(simt_dynamic_shared());"
                    ),
                    (false, _) => format!(
                        " static simt::SharedVariable simt_{variable}_place = {{{{0}}, \"{variable}\"}}; \
                         {kind} &{variable} = simt::shared<{kind}>(simt_{variable}_place);"
                    ),
                };
                self.replace(*name, kind);
            }
            self.replace(end, format!(";{variables}"));
        }
        Ok(())
    }

    /// `f<<<grid, block, shared, stream>>>(arguments)` as
    /// `f | simt::Launch("f", "f.cu", grid, block, shared, stream)(arguments)`; where `f` is a
    /// template, whose types the arguments may have to tell, as a lambda that calls it.
    fn launches(&mut self) -> Result<(), Refused> {
        let mut position = 0;
        while position < self.significant.len() {
            let is_launch = self.at(position) == "<"
                && self.joined(position, "<<<")
                && !matches!(self.at(position.wrapping_sub(1)), "operator" | "<");
            if !is_launch {
                position += 1;
                continue;
            }
            let Some(end) = self.end_of_configuration(position + 3) else {
                return self.refused(position, "<<< without >>>(");
            };
            let callee = self.callee(position);
            let Some(name) = (callee..position)
                .filter(|at| self.token(*at).kind == Kind::Word)
                .rfind(|at| self.depth_of_angles(*at, callee) == 0)
            else {
                return self.refused(position, "a launch of no kernel");
            };
            let name = self.at(name).to_string();
            let kernel = self.kernels.get(name.as_str());
            let file = kernel.map_or(self.token(position).file, |kernel| kernel.file);
            let file = &self.files[file];
            let launch = format!("| simt::Launch(\"{name}\", {file:?}, ");
            if kernel.is_some_and(|kernel| kernel.is_template) {
                let first = self.at(callee).to_string();
                self.replace(callee, format!("[=](auto... simt_a) {{ {first}"));
                self.replace(position, format!("(simt_a...); }} {launch}"));
            } else {
                self.replace(position, launch);
            }
            for at in [position + 1, position + 2, end + 1, end + 2] {
                self.replace(at, "");
            }
            self.replace(end, ")");
            position += 3;
        }
        Ok(())
    }

    /// Position of the `>>>` that ends what begins at `position`.
    fn end_of_configuration(&self, position: usize) -> Option<usize> {
        let mut at = position;
        while at < self.significant.len() {
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

    /// How many `<` before `at` are open, from `from` on.
    fn depth_of_angles(&self, at: usize, from: usize) -> i32 {
        let marks = (from..at).map(|at| match self.at(at) {
            "<" => 1,
            ">" => -1,
            _ => 0,
        });
        marks.sum()
    }

    /// Position where the expression begins that ends before `position`: a name, qualified or with
    /// template arguments, or something in parentheses, and what is selected of it.
    fn callee(&self, position: usize) -> usize {
        let mut at = position;
        loop {
            // One name or bracket further back.
            at = match self.at(at.wrapping_sub(1)) {
                ">" => self.opened(at - 1, "<", ">").wrapping_sub(1),
                ")" => self.opened(at - 1, "(", ")"),
                "]" => self.opened(at - 1, "[", "]").wrapping_sub(1),
                _ => at - 1,
            };
            let before = self.at(at.wrapping_sub(1));
            let twice = |mark| before == mark && self.at(at.wrapping_sub(2)) == mark;
            if twice(":") {
                at -= 2;
                let named = self.significant.get(at.wrapping_sub(1));
                let named = named.is_some_and(|i| self.tokens[*i].kind == Kind::Word);
                if !(named || self.at(at.wrapping_sub(1)) == ">") {
                    return at;
                }
            } else if before == "." {
                at -= 1;
            } else if before == ">" && self.at(at.wrapping_sub(2)) == "-" {
                at -= 2;
            } else if before == "template" {
                return at - 1;
            } else {
                return at;
            }
        }
    }

    /// Position of the bracket that the one at `close` closes.
    fn opened(&self, close: usize, open: &str, end: &str) -> usize {
        let mut depth = 0;
        for at in (0..=close).rev() {
            let text = self.at(at);
            if text == end {
                depth += 1;
            } else if text == open {
                depth -= 1;
            }
            if depth == 0 {
                return at;
            }
        }
        0
    }
}
