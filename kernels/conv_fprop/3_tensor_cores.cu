// Forward convolution (see 2_tiles.cu for shapes, load and moments), the products on tensor cores.
//
// The idea over 2_tiles.cu: mma.sync does in one instruction what takes a warp 64 of FMA, so the
// operands stay bf16 from memory to multiplication. That is half the shared memory, and ldmatrix
// hands them out: a row of a slice is a window's taps, or a filter's, with K along it, as both lie
// in memory.
//
// Bound: memory, at last. A 3x3 layer with 16 channels has 144 FLOPs a byte, and tensor cores do
// 295 for each byte of an H100's memory traffic (989 TFLOP/s, 3.35 TB/s); with 64 channels it has
// 576. What is left above the floor is that every x is fetched up to KH KW times from L1 and L2,
// and transformed as often.
//
// Launch: conv_fprop_mma_16, _32, _64 by the width of the tile in channels; grid (ceil(M / 128),
// ceil(Co / width)), 128 threads. Partial moments as in 2_tiles.cu.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
// Source: GTC 2021 talk S31883, Accelerating Convolution with Tensor Cores in CUTLASS.
#include "conv_mma.cuh"

// Copies slices of w as it lies, rounded: rows are output channels.
template <int WIDTH> struct Filters {
    static constexpr int VECTORS = (WIDTH * 4 + MMA_THREADS - 1) / MMA_THREADS;

    const float *w;
    int co, taps, k;
    bf16x8 v[VECTORS];

    DEVICE static int row(int i) {
        return int(threadIdx.x) / 4 + i * (MMA_THREADS / 4);
    }

    DEVICE Filters(const float *w, int co, int taps) : w(w), co(co), taps(taps) {
        k = 8 * (int(threadIdx.x) % 4);
    }

    DEVICE void fetch() {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            int o = int(blockIdx.y) * WIDTH + row(i);
            v[i] = load_first8(w + size_t(o) * taps + k, o < co ? taps - k : 0, taps % 8 == 0);
        }
        k += STEP;
    }

    DEVICE void put(Tile<WIDTH, STEP> &to) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (row(i) < WIDTH) to.at(row(i), int(threadIdx.x) % 4) = v[i];
    }
};

template <int WIDTH>
DEVICE void conv_fprop(const bf16 *x, const float *scale, const float *shift, int relu,
                       const float *w, bf16 *y, float *partial, int n, int h, int width, int ci,
                       int co, int ho, int wo, int kernel, int stride, int pad) {
    // First slices, then outputs.
    union Shared {
        struct {
            Tile<PIXELS, STEP> a[2];
            Tile<WIDTH, STEP> b[2];
        };
        Outputs<WIDTH> out;
    };
    SHARED(Shared, shared);
    SHARED(float, red, [MMA_THREADS / 32][WIDTH]);
    int pixels = n * ho * wo, first = int(blockIdx.x) * PIXELS;

    using X = Patches<Activation>;
    X patches({x, scale, shift, relu}, {h, width, ci, kernel, kernel});
    for (int r = 0; r < X::ROWS; r++) {
        int pixel = first + X::row(r);
        Digits d = digits(pixel, ho, wo);
        if (pixel < pixels)
            patches.place(r, d.a, d.b * stride - pad, d.c * stride - pad);
        else
            patches.skip(r);
    }
    int taps = kernel * kernel * ci;
    Filters<WIDTH> filters(w, co, taps);
    float acc[2][WIDTH / 8][4] = {};
    pipeline((taps + STEP - 1) / STEP, shared.a, patches, shared.b, filters,
             [&](Tile<PIXELS, STEP> &a, Tile<WIDTH, STEP> &b) {
#pragma unroll 1  // registers
                 for (int chunk = 0; chunk < STEP / 8; chunk += 2) {
                     uint32_t fa[2][4], fb[WIDTH / 8][2];
#pragma unroll
                     for (int m = 0; m < 2; m++) load_a(fa[m], a, warp() * 32 + m * 16, chunk);
#pragma unroll
                     for (int c = 0; c < WIDTH / 8; c += 2) load_b(&fb[c], b, c * 8, chunk);
                     mma(acc, fa, fb);
                 }
             });
    shared.out.put(acc);
    __syncthreads();

    using Out = Outputs<WIDTH>;
    int rows = min(PIXELS, pixels - first), o = int(blockIdx.y) * WIDTH + Out::chunk() * 8;
    float mean[8] = {};
#pragma unroll
    for (int i = 0; i < Out::CHUNKS; i++) {
        int row = Out::row() + i * Out::STRIDE;
        if (row >= rows) break;
        float v[8];
        shared.out.get(i, v);
        bf16x8 stored = rounded8(v);
        store_first8(y + size_t(first + row) * co + o, stored, co - o, co % 8 == 0);
#pragma unroll
        for (int c = 0; c < 8; c++) mean[c] += to_float(stored.v[c]);
    }
    if (!partial) return;
    // Squares around the tile's own mean.
    column_sums<WIDTH>(mean, red);
#pragma unroll
    for (int c = 0; c < 8; c++) mean[c] /= float(rows);
    float squares[8] = {};
#pragma unroll
    for (int i = 0; i < Out::CHUNKS; i++) {
        int row = Out::row() + i * Out::STRIDE;
        if (row >= rows) break;
        float v[8];
        shared.out.get(i, v);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            float d = rounded(v[c]) - mean[c];
            squares[c] += d * d;
        }
    }
    column_sums<WIDTH>(squares, red);
    if (Out::row() > 0) return;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        if (o + c >= co) break;
        float *to = partial + size_t(o + c) * gridDim.x + blockIdx.x;
        to[0] = mean[c];
        to[size_t(co) * gridDim.x] = squares[c];
    }
}

#define PARAMETERS                                                                                 \
    const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,  \
        int relu, const float *__restrict__ w, bf16 *__restrict__ y, float *__restrict__ partial,  \
        int n, int h, int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad
#define ARGUMENTS                                                                                  \
    x, scale, shift, relu, w, y, partial, n, h, width, ci, co, ho, wo, kernel, stride, pad

KERNEL(conv_fprop_mma_16, MMA_THREADS)(PARAMETERS) {
    conv_fprop<16>(ARGUMENTS);
}
EXPORT(conv_fprop_mma_16)

KERNEL(conv_fprop_mma_32, MMA_THREADS)(PARAMETERS) {
    conv_fprop<32>(ARGUMENTS);
}
EXPORT(conv_fprop_mma_32)

KERNEL(conv_fprop_mma_64, MMA_THREADS)(PARAMETERS) {
    conv_fprop<64>(ARGUMENTS);
}
EXPORT(conv_fprop_mma_64)

// Try: nine windows meet each pixel. How often does a block fetch a byte that it reads, in `kernels
// profile conv --step 3 --shape 2x16x16x16x16x3x1`?
// Answer: `each byte 12.8 times`: pixels up to nine times, and the channels' scale and shift with
// every vector.
