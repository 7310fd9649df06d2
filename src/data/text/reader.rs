//! Parallel text: two files, a sentence a line, line `n` of one the translation of line `n` of the
//! other. Plain or gzip.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::TextError;

/// Sentences with their translations, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parallel {
    /// The first language, without line ends.
    pub source: Vec<String>,
    /// The second language.
    pub target: Vec<String>,
    /// Where each pair was, from 1.
    pub lines: Vec<usize>,
    /// The two files.
    pub files: [PathBuf; 2],
    /// Pairs left out because a side was empty.
    pub empty: usize,
}

impl Parallel {
    /// Reads both files. Line ends may be those of Unix or of Windows, the last one may be missing,
    /// a byte order mark is skipped. Pairs of which a side is nothing but white space are left out
    /// and counted.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8, files of unequal length, no pair at all.
    pub fn read(source: &Path, target: &Path) -> Result<Parallel, TextError> {
        let (from, to) = (lines(source)?, lines(target)?);
        let files = [source, target].map(Path::to_owned);
        if from.len() != to.len() {
            return Err(TextError::UnequalLines {
                files,
                lines: [from.len(), to.len()],
            });
        }
        let read = from.len();
        let mut all = Parallel {
            files,
            ..Parallel::default()
        };
        for (index, (from, to)) in from.into_iter().zip(to).enumerate() {
            if from.trim().is_empty() || to.trim().is_empty() {
                all.empty += 1;
            } else {
                all.source.push(from);
                all.target.push(to);
                all.lines.push(index + 1);
            }
        }
        if all.is_empty() {
            return Err(TextError::NoSentences {
                files: all.files,
                lines: read,
            });
        }
        Ok(all)
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }
}

/// The lines of a text file without their ends.
fn lines(path: &Path) -> Result<Vec<String>, TextError> {
    let unreadable = |source| TextError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(&bytes[..])
            .read_to_end(&mut plain)
            .map_err(unreadable)?;
        bytes = plain;
    }
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|rest| rest.is_empty()) {
        lines.pop();
    }
    let line = |(index, line): (usize, &[u8])| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| TextError::NotUtf8 {
            path: path.to_owned(),
            line: index + 1,
        })?;
        Ok(line.to_owned())
    };
    lines.into_iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(source: &[u8], target: &[u8]) -> Result<Parallel, String> {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["a.de", "a.en"].map(|name| dir.path().join(name));
        std::fs::write(&from, source).unwrap();
        std::fs::write(&to, target).unwrap();
        Parallel::read(&from, &to).map_err(|e| e.to_string())
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut file = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        file.write_all(bytes).unwrap();
        file.finish().unwrap()
    }

    #[test]
    fn line_ends_marks_and_empty_lines_are_tolerated() {
        let all = read(
            "\u{feff}Äpfel\r\n\r\nzwei  Birnen \r\ndrei".as_bytes(),
            b"apples\nnothing\ntwo pears\n \t\n",
        )
        .unwrap();
        assert_eq!(all.source, ["Äpfel", "zwei  Birnen "]);
        assert_eq!(all.target, ["apples", "two pears"]);
        assert_eq!((all.lines, all.empty), (vec![1, 3], 2));
        // A last line without its end counts as any other.
        assert_eq!(read(b"a\nb", b"c\nd\n").unwrap().source, ["a", "b"]);
    }

    #[test]
    fn gzip_is_told_by_its_bytes() {
        // Two members one after the other are one file.
        let both = [gz(b"a\nb"), gz(b"c\n")].concat();
        assert_eq!(read(&both, b"1\n2\n").unwrap().source, ["a", "bc"]);
        let cut = &gz(b"a\nb\n")[..15];
        let error = read(cut, b"1\n2\n").unwrap_err();
        assert!(
            error.contains("cannot read") && error.contains("a.de"),
            "{error}"
        );
    }

    #[test]
    fn bad_files_are_named() {
        for (source, target, says) in [
            (
                &b"a\nb\nc\n"[..],
                &b"1\n2"[..],
                vec!["a.de", " 3 lines", "a.en", " 2:"],
            ),
            (b"a\nb\xff\n", b"1\n2\n", vec!["a.de", "line 2", "UTF-8"]),
            (b"a\nb\n", b"1\n2\n\xc3", vec!["a.en", "line 3", "UTF-8"]),
            (b"", b"", vec!["a.de", "a.en", "0 lines"]),
            (b"a\n\n", b"\n1\n", vec!["a.de", "a.en", "2 lines"]),
        ] {
            let error = read(source, target).unwrap_err();
            for part in says {
                assert!(error.contains(part), "{part:?} in {error}");
            }
            assert!(!error.contains('\n'));
        }
        let missing = Path::new("no/such.de");
        let error = Parallel::read(missing, missing).unwrap_err().to_string();
        assert!(error.contains("no/such.de"), "{error}");
    }
}
