// Linear layer and its gradients on tensor cores; the formulas are in 1_naive.cu.
//
// The idea: all three are the product of gemm/6_pipeline.cu, whose factors have K innermost or
// outermost in memory. In shared memory they lie as they come, and ldmatrix transposes where K is
// outside (gemm_mma.cuh):
//
//             K    a               b
//   y         I    x   innermost   w   innermost
//   dx        O    dz  innermost   w   outermost
//   dw        R    dz  outermost   x   outermost
//
// Tensor cores want w in bf16: linear_round makes that copy, once a step for all parameters. The
// sums go through shared memory once more, from pairs spread over a warp to 16 bytes of neighbours
// a thread, so that bias, activation, its derivative and stores are in vectors. Where tiles of 128
// are too few to fill the device, tiles of 64 are four times as many.
//
// dw is small and its K long, so that its tiles would fill a few multiprocessors only: rows are
// split into chunks, and linear_add_parts adds up the chunks' sums in a fixed order. The first
// column of tiles adds up db on the side, from the slices of dz that it has in shared memory
// anyway.
//
// Bound: FLOPs of mma.sync, 2 R I O each, as in gemm/6_pipeline.cu; for layers of a Transformer
// memory is near: y and dx move 2 (R I + R O + I O) bytes. dw writes and reads 4 I O bytes a chunk
// besides, from L2.
//
// Launch: blocks of 128 threads; linear_128, linear_dx_128 and linear_dw_128 with tiles of 128 x
// 128 and 64 KiB of dynamic shared memory, linear_64 and linear_dx_64 with tiles of 64 x 64 and 32
// KiB. linear_128_x3 and its like have three slices in 48 KiB, for GPUs that give a multiprocessor
// 100. A block a tile; the second dimension of linear_dw_128's grid is the chunks, which are
// multiples of 32 rows. linear_add_parts and linear_round: blocks of 256 threads, one and four
// elements each. Where I (for gradients O, too) is a multiple of 8, and the factors of 16 bytes.
//
// Source: CUTLASS documentation, "Efficient GEMM in CUDA": epilogue, parallelized reductions (K
//   split over blocks).
#include "gemm_pipeline.cuh"
#include "linear.cuh"

namespace {

constexpr int ELEMENTS = 256;  // threads of linear_add_parts and linear_round

// A block's tile: warps are 2 x 2 tiles of half its size.
template <int TILE> struct Sums {
    static constexpr int SIZE = TILE / 2;
    static constexpr int M = SIZE / 16, N = SIZE / 8;

    float v[M][N][4] = {};

    DEVICE static int warp() {
        return int(threadIdx.x) / 32;
    }
    DEVICE static int row() {
        return warp() / 2 * SIZE;
    }
    DEVICE static int column() {
        return warp() % 2 * SIZE;
    }

    // Hands the sums to `out`, by way of `memory`, which the stages had: at
    // once where there is room, else in halves.
    template <class Pair, int STAGES, class Out>
    DEVICE void leave(Pair *memory, TilePlace tile, const Out &out) const {
        constexpr size_t ROOM = STAGES * sizeof(Pair) / (PIPELINE_THREADS / 32);
        constexpr int WIDTH = sizeof(WarpTile<SIZE, SIZE>) <= ROOM ? SIZE : SIZE / 2;
        auto &own = reinterpret_cast<WarpTile<SIZE, WIDTH> *>(memory)[warp()];
        static_assert(sizeof own <= ROOM, "a half fits");
        __syncthreads();
#pragma unroll
        for (int first = 0; first < SIZE; first += WIDTH) {
            own.put(v, first / 8);
            __syncwarp();
            own.leave(tile.row + row(), tile.column + column() + first, out);
            __syncwarp();
        }
    }
};

template <int TILE, int STAGES>
DEVICE void linear_tile(const bf16 *x, const bf16 *w, const Forward &out, int inputs) {
    using Factor = KInner<TILE>;
    using Pair = Stage<Factor, Factor>;
    DYNAMIC_SHARED(Pair, stages);
    const TilePlace tile = tile_in_bands(int(blockIdx.x), out.m, out.n, TILE, TILE);
    const Factor a = {x + size_t(tile.row) * inputs, out.m - tile.row, inputs};
    const Factor b = {w + size_t(tile.column) * inputs, out.n - tile.column, inputs};
    Sums<TILE> sums;
    pipeline<STAGES>(sums.v, stages, a, b, sums.row(), sums.column());
    sums.template leave<Pair, STAGES>(stages, tile, out);
}

template <int TILE, int STAGES>
DEVICE void dx_tile(const bf16 *dz, const bf16 *w, const InputGrad &out, int outputs) {
    using Pair = Stage<KInner<TILE>, KOuter<TILE>>;
    DYNAMIC_SHARED(Pair, stages);
    const TilePlace tile = tile_in_bands(int(blockIdx.x), out.m, out.n, TILE, TILE);
    const KInner<TILE> a = {dz + size_t(tile.row) * outputs, out.m - tile.row, outputs};
    const KOuter<TILE> b = {w + tile.column, out.n - tile.column, outputs, out.n};
    Sums<TILE> sums;
    pipeline<STAGES>(sums.v, stages, a, b, sums.row(), sums.column());
    sums.template leave<Pair, STAGES>(stages, tile, out);
}

// Sums of 128 columns over all rows of the slices: a thread has two columns and half of a slice's
// rows.
struct ColumnSums {
    float low = 0, high = 0;

