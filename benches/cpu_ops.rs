//! Every op of the CPU executor at the shapes of ResNet-20 (batch 128, 32×32) and of a small
//! Transformer: time, GFLOP/s, GB/s and the percentage of the roof, which is measured in the same
//! process (multiply-adds without memory, copies without arithmetic).
//!
//! Matrix products at the shapes of a Transformer (1024 tokens, d 256, ffn 1024, vocabulary 8000)
//! have a table of their own, in which the peak is measured between the runs of each product.
//!
//! FLOPs are two a multiply-add of convolutions, linear layers and attention; bytes are those of
//! tensors that must come from and go to memory once. Caches may beat such a floor: more than 100 %
//! means that tensors did not have to travel.

#[path = "cpu_ops/sequence.rs"]
mod sequence;

use autoassist::backend::cpu::Cpu;
use autoassist::backend::cpu::gemm::{Matrix, Out, gemm};
use autoassist::backend::cpu::simd::{Buffer, Isa, Kernel, Simd};
use autoassist::backend::{
    Augment, BatchNorm, Executor, Grad, InputGrad, Kind, Load, LossOutputs, Pass, Sgd, StepInputs,
    Tensor, Window,
};
use autoassist::data;
use criterion::Criterion;
use rayon::prelude::*;
use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

const N: usize = 128;

/// Times a call, and what it must do at least.
struct Row {
    name: String,
    flops: f64,
    bytes: f64,
    seconds: f64,
}

/// Multiply-adds in registers, as many independent chains as hide their latency.
struct Peak;

impl Kernel for Peak {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut sums: [S::V; CHAINS] = [s.splat(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let mut lanes = [0.0; 16];
        let mut total = 0.0;
        for sum in sums {
            s.store(&mut lanes, sum);
            total += lanes.iter().sum::<f32>();
        }
        total
    }
}

const CHAINS: usize = 12;
const ROUNDS: usize = 1 << 18;

/// Best of several: what the machine can do.
fn best(mut run: impl FnMut()) -> f64 {
    let mut once = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..12).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Multiply-adds on all threads.
fn run_peak(isa: Isa) {
    (0..rayon::current_num_threads())
        .into_par_iter()
        .for_each(|_| {
            black_box(isa.run(Peak));
        });
}

/// FLOPs of [`run_peak`].
fn peak_work() -> f64 {
    (2 * 16 * CHAINS * ROUNDS * rayon::current_num_threads()) as f64
}

/// FLOP/s of all threads.
fn peak_flops(isa: Isa) -> f64 {
    peak_work() / best(|| run_peak(isa))
}

/// Bytes per second, read and written, of a copy that no cache holds.
fn peak_bandwidth() -> f64 {
    const FLOATS: usize = 1 << 25;
    const CHUNK: usize = 1 << 16;
    let from = vec![1.0_f32; FLOATS];
    let mut to = vec![0.0_f32; FLOATS];
    let seconds = best(|| {
        let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        chunks.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
    });
    (2 * 4 * FLOATS) as f64 / seconds
}

/// Runs ops under criterion and notes their times for the table.
struct Bench {
    criterion: Criterion,
    rows: Vec<Row>,
    products: Vec<Product>,
}

/// Best FLOP/s of a matrix product and of the multiply-adds that it took turns with.
struct Product {
    name: String,
    flops: f64,
    peak: f64,
}

impl Bench {
    fn case(&mut self, name: &str, flops: f64, bytes: f64, mut run: impl FnMut()) {
        let times = RefCell::new(Vec::new());
        self.criterion.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let start = Instant::now();
                (0..iterations).for_each(|_| run());
                let elapsed = start.elapsed();
                times
                    .borrow_mut()
                    .push(elapsed.as_secs_f64() / iterations as f64);
                elapsed
            });
        });
        let mut times = times.into_inner();
        times.sort_by(f64::total_cmp);
        // A filter on the command line may have left it out.
        if let Some(&seconds) = times.get(times.len() / 2) {
            self.rows.push(Row {
                name: name.into(),
                flops,
                bytes,
                seconds,
            });
        }
    }
}

