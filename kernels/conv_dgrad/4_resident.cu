// Gradient of a convolution's input where the stride is 2 (see 2_tiles.cu for formula, classes and
// sums), of a 3x3 kernel or of the 1x1 kernel beside it.
//
// The idea over 3_tensor_cores.cu, whose blocks each have a class of pixels and set out for one to
// four taps: the classes meet the same dy. So a block stays, with all weights on chip, and of each
// tile of dy's pixels it copies the region once, by cp.async while the tile before is multiplied,
// and computes dy once in place. From there it makes all four classes of dx: pixel (2i + a, 2j + b)
// is class (a, b) of pixel (i, j) of the tile.
//
//     class     rows of w, from dy's line       columns of w, from dy's column
//     (0, 0)    1 from i                        1 from j
//     (0, 1)    1 from i                        0 from j + 1, 2 from j
//     (1, 0)    0 from i + 1, 2 from i          1 from j
//     (1, 1)    0 from i + 1, 2 from i          0 from j + 1, 2 from j
//
// Nine taps for four pixels; a 1x1 kernel has one, of class (0, 0). A thread keeps its sums for the
// batch norm before from tile to tile.
//
// Bound: memory, 2 bytes for each of g, y, x, dx, add, raw, of which the last four have four times
// the pixels of the first two and half the channels.
//
// Launch: conv_dgrad_resident_CI_CO and, for the 1x1 kernel, conv_dgrad_resident_1_CI_CO, with Ci 16
// or 32 and Co twice that; as many blocks as fit at once, 128 threads. Dynamic shared memory:
// weights, a tile of outputs, sums, windows and places, two regions of g and y. Partial sums as in
// 2_tiles.cu, of the tiles of a block.
//
// Source: GTC 2022 talk S41996, Accelerating Backward Data Gradient by Increasing Tensor Core
//   Utilization in CUTLASS (classes of pixels).
#include "conv_region.cuh"

template <int CI, int CO, int KERNEL_>
DEVICE void conv_dgrad(Gradient dy, const float *w, Activation x, int mask, const bf16 *add,
                       bf16 *dx, const bf16 *raw, const float *raw_mean, const float *raw_invstd,
                       float *partial, int n, int h, int width) {
    constexpr int CHUNKS = CO / 8, ALL = KERNEL_ * KERNEL_;
    using Out = Outputs<CI>;
    using Copy = Copier<CO, MMA_THREADS>;
    struct Shared {
        Tile<ALL * CO, CI> weights;  // rows are (tap, o)
        Out out;
        float red[MMA_THREADS / 32][CI];
        // Of the tile's pixels: their windows, and where their dx of class (0, 0) lies behind that
        // of the first.
        int windows[PIXELS], places[PIXELS];
    };
    DYNAMIC_SHARED(unsigned char, memory);
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    bf16x8 *regions_at = reinterpret_cast<bf16x8 *>(memory + sizeof(Shared));

    const int ho = h / 2, wo = width / 2;
    // dy's pixels, with one more on each side.
    const Regions regions(ho, wo, ho, wo, 1);
    const int region = regions.size() * CHUNKS;
    const int pixels = n * ho * wo, tiles = (pixels + PIXELS - 1) / PIXELS;
    const auto gradients = [&](int turn) { return regions_at + (turn & 1) * 2 * region; };
    const auto fetch = [&](int tile, int turn) {
        bf16x8 *g = gradients(turn);
        Copy::each(regions, tile, n, CO, [&](int i, bool inside, size_t from) {
            if (!inside) from = 0;
            copy_async(&g[i], dy.g + from, inside);
            if (dy.y) copy_async(&g[region + i], dy.y + from, inside);
        });
    };

    for (int i = int(threadIdx.x); i < ALL * CO * CI / 8; i += MMA_THREADS) {
        int row = i / (CI / 8), chunk = i % (CI / 8), tap = row / CO, o = row % CO;
        shared.weights.at(row, chunk) =
            load_first8(w + (size_t(o) * ALL + tap) * CI + chunk * 8, 8, true);
    }
    if (threadIdx.x < PIXELS) {
        int p = int(threadIdx.x);
        Digits at = digits(p, regions.rows, wo);
        shared.windows[p] = regions.window(p);
        shared.places[p] = ((at.a * h + 2 * at.b) * width + 2 * at.c) * CI;
    }
    const int row = Out::row(), chunk = Out::chunk();
    float sums[2][8] = {};
    int tile = int(blockIdx.x);
    if (tile < tiles) fetch(tile, 0);
    copy_commit();
    for (int turn = 0; tile < tiles; turn++, tile += int(gridDim.x)) {
        int next = tile + int(gridDim.x), first = tile * PIXELS, rows = min(PIXELS, pixels - first);
        if (next < tiles) fetch(next, turn + 1);
        copy_commit();
        copy_wait<1>();
        // Each thread what it has copied itself, so there is no barrier in between.
        bf16x8 *g = gradients(turn);
        if (dy.y) {
            int o = opaque(Copy::chunk()) * 8;
            Copy::each(regions, tile, n, CO, [&](int i, bool inside, size_t) {
                if (inside) g[i] = dy.finish({g[i], g[region + i]}, o);
            });
        }
        int image = first / (ho * wo), top = (first - image * ho * wo) / wo * 2;
        const size_t start = (size_t(image) * h + top) * width * CI;
#pragma unroll 1
        for (int of = 0; of < 4; of++) {
            const int down = of / 2, right = of % 2;
            // dy and weights are there, and the outputs of the class before have been read.
            __syncthreads();
            float acc[2][CI / 8][4] = {};
            int windows[2];
#pragma unroll
            for (int m = 0; m < 2; m++)
                windows[m] = shared.windows[warp() * 32 + m * 16 + lane() % 16];
            const int all = KERNEL_ == 1 ? of == 0 : (down + 1) * (right + 1);
#pragma unroll 1
            for (int i = 0; i < all; i++) {
                // Rows and columns of w and how many pixels further on they meet dy.
                int vertical = i >> right, across = i & right;
                int a = down ? 2 * vertical : 1, b = right ? 2 * across : 1;
                int tap = KERNEL_ == 1 ? 0 : a * 3 + b;
                int shift = (down - vertical + 1) * regions.wide + right - across + 1;
#pragma unroll
                for (int k = 0; k < CO; k += 16) {
                    uint32_t fa[2][4], fb[CI / 8][2];
#pragma unroll
                    for (int m = 0; m < 2; m++)
                        ldmatrix(fa[m],
                                 &g[swizzled<CHUNKS>(windows[m] + shift, k / 8 + lane() / 16)]);
#pragma unroll
                    for (int c = 0; c < CI / 8; c += 2)
                        load_b_trans(&fb[c], shared.weights, tap * CO + k, c);
                    mma(acc, fa, fb);
                }
            }
            shared.out.put(acc);
            __syncthreads();

            const size_t corner = start + (down * width + right) * CI + chunk * 8;
            const int c0 = opaque(chunk) * 8;
            size_t at[Out::CHUNKS];
            bf16x8 others[Out::CHUNKS] = {}, seen[Out::CHUNKS] = {}, raws[Out::CHUNKS] = {};
#pragma unroll
            for (int i = 0; i < Out::CHUNKS; i++) {
                int r = row + i * Out::STRIDE;
                if (r >= rows) break;
                at[i] = corner + shared.places[r];
                if (add) others[i] = load8(add + at[i]);
                if (mask) seen[i] = load8(x.x + at[i]);
                if (partial) raws[i] = load8(raw + at[i]);
            }
#pragma unroll
            for (int i = 0; i < Out::CHUNKS; i++) {
                if (row + i * Out::STRIDE >= rows) break;
                float d[8];
                shared.out.get(i, d);
                bf16x8 loaded = x.finish({seen[i]}, c0);
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    if (add) d[c] += to_float(others[i].v[c]);
                    if (mask && to_float(loaded.v[c]) <= 0) d[c] = 0;
                }
                bf16x8 stored = rounded8(d);
                *reinterpret_cast<bf16x8 *>(dx + at[i]) = stored;
                if (!partial) continue;
#pragma unroll
                for (int c = 0; c < 8; c += 4) {
                    float mean[4], invstd[4];
                    unpack(load4(raw_mean + c0 + c), mean);
                    unpack(load4(raw_invstd + c0 + c), invstd);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        float v = to_float(stored.v[c + j]);
                        float xhat = (to_float(raws[i].v[c + j]) - mean[j]) * invstd[j];
                        sums[0][c + j] += v;
                        sums[1][c + j] += v * xhat;
                    }
                }
            }
        }
    }
    copy_wait<0>();
    if (!partial) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        column_sums<CI>(sums[i], shared.red);
        if (row > 0) continue;
