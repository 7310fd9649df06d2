// Gradient of a convolution's weights (see 2_tiles.cu for formula and chunks), the products on
// tensor cores.
//
// The idea over 2_tiles.cu: both operands lie with K = pixels outside, so slices are rows of pixels
// and ldmatrix transposes both. M, the weights of an output channel, is cut into tiles of 144 (96
// where there are more than 32 output channels, for lack of registers): 3x3 layers of 16, 32 and 64
// channels have 1, 2 and 6 of them and nothing left over.
//
// Bound: memory; x is fetched KH KW times from L1 and L2, dy once a tile of weights.
//
// Launch: conv_wgrad_mma_16, _32, _64 by the width of the tile in output channels; grid (chunks,
// ceil(KH KW Ci / tile), ceil(Co / width)), 96 threads; with one chunk `partial` is dw, else
// conv_backward_finish follows.
//
// Source: Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, arXiv 1410.0759.
// Source: GTC 2021 talk S31883, Accelerating Convolution with Tensor Cores in CUTLASS.
#include "conv_mma.cuh"

constexpr int WGRAD_WARPS = 3;
// Tiles of 16 weights of a warp.
template <int WIDTH> constexpr int TILES = WIDTH > 32 ? 2 : 3;
template <int WIDTH> constexpr int WEIGHTS_OF = 16 * TILES<WIDTH> * WGRAD_WARPS;

// Walks over the output pixels of a chunk: lane t takes pixel t of each step.
struct Pixels {
    int pixel, last, ho, wo;
    Digits at, step;

    DEVICE Pixels(int first, int last, int ho, int wo)
        : pixel(first + lane()), last(last), ho(ho), wo(wo) {
        at = digits(pixel, ho, wo);
        step = digits(STEP, ho, wo);
    }

    DEVICE bool inside() const {
        return pixel < last;
    }

    DEVICE void next() {
        pixel += STEP;
        advance(at, step, ho, wo);
    }
};

// Copies slices of what the taps of `image` from `first` on meet: each warp some chunks of taps.
template <int WEIGHTS> struct Taps {
    static constexpr int VECTORS = WEIGHTS / 8 / WGRAD_WARPS;

    Activation source;
    Image image;
    int stride, pad;
    Pixels pixels;
    Digits tap[VECTORS];
    Vector<Activation> v[VECTORS];

    DEVICE static int chunk(int i) {
        return warp() * VECTORS + i;
    }

    DEVICE Taps(Activation source, Image image, int stride, int pad, int first, Pixels pixels)
        : source(source), image(image), stride(stride), pad(pad), pixels(pixels) {
        for (int i = 0; i < VECTORS; i++) tap[i] = digits(first + 8 * chunk(i), image.kw, image.c);
    }

    DEVICE void fetch() {
        size_t start = size_t(pixels.at.a) * image.h * image.w * image.c;
        int top = pixels.inside() ? pixels.at.b * stride - pad : -(1 << 30);
        int left = pixels.at.c * stride - pad;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) v[i].fetch(source, image, start, top, left, tap[i]);
        pixels.next();
    }

    DEVICE void put(Tile<STEP, WEIGHTS> &to) const {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            to.at(lane(), chunk(i)) = v[i].get(source, image, opaque(tap[i].c));
    }
};

// Copies slices of dy: a pixel is an image of its own.
template <int WIDTH> struct Channels {
    static constexpr int VECTORS = (WIDTH / 8 + WGRAD_WARPS - 1) / WGRAD_WARPS;

    Gradient source;
    Image image;
    Pixels pixels;
    int first;
    Vector<Gradient> v[VECTORS];

    DEVICE static int chunk(int i) {
        return warp() + i * WGRAD_WARPS;
    }

    DEVICE Channels(Gradient source, int co, int first, Pixels pixels)
        : source(source), image{1, 1, co, 1, 1}, pixels(pixels), first(first) {}

    DEVICE Digits tap(int i) const {
        return digits(first + 8 * chunk(i), 1, image.c);
    }

    DEVICE void fetch() {
        size_t start = size_t(pixels.pixel) * image.c;
        int top = pixels.inside() ? 0 : -(1 << 30);
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (chunk(i) < WIDTH / 8) v[i].fetch(source, image, start, top, 0, tap(i));
        pixels.next();
    }

    DEVICE void put(Tile<STEP, WIDTH> &to) const {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (chunk(i) < WIDTH / 8)
                to.at(lane(), chunk(i)) = v[i].get(source, image, opaque(tap(i).c));
    }
};

template <int WIDTH>
DEVICE void conv_wgrad(Gradient dy, Activation x, float *partial, int chunk, int n, int h,
                       int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad) {
    constexpr int WEIGHTS = WEIGHTS_OF<WIDTH>, M = TILES<WIDTH>;
    using A = Tile<STEP, WEIGHTS>;
    using B = Tile<STEP, WIDTH>;
    SHARED(A, a, [2]);
    SHARED(B, b, [2]);
    int first = int(blockIdx.x) * chunk, last = min(n * ho * wo, first + chunk);
    int weight = int(blockIdx.y) * WEIGHTS, channel = int(blockIdx.z) * WIDTH;

    Pixels pixels(first, last, ho, wo);
    Taps<WEIGHTS> taps(x, {h, width, ci, kernel, kernel}, stride, pad, weight, pixels);
    Channels<WIDTH> channels(dy, co, channel, pixels);
    float acc[M][WIDTH / 8][4] = {};
    pipeline((last - first + STEP - 1) / STEP, a, taps, b, channels, [&](A &a, B &b) {
#pragma unroll 1  // registers
        for (int k = 0; k < STEP; k += 16) {
            uint32_t fa[M][4], fb[WIDTH / 8][2];
#pragma unroll
            for (int m = 0; m < M; m++) load_a_trans(fa[m], a, k, (warp() * M + m) * 2);
#pragma unroll
            for (int c = 0; c < WIDTH / 8; c += 2) load_b_trans(&fb[c], b, k, c);
            mma(acc, fa, fb);
        }
    });

    // Eight lanes store eight neighbouring weights of a channel.
    int weights = kernel * kernel * ci;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int c = 0; c < WIDTH / 8; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int q = weight + (warp() * M + m) * 16 + lane() / 4 + i / 2 * 8;
                int o = channel + c * 8 + lane() % 4 * 2 + i % 2;
                if (q < weights && o < co)
                    partial[(size_t(blockIdx.x) * co + o) * weights + q] = acc[m][c][i];
            }
        }
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

KERNEL_BLOCKS(conv_wgrad_mma_16, 32 * WGRAD_WARPS, 2)(PARAMETERS) {
    conv_wgrad<16>(ARGUMENTS);
}
EXPORT(conv_wgrad_mma_16)

KERNEL_BLOCKS(conv_wgrad_mma_32, 32 * WGRAD_WARPS, 2)(PARAMETERS) {
    conv_wgrad<32>(ARGUMENTS);
}
EXPORT(conv_wgrad_mma_32)

KERNEL_BLOCKS(conv_wgrad_mma_64, 32 * WGRAD_WARPS, 2)(PARAMETERS) {
    conv_wgrad<64>(ARGUMENTS);
}
EXPORT(conv_wgrad_mma_64)
