//! What the profiler counts is what arithmetic says.

use autoassist::backend::gpu::driver::{Arg, Capability, Driver, Launch};
use autoassist::simt::Simt;
use autoassist::simt::counts::{LaunchProfile, Traffic};
use autoassist::simt::profiler::Profiler;
use autoassist::workbench::profile::gpus::find;
use autoassist::workbench::profile::network::{self, GAP, Network};
use autoassist::workbench::profile::{self as workbench, ProfileError, step_of, taken};
use autoassist::workbench::workload::{Op, ops};

/// An H100's.
const DEVICE: Capability = Capability {
    arch: (9, 0),
    hopper: true,
    multiprocessors: 132,
    block_shared: 227 << 10,
    shared: 228 << 10,
};

/// Profiles a test kernel whose arguments are blocks of memory and then numbers.
fn run(
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    bytes: &[usize],
    numbers: &[i32],
) -> LaunchProfile {
    let profiler = Profiler::new().expect("address space");
    let mut simt = Simt::profiled(DEVICE, profiler.clone());
    let memory = bytes
        .iter()
        .map(|&n| Arg::Ptr(simt.alloc(n).expect("memory")));
    let args: Vec<Arg> = memory.collect();
    let numbers = numbers.iter().map(|n| Arg::I32(*n));
    simt.launch(&Launch {
        kernel,
        grid: [blocks, 1, 1],
        threads,
        shared: 0,
        args: args.into_iter().chain(numbers).collect(),
        scratch: None,
    })
    .expect("a right launch");
    simt.synchronize().expect("a right kernel");
    let profiles = profiler.profiles();
    assert_eq!(profiles.len(), 1);
    profiles.into_iter().next().expect("there is one")
}

fn traffic(requests: u64, bytes: u64, units: u64, ideal: u64) -> Traffic {
    Traffic {
        requests,
        bytes,
        units,
        ideal,
    }
}

#[test]
fn a_strided_copy_touches_32_sectors_a_request_and_a_dense_one_4() {
    // 3 blocks of 256 threads are 24 warps; each reads and writes once, 32 lanes of 4 bytes.
    let strided = run("profiled_strided", 3, 256, &[3 << 13, 3 << 13], &[]);
    let want = traffic(24, 24 * 128, 24 * 32, 24 * 4);
    assert_eq!(strided.counts.global_read, want);
    assert_eq!(strided.counts.global_write, want);
    let dense = run("profiled_neighbours", 3, 256, &[3 << 10, 3 << 10], &[]);
    let want = traffic(24, 24 * 128, 24 * 4, 24 * 4);
    assert_eq!(dense.counts.global_read, want);
    assert_eq!(dense.counts.global_write, want);
    // Whole sectors travel, whatever is wanted of them.
    assert_eq!(strided.footprint.read, 8 * dense.footprint.read);
    assert_eq!(dense.footprint.written, 3 << 10);
}

#[test]
fn vectors_of_16_bytes_take_four_wavefronts_and_no_conflict() {
    let p = run("profiled_vectors", 2, 256, &[1 << 12, 1 << 12], &[]);
    // 16 warps; 512 bytes a request are 16 sectors, and 4 wavefronts.
    assert_eq!(
        p.counts.global_read,
        traffic(16, 16 * 512, 16 * 16, 16 * 16)
    );
    assert_eq!(p.counts.shared_write, traffic(16, 16 * 512, 16 * 4, 16 * 4));
    assert_eq!(p.counts.shared_read, traffic(16, 16 * 512, 16 * 4, 16 * 4));
    assert_eq!((p.counts.barriers, p.static_shared), (2, 4096));
    // Both blocks read the same 4 KiB.
    assert_eq!((p.footprint.read_by_blocks, p.footprint.read), (8192, 4096));
    assert_eq!(
        (p.footprint.written_by_blocks, p.footprint.written),
        (8192, 4096)
    );
}

#[test]
fn columns_of_an_unpadded_tile_conflict_32_ways() {
    let rows = traffic(32, 32 * 128, 32, 32);
    let plain = run("profiled_transpose", 1, 32, &[4096, 4096], &[]);
    assert_eq!(plain.counts.shared_write, rows);
    assert_eq!(plain.counts.shared_read, traffic(32, 32 * 128, 32 * 32, 32));
    assert_eq!(plain.counts.conflicts(), 31 * 32);
    let padded = run("profiled_padded", 1, 32, &[4096, 4096], &[]);
    assert_eq!(padded.counts.shared_read, rows);
    assert_eq!(padded.counts.conflicts(), 0);
}

