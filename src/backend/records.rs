//! Hosts that wait for losses.

use super::wait::Wait;
use super::{DeviceError, Executor};
use crate::assist::{Drain, StepRecords};

/// The records of the oldest step in flight, for a host that has nothing else to do.
///
/// # Errors
/// A failure of the device: a crashed kernel writes no records, and neither does one that hangs.
pub fn wait_for_records(
    exec: &mut dyn Executor,
    drain: &mut Drain,
) -> Result<StepRecords, DeviceError> {
    let mut wait = Wait::begin();
    loop {
        if let Some(records) = drain.poll() {
            return Ok(records);
        }
        if let Some(waited) = wait.long() {
            exec.overdue(drain.seen(), waited)?;
        }
        wait.pause();
    }
}
