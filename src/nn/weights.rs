//! Weight files: safetensors with torchvision's names and layouts, so that PyTorch loads them as
//! they are.

use super::Params;
use crate::backend::{DeviceError, Executor};
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::path::{Path, PathBuf};

/// Why a weight file could not be used or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read at all.
    #[error("cannot read weights {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not safetensors, or cut short.
    #[error("{} is not a whole safetensors file ({reason}); fetch or export it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The file belongs to another network.
    #[error("{} holds the weights of another network: {reason}; choose --depth and the data to match", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The first tensor that differs.
        reason: String,
    },
    /// NaN or infinity.
    #[error("{}: {tensor} is not finite; use an earlier file", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The file could not be written; nothing was changed.
    #[error(transparent)]
    Write(#[from] files::WriteError),
    /// The weights could not be copied to or from the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Size of a tensor with its spatial dimensions apart: `[outer, spatial, inner]`, to move `inner`
/// before `spatial` or back.
fn transpose(values: &[f32], [outer, a, b]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact((a * b).max(1)).take(outer) {
        for j in 0..b {
            out.extend((0..a).map(|i| matrix[i * b + j]));
        }
    }
    out
}

/// Our dimensions as a file has them: convolutions OIHW.
fn file_shape(rank: usize, [d0, d1, d2, d3]: [usize; 4]) -> Vec<usize> {
    match rank {
        4 => vec![d0, d3, d1, d2],
        2 => vec![d2, d3],
        _ => vec![d3],
    }
}

/// Writes all learned tensors and running statistics, convolutions as OIHW; `steps` becomes
/// `num_batches_tracked`.
///
/// # Errors
/// [`WeightsError::Write`]; an existing file is then untouched.
pub fn export(
    exec: &mut dyn Executor,
    params: &Params,
    steps: u64,
    path: &Path,
) -> Result<(), WeightsError> {
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (entry, tensor) in params.tensors() {
        let mut values = exec.read(tensor)?;
        let [co, kh, kw, ci] = entry.dims;
        if entry.rank == 4 {
            values = transpose(&values, [co, kh * kw, ci]);
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((
            entry.name.clone(),
            Dtype::F32,
            file_shape(entry.rank, entry.dims),
            bytes,
        ));
        if let Some(norm) = entry.name.strip_suffix("running_var") {
            let bytes = (steps as i64).to_le_bytes().to_vec();
            tensors.push((
                format!("{norm}num_batches_tracked"),
                Dtype::I64,
                vec![],
                bytes,
            ));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), bytes).expect("bytes match the shape"),
        )
    });
    let bytes = serialize(views, None).expect("names are unique and shapes right");
    Ok(files::write(path, &bytes)?)
}

/// The bytes of a file.
fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    std::fs::read(path).map_err(|source| WeightsError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// What they hold.
fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<SafeTensors<'a>, WeightsError> {
    SafeTensors::deserialize(bytes).map_err(|e| WeightsError::Damaged {
        path: path.to_path_buf(),
        reason: e.to_string(),
    })
}

/// The shape of one tensor of a file.
///
/// # Errors
/// A file that cannot be read, is none of weights, or has no such tensor.
pub fn shape_of(path: &Path, name: &str) -> Result<Vec<usize>, WeightsError> {
    let bytes = read(path)?;
    let file = parse(&bytes, path)?;
    let tensor = file.tensor(name).map_err(|_| WeightsError::OtherNetwork {
        path: path.to_path_buf(),
        reason: format!("it has no {name}"),
    })?;
    Ok(tensor.shape().to_vec())
}

/// Reads what [`export`] or PyTorch wrote. Nothing is changed unless the whole file fits.
///
/// # Errors
/// Everything but [`WeightsError::Write`].
pub fn import(exec: &mut dyn Executor, params: &Params, path: &Path) -> Result<(), WeightsError> {
    let path_buf = || path.to_path_buf();
    let bytes = read(path)?;
    let file = parse(&bytes, path)?;
    let other = |reason| WeightsError::OtherNetwork {
        path: path_buf(),
        reason,
    };
    let mut loaded = Vec::new();
    for (entry, tensor) in params.tensors() {
        let view = file
            .tensor(&entry.name)
            .map_err(|_| other(format!("it has no {}", entry.name)))?;
        let shape = file_shape(entry.rank, entry.dims);
        if view.shape() != shape || view.dtype() != Dtype::F32 {
            let (found, dtype) = (view.shape(), view.dtype());
            return Err(other(format!(
                "{} is {found:?} {dtype}, not {shape:?} F32",
                entry.name
            )));
        }
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(WeightsError::NotFinite {
                path: path_buf(),
                tensor: entry.name.clone(),
            });
        }
        let [co, kh, kw, ci] = entry.dims;
        let values = if entry.rank == 4 {
            transpose(&values, [co, ci, kh * kw])
        } else {
            values
        };
        loaded.push((tensor, values));
    }
    let known = loaded.len();
    let counted = file
        .names()
        .iter()
        .filter(|n| !n.ends_with("num_batches_tracked"))
        .count();
    if counted != known {
        return Err(other(format!(
            "it has {counted} tensors, this network {known}"
        )));
    }
    for (tensor, values) in loaded {
        exec.write(tensor, &values)?;
    }
    Ok(())
}