fn filled(exec: &mut Cpu, kind: Kind, dims: [usize; 4]) -> Tensor {
    let t = exec.alloc(kind, dims);
    let values: Vec<f32> = (0..t.len())
        .map(|i| (i * 7 % 64) as f32 / 64.0 - 0.5)
        .collect();
    exec.write(t, &values).expect("the CPU does not fail");
    t
}

fn batch_norm(exec: &mut Cpu, channels: usize) -> BatchNorm {
    let mut fresh = || filled(exec, Kind::Float, [1, 1, 1, channels]);
    let [gamma, beta, dgamma, dbeta, mean, invstd, scale, shift] = std::array::from_fn(|_| fresh());
    let [running_mean, running_var, var] = std::array::from_fn(|_| fresh());
    BatchNorm {
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
    }
}

/// Bytes of some tensors, once each.
fn bytes(tensors: &[Tensor]) -> f64 {
    4.0 * tensors.iter().map(Tensor::len).sum::<usize>() as f64
}

/// A convolution as ResNet uses it: batch norm + ReLU on load, moments on store; backward with
/// batch norm's formula on load, ReLU's mask and the sums of the batch norm before on store.
fn convolution(bench: &mut Bench, size: usize, ci: usize, co: usize, kernel: usize, stride: usize) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let window = Window {
        stride,
        pad: kernel / 2,
    };
    let out = window.output(size, kernel);
    let x = filled(exec, Kind::Activation, [N, size, size, ci]);
    let y = filled(exec, Kind::Activation, [N, out, out, co]);
    let g = filled(exec, Kind::Activation, y.dims);
    let dx = exec.alloc(Kind::Activation, x.dims);
    let w = filled(exec, Kind::Float, [co, kernel, kernel, ci]);
    let dw = exec.alloc(Kind::Float, w.dims);
    let (before, after) = (batch_norm(exec, ci), batch_norm(exec, co));
    // The first layer reads the image itself and passes no gradient on.
    let stem = ci == 3;
    let load = match stem {
        true => Load::plain(x),
        false => Load::norm_relu(x, before),
    };
    let flops = 2.0 * (N * out * out * w.len()) as f64;
    let name = format!("{kernel}x{kernel} {ci}->{co} at {size}/{stride}");
    bench.case(&format!("conv2d {name}"), flops, bytes(&[x, y]), || {
        exec.conv2d(load, w, window, y, Some(after));
    });
    let dy = Grad {
        g,
        norm: Some((after, y)),
    };
    let input_grad = (!stem).then_some(InputGrad {
        dx,
        add: None,
        relu: true,
        sums: Some((before, x)),
    });
    let (flops, moved) = match stem {
        true => (flops, bytes(&[x, y, g])),
        false => (2.0 * flops, bytes(&[x, y, g, dx])),
    };
    bench.case(&format!("conv2d_backward {name}"), flops, moved, || {
        exec.conv2d_backward(load, w, window, dy, dw, input_grad);
    });
}

fn element_wise(bench: &mut Bench, size: usize, channels: usize) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let dims = [N, size, size, channels];
    let x = filled(exec, Kind::Activation, dims);
    let residual = filled(exec, Kind::Activation, dims);
    let y = exec.alloc(Kind::Activation, dims);
    let bn = batch_norm(exec, channels);
    let name = format!("{channels} at {size}");
    bench.case(&format!("moments {name}"), 0.0, bytes(&[x]), || {
        exec.moments(x, bn);
    });
    let moved = bytes(&[x, residual, y]);
    bench.case(&format!("bn_apply {name}"), 0.0, moved, || {
        exec.bn_apply(x, bn, Some(Load::plain(residual)), true, y);
    });
    let moved = bytes(&[x, y, residual, residual]);
    bench.case(&format!("bn_backward_sums {name}"), 0.0, moved, || {
        exec.bn_backward_sums(residual, Some(y), x, bn);
    });
}

