// Cooperative groups.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

#include "expect.h"

namespace cg = cooperative_groups;

__global__ void blocks(int *sum) {
    const cg::thread_block block = cg::this_thread_block();
    const cg::grid_group grid = cg::this_grid();
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    EXPECT(block.thread_rank() == thread && block.size() == 64);
    EXPECT(block.group_index().x == blockIdx.x && block.thread_index().y == threadIdx.y);
    EXPECT(block.dim_threads().x == 16 && block.group_dim().y == 4);
    EXPECT(grid.size() == 3 * 64 && grid.thread_rank() == blockIdx.x * 64 + thread);
    EXPECT(grid.num_blocks() == 3 && grid.block_rank() == blockIdx.x);

    __shared__ int values[64];
    values[thread] = int(thread);
    cg::sync(block);
    if (thread == 0)
        for (int value : values)
            atomicAdd(sum, value);
    auto token = block.barrier_arrive();
    block.barrier_wait(std::move(token));
    values[thread] = 0;
}

// Of a group whose kind only the caller knows: by shared memory.
__device__ int sum_of(cg::thread_group group, int *room, int value) {
    const unsigned rank = group.thread_rank();
    for (unsigned i = group.size() / 2; i > 0; i /= 2) {
        room[rank] = value;
        group.sync();
        if (rank < i)
            value += room[rank + i];
        group.sync();
    }
    return value;
}

__global__ void tiles() {
    const auto block = cg::this_thread_block();
    const unsigned thread = threadIdx.x, lane = thread % 32;
    const auto warp = cg::tiled_partition<32>(block);
    EXPECT(warp.size() == 32 && warp.thread_rank() == lane);
    EXPECT(warp.meta_group_size() == 3 && warp.meta_group_rank() == thread / 32);
    const cg::thread_block_tile<4> four = cg::tiled_partition<4>(block);
    EXPECT(four.num_threads() == 4 && four.meta_group_rank() == thread / 4);
    const auto eight = cg::tiled_partition<8>(warp);
    EXPECT(eight.meta_group_size() == 4 && eight.meta_group_rank() == lane / 8);

    EXPECT(warp.shfl(thread, 3) == thread / 32 * 32 + 3);
    EXPECT(eight.shfl(lane, 2) == lane / 8 * 8 + 2);
    EXPECT(eight.shfl_down(lane, 3) == (lane % 8 < 5 ? lane + 3 : lane));
    EXPECT(eight.shfl_up(lane, 3) == (lane % 8 < 3 ? lane : lane - 3));
    EXPECT(four.shfl_xor(lane, 1) == (lane ^ 1));
    const double3 point = {double(lane), 0.5, -1};
    EXPECT(four.shfl(point, 1).x == lane / 4 * 4 + 1 && four.shfl(point, 1).z == -1);

    EXPECT(eight.any(lane == 9) == (lane / 8 == 1));
    EXPECT(eight.all(lane < 8) == (lane < 8));
    EXPECT(eight.ballot(lane % 2) == 0xaa);
    EXPECT(eight.match_any(lane % 8 / 4) == (lane % 8 < 4 ? 0x0fu : 0xf0u));
    int all;
    EXPECT(four.match_all(lane / 4, all) == 0xf && all);
    EXPECT(four.match_all(lane, all) == 0 && !all);

    EXPECT(cg::reduce(warp, int(lane), cg::plus<int>()) == 496);
    EXPECT(cg::reduce(eight, int(lane), cg::greater<int>()) == int(lane / 8 * 8 + 7));
    EXPECT(cg::reduce(four, float(lane), cg::less<float>()) == float(lane / 4 * 4));
    EXPECT(cg::reduce(four, 1u << lane % 4, cg::bit_or<unsigned>()) == 0xf);
    EXPECT(cg::reduce(four, ~(1u << lane % 4), cg::bit_and<unsigned>()) == ~0xfu);
    EXPECT(cg::reduce(four, lane % 4, cg::bit_xor<unsigned>()) == 0);
    const auto longest = [](int2 a, int2 b) { return a.y < b.y ? b : a; };
    EXPECT(cg::reduce(eight, make_int2(int(lane), int(lane * 5 % 8)), longest).x % 8 == 3);

    EXPECT(cg::inclusive_scan(warp, 2) == 2 * int(lane) + 2);
    EXPECT(cg::exclusive_scan(eight, int(lane % 8)) == int(lane % 8 * (lane % 8 - 1) / 2));
    const auto most = [](int a, int b) { return a < b ? b : a; };
    EXPECT(cg::inclusive_scan(eight, lane % 8 == 2 ? 9 : 1, most) == (lane % 8 < 2 ? 1 : 9));

    __shared__ int room[96];
    const int by_block = sum_of(cg::tiled_partition(block, 32), room + thread / 32 * 32, 1);
    EXPECT(lane != 0 || by_block == 32);
    block.sync();
    const auto sixteen = cg::tiled_partition<16>(block);
    const int by_tile = sum_of(sixteen, room + thread / 16 * 16, 1);
    EXPECT(sixteen.thread_rank() != 0 || by_tile == 16);
    block.sync();

    EXPECT(cg::invoke_one_broadcast(warp, [=] { return thread + 1; }) == thread / 32 * 32 + 1);
}

