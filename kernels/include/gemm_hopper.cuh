// The main loop of matrix products with Hopper's own units; gemm/7_hopper.cu explains it.
#pragma once

#include "gemm.cuh"
#include "hopper.cuh"

constexpr int HOPPER_CONSUMERS = 2;  // warpgroups, 64 rows each
constexpr int HOPPER_THREADS = 128 * (1 + HOPPER_CONSUMERS);
constexpr int HOPPER_ROWS = 64 * HOPPER_CONSUMERS;

// What there is to do: a [m,k] times b [n,k], the sums over `chunk` of K at a time apart; chunks are
// multiples of 64.
struct HopperWork {
    int m, n, k, chunk;
};

// One of the block's tiles.
struct HopperTile {
    int row, column;
    int part;         // which chunk
    int first, last;  // of K

    template <int WIDTH> DEVICE static HopperTile at(int i, const HopperWork &work) {
        const int tiles = count<WIDTH>(work), part = i / tiles;
        const TilePlace place = tile_in_bands(i % tiles, work.m, work.n, HOPPER_ROWS, WIDTH);
        const int first = part * work.chunk;
        return {place.row, place.column, part, first, min(first + work.chunk, work.k)};
    }

    // Of a part.
    template <int WIDTH> DEVICE static int count(const HopperWork &work) {
        return (work.m + HOPPER_ROWS - 1) / HOPPER_ROWS * ((work.n + WIDTH - 1) / WIDTH);
    }
};

// What consumers do with a stage besides, if anything.
struct HopperNothing {
    template <class Stage> DEVICE void operator()(const HopperTile &, const Stage &) const {}
};

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// So many rows or columns of a factor, and 64 of K: with K innermost a row each, with K outermost
// tiles of 64, one after the other (hopper.cuh).
template <bool OUTER, int COUNT> struct HopperFactor {
    bf16 v[COUNT * TMA_COLUMNS];

    // Has the part copied that begins with number `first` and with this k.
    DEVICE void load(const TensorMap *map, int first, int k, uint64_t *barrier) {
        if constexpr (OUTER) {
#pragma unroll
            for (int i = 0; i < COUNT; i += TMA_COLUMNS)
                tma_load(v + i * TMA_COLUMNS, map, first + i, k, barrier);
        } else {
            tma_load(v, map, k, first, barrier);
        }
    }

    // For wgmma: 16 of K from this one on, of all from number `first` on.
    DEVICE uint64_t matrix(int first, int k) const {
        if constexpr (OUTER)
            return wgmma_matrix_outer(v + first * TMA_COLUMNS + k * TMA_COLUMNS);
        else
            return wgmma_matrix(v + first * TMA_COLUMNS + k);
    }
};

template <bool OUTER_A, bool OUTER_B, int WIDTH> struct HopperStage {
    HopperFactor<OUTER_A, HOPPER_ROWS> a;
    HopperFactor<OUTER_B, WIDTH> b;
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

// The block's part of the work. Consumers call leave(sums, tile, row, spare) with a warp's 16 x WIDTH
// sums as mma.cuh has them, the row of the first, and where the stages' memory ends; and before
// besides(tile, stage) for each stage, all threads of them, while wgmma reads it.
template <int WIDTH, int STAGES, bool OUTER_A = false, bool OUTER_B = false, class Leave,
          class Besides = HopperNothing>
DEVICE void hopper_product(const TensorMap *a, const TensorMap *b, const HopperWork &work,
                           const Leave &leave, Besides besides = {}) {
    using Stage = HopperStage<OUTER_A, OUTER_B, WIDTH>;
    SHARED(uint64_t, full, [STAGES]);
    SHARED(uint64_t, empty, [STAGES]);
    DYNAMIC_SHARED(unsigned char, memory);
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    Stage *stages = reinterpret_cast<Stage *>(memory + (-address & 1023));

    const int thread = int(threadIdx.x), group = thread / 128;
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4 * HOPPER_CONSUMERS);  // warps
        }
        mbarrier_publish();
    }
    __syncthreads();

    const int parts = (work.k + work.chunk - 1) / work.chunk;
    const int tiles = HopperTile::count<WIDTH>(work) * parts;
    Turn<STAGES> turn;
    if (group == HOPPER_CONSUMERS) {
        registers_give_back<40>();
        if (thread % 128 != 0)
            return;
        for (int i = int(blockIdx.x); i < tiles; i += int(gridDim.x)) {
            const HopperTile tile = HopperTile::at<WIDTH>(i, work);
            for (int k = tile.first; k < tile.last; k += TMA_COLUMNS) {
                // In the first round nobody has to have read anything.
                mbarrier_wait(&empty[turn.stage], turn.parity ^ 1);
                Stage &to = stages[turn.stage];
                uint64_t *barrier = &full[turn.stage];
                mbarrier_arrive_expect(barrier, int(sizeof to));
                to.a.load(a, tile.row, k, barrier);
                to.b.load(b, tile.column, k, barrier);
                turn.next();
            }
        }
    } else {
        registers_take<232>();
        const bool speaker = thread % 32 == 0;
        float sums[1][WIDTH / 8][4];
        for (int i = int(blockIdx.x); i < tiles; i += int(gridDim.x)) {
            const HopperTile tile = HopperTile::at<WIDTH>(i, work);
            uint64_t *read = nullptr;  // barrier of the stage before, which is still being read
            for (int k = tile.first; k < tile.last; k += TMA_COLUMNS) {
                mbarrier_wait(&full[turn.stage], turn.parity);
                const Stage &stage = stages[turn.stage];
                wgmma_begin();
#pragma unroll
                for (int d = 0; d < TMA_COLUMNS; d += 16)
                    wgmma<OUTER_A, OUTER_B>(sums, stage.a.matrix(64 * group, d),
                                            stage.b.matrix(0, d), k + d > tile.first);
                wgmma_commit();
                besides(tile, stage);
                wgmma_wait<1>(sums);
                if (read && speaker)
                    mbarrier_arrive(read);
                read = &empty[turn.stage];
                turn.next();
            }
            wgmma_wait<0>(sums);
            if (speaker)
                mbarrier_arrive(read);
            leave(sums, tile, tile.row + thread / 32 * 16, stages + STAGES);
        }
    }
}

#else

// Other architectures have the kernels' names, and the host's word that it will not launch them.
template <int WIDTH, int STAGES, bool OUTER_A = false, bool OUTER_B = false, class Leave,
          class Besides = HopperNothing>
DEVICE void hopper_product(const TensorMap *, const TensorMap *, const HopperWork &, const Leave &,
                           Besides = {}) {
    __trap();
}

#endif
