//! `kernels check`: every kernel of the build under the checker, launched by the code that launches
//! it in training, at shapes that are small and odd.

mod attention;
mod case;
mod cases;
mod linear;
mod pairs;
mod sight;
mod tokens;

use crate::backend::DeviceError;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::catalog::{FILES, KernelFile};
use crate::backend::gpu::driver::Capability;
use crate::backend::gpu::models::RTX_4090;
use crate::rng::Stream;
use crate::simt::checker::{Checker, Finding};
use crate::simt::notes::{Names, Notes};
use crate::simt::{Landing, SMALL, Schedule};
use case::Case;
use cases::{cases, staying};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem::discriminant;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often everything is run: schedules (the random one with another seed each time) with each
/// landing of asynchronous copies.
pub const RUNS: [(Schedule, Landing); 9] = [
    (Schedule::Low, Landing::Late),
    (Schedule::Low, Landing::AtOnce),
    (Schedule::Low, Landing::Randomly),
    (Schedule::High, Landing::Late),
    (Schedule::High, Landing::AtOnce),
    (Schedule::High, Landing::Randomly),
    (Schedule::Random(1), Landing::Late),
    (Schedule::Random(2), Landing::AtOnce),
    (Schedule::Random(3), Landing::Randomly),
];

/// Devices: one with all there is, and one with little shared memory, for which some kernels are
/// made.
const DEVICES: [Capability; 2] = [
    SMALL,
    Capability {
        multiprocessors: SMALL.multiprocessors,
        ..RTX_4090
    },
];

/// One where few blocks do all.
const ALONE: Capability = Capability {
    multiprocessors: 1,
    ..SMALL
};

/// What a check has shown.
#[derive(Debug, Default)]
pub struct Report {
    /// Kernels that were asked for, with the number of their launches.
    pub kernels: BTreeMap<&'static str, u64>,
    /// What was found in them.
    pub findings: Vec<Finding>,
    /// Launches that failed, whatever kernel they were of.
    pub faults: Vec<String>,
    /// Planted mistakes that this build does not show: there may be others like them.
    pub unseen: Vec<&'static str>,
    /// How many kinds of schedules and of landings there were.
    pub modes: [usize; 2],
}

impl Report {
    /// Whether every kernel was launched, everything was seen and nothing was found.
    pub fn is_clean(&self) -> bool {
        let found = !self.findings.is_empty() || !self.faults.is_empty();
        !found && self.unseen.is_empty() && self.missed().next().is_none()
    }

    /// Kernels that were never launched.
    pub fn missed(&self) -> impl Iterator<Item = &'static str> {
        let missed = self.kernels.iter().filter(|(_, launches)| **launches == 0);
        missed.map(|(kernel, _)| *kernel)
    }

    /// For people: all findings, and a last line that sums up.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text += &format!("{finding}\n\n");
        }
        for fault in &self.faults {
            text += &format!("{fault}\n\n");
        }
        for kernel in self.missed() {
            text += &format!("{kernel}: no launch of the check's takes it\n");
        }
        let launches: u64 = self.kernels.values().sum();
        let [schedules, landings] = self.modes;
        let count = self.findings.len() + self.faults.len();
        let findings = match (count, self.unseen.len()) {
            (1, 0) => "1 finding".into(),
            (_, 0) => format!("{count} findings"),
            (_, unseen) => format!(
                "no verdict. This build hides accesses from the checker ({unseen} of {} planted \
                 mistakes are not found: {}); build with another C++ compiler (CXX)",
                sight::SIGHTS.len(),
                self.unseen.join(", ")
            ),
        };
        text += &format!(
            "{} kernels, {launches} launches, {schedules} schedules × {landings} landing modes: \
             {findings}\n",
            self.kernels.len(),
        );
        text
    }
}

/// Kernels of a file whose name contains `name`, or all if that of the file does.
pub fn named(file: &KernelFile, name: &str) -> impl Iterator<Item = &'static str> {
    let all = file.path.contains(name);
    let kernels = file.kernels.iter().copied();
    kernels.filter(move |kernel| all || kernel.contains(name))
}

/// What is launched to check some kernels.
pub struct Plan {
    kernels: BTreeMap<&'static str, u64>,
    cases: Vec<(Case, Capability)>,
    /// Kernels that they launch, also those that were not asked for.
    launched: BTreeSet<&'static str>,
}

