//! What can go wrong with the Assistant.

use thiserror::Error;

/// Why the Assistant cannot go on.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum AssistError {
    /// The budget is not a share.
    #[error("a budget of {0} is not above 0 and at most 1")]
    Budget(f64),
    /// Nothing to train for.
    #[error("a number of epochs must be above 0")]
    NoEpochs,
    /// The batch is zero or larger than the data.
    #[error("a batch of {batch} cannot be filled from {instances} different instances")]
    Batch {
        /// Instances a batch.
        batch: usize,
        /// Instances in the training set.
        instances: usize,
    },
    /// The exploration floor or the exponent of the weights is not usable.
    #[error("{name} of {value} is not in {range}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What was given.
        value: f32,
        /// What is allowed.
        range: &'static str,
    },
    /// The description of the instances contradicts itself.
    #[error("the training instances are unusable: {0}")]
    Instances(&'static str),
    /// The Boss's loss is not a number.
    #[error("step {step}: the loss of instance {id} is {loss}")]
    NonFiniteLoss {
        /// The step.
        step: u64,
        /// The instance.
        id: u32,
        /// Its loss.
        loss: f32,
    },
    /// Feedback did not come in the order of the steps, or a batch was asked for before the
    /// feedback it depends on was given.
    #[error("feedback of step {expected} is due, not of step {got}")]
    FeedbackOrder {
        /// The step whose feedback is due.
        expected: u64,
        /// The step that was given or, for a batch that was asked for, the last one that it depends
        /// on.
        got: u64,
    },
    /// A saved state is of another run, or damaged.
    #[error("the saved state of the Assistant does not fit: {0}")]
    State(&'static str),
    /// The Assistant's thread could not be started, or died.
    #[error("the Assistant's thread failed: {0}")]
    Thread(String),
}
