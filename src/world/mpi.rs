//! MPI, whose library is loaded when a launcher has started several processes: nothing needs it to
//! build.
//!
//! Every implementation has the standard's functions, and one of three sets of constants: that of
//! the standard's own ABI (MPI 5: `libmpi_abi.so.1`), MPICH's (and its relatives': `libmpi.so.12`)
//! and Open MPI's (`libmpi.so.40`). A handle is a pointer or an int in the low half of a word.

use super::error::{WorldError, why_not};
use super::launcher::{Launcher, Told};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Names the library to take.
const LIBRARY: &str = "AUTOASSIST_MPI";
/// A communicator, a type, an operation, a request.
type Handle = usize;
/// Elements of one call, which counts in an int.
const MOST: usize = 1 << 30;
/// Longer than any implementation's text of an error, or of its version.
const TEXT: usize = 8192;

/// What the standard has left to implementations.
#[derive(Debug, PartialEq, Eq)]
struct Dialect {
    world: Handle,
    float: Handle,
    byte: Handle,
    sum: Handle,
    errors_return: Handle,
    in_place: usize,
    ignore: usize,
    serialized: c_int,
}

const ABI: Dialect = Dialect {
    world: 0x101,
    float: 0x210,
    byte: 0x247,
    sum: 0x21,
    errors_return: 0x143,
    in_place: 1,
    ignore: 0,
    serialized: 2048,
};

const MPICH: Dialect = Dialect {
    world: 0x4400_0000,
    float: 0x4c00_040a,
    byte: 0x4c00_010d,
    sum: 0x5800_0003,
    errors_return: 0x5400_0001,
    in_place: usize::MAX,
    ignore: 1,
    serialized: 2,
};

/// Open MPI's handles are addresses of the library's own objects.
fn open_mpi(address: impl Fn(&'static str) -> Option<usize>) -> Option<Dialect> {
    Some(Dialect {
        world: address("ompi_mpi_comm_world")?,
        float: address("ompi_mpi_float")?,
        byte: address("ompi_mpi_byte")?,
        sum: address("ompi_mpi_op_sum")?,
        errors_return: address("ompi_mpi_errors_return")?,
        in_place: 1,
        ignore: 0,
        serialized: 2,
    })
}

impl Dialect {
    /// Of a library that has the standard's ABI, or these symbols.
    fn of(abi: bool, address: impl Fn(&'static str) -> Option<usize>) -> Dialect {
        match abi {
            true => ABI,
            false => open_mpi(address).unwrap_or(MPICH),
        }
    }
}

macro_rules! functions {
    ($($name:ident($($arg:ty),*);)*) => {
        /// The functions in use.
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) -> c_int,)*
        }

        impl Functions {
            /// The name of the first that is missing, if one is.
            fn of(library: &Library) -> Result<Functions, &'static str> {
                Ok(Functions {
                    $(
                        // SAFETY: the signature is the standard's, with handles as words, of which
                        // an implementation with narrower ones reads the low half.
                        $name: *unsafe { library.get(stringify!($name)) }
                            .map_err(|_| stringify!($name))?,
                    )*
                })
            }
        }
    };
}

functions! {
    MPI_Get_library_version(*mut c_char, *mut c_int);
    MPI_Init_thread(*mut c_int, *mut c_void, c_int, *mut c_int);
    MPI_Finalize();
    MPI_Comm_rank(Handle, *mut c_int);
    MPI_Comm_size(Handle, *mut c_int);
    MPI_Comm_dup(Handle, *mut Handle);
    MPI_Comm_set_errhandler(Handle, Handle);
    MPI_Error_string(c_int, *mut c_char, *mut c_int);
    MPI_Iallreduce(usize, *mut c_void, c_int, Handle, Handle, Handle, *mut Handle);
    MPI_Iallgather(usize, c_int, Handle, *mut c_void, c_int, Handle, Handle, *mut Handle);
    MPI_Test(*mut Handle, *mut c_int, usize);
}

/// Which of two independent sequences of collective calls one belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Channel {
    /// Those of training steps, which on some devices run in a thread of their own.
    Steps,
    /// Those of the trainer.
    Host,
}

/// The library, initialised.
pub struct Mpi {
    functions: Functions,
    dialect: Dialect,
    channels: [Handle; 2],
    rank: usize,
    size: usize,
    /// The library is told that no two threads call it at once.
    calls: Mutex<()>,
    _library: Library,
}

/// A collective call that is under way.
pub struct Request<'a> {
    mpi: &'a Mpi,
    handle: Handle,
}

impl Mpi {
    /// Finds the library of the launcher, and meets the other processes.
    ///
    /// # Errors
    /// No library, or not the launcher's.
    pub fn join(told: Told) -> Result<Mpi, WorldError> {
        let (library, functions, path) = find(told)?;
        let address = |name| {
            // SAFETY: only the address is looked at.
            let found = unsafe { library.get::<*const c_void>(name) }.ok()?;
            Some(found.into_raw() as usize)
        };
        let dialect = Dialect::of(has_abi(&library), address);
        let mut mpi = Mpi {
            functions,
            dialect,
            channels: [0; 2],
            rank: 0,
            size: 0,
            calls: Mutex::new(()),
            _library: library,
        };
        mpi.start()?;
        if mpi.size != told.size {
            return Err(WorldError::Size {
                told: told.size,
                found: mpi.size,
                path,
            });
        }
        Ok(mpi)
    }

