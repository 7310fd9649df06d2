// Attention (formulas and shapes: attention.cuh) of short sentences, everything on chip.
//
// The idea: a block has a sentence's head whole. It copies queries, keys and values to shared memory
// once, and a warp holds the scores of its 16 queries and all keys in registers: from one mma to
// the softmax to the next mma they are never stored, neither in memory nor on chip. Padding is not
// copied at all.
//
// Bound: memory, 2 (2 Lq + 2 Lk) D bytes a head; a block's tensor cores wait while it copies, so
// that several must be on a multiprocessor.
//
// Launch: attention_on_chip_KEYS_TILE for Lk up to KEYS = 64, 128 and D up to TILE = 32, 64, 128;
// B H blocks, a warp for each 16 of at most 128 queries. Where rows, heads and tensors begin at
// multiples of 16 bytes. Dynamic shared memory: rows of TILE + 8 elements, of queries, keys and
// values, each rounded up to 16.
#include "attention_forward.cuh"

template <int KEYS, int DEPTH>
DEVICE void attention_on_chip(const Inputs &in, bf16 *out, float *lse, const Sizes &sizes) {
    DYNAMIC_SHARED(bf16x8, memory);
    const int pair = int(blockIdx.x), query = 16 * warp();
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    const Tile q(memory, DEPTH), k(q.end(whole(sizes.lq)), DEPTH);
    const Tile v(k.end(whole(sizes.lk)), DEPTH);

    copy_rows<DEPTH>(q, sizes.queries(in.q, in.q_width, pair), 0, whole(sizes.lq), sizes.lq,
                     sizes.depth);
    copy_rows<DEPTH>(k, sizes.keys(in.k, in.k_width, pair), 0, whole(visible.keys), visible.keys,
                     sizes.depth);
    copy_commit();
    copy_rows<DEPTH>(v, sizes.keys(in.v, in.v_width, pair), 0, whole(visible.keys), visible.keys,
                     sizes.depth);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    Scores<KEYS, DEPTH> scores(q, query, query, k, 0, visible, in.scale);
    RowPair max = {{-INFINITY, -INFINITY}}, sum = {};
    scores.raise(max);
    copy_wait<0>();
    __syncthreads();
    Sums<DEPTH> sums;
    scores.weigh(max, sum, v, sums);
    finish(sums, max, sum, q, query, sizes.queries(out, sizes.heads * sizes.depth, pair),
           lse + size_t(pair) * sizes.lq, query, sizes);
}

#define ON_CHIP(KEYS, TILE)                                                                     \
    KERNEL_BLOCKS(attention_on_chip_##KEYS##_##TILE, 256, 2)                                    \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, bf16 *out, float *lse, int batch, int heads,  \
     int lq, int lk, int depth) {                                                               \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        attention_on_chip<KEYS, TILE>(in, out, lse, {batch, heads, lq, lk, depth});             \
    }

ON_CHIP(64, 32)
EXPORT(attention_on_chip_64_32)
ON_CHIP(64, 64)
EXPORT(attention_on_chip_64_64)
ON_CHIP(64, 128)
EXPORT(attention_on_chip_64_128)
ON_CHIP(128, 32)
EXPORT(attention_on_chip_128_32)
ON_CHIP(128, 64)
EXPORT(attention_on_chip_128_64)
ON_CHIP(128, 128)
EXPORT(attention_on_chip_128_128)
