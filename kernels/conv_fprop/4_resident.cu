// Forward convolution with a 3x3 kernel (see 2_tiles.cu for shapes, load and moments), everything
// that is used more than once on chip.
//
// The idea over 3_tensor_cores.cu: a block stays, and all that is used more than once is on chip.
// It keeps all weights (16 to 64 channels: 5 to 72 KiB) and walks over tiles; of each it copies the
// region of x once, by cp.async while the tile before is being multiplied, transforms it once in
// place, and reads it nine times by ldmatrix, shifted. So x comes from memory (1 + halo) times and
// not nine, and its batch norm and ReLU are computed as often. A thread also keeps the moments of
// its outputs from tile to tile; the block's threads merge theirs once, when there are no more.
//
//     region: what the tile's windows meet               tap (a, b) of all windows at once:
//
//     o o o o o o o o o o    o  halo: also copied by     the same rows of ldmatrix, a lines down and
//     o x x x x x x x x o       the tiles above and      b pixels to the right (Regions::shift)
//     o x x x x x x x x o       below, or zero
//     o x x x x x x x x o    x  the tile: PIXELS         copied once -> transformed once -> read 9
//     o o o o o o o o o o       outputs, whole rows      times from shared memory
//
// Bound: memory, 2 (N H W Ci + N Ho Wo Co) bytes, and the halo's (up to half as much again of x)
// from L2.
//
// Launch: conv_fprop_resident_CI_CO for Ci up to 8 (CI = 8), 16, 32, 64 and Co 16, 32, 64; as many
// blocks as fit at once, 128 threads, or 256 where one block fits on a multiprocessor. Dynamic
// shared memory: weights, two regions, a tile of outputs; in their place at the end the threads'
// moments. Partial moments as in 2_tiles.cu, of the tiles of a block.
//
// Source: PTX ISA, "Data Movement and Conversion Instructions: cp.async".
// Source: Jung et al.: Restructuring Batch Normalization to Accelerate CNN Training, 2018, arXiv
//   1807.01702 (batch norm on load and in the epilogue).
#include "conv_region.cuh"
#include "reduce.cuh"

// Floats of a thread's moments.
constexpr int MOMENTS = sizeof(Moments<8>) / 4;

// Weights: rows are output channels, along them taps of CI channels each, then zeros up to a
// multiple of 16.
template <int CI> constexpr int DEEP = (TAPS * CI + 15) / 16 * 16;

template <int CI, int CO, int THREADS_>
DEVICE void load_weights(Tile<CO, DEEP<CI>> &to, const float *w, int ci) {
    for (int i = int(threadIdx.x); i < CO * DEEP<CI> / 8; i += THREADS_) {
        int o = i / (DEEP<CI> / 8), chunk = i % (DEEP<CI> / 8), tap = chunk / (CI / 8);
        int c = chunk % (CI / 8) * 8, count = tap < TAPS ? ci - c : 0;
        to.at(o, chunk) = load_first8(w + (size_t(o) * TAPS + tap) * ci + c, count, ci % 8 == 0);
    }
}

template <int CI, int CO, int THREADS_>
DEVICE void conv_fprop(const bf16 *x, const float *scale, const float *shift, int relu,
                       const float *w, bf16 *y, float *partial, int n, int h, int width,
                       int channels, int ho, int wo, int stride) {
    constexpr int CHUNKS = CI / 8;
    // Four warps have 32 pixels each; four more share these, and have other output channels.
    constexpr int SHARES = THREADS_ / MMA_THREADS, WIDTH = CO / 8 / SHARES;
    using Copy = Copier<CI, THREADS_>;
    using Out = Copier<CO, THREADS_>;
    struct Shared {
        Tile<CO, DEEP<CI>> weights;
        Tile<PIXELS, CO> out;
    };
    DYNAMIC_SHARED(unsigned char, memory);
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    bf16x8 *buffers = reinterpret_cast<bf16x8 *>(memory + sizeof(Shared));

    const Regions regions(h, width, ho, wo, stride);
    const Activation load = {x, scale, shift, relu};
    const int pixels = n * ho * wo, tiles = (pixels + PIXELS - 1) / PIXELS;
    // Fewer than CI only where that is 8.
    const int ci = CI > 8 ? CI : channels;
    const auto region = [&](int i) { return buffers + (i & 1) * regions.size() * CHUNKS; };
    const auto fetch = [&](int tile, bf16x8 *to) {
        Copy::each(regions, tile, n, ci, [&](int i, bool inside, size_t from) {
            if (ci % 8 == 0)
                copy_async(&to[i], x + (inside ? from : 0), inside);
            else
                to[i] = inside ? load.few(from, ci) : bf16x8{};
        });
    };
    // Of this thread's channels.
    float s[8], t[8];
    const bool transform = ci % 8 == 0 && (scale || relu);
#pragma unroll
    for (int c = 0; c < 8; c++) {
        s[c] = scale && transform ? scale[Copy::chunk() * 8 + c] : 1;
        t[c] = scale && transform ? shift[Copy::chunk() * 8 + c] : 0;
    }
    // Of the warp: pixels, and chunks of output channels.
    const int first_pixel = warp() % 4 * 32, first_chunk = warp() / 4 * WIDTH;
    int windows[2];
#pragma unroll
    for (int m = 0; m < 2; m++) windows[m] = regions.window(first_pixel + m * 16 + lane() % 16);

    // Of this thread's outputs of all tiles.
    Moments<8> moments = {};

    load_weights<CI, CO, THREADS_>(shared.weights, w, ci);
    int tile = int(blockIdx.x);
    if (tile < tiles) fetch(tile, region(0));
    copy_commit();
    for (int turn = 0; tile < tiles; turn++, tile += int(gridDim.x)) {
        int next = tile + int(gridDim.x);
        if (next < tiles) fetch(next, region(turn + 1));
        copy_commit();
        copy_wait<1>();
        bf16x8 *in = region(turn);
        // Each thread what it has copied itself, so there is no barrier in between.
        if (transform) {
            Copy::each(regions, tile, n, ci, [&](int i, bool inside, size_t) {
                if (!inside) return;
                bf16x8 v = in[i];
#pragma unroll
                for (int c = 0; c < 8; c++) v.v[c] = load.finish(to_float(v.v[c]), s[c], t[c]);
                in[i] = v;
            });
        }
        __syncthreads();

        float acc[2][WIDTH][4] = {};
        // Not wholly: the compiler would keep all addresses in registers from tile to tile.
#pragma unroll CI == 8 ? 5 : CI == 16 ? 3 : 2
        for (int chunk = 0; chunk < DEEP<CI> / 8; chunk += 2) {
            uint32_t a[2][4], b[WIDTH][2];
            // This lane's half of 16 channels; where a tap has only 8, of the next tap. What is
            // past the last tap meets zeros, and the last tap's own x must do.
            unsigned half = unsigned(chunk + lane() / 16);
            int tap = min(int(half / CHUNKS), TAPS - 1);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                int pixel = windows[m] + regions.shift(tap);
                ldmatrix(a[m], &in[swizzled<CHUNKS>(pixel, int(half % CHUNKS))]);
            }
#pragma unroll
            for (int c = 0; c < WIDTH; c += 2)
                load_b(&b[c], shared.weights, (first_chunk + c) * 8, chunk);
            mma(acc, a, b);
        }
#pragma unroll
        for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int c = 0; c < WIDTH; c++) {
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    int row = first_pixel + m * 16 + lane() / 4 + i * 4;
                    bf16x2 pair = {{to_bf16(acc[m][c][i]), to_bf16(acc[m][c][i + 1])}};
                    bf16 *to = &shared.out.at(row, first_chunk + c).v[lane() % 4 * 2];
                    *reinterpret_cast<bf16x2 *>(to) = pair;
                }
            }
        }
        // Outputs are there, and the region may be filled again.
        __syncthreads();

        const int first = tile * PIXELS, rows = min(PIXELS, pixels - first);
        Moments<8> here = {};
