//! Which of the data that training does not see a network has right, one by one: what it takes to
//! compare two networks on the same data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A bit an instance; in files it is base64, the first instance in the lowest bit of the first byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Text", try_from = "Text")]
pub struct Answers(Vec<bool>);

/// As it is in files.
#[derive(Serialize, Deserialize)]
struct Text {
    count: usize,
    right: String,
}

impl Answers {
    /// Of what is right.
    pub fn new(right: Vec<bool>) -> Answers {
        Answers(right)
    }

    /// Instance by instance.
    pub fn right(&self) -> &[bool] {
        &self.0
    }
}

impl From<Answers> for Text {
    fn from(Answers(right): Answers) -> Text {
        let byte = |bits: &[bool]| (0..).zip(bits).fold(0, |b, (i, &r)| b | u8::from(r) << i);
        let bytes: Vec<u8> = right.chunks(8).map(byte).collect();
        Text {
            count: right.len(),
            right: STANDARD.encode(bytes),
        }
    }
}

impl TryFrom<Text> for Answers {
    type Error = String;

    fn try_from(text: Text) -> Result<Answers, String> {
        let bytes = STANDARD.decode(&text.right);
        let bytes = bytes.map_err(|e| format!("answers are no base64: {e}"))?;
        if bytes.len() != text.count.div_ceil(8) {
            let (bits, count) = (8 * bytes.len(), text.count);
            return Err(format!("{bits} bits are not {count} answers"));
        }
        let bit = |i: usize| bytes[i / 8] >> (i % 8) & 1 == 1;
        Ok(Answers((0..text.count).map(bit).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_them_reads_back() {
        for count in [0, 1, 7, 8, 9, 1000] {
            let answers = Answers::new((0..count).map(|i| i % 3 == 0).collect());
            let text = serde_json::to_string(&answers).unwrap();
            assert_eq!(serde_json::from_str::<Answers>(&text).unwrap(), answers);
        }
        let nine = serde_json::to_string(&Answers::new(vec![true; 9])).unwrap();
        assert_eq!(nine, r#"{"count":9,"right":"/wE="}"#);
        for bad in [
            r#"{"count":8,"right":"/wE="}"#,
            r#"{"count":9,"right":"?"}"#,
        ] {
            assert!(serde_json::from_str::<Answers>(bad).is_err(), "{bad}");
        }
    }
}
