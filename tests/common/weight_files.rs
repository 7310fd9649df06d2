//! Weight files as other tools write them.

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

pub type Metadata = HashMap<String, String>;

pub fn metadata(file: &Path) -> Metadata {
    let bytes = fs::read(file).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().clone().unwrap_or_default()
}

/// A type of numbers, and how they become bytes of it.
pub type Type = (Dtype, fn(f32) -> Vec<u8>);

/// Writes a file anew with other metadata, and tensors of another type.
pub fn rewrite(from: &Path, to: &Path, metadata: Option<Metadata>, (dtype, convert): Type) {
    let bytes = fs::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter().map(|(name, view)| {
        let (numbers, _) = view.data().as_chunks::<4>();
        let (dtype, data) = match view.dtype() {
            Dtype::F32 => {
                let numbers = numbers.iter().map(|b| f32::from_le_bytes(*b));
                (dtype, numbers.flat_map(convert).collect())
            }
            other => (other, view.data().to_vec()),
        };
        (name, dtype, view.shape().to_vec(), data)
    });
    let all: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = all.collect();
    let views = all.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name, view)
    });
    fs::write(to, serialize(views, metadata).unwrap()).unwrap();
}

pub const F32: Type = (Dtype::F32, |v| v.to_le_bytes().to_vec());
