//! Launches of `kernels/move_rows`.

use crate::backend::Tensor;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Arg;
use crate::backend::sequence::Heads;

/// See [`Sequence::move_rows`](crate::backend::sequence::Sequence::move_rows).
pub(crate) fn move_rows(gpu: &mut Gpu, from: Heads, source: Tensor, to: Tensor, target: Tensor) {
    const WARPS: usize = 8;
    let (rows, wide, width) = (source.len(), from.t.dims[3], to.dims[3]);
    assert_eq!(target.len(), rows, "a target for each source");
    assert!(
        from.first + width <= wide,
        "{width} columns from {}",
        from.first
    );
    assert_ne!(from.t.buffer, to.buffer, "rows do not move in place");
    let size = |n: usize| Arg::I32(i32::try_from(n).expect("the kernel counts in 32 bits"));
    let args = [
        gpu.address(from.t),
        gpu.address(source),
        size(wide),
        size(from.first),
        gpu.address(to),
        gpu.address(target),
        size(width),
        size(rows),
    ];
    let blocks = rows.div_ceil(WARPS) as u32;
    gpu.launch("move_rows", [blocks, 1, 1], 32 * WARPS as u32, 0, &args);
}

#[cfg(all(test, simt))]
mod tests {
    use super::*;
    use crate::backend::Kind;
    use crate::backend::cpu::Cpu;
    use crate::backend::sequence::Sequence;

    /// What is in `to` after some rows have moved there.
    fn run(exec: &mut dyn Sequence, wide: usize, first: usize, width: usize) -> Vec<f32> {
        let from = exec.alloc(Kind::Activation, [1, 1, 20, wide]);
        let to = exec.alloc(Kind::Activation, [1, 1, 30, width]);
        let values: Vec<f32> = (0..from.len()).map(|i| (i % 256) as f32).collect();
        exec.write(from, &values).unwrap();
        let [source, target] = [(); 2].map(|()| exec.alloc(Kind::Label, [1, 1, 1, 11]));
        let rows = |step: i32, of: i32| (0..11).map(|i| i * step % of).collect::<Vec<i32>>();
        exec.write_labels(source, &rows(3, 20)).unwrap();
        exec.write_labels(target, &rows(7, 30)).unwrap();
        exec.move_rows(Heads { t: from, first }, source, to, target);
        exec.read(to).unwrap()
    }

    #[test]
    fn rows_go_where_the_cpu_s_go() {
        for (wide, first, width) in [
            (24, 8, 16),
            (16, 0, 16),
            (13, 4, 9),
            (600, 8, 520),
            (3, 1, 2),
        ] {
            let cpu = run(&mut Cpu::new().unwrap(), wide, first, width);
            let gpu = run(&mut Gpu::simt().unwrap(), wide, first, width);
            assert!(gpu == cpu, "columns {first}.. of {wide} to {width}");
        }
    }
}
