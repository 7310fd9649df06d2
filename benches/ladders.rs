//! Every step of the ladders of kernels, at the shapes of ResNet-20, of a base Transformer and at
//! larger ones: time of a call with warm and with cold caches, bytes a second, and how much that is
//! of what copying gets.
//!
//! Measures `cuda`, by its own clock. Without a device it rehearses on `simt` with tiny shapes, to
//! show that it works; those times mean nothing for a GPU, so none are shown.

#[path = "common/ends.rs"]
mod ends;

use autoassist::backend::Executor;
use autoassist::backend::gpu::Gpu;
use autoassist::workbench::profile::measure::{Measured, Times, measure};
use autoassist::workbench::profile::{ProfileError, step_of, taken};
use autoassist::workbench::workload::{Dims, Op, ops};
use serde_json::json;
use std::process::ExitCode;

/// Shapes of an op that networks have; its usual one for others.
fn shapes(op: &Op) -> Vec<Vec<usize>> {
    let stages = [[32, 16], [16, 32], [8, 64]];
    let images = || stages.map(|[size, channels]| vec![1024, size, size, channels]);
    let layers = || stages.map(|[size, c]| vec![1024, size, size, c, c, 3, 1]);
    match op.name {
        "copy" => vec![vec![64 << 20]],
        "gather" => vec![vec![1024, 32, 32, 3]],
        "conv" | "conv_backward" => layers().into(),
        name if name.starts_with("bn_") => images().into(),
        "softmax_xent" => vec![vec![128, 10], vec![1024, 10], vec![4096, 32_000]],
        // Parameters of ResNet-20 and of ResNet-50.
        "sgd" => vec![vec![272_474], vec![25_557_032]],
        "gemm" => [1024, 2048, 4096].map(|n| vec![n, n, n]).into(),
        "linear" | "linear_backward" => vec![vec![4096, 512, 512], vec![4096, 512, 2048]],
        "attention" | "attention_backward" => vec![
            vec![256, 32, 8, 64],
            vec![128, 128, 8, 64],
            vec![8, 1024, 16, 64],
        ],
        "sentence_xent" => vec![vec![4096, 8000], vec![4096, 32_000]],
        "adam" | "clip_scale" => vec![vec![60_519_424]],
        "embedding" | "embedding_backward" | "layer_norm" | "layer_norm_backward" => {
            vec![vec![128, 32, 512]]
        }
        _ => vec![op.shape.to_vec()],
    }
}

/// What is shown of a time.
fn row(op: &Op, shape: &[usize], step: u32, measured: &Measured) -> serde_json::Value {
    let bytes = (op.bytes)(shape) as f64;
    let [warm, cold] = [measured.warm, measured.cold];
    println!(
        "{:<20} {:<20} {step} {:>10.2} {:>10.2} {:>10.1}",
        op.name,
        Dims(shape).to_string(),
        warm.median * 1e6,
        cold.median * 1e6,
        bytes / cold.median / 1e9
    );
    let times =
        |t: Times| json!({ "p20": t.p20 * 1e6, "median": t.median * 1e6, "p80": t.p80 * 1e6 });
    json!({
        "op": op.name, "shape": shape, "step": step, "bytes": bytes,
        "warm_us": times(warm), "cold_us": times(cold),
    })
}

fn main() -> ExitCode {
    ends::ends("ladders", run())
}

fn run() -> Result<(), ProfileError> {
    let on_cuda = match Gpu::cuda(0) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.unless_required()?),
    };
    if let Err(e) = &on_cuda {
        println!("rehearsal on simt, without times: {e}");
    }
    let open = || match &on_cuda {
        Ok(()) => Gpu::cuda(0),
        Err(_) => Gpu::simt(),
    };
    let (device, capability) = (open()?.describe(), open()?.capability());
    println!("{device}: op, shape, step, us warm, us cold, GB/s cold of what has to be moved");
    let mut results = Vec::new();
    for op in ops() {
        let shapes = match on_cuda {
            Ok(()) => shapes(op),
            Err(_) => vec![op.shape.iter().map(|size| (*size).min(8)).collect()],
        };
        for shape in shapes {
            for &step in op.steps {
                if step_of(taken(op, &shape, step, capability)?) != step {
                    continue;
                }
                match measure(&mut open()?, op, &shape, step)? {
                    Some(measured) => results.push(row(op, &shape, step, &measured)),
                    None => println!("{:<20} {:<20} {step}", op.name, Dims(&shape).to_string()),
                }
            }
        }
    }
    println!("{}", json!({ "device": device, "results": results }));
    Ok(())
}
