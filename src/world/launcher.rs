//! Who has started this process, and as which of how many: what the launchers' variables say.

use super::WorldError;
use std::env::VarError;

/// A program that starts several processes as one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, whose processes meet in a store and know of no MPI.
    Torchrun,
    /// Open MPI's `mpiexec`.
    OpenMpi,
    /// The `mpiexec` of MPICH and its relatives: Intel MPI, MVAPICH.
    Hydra,
    /// `srun`, which starts the processes of any MPI.
    Slurm,
}

/// One process of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// By whom it was started.
    pub launcher: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

/// How each says size and rank. What is more particular comes first: a `torchrun` on each node may
/// have been started by `srun`, and so may an `mpiexec`. `SLURM_NTASKS` would be wrong, as every
/// batch script has it.
const VARIABLES: [(Launcher, [&str; 2]); 4] = [
    (Launcher::Torchrun, ["WORLD_SIZE", "RANK"]),
    (
        Launcher::OpenMpi,
        ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
    ),
    (Launcher::Hydra, ["PMI_SIZE", "PMI_RANK"]),
    (Launcher::Slurm, ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID"]),
];
/// `torchrun` sets it; others set `RANK` and `WORLD_SIZE`, too.
const TORCHRUN: &str = "TORCHELASTIC_RUN_ID";

/// What the launcher says; `None` for a process that nobody has told that it is one of several.
///
/// # Errors
/// A number that is none, or a rank that there cannot be.
pub fn told(
    variable: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Option<Told>, WorldError> {
    let number = |name: &'static str| match variable(name) {
        Err(_) => Ok(None),
        Ok(value) => match value.trim().parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(WorldError::Variable { name, value }),
        },
    };
    for (launcher, [size_name, rank_name]) in VARIABLES {
        if launcher == Launcher::Torchrun && variable(TORCHRUN).is_err() {
            continue;
        }
        let Some(size) = number(size_name)? else {
            continue;
        };
        if size <= 1 {
            return Ok(None);
        }
        let rank = number(rank_name)?.unwrap_or(0);
        if rank >= size {
            let (name, value) = (rank_name, rank.to_string());
            return Err(WorldError::Variable { name, value });
        }
        return Ok(Some(Told {
            launcher,
            rank,
            size,
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Told>, WorldError> {
        told(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found
                .map(|(_, v)| v.to_string())
                .ok_or(VarError::NotPresent)
        })
    }

    #[test]
    fn each_launcher_is_known_by_its_variables() {
        let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "3")];
        let told = |launcher, rank, size| {
            Some(Told {
                launcher,
                rank,
                size,
            })
        };
        assert_eq!(of(&hydra).unwrap(), told(Launcher::Hydra, 1, 3));
        let open = [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")];
        assert_eq!(of(&open).unwrap(), told(Launcher::OpenMpi, 0, 2));
        let slurm = [("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "3")];
        assert_eq!(of(&slurm).unwrap(), told(Launcher::Slurm, 3, 4));
        // On each node one torchrun that srun has started.
        let torch = [
            ("TORCHELASTIC_RUN_ID", "x"),
            ("WORLD_SIZE", "8"),
            ("RANK", "5"),
        ];
        let both = [&slurm[..], &torch].concat();
        assert_eq!(of(&both).unwrap(), told(Launcher::Torchrun, 5, 8));
    }

    #[test]
    fn one_process_is_alone_whatever_else_is_set() {
        for variables in [
            &[][..],
            &[("PMI_SIZE", "1"), ("PMI_RANK", "0")],
            // In every batch script, and on clusters that prepare for PyTorch.
            &[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")],
            &[("WORLD_SIZE", "4"), ("RANK", "1")],
        ] {
            assert_eq!(of(variables).unwrap(), None, "{variables:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (variables, name) in [
            ([("PMI_SIZE", "two"), ("PMI_RANK", "0")], "PMI_SIZE=two"),
            ([("PMI_SIZE", "2"), ("PMI_RANK", "2")], "PMI_RANK=2"),
        ] {
            let error = of(&variables).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
