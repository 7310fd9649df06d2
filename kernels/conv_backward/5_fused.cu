// Both gradients of a 3x3 convolution in one pass over the image, with stride 1 and as many
// channels in as out (see conv_dgrad/2_tiles.cu and conv_wgrad/2_tiles.cu for the formulas).
//
// The idea over the separate kernels: they read nearly the same things, so one block reads them
// once and makes both gradients. With
//
//   q = p + 1 - (a, b)          the output that input p meets through tap (a, b)
//   d[p,c]      = sum over a,b,o of dy[q,o] w[o,a,b,c]
//   dw[o,a,b,c] = sum over p     of dy[q,o] load(x)[p,c]
//
// both passes want the region of dy around a tile of inputs, by the same nine shifts, and the tile
// of x itself is what the ReLU's mask wants, too. So a block stays, as in conv_fprop/4_resident.cu,
// with all weights on chip and dw in its registers; of each tile it copies g, y (the batch norm's
// input) and x by cp.async while the tile before is being multiplied, computes dy once in place, and
// stores dx. A block's dw is stored when it has no more tiles, and conv_backward_finish adds the
// blocks'.
//
//     memory   g  y (region of the tile)       x (tile)              one copy of each
//               \ /                            |
//     on chip   dy = norm's backward, once     load(x), once         weights, all of them
//               |  9 shifts                    |   |
//               +----------- d = dy * w -------|---+ mask -> dx      stored tile by tile
//               |  9 shifts                    |
//               +----------- dw += dyT x ------+                     stays in registers, stored once
//
// Bound: memory, 2 bytes for each of g, y, x, dx, and of add and raw where they are wanted (raw is
// mostly x and in L2 by then); apart, the kernels read g and y twice, and all of it through nine
// windows.
//
// Launch: conv_backward_16, _32 by channels; as many blocks as fit at once, 128 threads. Dynamic
// shared memory: weights, two regions of g and y, two tiles of x, a tile of outputs.
//
// Source: Jung et al.: Restructuring Batch Normalization to Accelerate CNN Training, 2018, arXiv
//   1807.01702 (batch norm in the neighbouring convolutions).
#include "conv_region.cuh"

template <int C> struct Fused {
    static constexpr int CHUNKS = C / 8;
    // Of dw, a warp has 16 outputs o, 16 inputs c and all taps; warps beyond share the pixels.
    static constexpr int ACROSS = C / 16;
    static constexpr int SHARES = MMA_THREADS / 32 / (ACROSS * ACROSS);
    static_assert(SHARES > 0, "each warp has some of dw");
    // Of a row [TAPS][C] of the block's dw in shared memory, in floats: a warp stores pairs of
    // columns, four lanes to a row, and rows that are 8 banks apart do not get in each other's way.
    static constexpr int PITCH = (TAPS * C + 23) / 32 * 32 + 8;

    using Weights = Tile<TAPS * C, C>;
    using Inputs = Tile<PIXELS, C>;

    struct Shared {
        Weights weights;  // rows are (tap, o)
        Inputs x[2];
        Outputs<C> out;
        float red[MMA_THREADS / 32][C];
        int windows[PIXELS];
    };

    DEVICE static void load_weights(Weights &to, const float *w) {
        for (int i = int(threadIdx.x); i < TAPS * C * CHUNKS; i += MMA_THREADS) {
            int row = i / CHUNKS, chunk = i % CHUNKS, tap = row / C, o = row % C;
            to.at(row, chunk) = load_first8(w + (size_t(o) * TAPS + tap) * C + chunk * 8, 8, true);
        }
    }

    // acc = the warp's 32 pixels of d, before anything is added.
    DEVICE static void input_gradient(float (&acc)[2][CHUNKS][4], const bf16x8 *dy,
                                      const Regions &regions, Shared &shared) {
        int windows[2];
#pragma unroll
        for (int m = 0; m < 2; m++) windows[m] = shared.windows[warp() * 32 + m * 16 + lane() % 16];
#pragma unroll 2
        for (int k = 0; k < TAPS * C; k += 16) {
            uint32_t a[2][4], b[CHUNKS][2];
            int tap = k / C, chunk = k % C / 8 + lane() / 16;
#pragma unroll
            for (int m = 0; m < 2; m++) {
                int pixel = windows[m] + regions.shift(TAPS - 1 - tap);
                ldmatrix(a[m], &dy[swizzled<CHUNKS>(pixel, chunk)]);
            }
#pragma unroll
            for (int c = 0; c < CHUNKS; c += 2) load_b_trans(&b[c], shared.weights, k, c);
            mma(acc, a, b);
        }
    }

    // dw[tap row][tap column] += what the warp has of it.
    DEVICE static void weight_gradient(float (&dw)[3][3][2][4], const bf16x8 *dy, Inputs &x,
                                       const Regions &regions, const Shared &shared) {
        constexpr int SHARE = PIXELS / SHARES;
        int o = warp() % ACROSS * 2, c = warp() / ACROSS % ACROSS * 2;
        int first = warp() / (ACROSS * ACROSS) * SHARE;
#pragma unroll 1
        for (int k = first; k < first + SHARE; k += 16) {
            uint32_t b[2][2];
            load_b_trans(b, x, k, c);
            int window = shared.windows[k + lane() % 8 + lane() / 16 * 8];
#pragma unroll
            for (int row = 0; row < 3; row++) {
                uint32_t a[3][4];
#pragma unroll
                for (int col = 0; col < 3; col++) {
                    int pixel = window + regions.shift(TAPS - 1 - (row * 3 + col));
                    ldmatrix_trans(a[col], &dy[swizzled<CHUNKS>(pixel, o + lane() / 8 % 2)]);
                }
                mma(dw[row], a, b);
            }
        }
    }

    // The block's dw, [C][TAPS][C], from its warps': those that share outputs one after the other.
    DEVICE static void store_weight_gradient(const float (&dw)[3][3][2][4], float *sums, float *to) {
        int o = warp() % ACROSS * 16 + lane() / 4, c = warp() / ACROSS % ACROSS * 16 + lane() % 4 * 2;
        for (int share = 0; share < SHARES; share++) {
            __syncthreads();
            if (warp() / (ACROSS * ACROSS) != share) continue;
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
#pragma unroll
                    for (int i = 0; i < 4; i += 2) {
                        int row = o + i / 2 * 8, col = c + half * 8;
                        float2 *at = reinterpret_cast<float2 *>(sums + row * PITCH + tap * C + col);
                        const float(&v)[4] = dw[tap / 3][tap % 3][half];
                        float2 sum = {v[i], v[i + 1]};
                        if (share > 0) {
                            float2 before = *at;
                            sum = {before.x + sum.x, before.y + sum.y};
                        }
                        *at = sum;
                    }
                }
            }
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < C * TAPS * C; i += MMA_THREADS)
            to[i] = sums[i / (TAPS * C) * PITCH + i % (TAPS * C)];
    }
};

