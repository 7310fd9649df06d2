// Matrix product on tensor cores with a pipeline of copies; the formula is in 1_naive.cu.
//
// The idea: cp.async copies from memory to shared memory without passing through registers, and a
// thread that has asked for it goes on. With STAGES slices in turn, three are on their way while
// one is multiplied, so that the tensor cores wait neither for memory nor for stores. One barrier a
// slice is enough: it says both that a slice has landed for everybody and that the one before, into
// which the next copy goes, has been read by everybody.
//
// Besides, a warp has a tile of 64 x 64, for which it loads a third less from shared memory than in
// step 4, and blocks take their tiles in bands, so that L2 serves most of what they read.
//
// Bound: FLOPs of mma.sync, 2 M N K. On an A100 that is all of the tensor cores' rate, on an H100
// about two thirds. Shared memory is read for half of an A100's time.
//
// Launch: blocks of 128 threads, a tile of 128 x 128, 64 KiB of dynamic shared memory;
// ceil(M / 128) · ceil(N / 128) of them. Where K is a multiple of 8, and a and b of 16 bytes.
#include "copy.cuh"
#include "gemm_mma.cuh"

namespace {

constexpr int TILE = 128;
constexpr int THREADS = 128;
constexpr int STAGES = 4;
constexpr int COPIES = TILE * CHUNKS / THREADS;  // of each factor's slice, by a thread

struct Stage {
    Slice<TILE> a, b;
};

// Asks for a slice of `rows` rows; past them, and past k, it is zeros.
DEVICE void fetch(Slice<TILE> &to, const bf16 *from, int rows, int start, int k) {
    const int chunk = int(threadIdx.x) % CHUNKS, at = start + 8 * chunk;
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        const int row = (i * THREADS + int(threadIdx.x)) / CHUNKS;
        const bool there = row < rows && at < k;
        copy_async(to.chunk(row, chunk), there ? from + size_t(row) * k + at : from, there);
    }
}

}  // namespace

KERNEL(gemm_pipeline, THREADS)(const bf16 *a, const bf16 *b, bf16 *c, int m, int n, int k) {
    DYNAMIC_SHARED(Stage, stages);
    const TilePlace tile = tile_in_bands(int(blockIdx.x), m, n, TILE, TILE);
    a += size_t(tile.row) * k;
    b += size_t(tile.column) * k;
    // Warps are 2 x 2 tiles of 64 x 64.
    const int warp = int(threadIdx.x) / 32, row = warp / 2 * 64, column = warp % 2 * 64;

    // A group for every slice, also where nothing is left to copy: groups are what is counted.
    const auto issue = [&](int slice) {
        if (slice * DEPTH < k) {
            Stage &to = stages[slice % STAGES];
            fetch(to.a, a, m - tile.row, slice * DEPTH, k);
            fetch(to.b, b, n - tile.column, slice * DEPTH, k);
        }
        copy_commit();
    };
#pragma unroll
    for (int slice = 0; slice < STAGES - 1; slice++)
        issue(slice);
    float sums[4][8][4] = {};
    for (int slice = 0; slice * DEPTH < k; slice++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        issue(slice + STAGES - 1);
        const Stage &stage = stages[slice % STAGES];
        multiply(sums, stage.a, stage.b, row, column);
    }
    store_fragments(c, m, n, tile.row + row, tile.column + column, sums);
}
EXPORT(gemm_pipeline)
