//! Matrix products. First the CPU executor's (`cpu.rs`), beside the BLAS libraries that can be
//! loaded (`AUTOASSIST_PEER_BLAS` names one by its path).
//!
//! Then every step of the ladder of kernels, and cuBLAS where it can be loaded: square matrices of
//! 1024, 2048 and 4096 on a GPU. Times include launches, many of which are under way at once; below
//! some ten microseconds a product it is they that are measured.
//!
//! Without a device it rehearses on `simt` with matrices of 256, to show that it works; those times
//! mean nothing. Some elements of every product are compared with sums in f64.

#[path = "../common/blas.rs"]
mod blas;
mod cpu;
#[path = "../common/cublas.rs"]
mod cublas;
#[path = "../common/ends.rs"]
mod ends;
#[path = "../common/peak.rs"]
mod peak;
#[path = "../common/product.rs"]
mod product;

use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::{DeviceError, Executor, Kind, Tensor};
use autoassist::rng::Stream;
use cublas::{Cublas, Matrices};
use half::bf16;
use product::Product;
use std::process::ExitCode;
use std::time::Instant;

/// Seconds that a round should take at least, and rounds of which the median counts.
const ROUND: f64 = 0.05;
const ROUNDS: usize = 7;

/// Square matrices of one size, on the device and here.
struct Case {
    size: usize,
    /// Both factors in bf16.
    factors: [Vec<bf16>; 2],
    tensors: [Tensor; 3],
}

impl Case {
    fn new(gpu: &mut Gpu, size: usize) -> Result<Case, DeviceError> {
        let factors = [1, 2].map(|seed| {
            let mut random = Stream::new(seed, 0, 0);
            let number = |_| bf16::from_f32(2.0 * random.f32() - 1.0);
            (0..size * size).map(number).collect::<Vec<_>>()
        });
        let tensors = [(); 3].map(|()| gpu.alloc(Kind::Activation, [1, 1, size, size]));
        for (tensor, values) in tensors.iter().zip(&factors) {
            let values: Vec<f32> = values.iter().map(|v| v.to_f32()).collect();
            gpu.write(*tensor, &values)?;
        }
        Ok(Case {
            size,
            factors,
            tensors,
        })
    }

    /// Compares some elements of the product with what they should be.
    fn check(&self, c: &[f32], what: &str) {
        let (size, mut random) = (self.size, Stream::new(3, 0, 0));
        for _ in 0..64 {
            let [row, column] = [(); 2].map(|()| (random.f32() * size as f32) as usize % size);
            let [a, b] = [(0, row), (1, column)].map(|(i, r)| &self.factors[i][r * size..][..size]);
            let sum: f64 = a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
            let value = f64::from(c[row * size + column]);
            assert!(
                (value - sum).abs() <= sum.abs() / 250.0 + 1e-5 * size as f64,
                "{what}: {value} for {sum} at ({row}, {column})"
            );
        }
    }
}

/// Median seconds of one call of `launch`, many of which are launched before `finish`.
fn time(mut launch: impl FnMut(), mut finish: impl FnMut(), rounds: usize) -> f64 {
    let mut round = |calls: usize| {
        let start = Instant::now();
        (0..calls).for_each(|_| launch());
        finish();
        start.elapsed().as_secs_f64() / calls as f64
    };
    round(1);
    let calls = (ROUND / round(3)).clamp(1.0, 2000.0) as usize;
    let mut times: Vec<f64> = (0..rounds).map(|_| round(calls)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> ExitCode {
    ends::ends("gemm", run())
}

fn run() -> Result<(), DeviceError> {
    let cuda = match Gpu::cuda(0) {
        Ok(gpu) => Ok(gpu),
        Err(e) => Err(e.unless_required()?),
    };
    println!("{}\n", cpu::table(20)?);
    let (mut gpu, sizes, rounds) = match cuda {
        Ok(gpu) => (gpu, vec![1024, 2048, 4096], ROUNDS),
        Err(e) => {
            println!("rehearsal on simt, whose times mean nothing: {e}");
            (Gpu::simt()?, vec![256], 1)
        }
    };
    let device = gpu.describe();
    let on_cuda = sizes.len() > 1;
    // Opening the device has made its context current.
    let cublas = if on_cuda { Cublas::open() } else { None };
    println!("{device}, bf16, sums in f32");
    if on_cuda && cublas.is_none() {
        println!("cuBLAS is not measured: no libcublas.so can be loaded");
    }
    let one = gpu.alloc(Kind::Activation, [1; 4]);
    let mut results = Vec::new();
    for size in sizes {
        let case = Case::new(&mut gpu, size)?;
        let [a, b, c] = case.tensors;
        let rate = |seconds: f64| 2.0 * (size as f64).powi(3) / seconds / 1e12;
        let rival = cublas.as_ref().and_then(|cublas| {
            let [a, b] = case.factors.each_ref().map(|f| bytemuck::cast_slice(f));
            let product = Product {
                sizes: [size; 3],
                transposed: [false, true],
            };
            let matrices = Matrices::new(product, a, b)?;
            if !cublas.gemm(&matrices) {
                return None;
            }
            let launch = || assert!(cublas.gemm(&matrices));
            let finish = || assert!(cublas::synchronize());
            Some(rate(time(launch, finish, rounds)))
        });
        if let Some(rate) = rival {
            println!("{size:>5}  cuBLAS  {rate:>9.3} TFLOP/s");
            results.push(serde_json::json!({
                "size": size, "step": "cublas", "tflops": rate,
            }));
        }
        for step in 1..=Ladder::Gemm.last() {
            gpu.limit(Ladder::Gemm, step);
            if gpu.gemm_step(a, b, c) != step {
                println!("{size:>5}  step {step}  not on this device");
                continue;
            }
            gpu.gemm(a, b, c);
            case.check(&gpu.read(c)?, &format!("step {step}, {size}"));
            // Reading anything waits for everything.
            let gpu = std::cell::RefCell::new(&mut gpu);
            let finish = || drop(gpu.borrow_mut().read(one).expect("the device works"));
            let rate = rate(time(|| gpu.borrow_mut().gemm(a, b, c), finish, rounds));
            let ratio = rival.map(|rival| rate / rival);
            let beside = ratio.map_or(String::new(), |r| {
                format!("  {:>6.1} % of cuBLAS", 100.0 * r)
            });
            println!("{size:>5}  step {step}  {rate:>9.3} TFLOP/s{beside}");
            results.push(serde_json::json!({
                "size": size, "step": step, "tflops": rate, "of_cublas": ratio,
            }));
        }
    }
    println!(
        "{}",
        serde_json::json!({ "device": device, "results": results })
    );
    Ok(())
}
