// A warp's softmax over scores in registers, for the steps of kernels/attention/ on tensor cores.
#pragma once

#include "attention_mma.cuh"

// Of rows g and g + 8 of a Square, by the four lanes that hold them.
struct RowPair {
    float v[2];

    template <class F> DEVICE void combine(F f) {
#pragma unroll
        for (int offset = 1; offset < 4; offset *= 2) {
#pragma unroll
            for (int r = 0; r < 2; r++)
                v[r] = f(v[r], __shfl_xor_sync(~0u, v[r], offset));
        }
    }
};

// Scores of a warp's 16 queries and some keys.
template <int KEYS, int DEPTH> struct Scores {
    Square v[KEYS / 16];
    int count;  // of squares that any of the queries sees

    // Queries `query`.. in rows `row`.. of their tile, keys `key`.. in all rows of theirs. What is
    // not seen is −∞.
    DEVICE Scores(const Tile &q, int row, int query, const Tile &k, int key,
                  const Visible &visible, float scale) {
        count = min(KEYS, visible.end(query + 15) - key + 15) / 16;
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++) {
            uint32_t a[1][4];
            load_a(a[0], q, row, 2 * c);
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                if (n >= count)
                    break;
                uint32_t b[2][2];
                load_b(b, k, 16 * n, 2 * c);
                mma(v[n].v, a, b);
            }
        }
        const int ends[2] = {visible.end(query + lane() / 4) - key,
                             visible.end(query + lane() / 4 + 8) - key};
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            if (n >= count)
                break;
            v[n].each([&](float &s, int half, int column) {
                s = 16 * n + column < ends[half] ? s * scale : -INFINITY;
            });
        }
    }

    // No less than `max`. A NaN is left out here, and shows in the sums.
    DEVICE void raise(RowPair &max) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            if (n >= count)
                break;
            v[n].each([&](float s, int half, int) { max.v[half] = fmaxf(max.v[half], s); });
        }
        max.combine([](float a, float b) { return fmaxf(a, b); });
    }

    // Scores become exp(s − max), which this lane's sums count, too; out += those times the values.
    DEVICE void weigh(const RowPair &max, RowPair &sum, const Tile &values, Sums<DEPTH> &out) {
        // Zeros, because registers that only some turns of a loop set are kept over all of them.
        uint32_t p[KEYS / 16][1][4] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            if (n >= count)
                break;
            v[n].each([&](float &s, int half, int) {
                s = exp2f((s - max.v[half]) * LOG2_E);
                sum.v[half] += s;
            });
            v[n].factor(p[n]);
        }
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            if (n >= count)
                break;
            out.add(p[n], values, 16 * n);
        }
    }
};

// Divides by the sums, and stores what a warp has computed of its 16 queries.
template <int DEPTH>
DEVICE void finish(Sums<DEPTH> &sums, const RowPair &max, RowPair sum, const Tile &tile, int row,
                   const HeadRows<bf16> &out, float *lse, int query, const Sizes &sizes) {
    sum.combine([](float a, float b) { return a + b; });
    const float inverse[2] = {1.0f / sum.v[0], 1.0f / sum.v[1]};
#pragma unroll
    for (int c = 0; c < DEPTH / 16; c++)
        sums.v[c].each([&](float &v, int half, int) { v *= inverse[half]; });
    sums.store(tile, row, out, query, sizes.lq, sizes.depth, opaque(lane()));
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = query + lane() / 4 + 8 * half;
        if (lane() % 4 == 0 && i < sizes.lq)
            lse[i] = max.v[half] + logf(sum.v[half]);
    }
}
