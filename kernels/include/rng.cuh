// Counter-based random numbers, bit for bit those of src/rng.rs: a value is a pure function of what
// it is for, so every thread can draw it for itself, in any order. SplitMix64 (Steele, Lea, Flood,
// 2014).
//
// Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
#pragma once

#include "kernel.cuh"

// The odd number nearest 2^64 / golden ratio.
constexpr uint64_t RNG_STEP = 0x9e3779b97f4a7c15;

// A bijection in which each input bit flips each output bit with probability one half.
DEVICE uint64_t rng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

// The random numbers of one (seed, a, b), one after the other. The three do not commute.
struct RngStream {
    uint64_t state;

    DEVICE RngStream(uint64_t seed, uint64_t a, uint64_t b) {
        state = rng_mix(seed + RNG_STEP);
        state = rng_mix((state ^ a) + RNG_STEP);
        state = rng_mix((state ^ b) + RNG_STEP);
    }

    DEVICE uint64_t bits() {
        state += RNG_STEP;
        return rng_mix(state);
    }

    // Uniform in 0..n-1 up to a bias below n / 2^64; 0 for n = 0.
    DEVICE uint64_t below(uint64_t n) {
        return __umul64hi(bits(), n);
    }
};
