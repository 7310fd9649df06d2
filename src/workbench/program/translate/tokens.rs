//! What the preprocessor leaves, cut into tokens.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
pub struct Token<'t> {
    pub kind: Kind,
    pub text: &'t str,
    /// Index into the file names.
    pub file: usize,
    pub line: u32,
}

/// Cuts a text up; nothing of it is lost. With the names of the files.
pub fn tokens(text: &str) -> (Vec<Token<'_>>, Vec<String>) {
    let mut tokens = Vec::new();
    let mut files = vec![String::new()];
    let (mut file, mut line, mut system) = (0, 1_u32, false);
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
            fresh = true;
            if let Some((number, name, flags)) = marker(text) {
                file = files.iter().position(|f| *f == name).unwrap_or_else(|| {
                    files.push(name);
                    files.len() - 1
                });
                (line, system) = (number, flags.contains('3'));
                continue;
            }
        } else {
            fresh = match text.rfind('\n') {
                Some(at) => text[at..].trim().is_empty(),
                None => fresh && text.trim().is_empty(),
            };
        }
        line = line.saturating_add(text.matches('\n').count() as u32);
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

/// Length of a string or character, to the end of its line where it has none.
fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `"x(...)x"`.
fn raw(text: &str) -> usize {
    let Some((delimiter, _)) = text[1..].split_once('(') else {
        return text.len();
    };
    let end = format!("){delimiter}\"");
    text.find(&end).map_or(text.len(), |at| at + end.len())
}
