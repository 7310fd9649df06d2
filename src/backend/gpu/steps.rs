//! What changes from step to step, on its way to the device: slots in memory that both sides see,
//! and the device's copy. The layouts are those of `kernels/include/step.cuh`.

use super::arena::{Arena, Purpose};
use super::driver::{Arg, Counted, Mapped};
use crate::backend::{DeviceError, Pass, StepInputs};
use bytemuck::{Pod, Zeroable};

/// Start of a slot; ids and weights follow, `capacity` of each.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SlotHeader {
    seed: u64,
    rows: u32,
    lr: f32,
    total: u32,
    vote: f32,
}

/// The device's copy of a header, with the step's number.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StepState {
    step: u64,
    seed: u64,
    rows: u32,
    lr: f32,
    total: u32,
    unused: u32,
}

/// Device addresses of what a step trains on.
#[derive(Clone, Copy, Debug)]
pub struct StepBuffers {
    /// `StepState`.
    pub state: u64,
    /// Instance numbers, u32 `[rows]`.
    pub ids: u64,
    /// Loss weights, f32 `[rows]`.
    pub weights: u64,
}

/// Slots of training steps (K of them) and one of evaluation, and where the step's first kernel
/// copies them.
pub struct Steps {
    slots: Mapped,
    slot_bytes: usize,
    count: usize,
    /// Rows that a slot has room for.
    pub capacity: usize,
    /// Blocks: of each pass counter and state, of both passes ids and weights.
    counter: [usize; 2],
    state: [usize; 2],
    ids: usize,
    weights: usize,
    /// What the device's counter of training steps will be.
    next: u64,
}

impl Steps {
    /// Plans slots for `count` steps under way of at most `capacity` rows.
    pub fn new(
        arena: &mut Arena,
        stream: &mut Counted,
        count: usize,
        capacity: usize,
    ) -> Result<Steps, DeviceError> {
        let capacity = capacity.max(1).next_multiple_of(4);
        let slot_bytes = size_of::<SlotHeader>() + 8 * capacity;
        let slots = stream.blocking().alloc_mapped((count + 1) * slot_bytes)?;
        let mut plan = |bytes| arena.plan(Purpose::Steps, bytes);
        Ok(Steps {
            slots,
            slot_bytes,
            count,
            capacity,
            counter: [plan(size_of::<u64>()), plan(size_of::<u64>())],
            state: [plan(size_of::<StepState>()), plan(size_of::<StepState>())],
            ids: plan(4 * capacity),
            weights: plan(4 * capacity),
            next: 0,
        })
    }

    /// Where the kernels of a pass find their inputs.
    pub fn buffers(&self, arena: &Arena, pass: Pass) -> StepBuffers {
        StepBuffers {
            state: arena.address(self.state[pass as usize]),
            ids: arena.address(self.ids),
            weights: arena.address(self.weights),
        }
    }

    /// Arguments of `begin_step`, which stores this rank's vote in `vote`.
    pub fn begin_args(&self, arena: &Arena, pass: Pass, vote: Arg) -> Vec<Arg> {
        // The slot of evaluation lies behind those of training.
        let (first, count) = match pass {
            Pass::Train => (0, self.count),
            Pass::Eval => (self.count, 1),
        };
        let buffers = self.buffers(arena, pass);
        vec![
            Arg::Ptr(self.slots.device + (first * self.slot_bytes) as u64),
            Arg::U32(self.slot_bytes as u32),
            Arg::U32(count as u32),
            Arg::U32(self.capacity as u32),
            Arg::Ptr(arena.address(self.counter[pass as usize])),
            Arg::Ptr(buffers.state),
            Arg::Ptr(buffers.ids),
            Arg::Ptr(buffers.weights),
            vote,
        ]
    }

    /// Makes the device's counter that of `step`, which it is already unless a run starts there.
    pub fn set_counter(
        &mut self,
        arena: &Arena,
        stream: &mut Counted,
        step: u64,
    ) -> Result<(), DeviceError> {
        if step != self.next {
            let counter = arena.address(self.counter[Pass::Train as usize]);
            stream.blocking().upload(counter, &step.to_le_bytes())?;
        }
        self.next = step + 1;
        Ok(())
    }

    /// Writes a slot that no kernel reads any more.
    pub fn write(&mut self, pass: Pass, inputs: &StepInputs) {
        let rows = inputs.ids.len();
        assert!(
            rows <= self.capacity,
            "{rows} instances for slots of {}",
            self.capacity
        );
        assert!(inputs.weights.is_empty() || inputs.weights.len() == rows);
        let slot = match pass {
            Pass::Train => inputs.step as usize % self.count,
            Pass::Eval => self.count,
        };
        let header = SlotHeader {
            seed: inputs.seed,
            rows: rows as u32,
            lr: inputs.lr,
            total: inputs.total,
            vote: f32::from(u8::from(inputs.vote)),
        };
        let ones;
        let weights = if inputs.weights.is_empty() {
            ones = vec![1.0_f32; rows];
            &ones
        } else {
            &inputs.weights
        };
        let ids_at = size_of::<SlotHeader>();
        let parts: [(usize, &[u8]); 3] = [
            (0, bytemuck::bytes_of(&header)),
            (ids_at, bytemuck::cast_slice(&inputs.ids)),
            (ids_at + 4 * self.capacity, bytemuck::cast_slice(weights)),
        ];
        for (at, bytes) in parts {
            assert!(at + bytes.len() <= self.slot_bytes);
            // SAFETY: the slot lies within the mapped block; the part within the slot. The ring's
            // credits (or a synchronisation) say that no kernel reads the slot now, and the launch
            // that follows orders these writes before the kernel's reads.
            unsafe {
                let to = self.slots.host.add(slot * self.slot_bytes + at);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len());
            }
        }
    }
}
