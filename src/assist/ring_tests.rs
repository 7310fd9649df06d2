//! The loss ring's contract, one thread at a time. (`tests/loom_ring.rs` has the others.)

use super::ring::*;
use std::sync::Arc;

#[test]
fn the_word_is_the_contract() {
    let record = Record {
        loss: 1.5,
        right: true,
    };
    assert_eq!(record.pack(0), 0x8000_0001_3fc0_0000);
    let wrong = Record {
        right: false,
        ..record
    };
    assert_eq!(wrong.pack(6), 0x0000_0007_3fc0_0000);
    assert_eq!(wrong.pack((1 << 31) - 1) >> 32, 0);
    assert_eq!(wrong.pack(1 << 31), wrong.pack(0));
}

#[test]
fn only_the_step_s_own_record_is_read() {
    let ring = LossRing::new(4, 2);
    assert_eq!(ring.read(0, 0), None, "fresh memory");
    ring.store(5, 1, f32::NAN, false);
    assert!(ring.read(5, 1).unwrap().loss.is_nan());
    assert_eq!(ring.read(5, 0), None);
    assert_eq!(ring.read(1, 1), None);
    assert_eq!(ring.read(9, 1), None);
}

#[test]
fn records_come_in_order_each_read_once() {
    let ring = Arc::new(LossRing::new(4, 2));
    let mut drain = Drain::new(ring.clone(), 10);
    drain.launching(10, 2);
    drain.launching(11, 1);
    ring.store(11, 0, 4.0, true);
    ring.store(10, 1, 3.0, false);
    assert_eq!(drain.poll(), None);
    ring.store(10, 0, 2.0, true);
    let records = drain.poll().unwrap();
    assert_eq!((records.step, records.losses), (10, vec![2.0, 3.0]));
    assert_eq!(records.right, [true, false]);
    assert_eq!(drain.poll().unwrap().step, 11);
    assert_eq!(
        (drain.poll(), drain.in_flight(), drain.seen()),
        (None, 0, 12)
    );
}

#[test]
fn credit_is_the_step_k_less_one_before() {
    let ring = Arc::new(LossRing::new(4, 1));
    let mut drain = Drain::new(ring.clone(), 0);
    for step in 0..3 {
        assert!(drain.may_launch(step));
        drain.launching(step, 1);
    }
    assert!(!drain.may_launch(3));
    ring.store(0, 0, 0.0, true);
    assert!(!drain.may_launch(3), "stored, but not seen");
    drain.poll().unwrap();
    assert!(drain.may_launch(3) && !drain.may_launch(4));
}

#[test]
fn stale_words_are_never_records() {
    // Tag 0 in fresh memory, at the step that carries it.
    let ring = Arc::new(LossRing::new(4, 2));
    let wrap = (1 << 31) - 1;
    let mut drain = Drain::new(ring.clone(), wrap);
    for step in wrap..wrap + 3 {
        drain.launching(step, 2);
    }
    assert_eq!(drain.poll(), None);
    ring.store(wrap, 0, 1.0, false);
    ring.store(wrap, 1, 1.0, false);
    assert_eq!(drain.poll().unwrap().step, wrap);
    // The same step again, as by the next run over the same ring.
    let mut again = Drain::new(ring.clone(), wrap);
    again.launching(wrap, 2);
    assert_eq!(again.poll(), None);
}
