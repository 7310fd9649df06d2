//! Times of an op on a device with a clock of its own.

use super::super::workload::Op;
use super::ProfileError;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::driver::Graph;
use crate::backend::{DeviceError, Executor, Kind};

/// Seconds of the device's that times of a kind take in all, as far as there need not be more rounds.
const BUDGET: f64 = 0.3;
/// How many times are taken of each kind.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=25;
/// Most calls in the graph whose time is taken where caches are warm: so many that the way to the
/// first of them does not count.
const CALLS: f64 = 32.0;
/// Floats that the device copies between calls, so that no cache holds anything of the op's: 128 MiB
/// read and as many written.
const FLUSH: usize = 32 << 20;

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
    work.start(gpu, shape[0])?;
    let time = |gpu: &mut Gpu, graph: Graph| gpu.block(|driver| driver.time(graph));
    let one = gpu.record(|gpu| work.again(gpu))?;
    let Some(first) = time(gpu, one)? else {
        return Ok(None);
    };
    let calls = calls(first);
    let many = gpu.record(|gpu| (0..calls).for_each(|_| work.again(gpu)))?;
    let warm = rounds(|| time(gpu, many))?;
    let [from, to] = [(); 2].map(|()| gpu.alloc(Kind::Float, [1, 1, 1, FLUSH]));
    let cold = rounds(|| {
        gpu.copy(from, to);
        time(gpu, one)
    })?;
    Ok(Some(Measured {
        warm: Times::of(warm.iter().map(|s| s / calls as f64).collect()),
        cold: Times::of(cold),
    }))
}

/// Calls of which the first took so many seconds: as many as fit into a round.
fn calls(first: f64) -> usize {
    let round = BUDGET / *ROUNDS.end() as f64;
    (round / first).clamp(1.0, CALLS) as usize
}

/// Times until the budget is spent.
fn rounds(
    mut time: impl FnMut() -> Result<Option<f64>, DeviceError>,
) -> Result<Vec<f64>, DeviceError> {
    let (mut times, mut spent) = (Vec::new(), 0.0);
    while times.len() < *ROUNDS.start() || times.len() < *ROUNDS.end() && spent < BUDGET {
        // A device that had a clock has one.
        let Some(seconds) = time()? else { break };
        times.push(seconds);
        spent += seconds;
    }
    Ok(times)
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
    fn slow_calls_are_few_and_fast_ones_have_their_rounds() {
        let taken = |seconds: f64| {
            let calls = calls(seconds);
            let all = rounds(|| Ok(Some(calls as f64 * seconds))).unwrap();
            (calls, all.len())
        };
        assert_eq!(taken(1e-6), (32, 25));
        assert_eq!(taken(1e-3), (12, 25));
        assert_eq!(taken(0.05), (1, 6));
        assert_eq!(taken(40.0), (1, 3));
        // The event clock counts in half microseconds.
        assert_eq!(taken(0.0), (32, 25));
    }

    #[test]
    fn the_cpu_has_no_clock_that_says_anything_and_the_op_runs_all_the_same() {
        let mut gpu = Gpu::simt().unwrap();
        let sgd = ops().find(|op| op.name == "sgd").unwrap();
        assert_eq!(measure(&mut gpu, sgd, &[100], 2).unwrap(), None);
    }
}
