// What the steps of kernels/attention_backward/ on tensor cores share: delta, and a warp's
// gradients of scores in registers.
#pragma once

#include "attention_mma.cuh"

// Results of the forward pass, and gradients.
struct Grads {
    const bf16 *out;
    const float *lse;
    const bf16 *dout;
    bf16 *dq;
    int dq_width;
    bf16 *dk;
    int dk_width;
    bf16 *dv;
    int dv_width;
};

// Calls store(row, delta) for the first `rows` (whole tiles) of both tiles. By all threads.
template <int DEPTH, class Store>
DEVICE void each_delta(const Tile &dout, const Tile &out, int rows, Store store) {
    constexpr int CHUNKS = DEPTH / 8;  // neighbouring lanes that share a row
    for (int i = int(threadIdx.x); i < rows * CHUNKS; i += int(blockDim.x)) {
        const bf16x8 a = *dout.at(i / CHUNKS, i % CHUNKS), b = *out.at(i / CHUNKS, i % CHUNKS);
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < 8; c++)
            sum += to_float(a.v[c]) * to_float(b.v[c]);
#pragma unroll
        for (int offset = CHUNKS / 2; offset > 0; offset /= 2)
            sum += __shfl_xor_sync(~0u, sum, offset);
        if (i % CHUNKS == 0)
            store(i / CHUNKS, sum);
    }
}

// p becomes the probability of a score (without its scale), dp, dout·v, the gradient of the score
// (without the scale, with which sums of them are multiplied).
DEVICE void differentiate(float &p, float &dp, bool seen, float scale, float lse, float delta) {
    p = seen ? probability(p * scale, lse) : 0.0f;
    dp = seen ? p * (dp - delta) : 0.0f;
}

// What a warp knows of its 16 keys, and sums over queries.
template <int DEPTH> struct KeyGrads {
    const int key, row;  // the first, and where it is in its tiles
    const Rows<DEPTH> k;
    const Tile v;
    Sums<DEPTH> dk, dv;

    DEVICE KeyGrads(int key, const Tile &k, const Tile &v, int row)
        : key(key), row(row), k(k, row), v(v) {}

    // Adds what 16 queries from `query` on contribute, rows `from`.. of both tiles. `ds` becomes
    // the gradients of the scores, a row a key.
    DEVICE void add(int query, const Tile &q, const Tile &dout, int from, const float *lse,
                    const float *delta, const Visible &visible, float scale,
                    uint32_t (&ds)[1][4]) {
        Square p = k.times(q, from), dp = products<DEPTH>(v, row, dout, from);
        p.each(dp, [&](float &p, float &dp, int half, int i) {
            const int j = key + lane() / 4 + 8 * half;
            const bool seen = j < visible.keys && query + i >= visible.first(j);
            differentiate(p, dp, seen, scale, lse[i], delta[i]);
        });
        uint32_t weights[1][4];
        p.factor(weights);
        dp.factor(ds);
        dv.add(weights, dout, from);
        dk.add(ds, q, from);
    }

    // Stores both, by way of the rows of v, which no other warp uses.
    DEVICE void store(const Grads &grads, const Visible &visible, int pair, const Sizes &sizes,
                      float scale) {
        // Nobody sees padding, but 0 times an infinite gradient is none.
        const int keys = visible.keys - key - lane() / 4;
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++)
            dk.v[c].each(dv.v[c], [&](float &dk, float &dv, int half, int) {
                dk = 8 * half < keys ? dk * scale : 0.0f;
                dv = 8 * half < keys ? dv : 0.0f;
            });
        dv.store(v, row, sizes.keys(grads.dv, grads.dv_width, pair), key, sizes.lk,
                 sizes.depth);
        dk.store(v, row, sizes.keys(grads.dk, grads.dk_width, pair), key, sizes.lk,
                 sizes.depth);
    }
};
