//! Whether a JPEG file is whole.

/// Whether the file's image ends before its end marker: the file does, or something else begins,
/// such as a second image whose end marker is not the first one's. The decoder would fill the rest
/// with grey and say nothing. Thumbnails inside segments have markers of their own, and so may have
/// what follows the end: telephones put films there.
pub fn is_cut(bytes: &[u8]) -> bool {
    // Behind the start marker.
    let (mut at, mut scanned) = (2, false);
    while let Some(&[first, code]) = bytes.get(at..at + 2) {
        at += match (first, code) {
            (0xff, 0xd9) => return false,
            // Images and frames do not begin within the data of one, nor is there what means nothing.
            (0xff, 0x01..=0xc3 | 0xc5..=0xcb | 0xcd..=0xcf | 0xd8) if scanned => return true,
            // Stuffed data, and markers that stand alone.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            // A segment says its length, which counts itself. Data of a scan follow its segment.
            (0xff, 0x02..=0xfe) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => {
                    scanned |= code == 0xda;
                    2 + usize::from(u16::from_be_bytes([high, low]))
                }
                _ => return true,
            },
            _ => 1,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_where_it_is_and_nowhere_else() {
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xda];
        let scan = [0xff, 0xda, 0, 3, 1, 7, 0xff, 0, 0xff, 0xd0, 8];
        let (start, end) = ([0xff, 0xd8], [0xff, 0xd9]);
        let film = [9, 0xff, 0xda, 0, 3, 9];
        let whole = [&start[..], &thumbnail, &scan, &scan, &[0xff], &end].concat();
        assert!(!is_cut(&whole));
        assert!(!is_cut(&[&whole[..], &film].concat()));
        for cut in 2..whole.len() {
            assert!(is_cut(&whole[..cut]), "{cut} of {}", whole.len());
        }
        // A second image has an end of its own, whether the first is whole or not.
        assert!(!is_cut(&[&whole[..], &whole].concat()));
        assert!(is_cut(&[&start[..], &scan, &whole].concat()));
        let frame = [0xff, 0xc0, 0, 3, 1];
        assert!(!is_cut(&[&start[..], &frame, &scan, &end].concat()));
        assert!(is_cut(&[&start[..], &scan, &frame, &scan, &end].concat()));
    }
}