#[test]
fn one_word_for_all_lanes_is_one_wavefront() {
    let p = run("profiled_broadcast", 1, 64, &[256], &[]);
    // Two reads by each of two warps; the write is by two lanes.
    assert_eq!(p.counts.shared_read, traffic(4, 4 * 128, 4, 4));
    assert_eq!(p.counts.shared_write, traffic(1, 8, 1, 1));
}

#[test]
fn arithmetic_is_counted_by_thread() {
    let p = run("profiled_arithmetic", 2, 64, &[256], &[10]);
    let threads = 2 * 64;
    // Ten multiply-adds, one that is fused, and the subtraction.
    assert_eq!(p.counts.flops, threads * (2 * 10 + 2 + 1));
    assert_eq!(p.counts.fusable, threads * (10 + 1));
    // Division, root, exponential.
    assert_eq!(p.counts.special, threads * 3);
    let source = include_str!("../../kernels/simt/profiled.cu");
    let line = source
        .lines()
        .position(|l| l.contains("sum += own * float(i)"));
    let place = format!(
        "kernels/simt/profiled.cu:{}",
        line.expect("it is there") + 1
    );
    let line = p.lines.iter().find(|l| l.site.place == place);
    assert_eq!(line.expect("it computes").counts.flops, threads * 20);
}

#[test]
fn ldmatrix_of_rows_64_bytes_apart_conflicts_four_ways() {
    let p = run("profiled_ldmatrix", 1, 32, &[128], &[]);
    // Rows 64 bytes apart start at banks 0 and 16 in turn: of the eight that a quarter of the warp
    // reads, four at each, so four rounds a quarter. Rows 80 bytes apart start at 0, 20, 8, 28, 16,
    // 4, 24, 12: every bank once.
    assert_eq!(p.counts.shared_read, traffic(2, 2 * 512, 16 + 4, 4 + 4));
    assert_eq!(p.counts.mma_flops, 3 * 2 * 16 * 8 * 16);
    assert_eq!(p.counts.flops, 0);
}

#[test]
fn lanes_that_leave_a_loop_early_leave_the_request_smaller() {
    let p = run("profiled_uneven", 1, 32, &[256, 4], &[]);
    // Sixteen even lanes, over 128 bytes; then those from 16 on, over 64.
    let bytes = (16 + 8) * 4;
    assert_eq!(p.counts.global_read, traffic(2, bytes, 4 + 2, 2 + 1));
    // The host's compiler makes a loop of loads and exchanges of it; nobody interferes.
    assert_eq!(p.counts.global_atomic.units % 2, 0);
    assert!(p.counts.global_atomic.requests > 0);
}

/// What an op launches, all blocks of it.
fn profile(
    op: &Op,
    shape: &[usize],
    step: u32,
    device: Capability,
) -> Result<Vec<LaunchProfile>, ProfileError> {
    workbench::profile(op, shape, step, device, Profiler::new()?)
}

fn op(name: &str) -> &'static Op {
    ops().find(|op| op.name == name).expect("it is there")
}

#[test]
fn the_naive_product_does_two_loads_a_multiply_add() {
    let [m, n, k] = [16, 64, 40];
    let launches = profile(op("gemm"), &[m, n, k], 1, DEVICE).expect("a right op");
    let [p] = &launches[..] else {
        panic!("{launches:?}");
    };
    let (m, n, k) = (m as u64, n as u64, k as u64);
    assert_eq!(p.counts.flops, 2 * m * n * k);
    assert_eq!(p.counts.global_read.requests, 2 * m * n / 32 * k);
    // A warp has one row of a, so one element for all lanes, and 32 rows of b, 80 bytes apart.
    assert_eq!(p.counts.global_read.units, m * n / 32 * k * (1 + 32));
    assert_eq!(p.footprint.read, 2 * k * (m + n));
    assert_eq!(p.footprint.written, 2 * m * n);
}

