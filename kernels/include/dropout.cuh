// Dropout: elements times 0 or 1/(1 − p), drawn bit for bit as src/rng.rs does, again wherever they
// are needed.
//
// Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: A Simple Way to
//   Prevent Neural Networks from Overfitting, JMLR 15, 2014.
#pragma once

#include "rng.cuh"
#include "step.cuh"

// One dropout of the network in the present step. Of 65536 equally likely numbers `threshold` zero
// an element (0: there is no dropout), and the others multiply it by `scale`.
struct Dropout {
    uint64_t key = 0;
    uint32_t threshold;
    float scale;

    DEVICE Dropout(const StepState *state, uint32_t site, uint32_t threshold, float scale)
        : threshold(threshold), scale(scale) {
        if (threshold > 0)
            key = RngStream(state->seed, state->step, uint64_t(1) << 63 | site).state;
    }

    // Random bits of elements 4 · group ... 4 · group + 3.
    DEVICE uint64_t bits(uint64_t group) const {
        return threshold > 0 ? rng_mix((key ^ group) + RNG_STEP) : 0;
    }

    // Factor of element `lane` of a group.
    DEVICE float factor(uint64_t bits, int lane) const {
        return (uint32_t(bits >> (16 * lane)) & 0xffff) < threshold ? 0.0f : scale;
    }

    DEVICE float factor(uint64_t element) const {
        return factor(bits(element / 4), int(element % 4));
    }

    // Factors of N neighbouring elements, of which the first is a multiple of 4.
    template <int N> DEVICE void factors(uint64_t first, float (&to)[N]) const {
        static_assert(N % 4 == 0, "whole groups");
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const uint64_t four = bits(first / 4 + uint64_t(i / 4));
#pragma unroll
            for (int lane = 0; lane < 4; lane++)
                to[i + lane] = factor(four, lane);
        }
    }
};