template <int C>
DEVICE void conv_backward(Gradient dy, const float *w, Activation x, int mask, const bf16 *add,
                          bf16 *dx, const bf16 *raw, const float *raw_mean,
                          const float *raw_invstd, float *partial, float *dw, int n, int h,
                          int width) {
    using F = Fused<C>;
    using Out = Outputs<C>;
    using Copy = Copier<C, MMA_THREADS>;
    DYNAMIC_SHARED(unsigned char, memory);
    auto &shared = *reinterpret_cast<typename F::Shared *>(memory);
    bf16x8 *regions_at = reinterpret_cast<bf16x8 *>(memory + sizeof shared);

    const Regions regions(h, width, h, width, 1);
    const int region = regions.size() * F::CHUNKS;
    const int pixels = n * h * width, tiles = (pixels + PIXELS - 1) / PIXELS;
    const auto gradients = [&](int turn) { return regions_at + (turn & 1) * 2 * region; };
    // A thread's pixels of a tile: the same in x as in the outputs.
    const int row = Out::row(), chunk = Out::chunk();
    const auto fetch = [&](int tile, int turn) {
        bf16x8 *g = gradients(turn);
        Copy::each(regions, tile, n, C, [&](int i, bool inside, size_t from) {
            if (!inside) from = 0;
            copy_async(&g[i], dy.g + from, inside);
            if (dy.y) copy_async(&g[region + i], dy.y + from, inside);
        });
        for (int r = row; r < PIXELS; r += Out::STRIDE) {
            int pixel = tile * PIXELS + r;
            size_t from = pixel < pixels ? size_t(pixel) * C + chunk * 8 : 0;
            copy_async(&shared.x[turn & 1].at(r, chunk), x.x + from, pixel < pixels);
        }
    };

    F::load_weights(shared.weights, w);
    if (threadIdx.x < PIXELS) shared.windows[threadIdx.x] = regions.window(int(threadIdx.x));
    float dw_acc[3][3][2][4] = {};
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
        auto &inputs = shared.x[turn & 1];
        int c0 = opaque(chunk) * 8;
        if (dy.y)
            Copy::each(regions, tile, n, C, [&](int i, bool inside, size_t) {
                if (inside) g[i] = dy.finish({g[i], g[region + i]}, c0);
            });
        if (x.scale || x.relu)
            for (int r = row; r < rows; r += Out::STRIDE)
                inputs.at(r, chunk) = x.finish({inputs.at(r, chunk)}, c0);
        __syncthreads();

        float acc[2][F::CHUNKS][4] = {};
        F::input_gradient(acc, g, regions, shared);
        shared.out.put(acc);
        F::weight_gradient(dw_acc, g, inputs, regions, shared);
        __syncthreads();

        float sums[2][8] = {};
        // Rows whose loads are on their way at a time: as many as there are registers for.
        constexpr int BATCH = C == 16 ? 1 : Out::CHUNKS;
#pragma unroll 1
        for (int i = 0; i < Out::CHUNKS; i += BATCH) {
            bf16x8 others[BATCH] = {}, raws[BATCH] = {};
            const auto at = [&](int r) { return size_t(first + r) * C + chunk * 8; };
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                int r = row + (i + b) * Out::STRIDE;
                if (r >= rows) break;
                if (add) others[b] = load8(add + at(r));
                if (partial) raws[b] = load8(raw + at(r));
            }
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                int r = row + (i + b) * Out::STRIDE;
                if (r >= rows) break;
                float d[8];
                shared.out.get(i + b, d);
                bf16x8 seen = inputs.at(r, chunk);
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    if (add) d[c] += to_float(others[b].v[c]);
                    if (mask && to_float(seen.v[c]) <= 0) d[c] = 0;
                }
                bf16x8 stored = rounded8(d);
                *reinterpret_cast<bf16x8 *>(dx + at(r)) = stored;
                if (!partial) continue;
