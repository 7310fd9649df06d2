//! What is said of a program of one's own when it has ended.

use super::machine::Machine;
use crate::simt::checker::Finding;
use crate::simt::counts::LaunchProfile;
use crate::workbench::profile::gpus::Specs;
use crate::workbench::profile::text::{self, missing_units, number};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// An access of the host to device memory.
#[derive(PartialEq)]
pub struct Touch {
    pub place: String,
    pub writes: bool,
    /// By a call that may access it, of what nothing has written.
    pub unwritten: bool,
    /// Byte of an allocation of that size,
    pub at: usize,
    pub size: usize,
    /// which was made there.
    pub allocated: String,
}

/// All findings and a last line; whether there are any.
pub fn findings(
    findings: &[Finding],
    touches: &[Touch],
    notes: &str,
    launches: &BTreeMap<&'static str, u64>,
) -> (String, bool) {
    let mut text = String::new();
    for finding in findings {
        let _ = write!(text, "\n{finding}\n");
    }
    let mut lines: Vec<(&Touch, u32)> = Vec::new();
    for touch in touches {
        let same = |(known, _): &&mut (&Touch, u32)| known.place == touch.place;
        match lines.iter_mut().find(same) {
            Some((_, count)) => *count += 1,
            None => lines.push((touch, 1)),
        }
    }
    for (touch, count) in &lines {
        let Touch {
            place,
            at,
            size,
            allocated,
            ..
        } = touch;
        let access = if touch.writes { "write" } else { "read" };
        let (mistake, remedy) = match touch.unwritten {
            true => ("uninitialised", "which nothing has written"),
            false => ("device memory used by the host", "copy it with cudaMemcpy"),
        };
        let times = match count {
            1 => String::new(),
            n => format!(" ({n} times)"),
        };
        let _ = write!(
            text,
            "\nmain(): {mistake}: byte {at} of device memory ({size} bytes, allocated at \
             {allocated}); {remedy}{times}\n  {access} at {place}\n"
        );
    }
    for note in notes.lines() {
        let _ = write!(text, "\nnote: {note}\n");
    }
    let count: u64 = launches.values().sum();
    let found = findings.len() + lines.len();
    let _ = writeln!(
        text,
        "\n{}, {}: {}",
        number(launches.len() as u64, "kernel", "kernels"),
        number(count, "launch", "launches"),
        number(found as u64, "finding", "findings")
    );
    (text, found > 0)
}

/// A table of the kernels, and of each the launch that takes longest; or the one that was asked for.
pub fn profiles(
    specs: &Specs,
    profiles: &[LaunchProfile],
    wanted: Option<usize>,
    launches: usize,
) -> String {
    let seconds = |launch: &LaunchProfile| text::predicted(specs, launch);
    let mut text = String::new();
    if let Some(wanted) = wanted {
        match profiles.first() {
            Some(launch) => {
                let _ = write!(text, "\nlaunch {wanted}: {}", text::launch(specs, launch));
            }
            None => {
                let _ = writeln!(text, "\nno launch {wanted}: there were {launches}");
            }
        }
        return text;
    }
    let kernels = kernels(profiles);
    let total: f64 = profiles.iter().map(seconds).sum();
    let width = kernels
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(6);
    let _ = writeln!(text, "\n{:<width$}  launches  predicted  share", "kernel");
    for (name, all) in &kernels {
        let sum: f64 = all.iter().map(|launch| seconds(launch)).sum();
        let (time, share) = (text::time(sum), 100.0 * sum / total);
        let _ = writeln!(
            text,
            "{name:<width$}  {:>8}  {time:>9}  {share:>3.0} %",
            all.len()
        );
    }
    for (_, all) in &kernels {
        let longest = longest(specs, all);
        text.push('\n');
        if all.len() > 1 {
            let _ = write!(text, "the longest of {} launches of ", all.len());
        }
        text += &text::launch(specs, longest);
    }
    text
}

/// How far counts can be believed, and times.
pub fn belief(
    specs: &Specs,
    profiles: &[LaunchProfile],
    machine: &Result<Machine, String>,
) -> String {
    let unread = profiles.iter().find(|launch| launch.issued.is_none());
    let missing = match (machine, unread) {
        (Err(why), _) => missing_units(why),
        (Ok(_), Some(launch)) => missing_units(&format!(
            "nvcc has no kernel, or several, called {}",
            launch.kernel
        )),
        (Ok(_), None) => {
            " What warps issue is read from nvcc's machine code, and what it reads or \
                          writes at once counts as one request."
                .into()
        }
    };
    let counts = match profiles.iter().any(LaunchProfile::is_sampled) {
        true => {
            "Counts of sampled launches are estimates, and what was not run has written nothing"
        }
        false => "Counts are exact",
    };
    format!(
        "{counts}; times are predictions for the {}, each launch by itself.{missing}",
        specs.name
    )
}

/// Kernels with their launches, in the order of their first ones.
pub fn kernels(profiles: &[LaunchProfile]) -> Vec<(&'static str, Vec<&LaunchProfile>)> {
    let mut kernels: Vec<(&str, Vec<&LaunchProfile>)> = Vec::new();
    for launch in profiles {
        match kernels.iter_mut().find(|(name, _)| *name == launch.kernel) {
            Some((_, all)) => all.push(launch),
            None => kernels.push((launch.kernel, vec![launch])),
        }
    }
    kernels
}

/// The launch that takes longest of a kernel's, of which there are some.
pub fn longest<'l>(specs: &Specs, launches: &[&'l LaunchProfile]) -> &'l LaunchProfile {
    let seconds = |launch: &LaunchProfile| text::predicted(specs, launch);
    let first = launches[0];
    launches.iter().fold(first, |longest, launch| {
        match seconds(launch) > seconds(longest) {
            true => launch,
            false => longest,
        }
    })
}