#pragma unroll
        for (int c = 0; c < 8; c++)
            partial[(size_t(i) * CI + chunk * 8 + c) * gridDim.x + blockIdx.x] = sums[i][c];
    }
}

// add may be dx, and raw x. BLOCKS: what registers shall allow on a multiprocessor.
#define RESIDENT(NAME, CI, CO, KERNEL_, BLOCKS)                                                    \
    KERNEL_BLOCKS(NAME, MMA_THREADS, BLOCKS)                                                       \
    (const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,       \
     const float *__restrict__ invstd, const float *__restrict__ gain,                             \
     const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,             \
     const float *__restrict__ w, const bf16 *__restrict__ x, const float *__restrict__ scale,     \
     const float *__restrict__ shift, int relu, int mask, const bf16 *add, bf16 *dx,               \
     const bf16 *__restrict__ raw, const float *__restrict__ raw_mean,                             \
     const float *__restrict__ raw_invstd, float *__restrict__ partial, int n, int h, int width,   \
     int ci, int co, int ho, int wo, int kernel, int stride, int pad) {                            \
        if (ci != CI || co != CO || h != 2 * ho || width != 2 * wo || kernel != KERNEL_ ||         \
            stride != 2 || pad != KERNEL_ / 2)                                                     \
            __trap();                                                                              \
        conv_dgrad<CI, CO, KERNEL_>({g, y, mean, invstd, gain, dgamma, dbeta, inverse}, w,         \
                                    {x, scale, shift, relu}, mask, add, dx, raw, raw_mean,         \
                                    raw_invstd, partial, n, h, width);                             \
    }

RESIDENT(conv_dgrad_resident_16_32, 16, 32, 3, 3)
EXPORT(conv_dgrad_resident_16_32)
RESIDENT(conv_dgrad_resident_32_64, 32, 64, 3, 1)
EXPORT(conv_dgrad_resident_32_64)
RESIDENT(conv_dgrad_resident_1_16_32, 16, 32, 1, 3)
EXPORT(conv_dgrad_resident_1_16_32)
RESIDENT(conv_dgrad_resident_1_32_64, 32, 64, 1, 1)
EXPORT(conv_dgrad_resident_1_32_64)
