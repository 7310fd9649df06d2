//! Which kernels of an op an executor takes.

use super::Gpu;

/// An op with several steps in `kernels/`: each is right, and each but the first has one idea more
/// than the step before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ladder {
    /// `conv_{fprop,dgrad,wgrad,backward}`.
    Conv,
    /// `softmax_xent`.
    SoftmaxXent,
    /// `bn_{moments,coefficients,apply,backward_sums,backward}`.
    BatchNorm,
    /// `gather`.
    Gather,
    /// `sgd`.
    Sgd,
    /// `gemm`.
    Gemm,
    /// `linear`.
    Linear,
    /// `attention`, `attention_backward`: of the second and the third step the one that suits the
    /// lengths, so 3 allows both and 2 leaves long sentences to the first.
    Attention,
    /// `embedding`.
    Embedding,
    /// `layer_norm`.
    LayerNorm,
    /// `sentence_xent`.
    SentenceXent,
    /// `adam`.
    Adam,
    /// `copy`: the third step where both tensors start at multiples of 16 bytes.
    Copy,
}

impl Ladder {
    /// All of them.
    pub const ALL: [Ladder; 13] = [
        Ladder::Conv,
        Ladder::SoftmaxXent,
        Ladder::BatchNorm,
        Ladder::Gather,
        Ladder::Sgd,
        Ladder::Gemm,
        Ladder::Linear,
        Ladder::Attention,
        Ladder::Embedding,
        Ladder::LayerNorm,
        Ladder::SentenceXent,
        Ladder::Adam,
        Ladder::Copy,
    ];

    /// Number of the last step, the one that training takes where device and shape allow it.
    pub fn last(self) -> u32 {
        match self {
            Ladder::Conv => 5,
            Ladder::SoftmaxXent => 3,
            Ladder::BatchNorm => 3,
            Ladder::Gather => 3,
            Ladder::Sgd => 2,
            Ladder::Gemm => 7,
            Ladder::Linear => 4,
            Ladder::Attention => 3,
            Ladder::Embedding => 2,
            Ladder::LayerNorm => 2,
            Ladder::SentenceXent => 2,
            Ladder::Adam => 2,
            Ladder::Copy => 3,
        }
    }
}

/// The highest step of each ladder that may be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits([u32; Ladder::ALL.len()]);

impl Default for Limits {
    fn default() -> Limits {
        Limits(Ladder::ALL.map(Ladder::last))
    }
}

impl Gpu {
    /// Takes no step of a ladder above this one, from the next launch or capture on: for
    /// comparisons. Steps that the device or a shape is too small for are left out without it.
    pub fn limit(&mut self, ladder: Ladder, step: u32) {
        self.limits.0[ladder as usize] = step;
    }

    /// Whether a step of a ladder may be taken.
    pub(super) fn allows(&self, ladder: Ladder, step: u32) -> bool {
        step <= self.limits.0[ladder as usize]
    }
}
