//! The executors of this machine, and how the roofs of each are measured.

use crate::peak;
use crate::rivals::{self, Rival};
use autoassist::backend::cpu::Cpu;
use autoassist::backend::cpu::simd::Isa;
use autoassist::backend::gpu::Gpu;
use autoassist::backend::{BatchNorm, DeviceError, Executor, Kind};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// What bounds every op.
#[derive(Clone, Copy)]
pub struct Roof {
    /// FLOP/s.
    pub flops: f64,
    /// Bytes a second, read and written, of a copy.
    pub bandwidth: f64,
}

/// An executor that can be opened.
pub struct Device {
    pub name: &'static str,
    pub open: fn() -> Result<Box<dyn Executor>, DeviceError>,
    pub roof: fn() -> Result<Roof, DeviceError>,
    /// Of an activation's element.
    pub activation_bytes: f64,
    /// Ops that are captured at least for one replay of a graph; 1 where there are none.
    pub launches: usize,
    /// Which of a network's batches suits it.
    pub batch: usize,
    pub rivals: Vec<Box<dyn Rival>>,
    /// Keeps the context of the rivals.
    _context: Option<Gpu>,
}

/// The CPU, and a GPU where there is one.
pub fn all() -> Result<Vec<Device>, DeviceError> {
    let mut devices = vec![Device {
        name: "cpu",
        open: || Ok(Box::new(Cpu::new()?)),
        roof: of_cpu,
        activation_bytes: 4.0,
        launches: 1,
        batch: 0,
        rivals: rivals::of_cpu(),
        _context: None,
    }];
    match Gpu::cuda(0) {
        Ok(gpu) => devices.push(Device {
            name: "cuda",
            open: || Ok(Box::new(Gpu::cuda(0)?)),
            roof: of_cuda,
            activation_bytes: 2.0,
            launches: 64,
            batch: 1,
            rivals: rivals::of_cuda(),
            _context: Some(gpu),
        }),
        Err(e) => eprintln!("cuda is not measured: {}", e.unless_required()?),
    }
    Ok(devices)
}

/// Best of several: what the machine can do.
fn best(
    rounds: usize,
    mut run: impl FnMut() -> Result<(), DeviceError>,
) -> Result<f64, DeviceError> {
    let mut fastest = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        run()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

/// Multiply-adds without memory, and a copy that no cache holds.
fn of_cpu() -> Result<Roof, DeviceError> {
    const FLOATS: usize = 1 << 25;
    const CHUNK: usize = 1 << 16;
    const ROUNDS: usize = 40;
    let isa = Isa::detect()?;
    let arithmetic = best(ROUNDS, || {
        peak::run(isa);
        Ok(())
    })?;
    let from = vec![1.0_f32; FLOATS];
    let mut to = vec![0.0_f32; FLOATS];
    let copy = best(ROUNDS, || {
        let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        chunks.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
        Ok(())
    })?;
    Ok(Roof {
        flops: peak::flops() / arithmetic,
        bandwidth: (2 * 4 * FLOATS) as f64 / copy,
    })
}

/// The best large matrix product in bf16 that can be had here, our own or cuBLAS's, and a copy of
/// half a gigabyte. A lower bound of what the device could do.
fn of_cuda() -> Result<Roof, DeviceError> {
    const SIZE: usize = 4096;
    const CALLS: usize = 20;
    let mut gpu = Gpu::cuda(0)?;
    let [a, b, c] = [(); 3].map(|()| gpu.alloc(Kind::Activation, [1, 1, SIZE, SIZE]));
    let image = [4096, 32, 32, 64];
    let [x, y] = [(); 2].map(|()| gpu.alloc(Kind::Activation, image));
    let [
        gamma,
        beta,
        dgamma,
        dbeta,
        running_mean,
        running_var,
        mean,
        var,
        invstd,
        scale,
        shift,
    ] = [(); 11].map(|()| gpu.alloc(Kind::Float, [1, 1, 1, image[3]]));
    let norm = BatchNorm {
        gamma,
        beta,
        dgamma,
        dbeta,
        running_mean,
        running_var,
        mean,
        var,
        invstd,
        scale,
        shift,
    };
    // Zeros would cost a GPU less power than numbers do.
    let values: Vec<f32> = (0..SIZE * SIZE)
        .map(|i| (i * 7 % 64) as f32 / 64.0 - 0.5)
        .collect();
    for factor in [a, b] {
        gpu.write(factor, &values)?;
    }
    let mut ours = |op: &dyn Fn(&mut Gpu)| {
        best(6, || {
            (0..CALLS).for_each(|_| op(&mut gpu));
            // Reading anything waits for everything.
            gpu.read(gamma).map(drop)
        })
    };
    let product = ours(&|gpu| gpu.gemm(a, b, c))? / CALLS as f64;
    let copy = ours(&|gpu| gpu.bn_apply(x, norm, None, false, y))? / CALLS as f64;
    let rival = rivals::cublas_seconds([SIZE; 3], CALLS).unwrap_or(f64::INFINITY);
    Ok(Roof {
        flops: 2.0 * (SIZE as f64).powi(3) / product.min(rival),
        bandwidth: (2 * 2 * image.iter().product::<usize>()) as f64 / copy,
    })
}
