// Softmax cross-entropy: what every step of kernels/softmax_xent/ computes, and in which form.
//
//   loss[n]      = −Σ_c q_c · log_softmax(z[n])_c,   q_c = (1−ε)·[c = label] + ε/C
//   right[n]     = the first of the largest logits is the label's (and the loss is finite)
//   dlogits[n,c] = weight[n] / n_valid · (softmax(z[n])_c − q_c),  n_valid = rows not ignored
//   ring[step mod slots, n] = record(loss, right, step)            for n < rows of this step
//
//   logits, dlogits [N,C] bf16; labels [N] i32, −100 ignores the row (all zeros); weights, loss,
//   right [N] f32; ring [ring_slots, ring_rows] u64 in pinned host memory, or null
//
// All is relative to the row's maximum, so no exponential overflows and nothing large cancels:
//   loss = log1p(Σ_{c≠top} e^(z_c−max)) − (1−ε)·(z_label − max) − ε/C·Σ_c (z_c − max)
// The maximum's own term, 1, is left to log1p: a confident row keeps the digits of its small loss.
//
// A NaN or an infinite maximum makes the loss NaN or infinite and the gradient NaN. A label that is
// no class is a fault.
//
// Source: Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, 2015, arXiv
//   1512.00567 (label smoothing).
#pragma once

#include "bf16.cuh"
#include "record.cuh"
#include "step.cuh"

#include <climits>

constexpr int IGNORED = -100;

// The first of the largest logits. Comparisons with NaN are false: a NaN is never chosen.
struct Top {
    float value = -INFINITY;
    int index = INT_MAX;

    DEVICE void offer(float v, int c) {
        if (v > value || (v == value && c < index)) {
            value = v;
            index = c;
        }
    }
};

// What a row's loss is made of.
struct RowSums {
    Top top;
    float others = 0, offsets = 0;  // Σ_{c≠top} e^(z_c−max), Σ_c (z_c−max)

    // The top is that of the whole row.
    DEVICE void add(float z, int c) {
        const float offset = z - top.value;
        // The maximum's own offset: 0, or NaN where it is infinite.
        others += c == top.index ? offset : expf(offset);
        offsets += offset;
    }
};

// What a row's gradient is made of.
struct alignas(16) RowScale {
    float max = 0, inverse = 0;  // of Σ_c e^(z_c−max)
    float scale = 0;             // weight / n_valid
    int label = IGNORED;         // then the gradient is zeros

    RowScale() = default;

    DEVICE RowScale(const RowSums &sums, float scale, int label)
        : max(sums.top.value), inverse(1.0f / (1.0f + sums.others)), scale(scale), label(label) {}
};

// The distribution that a row's softmax is compared with.
struct Target {
    float share, rest;  // of any class, and beside it of the label's

    DEVICE Target(float smoothing, int classes)
        : share(smoothing / float(classes)), rest(1.0f - smoothing) {}

    DEVICE float loss(const RowSums &row, float label_logit) const {
        const float loss = log1pf(row.others) - rest * (label_logit - row.top.value);
        // Not 0·∞ where nothing is spread over classes that are infinitely unlikely.
        return share > 0.0f ? loss - share * row.offsets : loss;
    }

    DEVICE float gradient(const RowScale &row, float z, int c) const {
        const float p = expf(z - row.max) * row.inverse;
        return row.scale * (p - share - (c == row.label ? rest : 0.0f));
    }
};

// The row's label, which must be a class or IGNORED.
DEVICE int checked_label(const int *labels, int row, int classes) {
    const int label = labels[row];
    if (label != IGNORED && (label < 0 || label >= classes))
        __trap();
    return label;
}

// Rows that are not ignored, counted by each block for itself. All of its threads take part.
DEVICE int count_valid(const int *labels, int n) {
    const int threads = int(blockDim.x);
    int valid = 0;
    for (int first = 0; first < n; first += threads) {
        const int i = first + int(threadIdx.x);
        valid += __syncthreads_count(i < n && labels[i] != IGNORED);
    }
    return valid;
}

// Where a row's results go.
struct RowResults {
    const StepState *state;
    float *loss, *right;
    uint64_t *ring;  // or null
    uint32_t ring_slots, ring_rows;

    DEVICE void store(uint32_t row, float row_loss, bool row_right) const {
        loss[row] = row_loss;
        right[row] = row_right ? 1.0f : 0.0f;
        if (ring && row < state->rows) {
            if (row >= ring_rows)
                __trap();
            const size_t slot = state->step % ring_slots;
            store_record(ring + slot * ring_rows + row, row_loss, row_right, state->step);
        }
    }

    // Of a row whose loss is that.
    DEVICE void store(uint32_t row, const RowSums &sums, int label, float row_loss) const {
        store(row, row_loss, sums.top.index == label && fabsf(row_loss) < INFINITY);
    }
};