#pragma unroll
        for (int i = 0; i < PIXELS / Out::STRIDE; i++) {
            int row = Out::row() + i * Out::STRIDE;
            if (row >= rows) break;
            bf16x8 v = shared.out.at(row, Out::chunk());
            *reinterpret_cast<bf16x8 *>(y + size_t(first + row) * CO + Out::chunk() * 8) = v;
            here.n++;
#pragma unroll
            for (int c = 0; c < 8; c++) here.mean[c] += to_float(v.v[c]);
        }
        if (!partial) continue;
        const float each = 1 / fmaxf(here.n, 1);
#pragma unroll
        for (int c = 0; c < 8; c++) here.mean[c] *= each;
#pragma unroll
        for (int i = 0; i < PIXELS / Out::STRIDE; i++) {
            int row = Out::row() + i * Out::STRIDE;
            if (row >= rows) break;
            bf16x8 v = shared.out.at(row, Out::chunk());
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float d = to_float(v.v[c]) - here.mean[c];
                here.m2[c] += d * d;
            }
        }
        moments.add(here);
    }
    copy_wait<0>();
    if (!partial) return;
    // The last tile's outputs have been read, and all else is done with.
    __syncthreads();
    reduce_rows(moments, *reinterpret_cast<float(*)[MOMENTS][THREADS_]>(memory), Out::STRIDE,
                Out::CHUNKS);
    if (Out::row() > 0) return;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        float *to = partial + size_t(Out::chunk() * 8 + c) * gridDim.x + blockIdx.x;
        to[0] = moments.mean[c];
        to[size_t(CO) * gridDim.x] = moments.m2[c];
    }
}

// BLOCKS: what registers shall allow on a multiprocessor.
#define RESIDENT(CI, CO, THREADS_, BLOCKS)                                                         \
    KERNEL_BLOCKS(conv_fprop_resident_##CI##_##CO, THREADS_, BLOCKS)                               \
    (const bf16 *__restrict__ x, const float *__restrict__ scale,                                  \
     const float *__restrict__ shift, int relu, const float *__restrict__ w, bf16 *__restrict__ y, \
     float *__restrict__ partial, int n, int h, int width, int ci, int co, int ho, int wo,         \
     int kernel, int stride, int pad) {                                                            \
        if ((CI > 8 && ci != CI) || co != CO || kernel != 3 || pad != 1) __trap();                 \
        conv_fprop<CI, CO, THREADS_>(x, scale, shift, relu, w, y, partial, n, h, width, ci, ho,    \
                                     wo, stride);                                                  \
    }

RESIDENT(8, 16, 128, 4)
EXPORT(conv_fprop_resident_8_16)
RESIDENT(16, 16, 128, 5)
EXPORT(conv_fprop_resident_16_16)
RESIDENT(16, 32, 128, 4)
EXPORT(conv_fprop_resident_16_32)
RESIDENT(32, 32, 128, 4)
EXPORT(conv_fprop_resident_32_32)
// Of these a multiprocessor has the shared memory for one block (32 to 64: with a stride of 2).
RESIDENT(32, 64, 256, 1)
EXPORT(conv_fprop_resident_32_64)
RESIDENT(64, 64, 256, 1)
EXPORT(conv_fprop_resident_64_64)

// Try: and when the region is copied once, in `kernels profile conv --step 4 --shape
// 2x16x16x16x16x3x1`?
// Answer: `each byte 1.6 times`: what is left are weights and coefficients, and the halo that
// neighbours read, too.
