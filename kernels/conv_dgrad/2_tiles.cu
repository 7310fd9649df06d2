// Gradient of a convolution's input (see conv_fprop/2_tiles.cu for its shapes), and what becomes of
// it before it leaves the registers:
//
//   d[n,h,w,c] = sum over a,b,o of dy[n, (h + p - a) / s, (w + p - b) / s, o] w[o,a,b,c]
//                where both quotients are whole and inside the image
//   dx = (d + add) [load(x) > 0], rounded to bf16; add and mask are optional
//   dbeta = sum of dx, dgamma = sum of dx (raw - mean) invstd over n, h, w; optional
//
//   dy is read through Gradient (batch norm's backward pass) and rounded to bf16.
//
// The idea: pixels whose rows agree modulo s, and columns too, meet the same taps, a of one residue
// and b of one. So they are gathered into classes, s^2 of them, and within a class the transposed
// convolution is a plain one over dy with stride 1 and the class's taps in reverse order: nothing
// is multiplied by the zeros that a stride would put between the dy, and a class without taps (a
// 1x1 kernel has s^2 - 1 such) costs no more than writing its dx. The product is M = pixels of the
// class, N = Ci, K = (a, b, o). The sums for the batch norm before are taken of each tile in a
// fixed order, and of the tiles by conv_backward_finish (conv_wgrad/2_tiles.cu).
//
// Bound: FLOPs, as many as the forward pass: 2 N Ho Wo Co KH KW Ci against 2 bytes for each of dy,
// y, dx, x, add, raw, of which the last four are read or written once.
//
// Launch: conv_dgrad_16, _32, _64 by the width of the tile in channels; grid (classes x tiles of
// the largest class, ceil(Ci / width)), 4 width threads.
//
// Registers (sm_80 / sm_90a) and shared memory: 168 / 167 and 19 KiB, 133 / 128 and 21 KiB, 128 /
// 128 and 25 KiB in the order of the widths; two blocks of the widest fit on a multiprocessor.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
// Source: GTC 2022 talk S41996, Accelerating Backward Data Gradient by Increasing Tensor Core
//   Utilization in CUTLASS (classes of pixels).
#include "conv.cuh"

// Copies slices of w: the taps of a class in reverse order, channels of the output innermost, are
// K; thread t takes four channels of the input.
template <int WIDTH> struct Filters {
    const float *w;
    int ci, co, kernel, stride, c;
    Class of;
    Digits tap, step;
    float4 v;

    DEVICE static int row() {
        return int(threadIdx.x) / (WIDTH / 4);
    }

    DEVICE static int col() {
        return int(threadIdx.x) % (WIDTH / 4) * 4;
    }

    DEVICE Filters(const float *w, int ci, int co, int kernel, int stride, Class of)
        : w(w), ci(ci), co(co), kernel(kernel), stride(stride), of(of) {
        c = int(blockIdx.y) * WIDTH + col();
        tap = digits(row(), max(of.kw, 1), co);
        step = digits(DEPTH, max(of.kw, 1), co);
    }

    DEVICE void fetch() {
        int a = of.a + (of.kh - 1 - tap.a) * stride, b = of.b + (of.kw - 1 - tap.b) * stride;
        // Past the last tap `a` is negative: no place to point to.
        const bool there = tap.a < of.kh;
        const size_t at = ((size_t(tap.c) * kernel + a) * kernel + b) * ci + c;
        v = load_first(w + (there ? at : 0), there ? ci - c : 0, ci % 4 == 0);
        advance(tap, step, of.kw, co);
    }

    DEVICE void put(Slice<WIDTH> &to) {
        float4 r = {rounded(v.x), rounded(v.y), rounded(v.z), rounded(v.w)};
        *reinterpret_cast<float4 *>(&to.v[row()][col()]) = r;
    }
};

// Sums over the tile of two values that each thread has summed up for its rows, in four channels.
// `partial` is [2][Ci][blocks].
template <int WIDTH>
DEVICE void tile_sums(const float (&sums)[2][COLS], int thread_row, int col, Slice<WIDTH> &red,
                      float *partial, int ci) {
    static_assert(DEPTH == THREADS_PER_COLUMN, "one sum of each thread of a column");
#pragma unroll
    for (int i = 0; i < 2; i++) {
        __syncthreads();
#pragma unroll
        for (int c = 0; c < COLS; c++) red.v[thread_row][col + c] = sums[i][c];
        __syncthreads();
        int c = int(blockIdx.y) * WIDTH + int(threadIdx.x);
        if (threadIdx.x < WIDTH && c < ci) {
            float sum = 0;
            for (int t = 0; t < THREADS_PER_COLUMN; t++) sum += red.v[t][threadIdx.x];
            partial[(size_t(i) * ci + c) * gridDim.x + blockIdx.x] = sum;
        }
    }
}