fn head(bench: &mut Bench) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let (features, classes) = (64, 10);
    let x = filled(exec, Kind::Activation, [N, 8, 8, features]);
    let dx = exec.alloc(Kind::Activation, x.dims);
    let w = filled(exec, Kind::Float, [1, 1, classes, features]);
    let b = filled(exec, Kind::Float, [1, 1, 1, classes]);
    let (dw, db) = (
        exec.alloc(Kind::Float, w.dims),
        exec.alloc(Kind::Float, b.dims),
    );
    let pooled = exec.alloc(Kind::Activation, [1, 1, N, features]);
    let logits = filled(exec, Kind::Activation, [1, 1, N, classes]);
    let labels = exec.alloc(Kind::Label, [1, 1, 1, N]);
    let weights = filled(exec, Kind::Float, [1, 1, 1, N]);
    let out = LossOutputs {
        dlogits: exec.alloc(Kind::Activation, logits.dims),
        loss: exec.alloc(Kind::Float, weights.dims),
        right: exec.alloc(Kind::Float, weights.dims),
    };
    let flops = 2.0 * (N * w.len()) as f64;
    bench.case("gap_linear", flops, bytes(&[x, w, logits]), || {
        exec.gap_linear(x, w, b, pooled, logits);
    });
    let moved = bytes(&[dx, w, dw, logits]);
    bench.case("gap_linear_backward", 2.0 * flops, moved, || {
        exec.gap_linear_backward(pooled, w, out.dlogits, dx, dw, db);
    });
    let moved = bytes(&[logits, out.dlogits, out.loss]);
    bench.case("softmax_xent", 0.0, moved, || {
        exec.softmax_xent(logits, labels, weights, 0.1, out, false);
    });
}

fn update(bench: &mut Bench) {
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    // The parameters of ResNet-20.
    let dims = [1, 1, 1, 272_474];
    let [values, grads, momentum] = std::array::from_fn(|_| filled(exec, Kind::Float, dims));
    let config = Sgd {
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
    };
    let moved = bytes(&[values, values, grads, momentum, momentum]);
    bench.case("sgd", 0.0, moved, || {
        exec.sgd(values, grads, momentum, config)
    });

    let images = data::synthetic(0).train;
    let exec = &mut Cpu::new().expect("a known AUTOASSIST_ISA");
    let x = exec.alloc(Kind::Activation, [N, 32, 32, 3]);
    let labels = exec.alloc(Kind::Label, [1, 1, 1, N]);
    let weights = exec.alloc(Kind::Float, [1, 1, 1, N]);
    let id = exec.attach_images(images.clone());
    let augment = Augment {
        crop: 4,
        flip: true,
    };
    let ids: Vec<u32> = (0..N as u32)
        .map(|i| i * 61 % images.len() as u32)
        .collect();
    let mut step = 0;
    bench.case("gather", 0.0, bytes(&[x]) * 1.25, || {
        let inputs = StepInputs {
            step,
            ids: ids.clone(),
            ..StepInputs::default()
        };
        let gathered = exec.step(Pass::Train, inputs, &|exec| {
            exec.gather(id, augment, x, labels, weights);
        });
        gathered.expect("the CPU does not fail");
        step += 1;
    });
}

