//! Findings, and the totals at the process's end.

use super::device::Device;
use std::collections::BTreeMap;
use std::io::Write;

/// What was found, each once, with how often.
#[derive(Default)]
pub struct Findings(BTreeMap<String, usize>);

impl Findings {
    pub fn add(&mut self, what: String) {
        let seen = self.0.entry(what.clone()).or_default();
        *seen += 1;
        if *seen == 1 {
            note(&format!("finding: {what}"));
        }
    }
}

/// A line for the log, if there is one: written at once, since a process may end in any way.
pub fn note(line: &str) -> bool {
    let Some(path) = std::env::var_os("STANDIN_LOG") else {
        return false;
    };
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{line}"));
    written.unwrap_or_else(|e| panic!("STANDIN_LOG={}: {e}", path.display()));
    true
}

/// Says what there was, once the process has nothing more to ask.
pub fn totals(device: &mut Device) {
    // After a fault nothing can be freed, and the driver takes it all.
    let leaks = match device.fault() {
        Some(_) => Vec::new(),
        None => device.alive(),
    };
    for leak in &leaks {
        note(&format!("leak: {leak}"));
    }
    let found: usize = device.findings.0.values().sum();
    let line = format!(
        "stand-in {}: {} calls, {} launches of {} kernels, {found} findings, {} leaks",
        device.gpu.name,
        device.calls,
        device.launches.values().sum::<u64>(),
        device.launches.len(),
        leaks.len(),
    );
    if !note(&line) && found + leaks.len() > 0 {
        let findings = device.findings.0.keys();
        for text in findings.chain(&leaks).chain([&line]) {
            eprintln!("{text}");
        }
    }
}
