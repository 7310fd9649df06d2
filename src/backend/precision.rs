//! What numbers in memory are.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What activations and their gradients are stored as. Parameters, their gradients, statistics and
/// losses are f32 either way, and so is all arithmetic between loads and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes, nothing rounded. Results differ in the last bits between instruction sets.
    F32,
    /// 2 bytes, rounded to the nearest even, as on a GPU. Equal bits on every instruction set.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}
