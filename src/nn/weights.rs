//! Weight files: safetensors with torchvision's names and layouts, so that PyTorch loads them as
//! they are, and with all that is needed to use them in their metadata.

mod about;

pub use about::{About, MODEL, WeightFile};

use super::Params;
use crate::backend::{DeviceError, Executor};
use crate::files;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::HashSet;
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
    /// A folder, but not of a finished run.
    #[error(
        "{} is a folder without {MODEL}: no trained model is there; give a weight file, or the \
         folder of a finished run (of a comparison, that of one of its arms)", dir.display()
    )]
    NoModel {
        /// The folder.
        dir: PathBuf,
    },
    /// Weights without anything that says what network they are of.
    #[error(
        "{} does not say which network it is of, and there is no {}: put that of its run there",
        path.display(), beside.display()
    )]
    NoSizes {
        /// The file.
        path: PathBuf,
        /// Where a run's settings were looked for.
        beside: PathBuf,
    },
    /// PyTorch's own format.
    #[error(
        "{} was written by torch.save; write it anew as safetensors: \
         safetensors.torch.save_file(torch.load(FILE), 'FILE.safetensors')", path.display()
    )]
    Torch {
        /// The file.
        path: PathBuf,
    },
    /// Written by a program of the future.
    #[error(
        "{} has format {format} of a newer version of this program; use that version",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: String,
    },
    /// A run's checkpoint is no weight file.
    #[error(
        "{} is a run's checkpoint, not its weights: go on with it by --resume, or give the {MODEL} \
         beside it", path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to another program.
    #[error("{} holds weights of `{other}`, not of `{program}`; give them to that program", path.display())]
    OtherProgram {
        /// The file.
        path: PathBuf,
        /// The one that wrote it.
        other: String,
        /// This one.
        program: &'static str,
    },
    /// The file belongs to another network.
    #[error("{} holds the weights of another network: {reason}; {remedy}", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
        /// What to change.
        remedy: String,
    },
    /// The file belongs to other data.
    #[error("{} was trained on other data: {reason}; {remedy}", path.display())]
    OtherData {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
        /// What to change.
        remedy: &'static str,
    },
    /// Numbers that are no floating-point numbers of 16 bits or more.
    #[error(
        "{}: {tensor} is of type {dtype}; f16, bf16, f32 and f64 are read: convert it, in PyTorch \
         by tensor.float()", path.display()
    )]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
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

/// Our dimensions as a file has them: convolutions OIHW, those over time KIO.
fn file_shape(rank: usize, [d0, d1, d2, d3]: [usize; 4]) -> Vec<usize> {
    match rank {
        4 => vec![d0, d3, d1, d2],
        3 => vec![d2, d3, d1],
        2 => vec![d2, d3],
        _ => vec![d3],
    }
}

/// The dimensions that change places in a file, if any, as [`transpose`] takes ours.
fn exchanged(rank: usize, [d0, d1, d2, d3]: [usize; 4]) -> Option<[usize; 3]> {
    match rank {
        4 => Some([d0, d1 * d2, d3]),
        3 => Some([1, d1, d2 * d3]),
        _ => None,
    }
}

/// Writes all learned tensors, running statistics and constants, in a file's layouts, and what there
/// is to know `about` them; `steps` becomes `num_batches_tracked`.
///
/// # Errors
/// [`WeightsError::Write`]; an existing file is then untouched.
pub fn export(
    exec: &mut dyn Executor,
    params: &Params,
    steps: u64,
    about: &About,
    path: &Path,
) -> Result<(), WeightsError> {
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (entry, tensor) in params.tensors() {
        let mut values = exec.read(tensor)?;
        if let Some(sizes) = exchanged(entry.rank, entry.dims) {
            values = transpose(&values, sizes);
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
    for (name, value) in params.constants() {
        let bytes = value.to_le_bytes().to_vec();
        tensors.push((name.clone(), Dtype::F32, vec![1], bytes));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), bytes).expect("bytes match the shape"),
        )
    });
    let bytes = serialize(views, None).expect("names are unique and shapes right");
    Ok(files::write(path, &about.write(steps, &bytes))?)
}

