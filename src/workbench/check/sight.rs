//! Whether the checker sees what kernels do: mistakes that it has to find before it is believed.

use crate::backend::error::DeviceError;
use crate::backend::gpu::driver::{Arg, Driver, Launch, Scratch};
use crate::simt::checker::{Checker, Mistake};
use crate::simt::{Landing, Schedule, Simt};

/// Bytes of both arguments.
const BYTES: usize = 4096;

const READ: Mistake = Mistake::Uninitialised;
const WRITE: Mistake = Mistake::Race;

pub(super) const FILE: &str = "kernels/simt/sight.cu";

/// Its kernels, and what is wrong with them.
pub(super) const SIGHTS: [(&str, &[Mistake]); 21] = [
    ("sight_read_for_one", &[Mistake::Race]),
    ("sight_read_to_choose", &[Mistake::Race]),
    ("sight_read_by_function", &[Mistake::Race]),
    ("sight_sum", &[READ, WRITE]),
    ("sight_byte", &[READ, WRITE]),
    ("sight_half", &[READ, WRITE]),
    ("sight_word", &[READ, WRITE]),
    ("sight_double", &[READ, WRITE]),
    ("sight_vector", &[READ, WRITE]),
    ("sight_wide_vector", &[READ, WRITE]),
    ("sight_struct_12", &[READ, WRITE]),
    ("sight_struct_64", &[READ, WRITE]),
    ("sight_struct_4096", &[READ, WRITE]),
    ("sight_memcpy_8", &[READ, WRITE]),
    ("sight_memcpy_12", &[READ, WRITE]),
    ("sight_memcpy_64", &[READ, WRITE]),
    ("sight_memcpy_4096", &[READ, WRITE]),
    ("sight_memmove_64", &[READ, WRITE]),
    ("sight_memset_12", &[WRITE]),
    ("sight_memset_64", &[WRITE]),
    ("sight_memset_4096", &[WRITE]),
];

/// The kernels with a mistake that the checker does not find.
///
/// # Errors
/// The system refuses the checker's address space.
pub(super) fn unseen(
    sights: &[(&'static str, &[Mistake])],
) -> Result<Vec<&'static str>, DeviceError> {
    let mut unseen = Vec::new();
    for (kernel, mistakes) in sights {
        let found = look(kernel)?;
        if !mistakes.iter().all(|mistake| found.contains(mistake)) {
            unseen.push(*kernel);
        }
    }
    Ok(unseen)
}

/// What is found in a kernel.
fn look(kernel: &'static str) -> Result<Vec<Mistake>, DeviceError> {
    let checker = Checker::new()?;
    let mut simt = Simt::checked(Schedule::Low, Landing::Late, checker.clone());
    let from = Scratch {
        address: simt.alloc(BYTES)?,
        bytes: BYTES,
    };
    let to = simt.alloc(BYTES)?;
    simt.launch(&Launch {
        kernel,
        grid: [1, 1, 1],
        threads: 64,
        shared: 0,
        args: vec![Arg::Ptr(from.address), Arg::Ptr(to)],
        scratch: Some(from),
    })?;
    simt.synchronize()?;
    Ok(checker.findings().iter().map(|f| f.mistake).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_seen() {
        assert_eq!(unseen(&SIGHTS).unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn what_is_not_seen_is_named() {
        let sights: [(_, &[_]); 2] = [("sight_word", &[READ]), ("sight_memset_12", &[READ, WRITE])];
        assert_eq!(unseen(&sights).unwrap(), ["sight_memset_12"]);
    }
}
