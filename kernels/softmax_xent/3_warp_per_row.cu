// Softmax cross-entropy (formulas: xent.cuh): each row's loss and right bit, the gradient of the
// batch's loss, and the loss record for the host, from one read of the logits.
//
// The idea: a warp a row, held in its registers, is read once. Lanes take every 32nd class, so a
// warp reads what lies side by side. Maximum and sums are butterfly shuffles: rows never touch
// shared memory and each adds up in a fixed order. The record leaves as soon as the loss is known,
// before the gradient is written.
//
//     lane      0 1 2 ..  31  0 1 2 ..  31  0 ..         a class a lane: 64 bytes a request
//     logits   |.........row.............................|
//               v in registers
//     lane l <- max / sum of l and l XOR 16, 8, 4, 2, 1  (butterfly: afterwards all lanes know it)
//
// Where registers cannot hold a row each lane keeps sums as in 2_online.cu, and the row is read a
// second time for the gradient.
//
// Bound: 4 bytes a logit (2 read, 2 written); 6 beyond 1024 classes.
// Launch: ceil(N / 4) blocks of 128 threads, a warp a row. Each block counts n_valid for itself.
//
// Source: Milakov, Gimelshein: Online normalizer calculation for softmax, 2018, arXiv 1805.02867.
// Source: CUDA C++ Programming Guide, "Warp Shuffle Functions".

#include "xent_online.cuh"

namespace {

// Classes that a lane holds.
constexpr int HELD = 32;

DEVICE float sum_of_lanes(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

DEVICE Top top_of_lanes(Top top) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const float value = __shfl_xor_sync(~0u, top.value, offset);
        const int index = __shfl_xor_sync(~0u, top.index, offset);
        top.offer(value, index);
    }
    return top;
}

DEVICE OnlineSums online_of_lanes(OnlineSums sums) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        OnlineSums other = sums;
        other.so_far.top.value = __shfl_xor_sync(~0u, sums.so_far.top.value, offset);
        other.so_far.top.index = __shfl_xor_sync(~0u, sums.so_far.top.index, offset);
        other.so_far.others = __shfl_xor_sync(~0u, sums.so_far.others, offset);
        other.so_far.offsets = __shfl_xor_sync(~0u, sums.so_far.offsets, offset);
        other.count = __shfl_xor_sync(~0u, sums.count, offset);
        sums.add(other);
    }
    return sums;
}

// A row's logits in its lanes' registers: lane l has classes l, l + 32, ...
class HeldRow {
    const int lane = int(threadIdx.x) % 32, classes;
    float held[HELD];

    // Calls f(j, c) for the lane's j-th class c; unrolled, so that j can index registers.
    template <class F> DEVICE void each_class(F f) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            if (32 * j >= classes)
                break;
            if (lane + 32 * j < classes)
                f(j, lane + 32 * j);
        }
    }

  public:
    DEVICE HeldRow(const bf16 *z, int classes) : classes(classes) {
        each_class([&](int j, int c) { held[j] = to_float(z[c]); });
    }

    DEVICE RowSums sums() {
        RowSums sums;
        each_class([&](int j, int c) { sums.top.offer(held[j], c); });
        sums.top = top_of_lanes(sums.top);
        each_class([&](int j, int c) { sums.add(held[j], c); });
        sums.others = sum_of_lanes(sums.others);
        sums.offsets = sum_of_lanes(sums.offsets);
        return sums;
    }

    // Calls f(z, c) for each of the lane's classes.
    template <class F> DEVICE void each_logit(F f) {
        each_class([&](int j, int c) { f(held[j], c); });
    }
};

// A row that is read at each use. It has at least 32 classes.
class ReadRow {
    const int lane = int(threadIdx.x) % 32, classes;
    const bf16 *z;

  public:
    DEVICE ReadRow(const bf16 *z, int classes) : classes(classes), z(z) {}

    DEVICE RowSums sums() {
        OnlineSums sums(to_float(z[lane]), lane);
#pragma unroll 8
        for (int c = lane + 32; c < classes; c += 32)
            sums.add(to_float(z[c]), c);
        return online_of_lanes(sums).row();
    }

    template <class F> DEVICE void each_logit(F f) {
#pragma unroll 8
        for (int c = lane; c < classes; c += 32)
            f(to_float(z[c]), c);
    }
};

template <class Row>
DEVICE void softmax_xent_rows(const bf16 *__restrict__ logits, const int *labels,
                              const float *weights, float smoothing, int n, int classes,
                              bf16 *__restrict__ dlogits, const RowResults &results) {
    const int valid = count_valid(labels, n);
    const int threads = int(blockDim.x), thread = int(threadIdx.x);
    const int row = int(blockIdx.x) * (threads / 32) + thread / 32;
    if (row >= n)
        return;
    const bool writer = thread % 32 == 0;
    const int label = checked_label(labels, row, classes);
    const bf16 *z = logits + size_t(row) * classes;
    bf16 *d = dlogits + size_t(row) * classes;
    if (label == IGNORED) {
        if (writer)
            results.store(row, 0.0f, false);
        for (int c = thread % 32; c < classes; c += 32)
            d[c] = to_bf16(0.0f);
        return;
    }

    Row values(z, classes);
    const RowSums sums = values.sums();
    const Target target(smoothing, classes);
    if (writer)
        results.store(row, sums, label, target.loss(sums, to_float(z[label])));
    const RowScale scale(sums, weights[row] / float(valid), label);
    values.each_logit([&](float v, int c) { d[c] = to_bf16(target.gradient(scale, v, c)); });
}

}  // namespace

// Up to 1024 classes: 32 a lane, held.
KERNEL(softmax_xent, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, bf16 *dlogits, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const RowResults results = {state, loss, right, ring, ring_slots, ring_rows};
    softmax_xent_rows<HeldRow>(logits, labels, weights, smoothing, n, classes, dlogits, results);
}
EXPORT(softmax_xent)

// Any number of classes from 32 on.
KERNEL(softmax_xent_wide, 128)
(const StepState *state, const bf16 *logits, const int *labels, const float *weights,
 float smoothing, int n, int classes, bf16 *dlogits, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const RowResults results = {state, loss, right, ring, ring_slots, ring_rows};
    softmax_xent_rows<ReadRow>(logits, labels, weights, smoothing, n, classes, dlogits, results);
}
EXPORT(softmax_xent_wide)

// Try: maximum and sums are butterflies of two numbers each. How many shuffles does `kernels
// profile softmax_xent --step 3 --shape 128x320` do for its 128 rows?
// Answer: `2560 warp operations`: 2 · 2 · 5 a row.