impl Plan {
    /// To check the kernels whose name or file contains `name`; `None` if there are none.
    pub fn new(name: &str) -> Option<Plan> {
        let kernels = FILES.iter().flat_map(|file| named(file, name));
        let kernels: BTreeMap<&str, u64> = kernels.map(|kernel| (kernel, 0)).collect();
        if kernels.is_empty() {
            return None;
        }
        let usual = cases().into_par_iter().map(|case| {
            let launched = launches(&case, DEVICES[0]);
            (case, launched)
        });
        let usual: Vec<(Case, BTreeSet<&str>)> = usual.collect();
        let all: BTreeSet<&str> = usual.iter().flat_map(|(_, names)| names).copied().collect();
        let usual = usual.into_par_iter().flat_map_iter(|(case, names)| {
            // The second where it launches something that the first never does.
            let little = launches(&case, DEVICES[1]);
            let second = !little.is_subset(&all);
            let second = second.then(|| (case.clone(), DEVICES[1], little));
            [(case, DEVICES[0], names)].into_iter().chain(second)
        });
        let staying = staying().into_par_iter().map(|case| {
            let names = launches(&case, ALONE);
            (case, ALONE, names)
        });
        let wanted = usual
            .chain(staying)
            .filter(|(_, _, names)| names.iter().any(|kernel| kernels.contains_key(kernel)));
        let wanted: Vec<_> = wanted.collect();
        let launched = wanted.iter().flat_map(|(_, _, names)| names).copied();
        let launched = launched.collect();
        let cases = wanted.into_iter().map(|(case, device, _)| (case, device));
        Some(Plan {
            kernels,
            cases: cases.collect(),
            launched,
        })
    }

    /// All files whose kernels are launched.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        let mine = |file: &&KernelFile| {
            let mut kernels = file.kernels.iter();
            kernels
                .any(|kernel| self.kernels.contains_key(kernel) || self.launched.contains(kernel))
        };
        let files = FILES.iter().filter(mine).map(|file| file.path);
        files.chain([sight::FILE])
    }

    /// Checks the kernels in some of [`RUNS`]. `progress` is told how much of it is done, from 0 to 1.
    ///
    /// # Errors
    /// The system refuses the checker's address space.
    pub fn run(
        &self,
        runs: &[(Schedule, Landing)],
        progress: &(dyn Fn(f64) + Sync),
    ) -> Result<Report, DeviceError> {
        let schedules: HashSet<_> = runs.iter().map(|run| discriminant(&run.0)).collect();
        let landings: HashSet<_> = runs.iter().map(|run| discriminant(&run.1)).collect();
        let mut report = Report {
            kernels: self.kernels.clone(),
            unseen: sight::unseen(&sight::SIGHTS)?,
            modes: [schedules.len(), landings.len()],
            ..Report::default()
        };
        let all: Vec<_> = self
            .cases
            .iter()
            .flat_map(|case| runs.iter().map(move |modes| (case, *modes)))
            .collect();
        let done = AtomicUsize::new(0);
        let outcomes: Result<Vec<Outcome>, DeviceError> = all
            .par_iter()
            .map(|((case, device), modes)| {
                let outcome = run(case, *device, *modes);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                progress(done as f64 / all.len() as f64);
                outcome
            })
            .collect();
        outcomes?
            .into_iter()
            .for_each(|outcome| report.add(outcome));
        Ok(report)
    }
}

/// Which kernels a case would launch; if it fails, before it does.
fn launches(case: &Case, device: Capability) -> BTreeSet<&'static str> {
    let names = Names::default();
    let mut gpu = Gpu::new(Box::new(Notes::new(device, names.clone())));
    let _ = case(&mut gpu, &mut Stream::new(1, 2, 3));
    std::mem::take(&mut *names.lock().expect("no holder panics"))
        .into_keys()
        .collect()
}

/// What one run of a case leaves.
struct Outcome {
    launches: BTreeMap<&'static str, u64>,
    findings: Vec<Finding>,
    fault: Option<String>,
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        for (kernel, launches) in outcome.launches {
            if let Some(count) = self.kernels.get_mut(kernel) {
                *count += launches;
            }
        }
        for finding in outcome.findings {
            if !self.kernels.contains_key(finding.kernel) {
                continue;
            }
            match self.findings.iter_mut().find(|f| f.is_like(&finding)) {
                Some(known) => known.count += finding.count,
                None => self.findings.push(finding),
            }
        }
        self.faults.extend(outcome.fault);
        self.faults.dedup();
    }
}

fn run(
    case: &Case,
    device: Capability,
    (schedule, landing): (Schedule, Landing),
) -> Result<Outcome, DeviceError> {
    let checker = Checker::new()?;
    let mut gpu = Gpu::simt_checked(schedule, landing, device, checker.clone());
    let mut random = Stream::new(1, 2, 3);
    let ran = case(&mut gpu, &mut random);
    // Also waits until all is done.
    let ran = ran.and_then(|()| gpu.block(|driver| driver.synchronize()));
    Ok(Outcome {
        launches: checker.launches(),
        findings: checker.findings(),
        fault: ran.err().map(|e| e.to_string()),
    })
}
