// Softmax cross-entropy: each row's loss and right bit, the gradient of the batch's loss, and the
// loss record for the host, from one read of the logits.
//
//   loss[n]      = −Σ_c q_c · log_softmax(z[n])_c,   q_c = (1−ε)·[c = label] + ε/C
//   right[n]     = the first of the largest logits is the label's (and the loss is finite)
//   dlogits[n,c] = weight[n] / n_valid · (softmax(z[n])_c − q_c),  n_valid = rows not ignored
//   ring[step mod slots, n] = record(loss, right, step)            for n < rows of this step
//
//   logits, dlogits [N,C] bf16; labels [N] i32, −100 ignores the row (all zeros); weights, loss,
//   right [N] f32; ring [ring_slots, ring_rows] u64 in pinned host memory, or null
//
// The one idea: a warp a row. Lanes take every 32nd class and hold them in registers, maximum and
// sums are butterfly shuffles, so rows never touch shared memory and each adds up in a fixed
// order. The record leaves as soon as the loss is known, before the gradient is written.
//
// All is relative to the row's maximum, so no exponential overflows and nothing large cancels:
//   loss = log1p(Σ_{c≠top} e^(z_c−max)) − (1−ε)·(z_label − max) − ε/C·Σ_c (z_c − max)
// The maximum's own term, 1, is left to log1p: a confident row keeps the digits of its small loss.
//
// A NaN or an infinite maximum makes the loss NaN or infinite and the gradient NaN. A label that is
// no class is a fault.
//
// Bound: 4 bytes a logit (2 read, 2 written).
// Launch: ceil(N / 4) blocks of 128 threads, a warp a row. Each block counts n_valid for itself.

#include "bf16.cuh"
#include "record.cuh"
#include "step.cuh"

#include <climits>
#include <cmath>

namespace {

constexpr int IGNORED = -100;

// The first of the largest logits. Comparisons with NaN are false: a NaN is never chosen.
struct Top {
    float value;
    int index;

    DEVICE void offer(float v, int c) {
        if (v > value || (v == value && c < index)) {
            value = v;
            index = c;
        }
    }
};

DEVICE Top top_of_lanes(Top top) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const float value = __shfl_xor_sync(~0u, top.value, offset);
        const int index = __shfl_xor_sync(~0u, top.index, offset);
        top.offer(value, index);
    }
    return top;
}

DEVICE float sum_of_lanes(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

// Calls f(j, c) for the lane's j-th class c. HELD > 0 is a promise that there are no more than HELD
// a lane; the loop is then unrolled, so that j can index registers.
template <int HELD, class F> DEVICE void each_class(int classes, F f) {
    const int lane = int(threadIdx.x) % 32;
    if constexpr (HELD > 0) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            if (32 * j >= classes)
                break;
            if (lane + 32 * j < classes)
                f(j, lane + 32 * j);
        }
    } else {
        for (int c = lane; c < classes; c += 32)
            f(0, c);
    }
}

// Where a row's results go.
struct Results {
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
};

// HELD: classes a lane holds in registers; 0 reads them again, from the cache, at each use.
template <int HELD>
DEVICE void softmax_xent_rows(const bf16 *logits, const int *labels, const float *weights,
                              float smoothing, int n, int classes, bf16 *dlogits,
                              const Results &results) {
    const int threads = int(blockDim.x), thread = int(threadIdx.x);
    int valid = 0;
    for (int first = 0; first < n; first += threads) {
        const int i = first + thread;
        valid += __syncthreads_count(i < n && labels[i] != IGNORED);
    }
    const int row = int(blockIdx.x) * (threads / 32) + thread / 32;
    if (row >= n)
        return;

    const bool writer = thread % 32 == 0;
    const int label = labels[row];
    const bf16 *z = logits + size_t(row) * classes;
    bf16 *d = dlogits + size_t(row) * classes;
    if (label == IGNORED) {
        if (writer)
            results.store(row, 0.0f, false);
        each_class<0>(classes, [&](int, int c) { d[c] = to_bf16(0.0f); });
        return;
    }
    if (label < 0 || label >= classes)
        __trap();

    float held[HELD ? HELD : 1];
    Top top = {-INFINITY, INT_MAX};
    each_class<HELD>(classes, [&](int j, int c) {
        const float v = to_float(z[c]);
        if (HELD)
            held[j] = v;
        top.offer(v, c);
    });
    top = top_of_lanes(top);
    const auto logit = [&](int j, int c) { return HELD ? held[j] : to_float(z[c]); };

    float others = 0.0f, offsets = 0.0f;
    each_class<HELD>(classes, [&](int j, int c) {
        const float offset = logit(j, c) - top.value;
        // The maximum's own offset: 0, or NaN where it is infinite.
        others += c == top.index ? offset : expf(offset);
        offsets += offset;
    });
    others = sum_of_lanes(others);
    offsets = sum_of_lanes(offsets);

    const float share = smoothing / float(classes), rest = 1.0f - smoothing;
    float loss = log1pf(others) - rest * (to_float(z[label]) - top.value);
    // Not 0·∞ where nothing is spread over classes that are infinitely unlikely.
    if (share > 0.0f)
        loss -= share * offsets;
    if (writer)
        results.store(row, loss, top.index == label && fabsf(loss) < INFINITY);

    const float scale = weights[row] / float(valid), inverse = 1.0f / (1.0f + others);
    each_class<HELD>(classes, [&](int j, int c) {
        const float p = expf(logit(j, c) - top.value) * inverse;
        d[c] = to_bf16(scale * (p - share - (c == label ? rest : 0.0f)));
    });
}

}  // namespace

// Up to 1024 classes: 32 a lane, held.
KERNEL(softmax_xent, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, bf16 *dlogits, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const Results results = {state, loss, right, ring, ring_slots, ring_rows};
    softmax_xent_rows<32>(logits, labels, weights, smoothing, n, classes, dlogits, results);
}
EXPORT(softmax_xent)

// Any number of classes: a row is read three times, by the same warp shortly after one another.
KERNEL(softmax_xent_wide, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, bf16 *dlogits, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const Results results = {state, loss, right, ring, ring_slots, ring_rows};
    softmax_xent_rows<0>(logits, labels, weights, smoothing, n, classes, dlogits, results);
}
EXPORT(softmax_xent_wide)
