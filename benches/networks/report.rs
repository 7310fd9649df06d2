//! A table a network for people, and one file of all for machines.

use crate::device::{Device, Roof};
use crate::record::Call;
use serde_json::{Value, json};
use std::path::PathBuf;

/// An op at a shape. FLOPs, bytes and times are those of a call, the mean of its calls in a step.
pub struct Row {
    pub op: String,
    pub calls: usize,
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
    /// The fastest other library, and its seconds.
    pub rival: Option<(String, f64)>,
}

/// A network on a device.
pub struct Network {
    pub name: &'static str,
    pub shape: &'static str,
    pub batch: usize,
    pub device: String,
    pub roof: Roof,
    pub rivals: Vec<String>,
    /// Seconds of a whole step, where it was measured.
    pub step: Option<f64>,
    pub rows: Vec<Row>,
}

impl Row {
    pub fn new(calls: &[&Call], seconds: f64, device: &Device) -> Row {
        let mean = |of: &dyn Fn(&Call) -> f64| {
            calls.iter().map(|call| of(call)).sum::<f64>() / calls.len() as f64
        };
        Row {
            op: calls[0].name.clone(),
            calls: calls.len(),
            seconds,
            flops: mean(&|call| call.work.flops),
            bytes: mean(&|call| call.work.bytes(device.activation_bytes)),
            rival: None,
        }
    }

    /// Seconds in a step.
    fn total(&self) -> f64 {
        self.calls as f64 * self.seconds
    }

    /// What bounds it, and the least seconds that it can take.
    fn floor(&self, roof: Roof) -> (&'static str, f64) {
        let (flops, bytes) = (self.flops / roof.flops, self.bytes / roof.bandwidth);
        match flops > bytes {
            true => ("FLOPs", flops),
            false => ("bytes", bytes),
        }
    }
}

/// A number that may be missing.
fn text(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".into(), |value| format!("{value:.decimals$}"))
}

impl Network {
    fn sum(&self) -> f64 {
        self.rows.iter().map(Row::total).sum()
    }

    /// The table, the longest ops first.
    pub fn print(&self) {
        println!("\n## {}, batch {}: {}\n", self.name, self.batch, self.shape);
        println!(
            "{}; roof: {:.0} GFLOP/s, {:.1} GB/s of copying\n",
            self.device,
            self.roof.flops / 1e9,
            self.roof.bandwidth / 1e9,
        );
        let step = text(self.step.map(|step| step * 1e3), 2);
        if self.rows.is_empty() {
            return println!("The whole step takes {step} ms.");
        }
        println!(
            "| op | calls | µs a call | % of the step | GFLOP/s | GB/s | bound by | % of the roof | \
             best rival's time over ours |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by(|a, b| b.total().total_cmp(&a.total()));
        for row in rows {
            let (bound, floor) = row.floor(self.roof);
            let rival = row.rival.as_ref();
            println!(
                "| {} | {} | {:.1} | {} | {} | {:.1} | {bound} | {:.0} | {} |",
                row.op,
                row.calls,
                row.seconds * 1e6,
                text(self.step.map(|step| 100.0 * row.total() / step), 1),
                text((row.flops > 0.0).then(|| row.flops / row.seconds / 1e9), 1),
                row.bytes / row.seconds / 1e9,
                100.0 * floor / row.seconds,
                rival.map_or("–".into(), |(name, seconds)| {
                    format!("{:.2} ({name})", seconds / row.seconds)
                }),
            );
        }
        if self.rivals.is_empty() {
            println!("\nNo library could be loaded to compare with.");
        }
        println!(
            "\nThe ops take {:.2} ms one by one, the whole step {step} ms ({} % of it).",
            self.sum() * 1e3,
            text(self.step.map(|step| 100.0 * self.sum() / step), 0),
        );
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let (bound, floor) = row.floor(self.roof);
            json!({
                "op": row.op, "calls": row.calls, "us": row.seconds * 1e6,
                "share": self.step.map(|step| row.total() / step),
                "flops": row.flops, "bytes": row.bytes,
                "bound": bound, "of_roof": floor / row.seconds,
                "rival": row.rival.as_ref().map(|(name, _)| name),
                "rival_us": row.rival.as_ref().map(|(_, seconds)| seconds * 1e6),
            })
        };
        json!({
            "network": self.name, "shape": self.shape, "batch": self.batch,
            "device": self.device,
            "roof": { "flops": self.roof.flops, "bytes": self.roof.bandwidth },
            "rivals": self.rivals,
            "step_us": self.step.map(|step| step * 1e6), "ops_us": self.sum() * 1e6,
            "ops": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// The processor's name, where the system says.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().into())
}

/// Writes everything to a file of criterion's folder, or of `target/bench`, and says where.
///
/// # Errors
/// A folder or a file that cannot be written.
pub fn write(networks: &[Network]) -> std::io::Result<PathBuf> {
    let folder = std::env::var_os("CRITERION_HOME");
    let folder = folder.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("networks.json");
    let all = json!({
        "processor": processor(),
        "threads": rayon::current_num_threads(),
        "networks": networks.iter().map(Network::json).collect::<Vec<_>>(),
    });
    std::fs::write(&file, format!("{all:#}\n"))?;
    Ok(file)
}
