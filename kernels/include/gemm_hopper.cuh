// The main loop of matrix products with Hopper's own units; gemm/7_hopper.cu explains it.
#pragma once

#include "gemm.cuh"
#include "hopper.cuh"

constexpr int HOPPER_CONSUMERS = 2;  // warpgroups, 64 rows each
constexpr int HOPPER_THREADS = 128 * (1 + HOPPER_CONSUMERS);
constexpr int HOPPER_ROWS = 64 * HOPPER_CONSUMERS;

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int WIDTH> struct HopperStage {
    bf16 a[HOPPER_ROWS][TMA_COLUMNS], b[WIDTH][TMA_COLUMNS];
};

// Which stage it is the turn of, and the parity of its phases.
template <int STAGES> struct Turn {
    int stage = 0;
    uint32_t parity = 0;

    DEVICE void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The block's tiles of a [m,k] times b [n,k]. Consumers call leave(sums, row, column, spare) with a
// warp's 16 x WIDTH sums as mma.cuh has them, the place of the first, and where the stages' memory
// ends.
template <int WIDTH, int STAGES, class Leave>
DEVICE void hopper_product(const TensorMap *a, const TensorMap *b, int m, int n, int k,
                           const Leave &leave) {
    SHARED(uint64_t, full, [STAGES]);
    SHARED(uint64_t, empty, [STAGES]);
    DYNAMIC_SHARED(unsigned char, memory);
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    HopperStage<WIDTH> *stages = reinterpret_cast<HopperStage<WIDTH> *>(memory + (-address & 1023));

    const int thread = int(threadIdx.x), group = thread / 128;
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4 * HOPPER_CONSUMERS);  // warps
        }
        mbarrier_publish();
    }
    __syncthreads();

    const int tiles = (m + HOPPER_ROWS - 1) / HOPPER_ROWS * ((n + WIDTH - 1) / WIDTH);
    Turn<STAGES> turn;
    if (group == HOPPER_CONSUMERS) {
        registers_give_back<40>();
        if (thread % 128 != 0)
            return;
        for (int i = int(blockIdx.x); i < tiles; i += int(gridDim.x)) {
            const TilePlace tile = tile_in_bands(i, m, n, HOPPER_ROWS, WIDTH);
            for (int start = 0; start < k; start += TMA_COLUMNS) {
                // In the first round nobody has to have read anything.
                mbarrier_wait(&empty[turn.stage], turn.parity ^ 1);
                HopperStage<WIDTH> &to = stages[turn.stage];
                uint64_t *barrier = &full[turn.stage];
                mbarrier_arrive_expect(barrier, int(sizeof to));
                tma_load(to.a, a, start, tile.row, barrier);
                tma_load(to.b, b, start, tile.column, barrier);
                turn.next();
            }
        }
    } else {
        registers_take<232>();
        const bool speaker = thread % 32 == 0;
        float sums[1][WIDTH / 8][4];
        for (int i = int(blockIdx.x); i < tiles; i += int(gridDim.x)) {
            const TilePlace tile = tile_in_bands(i, m, n, HOPPER_ROWS, WIDTH);
            uint64_t *read = nullptr;  // barrier of the stage before, which is still being read
            for (int start = 0; start < k; start += TMA_COLUMNS) {
                mbarrier_wait(&full[turn.stage], turn.parity);
                const HopperStage<WIDTH> &stage = stages[turn.stage];
                wgmma_begin();
#pragma unroll
                for (int d = 0; d < TMA_COLUMNS; d += 16)
                    wgmma(sums, wgmma_matrix(&stage.a[64 * group][d]),
                          wgmma_matrix(&stage.b[0][d]), start + d > 0);
                wgmma_commit();
                wgmma_wait<1>(sums);
                if (read && speaker)
                    mbarrier_arrive(read);
                read = &empty[turn.stage];
                turn.next();
            }
            wgmma_wait<0>(sums);
            if (speaker)
                mbarrier_arrive(read);
            leave(sums, tile.row + thread / 32 * 16, tile.column, stages + STAGES);
        }
    }
}

#else

// Other architectures have the kernels' names, and the host's word that it will not launch them.
template <int WIDTH, int STAGES, class Leave>
DEVICE void hopper_product(const TensorMap *, const TensorMap *, int, int, int, const Leave &) {
    __trap();
}

#endif
