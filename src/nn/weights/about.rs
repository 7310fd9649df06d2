//! What a weight file says of itself, in the metadata of its header: the flags that make the
//! network, and what else its numbers are worth nothing without.

use super::WeightsError;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run's weights, in its folder.
pub const MODEL: &str = "model.safetensors";
/// Under this key is the version of all the others; a file without it comes from elsewhere.
const FORMAT: &str = "autoassist";
/// Changed whenever the meaning of a stored value changes.
const VERSION: &str = "1";
/// Under this key is what it is that was trained: the name of a program.
const PROGRAM: &str = "program";

/// What a network's weight files say of it.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The program that trains such networks.
    pub program: &'static str,
    /// The flags that make the network, without dashes, with their values. A file that says
    /// otherwise is refused.
    pub flags: Vec<(&'static str, String)>,
    /// What else those must know who use the weights.
    pub facts: Vec<(&'static str, String)>,
}

impl About {
    /// All of it by key, for a file written after `steps` of training.
    fn metadata(&self, steps: u64) -> BTreeMap<&'static str, String> {
        let general = [
            (FORMAT, VERSION.to_string()),
            (PROGRAM, self.program.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
            // Where the build knows it.
            (
                "revision",
                option_env!("AUTOASSIST_REVISION")
                    .filter(|revision| !revision.is_empty())
                    .unwrap_or("unknown")
                    .to_string(),
            ),
            ("precision", "f32".to_string()),
            ("steps", steps.to_string()),
            // What some of PyTorch's loaders look for.
            ("format", "pt".to_string()),
        ];
        let own = self.flags.iter().chain(&self.facts).cloned();
        general.into_iter().chain(own).collect()
    }

    /// Puts it into the header of a file that has no metadata. The crate would write them in an order
    /// of their own each time; equal runs make equal files.
    pub(super) fn write(&self, steps: u64, file: &[u8]) -> Vec<u8> {
        let (length, rest) = file.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let (header, tensors) = rest.split_at(length as usize);
        let metadata = serde_json::to_vec(&self.metadata(steps)).expect("plain data");
        let mut all = [br#"{"__metadata__":"#, &metadata[..], b",", &header[1..]].concat();
        // Tensors begin at multiples of eight bytes.
        all.resize(all.len().next_multiple_of(8), b' ');
        let length = (all.len() as u64).to_le_bytes();
        [&length[..], &all, tensors].concat()
    }

    /// How to get another network.
    pub(super) fn remedy(&self) -> String {
        let flags: Vec<String> = self.flags.iter().map(|(f, _)| format!("--{f}")).collect();
        match flags.is_empty() {
            true => "choose the network and the data to match".into(),
            false => format!("choose {} and the data to match", flags.join(", ")),
        }
    }

    /// Refuses weights of other sizes, as far as the file says them: that of a program says all.
    pub(super) fn check(&self, file: &WeightFile) -> Result<(), WeightsError> {
        let theirs = |(flag, ours): &(&'static str, String)| {
            let theirs = file.says(flag)?;
            (theirs != ours).then(|| (*flag, theirs.to_string(), ours.clone()))
        };
        let others: Vec<_> = self.flags.iter().filter_map(theirs).collect();
        if others.is_empty() {
            let gone = self
                .flags
                .iter()
                .find(|(flag, _)| file.says(flag).is_none());
            if let Some((flag, _)) = gone.filter(|_| file.says(PROGRAM).is_some()) {
                return Err(WeightsError::Damaged {
                    path: file.path.clone(),
                    reason: format!("its metadata have no {flag}"),
                });
            }
            return Ok(());
        }
        let reason = others.iter().map(|(f, a, b)| format!("{f} {a}, not {b}"));
        let flags = others.iter().map(|(f, a, _)| format!("--{f} {a}"));
        Err(WeightsError::OtherNetwork {
            path: file.path.clone(),
            reason: reason.collect::<Vec<_>>().join(", "),
            remedy: format!("use {}", flags.collect::<Vec<_>>().join(" ")),
        })
    }
}

/// A weight file, read.
pub struct WeightFile {
    path: PathBuf,
    bytes: Vec<u8>,
    header: Metadata,
}

impl WeightFile {
    /// Reads a weight file, or that of a run's folder.
    ///
    /// # Errors
    /// [`WeightsError::NoModel`], [`WeightsError::Read`], [`WeightsError::Torch`],
    /// [`WeightsError::Damaged`] or [`WeightsError::Newer`].
    pub fn read(path: &Path) -> Result<WeightFile, WeightsError> {
        let mut path = path.to_path_buf();
        if path.is_dir() {
            let model = path.join(MODEL);
            if !model.exists() {
                return Err(WeightsError::NoModel { dir: path });
            }
            path = model;
        }
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(WeightsError::Read { path, source }),
        };
        // A zip archive, or a pickle by itself, as older versions wrote it; the length of a header
        // may look like either.
        let torch = bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02");
        let header = match SafeTensors::read_metadata(&bytes) {
            Ok((_, header)) => header,
            Err(_) if torch => return Err(WeightsError::Torch { path }),
            Err(e) => {
                let reason = e.to_string();
                return Err(WeightsError::Damaged { path, reason });
            }
        };
        let file = WeightFile {
            path,
            bytes,
            header,
        };
        match file.says(FORMAT) {
            None | Some(VERSION) => Ok(file),
            Some(other) => Err(WeightsError::Newer {
                format: other.to_string(),
                path: file.path,
            }),
        }
    }

    /// Reads one that does not say that it is of another program.
    ///
    /// # Errors
    /// Those of [`WeightFile::read`], [`WeightsError::OtherProgram`] or
    /// [`WeightsError::Checkpoint`].
    pub fn of_program(path: &Path, program: &'static str) -> Result<WeightFile, WeightsError> {
        let file = WeightFile::read(path)?;
        if file.says("progress").is_some() {
            return Err(WeightsError::Checkpoint { path: file.path });
        }
        match file.says(PROGRAM) {
            Some(other) if other != program => Err(WeightsError::OtherProgram {
                other: other.to_string(),
                path: file.path,
                program,
            }),
            _ => Ok(file),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself under a key; nothing if it comes from elsewhere.
    pub fn says(&self, key: &str) -> Option<&str> {
        let metadata = self.header.metadata().as_ref()?;
        metadata.get(key).map(String::as_str)
    }

    /// Size of a tensor in it.
    pub fn shape(&self, tensor: &str) -> Option<&[usize]> {
        Some(&self.header.info(tensor)?.shape)
    }

    pub(super) fn tensors(&self) -> Result<SafeTensors<'_>, WeightsError> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| WeightsError::Damaged {
            path: self.path.clone(),
            reason: e.to_string(),
        })
    }
}