template <int WIDTH>
DEVICE void conv_dgrad(Gradient dy, const float *w, Activation x, int mask, const bf16 *add,
                       bf16 *dx, const bf16 *raw, const float *raw_mean, const float *raw_invstd,
                       float *partial, int n, int h, int width, int ci, int co, int ho, int wo,
                       int kernel, int stride, int pad) {
    constexpr int ROWS = PIXELS / THREADS_PER_COLUMN;
    SHARED(Slice<PIXELS>, a, [2]);
    SHARED(Slice<WIDTH>, b, [2]);
    // Where each row's dx lies.
    SHARED(size_t, places, [PIXELS]);
    constexpr size_t NOWHERE = ~size_t(0);

    int tiles = int(gridDim.x) / Class::count(stride, h, width);
    Class of(int(blockIdx.x) / tiles, h, width, kernel, stride, pad);
    int pixels = n * of.h * of.w, first = int(blockIdx.x) % tiles * PIXELS;
    using Dy = Windows<Gradient, WIDTH>;
    Dy windows(dy, {ho, wo, co, of.kh, of.kw});
    for (int r = 0; r < Dy::ROWS; r++) {
        int pixel = first + Dy::row(r);
        Digits d = digits(pixel, of.h, of.w);
        size_t place = NOWHERE;
        if (pixel < pixels) {
            int row = of.row + d.b * stride, col = of.col + d.c * stride;
            windows.place(r, size_t(d.a) * ho * wo * co, (row + pad) / stride - (of.kh - 1),
                          (col + pad) / stride - (of.kw - 1));
            place = ((size_t(d.a) * h + row) * width + col) * ci;
        } else {
            windows.skip(r);
        }
        if (threadIdx.x < PIXELS) places[Dy::row(r)] = place;
    }
    Filters<WIDTH> filters(w, ci, co, kernel, stride, of);
    int thread_row = int(threadIdx.x) / (WIDTH / COLS);
    int col = int(threadIdx.x) % (WIDTH / COLS) * COLS;
    float acc[ROWS][COLS] = {};
    int taps = first < pixels ? of.kh * of.kw * co : 0;
    accumulate((taps + DEPTH - 1) / DEPTH, a, windows, thread_row * ROWS, b, filters, col, acc);

    int c0 = int(blockIdx.y) * WIDTH + col, count = ci - c0;
    bool aligned = ci % 4 == 0;
    float scale[COLS] = {1, 1, 1, 1}, shift[COLS] = {}, mean[COLS] = {}, invstd[COLS] = {};
    if (mask && x.scale) {
        unpack(load_first(x.scale + c0, count, aligned), scale);
        unpack(load_first(x.shift + c0, count, aligned), shift);
    }
    if (partial) {
        unpack(load_first(raw_mean + c0, count, aligned), mean);
        unpack(load_first(raw_invstd + c0, count, aligned), invstd);
    }
    float sums[2][COLS] = {};
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        size_t place = places[thread_row * ROWS + r];
        if (place == NOWHERE || count <= 0) continue;
        size_t at = place + c0;
        bf16x4 other = {}, seen = {}, v;
        if (add) other = load_first(add + at, count, aligned);
        if (mask) seen = load_first(x.x + at, count, aligned);
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            float loaded = to_float(x.finish(to_float(seen.v[c]), scale[c], shift[c]));
            bool off = mask && loaded <= 0;
            v.v[c] = to_bf16(off ? 0 : acc[r][c] + to_float(other.v[c]));
        }
        store_first(dx + at, v, count, aligned);
        if (!partial) continue;
        bf16x4 y = load_first(raw + at, count, aligned);
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            float d = to_float(v.v[c]);
            sums[0][c] += d;
            sums[1][c] += d * ((to_float(y.v[c]) - mean[c]) * invstd[c]);
        }
    }
    if (partial) tile_sums<WIDTH>(sums, thread_row, col, b[0], partial, ci);
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

KERNEL_BLOCKS(conv_dgrad_16, THREADS<16>, 6)(PARAMETERS) {
    conv_dgrad<16>(ARGUMENTS);
}
EXPORT(conv_dgrad_16)

KERNEL(conv_dgrad_32, THREADS<32>)(PARAMETERS) {
    conv_dgrad<32>(ARGUMENTS);
}
EXPORT(conv_dgrad_32)

KERNEL(conv_dgrad_64, THREADS<64>)(PARAMETERS) {
    conv_dgrad<64>(ARGUMENTS);
}
EXPORT(conv_dgrad_64)
