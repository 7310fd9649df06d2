// The loss of sentences (formulas: sentence_xent.cuh) from one read of the logits and one write.
//
// The idea: a row stays on chip from its only read to its only write. A block copies it to shared
// memory, looking for the largest logit on the way, adds up from there, and writes the gradient
// from there; dlogits may take the place of the logits. Which block of a sentence is the last to
// finish a counter tells: that one adds up the sentence's token losses in their order, so the sums
// do not depend on who came last, and stores the record while other sentences are still at work.
//
//     block of row      0   1   2   3      each stores its token_loss, __threadfence(), counter + 1
//     counter becomes   1   3   4   2
//                               |
//                               +-- the last: reads all four, adds them in the order of rows,
//                                   stores the sentence's loss and record
//
//   sentence_xent_begin   counts T, zeroes the counters, and sees to sentences without rows
//   sentence_xent         a block a row
//
//   total [1], counters [B] u32, right_rows [R] f32: scratch
//
// Bound: 4 bytes a logit (2 read, 2 written).
// Launch: begin 1 block of 1024 threads; sentence_xent R blocks of 256 threads and 2V bytes of
// dynamic shared memory. 8 divides V, and rows start at multiples of 16 bytes.
//
// Source: CUDA C++ Programming Guide, "Memory Fence Functions" (its example: the last block adds
//   up).

#include "sentence_xent.cuh"
#include "vector.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

// Sums of a row by all threads: each adds up its own, then its warp's by shuffles, then the warps'.
struct Partial {
    float others, offsets;
};

DEVICE Top top_of_block(Top top, float (&values)[WARPS], int (&indices)[WARPS]) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const float value = __shfl_xor_sync(~0u, top.value, offset);
        const int index = __shfl_xor_sync(~0u, top.index, offset);
        top.offer(value, index);
    }
    if (threadIdx.x % 32 == 0)
        values[threadIdx.x / 32] = top.value, indices[threadIdx.x / 32] = top.index;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        top.offer(values[w], indices[w]);
    return top;
}

DEVICE Partial sum_of_block(Partial sum, Partial (&shared)[WARPS]) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        sum.others += __shfl_xor_sync(~0u, sum.others, offset);
        sum.offsets += __shfl_xor_sync(~0u, sum.offsets, offset);
    }
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = sum;
    __syncthreads();
    Partial all = {0, 0};
    for (int w = 0; w < WARPS; w++) {
        all.others += shared[w].others;
        all.offsets += shared[w].offsets;
    }
    return all;
}

// Calls f(vector number) for each of the thread's vectors of eight logits.
template <class F> DEVICE void each_vector(int classes, F f) {
#pragma unroll 2
    for (int v = int(threadIdx.x); v < classes / 8; v += THREADS)
        f(v);
}

}  // namespace

KERNEL(sentence_xent_begin, 1024)
(const StepState *state, const int *labels, const int *offsets, int n, int sentences,
 uint32_t *total, uint32_t *counters, float *loss, float *right, uint64_t *ring,
 uint32_t ring_slots, uint32_t ring_rows) {
    const int valid = count_valid(labels, n);
    if (threadIdx.x == 0)
        *total = uint32_t(valid);
    for (int b = int(threadIdx.x); b < sentences; b += int(blockDim.x)) {
        counters[b] = 0;
        if (offsets[b] == offsets[b + 1])
            SentenceSum().store({state, loss, right, ring, ring_slots, ring_rows}, b);
    }
}
EXPORT(sentence_xent_begin)

KERNEL(sentence_xent, 256)
(const StepState *state, const bf16 *logits, const int *labels, const int *offsets,
 const float *weights, float smoothing, int classes, int sentences, const uint32_t *total,
 uint32_t *counters, bf16 *dlogits, float *token_loss, float *right_rows, float *loss,
 float *right, uint64_t *ring, uint32_t ring_slots, uint32_t ring_rows) {
    SHARED(float, top_values, [WARPS]);
    SHARED(int, top_indices, [WARPS]);
    SHARED(Partial, partials, [WARPS]);
    DYNAMIC_SHARED(bf16, row);
    const int r = int(blockIdx.x), b = sentence_of(offsets, sentences, r);
    const int label = checked_label(labels, r, classes);
    const bf16 *z = logits + size_t(r) * classes;
    bf16 *d = dlogits + size_t(r) * classes;

    float row_loss = 0.0f;
    bool row_right = false;
    RowScale scale;
    if (label != IGNORED) {
        Top top;
        each_vector(classes, [&](int v) {
            const Pack<8> eight = load<8>(z + 8 * v);
            *reinterpret_cast<Pack<8> *>(row + 8 * v) = eight;
#pragma unroll
            for (int i = 0; i < 8; i++)
                top.offer(eight[i], 8 * v + i);
        });
        RowSums sums;
        sums.top = top_of_block(top, top_values, top_indices);  // and the row is complete
        each_vector(classes, [&](int v) {
            const Pack<8> eight = load<8>(row + 8 * v);
#pragma unroll
            for (int i = 0; i < 8; i++)
                sums.add(eight[i], 8 * v + i);
        });
        const Partial all = sum_of_block({sums.others, sums.offsets}, partials);
        sums.others = all.others, sums.offsets = all.offsets;
        row_loss = Target(smoothing, classes).loss(sums, to_float(row[label]));
        row_right = sums.top.index == label && fabsf(row_loss) < INFINITY;
        scale = RowScale(sums, weights[b] / float(*total), label);
    }

    // The record first: the host waits for it, and nobody for the gradient.
    if (threadIdx.x < 32) {
        const int lane = int(threadIdx.x), first = offsets[b], end = offsets[b + 1];
        bool last = false;
        if (lane == 0) {
            token_loss[r] = row_loss;
            right_rows[r] = row_right ? 1.0f : 0.0f;
            __threadfence();  // before whoever comes last can know of this row
            last = atomicAdd(counters + b, 1u) == uint32_t(end - first - 1);
            __threadfence();  // and what it knows of is there
        }
        __syncwarp();
        if (__shfl_sync(~0u, int(last), 0)) {
            SentenceSum sum;
            for (int start = first; start < end; start += 32) {
                // 32 at a time from memory, one after the other into the sum.
                const int mine = start + lane;
                float lane_loss = 0.0f;
                int lane_state = 0;
                if (mine < end) {
                    lane_loss = *(volatile const float *)(token_loss + mine);
                    lane_state = int(labels[mine] != IGNORED) +
                                 2 * int(*(volatile const float *)(right_rows + mine) != 0.0f);
                }
                for (int l = 0; l < 32; l++) {
                    const float next = __shfl_sync(~0u, lane_loss, l);
                    const int next_state = __shfl_sync(~0u, lane_state, l);
                    sum.add(next_state & 1, next, next_state & 2);
                }
            }
            if (lane == 0)
                sum.store({state, loss, right, ring, ring_slots, ring_rows}, b);
        }
    }

    const Target target(smoothing, classes);
    each_vector(classes, [&](int v) {
        float g[8] = {};
        if (label != IGNORED) {
            const Pack<8> eight = load<8>(row + 8 * v);
#pragma unroll
            for (int i = 0; i < 8; i++)
                g[i] = target.gradient(scale, eight[i], 8 * v + i);
        }
        store(d + 8 * v, g);
    });
}
EXPORT(sentence_xent)
