//! Model check of the loss ring's host side: every interleaving and every memory order that the
//! atomics allow, up to a bound on preemptions. It is the library's own file, compiled with loom's
//! atomics.

use atomic::{AtomicU64, Ordering};
use loom::cell::UnsafeCell;
use loom::thread;
use ring::{Drain, LossRing};
use std::sync::Arc;

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/assist/ring.rs"]
#[allow(dead_code)] // the trainer and the devices use the rest of it
mod ring;

const SLOTS: usize = 4;
const ROWS: usize = 2;
const STEPS: u64 = 6;

fn loss(step: u64, row: usize) -> f32 {
    step as f32 * 16.0 + row as f32
}

fn right(step: u64, row: usize) -> bool {
    (step + row as u64).is_multiple_of(3)
}

fn rows(step: u64) -> usize {
    1 + step as usize % ROWS
}

/// What the device works on in a step, in ordinary memory: loom reports any access to it that is
/// not ordered.
struct Device {
    ring: Arc<LossRing>,
    /// Number of steps launched.
    launched: AtomicU64,
    /// By slot, what the trainer writes before the launch and the step's first kernel reads.
    inputs: [UnsafeCell<u64>; SLOTS],
    /// By slot, what the step's last kernel writes, after the records.
    completed: [UnsafeCell<u64>; SLOTS],
}

impl Device {
    fn run(&self) {
        for step in 0..STEPS {
            while self.launched.load(Ordering::Acquire) <= step {
                thread::yield_now();
            }
            let slot = step as usize % SLOTS;
            // SAFETY: loom checks that no access is concurrent.
            let input = self.inputs[slot].with(|p| unsafe { *p });
            assert_eq!(input, step, "the slot was overwritten before it was read");
            for row in 0..rows(step) {
                self.ring
                    .store(step, row, loss(step, row), right(step, row));
            }
            // SAFETY: loom checks that no access is concurrent.
            self.completed[slot].with_mut(|p| unsafe { *p = step });
        }
    }
}

fn collect(drain: &mut Drain, expected: &mut u64) {
    while let Some(records) = drain.poll() {
        let step = *expected;
        assert_eq!(records.step, step, "a step was lost");
        assert_eq!(records.losses.len(), rows(step));
        for row in 0..rows(step) {
            assert_eq!(records.losses[row], loss(step, row));
            assert_eq!(records.right[row], right(step, row));
        }
        *expected += 1;
    }
}

#[test]
fn no_record_is_lost_torn_or_of_another_step_and_no_slot_is_reused_early() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        #[allow(clippy::arc_with_non_send_sync)] // loom looks at who shares it, and how
        let device = Arc::new(Device {
            ring: Arc::new(LossRing::new(SLOTS, ROWS)),
            launched: AtomicU64::new(0),
            inputs: std::array::from_fn(|_| UnsafeCell::new(u64::MAX)),
            completed: std::array::from_fn(|_| UnsafeCell::new(u64::MAX)),
        });
        let stream = thread::spawn({
            let device = device.clone();
            move || device.run()
        });
        let mut drain = Drain::new(device.ring.clone(), 0);
        let mut expected = 0;
        for step in 0..STEPS {
            while !drain.may_launch(step) {
                collect(&mut drain, &mut expected);
                if !drain.may_launch(step) {
                    thread::yield_now();
                }
            }
            let slot = step as usize % SLOTS;
            // Credit proves that the step that had the slot before is complete, its last kernel
            // included. SAFETY: loom checks that no access is concurrent.
            let before = device.completed[slot].with(|p| unsafe { *p });
            assert_eq!(before, step.checked_sub(SLOTS as u64).unwrap_or(u64::MAX));
            drain.launching(step, rows(step));
            // SAFETY: loom checks that no access is concurrent.
            device.inputs[slot].with_mut(|p| unsafe { *p = step });
            device.launched.store(step + 1, Ordering::Release);
        }
        while expected < STEPS {
            collect(&mut drain, &mut expected);
            thread::yield_now();
        }
        stream.join().unwrap();
    });
}