    fn start(&mut self) -> Result<(), WorldError> {
        let (mut level, mut rank, mut size) = (0, 0, 0);
        let (f, d, null) = (&self.functions, &self.dialect, std::ptr::null_mut());
        let mut channels = [d.world, 0];
        // SAFETY: in the order that the standard asks for; all pointers are to local variables.
        unsafe {
            let started = (f.MPI_Init_thread)(null, null.cast(), d.serialized, &mut level);
            self.check("MPI_Init_thread", started)?;
            let code = (f.MPI_Comm_set_errhandler)(d.world, d.errors_return);
            self.check("MPI_Comm_set_errhandler", code)?;
            self.check("MPI_Comm_rank", (f.MPI_Comm_rank)(d.world, &mut rank))?;
            self.check("MPI_Comm_size", (f.MPI_Comm_size)(d.world, &mut size))?;
            let copied = (f.MPI_Comm_dup)(d.world, &mut channels[1]);
            self.check("MPI_Comm_dup", copied)?;
        }
        if level < d.serialized {
            return Err(WorldError::Call {
                call: "MPI_Init_thread",
                reason: "this MPI was built without threads".into(),
            });
        }
        (self.rank, self.size, self.channels) = (rank as usize, size as usize, channels);
        Ok(())
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Begins to replace `x` by the sum over all ranks.
    ///
    /// # Errors
    /// Those of the library.
    pub fn sum<'a>(&'a self, x: &'a mut [f32]) -> Result<Vec<Request<'a>>, WorldError> {
        let d = &self.dialect;
        let begin = |part: &mut [f32]| {
            let (at, n) = (part.as_mut_ptr().cast(), part.len() as c_int);
            self.begin("MPI_Iallreduce", |request| {
                // SAFETY: the memory is borrowed for as long as the request, see `Drop`.
                unsafe {
                    (self.functions.MPI_Iallreduce)(
                        d.in_place,
                        at,
                        n,
                        d.float,
                        d.sum,
                        self.channels[Channel::Steps as usize],
                        request,
                    )
                }
            })
        };
        x.chunks_mut(MOST).map(begin).collect()
    }

    /// Begins to fill `x`, in which each rank has an equal part, with all ranks' parts.
    ///
    /// # Errors
    /// Those of the library.
    pub fn gather<'a>(
        &'a self,
        channel: Channel,
        x: &'a mut [u8],
    ) -> Result<Request<'a>, WorldError> {
        let (d, part) = (&self.dialect, x.len() / self.size);
        assert!(part * self.size == x.len() && part <= MOST, "equal parts");
        let (at, n) = (x.as_mut_ptr().cast(), part as c_int);
        self.begin("MPI_Iallgather", |request| {
            // SAFETY: as in `sum`.
            unsafe {
                (self.functions.MPI_Iallgather)(
                    d.in_place,
                    0,
                    d.byte,
                    at,
                    n,
                    d.byte,
                    self.channels[channel as usize],
                    request,
                )
            }
        })
    }

    fn begin(
        &self,
        name: &'static str,
        call: impl FnOnce(&mut Handle) -> c_int,
    ) -> Result<Request<'_>, WorldError> {
        let mut handle = 0;
        let code = self.alone(|| call(&mut handle));
        self.check(name, code)?;
        Ok(Request { mpi: self, handle })
    }

    fn alone<R>(&self, call: impl FnOnce() -> R) -> R {
        let _alone = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        call()
    }

    /// Leaves the others: the last call.
    pub fn leave(&self) {
        // SAFETY: no request is under way, and nobody calls anything afterwards.
        self.alone(|| unsafe { (self.functions.MPI_Finalize)() });
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), WorldError> {
        if code == 0 {
            return Ok(());
        }
        let reason = text(|text, length| {
            // SAFETY: the buffer is longer than any implementation's texts.
            unsafe { (self.functions.MPI_Error_string)(code, text, length) }
        });
        Err(WorldError::Call { call, reason })
    }
}

impl Request<'_> {
    /// Whether it is done. The library works on it only while it is asked.
    ///
    /// # Errors
    /// Those of the library.
    pub fn is_done(&mut self) -> Result<bool, WorldError> {
        let (mut done, mpi) = (0, self.mpi);
        let (handle, ignore) = (&mut self.handle, mpi.dialect.ignore);
        // SAFETY: a request that has begun, or the null request that one becomes which is done.
        let code = mpi.alone(|| unsafe { (mpi.functions.MPI_Test)(handle, &mut done, ignore) });
        mpi.check("MPI_Test", code)?;
        Ok(done != 0)
    }
}

