// Gradient of a convolution's weights (see conv_fprop/2_tiles.cu for its shapes):
//
//   dw[o,a,b,c] = sum over n,i,j of dy[n,i,j,o] load(x)[n, i s + a - p, j s + b - p, c]
//
//   dy is read through Gradient (batch norm's backward pass), x through Activation; both are
//   rounded to bf16. dw [Co,KH,KW,Ci] f32.
//
// The idea: a matrix product with M = KH KW Ci weights of an output channel, N = Co and K = N Ho Wo
// pixels. M and N are small, K is huge, so K is cut into chunks, each block sums up one chunk of
// one tile, and conv_backward_finish adds up the chunks. There are as many as fill the device once
// or, where the tiles are many, four times. Both operands lie with M or N innermost, as their
// slices do: no transposition.
//
// Bound: FLOPs, as many as the forward pass: 2 N Ho Wo Co KH KW Ci against 2 (N H W Ci + N Ho Wo Co
// (2 with batch norm)) + 4 x chunks x Co KH KW Ci bytes written and read again.
//
// Launch: conv_wgrad_16, _32, _64 by the width of the tile in output channels; grid (chunks,
// ceil(KH KW Ci / 64), ceil(Co / width)), 4 width threads; with one chunk `partial` is dw.
// conv_backward_finish: Ci + ceil(weights / (256 / slices)) blocks of 256 threads; where there are no
// sums Ci is 0, and with one chunk the number of weights.
//
// Registers (sm_80 / sm_90a) and shared memory: 128 / 128 and 11 KiB, 96 / 96 and 13 KiB, 100 / 97
// and 17 KiB in the order of the widths; two blocks of the widest fit on a multiprocessor.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
#include "conv.cuh"
#include "reduce.cuh"

// Threads of conv_backward_finish.
constexpr int ADDERS = 256;

// Walks over the output pixels of a chunk: thread t takes pixel t % DEPTH of each step. Neighbours
// store rows of a slice, which the padding puts on different banks.
struct Pixels {
    int pixel, last, ho, wo;
    Digits at, step;

    DEVICE Pixels(int first, int last, int ho, int wo)
        : pixel(first + slot()), last(last), ho(ho), wo(wo) {
        at = digits(pixel, ho, wo);
        step = digits(DEPTH, ho, wo);
    }

    DEVICE static int slot() {
        return int(threadIdx.x) % DEPTH;
    }

    DEVICE bool inside() const {
        return pixel < last;
    }

    DEVICE void next() {
        pixel += DEPTH;
        advance(at, step, ho, wo);
    }
};

template <int SIZE> using Rows = Slice<SIZE, 4>;

template <int SIZE> DEVICE void put_row(Rows<SIZE> &to, int at, bf16x8 v) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        float4 half = {to_float(v.v[i]), to_float(v.v[i + 1]), to_float(v.v[i + 2]),
                       to_float(v.v[i + 3])};
        *reinterpret_cast<float4 *>(&to.v[Pixels::slot()][at + i]) = half;
    }
}

// Copies slices of what the taps of `image` from `first` on meet.
template <int WIDTH> struct Taps {
    static constexpr int STRIDE = THREADS<WIDTH> / DEPTH;
    static constexpr int VECTORS = WEIGHTS / 8 > STRIDE ? WEIGHTS / 8 / STRIDE : 1;

    Activation source;
    Image image;
    int stride, pad;
    Pixels pixels;
    Digits tap[VECTORS];
    Vector<Activation> vectors[VECTORS];

    DEVICE static int vector(int v) {
        return int(threadIdx.x) / DEPTH + v * STRIDE;
    }

    DEVICE Taps(Activation source, Image image, int stride, int pad, int first, Pixels pixels)
        : source(source), image(image), stride(stride), pad(pad), pixels(pixels) {
        for (int v = 0; v < VECTORS; v++)
            tap[v] = digits(first + 8 * vector(v), image.kw, image.c);
    }

    DEVICE void fetch() {
        size_t start = size_t(pixels.at.a) * image.h * image.w * image.c;
        int top = pixels.inside() ? pixels.at.b * stride - pad : -(1 << 30);
        int left = pixels.at.c * stride - pad;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (vector(v) < WEIGHTS / 8)
                vectors[v].fetch(source, image, start, top, left, tap[v]);
        pixels.next();
    }

    DEVICE void put(Rows<WEIGHTS> &to) const {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (vector(v) < WEIGHTS / 8)
                put_row<WEIGHTS>(to, 8 * vector(v), vectors[v].get(source, image, tap[v].c));
    }
};

// Copies slices of dy: a pixel is an image of its own. The last threads do it, since the first may
// have more to do with x.
template <int WIDTH> struct Channels {
    Gradient source;
    Image image;
    Pixels pixels;
    int vector;
    Digits tap;
    Vector<Gradient> v;

    DEVICE Channels(Gradient source, int co, int first, Pixels pixels)
        : source(source), image{1, 1, co, 1, 1}, pixels(pixels) {
        vector = (THREADS<WIDTH> - 1 - int(threadIdx.x)) / DEPTH;
        tap = digits(first + 8 * vector, 1, co);
    }

    DEVICE void fetch() {
        size_t start = size_t(pixels.pixel) * image.c;
        int top = pixels.inside() ? 0 : -(1 << 30);
        if (vector < WIDTH / 8) v.fetch(source, image, start, top, 0, tap);
        pixels.next();
    }

    DEVICE void put(Rows<WIDTH> &to) const {
        if (vector < WIDTH / 8) put_row<WIDTH>(to, 8 * vector, v.get(source, image, tap.c));
    }
};

