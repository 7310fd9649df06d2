//! `kernels drawings`: pictures for `kernels/README.md` of what kernels do when they run. Each shows
//! requests to memory that were recorded from the kernel itself, so that it cannot show anything
//! else than what happens; positions are addresses, and numbers are counted.

mod attention;
mod conv;
mod gemm;
mod record;
mod rows;
mod svg;

use crate::backend::DeviceError;
use crate::files::{self, WriteError};
use std::path::{Path, PathBuf};

/// Why nothing was drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawingError {
    /// The executor's trouble.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A place that cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A drawing, and the name of its file.
type Drawing = (&'static str, fn() -> Result<String, DeviceError>);

const ALL: [Drawing; 9] = [
    ("copy.svg", rows::copy),
    ("rows.svg", rows::rows),
    ("gemm-tiles.svg", gemm::tiles),
    ("gemm-fragments.svg", gemm::fragments),
    ("gemm-swizzle.svg", gemm::swizzle),
    ("gemm-ring.svg", gemm::ring),
    ("gemm-bands.svg", gemm::bands),
    ("conv.svg", conv::draw),
    ("attention.svg", attention::online),
];

/// Draws everything into a folder, which must exist; the files.
///
/// # Errors
/// A build that cannot count, and a place that cannot be written.
pub fn write(folder: &Path) -> Result<Vec<PathBuf>, DrawingError> {
    let draw = |(name, draw): &Drawing| {
        let file = folder.join(name);
        files::write(&file, draw()?.as_bytes())?;
        Ok(file)
    };
    ALL.iter().map(draw).collect()
}
