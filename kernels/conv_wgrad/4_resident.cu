// Gradient of the weights of a 3x3 convolution (see 2_tiles.cu for formula and chunks), x and dy
// copied once for all taps.
//
// The idea over 3_tensor_cores.cu, which looks x up anew for each tap: as in
// conv_fprop/4_resident.cu a block stays, and of each tile it copies the region of x once. A pixel's
// channels are a row of ldmatrix, and a tap of all pixels a shift of these rows:
//
//     dw[o, tap, c] += dy[p, o] x[p + tap, c]      M = 16 o, N = 8 c of a tap, K = 16 p
//
// A block has CO output and CI input channels of dw in its registers, a warp 16 of these input
// channels with all taps; where there are fewer than 64 the warps share the pixels of a tile. x and
// g come by cp.async while the tile before is multiplied, and are transformed once in place. An
// image's few channels, whose pixels are no vectors, are filled up with zeros to 8.
//
// Bound: memory, 2 bytes for each of x, g and, with batch norm, y, and 4 x chunks x Co 9 Ci bytes
// written and read again; x is read Co / CO times, g and y Ci / CI times, mostly from L2.
//
// Launch: conv_wgrad_resident_CI_CO for Ci up to 7 (CI = 8), 16, and multiples of 32, and Co of
// multiples of 32 and, for Ci up to 16, 16; grid (chunks, Co / CO, Ci / CI), as many blocks as fit at once, 128 threads.
// Dynamic shared memory: two tiles of g and y, windows, two regions of x; at the end dw in their
// place. A block's tiles are its chunk of the pixels.
//
// Source: PTX ISA, "Data Movement and Conversion Instructions: cp.async".
#include "conv_region.cuh"

