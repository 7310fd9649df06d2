//! What the device is doing, for a host that waits for it.

use super::cuda::STEPWISE;
use super::{BEGIN, Gpu, StepKey};
use crate::backend::wait::Wait;
use crate::backend::{DeviceError, Pass};
use std::collections::VecDeque;
use std::time::Duration;

/// Steps that are remembered: no ring has more under way.
const STEPS: usize = 16;
/// Kernels that a line names.
const NAMES: usize = 5;

/// The last steps launched, oldest first: their numbers, and what tells their graphs.
pub(super) type UnderWay = VecDeque<(u64, StepKey)>;

impl Gpu {
    /// Notes a step that is about to be launched.
    pub(super) fn set_out(&mut self, key: StepKey, step: u64) {
        if self.under_way.len() == STEPS {
            self.under_way.pop_front();
        }
        self.under_way.push_back((step, key));
    }

    /// A blocking call, once everything launched before it is complete: for that the host waits here,
    /// where it does not wait for ever.
    pub(crate) fn block<R>(
        &mut self,
        call: impl FnOnce(&mut dyn super::Driver) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        self.known_fault()?;
        self.wait()?;
        self.complete = self.launched;
        self.evaluating = false;
        self.under_way.clear();
        call(self.stream.blocking()).inspect_err(|e| self.fault = Some(e.clone()))
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let mut wait = Wait::begin();
        loop {
            let idle = self.stream.is_idle();
            if idle.inspect_err(|e| self.fault = Some(e.clone()))? {
                return Ok(());
            }
            if let Some(waited) = wait.long() {
                self.look(None, waited)?;
            }
            wait.pause();
        }
    }

    /// Judges a wait of that length for a training step, or for everything.
    pub(super) fn look(&mut self, step: Option<u64>, waited: Duration) -> Result<(), DeviceError> {
        let Gpu {
            patience,
            stream,
            under_way,
            graphs,
            ..
        } = self;
        let what = || {
            let (device, mut steps) = (stream.describe(), under_way.iter().rev());
            let found = match step {
                Some(step) => steps.find(|(n, (pass, _))| *pass == Pass::Train && *n == step),
                // Whoever waits for everything waits for the last.
                None => steps.next(),
            };
            let Some((number, key)) = found else {
                return format!("work on {device}");
            };
            let launches = graphs
                .get(key)
                .map_or(&[][..], |captured| &captured.launches);
            let begin = std::iter::once(BEGIN);
            let graph = graph(begin.chain(launches.iter().map(|launch| launch.kernel)));
            // A device with a limit has the mode.
            let apart = match stream.step_limit() {
                Some(_) => format!("; {STEPWISE}=1 tells them apart"),
                None => String::new(),
            };
            match key.0 {
                Pass::Train => format!("training step {number} on {device} ({graph}{apart})"),
                Pass::Eval => format!("a step of evaluation on {device} ({graph}{apart})"),
            }
        };
        let judged = patience.look(waited, &what);
        judged.inspect_err(|e| {
            self.fault = Some(e.clone());
            self.stream.give_up(e);
        })
    }
}

/// How many launches there are, and the first kernels, each once.
fn graph<'k>(launches: impl Iterator<Item = &'k str>) -> String {
    let (mut all, mut names) = (0, Vec::new());
    for name in launches {
        all += 1;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = if names.len() > NAMES { ", ..." } else { "" };
    names.truncate(NAMES);
    format!("{all} launches: {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_known_by_its_first_kernels() {
        let launches = ["gather", "conv", "bn", "conv", "bn", "relu", "pool", "xent"];
        assert_eq!(
            graph(launches.into_iter()),
            "8 launches: gather, conv, bn, relu, pool, ..."
        );
        assert_eq!(
            graph(["begin_step", "sgd"].into_iter()),
            "2 launches: begin_step, sgd"
        );
    }
}
