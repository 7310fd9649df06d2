// Attention (formulas and shapes: attention.cuh) of short sentences, everything on chip.
//
// The idea: a block has a sentence's head whole, and the scores never leave its registers. It
// copies queries, keys and values to shared memory once, and a warp holds the scores of 16 queries
// and all keys in registers: from one mma to the softmax to the next mma they are stored nowhere,
// neither in memory nor on chip. Padding is not copied at all.
//
//                  keys 0 .. 127, K in shared memory
//                +---------------------------------+
//     warp 0  16 | S = Q K^T: mma, in registers    |  softmax of a row: 4 lanes hold it; then the
//     warp 1  16 |                                 |  same registers are mma's a of  P V  (V in
//     warp 2  16 |                                 |  shared memory), and out is stored
//     ...        +---------------------------------+
//
// Bound: memory, 2 (2 Lq + 2 Lk) D bytes a head. A block's tensor cores wait while it copies, so
// that several blocks must be on a multiprocessor: four of 128 x 128 x 64.
//
// Launch: attention_on_chip_KEYS_TILE for Lk up to KEYS = 64, 128 and D up to TILE = 32, 64, 128;
// B H blocks, a warp for each 16 of at most 128 queries, but 4 warps at most, 8 with TILE = 128.
// Where rows, heads and tensors begin at multiples of 16 bytes. Dynamic shared memory: rows of
// TILE + 8 elements, of queries, keys and values, each rounded up to 16.
//
// Source: Dao, Fu, Ermon, Rudra, Ré: FlashAttention: Fast and Memory-Efficient Exact Attention with
//   IO-Awareness, 2022, arXiv 2205.14135.
// Source: Dao: FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,
//   2023, arXiv 2307.08691 (fragments that stay in registers).
#include "attention_forward.cuh"

template <int KEYS, int DEPTH>
DEVICE void attention_on_chip(const Inputs &in, bf16 *out, float *lse, const Sizes &sizes) {
    DYNAMIC_SHARED(bf16x8, memory);
    const int pair = int(blockIdx.x);
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    const Tile q(memory, DEPTH), k(q.end(whole(sizes.lq)), DEPTH);
    const Tile v(k.end(whole(sizes.lk)), DEPTH);

    const auto copy = [&](const Tile &to, const HeadRows<const bf16> &from, int end) {
        copy_rows<DEPTH>(to, from, 0, whole(end), end, sizes.depth);
    };
    copy(q, sizes.queries(in.q, in.q_width, pair), sizes.lq);
    copy(k, sizes.keys(in.k, in.k_width, pair), visible.keys);
    copy(v, sizes.keys(in.v, in.v_width, pair), visible.keys);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    for (int query = 16 * warp(); query < sizes.lq; query += int(blockDim.x) / 2) {
        Scores<KEYS, DEPTH> scores(q, query, query, k, 0, visible, in.scale);
        RowPair max = {{-INFINITY, -INFINITY}}, sum = {};
        scores.raise(max);
        Sums<DEPTH> sums;
        scores.weigh(max, sum, v, sums);
        finish(sums, max, sum, q, query, sizes.queries(out, sizes.heads * sizes.depth, pair),
               lse + size_t(pair) * sizes.lq, query, sizes);
    }
}

// BLOCKS: what registers shall allow on a multiprocessor.
#define ON_CHIP(KEYS, TILE, THREADS, BLOCKS)                                                    \
    KERNEL_BLOCKS(attention_on_chip_##KEYS##_##TILE, THREADS, BLOCKS)                           \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, bf16 *out, float *lse, int batch, int heads,  \
     int lq, int lk, int depth) {                                                               \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        attention_on_chip<KEYS, TILE>(in, out, lse, {batch, heads, lq, lk, depth});             \
    }

ON_CHIP(64, 32, 128, 4)
EXPORT(attention_on_chip_64_32)
ON_CHIP(64, 64, 128, 4)
EXPORT(attention_on_chip_64_64)
ON_CHIP(64, 128, 256, 2)
EXPORT(attention_on_chip_64_128)
ON_CHIP(128, 32, 128, 4)
EXPORT(attention_on_chip_128_32)
ON_CHIP(128, 64, 128, 4)
EXPORT(attention_on_chip_128_64)
ON_CHIP(128, 128, 256, 2)
EXPORT(attention_on_chip_128_128)

// Try: q, k and v have 16 KiB each, the scores 64 KiB in f32. How much memory does `kernels profile
// attention --step 2 --shape 1x128x1x64` read?
// Answer: `48.0 KiB read`: each of the three once, and never a score.
