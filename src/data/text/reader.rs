//! Parallel text: two files, a sentence a line, line `n` of one the translation of line `n` of the
//! other. Plain or gzip.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::TextError;
use crate::data::gunzip::{Gunzip, is_gzip};

/// Sentences with their translations, as they were written. Either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parallel {
    /// The first language, without line ends.
    pub source: Vec<String>,
    /// The second language.
    pub target: Vec<String>,
    /// The two files.
    pub files: [PathBuf; 2],
}

impl Parallel {
    /// Reads both files. Line ends may be those of Unix or of Windows, the last one may be missing,
    /// a byte order mark is skipped.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8, files of unequal length, no pair of sentences that
    /// both are more than white space.
    pub fn read(source: &Path, target: &Path) -> Result<Parallel, TextError> {
        let (from, to) = (lines(source)?, lines(target)?);
        let files = [source, target].map(Path::to_owned);
        if from.len() != to.len() {
            return Err(TextError::UnequalLines {
                files,
                lines: [from.len(), to.len()],
            });
        }
        let all = Parallel {
            source: from,
            target: to,
            files,
        };
        if all.full().next().is_none() {
            return Err(TextError::NoSentences {
                lines: all.len(),
                files: all.files,
            });
        }
        Ok(all)
    }

    /// The pairs of which neither side is nothing but white space.
    pub fn full(&self) -> impl Iterator<Item = [&str; 2]> + Send {
        let pairs = self.source.iter().zip(&self.target);
        let pairs = pairs.map(|(source, target)| [source.as_str(), target.as_str()]);
        pairs.filter(|pair| pair.iter().all(|side| !side.trim().is_empty()))
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

/// Where files that are no text have which bytes, and what those are.
const PACKED: [(usize, &[u8], &str); 7] = [
    (0, &[0x1f, 0x8b], "gzipped twice"),
    (4, b"1AY&SY", "packed by bzip2"),
    (0, b"\xfd7zXZ\0", "packed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar\0", "a tar archive"),
    (257, b"ustar  \0", "a tar archive"),
];

/// The lines of a text file without their ends.
fn lines(path: &Path) -> Result<Vec<String>, TextError> {
    let unreadable = |source| TextError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    if is_gzip(&bytes) {
        let mut plain = Vec::new();
        Gunzip::new(&bytes[..])
            .read_to_end(&mut plain)
            .map_err(unreadable)?;
        bytes = plain;
    }
    let packed =
        |(at, mark, _): &&(usize, &[u8], _)| bytes.get(*at..).is_some_and(|b| b.starts_with(mark));
    if let Some((_, _, what)) = PACKED.iter().find(packed) {
        let path = path.to_owned();
        return Err(TextError::Packed { path, what });
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
        assert_eq!(all.source, ["Äpfel", "", "zwei  Birnen ", "drei"]);
        assert_eq!(all.target, ["apples", "nothing", "two pears", " \t"]);
        let full: Vec<_> = all.full().collect();
        assert_eq!(full, [["Äpfel", "apples"], ["zwei  Birnen ", "two pears"]]);
        // A last line without its end counts as any other.
        assert_eq!(read(b"a\nb", b"c\nd\n").unwrap().source, ["a", "b"]);
    }

    #[test]
    fn gzip_is_told_by_its_bytes() {
        // Two members one after the other are one file.
        let both = [gz(b"a\nb"), gz(b"c\n")].concat();
        assert_eq!(read(&both, b"1\n2\n").unwrap().source, ["a", "bc"]);
        // Marks and line ends are those of the text, zeros behind it nothing.
        let windows = [gz("\u{feff}ä\r\n".as_bytes()), vec![0; 512]].concat();
        assert_eq!(read(&windows, b"1\n").unwrap().source, ["ä"]);
        let cut = &gz(b"a\nb\n")[..15];
        let error = read(cut, b"1\n2\n").unwrap_err();
        assert!(
            error.contains("cannot read") && error.contains("a.de"),
            "{error}"
        );
    }

    #[test]
    fn what_is_packed_otherwise_is_called_what_it_is() {
        let tar = [&[b'a'; 257][..], b"ustar\0", &[0; 249]].concat();
        for (bytes, what) in [
            (gz(&gz(b"a\n")), "gzipped twice"),
            (b"BZh91AY&SY\x01\x02".to_vec(), "bzip2"),
            (b"\xfd7zXZ\0\0\x04".to_vec(), "by xz"),
            (b"\x28\xb5\x2f\xfd\x24".to_vec(), "by zstd"),
            (b"PK\x03\x04\x14".to_vec(), "a zip archive"),
            (gz(&tar), "a tar archive"),
        ] {
            let error = read(b"a\n", &bytes).unwrap_err();
            for part in ["a.en", what, "unpack it first"] {
                assert!(error.contains(part), "{part:?} in {error}");
            }
        }
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
