//! The feeder with its thread stuck, dead or slow.

use super::*;
use crate::assist::{Inputs, Preset};

const SLOTS: usize = 4;

fn feeder(preset: Preset, deterministic: bool) -> Feeder {
    let instances = Instances {
        classes: vec![0; 100],
        n_classes: 1,
        features: Vec::new(),
        costs: vec![1; 100],
        inputs: Inputs::None,
    };
    let config = AssistConfig {
        preset,
        epochs: 10.0,
        batch: 10,
        budget: 0.6,
        by_v: false,
        floor: 0.3,
        rescale: 0.0,
        seed: 1,
    };
    let assistant = Assistant::new(config, Arc::new(instances)).unwrap();
    let coupling = FeederConfig {
        slots: SLOTS,
        deterministic,
    };
    Feeder::spawn(assistant, coupling).unwrap()
}

fn feedback(batch: &Batch, id: u32) -> Feedback {
    Feedback {
        step: batch.number,
        ids: vec![id; 10],
        losses: vec![1.0; 10],
        right: vec![true; 10],
    }
}

/// With the Assistant stuck for good, the trainer still gets through its budget, and beyond.
#[test]
fn the_trainer_never_waits_and_what_is_lost_is_counted() {
    let feeder = feeder(Preset::Memory, false);
    let stuck = lock(&feeder.shared.assistant);
    let ready = lock(&feeder.shared.queue).ready.len() as u64;
    let pending = lock(&feeder.shared.queue).feedback.len();
    assert_eq!(pending, 0);
    for step in 0..70 {
        let batch = feeder.next().unwrap();
        assert_eq!((batch.number, batch.ids.len()), (step, 10));
        assert_eq!((batch.cost, batch.offered), (10, 10));
        assert_eq!(batch.feedback_through, None);
        feeder.feedback(feedback(&batch, batch.ids[0])).unwrap();
    }
    let stats = feeder.stats();
    assert_eq!((stats.candidates_seen, stats.offered), (700, 700));
    assert!(ready <= AHEAD as u64);
    // The 48 batches of the selecting phase, steps 6 to 53: none was composed.
    assert_eq!(stats.batches_unscored, 48);
    assert_eq!(stats.loss_records_dropped, (70 - 4 * SLOTS as u64) * 10);
    assert!(stats.feed_stall_seconds > 0.0);
    drop(stuck);
}

#[test]
fn a_dead_thread_is_an_error_not_a_hang() {
    let feeder = feeder(Preset::Memory, true);
    let mut failure = None;
    for _ in 0..60 {
        match feeder.next() {
            Ok(batch) => feeder.feedback(feedback(&batch, 1_000_000)).unwrap(),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    assert!(
        matches!(&failure, Some(AssistError::Thread(m)) if m.contains("index")),
        "{failure:?}"
    );
    assert_eq!(feeder.snapshot().err(), failure);
    assert_eq!(feeder.next().err(), failure);
}

#[test]
fn nothing_is_dropped_in_deterministic_mode_however_slow_the_thread() {
    let feeder = feeder(Preset::Memory, true);
    let batches: Vec<Batch> = (0..SLOTS).map(|_| feeder.next().unwrap()).collect();
    // Batch 4 needs step 0, which was not given: no use waiting.
    let missing = AssistError::FeedbackOrder {
        expected: 0,
        got: 0,
    };
    assert_eq!(feeder.next(), Err(missing));
    for batch in &batches {
        feeder.feedback(feedback(batch, 3)).unwrap();
    }
    let repeated = feeder.feedback(feedback(&batches[3], 3));
    assert!(matches!(
        repeated,
        Err(AssistError::FeedbackOrder {
            expected: 4,
            got: 3
        })
    ));
    let next = feeder.next().unwrap();
    assert_eq!((next.number, next.feedback_through), (4, Some(0)));
    assert_eq!(feeder.stats().loss_records_dropped, 0);
}

#[test]
fn a_loss_that_is_not_a_number_is_an_error_at_once() {
    let feeder = feeder(Preset::Off, false);
    let batch = feeder.next().unwrap();
    let mut bad = feedback(&batch, 7);
    bad.losses[2] = f32::NAN;
    let error = feeder.feedback(bad).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("step 0: the loss of instance 7 is NaN"),
        "{error}"
    );
}
