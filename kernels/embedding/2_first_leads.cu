// Embedding and its gradient (formulas: embedding.cuh), eight neighbours a thread.
//
// The idea, backward's: equal tokens are added up without sorting and without atomics, by the block
// of the first of them. A block a row looks whether its token has come before; if so it is done.
// The block of a token's first row leads: it notes the rows after it that have the same token, in
// their order, and adds them to the table's row, which no other block touches. R² comparisons are
// nothing beside the sums: 16 million for 4096 tokens, by all blocks together.
//
// Bound: forward 6 bytes an element; backward 2 and, for each token that occurs, 8. A token that
// every tenth row has is summed by one block, some microseconds for 400 rows.
// Launch: embed ceil(R·d / (8 · 256)) blocks of 256 threads; embed_backward R blocks of 128 threads.
// 8 divides d, and rows start at multiples of 16 bytes.
//
// Source: Vaswani et al.: Attention Is All You Need, 2017, arXiv 1706.03762 (scale and positions).

#include "embedding.cuh"

KERNEL(embed, 256)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const int *tokens, const float *table,
 const float *positions, int rows, int length, int d, int vocabulary, int padding, float scale,
 bf16 *out) {
    const size_t i = 8 * (size_t(blockIdx.x) * blockDim.x + threadIdx.x);
    const int row = int(i / d), c = int(i % d);
    if (row >= rows)
        return;
    const int token = checked_token(tokens, row, padding, vocabulary);
    float v[8] = {};
    if (token >= 0) {
        float vector[8], place[8], factors[8];
        load<8>(table + size_t(token) * d + c, vector);
        load<8>(positions + size_t(row % length) * d + c, place);
        Dropout(state, site, threshold, survivors).factors(i, factors);
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = factors[j] * (scale * vector[j] + place[j]);
    }
    store(out + i, v);
}
EXPORT(embed)

namespace {

constexpr int THREADS = 128;
// Rows that are looked at before they are added.
constexpr int WINDOW = 1024;

}  // namespace

KERNEL(embed_backward, 128)
(const StepState *state, uint32_t site, uint32_t threshold, float survivors, const int *tokens, const bf16 *dout, int rows, int d,
 int vocabulary, int padding, float scale, float *dtable) {
    SHARED(int, found, [WINDOW]);
    SHARED(int, counts, [THREADS]);
    const int first = int(blockIdx.x), thread = int(threadIdx.x);
    const int token = checked_token(tokens, first, padding, vocabulary);
    bool before = false;
    for (int row = thread; row < first; row += THREADS)
        before |= tokens[row] == token;
    // Every block has checked its own token, so all of them are tokens.
    if (__syncthreads_count(before || token < 0) > 0)
        return;
    const Dropout dropout(state, site, threshold, survivors);
    constexpr int EACH = WINDOW / THREADS;
    for (int start = first; start < rows; start += WINDOW) {
        // A thread looks at neighbouring rows, so that what threads find is in order.
        const int mine = start + thread * EACH, end = min(mine + EACH, rows);
        int count = 0;
        for (int row = mine; row < end; row++)
            count += tokens[row] == token;
        counts[thread] = count;
        __syncthreads();
        int at = 0, total = 0;
        for (int t = 0; t < THREADS; t++) {
            at += t < thread ? counts[t] : 0;
            total += counts[t];
        }
        for (int row = mine; row < end; row++) {
            if (tokens[row] == token)
                found[at++] = row;
        }
        __syncthreads();
        for (int c = 8 * thread; c < d; c += 8 * THREADS) {
            float sum[8];
            float *to = dtable + size_t(token) * d + c;
            load<8>(to, sum);
            for (int k = 0; k < total; k++) {
                const size_t i = size_t(found[k]) * d + c;
                const Pack<8> g = load<8>(dout + i);
                float factors[8];
                dropout.factors(i, factors);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sum[j] += factors[j] * scale * g[j];
            }
#pragma unroll
            for (int j = 0; j < 8; j += 4)
                *reinterpret_cast<float4 *>(to + j) =
                    make_float4(sum[j], sum[j + 1], sum[j + 2], sum[j + 3]);
        }
        __syncthreads();  // before the next window's rows take these ones' places
    }
}
EXPORT(embed_backward)
