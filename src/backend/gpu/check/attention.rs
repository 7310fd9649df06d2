//! Attention.

use super::cases::Case;

/// Cases of this step of the ladders.
pub(super) fn cases(_step: u32) -> Vec<Case> {
    Vec::new()
}