/// `C[m, n] = A·B` over `k`, one of `A` and `B` transposed in memory or none. Which names it:
/// `y = x·wᵀ`, `dx = dz·w` and `dw = dzᵀ·x`.
fn product(bench: &mut Bench, [m, n, k]: [usize; 3], a_transposed: bool, b_transposed: bool) {
    let isa = Isa::detect().expect("a known AUTOASSIST_ISA");
    let filled = |len: usize| {
        let mut values = Buffer::zeroed(len);
        for (i, x) in values.iter_mut().enumerate() {
            *x = (i * 7 % 64) as f32 / 64.0 - 0.5;
        }
        values
    };
    let (a, b, mut c) = (filled(m * k), filled(k * n), Buffer::zeroed(m * n));
    let (layout, a, b) = match (a_transposed, b_transposed) {
        (false, false) => ("A·B", Matrix::new(&a, k), Matrix::new(&b, n)),
        (false, true) => ("A·Bᵀ", Matrix::new(&a, k), Matrix::new(&b, k).t()),
        (true, _) => ("Aᵀ·B", Matrix::new(&a, m).t(), Matrix::new(&b, n)),
    };
    let mut run = || gemm(isa, [m, n, k], a, b, Out::new(&mut c, n), &());
    let flops = 2.0 * (m * n * k) as f64;
    let moved = 4.0 * (m * k + k * n + m * n) as f64;
    let name = format!("gemm {m}x{n}x{k} {layout}");
    let before = bench.rows.len();
    bench.case(&name, flops, moved, &mut run);
    if bench.rows.len() == before {
        return;
    }
    let (mut fastest, mut fastest_peak) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..20 {
        let time = |fastest: &mut f64, run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            *fastest = fastest.min(start.elapsed().as_secs_f64());
        };
        time(&mut fastest_peak, &mut || run_peak(isa));
        // The first finds caches as the peak, or another process, left them.
        (0..4).for_each(|_| time(&mut fastest, &mut run));
    }
    bench.products.push(Product {
        name,
        flops: flops / fastest,
        peak: peak_work() / fastest_peak,
    });
}

fn products(bench: &mut Bench) {
    let (rows, d, ffn, words) = (1024, 256, 1024, 8000);
    for [a_transposed, b_transposed] in [[false, false], [false, true], [true, false]] {
        product(bench, [1024; 3], a_transposed, b_transposed);
    }
    for (out, input) in [(d, d), (ffn, d), (d, ffn), (words, d)] {
        product(bench, [rows, out, input], false, true);
        product(bench, [rows, input, out], false, false);
        product(bench, [out, input, rows], true, false);
    }
}

fn product_table(products: &[Product]) {
    println!("\n| product, m x n x k | GFLOP/s | peak beside it | % of that |");
    println!("|---|---|---|---|");
    for product in products {
        println!(
            "| {} | {:.0} | {:.0} | {:.0} |",
            product.name,
            product.flops / 1e9,
            product.peak / 1e9,
            100.0 * product.flops / product.peak,
        );
    }
}

fn table(rows: &[Row], flops: f64, bandwidth: f64) {
    println!(
        "\nroof: {:.0} GFLOP/s of multiply-adds, {:.1} GB/s of copying, {} threads\n",
        flops / 1e9,
        bandwidth / 1e9,
        rayon::current_num_threads()
    );
    println!("| op | µs | GFLOP/s | GB/s | bound by | % of the roof |");
    println!("|---|---|---|---|---|---|");
    for row in rows {
        let floors = [row.flops / flops, row.bytes / bandwidth];
        let bound = if floors[0] > floors[1] {
            "FLOPs"
        } else {
            "bytes"
        };
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {bound} | {:.0} |",
            row.name,
            row.seconds * 1e6,
            row.flops / row.seconds / 1e9,
            row.bytes / row.seconds / 1e9,
            100.0 * floors[0].max(floors[1]) / row.seconds,
        );
    }
}

fn main() {
    let criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .configure_from_args();
    let mut bench = Bench {
        criterion,
        rows: Vec::new(),
        products: Vec::new(),
    };
    for (size, ci, co, kernel, stride) in [
        (32, 3, 16, 3, 1),
        (32, 16, 16, 3, 1),
        (32, 16, 32, 3, 2),
        (32, 16, 32, 1, 2),
        (16, 32, 32, 3, 1),
        (16, 32, 64, 3, 2),
        (8, 64, 64, 3, 1),
    ] {
        convolution(&mut bench, size, ci, co, kernel, stride);
    }
    for (size, channels) in [(32, 16), (16, 32), (8, 64)] {
        element_wise(&mut bench, size, channels);
    }
    head(&mut bench);
    update(&mut bench);
    sequence::all(&mut bench);
    products(&mut bench);
    bench.criterion.final_summary();
    let isa = Isa::detect().expect("a known AUTOASSIST_ISA");
    table(&bench.rows, peak_flops(isa), peak_bandwidth());
    product_table(&bench.products);
}
