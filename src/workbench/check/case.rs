//! What every case is made of.

use crate::backend::gpu::Gpu;
use crate::backend::{DeviceError, Executor, Kind, Tensor};
use crate::rng::Stream;
use std::sync::Arc;

/// Launches something.
pub(super) type Case = Arc<dyn Fn(&mut Gpu, &mut Stream) -> Result<(), DeviceError> + Send + Sync>;

pub(super) fn case(
    f: impl Fn(&mut Gpu, &mut Stream) -> Result<(), DeviceError> + Send + Sync + 'static,
) -> Case {
    Arc::new(f)
}

/// A tensor of random values.
pub(super) fn tensor(
    gpu: &mut Gpu,
    random: &mut Stream,
    kind: Kind,
    dims: [usize; 4],
) -> Result<Tensor, DeviceError> {
    let t = gpu.alloc(kind, dims);
    let values: Vec<f32> = (0..t.len()).map(|_| random.f32() - 0.3).collect();
    gpu.write(t, &values)?;
    Ok(t)
}