/// The numbers of a tensor as f32, if its type is one of floating point that has room for weights:
/// what PyTorch's `load_state_dict` does.
fn floats(view: &TensorView) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> f32) -> Vec<f32> {
        let (numbers, _) = bytes.as_chunks::<N>();
        numbers.iter().map(|bytes| number(*bytes)).collect()
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(each(bytes, f32::from_le_bytes)),
        Dtype::F16 => Some(each(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(each(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F64 => Some(each(bytes, |b| f64::from_le_bytes(b) as f32)),
        _ => None,
    }
}

/// Ends of the names of what PyTorch's and fairseq's modules keep beside their weights.
const NO_WEIGHTS: [&str; 3] = ["num_batches_tracked", ".version", "._float_tensor"];

/// Takes over what [`export`] or PyTorch wrote, which what is known `about` the network must not
/// contradict. Nothing is changed unless the whole file fits.
///
/// # Errors
/// Everything but [`WeightsError::Write`].
pub fn import(
    exec: &mut dyn Executor,
    params: &Params,
    file: &WeightFile,
    about: &About,
) -> Result<(), WeightsError> {
    about.check(file)?;
    let path = || file.path().to_path_buf();
    let other = |reason| WeightsError::OtherNetwork {
        path: path(),
        reason,
        remedy: about.remedy(),
    };
    let tensors = file.tensors()?;
    let mut loaded = Vec::new();
    for (entry, tensor) in params.tensors() {
        let name = || entry.name.clone();
        let view = tensors.tensor(&entry.name);
        let view = view.map_err(|_| other(format!("it has no {}", entry.name)))?;
        let (shape, found) = (file_shape(entry.rank, entry.dims), view.shape());
        if found != shape {
            return Err(other(format!("{} is {found:?}, not {shape:?}", entry.name)));
        }
        let values = floats(&view).ok_or_else(|| WeightsError::Type {
            path: path(),
            tensor: name(),
            dtype: view.dtype(),
        })?;
        if values.iter().any(|v| !v.is_finite()) {
            let (path, tensor) = (path(), name());
            return Err(WeightsError::NotFinite { path, tensor });
        }
        let values = match exchanged(entry.rank, entry.dims) {
            Some([outer, a, b]) => transpose(&values, [outer, b, a]),
            None => values,
        };
        loaded.push((tensor, values));
    }
    for (name, value) in params.constants() {
        let found = tensors.tensor(name).ok().and_then(|view| floats(&view));
        match found.as_deref() {
            Some([found]) if found == value => (),
            Some(found) => return Err(other(format!("{name} is {found:?}, not [{value:?}]"))),
            None => return Err(other(format!("it has no {name}"))),
        }
    }
    // The same numbers under a second name are a table that is tied.
    let own = |name: &str| tensors.tensor(name).ok();
    let tied = |view: &TensorView| {
        let mut all = params.tensors().filter_map(|(entry, _)| own(&entry.name));
        all.any(|own| {
            (own.dtype(), own.shape(), own.data()) == (view.dtype(), view.shape(), view.data())
        })
    };
    let known: HashSet<&str> = params.tensors().map(|(e, _)| e.name.as_str()).collect();
    let more = tensors.iter().filter(|(name, view)| {
        !known.contains(name) && !NO_WEIGHTS.iter().any(|end| name.ends_with(end)) && !tied(view)
    });
    // The same in every run.
    if let Some(name) = more.map(|(name, _)| name).min() {
        return Err(other(format!("it has {name}, too")));
    }
    for (tensor, values) in loaded {
        exec.write(tensor, &values)?;
    }
    Ok(())
}
