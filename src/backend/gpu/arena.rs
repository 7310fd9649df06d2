//! Device memory: everything is planned first, then claimed in one piece.

use super::driver::{ALIGN, Counted};
use crate::backend::DeviceError;
use std::fmt;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Activations and their gradients: grows with the batch.
    Activations,
    /// Parameters, their gradients, statistics.
    Parameters,
    /// Data sets.
    Data,
    /// Labels and what changes from step to step.
    Steps,
    /// Partial results within an op.
    Scratch,
}

struct Block {
    purpose: Purpose,
    bytes: usize,
    address: Option<u64>,
}

/// The plan of the device's memory, and where its blocks lie once they are claimed.
#[derive(Default)]
pub struct Arena {
    blocks: Vec<Block>,
}

impl Arena {
    /// Plans a block and returns its number.
    pub fn plan(&mut self, purpose: Purpose, bytes: usize) -> usize {
        self.blocks.push(Block {
            purpose,
            bytes,
            address: None,
        });
        self.blocks.len() - 1
    }

    /// Size of a block.
    pub fn bytes(&self, block: usize) -> usize {
        self.blocks[block].bytes
    }

    /// Where a block starts, if it is claimed.
    pub fn claimed(&self, block: usize) -> Option<u64> {
        self.blocks[block].address
    }

    /// Where a claimed block starts.
    pub fn address(&self, block: usize) -> u64 {
        let address = self.blocks[block].address;
        address.expect("memory is claimed before it is used")
    }

    /// Claims, zeroed and in one piece, all that is planned and not yet claimed. Says whether
    /// there was anything.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`]; nothing is claimed then.
    pub fn claim(&mut self, stream: &mut Counted) -> Result<bool, DeviceError> {
        let new = || self.blocks.iter().filter(|b| b.address.is_none());
        if new().next().is_none() {
            return Ok(false);
        }
        let growing = new()
            .filter(|b| b.purpose == Purpose::Activations)
            .map(|b| b.bytes.next_multiple_of(ALIGN))
            .sum::<usize>() as u64;
        let sizes: Vec<usize> = new().map(|b| b.bytes).collect();
        let claimed = stream.blocking().alloc_each(&sizes);
        let addresses = claimed.map_err(|e| match e {
            DeviceError::OutOfMemory { asked, free, .. } => DeviceError::OutOfMemory {
                asked,
                free,
                per_batch: growing,
                fits: None,
            },
            other => other,
        })?;
        let blocks = self.blocks.iter_mut().filter(|b| b.address.is_none());
        for (block, address) in blocks.zip(addresses) {
            block.address = Some(address);
        }
        Ok(true)
    }
}

impl fmt::Display for Arena {
    /// `12.3 MiB: activations 8.1, parameters 3.2, …`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let sum = |purpose| {
            let of = self.blocks.iter().filter(|b| b.purpose == purpose);
            of.map(|b| b.bytes.next_multiple_of(ALIGN)).sum::<usize>()
        };
        let all = [
            (Purpose::Activations, "activations"),
            (Purpose::Parameters, "parameters"),
            (Purpose::Data, "data"),
            (Purpose::Steps, "steps"),
            (Purpose::Scratch, "scratch"),
        ];
        let total = all.iter().map(|(p, _)| sum(*p)).sum();
        write!(f, "{:.1} MiB:", mib(total))?;
        for (i, (purpose, name)) in all.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma} {name} {:.1}", mib(sum(*purpose)))?;
        }
        Ok(())
    }
}
