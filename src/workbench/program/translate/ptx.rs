//! Inline PTX.

use super::{Result, Unit};

impl Unit<'_> {
    pub(super) fn ptx(&mut self) -> Result {
        for position in 0..self.len() {
            if matches!(self.at(position), "asm" | "__asm__") && self.at(position + 1) != ";" {
                return self.refused(
                    position,
                    "inline PTX is not run here; use the CUDA function of the instruction",
                );
            }
        }
        Ok(())
    }
}
