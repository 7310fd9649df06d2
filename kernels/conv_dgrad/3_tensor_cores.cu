// Gradient of a convolution's input (see 2_tiles.cu for formula, classes and sums), the products on
// tensor cores.
//
// The idea over 2_tiles.cu: as in conv_fprop/3_tensor_cores.cu, but w lies with N = Ci innermost and
// K = (a, b, o) outside, so its slices are rows of K, and ldmatrix transposes them on the way out.
//
// Bound: memory; 2 bytes for each of dy, y, dx, x, add, raw, of which dy and y are fetched up to
// KH KW times from L1 and L2.
//
// Launch: conv_dgrad_mma_16, _32, _64 by the width of the tile in channels; grid (classes x tiles of
// the largest class, ceil(Ci / width)), 128 threads. Partial sums as in 2_tiles.cu.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
// Source: GTC 2021 talk S31883, Accelerating Convolution with Tensor Cores in CUTLASS.
#include "conv_mma.cuh"

// Copies slices of w: the taps of a class in reverse order, channels of the output innermost, are
// K; rows are taps, with channels of the input along them.
template <int WIDTH> struct Filters {
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr int STRIDE = MMA_THREADS / CHUNKS;
    static constexpr int VECTORS = (STEP + STRIDE - 1) / STRIDE;

    const float *w;
    int ci, co, kernel, stride, c;
    Class of;
    Digits tap[VECTORS], step;
    bf16x8 v[VECTORS];

    DEVICE static int row(int i) {
        return int(threadIdx.x) / CHUNKS + i * STRIDE;
    }

    DEVICE static int chunk() {
        return int(threadIdx.x) % CHUNKS;
    }

    DEVICE Filters(const float *w, int ci, int co, int kernel, int stride, Class of)
        : w(w), ci(ci), co(co), kernel(kernel), stride(stride), of(of) {
        c = int(blockIdx.y) * WIDTH + chunk() * 8;
        for (int i = 0; i < VECTORS; i++) tap[i] = digits(row(i), max(of.kw, 1), co);
        step = digits(STEP, max(of.kw, 1), co);
    }

    DEVICE void fetch() {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            int a = of.a + (of.kh - 1 - tap[i].a) * stride;
            int b = of.b + (of.kw - 1 - tap[i].b) * stride;
            // Past the last tap `a` is negative: no place to point to.
            const bool there = tap[i].a < of.kh;
            const size_t at = ((size_t(tap[i].c) * kernel + a) * kernel + b) * ci + c;
            v[i] = load_first8(w + (there ? at : 0), there ? ci - c : 0, ci % 8 == 0);
            advance(tap[i], step, of.kw, co);
        }
    }

    DEVICE void put(Tile<STEP, WIDTH> &to) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (row(i) < STEP) to.at(row(i), chunk()) = v[i];
    }
};

