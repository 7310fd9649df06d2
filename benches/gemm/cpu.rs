//! The CPU executor's matrix product, and BLAS libraries where some can be loaded: at the shapes of
//! a Transformer (1024 tokens, d 256, ffn 1024, vocabulary 8000) and square. Beside that of `f32` the
//! product of bf16 as a layer has it: activations of bf16, weights and their gradient of `f32`.
//!
//! The peak of multiply-adds is measured between the runs of each product, since clocks wander.

use crate::blas::Blas;
use crate::peak;
use crate::product::Product;
use autoassist::backend::DeviceError;
use autoassist::backend::cpu::gemm::{Matrix, Out, gemm};
use autoassist::backend::cpu::simd::{Buffer, Element, Isa};
use half::bf16;
use serde_json::{Value, json};
use std::time::Instant;

/// Of `A·B`, `A·Bᵀ` and `Aᵀ·B`: a network has `dx = dz·w`, `y = x·wᵀ` and `dw = dzᵀ·x`.
fn products() -> Vec<Product> {
    let square = |transposed| Product {
        sizes: [1024; 3],
        transposed,
    };
    let mut all: Vec<Product> = [[false, false], [false, true], [true, false]]
        .map(square)
        .into();
    let (rows, d, ffn, words) = (1024, 256, 1024, 8000);
    for (out, input) in [(d, d), (ffn, d), (d, ffn), (words, d)] {
        let of_layer = [
            ([rows, out, input], [false, true]),
            ([rows, input, out], [false, false]),
            ([out, input, rows], [true, false]),
        ];
        all.extend(of_layer.map(|(sizes, transposed)| Product { sizes, transposed }));
    }
    all
}

/// Numbers in -0.5..0.5, that are of bf16 too.
fn filled<E: Element>(len: usize) -> Buffer<E> {
    let mut values = Buffer::zeroed(len);
    for (i, x) in values.iter_mut().enumerate() {
        *x = E::from_f32((i * 7 % 64) as f32 / 64.0 - 0.5);
    }
    values
}

/// The operands of a product as they lie, with their leading dimensions.
fn operands<'a>(
    product: &Product,
    a: impl Fn(usize) -> Matrix<'a>,
    b: impl Fn(usize) -> Matrix<'a>,
) -> (&'static str, [Matrix<'a>; 2]) {
    let [m, n, k] = product.sizes;
    match product.transposed {
        [false, false] => ("A·B", [a(k), b(n)]),
        [false, true] => ("A·Bᵀ", [a(k), b(k).t()]),
        [true, _] => ("Aᵀ·B", [a(m).t(), b(n)]),
    }
}

/// Lowers `fastest` to the seconds of a run.
fn time(fastest: &mut f64, run: &mut dyn FnMut()) {
    let start = Instant::now();
    run();
    *fastest = fastest.min(start.elapsed().as_secs_f64());
}

/// Prints the table, and returns it for machines. Of the rounds the fastest counts.
///
/// # Errors
/// An unknown `AUTOASSIST_ISA`.
pub fn table(rounds: usize) -> Result<Value, DeviceError> {
    let (isa, libraries) = (Isa::detect()?, Blas::all());
    println!("cpu ({isa}, {} threads)", rayon::current_num_threads());
    if libraries.is_empty() {
        println!("no BLAS library can be loaded to compare with");
    }
    println!(
        "\n| product, m x n x k | f32 GFLOP/s | peak beside it | % of that | best rival | bf16 |"
    );
    println!("|---|---|---|---|---|---|");
    let mut results = Vec::new();
    for product in products() {
        let [m, n, k] = product.sizes;
        let (a, b) = (filled::<f32>(m * k), filled::<f32>(k * n));
        let mut c = Buffer::<f32>::zeroed(m * n);
        let f32_a = |ld| Matrix::new(&a[..], ld);
        let (layout, [left, right]) = operands(&product, f32_a, |ld| Matrix::new(&b[..], ld));
        let (half_a, half_b) = (filled::<bf16>(m * k), filled::<bf16>(k * n));
        let mut half_c = Buffer::<bf16>::zeroed(m * n);
        let grad = product.transposed[0];
        let (_, halves) = operands(
            &product,
            |ld| Matrix::new(&half_a[..], ld),
            |ld| match grad {
                true => Matrix::new(&half_b[..], ld),
                false => Matrix::new(&b[..], ld),
            },
        );
        let [mut peak, mut ours, mut in_bf16] = [f64::INFINITY; 3];
        let mut rivals = vec![f64::INFINITY; libraries.len()];
        for _ in 0..rounds {
            time(&mut peak, &mut || peak::run(isa));
            // The first finds caches as the peak, or another process, left them.
            for _ in 0..4 {
                time(&mut ours, &mut || {
                    gemm(isa, [m, n, k], left, right, Out::new(&mut c[..], n), &());
                });
            }
        }
        let made = c.to_vec();
        for _ in 0..4 * rounds {
            time(&mut in_bf16, &mut || {
                let [left, right] = halves;
                let out = match grad {
                    true => Out::new(&mut c[..], n),
                    false => Out::new(&mut half_c[..], n),
                };
                gemm(isa, [m, n, k], left, right, out, &());
            });
        }
        // Apart from ours: their threads may wait for more work, and keep the cores.
        for (library, fastest) in libraries.iter().zip(&mut rivals) {
            c.fill(f32::NAN);
            for _ in 0..4 * rounds {
                time(fastest, &mut || library.gemm(product, &a, &b, &mut c));
            }
            let same = |(x, y): (&f32, &f32)| (x - y).abs() <= 1e-5 * k as f32;
            assert!(
                made.iter().zip(c.iter()).all(same),
                "{} makes another product {m}x{n}x{k} {layout}",
                library.name
            );
        }
        let flops = 2.0 * (m * n * k) as f64;
        let peak = peak::flops() / peak;
        let by_time = |a: &(&Blas, &f64), b: &(&Blas, &f64)| a.1.total_cmp(b.1);
        let rival = libraries.iter().zip(&rivals).min_by(by_time);
        println!(
            "| {m}x{n}x{k} {layout} | {:.0} | {:.0} | {:.0} | {} | {:.0} |",
            flops / ours / 1e9,
            peak / 1e9,
            100.0 * flops / ours / peak,
            rival.map_or("–".into(), |(library, seconds)| {
                format!("{:.0} ({})", flops / seconds / 1e9, library.name)
            }),
            flops / in_bf16 / 1e9,
        );
        results.push(json!({
            "m": m, "n": n, "k": k, "layout": layout,
            "gflops": flops / ours / 1e9, "bf16_gflops": flops / in_bf16 / 1e9, "peak_gflops": peak / 1e9,
            "rival": rival.map(|(library, _)| &library.name),
            "rival_gflops": rival.map(|(_, seconds)| flops / seconds / 1e9),
        }));
    }
    Ok(json!({ "device": format!("cpu ({isa})"), "results": results }))
}
