//! The loss ring: where the kernel that computes the loss leaves each instance's loss for the host.
//!
//! A record is one 64-bit word: the loss in the low half, and in the high half the tag of its step
//! and whether the network was right. It is written by one store and validates itself by its tag,
//! so there is no flag and no fence: a reader sees either the record of the step
//! it asks for, or nothing.
//!
//! [`Drain`] is the trainer's end. It decides when a step may be launched (the *credits*) and
//! collects the records of finished steps:
//!
//! - Step `s` uses slot `s % K`. It may be launched when all records of step `s − K + 1` have been
//!   seen. They prove that step `s − K` is complete (one stream), so nothing still reads or writes
//!   the slot; and that its records were seen, since steps are drained in order. At most K − 1
//!   steps are in flight.
//! - Tags repeat after 2³¹ steps, memory that was never written reads as tag 0 (a valid tag, once
//!   in 2³¹ steps), and a ring may be used by one run after the other. So before a launch
//!   [`Drain::launching`] looks for rows that already carry the step's tag and spoils them: no
//!   stale word is ever taken for a record.

use super::atomic::{AtomicU64, Ordering};
use std::any::Any;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

const TAG_MASK: u32 = 0x7fff_ffff;
const RIGHT: u32 = 1 << 31;

/// What the loss kernel says about one instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Loss without the instance's weight.
    pub loss: f32,
    /// Whether the network's top guess was right.
    pub right: bool,
}

impl Record {
    /// The 64-bit word that a kernel stores for this record.
    pub fn pack(self, step: u64) -> u64 {
        let high = tag(step) | if self.right { RIGHT } else { 0 };
        u64::from(high) << 32 | u64::from(self.loss.to_bits())
    }

    /// The record in `word`, if it is one of `step`.
    fn unpack(word: u64, step: u64) -> Option<Record> {
        let high = (word >> 32) as u32;
        (high & TAG_MASK == tag(step)).then(|| Record {
            loss: f32::from_bits(word as u32),
            right: high & RIGHT != 0,
        })
    }
}

fn tag(step: u64) -> u32 {
    step.wrapping_add(1) as u32 & TAG_MASK
}

/// K slots of 8-byte records, `[slots, rows]`, shared by the one who computes losses and the
/// trainer.
#[derive(Debug)]
pub struct LossRing {
    words: Words,
    slots: usize,
    rows: usize,
}

/// The memory: all access goes through [`Words::at`], one atomic word at a time, because a device
/// may be writing to the rest.
#[derive(Debug)]
struct Words {
    base: NonNull<AtomicU64>,
    len: usize,
    /// Keeps the memory alive.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the words are atomics, valid as long as the owner that travels with them.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of {}", self.len);
        // SAFETY: `base` is good for `len` words as long as `_owner` lives.
        unsafe { self.base.add(index).as_ref() }
    }
}

impl LossRing {
    /// A ring of `slots` steps (K) of at most `rows` records each.
    ///
    /// # Panics
    /// If there are fewer than 4 slots or no rows.
    pub fn new(slots: usize, rows: usize) -> LossRing {
        let words: Arc<[AtomicU64]> = (0..slots * rows).map(|_| AtomicU64::new(0)).collect();
        let base = NonNull::new(words.as_ptr().cast_mut()).expect("an address");
        // SAFETY: the words live in the shared slice, which is handed over as their owner.
        unsafe { LossRing::over(base, Arc::new(words), slots, rows) }
    }

    /// A ring in memory that a device also sees.
    ///
    /// # Panics
    /// If there are fewer than 4 slots or no rows.
    ///
    /// # Safety
    /// `base` must point to `slots·rows` zeroed words which stay valid as long as `owner` lives, and
    /// which nobody accesses but by single 8-byte loads and stores.
    pub unsafe fn over(
        base: NonNull<AtomicU64>,
        owner: Arc<dyn Any + Send + Sync>,
        slots: usize,
        rows: usize,
    ) -> LossRing {
        assert!(slots >= 4, "the loss ring needs 4 slots, not {slots}");
        assert!(rows > 0, "the loss ring needs rows");
        let words = Words {
            base,
            len: slots * rows,
            _owner: owner,
        };
        LossRing { words, slots, rows }
    }