template <int WIDTH>
DEVICE void conv_wgrad(Gradient dy, Activation x, float *partial, int chunk, int n, int h,
                       int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad) {
    constexpr int ROWS = WEIGHTS / THREADS_PER_COLUMN;
    SHARED(Rows<WEIGHTS>, a, [2]);
    SHARED(Rows<WIDTH>, b, [2]);
    int first = int(blockIdx.x) * chunk, last = min(n * ho * wo, first + chunk);
    int weight = int(blockIdx.y) * WEIGHTS, channel = int(blockIdx.z) * WIDTH;

    Pixels pixels(first, last, ho, wo);
    Taps<WIDTH> taps(x, {h, width, ci, kernel, kernel}, stride, pad, weight, pixels);
    Channels<WIDTH> channels(dy, co, channel, pixels);
    int row = int(threadIdx.x) % THREADS_PER_COLUMN * ROWS;
    int col = int(threadIdx.x) / THREADS_PER_COLUMN * COLS;
    float acc[ROWS][COLS] = {};
    accumulate((last - first + DEPTH - 1) / DEPTH, a, taps, row, b, channels, col, acc);

    int weights = kernel * kernel * ci, q = weight + row;
#pragma unroll
    for (int c = 0; c < COLS; c++) {
        int o = channel + col + c;
        if (o >= co) break;
        float *to = partial + (size_t(blockIdx.x) * co + o) * weights + q;
        float4 v = {acc[0][c], acc[1][c], acc[2][c], acc[3][c]};
        store_first(to, v, weights - q, weights % 4 == 0);
    }
}

#define PARAMETERS                                                                                 \
    const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,        \
        const float *__restrict__ invstd, const float *__restrict__ gain,                          \
        const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,          \
        const bf16 *__restrict__ x, const float *__restrict__ scale,                               \
        const float *__restrict__ shift, int relu, float *__restrict__ partial, int chunk, int n,  \
        int h, int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad
#define ARGUMENTS                                                                                  \
    {g, y, mean, invstd, gain, dgamma, dbeta, inverse}, {x, scale, shift, relu}, partial, chunk,   \
        n, h, width, ci, co, ho, wo, kernel, stride, pad

KERNEL(conv_wgrad_16, THREADS<16>)(PARAMETERS) {
    conv_wgrad<16>(ARGUMENTS);
}
EXPORT(conv_wgrad_16)

KERNEL(conv_wgrad_32, THREADS<32>)(PARAMETERS) {
    conv_wgrad<32>(ARGUMENTS);
}
EXPORT(conv_wgrad_32)

KERNEL(conv_wgrad_64, THREADS<64>)(PARAMETERS) {
    conv_wgrad<64>(ARGUMENTS);
}
EXPORT(conv_wgrad_64)

// What the blocks of both gradients have left, added up, in trees over the threads:
//
//   dw[i]    = sum over chunks of weight_parts[chunk][i]; `slices` (a power of two) threads share it
//   dbeta[c] = sum over tiles of sum_parts[0][c][tile], dgamma[c] = the same of sum_parts[1]
//
// Kernels that fill a GPU leave sums that want little of it, but time: to start, and to wait for
// memory. In one launch those of both gradients wait side by side: the first Ci blocks have a
// channel each, the others some of dw.
KERNEL(conv_backward_finish, ADDERS)
(const float *__restrict__ weight_parts, int chunks, int slices, int weights,
 float *__restrict__ dw, const float *__restrict__ sum_parts, int tiles, int ci,
 float *__restrict__ dgamma, float *__restrict__ dbeta) {
    SHARED(float, shared_sums, [2][ADDERS]);
    SHARED(float, shared_weights, [1][ADDERS]);
    const int thread = int(threadIdx.x), c = int(blockIdx.x);
    if (c < ci) {
        const float *first = sum_parts + size_t(c) * tiles, *second = first + size_t(ci) * tiles;
        Sums<2> sums = {};
#pragma unroll 8
        for (int tile = thread; tile < tiles; tile += ADDERS)
            sums.add({{first[tile], second[tile]}});
        reduce_rows(sums, shared_sums, ADDERS, 1);
        if (thread == 0) {
            dbeta[c] = sums.v[0];
            dgamma[c] = sums.v[1];
        }
        return;
    }
    const int elements = ADDERS / slices;
    const int i = (c - ci) * elements + thread % elements;
    Sums<1> sum = {};
    if (i < weights) {
#pragma unroll 8
        for (int chunk = thread / elements; chunk < chunks; chunk += slices)
            sum.v[0] += weight_parts[size_t(chunk) * weights + i];
    }
    reduce_rows(sum, shared_weights, slices, elements);
    if (thread < elements && i < weights) dw[i] = sum.v[0];
}
EXPORT(conv_backward_finish)
