// Attention (formulas and shapes: attention.cuh), the formula as it stands.
//
// The idea: none yet; a warp has a query, its lanes score 32 keys at a time, each key's row against
// the query's. Scores are kept nowhere: three walks over the keys find the largest score, the sum
// of exponentials, and the weighted sum of values, for which the lanes change roles. Each then has
// a column, and takes the keys' weights from the lanes that have computed them. The last walk is
// repeated for every 32 columns.
//
// Bound: latency. Neighbouring lanes read different rows of k, so every 2 bytes cost a sector of
// 32, and each query reads all keys for itself (2 + D/32) times.
//
// Launch: ceil(B H Lq / 4) blocks of 128 threads. Any depth, any lengths.
//
// Source: Vaswani et al.: Attention Is All You Need, 2017, arXiv 1706.03762.
#include "attention_naive.cuh"

KERNEL(attention_naive, NAIVE_THREADS)
(const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,
 const int *key_len, int causal, float scale, bf16 *out, float *lse, int batch, int heads, int lq,
 int lk, int depth) {
    const int row = naive_row(), pair = row / lq, i = row % lq, lane = int(threadIdx.x) % 32;
    if (pair >= batch * heads)
        return;
    const bf16 *query = HeadRows(q, q_width, lq, pair, heads, depth).row(i);
    const HeadRows keys(k, k_width, lk, pair, heads, depth);
    const HeadRows values(v, v_width, lk, pair, heads, depth);
    const int end = Visible(key_len, lk, causal, pair / heads).end(i);

    const auto score = [&](int j) { return dot(query, keys.row(j), depth) * scale; };
    float max = -INFINITY, sum = 0.0f;
    for (int j = lane; j < end; j += 32)
        max = fmaxf(max, score(j));
    max = max_of_lanes(max);
    for (int j = lane; j < end; j += 32)
        sum += expf(score(j) - max);
    const float log_sum = max + logf(sum_of_lanes(sum));
    if (lane == 0)
        lse[row] = log_sum;
    weighted_rows(
        0, end, depth, [&](int j) { return probability(score(j), log_sum); }, values,
        HeadRows(out, heads * depth, lq, pair, heads, depth).row(i));
}
EXPORT(attention_naive)

// Try: 64 queries of one head: how many does a block of `kernels profile attention --step 1 --shape
// 1x64x1x32` have?
// Answer: four, a warp each: `16 blocks of 128 threads`.
