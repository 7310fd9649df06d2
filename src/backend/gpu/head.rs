//! What files of kernels say of themselves: their first comment, and the questions at their end.

use super::catalog::sources;

/// Longest text of what a file computes.
const WHAT: usize = 72;

/// What a file says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// What it computes, in a few words: the beginning of its first sentence, without what is in
    /// parentheses.
    pub what: String,
    /// Its idea, the first sentence after `The idea: `; a header has none.
    pub idea: Option<String>,
    /// Questions for its readers, each with the answer: what stands after `Try: ` and `Answer: `.
    pub tries: Vec<[String; 2]>,
}

/// What a file of `kernels/` says of itself, if there is one at this path.
pub fn head(path: &str) -> Option<Head> {
    let (_, text) = sources().find(|(known, _)| *known == path)?;
    Some(read(text))
}

fn read(text: &str) -> Head {
    let comment = |line: &str| line.starts_with("//");
    let first: Vec<&str> = text.lines().take_while(|line| comment(line)).collect();
    let first = paragraphs(&first);
    let idea = first.iter().find(|text| text.starts_with("The idea"));
    let last: Vec<&str> = text
        .lines()
        .rev()
        .take_while(|line| comment(line))
        .collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let pairs = paragraphs(&last);
    let tries = pairs.iter().filter_map(|text| {
        let (question, answer) = text.strip_prefix("Try: ")?.split_once(" Answer: ")?;
        Some([question, answer].map(String::from))
    });
    Head {
        what: first.first().map_or(String::new(), |text| what(text)),
        idea: idea.and_then(|text| Some(sentence(text.split_once(": ")?.1))),
        tries: tries.collect(),
    }
}

/// Of lines of a comment, each in one line. What is indented, formulas and drawings, is left out.
fn paragraphs(lines: &[&str]) -> Vec<String> {
    let lines = lines.iter().map(|line| line.trim_start_matches('/'));
    let lines: Vec<&str> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let parts = lines.split(|line| line.is_empty());
    let plain = parts.filter(|part| part.first().is_some_and(|line| !line.starts_with(' ')));
    plain.map(|part| part.join(" ")).collect()
}

/// The first sentence, as one that stands by itself.
fn sentence(text: &str) -> String {
    let end = text.find(". ").unwrap_or(text.len());
    let text = text[..end].trim_end_matches(['.', ':']);
    let mut chars = text.chars();
    // Instructions have small letters: `mma.sync`.
    let word = text.split(' ').next().unwrap_or(text);
    match chars.next().filter(|_| !word.contains(['.', '_'])) {
        None => format!("{text}."),
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
    }
}

fn what(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once(" (") {
        plain += before;
        rest = inside.split_once(')').map_or("", |(_, after)| after);
    }
    plain += rest;
    let ends = [". ", "; ", ": "].map(|end| plain.find(end).unwrap_or(plain.len()));
    let end = ends.into_iter().min().unwrap_or(plain.len());
    let text = plain[..end].trim_end_matches(['.', ';', ':']);
    match text.char_indices().nth(WHAT) {
        None => text.into(),
        // As far as there is room for a part of it that ends somewhere.
        Some((room, _)) => text[..room]
            .rsplit_once(", ")
            .map_or(text, |(part, _)| part)
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::FILES;
    use super::*;

    #[test]
    fn a_file_says_what_it_computes_its_idea_and_its_questions() {
        let text = "// Sums of rows (formula: sums.cuh) in f32; see 1.cu.\n//\n//   s[r] = sum\n//\n\
                    // The idea over 1.cu: a warp\n// a row. Nothing else:\n//\n//   a drawing\n\
                    #include \"x.cuh\"\n// one\nint x;\n\n\
                    // Try: how many? And\n// why?\n// Answer: four: of them `4 sectors`.\n//\n\
                    // Try: b\n// Answer: c.\n";
        let both = |q: &str, a: &str| [q.into(), a.into()];
        let want = Head {
            what: "Sums of rows in f32".into(),
            idea: Some("A warp a row.".into()),
            tries: vec![
                both("how many? And why?", "four: of them `4 sectors`."),
                both("b", "c."),
            ],
        };
        assert_eq!(read(text), want);
    }

    #[test]
    fn every_kernel_says_what_it_computes_and_its_idea() {
        for file in FILES {
            let head = head(file.path).expect("it is a source");
            let what = head.what.chars().count();
            assert!((9..=WHAT).contains(&what), "{}: {}", file.path, head.what);
            // `1_begin.cu` is no step of a ladder, but has an idea, too.
            let idea = head.idea.unwrap_or_default();
            assert!(
                (25..=300).contains(&idea.chars().count()),
                "{}: {idea}",
                file.path
            );
        }
    }
}
