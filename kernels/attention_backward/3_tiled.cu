// Attention's backward pass (formulas and shapes: attention.cuh) of sentences of any length.
//
// The idea (Dao, 2023): two kernels, each of which keeps what it sums in registers and walks over
// tiles of the others, so that no sum is shared between blocks: dq over tiles of keys, then dk and
// dv over tiles of queries. Scores are computed in both, from q, k and lse: two products more than
// in 2_on_chip.cu for sums of a fixed order without atomics. The next tile is copied while one is
// multiplied. The first kernel leaves delta, which it wants itself, for the second.
//
// Bound: FLOPs of mma.sync, 14 Lq Lk D a head (10 where everything fits on chip), half of them with
// `causal`.
//
// Launch: attention_backward_tiled_q_TILE for D up to TILE = 32, 64, 128 with B H ceil(Lq / 64)
// blocks of 128 threads, a warp for 16 queries; then attention_backward_tiled_kv_TILE with
// B H ceil(Lk / 64). Where rows, heads and tensors begin at multiples of 16 bytes. They walk over W
// = 64 rows at once, for heads of more than 64 columns over 32, so that a GPU with 99 KiB a block
// has room for them. Dynamic shared memory: 2 · 64 + 4 W rows of TILE + 8 elements, and 4 W floats.
// delta [B,H,Lq] f32 is scratch.
//
// Source: Dao, Fu, Ermon, Rudra, Ré: FlashAttention: Fast and Memory-Efficient Exact Attention with
//   IO-Awareness, 2022, arXiv 2205.14135.
// Source: Dao: FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,
//   2023, arXiv 2307.08691.
#include "attention_backward.cuh"

namespace {

constexpr int BLOCK = 64, THREADS = 128;  // queries or keys of a block

// Keys or queries that are walked over at once.
template <int DEPTH> constexpr int WALKED = DEPTH <= 64 ? 64 : 32;

}  // namespace

template <int DEPTH>
DEVICE void tiled_q(const Inputs &in, const Grads &grads, float *delta, const Sizes &sizes) {
    constexpr int WALK = WALKED<DEPTH>;
    DYNAMIC_SHARED(bf16x8, memory);
    const int blocks = (sizes.lq + BLOCK - 1) / BLOCK;
    const int pair = int(blockIdx.x) / blocks, first = int(blockIdx.x) % blocks * BLOCK;
    const int row = 16 * warp(), query = first + row, width = sizes.heads * sizes.depth;
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    const int tiles = (visible.end(first + BLOCK - 1) + WALK - 1) / WALK;
    const Tile q(memory, DEPTH), dout(q.end(BLOCK), DEPTH);
    const HeadRows<const bf16> keys = sizes.keys(in.k, in.k_width, pair);
    const HeadRows<const bf16> values = sizes.keys(in.v, in.v_width, pair);
    const auto k = [&](int tile) { return Tile(dout.end(BLOCK + tile % 2 * 2 * WALK), DEPTH); };
    const auto v = [&](int tile) { return Tile(k(tile).end(WALK), DEPTH); };
    const auto fetch = [&](int tile) {
        if (tile < tiles) {
            copy_rows<DEPTH>(k(tile), keys, tile * WALK, WALK, visible.keys, sizes.depth);
            copy_rows<DEPTH>(v(tile), values, tile * WALK, WALK, visible.keys, sizes.depth);
        }
        copy_commit();
    };
    const auto fetch_queries = [&](const Tile &to, const bf16 *from, int width) {
        copy_rows<DEPTH>(to, sizes.queries(from, width, pair), first, BLOCK, sizes.lq,
                         sizes.depth);
    };

    // out is only wanted for delta: in the second tiles' place.
    static_assert(2 * WALK >= BLOCK, "there is room");
    const Tile out = k(1);
    fetch_queries(out, grads.out, width);
    fetch_queries(dout, grads.dout, width);
    fetch_queries(q, in.q, in.q_width);
    fetch(0);
    const size_t rows = size_t(pair) * sizes.lq;
    SHARED(float, deltas, [BLOCK]);
    copy_wait<0>();
    __syncthreads();
    each_delta<DEPTH>(dout, out, BLOCK, [&](int i, float sum) {
        deltas[i] = sum;
        if (first + i < sizes.lq)
            delta[rows + first + i] = sum;
    });
    __syncthreads();
    float lses[2], own[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = lane() / 4 + 8 * half;
        // Past the last query all probabilities are 0.
        lses[half] = query + i < sizes.lq ? grads.lse[rows + query + i] : INFINITY;
        own[half] = deltas[row + i];
    }

    const Rows<DEPTH> queries(q, row), douts(dout, row);
    Sums<DEPTH> dq;
    for (int tile = 0; tile < tiles; tile++) {
        copy_wait<0>();
        __syncthreads();
        fetch(tile + 1);
        for (int j = 0; j < WALK && tile * WALK + j < visible.end(query + 15); j += 16) {
            Square p = queries.times(k(tile), j), dp = douts.times(v(tile), j);
            p.each(dp, [&](float &p, float &dp, int half, int column) {
                const int end = visible.end(query + lane() / 4 + 8 * half);
                const bool seen = tile * WALK + j + column < end;
                differentiate(p, dp, seen, in.scale, lses[half], own[half]);
            });
            uint32_t ds[1][4];
            dp.factor(ds);
            dq.add(ds, k(tile), j);
        }
    }
    copy_wait<0>();
    dq.scale(in.scale);
    dq.store(q, row, sizes.queries(grads.dq, grads.dq_width, pair), query, sizes.lq, sizes.depth);
}

