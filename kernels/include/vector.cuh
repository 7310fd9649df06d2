// Neighbouring channels as one memory access, and how blocks walk over activations [pixels, C].
#pragma once

#include "bf16.cuh"

// Two floats rounded to bf16, the first in the lower half.
DEVICE uint32_t to_bf16_pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    return to_bf16(low).bits | uint32_t(to_bf16(high).bits) << 16;
#endif
}

// N neighbouring bf16, loaded and stored at once: 16 bytes for N = 8. In words, because a half of a
// word is one instruction away from the float that it stands for.
template <int N> struct alignas(2 * N) Pack {
    uint32_t pairs[N / 2];

    DEVICE float operator[](int i) const {
        return __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16);
    }
};

template <> struct Pack<1> {
    bf16 v;

    DEVICE float operator[](int) const {
        return to_float(v);
    }
};

template <int N> DEVICE Pack<N> load(const bf16 *p) {
    return *reinterpret_cast<const Pack<N> *>(p);
}

// Rounds and stores.
template <int N> DEVICE void store(bf16 *p, const float (&v)[N]) {
    Pack<N> out;
    if constexpr (N == 1) {
        out.v = to_bf16(v[0]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 2)
            out.pairs[i / 2] = to_bf16_pair(v[i], v[i + 1]);
    }
    *reinterpret_cast<Pack<N> *>(p) = out;
}

// N neighbouring parameters; p is a multiple of 16 bytes if N is one of 4.
template <int N> DEVICE void load(const float *p, float (&to)[N]) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 v = *reinterpret_cast<const float4 *>(p + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = p[i];
    }
}

// Threads of every block that walks.
constexpr int WALKERS = 256;

// A block takes a chunk of pixels and a tile of channels. Of its threads, `across` are side by
// side, each with a vector of N channels; those below one another take every rows-th pixel. So a
// warp's accesses are neighbours in memory whatever C is, and a thread keeps its channels: what is
// per channel it loads once and holds in registers.
//
//   grid (chunks of pixels, tiles of across · N channels), WALKERS threads
//
// N is 8 where 8 divides C (then every pixel starts at a multiple of 16 bytes), else 1.
template <int N> struct Walk {
    int channels, channel;  // of all channels, the thread's first
    int row, rows;
    int first, end;  // the thread's pixels: first, first + rows, ... before end

    DEVICE Walk(int pixels, int channels, int across, int chunk) : channels(channels) {
        const int thread = int(threadIdx.x), start = int(blockIdx.x) * chunk;
        row = thread / across;
        rows = WALKERS / across;
        channel = (int(blockIdx.y) * across + thread % across) * N;
        first = start + row;
        // None for the threads that are left over, and past the last channel.
        end = row < rows && channel < channels ? min(pixels, start + chunk) : 0;
    }

    DEVICE bool idle() const {
        return first >= end;
    }

    // Of the thread's vector in a pixel.
    DEVICE size_t at(int pixel) const {
        return size_t(pixel) * channels + channel;
    }
};
