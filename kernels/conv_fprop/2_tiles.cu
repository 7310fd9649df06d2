// Forward convolution, NHWC, as a matrix product with M = N Ho Wo pixels, N = Co channels and
// K = KH KW Ci taps:
//
//   y[n,i,j,o] = sum over a,b,c of load(x)[n, i s + a - p, j s + b - p, c] w[o,a,b,c]
//
//   x [N,H,W,Ci] bf16, read through load = optional scale, shift ([Ci]) and ReLU, then rounded to
//   bf16; zero padding after it. w [Co,KH,KW,Ci] f32, rounded to bf16. y [N,Ho,Wo,Co] bf16.
//   Optionally the mean and biased variance of each channel of y as stored.
//
// The idea: implicit GEMM, a matrix product whose left side is looked up in the image while it is
// multiplied (drawn in conv.cuh). A row of w is a column of the product's right side as it lies in
// memory, so K runs over (a, b, c) with c fastest, and a step of 16 is one or two vectors of
// neighbouring channels. Each block also leaves the mean of its pixels, and the sum of squares
// around that mean, of each channel: conv_moments combines them (Chan, Golub, LeVeque, 1979), which
// loses no digits where the mean is large, and always in the same order.
//
// Bound: FLOPs. 2 M Co K of them against 2 (N H W Ci + M Co) + 4 Co K bytes: a 3x3 layer with 16
// channels has 144 FLOPs a byte, with 64 channels 576; the FMA units of an H100 do 20 for each byte
// of memory traffic. Every x is fetched up to KH KW times, mostly from L1 and L2.
//
// Launch: conv_fprop_16, _32, _64 by the width of the tile in channels; grid (ceil(M / 128),
// ceil(Co / width)), 4 width threads. conv_moments: Co blocks of 128 threads.
//
// Registers (sm_80 / sm_90a) and shared memory: 127 / 124 and 18 KiB, 96 / 96 and 20 KiB, 94 / 80
// and 24 KiB in the order of the widths; two blocks of the widest fit on a multiprocessor.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
#include "conv.cuh"
#include "conv_moments.cuh"

// Copies slices of w transposed: thread t takes four taps of channel t % WIDTH.
template <int WIDTH> struct Filters {
    const float *w;
    int co, taps, o, k;
    float4 v;

    DEVICE Filters(const float *w, int co, int taps) : w(w), co(co), taps(taps) {
        o = int(blockIdx.y) * WIDTH + int(threadIdx.x) % WIDTH;
        k = 4 * (int(threadIdx.x) / WIDTH);
    }

    DEVICE void fetch() {
        int count = o < co ? taps - k : 0;
        v = load_first(w + size_t(o) * taps + k, count, taps % 4 == 0);
    }

    DEVICE void put(Slice<WIDTH> &to) {
        int row = k % DEPTH, col = int(threadIdx.x) % WIDTH;
        to.v[row][col] = rounded(v.x);
        to.v[row + 1][col] = rounded(v.y);
        to.v[row + 2][col] = rounded(v.z);
        to.v[row + 3][col] = rounded(v.w);
        k += DEPTH;
    }
};

// Mean and squares over the `rows` first pixels of the tile, of which this thread holds ROWS from
// `row` on in four channels. `partial` is [2][Co][blocks]. `red` is shared.
template <int WIDTH, int ROWS>
DEVICE void tile_moments(const float (&y)[ROWS][COLS], int rows, int row, int col,
                         Slice<WIDTH> &red, float *partial, int co) {
    static_assert(DEPTH == THREADS_PER_COLUMN, "one sum of each thread of a column");
    float mean[COLS];
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
        __syncthreads();
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            float sum = 0;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float d = pass == 0 ? y[r][c] : (y[r][c] - mean[c]) * (y[r][c] - mean[c]);
                sum += row + r < rows ? d : 0;
            }
            red.v[row / ROWS][col + c] = sum;
        }
        __syncthreads();
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            float sum = 0;
            for (int t = 0; t < THREADS_PER_COLUMN; t++) sum += red.v[t][col + c];
            if (pass == 0) mean[c] = sum / float(rows);
            float result = pass == 0 ? mean[c] : sum;
            int o = int(blockIdx.y) * WIDTH + col + c;
            if (row == 0 && o < co)
                partial[(size_t(pass) * co + o) * gridDim.x + blockIdx.x] = result;
        }
    }
}