    DEVICE static int pair() {
        return int(threadIdx.x) % 64;
    }
    DEVICE static int half() {
        return int(threadIdx.x) / 64;
    }

    DEVICE void add(const Slab<128> &slab) {
#pragma unroll 4
        for (int i = 0; i < DEPTH / 2; i++) {
            const bf16 *chunk = slab.chunk(half() * (DEPTH / 2) + i, pair() / 4);
            const Pack<2> v = load<2>(chunk + 2 * (pair() % 4));
            low += v[0];
            high += v[1];
        }
    }

    DEVICE void leave(float2 (&halves)[64], float *db, int columns, int accumulate) const {
        if (half() == 1)
            halves[pair()] = {low, high};
        __syncthreads();
        if (half() == 0 && 2 * pair() < columns) {
            put_sum(db + 2 * pair(), accumulate, low + halves[pair()].x);
            put_sum(db + 2 * pair() + 1, accumulate, high + halves[pair()].y);
        }
    }
};

// A block sums over `chunk` rows; each chunk has a dw and a db of its own.
template <int STAGES>
DEVICE void dw_tile(const bf16 *dz, const bf16 *x, float *dw, float *db, int accumulate, int rows,
                    int inputs, int outputs, int chunk) {
    constexpr int TILE = 128;
    using Factor = KOuter<TILE>;
    using Pair = Stage<Factor, Factor>;
    SHARED(float2, halves, [TILE / 2]);
    DYNAMIC_SHARED(Pair, stages);
    const TilePlace tile = tile_in_rows(int(blockIdx.x), inputs, TILE, TILE);
    const int part = int(blockIdx.y), start = part * chunk, k = min(chunk, rows - start);
    const Factor a = {dz + size_t(start) * outputs + tile.row, outputs - tile.row, k, outputs};
    const Factor b = {x + size_t(start) * inputs + tile.column, inputs - tile.column, k, inputs};
    const WeightGrad out = {dw + size_t(part) * outputs * inputs, accumulate, outputs, inputs};
    Sums<TILE> sums;
    ColumnSums columns;
    const bool also = db && tile.column == 0;
    pipeline<STAGES>(sums.v, stages, a, b, sums.row(), sums.column(), [&](const Slab<TILE> &slab) {
        if (also)
            columns.add(slab);
    });
    sums.template leave<Pair, STAGES>(stages, tile, out);
    if (also) {
        const size_t first = size_t(part) * outputs + tile.row;
        columns.leave(halves, db + first, outputs - tile.row, accumulate);
    }
}

}  // namespace

KERNEL(linear_128, PIPELINE_THREADS)
(const bf16 *x, const bf16 *w, const float *bias, bf16 *pre, bf16 *y, int act, int rows, int inputs,
 int outputs) {
    linear_tile<128, 4>(x, w, {bias, pre, y, act, rows, outputs}, inputs);
}
EXPORT(linear_128)

