//! TensorBoard's event file: TFRecords of `Event` messages, by hand, for scalars are all we have.
//!
//! A record is the payload's length (u64), its checksum, the payload and its checksum, all little
//! endian; the payload is a protobuf. Fields used: `Event { 1: double wall_time, 2: int64 step, 3:
//! string file_version, 5: Summary summary, 7: SessionLog session_log }`, `Summary { 1: repeated
//! Value }`, `Value { 1: string tag, 2: float simple_value }`, `SessionLog { 1: enum status }`.

use super::{TrainError, files_error};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// An event file, open at its end.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `dir`. TensorBoard reads all such files of a folder in turn; events of former
    /// ones at `step` or later are void from here on.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(dir: &Path, step: u64) -> Result<Events, TrainError> {
        let mut seconds = jiff::Timestamp::now().as_second();
        // A run resumed within the second of its start must not write into the former file.
        let (path, file) = loop {
            let path = dir.join(format!("events.out.tfevents.{seconds}.autoassist"));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => seconds += 1,
                Err(e) => return Err(files_error(&path, e)),
            }
        };
        let mut events = Events { path, file };
        events.append(&version(now()))?;
        events.append(&start(now(), step))?;
        Ok(events)
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    /// A full disk.
    pub fn write(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        self.append(&summary(now(), step, scalars))
    }

    fn append(&mut self, event: &[u8]) -> Result<(), TrainError> {
        let result = self.file.write_all(&record(event));
        result.map_err(|e| files_error(&self.path, e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 * 1e-3
}

/// The first event of a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = double(1, time);
    event.extend(bytes(3, b"brain.Event:2"));
    event
}

/// The event by which a restarted run voids what was written from `step` on.
fn start(time: f64, step: u64) -> Vec<u8> {
    let mut event = double(1, time);
    event.extend(integer(2, step));
    event.extend(bytes(7, &integer(1, 1)));
    event
}

/// Scalars at a step.
fn summary(time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let value = |&(tag, value): &(&str, f64)| {
        let mut message = bytes(1, tag.as_bytes());
        message.push(2 << 3 | 5);
        message.extend((value as f32).to_le_bytes());
        bytes(1, &message)
    };
    let values: Vec<u8> = scalars.iter().flat_map(value).collect();
    let mut event = double(1, time);
    event.extend(integer(2, step));
    event.extend(bytes(5, &values));
    event
}

fn double(field: u8, value: f64) -> Vec<u8> {
    let mut message = vec![field << 3 | 1];
    message.extend(value.to_le_bytes());
    message
}

fn integer(field: u8, value: u64) -> Vec<u8> {
    let mut message = vec![field << 3];
    message.extend(varint(value));
    message
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    message.extend(varint(value.len() as u64));
    message.extend(value);
    message
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut message = Vec::new();
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
    message
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(payload);
    record.extend(masked(payload).to_le_bytes());
    record
}

/// The checksum as TFRecords have it: a sum over data that holds such sums is no weaker.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes an interval.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read back by TensorBoard's own reader: tag `train/loss`, 0.5 at step 300.
    #[test]
    fn bytes_are_pinned() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let event = summary(1.5, 300, &[("train/loss", 0.5)]);
        let (head, wall) = ("2100000000000000017becf6", "09000000000000f83f");
        let rest = "10ac022a130a110a0a747261696e2f6c6f7373150000003fb56a6431";
        assert_eq!(hex(&record(&event)), [head, wall, rest].concat());
        let name: Vec<u8> = [&[0x1a, 13][..], b"brain.Event:2"].concat();
        assert_eq!(hex(&version(1.5)), [wall, &hex(&name)].concat());
        assert_eq!(hex(&start(1.5, 9)), "09000000000000f83f10093a020801");
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn each_start_has_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            Events::create(dir.path(), 0).unwrap();
        }
        let names = std::fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), 3);
        let gone = dir.path().join("gone");
        assert!(Events::create(&gone, 0).is_err());
    }
}
