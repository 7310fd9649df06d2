// Attention (formulas and shapes: attention.cuh) of sentences of any length.
//
// The idea (Milakov, Gimelshein, 2018; Dao et al., 2022): keys come in tiles, and the softmax goes
// on from tile to tile, corrected where a larger score turns up. A query keeps its largest score so
// far, the sum of exponentials below it, and the weighted sum of values; where a tile has a larger
// score, all that there is so far is multiplied by exp(old − new). So no score is ever in memory,
// however many keys there are. The next tile of keys and values is copied while one is multiplied.
//
//                   tile 0        tile 1        tile 2          of keys
//                 +-----------+ +-----------+ +-----------+
//     queries 0   | s, m0     | | s, m1     | | s, m2     |     m   largest score so far
//      .. 15      +-----------+ +-----------+ +-----------+     l   sum of exp(s - m)
//     of a warp   m = m0        m = max(m, m1)                  o   sum of exp(s - m) v
//                 l = sum       l = l f + sum       f = exp(m before - m now)
//                 o = P V       o = o f + P V                   in the end  out = o / l
//
// Bound: FLOPs of mma.sync, 4 Lq Lk D a head, half of them with `causal`, which leaves out tiles
// past a block's last query; below some 400 keys memory, 2 (2 Lq + 2 Lk) D bytes a head. A head's
// keys are read by Lq / 64 blocks, mostly from L2.
//
// Launch: attention_online_TILE for D up to TILE = 32, 64, 128; B H ceil(Lq / 64) blocks of 128
// threads, a warp for 16 queries. Where rows, heads and tensors begin at multiples of 16 bytes.
// Dynamic shared memory: 5 · 64 rows of TILE + 8 elements.
//
// Source: Milakov, Gimelshein: Online normalizer calculation for softmax, 2018, arXiv 1805.02867.
// Source: Dao, Fu, Ermon, Rudra, Ré: FlashAttention: Fast and Memory-Efficient Exact Attention with
//   IO-Awareness, 2022, arXiv 2205.14135.
// Source: Dao: FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,
//   2023, arXiv 2307.08691.
#include "attention_forward.cuh"

namespace {

constexpr int QUERIES = 64, KEYS = 64, THREADS = 128;

}  // namespace

template <int DEPTH>
DEVICE void attention_online(const Inputs &in, bf16 *out, float *lse, const Sizes &sizes) {
    DYNAMIC_SHARED(bf16x8, memory);
    const int blocks = (sizes.lq + QUERIES - 1) / QUERIES;
    const int pair = int(blockIdx.x) / blocks, first = int(blockIdx.x) % blocks * QUERIES;
    const int row = 16 * warp(), query = first + row;
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    // Of the keys that any query of the block sees.
    const int tiles = (visible.end(first + QUERIES - 1) + KEYS - 1) / KEYS;
    const Tile q(memory, DEPTH);
    const HeadRows<const bf16> keys = sizes.keys(in.k, in.k_width, pair);
    const HeadRows<const bf16> values = sizes.keys(in.v, in.v_width, pair);
    const auto k = [&](int tile) { return Tile(q.end(QUERIES + tile % 2 * 2 * KEYS), DEPTH); };
    const auto v = [&](int tile) { return Tile(k(tile).end(KEYS), DEPTH); };
    const auto fetch = [&](int tile) {
        if (tile < tiles) {
            copy_rows<DEPTH>(k(tile), keys, tile * KEYS, KEYS, visible.keys, sizes.depth);
            copy_rows<DEPTH>(v(tile), values, tile * KEYS, KEYS, visible.keys, sizes.depth);
        }
        copy_commit();
    };

    copy_rows<DEPTH>(q, sizes.queries(in.q, in.q_width, pair), first, QUERIES, sizes.lq,
                     sizes.depth);
    fetch(0);
    // Every query sees the first key, so that `max` is a number from the first tile on.
    RowPair max = {{-INFINITY, -INFINITY}}, sum = {};
    Sums<DEPTH> sums;
    for (int tile = 0; tile < tiles; tile++) {
        // The tile is there for all, and all have done with the one before.
        copy_wait<0>();
        __syncthreads();
        fetch(tile + 1);
        Scores<KEYS, DEPTH> scores(q, row, query, k(tile), tile * KEYS, visible, in.scale);
        const RowPair before = max;
        scores.raise(max);
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            factor[half] = exp2f((before.v[half] - max.v[half]) * LOG2_E);
            sum.v[half] *= factor[half];
        }
#pragma unroll
        for (int c = 0; c < DEPTH / 16; c++)
            sums.v[c].each([&](float &value, int half, int) { value *= factor[half]; });
        scores.weigh(max, sum, v(tile), sums);
    }
    copy_wait<0>();
    finish(sums, max, sum, q, row, sizes.queries(out, sizes.heads * sizes.depth, pair),
           lse + size_t(pair) * sizes.lq, query, sizes);
}

#define ONLINE(TILE)                                                                            \
    KERNEL(attention_online_##TILE, THREADS)                                                    \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, bf16 *out, float *lse, int batch, int heads,  \
     int lq, int lk, int depth) {                                                               \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        attention_online<TILE>(in, out, lse, {batch, heads, lq, lk, depth});                    \
    }

ONLINE(32)
EXPORT(attention_online_32)
ONLINE(64)
EXPORT(attention_online_64)
ONLINE(128)
EXPORT(attention_online_128)

// Try: four blocks walk over the same 256 keys. How much do they read together in `kernels profile
// attention --step 3 --shape 1x256x1x64`, and how much of it comes from memory?
// Answer: `blocks read 288.1 KiB`, 8 of q and 64 of k and v each, of which L2 has all but the
// first: `96.0 KiB read`.
