// Kernels for the tests of mbarriers, TMA and wgmma (tests/simt).

#include "hopper.cuh"

namespace {

using Tile = bf16[128][TMA_COLUMNS];

struct Stage {
    Tile a, b;
};

}  // namespace

// d [64][128] = a b^T with a [64, 64 slices], b [128, 64 slices] through two stages in turn. One
// warp copies, a warpgroup multiplies. Boxes have 64 rows (a) and 128 rows (b).
//
//   mistake 1  announces no bytes         3  does not wait for the last group of wgmma
//           2  waits for the wrong phase  4  frees a stage before it has been read
//           5  announces too many bytes
KERNEL(selftest_wgmma, 160)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int slices, int mistake,
 float *out) {
    DYNAMIC_SHARED(Stage, stages);
    SHARED(uint64_t, full, [2]);
    SHARED(uint64_t, empty, [2]);
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    if (thread == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4);
        }
        mbarrier_publish();
    }
    __syncthreads();
    if (warp == 4) {
        if (lane != 0)
            return;
        for (int i = 0; i < slices; i++) {
            mbarrier_wait(&empty[i % 2], uint32_t(i / 2 % 2 ^ 1));
            const int bytes = 192 * 2 * TMA_COLUMNS;
            if (mistake == 1)
                mbarrier_arrive(&full[i % 2]);
            else
                mbarrier_arrive_expect(&full[i % 2], bytes + (mistake == 5 ? 16 : 0));
            tma_load(stages[i % 2].a, &a, i * TMA_COLUMNS, 0, &full[i % 2]);
            tma_load(stages[i % 2].b, &b, i * TMA_COLUMNS, 0, &full[i % 2]);
        }
        return;
    }
    float d[1][16][4];
    for (int i = 0; i < slices; i++) {
        mbarrier_wait(&full[i % 2], uint32_t(i / 2 % 2 ^ (mistake == 2)));
        if (mistake == 4 && lane == 0)
            mbarrier_arrive(&empty[i % 2]);
        wgmma_begin();
        for (int k = 0; k < TMA_COLUMNS; k += 16)
            wgmma(d, wgmma_matrix(&stages[i % 2].a[0][k]), wgmma_matrix(&stages[i % 2].b[0][k]),
                  i + k > 0);
        wgmma_commit();
        wgmma_wait<1>(d);
        if (mistake != 4 && i > 0 && lane == 0)
            mbarrier_arrive(&empty[(i - 1) % 2]);
    }
    if (mistake != 3)
        wgmma_wait<0>(d);
    for (int tile = 0; tile < 16; tile++)
        for (int j = 0; j < 4; j++)
            out[(16 * warp + lane / 4 + j / 2 * 8) * 128 + 8 * tile + lane % 4 * 2 + j % 2] =
                d[0][tile][j];
}
EXPORT(selftest_wgmma)

// Copies the box at (row, column) to `out` as it lies in shared memory.
KERNEL(selftest_tma, 32)
(const __grid_constant__ TensorMap map, int column, int row, int rows, uint32_t *out) {
    DYNAMIC_SHARED(uint32_t, tile);
    SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) {
        mbarrier_init(&barrier, 1);
        mbarrier_publish();
        mbarrier_arrive_expect(&barrier, rows * 2 * TMA_COLUMNS);
        tma_load(tile, &map, column, row, &barrier);
    }
    __syncthreads();
    mbarrier_wait(&barrier, 0);
    for (int i = int(threadIdx.x); i < rows * TMA_COLUMNS / 2; i += 32)
        out[i] = tile[i];
}
EXPORT(selftest_tma)

// A hundred times: all threads but the last leave a number, the last adds them up.
KERNEL(selftest_mbarrier, 96)(int rounds, int *out) {
    SHARED(int, numbers, [96]);
    SHARED(uint64_t, full);
    SHARED(uint64_t, empty);
    const int thread = int(threadIdx.x), last = int(blockDim.x) - 1;
    if (thread == 0) {
        mbarrier_init(&full, last);
        mbarrier_init(&empty, 1);
    }
    __syncthreads();
    for (int i = 0; i < rounds; i++) {
        const uint32_t parity = uint32_t(i % 2);
        if (thread < last) {
            mbarrier_wait(&empty, parity ^ 1);
            numbers[thread] = i + thread;
            mbarrier_arrive(&full);
        } else {
            mbarrier_wait(&full, parity);
            int sum = 0;
            for (int j = 0; j < last; j++)
                sum += numbers[j];
            out[i] = sum;
            mbarrier_arrive(&empty);
        }
    }
}
EXPORT(selftest_mbarrier)

// What must not be done, by number.
KERNEL(selftest_hopper_misuse, 64)(const __grid_constant__ TensorMap map, int what, float *out) {
    DYNAMIC_SHARED(Stage, stage);
    SHARED(uint64_t, barrier);
    const int thread = int(threadIdx.x);
    if (thread == 0 && what != 0)
        mbarrier_init(&barrier, 1);
    __syncthreads();
    float d[1][16][4] = {};
    if (what == 0 && thread == 0)
        mbarrier_wait(&barrier, 0);  // never made
    if (what == 1 && thread < 2)
        mbarrier_wait(&barrier, 0);  // nobody arrives
    if (what == 2 && thread == 0)
        tma_load(&stage->a[0][8], &map, 0, 0, &barrier);  // not at the start of a row
    if (what == 3 && thread == 0) {
        mbarrier_arrive_expect(&barrier, 64 * 2 * TMA_COLUMNS);
        tma_load(stage->a, &map, 0, 0, &barrier);  // nobody waits
    }
    if (what == 4)
        wgmma(d, wgmma_matrix(&stage->a[1][0]), wgmma_matrix(&stage->b[0][0]), true);
    if (what == 5 && thread < 16)
        wgmma(d, wgmma_matrix(&stage->a[0][0]), wgmma_matrix(&stage->b[0][0]), true);
    if (what == 6 && thread == 0) {
        mbarrier_arrive_expect(&barrier, 16);
        mbarrier_arrive(&barrier);  // bytes are missing, arrivals are not
    }
    out[thread] = d[0][0][0];
}
EXPORT(selftest_hopper_misuse)
