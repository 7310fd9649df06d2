// Reductions over a block's threads. The order of additions follows from the block's shape alone,
// so equal inputs give equal bits.
//
// Source: Harris: Optimizing Parallel Reduction in CUDA, NVIDIA, 2007.
#pragma once

#include "kernel.cuh"

// N sums.
template <int N> struct Sums {
    float v[N];

    DEVICE void add(const Sums &other) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] += other.v[i];
    }
};

// Count, means, and sums of squares around the means of N channels.
template <int N> struct Moments {
    float n, mean[N], m2[N];

    // As if the other's elements had been counted here, too (Chan, Golub and LeVeque, 1979). Only
    // differences of means are squared: nothing cancels, however far from 0 the means are.
    DEVICE void add(const Moments &other) {
        const float all = n + other.n;
        // Nothing and nothing is nothing.
        const float share = other.n / fmaxf(all, 1), weight = n * share;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float d = other.mean[i] - mean[i];
            mean[i] += d * share;
            m2[i] += other.m2[i] + d * (d * weight);  // in this order weight 0 gives 0
        }
        n = all;
    }
};

// T consists of floats and has add(). The block is `rows` rows of `across` threads; threads past
// them are left out. Afterwards the threads of row 0 have what their columns add up to: a tree, in
// each round of which half of the rows hand their values to the other half.
template <class T, int WORDS, int THREADS>
DEVICE void reduce_rows(T &value, float (&shared)[WORDS][THREADS], int rows, int across) {
    static_assert(sizeof(T) == 4 * WORDS, "a row of `shared` for each float of T");
    const int thread = int(threadIdx.x), row = thread / across;
    int half = 1;
    while (2 * half < rows)
        half *= 2;
    for (; half > 0; half /= 2) {
        // Each thread writes its place once, in the round in which it gives up its value: one
        // barrier a round is enough.
        if (row >= half && row < 2 * half) {
#pragma unroll
            for (int i = 0; i < WORDS; i++)
                shared[i][thread] = reinterpret_cast<const float *>(&value)[i];
        }
        __syncthreads();
        if (row < half && row + half < rows) {
            T other;
#pragma unroll
            for (int i = 0; i < WORDS; i++)
                reinterpret_cast<float *>(&other)[i] = shared[i][thread + half * across];
            value.add(other);
        }
    }
}