KERNEL(linear_128_x3, PIPELINE_THREADS)
(const bf16 *x, const bf16 *w, const float *bias, bf16 *pre, bf16 *y, int act, int rows, int inputs,
 int outputs) {
    linear_tile<128, 3>(x, w, {bias, pre, y, act, rows, outputs}, inputs);
}
EXPORT(linear_128_x3)

KERNEL(linear_64, PIPELINE_THREADS)
(const bf16 *x, const bf16 *w, const float *bias, bf16 *pre, bf16 *y, int act, int rows, int inputs,
 int outputs) {
    linear_tile<64, 4>(x, w, {bias, pre, y, act, rows, outputs}, inputs);
}
EXPORT(linear_64)

KERNEL(linear_dx_128, PIPELINE_THREADS)
(const bf16 *dz, const bf16 *w, const bf16 *input, bf16 *dx, int act, int accumulate, int rows,
 int inputs, int outputs) {
    dx_tile<128, 4>(dz, w, {input, dx, act, accumulate, rows, inputs}, outputs);
}
EXPORT(linear_dx_128)

KERNEL(linear_dx_128_x3, PIPELINE_THREADS)
(const bf16 *dz, const bf16 *w, const bf16 *input, bf16 *dx, int act, int accumulate, int rows,
 int inputs, int outputs) {
    dx_tile<128, 3>(dz, w, {input, dx, act, accumulate, rows, inputs}, outputs);
}
EXPORT(linear_dx_128_x3)

KERNEL_BLOCKS(linear_dx_64, PIPELINE_THREADS, 5)
(const bf16 *dz, const bf16 *w, const bf16 *input, bf16 *dx, int act, int accumulate, int rows,
 int inputs, int outputs) {
    dx_tile<64, 4>(dz, w, {input, dx, act, accumulate, rows, inputs}, outputs);
}
EXPORT(linear_dx_64)

KERNEL(linear_dw_128, PIPELINE_THREADS)
(const bf16 *dz, const bf16 *x, float *dw, float *db, int accumulate, int rows, int inputs,
 int outputs, int chunk) {
    dw_tile<4>(dz, x, dw, db, accumulate, rows, inputs, outputs, chunk);
}
EXPORT(linear_dw_128)

KERNEL(linear_dw_128_x3, PIPELINE_THREADS)
(const bf16 *dz, const bf16 *x, float *dw, float *db, int accumulate, int rows, int inputs,
 int outputs, int chunk) {
    dw_tile<3>(dz, x, dw, db, accumulate, rows, inputs, outputs, chunk);
}
EXPORT(linear_dw_128_x3)

// Adds up the parts of dw [parts,O,I] and of db [parts,O].
KERNEL(linear_add_parts, ELEMENTS)
(const float *dw_parts, const float *db_parts, int parts, int inputs, int outputs, int accumulate,
 float *dw, float *db) {
    const size_t weights = size_t(outputs) * inputs;
    const size_t i = size_t(blockIdx.x) * ELEMENTS + threadIdx.x;
    if (i >= weights + (db ? outputs : 0))
        return;
    const bool weight = i < weights;
    const float *part = weight ? dw_parts + i : db_parts + (i - weights);
    const size_t stride = weight ? weights : outputs;
    float sum = 0;
#pragma unroll 8
    for (int p = 0; p < parts; p++)
        sum += part[p * stride];
    put_sum(weight ? dw + i : db + (i - weights), accumulate, sum);
}
EXPORT(linear_add_parts)

// to = from, rounded; both are multiples of 16 bytes.
KERNEL(linear_round, ELEMENTS)(const float *from, bf16 *to, uint64_t count) {
    const size_t i = 4 * (size_t(blockIdx.x) * ELEMENTS + threadIdx.x);
    if (i + 4 <= count) {
        float v[4];
        load<4>(from + i, v);
        store<4>(to + i, v);
    } else {
        for (size_t rest = i; rest < count; rest++)
            to[rest] = to_bf16(from[rest]);
    }
}
EXPORT(linear_round)
