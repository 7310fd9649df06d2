// A padded batch of sentence pairs from pair numbers:
//
//   source[b]   = tokens of pair ids[b]'s source, then PAD          [B, S]
//   previous[b] = EOS, its target without the last token, then PAD  [B, T]
//   target[b]   = its target, then IGNORED                          [B, T]
//
// with both lengths, the first row of each sentence, offsets = 0, T, 2T, ..., and the weights. A
// row past the step's last has an EOS as source and previous token, no target, and weight 0.
//
// The idea: the corpus stays on the device as it was read, sentence after sentence; what crosses
// the bus in a step is numbers of pairs. A block a row, neighbours copy neighbours.
//
// Bound: latency; some hundred bytes a row.
// Launch: B blocks of 64 threads.

#include "step.cuh"

namespace {

constexpr int PAD = 1, EOS = 2, IGNORED = -100;

// One side of the corpus: sentence i is tokens[ends[i-1]..ends[i]].
struct Sentences {
    const int *tokens;
    const uint32_t *ends;

    DEVICE uint32_t start(uint32_t i) const {
        return i == 0 ? 0 : ends[i - 1];
    }
    DEVICE int length(uint32_t i) const {
        return int(ends[i] - start(i));
    }
    DEVICE const int *sentence(uint32_t i) const {
        return tokens + start(i);
    }
};

}  // namespace

KERNEL(gather_pairs, 64)
(const StepState *state, const uint32_t *ids, const float *row_weights, const int *source_tokens,
 const uint32_t *source_ends, const int *target_tokens, const uint32_t *target_ends,
 uint32_t count, int s, int t, int *source, int *source_len, int *previous, int *target_len,
 int *target, int *offsets, float *weights) {
    const uint32_t row = blockIdx.x;
    const bool trained = row < state->rows;
    if (state->rows > gridDim.x)
        __trap();  // more pairs than the batch has rows
    const Sentences sources = {source_tokens, source_ends}, targets = {target_tokens, target_ends};
    const int *from = nullptr, *to = nullptr;
    int from_length = 0, to_length = 0;
    if (trained) {
        const uint32_t id = ids[row];
        if (id >= count)
            __trap();
        from = sources.sentence(id), from_length = sources.length(id);
        to = targets.sentence(id), to_length = targets.length(id);
        if (from_length > s || to_length > t)
            __trap();  // cutting sentences would train on something else
    }
    for (int i = int(threadIdx.x); i < s; i += int(blockDim.x)) {
        const int empty = i == 0 && !trained ? EOS : PAD;
        source[size_t(row) * s + i] = i < from_length ? from[i] : empty;
    }
    for (int i = int(threadIdx.x); i < t; i += int(blockDim.x)) {
        const size_t at = size_t(row) * t + i;
        previous[at] = i == 0 ? EOS : i < to_length ? to[i - 1] : PAD;
        target[at] = i < to_length ? to[i] : IGNORED;
    }
    if (threadIdx.x == 0) {
        source_len[row] = max(from_length, 1);
        target_len[row] = max(to_length, 1);
        weights[row] = trained ? row_weights[row] : 0.0f;
        offsets[row] = int(row) * t;
        if (row + 1 == gridDim.x)
            offsets[row + 1] = int(row + 1) * t;
    }
}
EXPORT(gather_pairs)
