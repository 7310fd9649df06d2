// Layer norm with what comes before it: what the steps of kernels/layer_norm/ and
// layer_norm_backward/ compute.
//
//   forward    h = x + m · branch         (without a branch h is x)
//              y = γ · x̂ + β,  x̂ = (h − mean) · rstd,  rstd = 1/√(var + 1e-5)
//   backward   dx = rstd · (γ·dy − mean(γ·dy) − x̂ · mean(γ·dy·x̂)) + dh
//              dbranch = m · dx,  dγ = Σ_rows dy·x̂,  dβ = Σ_rows dy
//
//   x, branch, h, y, dy, dh, dx, dbranch [R,D] bf16; γ, β, dγ, dβ [D], mean, rstd [R] f32;
//   m = 0 or 1/(1 − p): dropout.cuh
//
// Statistics are those of the rounded h, which is what the backward pass reads. The variance is the
// mean of squared differences: nothing cancels.
//
// Source: Ba, Kiros, Hinton: Layer Normalization, 2016, arXiv 1607.06450.
#pragma once

#include "dropout.cuh"
#include "vector.cuh"

constexpr float NORM_EPS = 1e-5f;

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

// A row in a warp's registers, eight neighbours a lane and `PACKS` times 256 columns: lane l has
// columns 8l .. 8l + 7, then those 256 on.
template <int PACKS> struct HeldRow {
    float v[PACKS][8];

    // Calls f(pack, column) for each of the lane's packs that the row has.
    template <class F> static DEVICE void each(int d, F f) {
        const int lane = int(threadIdx.x) % 32;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int column = 256 * p + 8 * lane;
            if (column < d)
                f(p, column);
        }
    }

    DEVICE void load_row(const bf16 *row, int d) {
        each(d, [&](int p, int column) {
            const Pack<8> eight = load<8>(row + column);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[p][i] = eight[i];
        });
    }
};
