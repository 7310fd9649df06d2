//! Libraries that can do what an op does, loaded at run time: BLAS for the CPU, cuBLAS and cuDNN for
//! CUDA. Whatever goes wrong with one means that there is no comparison.

use crate::blas::Blas;
use crate::cublas::{self, Cublas, Matrices};
use crate::cudnn::Cudnn;
use crate::noise::{noise, noise_bits};
use crate::product::Product;
use crate::record::Task;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Does a task so many times; None if the library fails.
pub type Run = Box<dyn FnMut(u64) -> Option<Duration>>;

/// Another library.
pub trait Rival {
    fn name(&self) -> String;
    /// Brings the operands of a task into place; None if it is not for this library.
    fn prepare(&self, task: &Task) -> Option<Run>;
}

pub fn of_cpu() -> Vec<Box<dyn Rival>> {
    let boxed = |blas| Box::new(Rc::new(blas)) as Box<dyn Rival>;
    Blas::all().into_iter().map(boxed).collect()
}

/// A context must be current.
pub fn of_cuda() -> Vec<Box<dyn Rival>> {
    let mut rivals: Vec<Box<dyn Rival>> = Vec::new();
    if let Some(cublas) = Cublas::open() {
        rivals.push(Box::new(Rc::new(cublas)));
    }
    if let Some(cudnn) = Cudnn::open() {
        rivals.push(Box::new(Rc::new(cudnn)));
    }
    rivals
}

impl Rival for Rc<Blas> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn prepare(&self, task: &Task) -> Option<Run> {
        let Task::Products(products) = task else {
            return None;
        };
        let operands = |product: &Product| {
            let [m, n, k] = product.sizes;
            (*product, noise(m * k), noise(n * k), vec![0.0; m * n])
        };
        let mut products: Vec<_> = products.iter().map(operands).collect();
        let blas = self.clone();
        Some(Box::new(move |times| {
            let start = Instant::now();
            for _ in 0..times {
                for (product, a, b, c) in &mut products {
                    blas.gemm(*product, a, b, c);
                }
            }
            Some(start.elapsed())
        }))
    }
}

impl Rival for Rc<Cublas> {
    fn name(&self) -> String {
        "cuBLAS".into()
    }

    fn prepare(&self, task: &Task) -> Option<Run> {
        let Task::Products(products) = task else {
            return None;
        };
        let operands = |product: &Product| {
            let [m, n, k] = product.sizes;
            Matrices::new(*product, &noise_bits(m * k), &noise_bits(n * k))
        };
        let products: Vec<Matrices> = products.iter().map(operands).collect::<Option<_>>()?;
        let cublas = self.clone();
        Some(on_device(move || products.iter().all(|p| cublas.gemm(p))))
    }
}

impl Rival for Rc<Cudnn> {
    fn name(&self) -> String {
        "cuDNN".into()
    }

    fn prepare(&self, task: &Task) -> Option<Run> {
        let Task::Convolution(convolution) = task else {
            return None;
        };
        let plan = self.plan(convolution)?;
        let cudnn = self.clone();
        Some(on_device(move || plan.iter().all(|part| cudnn.run(part))))
    }
}

/// From the first launch until the device is done.
fn on_device(launch: impl Fn() -> bool + 'static) -> Run {
    Box::new(move |times| {
        let start = Instant::now();
        let launched = (0..times).all(|_| launch());
        (cublas::synchronize() && launched).then(|| start.elapsed())
    })
}

/// What a product takes cuBLAS, the best of a few rounds of so many calls.
pub fn cublas_seconds(sizes: [usize; 3], calls: usize) -> Option<f64> {
    let product = Product {
        sizes,
        transposed: [false, true],
    };
    let mut run = Rc::new(Cublas::open()?).prepare(&Task::Products(vec![product]))?;
    let mut fastest = f64::INFINITY;
    for _ in 0..6 {
        fastest = fastest.min(run(calls as u64)?.as_secs_f64() / calls as f64);
    }
    Some(fastest)
}
