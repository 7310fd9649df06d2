//! Parameters in bf16, as tensor cores want them: the shadows of the f32 that optimisers keep.

use super::arena::Purpose;
use super::driver::Arg;
use super::{Gpu, Mode};
use crate::backend::Tensor;
use std::collections::HashMap;

/// Which buffers have a shadow. A step rounds all of a parameter buffer at its first use, in one
/// launch, and reuses that until an optimiser writes the buffer.
///
/// What a captured step reads of a shadow is never stale. Its first use is preceded by a rounding
/// in the same graph, since planning begins with no shadow fresh: whatever happened before the
/// replay, be it a host's write, another graph or an op outside of steps, is rounded with the rest.
/// Within the step only optimisers write parameters, and they take the freshness back.
#[derive(Default)]
pub(super) struct Shadows {
    /// Block of each buffer's shadow. It stays for good, because graphs hold its address.
    blocks: HashMap<usize, usize>,
    /// Buffers that the planned launches have rounded and not written since.
    fresh: Vec<usize>,
}

impl Shadows {
    /// At the beginning of a plan.
    pub fn forget(&mut self) {
        self.fresh.clear();
    }
}

impl Gpu {
    /// Address of a matrix of parameters in bf16, equal whenever an op asks for it. The matrix
    /// starts at a multiple of 16 bytes. Outside of a step it is rounded each time.
    pub(super) fn shadow(&mut self, w: Tensor) -> u64 {
        let buffer = self.buffers[w.buffer].block;
        let len = self.arena.bytes(buffer) / size_of::<f32>();
        let block = match self.shadows.blocks.get(&w.buffer) {
            Some(block) => *block,
            None => {
                let block = self.arena.plan(Purpose::Parameters, 2 * len);
                self.shadows.blocks.insert(w.buffer, block);
                block
            }
        };
        let (start, len) = match self.mode {
            Mode::Plan => (0, len),
            Mode::Run => (w.offset, w.len()),
        };
        if self.mode == Mode::Run {
            let claimed = self.arena.claim(&mut self.stream);
            self.note(claimed.map(drop));
        }
        // Nowhere yet when a step is planned for the first time.
        let shadow = self.arena.claimed(block).unwrap_or(0);
        if !self.shadows.fresh.contains(&w.buffer) {
            /// Elements of a block of `linear_round`, four a thread.
            const ELEMENTS: usize = 1024;
            let args = [
                Arg::Ptr(self.arena.address(buffer) + 4 * start as u64),
                Arg::Ptr(shadow + 2 * start as u64),
                Arg::U64(len as u64),
            ];
            let blocks = len.div_ceil(ELEMENTS) as u32;
            self.launch("linear_round", [blocks, 1, 1], 256, 0, &args);
            if self.mode == Mode::Plan {
                self.shadows.fresh.push(w.buffer);
            }
        }
        shadow + 2 * w.offset as u64
    }

    /// An optimiser has written parameters.
    pub(super) fn written(&mut self, params: Tensor) {
        self.shadows.fresh.retain(|buffer| *buffer != params.buffer);
    }
}