template <int WIDTH>
DEVICE void conv_fprop(const bf16 *x, const float *scale, const float *shift, int relu,
                       const float *w, bf16 *y, float *partial, int n, int h, int width, int ci,
                       int co, int ho, int wo, int kernel, int stride, int pad) {
    constexpr int ROWS = PIXELS / THREADS_PER_COLUMN;
    SHARED(Slice<PIXELS>, a, [2]);
    SHARED(Slice<WIDTH>, b, [2]);
    int pixels = n * ho * wo, first = int(blockIdx.x) * PIXELS;

    using X = Windows<Activation, WIDTH>;
    X windows({x, scale, shift, relu}, {h, width, ci, kernel, kernel});
    for (int r = 0; r < X::ROWS; r++) {
        int pixel = first + X::row(r);
        Digits d = digits(pixel, ho, wo);
        if (pixel < pixels)
            windows.place(r, size_t(d.a) * h * width * ci, d.b * stride - pad, d.c * stride - pad);
        else
            windows.skip(r);
    }
    int taps = kernel * kernel * ci;
    Filters<WIDTH> filters(w, co, taps);
    int row = int(threadIdx.x) / (WIDTH / COLS) * ROWS;
    int col = int(threadIdx.x) % (WIDTH / COLS) * COLS;
    float acc[ROWS][COLS] = {};
    accumulate((taps + DEPTH - 1) / DEPTH, a, windows, row, b, filters, col, acc);

    int o = int(blockIdx.y) * WIDTH + col;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        bf16x4 v;
#pragma unroll
        for (int c = 0; c < COLS; c++) {
            v.v[c] = to_bf16(acc[r][c]);
            acc[r][c] = to_float(v.v[c]);
        }
        int pixel = first + row + r;
        if (pixel < pixels) store_first(y + size_t(pixel) * co + o, v, co - o, co % 4 == 0);
    }
    if (partial) {
        int rows = min(PIXELS, pixels - first);
        tile_moments<WIDTH>(acc, rows, row, col, b[0], partial, co);
    }
}

#define PARAMETERS                                                                                 \
    const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift,  \
        int relu, const float *__restrict__ w, bf16 *__restrict__ y, float *__restrict__ partial,  \
        int n, int h, int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad
#define ARGUMENTS                                                                                  \
    x, scale, shift, relu, w, y, partial, n, h, width, ci, co, ho, wo, kernel, stride, pad

KERNEL(conv_fprop_16, THREADS<16>)(PARAMETERS) {
    conv_fprop<16>(ARGUMENTS);
}
EXPORT(conv_fprop_16)

KERNEL(conv_fprop_32, THREADS<32>)(PARAMETERS) {
    conv_fprop<32>(ARGUMENTS);
}
EXPORT(conv_fprop_32)

KERNEL(conv_fprop_64, THREADS<64>)(PARAMETERS) {
    conv_fprop<64>(ARGUMENTS);
}
EXPORT(conv_fprop_64)

// Mean and biased variance [Co] from the blocks' partial ones. Where batch norm follows,
// bn_coefficients/2_with_moments.cu does this, too.
KERNEL(conv_moments, MERGERS)
(const float *__restrict__ partial, int blocks, int pixels, int co, float *__restrict__ mean,
 float *__restrict__ var) {
    const Moments<1> all = merged_moments(partial, blocks, pixels, co);
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = all.mean[0];
        var[blockIdx.x] = all.m2[0] / all.n;
    }
}
EXPORT(conv_moments)

// Try: K has 144 taps here, nine slices of 16. How many barriers do the four blocks of `kernels
// profile conv --step 2 --shape 2x16x16x16x16x3x1` pass?
// Answer: `56 barriers`, 14 each: one for each slice, one before the first, four for the moments.