#[test]
fn the_swizzle_does_away_with_all_conflicts_of_the_product() {
    let [m, n, k] = [128, 128, 64];
    let run = |step| {
        let launches = profile(op("gemm"), &[m, n, k], step, DEVICE).expect("a right op");
        let [p] = &launches[..] else {
            panic!("{launches:?}");
        };
        let slices = k as u64 / 32;
        // 8 warps, 64 x 32 elements each: of every slice of 32 columns they load 4 + 2 fragments
        // for each half, and every lane stores 2 + 2 vectors.
        assert_eq!(p.counts.shared_read.requests, 8 * slices * 2 * (4 + 2));
        assert_eq!(p.counts.shared_write.requests, 8 * slices * (2 + 2));
        assert_eq!(p.counts.mma_flops, 2 * (m * n * k) as u64);
        assert_eq!(p.counts.barriers, 2 * slices);
        p.counts
    };
    let (plain, swizzled) = (run(4), run(5));
    assert_eq!(swizzled.conflicts(), 0);
    // Rows 64 bytes apart: see the test of ldmatrix above.
    assert_eq!(plain.shared_read.units, 4 * plain.shared_read.ideal);
    assert_eq!(swizzled.shared_read.units, plain.shared_read.ideal);
}

#[test]
fn the_ladder_of_copies_needs_32_sectors_then_4_then_16_a_request() {
    let n = 1 << 13;
    for (step, bytes, sectors) in [(1, 4, 32), (2, 4, 4), (3, 16, 16)] {
        let launches = profile(op("copy"), &[n], step, DEVICE).expect("a right op");
        let [p] = &launches[..] else {
            panic!("{launches:?}");
        };
        let read = p.counts.global_read;
        assert_eq!(read.requests, 4 * n as u64 / (32 * bytes), "step {step}");
        assert_eq!(read.units, sectors * read.requests, "step {step}");
        assert_eq!(p.counts.global_write.units, read.units, "step {step}");
        assert_eq!(p.footprint.read, 4 * n as u64);
    }
}

#[test]
fn every_op_can_be_profiled() {
    for op in ops() {
        assert_eq!(op.check(op.shape), Ok(()), "{}", op.name);
        let small: Vec<usize> = op.shape.iter().map(|size| (*size).min(16)).collect();
        let step = op.steps[0];
        let launches = profile(op, &small, step, DEVICE).unwrap_or_else(|e| panic!("{e}"));
        assert!(!launches.is_empty(), "{}", op.name);
        for launch in &launches {
            let moved = launch.counts.sectors();
            assert!(moved > 0, "{} {}", op.name, launch.kernel);
        }
    }
}