#pragma unroll
                for (int c = 0; c < 8; c += 4) {
                    float m[4], s[4];
                    unpack(load4(raw_mean + c0 + c), m);
                    unpack(load4(raw_invstd + c0 + c), s);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        float v = to_float(stored.v[c + j]);
                        sums[0][c + j] += v;
                        sums[1][c + j] += v * ((to_float(raws[b].v[c + j]) - m[j]) * s[j]);
                    }
                }
            }
        }
        if (partial) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                column_sums<C>(sums[i], shared.red);
                if (row > 0) continue;
#pragma unroll
                for (int c = 0; c < 8; c++)
                    partial[(size_t(i) * C + chunk * 8 + c) * tiles + tile] = sums[i][c];
            }
        }
        // The next turn but one fills this one's buffers, and the next puts outputs.
        __syncthreads();
    }
    copy_wait<0>();
    float *scratch = reinterpret_cast<float *>(regions_at);
    F::store_weight_gradient(dw_acc, scratch, dw + size_t(blockIdx.x) * C * TAPS * C);
}

// add may be dx, and raw x. BLOCKS: what registers shall allow on a multiprocessor.
#define FUSED(C, BLOCKS)                                                                           \
    KERNEL_BLOCKS(conv_backward_##C, MMA_THREADS, BLOCKS)                                          \
    (const bf16 *__restrict__ g, const bf16 *__restrict__ y, const float *__restrict__ mean,       \
     const float *__restrict__ invstd, const float *__restrict__ gain,                             \
     const float *__restrict__ dgamma, const float *__restrict__ dbeta, float inverse,             \
     const float *__restrict__ w, const bf16 *__restrict__ x, const float *__restrict__ scale,     \
     const float *__restrict__ shift, int relu, int mask, const bf16 *add, bf16 *dx,               \
     const bf16 *__restrict__ raw, const float *__restrict__ raw_mean,                             \
     const float *__restrict__ raw_invstd, float *__restrict__ partial, float *__restrict__ dw,    \
     int n, int h, int width, int ci, int co, int ho, int wo, int kernel, int stride, int pad) {   \
        if (ci != C || co != C || ho != h || wo != width || kernel != 3 || stride != 1 || pad != 1) \
            __trap();                                                                              \
        conv_backward<C>({g, y, mean, invstd, gain, dgamma, dbeta, inverse}, w,                    \
                         {x, scale, shift, relu}, mask, add, dx, raw, raw_mean, raw_invstd,        \
                         partial, dw, n, h, width);                                                \
    }

FUSED(16, 3)
EXPORT(conv_backward_16)
FUSED(32, 2)
EXPORT(conv_backward_32)

// Try: how many FLOPs of tensor cores has the one kernel of `kernels profile conv_backward --step 5
// --shape 2x16x16x16x16x3x1`, of a layer with 2.4 MFLOP forward?
// Answer: `4.7 MFLOP of mma.sync`: both gradients, nine taps of 16 channels each, nothing left
// over.