/// Whether a library's constants are the standard's own. One that has others may have the function,
/// too: it says that its version is none.
fn has_abi(library: &Library) -> bool {
    type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    let [mut major, mut minor] = [-1; 2];
    // SAFETY: the signature is the standard's; may be called at any time; two local variables.
    unsafe {
        let version = library.get::<Version>("MPI_Abi_get_version");
        version.is_ok_and(|version| version(&mut major, &mut minor) == 0 && major > 0)
    }
}

/// A text that the library writes, in one line.
fn text(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let (mut bytes, mut length) = ([0_u8; TEXT + 1], 0);
    write(bytes.as_mut_ptr().cast(), &mut length);
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    let text = text.to_string_lossy();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(", ")
}

/// Where the library may be: beside the launcher, or wherever the system looks.
fn candidates(launcher: Launcher, beside: Option<&Path>) -> Vec<PathBuf> {
    let names = match launcher {
        Launcher::OpenMpi => ["libmpi.so.40", "libmpi_abi.so.1"].as_slice(),
        _ => &["libmpi_abi.so.1", "libmpi.so.12", "libmpi.so.40"],
    };
    let near = beside.into_iter().flat_map(|prefix| {
        let folders = ["lib", "lib64"].map(|folder| prefix.join(folder));
        let paths = folders.into_iter().flat_map(|folder| {
            let paths = names.iter().map(move |name| folder.join(name));
            paths.filter(|path| path.exists())
        });
        paths.collect::<Vec<_>>()
    });
    near.chain(names.iter().map(PathBuf::from)).collect()
}

/// The folder over the `bin` of the launcher, which is this process's parent.
fn prefix_of_launcher() -> Option<PathBuf> {
    let parent = format!("/proc/{}/exe", std::os::unix::process::parent_id());
    let launcher = std::fs::read_link(parent).ok()?;
    Some(launcher.parent()?.parent()?.to_path_buf())
}

fn find(told: Told) -> Result<(Library, Functions, String), WorldError> {
    if let Some(path) = std::env::var_os(LIBRARY) {
        return open(told, Path::new(&path));
    }
    let mut first = None;
    for path in candidates(told.launcher, prefix_of_launcher().as_deref()) {
        match open(told, &path) {
            Ok(found) => return Ok(found),
            // What was there, and not right, says more than what was not there.
            Err(WorldError::NoLibrary { .. }) => (),
            Err(e) => drop(first.get_or_insert(e)),
        }
    }
    Err(first.unwrap_or_else(|| WorldError::NoLibrary {
        size: told.size,
        reason: "libmpi_abi.so.1, libmpi.so.12 and libmpi.so.40 are not found".into(),
    }))
}

fn open(told: Told, path: &Path) -> Result<(Library, Functions, String), WorldError> {
    // SAFETY: the initialisers of a library that the user, or the system, has for this.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|e| WorldError::NoLibrary {
        size: told.size,
        reason: why_not(&e),
    })?;
    let path = path.display().to_string();
    let functions = Functions::of(&library).map_err(|symbol| WorldError::NotMpi {
        path: path.clone(),
        symbol,
    })?;
    let version = text(|text, length| {
        // SAFETY: may be called at any time; the buffer is longer than any implementation's text.
        unsafe { (functions.MPI_Get_library_version)(text, length) }
    });
    // It would end the process when it is initialised.
    if told.launcher == Launcher::OpenMpi && !version.starts_with("Open MPI") {
        let version = version.split(',').next().unwrap_or_default().to_string();
        return Err(WorldError::Foreign { path, version });
    }
    Ok((library, functions, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_s_symbols_tell_its_constants() {
        let none = |_| None;
        assert_eq!(Dialect::of(true, none), ABI);
        assert_eq!(Dialect::of(false, none), MPICH);
        let address = |name: &str| name.starts_with("ompi_mpi_").then_some(name.len());
        let open = Dialect::of(false, address);
        assert_eq!((open.world, open.sum), (19, 15));
        assert_eq!((open.in_place, open.serialized), (1, 2));
    }

    #[test]
    fn the_launcher_s_own_library_is_looked_for_first() {
        let temp = tempfile::tempdir().unwrap();
        let lib = temp.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        let own = lib.join("libmpi.so.40");
        std::fs::write(&own, "").unwrap();
        let paths = candidates(Launcher::OpenMpi, Some(temp.path()));
        assert_eq!(paths[0], own);
        assert_eq!(paths[1], Path::new("libmpi.so.40"));
        let paths = candidates(Launcher::Slurm, None);
        assert_eq!(paths[0], Path::new("libmpi_abi.so.1"));
    }

    #[test]
    fn what_is_no_library_of_mpi_is_refused_in_one_line() {
        let told = Told {
            launcher: Launcher::Hydra,
            rank: 0,
            size: 2,
        };
        let temp = tempfile::NamedTempFile::new().unwrap();
        let error = |path: &Path| open(told, path).err().unwrap().to_string();
        let cases = [
            (error(temp.path()), "file too short"),
            (error(Path::new("libm.so.6")), "it has no MPI_"),
        ];
        for (text, want) in cases {
            assert!(text.contains(want) && !text.contains('\n'), "{text}");
        }
    }
}
