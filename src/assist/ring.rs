//! Loss ring.
/// Placeholder.
pub struct LossRing;