#[test]
fn a_sample_of_blocks_says_what_all_blocks_do() {
    let mut wrong = Vec::new();
    // With halos, ragged edges, blocks that stay, several launches, rows that blocks share. The work
    // is that of 32 blocks and more, as it is at usual shapes.
    for (name, shape, steps, work) in [
        ("copy", &[1 << 19][..], &[1, 2, 3][..], 100_000),
        ("gemm", &[700, 500, 72], &[1, 2], 100_000),
        ("gemm", &[1400, 1000, 24], &[3, 5, 6], 12_000_000),
        ("linear", &[1000, 64, 520], &[2], 1_000_000),
        ("conv", &[60, 32, 32, 16, 16, 3, 1], &[2, 3, 4], 100_000),
        ("conv_backward", &[100, 32, 32, 16, 16, 3, 1], &[5], 100_000),
        ("bn_moments", &[64, 32, 32, 16], &[2, 3], 100_000),
        ("layer_norm", &[100, 17, 512], &[2], 100_000),
        ("attention", &[4, 320, 4, 64], &[3], 100_000),
        ("embedding", &[64, 31, 256], &[1, 2], 1_000_000),
        ("adam", &[2_000_003], &[2], 100_000),
    ] {
        for &step in steps {
            let case = format!("{name}, step {step}");
            let run = |profiler: Result<_, _>| {
                let profiler = profiler.expect("address space");
                workbench::profile(op(name), shape, step, DEVICE, profiler).expect("a right op")
            };
            let (all, some) = (run(Profiler::new()), run(Profiler::sampling(work)));
            assert!(some.iter().any(LaunchProfile::is_sampled), "{case}");
            assert_eq!(all.len(), some.len(), "{case}");
            for (all, some) in all.iter().zip(&some) {
                assert_eq!(all.run, all.blocks(), "{case}");
                let of = |p: &LaunchProfile| {
                    let (c, f) = (&p.counts, &p.footprint);
                    [
                        ("sectors read", c.global_read.units),
                        ("requests to read", c.global_read.requests),
                        ("bytes written", c.global_write.bytes),
                        ("sectors written", c.global_write.units),
                        ("wavefronts", c.wavefronts()),
                        ("FLOPs", c.flops + c.mma_flops + c.wgmma_flops),
                        ("warp operations", c.warp_ops),
                        ("barriers", c.barriers),
                        ("waits", p.waits),
                        ("read by blocks", f.read_by_blocks),
                        ("written by blocks", f.written_by_blocks),
                        ("memory read", f.read),
                        ("memory written", f.written),
                    ]
                };
                let kernel = all.kernel;
                for ((what, all), (_, some)) in of(all).into_iter().zip(of(some)) {
                    let off = (some as f64 / all.max(1) as f64 - 1.0).abs();
                    let says = format!("{case}, {kernel}: {some} {what}, in truth {all}");
                    // Which rows of a table are read the data say.
                    let most = match (name, what) {
                        ("embedding", "memory read") => 2.0,
                        _ => 0.05,
                    };
                    if off >= most && all.abs_diff(some) >= 40 {
                        wrong.push(says);
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn blocks_that_speak_to_one_another_are_all_run() {
    let run = |profiler: Result<_, _>| {
        let profiler = profiler.expect("address space");
        workbench::profile(op("sentence_xent"), &[96, 304], 2, DEVICE, profiler).expect("right")
    };
    let (all, some) = (run(Profiler::new()), run(Profiler::sampling(1)));
    assert_eq!(all, some);
}

#[test]
fn the_ladder_of_copies_takes_on_paper_what_its_text_derives() {
    let h100 = find("h100").expect("it is known");
    // kernels/README.md: L2 for strided stores, then memory.
    for (number, microseconds) in [(1, 270.0), (2, 160.0), (3, 160.0)] {
        let step = workbench::step(op("copy"), &[64 << 20], number, h100, None);
        let predicted = 1e6 * step.expect("a right op").predicted(h100);
        assert!(
            (predicted / microseconds - 1.0).abs() < 0.02,
            "{number}: {predicted}"
        );
    }
}

#[test]
fn every_step_is_shown_at_a_shape_that_takes_it() {
    let h100 = find("h100").expect("it is known");
    for op in ops() {
        let climb = op.climb(None);
        for step in op.steps {
            assert!(
                climb.iter().any(|(number, _)| number == step),
                "{} {step}",
                op.name
            );
        }
        for (step, shape) in climb {
            let file = taken(op, &shape, step, h100.capability).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(step_of(file), step, "{} of {shape:?}", op.name);
        }
    }
}

#[test]
fn steps_that_take_minutes_on_a_cpu_are_known_before() {
    let h100 = find("h100").expect("it is known");
    let minutes = |name, shape: &[usize], step| {
        workbench::effort(op(name), shape, step, h100).expect("a right op") / 60.0
    };
    // Nine blocks, each of which walks over all pixels: of half a million, of 4096.
    let weights = |n| minutes("conv_backward", &[n, 32, 32, 16, 16, 3, 1], 1);
    assert!(weights(512) > 1.0 && weights(4) < 0.1);
    // Of thousands of blocks a few are run.
    for step in 1..=7 {
        assert!(minutes("gemm", &[4096, 4096, 4096], step) < 0.5, "{step}");
    }
    assert!(minutes("gemm", &[64, 64, 1 << 20], 1) > 1.0);
}

#[test]
fn a_networks_table_adds_up() {
    let h100 = find("h100").expect("it is known");
    let network = Network::named("resnet8").expect("a network");
    let step = network::profile(network, 8, h100).expect("a step");
    let rows = step.rows(h100);
    let sum = |of: &dyn Fn(&network::Row) -> f64| rows.iter().map(of).sum::<f64>();
    let all = |of: &dyn Fn(&LaunchProfile) -> f64| -> f64 {
        step.order.iter().map(|kind| of(&step.kinds[*kind])).sum()
    };
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} and {b}");
    near(sum(&|row| row.calls as f64), step.order.len() as f64);
    near(
        sum(&|row| row.memory),
        all(&|kind| (kind.footprint.read + kind.footprint.written) as f64) / 3.35e12,
    );
    near(
        step.seconds(h100),
        sum(&|row| row.seconds) + step.order.len() as f64 * GAP,
    );
    for kernel in ["begin_step", "gather", "softmax_xent", "sgd"] {
        let found = rows.iter().find(|row| row.kernel == kernel);
        assert_eq!(found.map(|row| row.calls), Some(1), "{kernel}: {rows:#?}");
    }
    // What nine convolutions' backward passes leave is added up: the first, two of each of three blocks, and
    // two shortcuts.
    let finish = "conv_backward_finish";
    let adds = rows.iter().find(|row| row.kernel == finish);
    assert_eq!(adds.map(|row| row.calls), Some(9), "{rows:#?}");
}
