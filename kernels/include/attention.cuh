// Attention: what every step of kernels/attention/ and kernels/attention_backward/ computes.
//
//   s[i,j] = q[i]·k[j]/√D           for the keys j that query i sees, of B sentences and H heads
//   lse[i] = log Σ_j exp(s[i,j])    p[i,j] = exp(s[i,j] − lse[i])    out[i] = Σ_j p[i,j] v[j]
//
// and, from the gradient of out,
//
//   delta[i] = dout[i]·out[i]       ds[i,j] = p[i,j] (dout[i]·v[j] − delta[i])/√D
//   dq[i] = Σ_j ds[i,j] k[j]        dk[j] = Σ_i ds[i,j] q[i]        dv[j] = Σ_i p[i,j] dout[i]
//
// Query i sees the first key_len[b] keys (1 to Lk of them), and with `causal` those up to its own
// place. The others count for nothing: they are not even read where a step can help it, and their
// dk and dv are zero.
//
//   q [B,Lq,q_width], k and v [B,Lk,..] bf16 with head h in columns hD to hD + D (the pointers are
//   to the first head's first column, so one matrix product can make all three); their gradients
//   lie likewise. out and dout [B,Lq,HD] bf16, lse [B,H,Lq] f32, key_len [B]
//
// delta is Σ_j p[i,j] (dout[i]·v[j]), what the derivative of softmax subtracts; by way of out it
// costs D multiplications and not Lk D (Dao et al., 2022).
//
// Source: Vaswani et al.: Attention Is All You Need, 2017, arXiv 1706.03762.
// Source: Dao, Fu, Ermon, Rudra, Ré: FlashAttention: Fast and Memory-Efficient Exact Attention with
//   IO-Awareness, 2022, arXiv 2205.14135.
#pragma once

#include "vector.cuh"

// A head's columns of a sentence's rows.
template <class T> struct HeadRows {
    T *first;
    int width;

    // `pair` counts sentences and, within them, heads.
    DEVICE HeadRows(T *t, int width, int length, int pair, int heads, int depth)
        : first(t + size_t(pair / heads) * length * width + pair % heads * depth), width(width) {}

    DEVICE T *row(int i) const {
        return first + size_t(i) * width;
    }
};

// Who sees whom in a sentence.
struct Visible {
    int keys;
    bool causal;

    DEVICE Visible(const int *key_len, int lk, int causal, int sentence)
        : keys(key_len[sentence]), causal(causal != 0) {
        if (keys < 1 || keys > lk)
            __trap();
    }

    // Keys before this one are seen by the query, and no others.
    DEVICE int end(int query) const {
        return causal ? min(keys, query + 1) : keys;
    }
    // Queries from this one on see the key, if it is no padding.
    DEVICE int first(int key) const {
        return causal ? key : 0;
    }
};

constexpr float LOG2_E = 1.44269504f;

// exp(x − lse). A probability is no more than 1, also where scores are so large that what rounding
// has left of the difference is large, too. A NaN stays one.
DEVICE float probability(float x, float lse) {
    const float log = x - lse;
    return exp2f((log > 0.0f ? 0.0f : log) * LOG2_E);
}