// Of two warps each; the last of one and a half.
__global__ void large_tiles(int *sums) {
    __shared__ cg::block_tile_memory<176> memory;
    const auto block = cg::this_thread_block(memory);
    const cg::thread_block_tile<64> tile = cg::tiled_partition<64>(block);
    const unsigned thread = threadIdx.x, rank = thread % 64;
    EXPECT(tile.thread_rank() == rank && tile.size() == 64);
    EXPECT(tile.meta_group_rank() == thread / 64 && tile.meta_group_size() == 3);
    const int wanted = thread < 128 ? 2016 : 1128;
    EXPECT(cg::reduce(tile, int(rank), cg::plus<int>()) == wanted);
    EXPECT(tile.shfl(double(thread), 33) == thread / 64 * 64 + 33);
    EXPECT(tile.any(thread == 70) == (thread / 64 == 1) && tile.all(rank < 63) == (thread >= 128));
    // Tiles wait for none but their own.
    if (thread < 64)
        for (int i = 0; i < 3; i++) {
            sums[63 - rank] = int(rank) + i;
            tile.sync();
            EXPECT(sums[rank] == int(63 - rank) + i);
            tile.sync();
        }
}

__global__ void coalesced(int *count) {
    const int lane = int(threadIdx.x);
    const auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    if (lane % 3 == 1) {
        const auto active = cg::coalesced_threads();
        EXPECT(active.size() == 11 && int(active.thread_rank()) == lane / 3);
        EXPECT(active.shfl(lane, 2) == 7);
        EXPECT(active.shfl_down(lane, 1) == (lane == 31 ? 31 : lane + 3));
        EXPECT(active.ballot(lane == 4) == 2);
        EXPECT(cg::reduce(active, 1, cg::plus<int>()) == 11);
        EXPECT(cg::exclusive_scan(active, 1) == lane / 3);
        // One adds for all.
        int first = 0;
        if (active.thread_rank() == 0)
            first = atomicAdd(count, int(active.size()));
        EXPECT(active.shfl(first, 0) + int(active.thread_rank()) == lane / 3);
        const auto pairs = cg::tiled_partition(active, 2);
        EXPECT(pairs.size() == (lane == 31 ? 1 : 2) && pairs.meta_group_size() == 6);
    } else {
        EXPECT(__activemask() == ~0x92492492u);
    }
    warp.sync();
    EXPECT(cg::coalesced_threads().size() == 32);
    const auto odd = cg::binary_partition(warp, lane % 2);
    EXPECT(odd.size() == 16 && int(odd.thread_rank()) == lane / 2);
    EXPECT(cg::reduce(odd, lane, cg::plus<int>()) == (lane % 2 ? 256 : 240));
    const auto fifth = cg::labeled_partition(warp, lane % 5);
    EXPECT(fifth.size() == (lane % 5 < 2 ? 7 : 6) && int(fifth.thread_rank()) == lane / 5);

    // Every turn has fewer.
    for (int i = 0; i < lane; i++)
        EXPECT(cg::coalesced_threads().size() == unsigned(31 - i));
}

int main() {
    int *number, value = 0;
    CHECK(cudaMalloc(&number, sizeof *number));
    CHECK(cudaMemset(number, 0, sizeof *number));
    blocks<<<3, dim3(16, 4)>>>(number);
    CHECK(cudaMemcpy(&value, number, sizeof value, cudaMemcpyDeviceToHost));
    EXPECT(value == 3 * 2016);
    tiles<<<2, 96>>>();
    int *sums;
    CHECK(cudaMalloc(&sums, 64 * sizeof *sums));
    large_tiles<<<1, 176>>>(sums);
    CHECK(cudaFree(sums));
    CHECK(cudaMemset(number, 0, sizeof *number));
    coalesced<<<1, 32>>>(number);
    CHECK(cudaMemcpy(&value, number, sizeof value, cudaMemcpyDeviceToHost));
    EXPECT(value == 11);
    CHECK(cudaFree(number));
    puts("right");
}