template <int DEPTH>
DEVICE void tiled_kv(const Inputs &in, const Grads &grads, const float *delta,
                     const Sizes &sizes) {
    constexpr int WALK = WALKED<DEPTH>;
    DYNAMIC_SHARED(bf16x8, memory);
    const int blocks = (sizes.lk + BLOCK - 1) / BLOCK;
    const int pair = int(blockIdx.x) / blocks, first = int(blockIdx.x) % blocks * BLOCK;
    const int row = 16 * warp(), width = sizes.heads * sizes.depth;
    const Visible visible(in.key_len, sizes.lk, in.causal, pair / sizes.heads);
    // None for a block of padding, which nobody sees.
    const int end = first < visible.keys ? (sizes.lq + WALK - 1) / WALK : 0;
    const Tile k(memory, DEPTH), v(k.end(BLOCK), DEPTH);
    const HeadRows<const bf16> queries = sizes.queries(in.q, in.q_width, pair);
    const HeadRows<const bf16> douts = sizes.queries(grads.dout, width, pair);
    const auto q = [&](int tile) { return Tile(v.end(BLOCK + tile % 2 * 2 * WALK), DEPTH); };
    const auto dout = [&](int tile) { return Tile(q(tile).end(WALK), DEPTH); };
    float *const numbers = reinterpret_cast<float *>(v.end(BLOCK + 4 * WALK));
    const auto lse = [&](int tile) { return numbers + tile % 2 * 2 * WALK; };
    const auto fetch = [&](int tile) {
        if (tile < end) {
            copy_rows<DEPTH>(q(tile), queries, tile * WALK, WALK, sizes.lq, sizes.depth);
            copy_rows<DEPTH>(dout(tile), douts, tile * WALK, WALK, sizes.lq, sizes.depth);
            const int i = int(threadIdx.x), at = tile * WALK + i;
            if (i < WALK) {
                const bool there = at < sizes.lq;
                // Past the last query all probabilities are 0.
                lse(tile)[i] = there ? grads.lse[size_t(pair) * sizes.lq + at] : INFINITY;
                lse(tile)[WALK + i] = there ? delta[size_t(pair) * sizes.lq + at] : 0.0f;
            }
        }
        copy_commit();
    };

    copy_rows<DEPTH>(k, sizes.keys(in.k, in.k_width, pair), first, BLOCK, visible.keys,
                     sizes.depth);
    copy_rows<DEPTH>(v, sizes.keys(in.v, in.v_width, pair), first, BLOCK, visible.keys,
                     sizes.depth);
    const int start = visible.first(first) / WALK;
    fetch(start);
    copy_wait<0>();
    __syncthreads();
    KeyGrads<DEPTH> sums(first + row, k, v, row);
    for (int tile = start; tile < end; tile++) {
        if (tile > start) {
            copy_wait<0>();
            __syncthreads();
        }
        fetch(tile + 1);
        for (int i = 0; i < WALK; i += 16) {
            if (tile * WALK + i + 15 < visible.first(first + row))
                continue;
            uint32_t ds[1][4];
            sums.add(tile * WALK + i, q(tile), dout(tile), i, lse(tile) + i,
                     lse(tile) + WALK + i, visible, in.scale, ds);
        }
    }
    copy_wait<0>();
    sums.store(grads, visible, pair, sizes, in.scale);
}

#define TILED(TILE)                                                                             \
    KERNEL(attention_backward_tiled_q_##TILE, THREADS)                                          \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, const bf16 *out, const float *lse,            \
     const bf16 *dout, bf16 *dq, int dq_width, float *delta, int batch, int heads, int lq,      \
     int lk, int depth) {                                                                       \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        const Grads grads = {out, lse, dout, dq, dq_width, nullptr, 0, nullptr, 0};             \
        tiled_q<TILE>(in, grads, delta, {batch, heads, lq, lk, depth});                         \
    }                                                                                           \
    KERNEL(attention_backward_tiled_kv_##TILE, THREADS)                                         \
    (const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,        \
     const int *key_len, int causal, float scale, const bf16 *out, const float *lse,            \
     const bf16 *dout, bf16 *dk, int dk_width, bf16 *dv, int dv_width, const float *delta,      \
     int batch, int heads, int lq, int lk, int depth) {                                         \
        const Inputs in = {q, q_width, k, k_width, v, v_width, key_len, causal, scale};         \
        const Grads grads = {out, lse, dout, nullptr, 0, dk, dk_width, dv, dv_width};           \
        tiled_kv<TILE>(in, grads, delta, {batch, heads, lq, lk, depth});                        \
    }

TILED(32)
EXPORT(attention_backward_tiled_q_32)
EXPORT(attention_backward_tiled_kv_32)
TILED(64)
EXPORT(attention_backward_tiled_q_64)
EXPORT(attention_backward_tiled_kv_64)
TILED(128)
EXPORT(attention_backward_tiled_q_128)
EXPORT(attention_backward_tiled_kv_128)
