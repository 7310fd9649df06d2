// The main loop of matrix products with a pipeline of asynchronous copies; gemm/6_pipeline.cu
// explains it. A factor may have K innermost in memory, as there, or outermost. Of STAGES slices all
// but one are on their way.
#pragma once

#include "copy.cuh"
#include "gemm_mma.cuh"

constexpr int PIPELINE_THREADS = 128;

// TILE rows of a factor [.., k].
template <int TILE> struct KInner {
    using Part = Slice<TILE>;

    const bf16 *from;  // the tile's first row
    int rows;          // that there are from it on
    int k;

    // Asks for a slice; past the last row, and past k, it is zeros.
    DEVICE void fetch(Part &to, int start) const {
        const int chunk = int(threadIdx.x) % CHUNKS, at = start + 8 * chunk;
#pragma unroll
        for (int i = 0; i < TILE * CHUNKS / PIPELINE_THREADS; i++) {
            const int row = (i * PIPELINE_THREADS + int(threadIdx.x)) / CHUNKS;
            const bool there = row < rows && at < k;
            copy_async(to.chunk(row, chunk), there ? from + size_t(row) * k + at : from, there);
        }
    }
};

// TILE columns of a factor [k, stride].
template <int TILE> struct KOuter {
    using Part = Slab<TILE>;

    const bf16 *from;  // the tile's first column
    int columns;       // that there are from it on, a multiple of 8
    int k;
    int stride;

    DEVICE void fetch(Part &to, int start) const {
        constexpr int ACROSS = TILE / 8;
        const int chunk = int(threadIdx.x) % ACROSS;
#pragma unroll
        for (int i = 0; i < DEPTH * ACROSS / PIPELINE_THREADS; i++) {
            const int row = (i * PIPELINE_THREADS + int(threadIdx.x)) / ACROSS, at = start + row;
            const bool there = at < k && 8 * chunk < columns;
            const bf16 *source = there ? from + size_t(at) * stride + 8 * chunk : from;
            copy_async(to.chunk(row, chunk), source, there);
        }
    }
};

template <class A, class B> struct Stage {
    typename A::Part a;
    typename B::Part b;
};

// sums += a b over all of k, for the warp whose tile starts at `row` and `column` of the block's.
// `also` is called with every slice of a.
template <int STAGES, int M, int N, class A, class B, class Also>
DEVICE void pipeline(float (&sums)[M][N][4], Stage<A, B> *stages, const A &a, const B &b, int row,
                     int column, Also also) {
    const int k = a.k;
    // A group for every slice, also where nothing is left to copy: groups are what is counted.
    const auto issue = [&](int slice) {
        if (slice * DEPTH < k) {
            Stage<A, B> &to = stages[slice % STAGES];
            a.fetch(to.a, slice * DEPTH);
            b.fetch(to.b, slice * DEPTH);
        }
        copy_commit();
    };
#pragma unroll
    for (int slice = 0; slice < STAGES - 1; slice++)
        issue(slice);
    for (int slice = 0; slice * DEPTH < k; slice++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        issue(slice + STAGES - 1);
        const Stage<A, B> &stage = stages[slice % STAGES];
        multiply(sums, stage.a, stage.b, row, column);
        also(stage.a);
    }
}

template <int STAGES, int M, int N, class A, class B>
DEVICE void pipeline(float (&sums)[M][N][4], Stage<A, B> *stages, const A &a, const B &b, int row,
                     int column) {
    pipeline<STAGES>(sums, stages, a, b, row, column, [](const typename A::Part &) {});
}
