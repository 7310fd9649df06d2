// What the first steps of attention share: a warp computes a row, 32 elements of a sum at a time.
#pragma once

#include "attention.cuh"

constexpr int NAIVE_THREADS = 128;

// The warp's row.
DEVICE int naive_row() {
    return int(blockIdx.x) * (NAIVE_THREADS / 32) + int(threadIdx.x) / 32;
}

DEVICE float max_of_lanes(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, offset));
    return v;
}

DEVICE float sum_of_lanes(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

DEVICE float dot(const bf16 *a, const bf16 *b, int depth) {
    float sum = 0.0f;
    for (int c = 0; c < depth; c++)
        sum += to_float(a[c]) * to_float(b[c]);
    return sum;
}

// to = Σ_j weight(j) rows[j] over first <= j < end. A lane computes every 32nd weight and adds up
// every 32nd column.
template <class Weight, class T>
DEVICE void weighted_rows(int first, int end, int depth, Weight weight, const HeadRows<T> &rows,
                          bf16 *to) {
    const int lane = int(threadIdx.x) % 32;
    for (int start = 0; start < depth; start += 32) {
        const int c = start + lane;
        float sum = 0.0f;
        for (int j = first; j < end; j += 32) {
            const float mine = j + lane < end ? weight(j + lane) : 0.0f;
            for (int other = 0; other < min(32, end - j); other++) {
                const float w = __shfl_sync(~0u, mine, other);
                if (c < depth)
                    sum += w * to_float(rows.row(j + other)[c]);
            }
        }
        if (c < depth)
            to[c] = to_bf16(sum);
    }
}
