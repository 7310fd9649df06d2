//! Why processes do not come together.

/// What the system says of a library that it does not load, in a line.
pub(crate) fn why_not(e: &libloading::Error) -> String {
    let own = e.to_string();
    let source = std::error::Error::source(e).map(ToString::to_string);
    source.unwrap_or(own).replace('\n', " ")
}

/// Processes that cannot train together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorldError {
    /// A launcher's variable that makes no sense.
    #[error("{name}={value}: the launcher's variables make no sense; start with mpiexec -n N")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// No library of MPI.
    #[error(
        "the launcher has started {size} processes, but there is no MPI library ({reason}); install \
         the MPI that the launcher belongs to (pip install mpich has both), or name its library: \
         AUTOASSIST_MPI=/path/to/libmpi.so"
    )]
    NoLibrary {
        /// Processes that the launcher has started.
        size: usize,
        /// What was tried.
        reason: String,
    },
    /// Something that is no library of MPI.
    #[error("{path} is no MPI library: it has no {symbol}; AUTOASSIST_MPI names one")]
    NotMpi {
        /// Where it is.
        path: String,
        /// What it lacks.
        symbol: &'static str,
    },
    /// The library of another MPI than the launcher.
    #[error(
        "the launcher is Open MPI's, but the library {path} is of {version}: it cannot reach the \
         other processes; AUTOASSIST_MPI=/path/to/libmpi.so names the launcher's own"
    )]
    Foreign {
        /// Where the library is.
        path: String,
        /// What it says it is.
        version: String,
    },
    /// The library sees other processes than the launcher has started.
    #[error(
        "the launcher has started {told} processes, but the MPI library {path} sees {found}: it is \
         not the launcher's; AUTOASSIST_MPI=/path/to/libmpi.so names that one (srun wants --mpi=pmi2 for \
         MPICH and its relatives)"
    )]
    Size {
        /// Processes that the launcher has started.
        told: usize,
        /// Processes that the library sees.
        found: usize,
        /// Where the library is.
        path: String,
    },
    /// A call of the engine that failed.
    #[error("{call} failed: {reason}")]
    Call {
        /// Its name.
        call: &'static str,
        /// What it said.
        reason: String,
    },
    /// No library of NCCL.
    #[error(
        "GPUs of several processes need NCCL ({reason}); pip install nvidia-nccl-cu13 has it, for \
         LD_LIBRARY_PATH"
    )]
    NoNccl {
        /// What the system said.
        reason: String,
    },
    /// NCCL from before there were means.
    #[error(
        "libnccl.so.2 is of version {version}; 2.10 or newer is needed (pip install nvidia-nccl-cu13)"
    )]
    OldNccl {
        /// As it counts them: 2.8.4 is 2804.
        version: i32,
    },
    /// Processes of `torchrun`, and a device whose engine is MPI.
    #[error(
        "--device {device}: torchrun's processes have NCCL between them, which needs GPUs; start with \
         mpiexec -n {size} instead, or take --device cuda"
    )]
    NeedsMpi {
        /// The device.
        device: &'static str,
        /// Processes that there are.
        size: usize,
    },
    /// What another rank met.
    #[error("rank {rank}: {text}")]
    Elsewhere {
        /// Which.
        rank: usize,
        /// What it said.
        text: String,
    },
    /// Ranks that do not do the same.
    #[error(
        "rank {rank} is at \"{theirs}\" and rank 0 at \"{ours}\": all ranks must be started alike"
    )]
    Apart {
        /// The other.
        rank: usize,
        /// What rank 0 does.
        ours: String,
        /// What the other does.
        theirs: String,
    },
    /// Ranks that would not train the same.
    #[error(
        "rank {rank} has other {what} than rank 0; all ranks need the same command line, data and files"
    )]
    Differ {
        /// The first that does.
        rank: usize,
        /// What differs.
        what: &'static str,
    },
}
