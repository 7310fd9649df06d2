//! Times of an op on a device with a clock of its own.

use super::super::workload::Op;
use super::ProfileError;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Graph;
use crate::backend::{DeviceError, Executor, Kind};

/// Calls in the graph whose time is taken where caches are warm: so many that the way to the first
/// of them does not count.
const CALLS: usize = 32;
/// Times taken of each kind.
const ROUNDS: usize = 25;
/// Floats that are written over between calls, so that no cache holds anything of the op's: 256
/// MiB.
const FLUSH: usize = 64 << 20;

/// Seconds of a call, by the device's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// A fifth of the calls took less.
    pub p20: f64,
    /// Half of them did.
    pub median: f64,
    /// A fifth of them took more.
    pub p80: f64,
}

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// With what fits into L2 in L2: the call before has left it there.
    pub warm: Times,
    /// With nothing of the op's in L2. A call by itself, so that its launch counts, too.
    pub cold: Times,
}

/// Times of an op with kernels up to this step of its ladder; none on a device without a clock.
///
/// # Errors
/// A shape that cannot be, or a failure of the device.
pub fn measure(
    gpu: &mut Gpu,
    op: &Op,
    shape: &[usize],
    step: u32,
) -> Result<Option<Measured>, ProfileError> {
    op.check(shape)?;
    op.limit(gpu, step);
    let work = op.make(gpu, shape)?;
    let flush = gpu.alloc(Kind::Float, [1, 1, 1, FLUSH]);
    work.start(gpu, shape[0])?;
    let mut capture = |calls: usize| -> Result<Graph, DeviceError> {
        gpu.block(|driver| driver.begin_capture())?;
        (0..calls).for_each(|_| work.again(gpu));
        let graph = gpu.block(|driver| driver.end_capture());
        gpu.check()?;
        graph
    };
    let (many, one) = (capture(CALLS)?, capture(1)?);
    if gpu.block(|driver| driver.time(many))?.is_none() {
        return Ok(None);
    }
    let zeros = vec![0.0; FLUSH];
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let seconds = gpu.block(|driver| driver.time(many))?;
        warm.extend(seconds.map(|s| s / CALLS as f64));
        gpu.write(flush, &zeros)?;
        cold.extend(gpu.block(|driver| driver.time(one))?);
    }
    Ok(Some(Measured {
        warm: Times::of(warm),
        cold: Times::of(cold),
    }))
}

impl Times {
    /// Quantiles of some times, of which there is one at least.
    fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        Times {
            p20: at(0.2),
            median: at(0.5),
            p80: at(0.8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::workload::ops;
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_taken() {
        let times = Times::of(vec![3.0, 1.0, 5.0, 4.0, 2.0, 6.0]);
        assert_eq!((times.p20, times.median, times.p80), (2.0, 4.0, 5.0));
        let one = Times::of(vec![7.0]);
        assert_eq!((one.p20, one.median, one.p80), (7.0, 7.0, 7.0));
    }

    #[test]
    fn the_cpu_has_no_clock_that_says_anything_and_the_op_runs_all_the_same() {
        let mut gpu = Gpu::simt().unwrap();
        let sgd = ops().find(|op| op.name == "sgd").unwrap();
        assert_eq!(measure(&mut gpu, sgd, &[100], 2).unwrap(), None);
    }
}
