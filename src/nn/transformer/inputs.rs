//! What a stack and its layers are run on.

use crate::backend::Tensor;

/// Sizes of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackShape {
    pub sentences: usize,
    pub length: usize,
    /// Length of what the decoder looks at.
    pub memory: Option<usize>,
}

impl StackShape {
    pub fn rows(&self) -> [usize; 2] {
        [self.sentences, self.length]
    }
}

/// Where decoding is, with R hypotheses.
#[derive(Clone, Copy)]
pub(super) struct Present {
    /// `[R]` labels: `0, 1, 2, …`, and the rows of a cache where the present token's go.
    pub rows: Tensor,
    pub slots: Tensor,
    /// `[R]` labels: tokens so far, the present one included.
    pub lengths: Tensor,
    /// Hypotheses of a sentence, which are neighbours.
    pub beams: usize,
}

/// Keys and values of the tokens before: for each sublayer that keeps them `[1, R, most, 2d]`.
pub(super) struct Past {
    pub caches: Vec<Option<Tensor>>,
    pub now: Present,
}

/// What the decoder looks at, `[1, B, S, d]`, and how much of it counts.
pub(super) type Memory = Option<(Tensor, Tensor)>;
