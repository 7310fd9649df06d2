// Attention's backward pass (formulas and shapes: attention.cuh) of short sentences, everything on
// chip.
//
// The idea: a block has a sentence's head whole, and makes all three gradients from one reading. A
// warp has 16 keys and walks over the queries. Scores are computed the other way round, a row a
// key, because then the probabilities and the scores' gradients are in the right lanes to be first
// factors of dv and dk, which it sums in registers. Only for dq, a sum over all warps' keys, do the
// scores' gradients go through shared memory; after a barrier each warp has 16 queries. So sums
// have a fixed order, and nothing is added up in memory.
//
// Bound: memory, 2 (4 Lq + 4 Lk) D bytes a head. A block's tensor cores wait while it copies, so
// that several blocks must be on a multiprocessor: two of 128 x 128 x 64.
//
// Launch: attention_backward_on_chip_TILE for Lq and Lk up to 128 and D up to TILE = 32, 64, 128;
// B H blocks, a warp for each 16 of queries or keys, whichever are more. Where rows, heads and
// tensors begin at multiples of 16 bytes. Dynamic shared memory, with lengths rounded up to 16:
// 2 Lq + 2 Lk rows of TILE + 8 elements; Lk rows of Lq + 8, or Lq of TILE + 8 if that is more; 2 Lq
// floats.
//
// Source: Dao, Fu, Ermon, Rudra, Ré: FlashAttention: Fast and Memory-Efficient Exact Attention with
//   IO-Awareness, 2022, arXiv 2205.14135.
#include "attention_backward.cuh"

template <int DEPTH>
DEVICE void backward_on_chip(const Inputs &in, const Grads &grads, const Sizes &sizes) {
    DYNAMIC_SHARED(bf16x8, memory);
    const int pair = int(blockIdx.x), own = 16 * warp();
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    const int q_rows = whole(sizes.lq), k_rows = whole(visible.keys);
    const Tile q(memory, DEPTH), dout(q.end(q_rows), DEPTH);
    const Tile k(dout.end(q_rows), DEPTH), v(k.end(whole(sizes.lk)), DEPTH);
    // First out, which only delta wants, and then the gradients of the scores, a row a key.
    bf16x8 *both = v.end(whole(sizes.lk));
    const Tile out(both, DEPTH), ds(both, q_rows);
    bf16x8 *const ends[] = {out.end(q_rows), ds.end(whole(sizes.lk))};
    float *const lse = reinterpret_cast<float *>(ends[0] > ends[1] ? ends[0] : ends[1]);
    float *const delta = lse + q_rows;

    const auto copy = [&](const Tile &to, const HeadRows<const bf16> &from, int rows, int there) {
        copy_rows<DEPTH>(to, from, 0, rows, there, sizes.depth);
    };
    const int width = sizes.heads * sizes.depth;
    copy(out, sizes.queries(grads.out, width, pair), q_rows, sizes.lq);
    copy(dout, sizes.queries(grads.dout, width, pair), q_rows, sizes.lq);
    copy_commit();
    copy(q, sizes.queries(in.q, in.q_width, pair), q_rows, sizes.lq);
    copy(k, sizes.keys(in.k, in.k_width, pair), k_rows, visible.keys);
    copy(v, sizes.keys(in.v, in.v_width, pair), k_rows, visible.keys);
    copy_commit();
    // Past the last query all probabilities are 0.
    for (int i = int(threadIdx.x); i < q_rows; i += int(blockDim.x))
        lse[i] = i < sizes.lq ? grads.lse[size_t(pair) * sizes.lq + i] : INFINITY;
    copy_wait<1>();
    __syncthreads();
    each_delta<DEPTH>(dout, out, q_rows, [&](int row, float sum) { delta[row] = sum; });
    copy_wait<0>();
    __syncthreads();

    if (own < k_rows) {
        KeyGrads<DEPTH> sums(own, k, v, own);
        for (int i = visible.first(own) / 16 * 16; i < q_rows; i += 16) {
            uint32_t factor[1][4];
            // Delta's place from that of lse: a register less.
            sums.add(i, q, dout, i, lse + i, lse + i + q_rows, visible, in.scale, factor);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                bf16x8 *chunk = ds.at(own + lane() / 4 + n % 2 * 8, i / 8 + n / 2);
                *reinterpret_cast<uint32_t *>(&chunk->v[lane() % 4 * 2]) = factor[0][n];
            }
        }
        sums.store(grads, visible, pair, sizes, in.scale);
    } else if (own < sizes.lk) {
        // Nobody sees padding.
        Sums<DEPTH> zeros;
        zeros.store(v, own, sizes.keys(grads.dk, grads.dk_width, pair), own, sizes.lk,
                    sizes.depth);
        zeros.store(v, own, sizes.keys(grads.dv, grads.dv_width, pair), own, sizes.lk,
                    sizes.depth);
    }
    __syncthreads();

    if (own >= sizes.lq)
        return;
    Sums<DEPTH> dq;
    for (int j = 0; j < visible.end(own + 15); j += 16) {
        uint32_t factor[1][4];
        load_a_trans(factor[0], ds, j, own / 8);
        dq.add(factor, k, j);
    }
    dq.scale(in.scale);
    dq.store(q, own, sizes.queries(grads.dq, grads.dq_width, pair), own, sizes.lq, sizes.depth);
}

// BLOCKS: what registers shall allow on a multiprocessor.
#define BACKWARD_ON_CHIP(TILE, BLOCKS)                                                          \
    KERNEL_BLOCKS(attention_backward_on_chip_##TILE, 256, BLOCKS)                               \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, const bf16 *out, const float *lse,            \
     const bf16 *dout, bf16 *dq, int dq_width, bf16 *dk, int dk_width, bf16 *dv, int dv_width,  \
     int batch, int heads, int lq, int lk, int depth) {                                         \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        const Grads grads = {out, lse, dout, dq, dq_width, dk, dk_width, dv, dv_width};         \
        backward_on_chip<TILE>(in, grads, {batch, heads, lq, lk, depth});                       \
    }

BACKWARD_ON_CHIP(32, 2)
EXPORT(attention_backward_on_chip_32)
BACKWARD_ON_CHIP(64, 2)
EXPORT(attention_backward_on_chip_64)
BACKWARD_ON_CHIP(128, 1)
EXPORT(attention_backward_on_chip_128)