template <int WIDTH>
DEVICE void conv_dgrad(Gradient dy, const float *w, Activation x, int mask, const bf16 *add,
                       bf16 *dx, const bf16 *raw, const float *raw_mean, const float *raw_invstd,
                       float *partial, int n, int h, int width, int ci, int co, int ho, int wo,
                       int kernel, int stride, int pad) {
    // First slices, then outputs.
    union Shared {
        struct {
            Tile<PIXELS, STEP> a[2];
            Tile<STEP, WIDTH> b[2];
        };
        Outputs<WIDTH> out;
    };
    SHARED(Shared, shared);
    SHARED(float, red, [MMA_THREADS / 32][WIDTH]);
    // Where each row's dx lies.
    SHARED(size_t, places, [PIXELS]);
    constexpr size_t NOWHERE = ~size_t(0);

    int tiles = int(gridDim.x) / Class::count(stride, h, width);
    Class of(int(blockIdx.x) / tiles, h, width, kernel, stride, pad);
    int pixels = n * of.h * of.w, first = int(blockIdx.x) % tiles * PIXELS;
    using Dy = Patches<Gradient>;
    Dy patches(dy, {ho, wo, co, of.kh, of.kw});
    for (int r = 0; r < Dy::ROWS; r++) {
        int pixel = first + Dy::row(r);
        Digits d = digits(pixel, of.h, of.w);
        size_t place = NOWHERE;
        if (pixel < pixels) {
            int row = of.row + d.b * stride, col = of.col + d.c * stride;
            patches.place(r, d.a, (row + pad) / stride - (of.kh - 1),
                          (col + pad) / stride - (of.kw - 1));
            place = ((size_t(d.a) * h + row) * width + col) * ci;
        } else {
            patches.skip(r);
        }
        if (Dy::chunk() == 0) places[Dy::row(r)] = place;
    }
    Filters<WIDTH> filters(w, ci, co, kernel, stride, of);
    float acc[2][WIDTH / 8][4] = {};
    int taps = first < pixels ? of.kh * of.kw * co : 0;
    pipeline((taps + STEP - 1) / STEP, shared.a, patches, shared.b, filters,
             [&](Tile<PIXELS, STEP> &a, Tile<STEP, WIDTH> &b) {
#pragma unroll 1  // registers
                 for (int k = 0; k < STEP; k += 16) {
                     uint32_t fa[2][4], fb[WIDTH / 8][2];
#pragma unroll
                     for (int m = 0; m < 2; m++) load_a(fa[m], a, warp() * 32 + m * 16, k / 8);
#pragma unroll
                     for (int c = 0; c < WIDTH / 8; c += 2) load_b_trans(&fb[c], b, k, c);
                     mma(acc, fa, fb);
                 }
             });
    shared.out.put(acc);
    __syncthreads();

    using Out = Outputs<WIDTH>;
    int c0 = int(blockIdx.y) * WIDTH + Out::chunk() * 8, count = ci - c0;
    bool aligned = ci % 8 == 0;
    float sums[2][8] = {};
#pragma unroll 1  // registers
    for (int i = 0; i < Out::CHUNKS; i++) {
        size_t place = places[Out::row() + i * Out::STRIDE];
        if (place == NOWHERE || count <= 0) continue;
        size_t at = place + c0;
        float d[8];
        shared.out.get(i, d);
        if (add) {
            bf16x8 other = load_first8(add + at, count, aligned);
#pragma unroll
            for (int c = 0; c < 8; c++) d[c] += to_float(other.v[c]);
        }
        if (mask) {
            bf16x8 seen = load_first8(x.x + at, count, aligned);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float scale = x.scale && c < count ? x.scale[c0 + c] : 1;
                float shift = x.scale && c < count ? x.shift[c0 + c] : 0;
                if (to_float(x.finish(to_float(seen.v[c]), scale, shift)) <= 0) d[c] = 0;
            }
        }
        bf16x8 stored = rounded8(d);
        if (partial) {
            bf16x8 y = load_first8(raw + at, count, aligned);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                if (c >= count) break;
                float v = to_float(stored.v[c]);
                sums[0][c] += v;
                sums[1][c] += v * ((to_float(y.v[c]) - raw_mean[c0 + c]) * raw_invstd[c0 + c]);
            }
        }
        store_first8(dx + at, stored, count, aligned);
    }
    if (!partial) return;
    column_sums<WIDTH>(sums[0], red);
    column_sums<WIDTH>(sums[1], red);
    if (Out::row() > 0) return;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        if (c >= count) break;
        float *to = partial + size_t(c0 + c) * gridDim.x + blockIdx.x;
        to[0] = sums[0][c];
        to[size_t(ci) * gridDim.x] = sums[1][c];
    }
}

// add may be dx, and raw x.
#define PARAMETERS                                                                                 \
    const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,        \
        const float *__restrict__ invstd, const float *__restrict__ gain,                          \
        const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,          \
        const float *__restrict__ w, const bf16 *__restrict__ x, const float *__restrict__ scale,  \
        const float *__restrict__ shift, int relu, int mask, const bf16 *add, bf16 *dx,            \
        const bf16 *__restrict__ raw, const float *__restrict__ raw_mean,                          \
        const float *__restrict__ raw_invstd, float *__restrict__ partial, int n, int h,           \
        int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad
#define ARGUMENTS                                                                                  \
    {g, y, mean, invstd, gain, dgamma, dbeta, inverse}, w, {x, scale, shift, relu}, mask, add, dx, \
        raw, raw_mean, raw_invstd, partial, n, h, width, ci, co, ho, wo, kernel, stride, pad

KERNEL_BLOCKS(conv_dgrad_mma_16, MMA_THREADS, 2)(PARAMETERS) {
    conv_dgrad<16>(ARGUMENTS);
}
EXPORT(conv_dgrad_mma_16)

KERNEL_BLOCKS(conv_dgrad_mma_32, MMA_THREADS, 2)(PARAMETERS) {
    conv_dgrad<32>(ARGUMENTS);
}
EXPORT(conv_dgrad_mma_32)

KERNEL_BLOCKS(conv_dgrad_mma_64, MMA_THREADS, 2)(PARAMETERS) {
    conv_dgrad<64>(ARGUMENTS);
}
EXPORT(conv_dgrad_mma_64)

// Try: a gradient of this layer has 2.4 MFLOP. How many does `kernels profile conv_backward --step
// 3 --shape 2x16x16x16x16x3x1` spend on it, and why?
// Answer: `2.6 MFLOP of mma.sync`: K is 144, five steps of 32 are 160.
