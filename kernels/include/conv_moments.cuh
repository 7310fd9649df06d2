// What a convolution's blocks leave of its output's statistics, put together.
#pragma once

#include "conv.cuh"
#include "reduce.cuh"

// Moments of output channel blockIdx.x in the block's one warp's lane 0, from the partial ones
// [2][Co][blocks] of blocks of PIXELS pixels, the last of which may have fewer.
DEVICE Moments<1> merged_moments(const float *partial, int blocks, int pixels, int co) {
    Moments<1> all = {0, {0}, {0}};
    for (int i = int(threadIdx.x); i < blocks; i += 32) {
        float count = float(min(PIXELS, pixels - i * PIXELS));
        size_t at = size_t(blockIdx.x) * blocks + i;
        all.add({count, {partial[at]}, {partial[size_t(co) * blocks + at]}});
    }
    for (int d = 16; d > 0; d /= 2) {
        Moments<1> other;
        other.n = __shfl_down_sync(~0u, all.n, d);
        other.mean[0] = __shfl_down_sync(~0u, all.mean[0], d);
        other.m2[0] = __shfl_down_sync(~0u, all.m2[0], d);
        all.add(other);
    }
    return all;
}
