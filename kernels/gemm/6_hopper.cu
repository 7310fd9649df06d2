// Matrix product with Hopper's own units; the formula is in 1_naive.cu.
//
// The idea: threads only give orders. One thread (the producer) has the TMA unit copy slices into a
// ring of stages; two warpgroups (the consumers) have the tensor cores multiply them right out of
// shared memory with wgmma, the sums being in registers. mbarriers connect the two: `full` says
// that a stage's bytes have arrived, `empty` that both warpgroups have read it. So nobody computes
// addresses, copies through registers or waits for anybody else's turn. The producer's registers
// go to the consumers, each thread of which holds 64 x WIDTH / 128 sums.
//
// Blocks stay: each takes every gridDim-th tile, and its producer is ahead in the next tile while
// the results of the last one are stored. Tiles come in bands, as in step 5.
//
// Bound: FLOPs of wgmma, 2 M N K. For a tile's 64 columns of K a wgmma of 256 columns reads 40 KiB
// from shared memory in five eighths of the tensor cores' time. From L2 come
// 2 K (1/128 + 1/WIDTH) bytes an element of c.
//
// Launch: as many blocks as multiprocessors, or as tiles if those are fewer, of 384 threads;
// gemm_hopper_256 with tiles of 128 x 256 and 4 stages, gemm_hopper_128 with 128 x 128 and 6;
// dynamic shared memory for the stages (48 or 32 KiB each) and 1 KiB for their alignment. Where K
// is a multiple of 8, and a and b of 16 bytes. The maps' boxes are 128 and WIDTH rows.
#include "gemm.cuh"
#include "hopper.cuh"

namespace {

constexpr int CONSUMERS = 2;  // warpgroups, 64 rows each
constexpr int THREADS = 128 * (1 + CONSUMERS);

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int ROWS = 64 * CONSUMERS;
constexpr int DEPTH = TMA_COLUMNS;

template <int WIDTH> struct Stage {
    bf16 a[ROWS][DEPTH], b[WIDTH][DEPTH];
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

template <int WIDTH, int STAGES>
DEVICE void gemm_hopper(const TensorMap *a, const TensorMap *b, bf16 *c, int m, int n, int k) {
    SHARED(uint64_t, full, [STAGES]);
    SHARED(uint64_t, empty, [STAGES]);
    DYNAMIC_SHARED(unsigned char, memory);
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    Stage<WIDTH> *stages = reinterpret_cast<Stage<WIDTH> *>(memory + (-address & 1023));

    const int thread = int(threadIdx.x), group = thread / 128;
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4 * CONSUMERS);  // warps
        }
        mbarrier_publish();
    }
    __syncthreads();

    const int tiles = (m + ROWS - 1) / ROWS * ((n + WIDTH - 1) / WIDTH);
    Turn<STAGES> turn;
    if (group == CONSUMERS) {
        registers_give_back<40>();
        if (thread % 128 != 0)
            return;
        for (int i = int(blockIdx.x); i < tiles; i += int(gridDim.x)) {
            const TilePlace tile = tile_in_bands(i, m, n, ROWS, WIDTH);
            for (int start = 0; start < k; start += DEPTH) {
                // In the first round nobody has to have read anything.
                mbarrier_wait(&empty[turn.stage], turn.parity ^ 1);
                Stage<WIDTH> &to = stages[turn.stage];
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
            const TilePlace tile = tile_in_bands(i, m, n, ROWS, WIDTH);
            uint64_t *read = nullptr;  // barrier of the stage before, which is still being read
            for (int start = 0; start < k; start += DEPTH) {
                mbarrier_wait(&full[turn.stage], turn.parity);
                const Stage<WIDTH> &stage = stages[turn.stage];
                wgmma_begin();
#pragma unroll
                for (int d = 0; d < DEPTH; d += 16)
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
            store_fragments(c, m, n, tile.row + thread / 32 * 16, tile.column, sums);
        }
    }
}

#else

// Other architectures have the kernels' names, and the host's word that it will not launch them.
template <int WIDTH, int STAGES>
DEVICE void gemm_hopper(const TensorMap *, const TensorMap *, bf16 *, int, int, int) {
    __trap();
}

#endif

}  // namespace

KERNEL(gemm_hopper_128, THREADS)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16 *c, int m, int n,
 int k) {
    gemm_hopper<128, 6>(&a, &b, c, m, n, k);
}
EXPORT(gemm_hopper_128)

KERNEL(gemm_hopper_256, THREADS)
(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16 *c, int m, int n,
 int k) {
    gemm_hopper<256, 4>(&a, &b, c, m, n, k);
}
EXPORT(gemm_hopper_256)
