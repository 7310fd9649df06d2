//! The profile of a program of one's own as one HTML page that needs nothing else: its kernels, and
//! their sources with what every line costs.

use super::report::{kernels, longest};
use crate::files::{self, WriteError};
use crate::html::escape;
use crate::simt::counts::LaunchProfile;
use crate::workbench::profile::gpus::Specs;
use crate::workbench::profile::page::{annotated, counted, key_line, opening};
use crate::workbench::profile::text::{self, predict, predicted};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// A page that is to be written.
pub struct Page {
    /// Where.
    pub to: PathBuf,
    /// The program's first file.
    pub program: PathBuf,
}

impl Page {
    /// # Errors
    /// A place that cannot be written.
    pub fn write(
        &self,
        specs: &Specs,
        profiles: &[LaunchProfile],
        belief: &str,
    ) -> Result<(), WriteError> {
        files::write(&self.to, self.text(specs, profiles, belief).as_bytes())
    }

    fn text(&self, specs: &Specs, profiles: &[LaunchProfile], belief: &str) -> String {
        let program = self.program.display().to_string();
        let kernels = kernels(profiles);
        let seconds = |launches: &[&LaunchProfile]| -> f64 {
            launches.iter().map(|launch| predicted(specs, launch)).sum()
        };
        let total: f64 = kernels.iter().map(|(_, launches)| seconds(launches)).sum();
        let mut page = opening(&format!("Profile of {program}"));
        let _ = write!(
            page,
            "<p class=\"title\">The kernels of {}</p>\n<h1>{} predicted, in {} of {}</h1>\n\
             <p class=\"soft\">They ran on a CPU, and every access was seen. {}</p>\n\
             <h2>Which kernels take how long</h2>\n<div class=\"scroll\"><table>\n\
             <tr><th>kernel</th><th>launches</th><th>predicted</th><th>share</th>\
             <th>bound by</th></tr>\n",
            escape(&program),
            text::time(total),
            text::number(profiles.len() as u64, "launch", "launches"),
            text::number(kernels.len() as u64, "kernel", "kernels"),
            escape(belief)
        );
        for (name, launches) in &kernels {
            let of_kernel = seconds(launches);
            let cells = [
                ("kernel", name.to_string()),
                ("launches", launches.len().to_string()),
                ("predicted", text::time(of_kernel)),
                ("share", format!("{:.0} %", 100.0 * of_kernel / total)),
                (
                    "bound by",
                    predict(specs, longest(specs, launches)).bound().to_string(),
                ),
            ];
            page += "<tr>";
            for (column, cell) in cells {
                let _ = write!(page, "<td data-name=\"{column}\">{}</td>", escape(&cell));
            }
            page += "</tr>\n";
        }
        page += "</table></div>\n<h2>Where it goes</h2>\n";
        for (name, launches) in &kernels {
            page += &section(specs, name, launches);
        }
        page + "</body>\n</html>\n"
    }
}

/// A kernel: its longest launch, the line that costs most of that, and what all launches did.
fn section(specs: &Specs, name: &str, launches: &[&LaunchProfile]) -> String {
    let launch = longest(specs, launches);
    let mut html = format!("<section class=\"step\">\n<h3>{}</h3>\n", escape(name));
    if launches.len() > 1 {
        let _ = writeln!(
            html,
            "<p class=\"soft\">The longest of {} launches:</p>",
            launches.len()
        );
    }
    html += "<div class=\"code\">\n";
    for line in text::facts(specs, launch).lines() {
        let _ = writeln!(html, "<div>{}</div>", escape(line.trim_start()));
    }
    html += "</div>\n";
    html += &key_line(specs, launch);
    html += "<details class=\"source\" open><summary>All lines, with what they cost</summary>\n";
    for (path, lines) in counted(specs, launches) {
        // A file that is gone, or that only a compiler's debug information knows.
        let Ok(source) = fs::read_to_string(path) else {
            continue;
        };
        let _ = writeln!(html, "<h4>{}</h4>\n<div class=\"code\">", escape(path));
        html += &annotated(&source, &lines);
        html += "</div>\n";
    }
    html + "</details>\n</section>\n"
}
