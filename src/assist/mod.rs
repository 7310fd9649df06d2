//! The Assistant.

mod ring;
pub use ring::{Drain, LossRing, Record, StepRecords};
