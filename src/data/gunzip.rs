//! Gzip as it is found: members one after the other are one stream, and zeros behind the last one,
//! as tapes and block devices leave them, are nothing.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, Read};

/// What a gzip stream holds.
pub struct Gunzip<R> {
    /// The member that is being read; nothing only while the next one is begun.
    member: Option<GzDecoder<R>>,
}

/// Whether these are the first bytes of a gzip stream.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

impl<R: BufRead> Gunzip<R> {
    pub fn new(packed: R) -> Gunzip<R> {
        Gunzip {
            member: Some(GzDecoder::new(packed)),
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else {
                return Ok(0);
            };
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            if at_end(member.get_mut())? {
                return Ok(0);
            }
            let rest = self.member.take().map(GzDecoder::into_inner);
            self.member = rest.map(GzDecoder::new);
        }
    }
}

/// Skips zeros, and says whether nothing else follows: another member may, and nothing but that.
fn at_end(rest: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = rest.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let (empty, next) = (bytes.is_empty(), bytes.get(zeros).copied());
        rest.consume(zeros);
        match next {
            Some(0x1f) => return Ok(false),
            Some(_) => {
                let what = "something else follows the gzip stream";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            None if empty => return Ok(true),
            None => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{BufReader, Write};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Through a buffer so small that members and zeros end anywhere in it.
    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Gunzip::new(BufReader::with_capacity(7, packed)).read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn members_are_one_stream_and_zeros_behind_them_nothing() {
        let [a, b, empty] = [&b"one\n"[..], b"two", b""].map(gzip);
        let zeros = vec![0; 1000];
        for (packed, holds) in [
            (a.clone(), &b"one\n"[..]),
            ([&a[..], &b].concat(), b"one\ntwo"),
            ([&a[..], &zeros].concat(), b"one\n"),
            ([&a[..], &[0], &b, &zeros].concat(), b"one\ntwo"),
            ([&empty[..], &b, &empty].concat(), b"two"),
        ] {
            assert_eq!(unpack(&packed).unwrap(), holds);
        }
    }

    #[test]
    fn what_is_cut_damaged_or_followed_by_something_else_is_an_error() {
        let whole = gzip(b"one two three");
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for packed in [
            &whole[..whole.len() - 1],
            &whole[..5],
            &flipped,
            &[&whole[..], b"more"].concat(),
            &[&whole[..], &[0, 0, 7]].concat(),
            &[0; 20],
        ] {
            assert!(unpack(packed).is_err());
        }
        // However short it is, it is not called a stream that is cut.
        let error = unpack(&[&whole[..], b"x"].concat()).unwrap_err();
        assert!(
            error.to_string().contains("something else follows"),
            "{error}"
        );
    }
}
