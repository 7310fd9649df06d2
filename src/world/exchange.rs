//! What ranks tell each other outside of training steps: little, and seldom.

use super::error::WorldError;
use super::mpi::{Channel, Mpi};
use super::{Engine, World};
use crate::backend::error::DeviceError;
use std::fmt::Display;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl World {
    /// Gives everybody everybody's bytes, by rank. All ranks must come here for the same thing.
    ///
    /// # Errors
    /// A rank that is gone, hangs, or has come to do something else.
    pub fn exchange(&self, what: &str, own: &[u8]) -> Result<Vec<Vec<u8>>, DeviceError> {
        let message = postcard::to_stdvec(&(what, own)).expect("plain data");
        let all = match &self.engine {
            Engine::None => vec![message],
            Engine::Store(store) => {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                store.exchange(&message)?
            }
            Engine::Mpi(mpi) => self.gather_bytes(mpi, what, &message)?,
        };
        let parsed = all.iter().map(|bytes| postcard::from_bytes(bytes));
        let parsed: Result<Vec<(&str, &[u8])>, _> = parsed.collect();
        let parsed = parsed.map_err(|e| WorldError::Call {
            call: "exchange",
            reason: e.to_string(),
        })?;
        let ours = parsed[0].0;
        if let Some(rank) = parsed.iter().position(|(theirs, _)| *theirs != ours) {
            self.agreed.store(true, Ordering::Relaxed);
            return Err(WorldError::Apart {
                rank,
                ours: ours.into(),
                theirs: parsed[rank].0.into(),
            }
            .into());
        }
        Ok(parsed
            .into_iter()
            .map(|(_, bytes)| bytes.to_vec())
            .collect())
    }

    fn gather_bytes(&self, mpi: &Mpi, what: &str, own: &[u8]) -> Result<Vec<Vec<u8>>, DeviceError> {
        // First how long they are, as parts must be equal.
        let gather = |part: &[u8]| {
            let mut all = vec![0; part.len() * self.size];
            all[self.rank * part.len()..][..part.len()].copy_from_slice(part);
            self.wait(what, &mut mpi.gather(Channel::Host, &mut all)?)?;
            Ok::<_, DeviceError>(all)
        };
        let lengths = gather(&(own.len() as u64).to_ne_bytes())?;
        let (lengths, _) = lengths.as_chunks::<8>();
        let lengths: Vec<usize> = lengths
            .iter()
            .map(|n| u64::from_ne_bytes(*n) as usize)
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut part = own.to_vec();
        part.resize(longest, 0);
        let all = gather(&part)?;
        let parts = all.chunks(longest.max(1)).zip(lengths);
        Ok(parts
            .map(|(part, length)| part[..length].to_vec())
            .collect())
    }

    /// Numbers added up over all ranks, in their order.
    ///
    /// # Errors
    /// Those of [`exchange`](World::exchange).
    pub fn sums<const N: usize>(&self, what: &str, own: [f64; N]) -> Result<[f64; N], DeviceError> {
        let all = self.exchange(what, bytemuck::cast_slice(&own))?;
        let mut sums = [0.0; N];
        for bytes in all {
            let (values, _) = bytes.as_chunks::<8>();
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from_ne_bytes(*value);
            }
        }
        Ok(sums)
    }

    /// What rank 0 says.
    ///
    /// # Errors
    /// Those of [`exchange`](World::exchange).
    pub fn first(&self, what: &str, own: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let mut all = self.exchange(what, own)?;
        Ok(all.swap_remove(0))
    }

    /// The result, if all ranks have one; where one has none, an error on all of them, with which they
    /// end.
    ///
    /// # Errors
    /// Its own, or another rank's.
    pub fn together<T, E: Display + From<DeviceError>>(
        &self,
        what: &str,
        result: Result<T, E>,
    ) -> Result<T, E> {
        let result = self.everywhere(what, result);
        if self.is_shared() && result.is_err() {
            self.agreed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// The result, if all ranks have one; where one has none, an error on all of them.
    ///
    /// # Errors
    /// Its own, or another rank's.
    pub fn everywhere<T, E: Display + From<DeviceError>>(
        &self,
        what: &str,
        result: Result<T, E>,
    ) -> Result<T, E> {
        if !self.is_shared() {
            return result;
        }
        let text = result.as_ref().err().map_or(String::new(), E::to_string);
        let all = self.exchange(what, text.as_bytes())?;
        if let Some(rank) = all.iter().position(|text| !text.is_empty()) {
            let text = String::from_utf8_lossy(&all[rank]).into_owned();
            result?;
            return Err(DeviceError::from(WorldError::Elsewhere { rank, text }).into());
        }
        result
    }

    /// Makes sure that all ranks have the same things, by their hashes.
    ///
    /// # Errors
    /// The first that a rank has differently.
    pub fn compare<const N: usize>(
        &self,
        own: [(&'static str, u64); N],
    ) -> Result<(), DeviceError> {
        let hashes = own.map(|(_, hash)| hash);
        let all = self.exchange("comparison", bytemuck::cast_slice(&hashes))?;
        for (i, (what, _)) in own.into_iter().enumerate() {
            let of = |bytes: &Vec<u8>| bytes.get(8 * i..8 * i + 8).map(<[u8]>::to_vec);
            if let Some(rank) = all.iter().position(|other| of(other) != of(&all[0])) {
                self.agreed.store(true, Ordering::Relaxed);
                return Err(WorldError::Differ { rank, what }.into());
            }
        }
        Ok(())
    }
}
