// What a convolution's blocks leave of its output's statistics, put together.
#pragma once

#include "conv.cuh"
#include "reduce.cuh"

// Threads that merge a channel's partial moments.
constexpr int MERGERS = 128;
// Partial moments of a thread that are on their way at a time.
constexpr int IN_FLIGHT = 8;

// Moments of output channel blockIdx.x in the first of the block's MERGERS threads, from the partial
// ones [2][Co][blocks] of blocks that take tiles of PIXELS pixels in turns, the last of which may
// have fewer.
DEVICE Moments<1> merged_moments(const float *partial, int blocks, int pixels, int co) {
    SHARED(float, shared, [3][MERGERS]);
    const int tiles = (pixels + PIXELS - 1) / PIXELS, missing = tiles * PIXELS - pixels;
    const int turns = tiles / blocks, more = tiles % blocks, last = (tiles - 1) % blocks;
    const float *means = partial + size_t(blockIdx.x) * blocks;
    const float *squares = means + size_t(co) * blocks;
    Moments<1> all = {0, {0}, {0}};
    for (int first = int(threadIdx.x); first < blocks; first += MERGERS * IN_FLIGHT) {
        // Loads in a loop of their own: a merge's division would hold up the next.
        Moments<1> parts[IN_FLIGHT] = {};
#pragma unroll
        for (int p = 0; p < IN_FLIGHT; p++) {
            const int i = first + p * MERGERS;
            if (i >= blocks) break;
            const int count = (turns + int(i < more)) * PIXELS - (i == last ? missing : 0);
            parts[p] = {float(count), {means[i]}, {squares[i]}};
        }
#pragma unroll
        for (int p = 0; p < IN_FLIGHT; p++) all.add(parts[p]);
    }
    reduce_rows(all, shared, MERGERS, 1);
    return all;
}
