// Attention's backward pass (formulas and shapes: attention.cuh), the formulas as they stand.
//
// The idea: none yet; a warp has a query, for dq, or a key, for dk and dv, and walks over all that
// it sees or that see it as kernels/attention/1_naive.cu does. Everything is computed anew where it
// is wanted: scores, probabilities and delta three times in all, and again for every 32 columns.
//
// Bound: latency, as the forward step's, with three such walks over two or three rows each.
//
// Launch: attention_backward_naive_q with ceil(B H Lq / 4) blocks of 128 threads and
// attention_backward_naive_kv with ceil(B H Lk / 4), in any order. Any depth, any lengths.
#include "attention_naive.cuh"

namespace {

// All that both kernels read, of one sentence and head.
struct Inputs {
    HeadRows<const bf16> q, k, v, out, dout;
    const float *lse;
    float scale;
    int depth;

    DEVICE float p(int i, int j) const {
        return probability(dot(q.row(i), k.row(j), depth) * scale, lse[i]);
    }
    DEVICE float delta(int i) const {
        return dot(dout.row(i), out.row(i), depth);
    }
    DEVICE float ds(int i, int j, float delta) const {
        return p(i, j) * (dot(dout.row(i), v.row(j), depth) - delta) * scale;
    }
};

}  // namespace

KERNEL(attention_backward_naive_q, NAIVE_THREADS)
(const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,
 const int *key_len, int causal, float scale, const bf16 *out, const float *lse, const bf16 *dout,
 bf16 *dq, int dq_width, int batch, int heads, int lq, int lk, int depth) {
    const int row = naive_row(), pair = row / lq, i = row % lq;
    if (pair >= batch * heads)
        return;
    const auto of = [&](const bf16 *t, int width, int length) {
        return HeadRows(t, width, length, pair, heads, depth);
    };
    const Inputs in = {of(q, q_width, lq),          of(k, k_width, lk),
                       of(v, v_width, lk),          of(out, heads * depth, lq),
                       of(dout, heads * depth, lq), lse + size_t(pair) * lq,
                       scale,                       depth};
    const int end = Visible(key_len, lk, causal, pair / heads).end(i);
    const float delta = in.delta(i);
    weighted_rows(
        0, end, depth, [&](int j) { return in.ds(i, j, delta); }, in.k,
        HeadRows(dq, dq_width, lq, pair, heads, depth).row(i));
}
EXPORT(attention_backward_naive_q)

KERNEL(attention_backward_naive_kv, NAIVE_THREADS)
(const bf16 *q, int q_width, const bf16 *k, int k_width, const bf16 *v, int v_width,
 const int *key_len, int causal, float scale, const bf16 *out, const float *lse, const bf16 *dout,
 bf16 *dk, int dk_width, bf16 *dv, int dv_width, int batch, int heads, int lq, int lk, int depth) {
    const int row = naive_row(), pair = row / lk, j = row % lk;
    if (pair >= batch * heads)
        return;
    const auto of = [&](const bf16 *t, int width, int length) {
        return HeadRows(t, width, length, pair, heads, depth);
    };
    const Inputs in = {of(q, q_width, lq),          of(k, k_width, lk),
                       of(v, v_width, lk),          of(out, heads * depth, lq),
                       of(dout, heads * depth, lq), lse + size_t(pair) * lq,
                       scale,                       depth};
    const Visible visible(key_len, lk, causal, pair / heads);
    // Nobody sees padding.
    const int first = visible.first(j), end = j < visible.keys ? lq : first;
    weighted_rows(
        first, end, depth, [&](int i) { return in.ds(i, j, in.delta(i)); }, in.q,
        HeadRows(dk, dk_width, lk, pair, heads, depth).row(j));
    weighted_rows(
        first, end, depth, [&](int i) { return in.p(i, j); }, in.dout,
        HeadRows(dv, dv_width, lk, pair, heads, depth).row(j));
}
EXPORT(attention_backward_naive_kv)
