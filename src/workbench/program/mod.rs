//! `kernels run`, `check` and `profile` of a CUDA C++ program of one's own: compiled for the executor
//! and run in this process.

mod compile;
mod interrupt;
mod machine;
mod page;
mod report;
mod runtime;
mod translate;

use compile::Compiled;
pub use compile::Options;
use machine::Machine;
use page::Page;
pub use translate::Refused;

use crate::backend::DeviceError;
use crate::simt::cache::{FileError, at};
use crate::simt::checker::Checker;
use crate::simt::profiler::Profiler;
use crate::workbench::profile::gpus::Specs;
use std::ffi::{CString, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Why a program of one's own does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder, or a device.
    #[error("{}: no file", .0.display())]
    NoFile(PathBuf),
    /// A file with bytes that are no UTF-8.
    #[error("{}: no text in UTF-8", .0.display())]
    NotText(PathBuf),
    /// A definition of a macro that has no name.
    #[error("-D {0}: a macro is called by letters, digits and _, of which the first is no digit")]
    Macro(String),
    /// Something that is not run here.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The compiler's messages, of the user's lines.
    #[error("{} does not compile:\n{log}", .source_file.display())]
    Compile {
        /// The file.
        source_file: PathBuf,
        /// What the compiler said.
        log: String,
    },
    /// The loader's message.
    #[error("the program compiles and does not load: {}", reason(.0))]
    Load(#[from] libloading::Error),
    /// It has no `main`.
    #[error("the program has no main()")]
    NoMain,
    /// The executor's.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What the loader says, which the error keeps to itself.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// What is done with a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It runs.
    Run,
    /// Every access of its kernels to memory is looked at.
    Check,
    /// What its kernels do is counted; of all launches, or of one, from 1 on.
    Profile {
        /// Only this launch is shown.
        launch: Option<usize>,
        /// Of each launch at most so many blocks are run; without it all.
        max_blocks: Option<u64>,
        /// Where a page of HTML is written, if one is.
        page: Option<PathBuf>,
    },
}

/// Bytes of device memory that a program under the checker can have in all.
const CHECKED: usize = 2 << 30;

/// Compiles a program, and runs it to its end, which is the process's, too: its exit code is the
/// program's, or 1 if the program's was 0 and the checker has found something, or a kernel has
/// failed and the program has not looked at the error of any call since.
///
/// # Errors
/// What stands in the way of its start.
pub fn run(
    action: Action,
    sources: &[PathBuf],
    told: &Options,
    specs: &'static Specs,
    args: &[OsString],
) -> Result<std::convert::Infallible, ProgramError> {
    interrupt::heed().map_err(at("Ctrl-C"))?;
    // Code for the device and for the host is compiled as one: what is for devices of this
    // architecture alone must be there, as nobody says of a kernel that it is empty.
    let (major, minor) = specs.capability.arch;
    let mut options = told.clone();
    let arch = format!("__CUDA_ARCH__={}", 100 * major + 10 * minor);
    options.define.push(arch);
    let compiled = compile::compile(sources, &options, action != Action::Run)?;
    let watcher = match action {
        Action::Run => runtime::Watcher::None,
        Action::Check => runtime::Watcher::Checker(Checker::with_room(CHECKED)?),
        Action::Profile {
            launch,
            max_blocks,
            page,
        } => {
            let profiler = Profiler::of_blocks(max_blocks.unwrap_or(u64::MAX))?;
            let page = page.map(|to| Page {
                to,
                program: sources[0].clone(),
            });
            let machine = Machine::of(sources, told, &compiled, specs);
            runtime::Watcher::Profiler(runtime::Profiled {
                profiler,
                launch,
                page,
                machine,
            })
        }
    };
    runtime::begin(watcher, specs);
    let main = runtime::load(&compiled)?;
    // What is loaded is needed no more, if it was not to be kept.
    drop(compiled);
    let name = sources[0].with_extension("").into_os_string();
    let words = std::iter::once(&name).chain(args);
    let words = words.map(|word| CString::new(word.clone().into_vec()).unwrap_or_default());
    let words: Vec<CString> = words.collect();
    let mut argv: Vec<*mut c_char> = words.iter().map(|w| w.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    // SAFETY: arguments as main() has them, which live to the end of the process. What the program
    // does is its own affair; if it ends it is left by exit(), as the C library does it.
    unsafe {
        let code = main.call(words.len() as c_int, argv.as_mut_ptr());
        libc::exit(code)
    }
}
