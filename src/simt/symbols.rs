//! Which line of a source an address of kernels' code comes from.

use super::code::Code;
use super::counts::Chain;
use addr2line::Loader;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// `kernels/sgd/1_sgd.cu:17`; in code without line numbers its address.
    pub place: String,
    /// Where the kernel's own file calls that, if it is another file.
    pub caller: Option<String>,
}

/// Line numbers of the library with what is looked at, where it has any.
pub(super) struct Symbols {
    library: Option<(Code, Option<Loader>)>,
}

/// Those of what is loaded.
pub(super) static SYMBOLS: Mutex<Symbols> = Mutex::new(Symbols { library: None });

impl Symbols {
    /// Those of a library, whose code this is.
    pub(super) fn add(&mut self, code: Code, library: &Path) {
        self.library = Some((code, Loader::new(library).ok()));
    }

    /// The innermost line that is not the executor's.
    pub(super) fn site(&self, address: u64, kernel_file: &str) -> Site {
        self.site_outside(address, kernel_file, &[])
    }

    /// The innermost line that is neither the executor's nor in one of these files, if there is
    /// one.
    pub(super) fn site_outside(
        &self,
        address: u64,
        kernel_file: &str,
        primitives: &[&str],
    ) -> Site {
        let lines = self.lines(address);
        let innermost = lines
            .iter()
            .find(|(file, _)| is_own(file) && !primitives.contains(&file.as_str()))
            .or_else(|| lines.iter().find(|(file, _)| is_own(file)));
        let Some((file, line)) = innermost else {
            let in_library = |(code, _): &(Code, _)| code.image_of(address).is_some();
            let whose = match self.library.as_ref().is_some_and(in_library) {
                true if lines.is_empty() => "without a line number",
                _ => "in the executor",
            };
            return Site {
                place: format!("code address {address:#x} ({whose})"),
                caller: None,
            };
        };
        let own = lines.iter().find(|(file, _)| file == kernel_file);
        let own = own.filter(|_| file != kernel_file);
        Site {
            place: format!("{file}:{line}"),
            caller: own.map(|(file, line)| format!("{file}:{line}")),
        }
    }

    /// All lines that an address comes from, but the executor's.
    pub(super) fn chain(&self, address: u64) -> Chain {
        let lines = self.lines(address).into_iter();
        let own = lines.filter(|(file, _)| is_own(file));
        let places: Vec<String> = own.map(|(file, line)| format!("{file}:{line}")).collect();
        places.join(" ")
    }

    /// Files and lines from the innermost inlined function to the outermost.
    fn lines(&self, address: u64) -> Vec<(String, u32)> {
        let mut lines = Vec::new();
        let library = self.library.as_ref().and_then(|(code, loader)| {
            let image = code.image_of(address)?;
            Some((loader.as_ref()?, code.address(address) - image))
        });
        let Some((loader, address)) = library else {
            return lines;
        };
        let probe = loader.relative_address_base() + address;
        if let Ok(mut frames) = loader.find_frames(probe) {
            while let Ok(Some(frame)) = frames.next() {
                let location = frame.location.and_then(|l| Some((l.file?, l.line?)));
                lines.extend(location.map(|(file, line)| (as_named(file), line)));
            }
        }
        lines
    }
}

/// The line of the first of these sites that is in the loaded library, outside of the executor.
pub(crate) fn library_line(sites: &[u64]) -> Option<String> {
    let symbols = SYMBOLS.lock().expect("no holder panics");
    let (code, _) = symbols.library.as_ref()?;
    let inside = |site: &&u64| code.image_of(**site).is_some();
    let place = |site: &u64| symbols.site(*site, "").place;
    let places = sites.iter().filter(inside).map(place);
    places
        .into_iter()
        .find(|place| !place.starts_with("code address"))
}

/// Folders of the executor's own headers.
const EXECUTOR: [&str; 2] = ["kernels/simt/", "kernels/cuda/"];

fn is_own(file: &str) -> bool {
    file.ends_with(".cu") || !EXECUTOR.iter().any(|folder| file.starts_with(folder))
}

/// What a file of the program's or of its libraries' is called; none of the executor's.
pub(crate) fn own_file(file: &str) -> Option<String> {
    Some(as_named(file)).filter(|name| is_own(name))
}

/// A file as the compiler was told of it: from the current folder on, or `kernels/sgd/1_sgd.cu`,
/// wherever the repository lay when it was compiled.
fn as_named(file: &str) -> String {
    let mut path = PathBuf::new();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    let here = std::env::current_dir().unwrap_or_default();
    if let Ok(inner) = path.strip_prefix(&here) {
        return inner.display().to_string();
    }
    let in_repository = path.iter().skip_while(|part| *part != "kernels");
    let inner: PathBuf = in_repository.collect();
    let known = inner.iter().next().is_some();
    let name = if known { inner } else { path };
    name.display().to_string()
}