template <int CI, int CO>
DEVICE void conv_wgrad(Gradient dy, Activation x, float *partial, int n, int h, int width, int ci,
                       int co, int ho, int wo, int stride) {
    constexpr int CHUNKS = CI / 8;
    // Warps side by side along the input channels; those beyond share the pixels.
    constexpr int ACROSS = CI > 16 ? CI / 16 : 1, SHARES = MMA_THREADS / 32 / ACROSS;
    constexpr int SHARE = PIXELS / SHARES;
    // An ldmatrix gets two tiles of 8 channels: of one tap, or, where that has only 8, of two.
    constexpr int PAIRS = CI > 8 ? TAPS : (TAPS + 1) / 2;
    // Of an output channel of dw in shared memory, in floats: a warp stores pairs of columns, four
    // lanes to a row, and rows that are 8 banks apart do not get in each other's way.
    constexpr int PITCH = (TAPS * CI + 23) / 32 * 32 + 8;
    using Out = Copier<CO, MMA_THREADS>;
    using Copy = Copier<CI, MMA_THREADS>;
    struct Shared {
        Tile<PIXELS, CO> g[2], y[2];
        int windows[PIXELS];
    };
    DYNAMIC_SHARED(unsigned char, memory);
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    bf16x8 *regions_at = reinterpret_cast<bf16x8 *>(memory + sizeof(Shared));

    const Regions regions(h, width, ho, wo, stride);
    const int pixels = n * ho * wo, tiles = (pixels + PIXELS - 1) / PIXELS;
    const int first_o = int(blockIdx.y) * CO, first_c = int(blockIdx.z) * CI;
    const int row = Out::row(), chunk = Out::chunk();
    const auto region = [&](int turn) { return regions_at + (turn & 1) * regions.size() * CHUNKS; };
    const auto fetch = [&](int tile, int turn) {
        for (int r = row; r < PIXELS; r += Out::STRIDE) {
            int pixel = tile * PIXELS + r;
            bool there = pixel < pixels;
            size_t from = there ? size_t(pixel) * co + first_o + chunk * 8 : 0;
            copy_async(&shared.g[turn & 1].at(r, chunk), dy.g + from, there);
            if (dy.y) copy_async(&shared.y[turn & 1].at(r, chunk), dy.y + from, there);
        }
        bf16x8 *to = region(turn);
        Copy::each(regions, tile, n, ci, [&](int i, bool inside, size_t from) {
            if (CI > 8)
                copy_async(&to[i], x.x + (inside ? from + first_c : 0), inside);
            else
                to[i] = inside ? x.few(from, ci) : bf16x8{};
        });
    };

    if (threadIdx.x < PIXELS) shared.windows[threadIdx.x] = regions.window(int(threadIdx.x));
    // Of the warp.
    const int across = warp() % ACROSS, share = warp() / ACROSS;
    float dw[PAIRS][CO / 16][2][4] = {};
    int tile = int(blockIdx.x);
    if (tile < tiles) fetch(tile, 0);
    copy_commit();
    for (int turn = 0; tile < tiles; turn++, tile += int(gridDim.x)) {
        int next = tile + int(gridDim.x), rows = min(PIXELS, pixels - tile * PIXELS);
        if (next < tiles) fetch(next, turn + 1);
        copy_commit();
        copy_wait<1>();
        // Each thread what it has copied itself, so there is no barrier in between.
        auto &g = shared.g[turn & 1], &y = shared.y[turn & 1];
        bf16x8 *in = region(turn);
        if (dy.y) {
            int o = first_o + opaque(chunk) * 8;
            for (int r = row; r < rows; r += Out::STRIDE)
                g.at(r, chunk) = dy.finish({g.at(r, chunk), y.at(r, chunk)}, o);
        }
        if (CI > 8 && (x.scale || x.relu)) {
            int c = first_c + opaque(Copy::chunk()) * 8;
            Copy::each(regions, tile, n, ci, [&](int i, bool inside, size_t) {
                if (inside) in[i] = x.finish({in[i]}, c);
            });
        }
        __syncthreads();

#pragma unroll 1
        for (int k = share * SHARE; k < (share + 1) * SHARE; k += 16) {
            uint32_t a[CO / 16][4];
#pragma unroll
            for (int m = 0; m < CO / 16; m++) load_a_trans(a[m], g, k, m * 2);
            int window = shared.windows[k + lane() % 16], half = lane() / 16;
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                // After the last tap there is none; its place in dw is left out.
                int tap = CI > 8 ? pair : min(2 * pair + half, TAPS - 1);
                int at = CI > 8 ? 2 * across + half : 0;
                uint32_t r[4];
                ldmatrix_trans(r, &in[swizzled<CHUNKS>(window + regions.shift(tap), at)]);
                const uint32_t b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
                mma(dw[pair], a, b);
            }
        }
        // The next turn but one fills these buffers.
        __syncthreads();
    }
    copy_wait<0>();

    // The block's dw from its warps, those that share the pixels one after the other.
    float *sums = reinterpret_cast<float *>(memory);
    for (int turn = 0; turn < SHARES; turn++) {
        __syncthreads();
        if (turn != share) continue;
#pragma unroll
        for (int pair = 0; pair < PAIRS; pair++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int tap = CI > 8 ? pair : 2 * pair + j;
                int c = (CI > 8 ? 2 * across + j : 0) * 8 + lane() % 4 * 2;
                if (tap == TAPS) continue;
#pragma unroll
                for (int i = 0; i < CO / 16 * 4; i += 2) {
                    int o = i / 4 * 16 + lane() / 4 + i % 4 * 4;
                    float2 *at = reinterpret_cast<float2 *>(&sums[o * PITCH + tap * CI + c]);
                    const float *v = &dw[pair][i / 4][j][i % 4];
                    float2 sum = {v[0], v[1]};
                    if (turn > 0) {
                        float2 before = *at;
                        sum = {before.x + sum.x, before.y + sum.y};
                    }
                    *at = sum;
                }
            }
        }
    }
    __syncthreads();
    const int inputs = CI > 8 ? CI : ci;
    float *to = partial + (size_t(blockIdx.x) * co + first_o) * TAPS * ci + first_c;
    for (int i = int(threadIdx.x); i < CO * TAPS * inputs; i += MMA_THREADS) {
        Digits at = digits(i, TAPS, inputs);
        to[(at.a * TAPS + at.b) * ci + at.c] = sums[at.a * PITCH + at.b * CI + at.c];
    }
}

// BLOCKS: what registers shall allow on a multiprocessor.
#define RESIDENT(CI, CO, BLOCKS)                                                                   \
    KERNEL_BLOCKS(conv_wgrad_resident_##CI##_##CO, MMA_THREADS, BLOCKS)                            \
    (const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,       \
     const float *__restrict__ invstd, const float *__restrict__ gain,                             \
     const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,             \
     const bf16 *__restrict__ x, const float *__restrict__ scale, const float *__restrict__ shift, \
     int relu, float *__restrict__ partial, int n, int h, int width, int ci, int co, int ho,       \
     int wo, int kernel, int stride, int pad) {                                                    \
        if ((CI > 8 ? ci % CI != 0 : ci >= 8) || co % CO != 0 || kernel != 3 || pad != 1) __trap(); \
        conv_wgrad<CI, CO>({g, y, mean, invstd, gain, dgamma, dbeta, inverse},                     \
                           {x, scale, shift, relu}, partial, n, h, width, ci, co, ho, wo, stride); \
    }

RESIDENT(8, 16, 4)
EXPORT(conv_wgrad_resident_8_16)
RESIDENT(8, 32, 3)
EXPORT(conv_wgrad_resident_8_32)
RESIDENT(16, 16, 3)
EXPORT(conv_wgrad_resident_16_16)
RESIDENT(16, 32, 2)
EXPORT(conv_wgrad_resident_16_32)
RESIDENT(32, 32, 2)
EXPORT(conv_wgrad_resident_32_32)