    /// Steps that the ring holds, K.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Records that a step may have.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Stores the record of one row of a launched step: what the loss kernel does, on the CPU.
    pub fn store(&self, step: u64, row: usize, loss: f32, right: bool) {
        let word = Record { loss, right }.pack(step);
        // Release: whoever sees the record also sees all that its step did before.
        self.word(step, row).store(word, Ordering::Release);
    }

    /// The record of a row of a launched step, once it is there.
    pub fn read(&self, step: u64, row: usize) -> Option<Record> {
        Record::unpack(self.word(step, row).load(Ordering::Acquire), step)
    }

    /// Makes sure that `read(step, row)` is `None` until the step's own record is stored.
    fn spoil(&self, step: u64, row: usize) {
        let word = self.word(step, row);
        if Record::unpack(word.load(Ordering::Relaxed), step).is_some() {
            // Another tag than this step's. The launch orders this store before the step's own.
            word.store(u64::from(!tag(step)) << 32, Ordering::Relaxed);
        }
    }

    fn word(&self, step: u64, row: usize) -> &AtomicU64 {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.words
            .at((step % self.slots as u64) as usize * self.rows + row)
    }
}

/// All records of one step, by row.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecords {
    /// The step.
    pub step: u64,
    /// Loss of each row, without weights.
    pub losses: Vec<f32>,
    /// Whether the network was right.
    pub right: Vec<bool>,
}

/// The trainer's end of a [`LossRing`]: credits, and the records of finished steps in order. For
/// one thread.
#[derive(Debug)]
pub struct Drain {
    ring: Arc<LossRing>,
    /// Launched steps whose records are not all seen, oldest first, with their numbers of rows.
    in_flight: VecDeque<(usize, StepRecords)>,
    /// Steps before this one are seen completely.
    seen: u64,
}

impl Drain {
    /// Starts at `first_step`, with nothing in flight.
    pub fn new(ring: Arc<LossRing>, first_step: u64) -> Drain {
        Drain {
            ring,
            in_flight: VecDeque::new(),
            seen: first_step,
        }
    }

    /// Whether all records of step `step − K + 1` have been seen, so that `step` may be launched.
    pub fn may_launch(&self, step: u64) -> bool {
        step < self.seen + self.ring.slots as u64 - 1
    }

    /// Says that `step` with `rows` records is about to be launched. Call it *before* the step is
    /// handed to the device.
    ///
    /// # Panics
    /// If it is not the step after the last one, or [`may_launch`](Drain::may_launch) forbids it,
    /// or the ring has too few rows: a bug in the trainer.
    pub fn launching(&mut self, step: u64, rows: usize) {
        assert_eq!(step, self.seen + self.in_flight.len() as u64, "step order");
        assert!(self.may_launch(step), "step {step} has no credit");
        assert!(
            (1..=self.ring.rows).contains(&rows),
            "{rows} rows in a ring of {}",
            self.ring.rows
        );
        for row in 0..rows {
            self.ring.spoil(step, row);
        }
        let records = StepRecords {
            step,
            losses: Vec::with_capacity(rows),
            right: Vec::with_capacity(rows),
        };
        self.in_flight.push_back((rows, records));
    }

    /// The oldest step in flight, if all its records are there by now. Never waits, and reads each
    /// record once.
    pub fn poll(&mut self) -> Option<StepRecords> {
        let (rows, records) = self.in_flight.front_mut()?;
        while records.losses.len() < *rows {
            let record = self.ring.read(records.step, records.losses.len())?;
            records.losses.push(record.loss);
            records.right.push(record.right);
        }
        self.seen += 1;
        self.in_flight.pop_front().map(|(_, records)| records)
    }

    /// Number of steps launched whose records are not all seen.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The first step whose records are not all seen.
    pub fn seen(&self) -> u64 {
        self.seen
    }
}
