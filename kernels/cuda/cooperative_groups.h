// Cooperative groups: a set of threads as an object that knows their ranks, and operations in which
// all of them meet. Tiles, coalesced and partitioned groups are lanes of one warp, by a mask.
#pragma once

#include "assert.h"
#include "async_copies.h"
#include "names_begin.h"

extern "C" {

// Waits for all threads of the grid.
void simt_grid_barrier(int line, const char *file);

}  // extern "C"

namespace cooperative_groups {

namespace details {

using simt::Collective;

// The checker takes it as ordering what the lanes do.
inline constexpr Collective SYNC = {"sync of a group", [](const simt::Lanes &) {}, true};

inline unsigned thread_in_block() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

inline unsigned threads_of_block() {
    return blockDim.x * blockDim.y * blockDim.z;
}

inline unsigned long long block_in_grid() {
    return blockIdx.x + gridDim.x * (blockIdx.y + (unsigned long long)(gridDim.y) * blockIdx.z);
}

inline unsigned long long blocks_of_grid() {
    return (unsigned long long)(gridDim.x) * gridDim.y * gridDim.z;
}

// So many lanes from 0 on.
inline unsigned low_lanes(unsigned count) {
    return count >= 32 ? ~0u : (1u << count) - 1;
}

// The lane that has a rank in a mask.
inline int lane_of_rank(unsigned mask, unsigned rank) {
    for (; rank > 0; rank--)
        mask &= mask - 1;
    return mask == 0 ? 32 : __builtin_ctz(mask);
}

}  // namespace details

// A block, or lanes of a warp. Others are made into one by being copied.
class thread_group {
public:
    void sync(SIMT_SITE) const {
        if (mask_ == 0)
            __syncthreads(line, file);
        else
            simt_warp_collective(mask_, &details::SYNC, nullptr, line, file);
    }
    unsigned num_threads() const {
        return mask_ == 0 ? details::threads_of_block() : unsigned(__builtin_popcount(mask_));
    }
    unsigned size() const {
        return num_threads();
    }
    unsigned thread_rank() const {
        const unsigned thread = details::thread_in_block();
        const unsigned before = mask_ & details::low_lanes(thread & 31);
        return mask_ == 0 ? thread : unsigned(__builtin_popcount(before));
    }
    bool is_valid() const {
        return true;
    }

protected:
    explicit thread_group(unsigned mask) : mask_(mask) {}
    friend thread_group tiled_partition(const thread_group &, unsigned);

    unsigned mask_;  // of lanes; 0 for the block
};

// Shared memory in which tiles of several warps meet.
template <unsigned MaxThreads = 1024> struct block_tile_memory {
    uint64_t meetings[MaxThreads / 64 + 1];  // an mbarrier for each
    alignas(32) unsigned char values[MaxThreads / 32 + 1][32];  // one of each warp
};

class thread_block : public thread_group {
public:
    // What barrier_arrive() gives to barrier_wait().
    struct arrival_token {};

    static void sync(SIMT_SITE) {
        __syncthreads(line, file);
    }
    // All of it happens at the wait.
    static arrival_token barrier_arrive() {
        return {};
    }
    static void barrier_wait(arrival_token &&, SIMT_SITE) {
        __syncthreads(line, file);
    }
    static unsigned thread_rank() {
        return details::thread_in_block();
    }
    static unsigned num_threads() {
        return details::threads_of_block();
    }
    static unsigned size() {
        return num_threads();
    }
    static dim3 group_index() {
        return dim3(blockIdx);
    }
    static dim3 thread_index() {
        return dim3(threadIdx);
    }
    static dim3 dim_threads() {
        return blockDim;
    }
    static dim3 group_dim() {
        return blockDim;
    }

private:
    thread_block() : thread_group(0) {}
    friend thread_block this_thread_block();
    template <unsigned MaxThreads>
    friend thread_block this_thread_block(block_tile_memory<MaxThreads> &);
    template <unsigned, class, bool> friend class thread_block_tile;

    uint64_t *meetings_ = nullptr;
    unsigned char (*values_)[32] = nullptr;
};

inline thread_block this_thread_block() {
    return {};
}

template <unsigned MaxThreads>
thread_block this_thread_block(block_tile_memory<MaxThreads> &memory) {
    thread_block block;
    block.meetings_ = memory.meetings;
    block.values_ = memory.values;
    return block;
}

// All threads of a launch.
class grid_group {
public:
    struct arrival_token {};

    static void sync(SIMT_SITE) {
        simt_grid_barrier(line, file);
    }
    static arrival_token barrier_arrive() {
        return {};
    }
    static void barrier_wait(arrival_token &&, SIMT_SITE) {
        simt_grid_barrier(line, file);
    }
    static bool is_valid() {
        return true;
    }
    static unsigned long long num_threads() {
        return num_blocks() * details::threads_of_block();
    }
    static unsigned long long size() {
        return num_threads();
    }
    static unsigned long long thread_rank() {
        return block_rank() * details::threads_of_block() + details::thread_in_block();
    }
    static unsigned long long num_blocks() {
        return details::blocks_of_grid();
    }
    static unsigned long long block_rank() {
        return details::block_in_grid();
    }
    static dim3 block_index() {
        return dim3(blockIdx);
    }
    static dim3 dim_blocks() {
        return gridDim;
    }
    static dim3 group_dim() {
        return gridDim;
    }

private:
    grid_group() = default;
    friend grid_group this_grid();
};

inline grid_group this_grid() {
    return {};
}

namespace details {

// What groups of lanes have in common. Ranks of others become lanes here.
class lanes_group : public thread_group {
public:
    unsigned meta_group_size() const {
        return meta_size_;
    }
    unsigned meta_group_rank() const {
        return meta_rank_;
    }
    template <class T> T shfl(T value, unsigned rank, SIMT_SITE) const {
        return take(0, value, rank, line, file);
    }
    // The lane's own where there is none so far away.
    template <class T> T shfl_up(T value, unsigned delta, SIMT_SITE) const {
        const unsigned rank = thread_rank();
        return take(1, value, rank < delta ? rank : rank - delta, line, file);
    }
    template <class T> T shfl_down(T value, unsigned delta, SIMT_SITE) const {
        const unsigned rank = thread_rank();
        return take(2, value, rank + delta >= num_threads() ? rank : rank + delta, line, file);
    }
    template <class T> T shfl_xor(T value, unsigned bits, SIMT_SITE) const {
        const unsigned rank = thread_rank();
        return take(3, value, (rank ^ bits) >= num_threads() ? rank : rank ^ bits, line, file);
    }
    int any(int predicate, SIMT_SITE) const {
        return __any_sync(mask_, predicate, line, file);
    }
    int all(int predicate, SIMT_SITE) const {
        return __all_sync(mask_, predicate, line, file);
    }
    unsigned ballot(int predicate, SIMT_SITE) const {
        return packed(__ballot_sync(mask_, predicate, line, file));
    }
    template <class T> unsigned match_any(T value, SIMT_SITE) const {
        return packed(__match_any_sync(mask_, value, line, file));
    }
    template <class T> unsigned match_all(T value, int &all, SIMT_SITE) const {
        return packed(__match_all_sync(mask_, value, &all, line, file));
    }
    // Of lanes of its warp, for the operations beside this class.
    unsigned lane_mask() const {
        return mask_;
    }

protected:
    lanes_group(unsigned mask, unsigned meta_rank, unsigned meta_size)
        : thread_group(mask), meta_rank_(meta_rank), meta_size_(meta_size) {}

private:
    template <class T>
    T take(int kind, T value, unsigned rank, int line, const char *file) const {
        static_assert(std::is_trivially_copyable_v<T>, "bytes are shuffled");
        simt::Exchange<T> arg = {value, value, lane_of_rank(mask_, rank) & 31};
        simt_warp_collective(mask_, &simt::EXCHANGE<T>[kind], &arg, line, file);
        return arg.result;
    }
    // Bits of lanes as bits of ranks.
    unsigned packed(unsigned lanes) const {
        unsigned bits = 0, rank = 0;
        for (unsigned rest = mask_; rest != 0; rest &= rest - 1, rank++)
            bits |= (lanes >> __builtin_ctz(rest) & 1) << rank;
        return bits;
    }

    unsigned meta_rank_, meta_size_;
};

}  // namespace details

class coalesced_group : public details::lanes_group {
public:
    // Of lanes that the caller knows of.
    explicit coalesced_group(unsigned mask, unsigned meta_rank = 0, unsigned meta_size = 1)
        : lanes_group(mask, meta_rank, meta_size) {}
};

inline coalesced_group coalesced_threads(SIMT_SITE) {
    return coalesced_group(__activemask(line, file));
}

namespace details {

template <unsigned Size>
constexpr bool is_tile = Size > 0 && Size <= 1024 && (Size & (Size - 1)) == 0;

[[noreturn]] inline void no_tile_memory(int line, const char *file) {
    simt_assert_failed("tiled_partition of more than 32 threads: this_thread_block() was given "
                       "block_tile_memory",
                       file, unsigned(line));
}

// Lanes of the tile of so many that the thread is in.
inline unsigned tile_mask(unsigned size) {
    return low_lanes(size) << (thread_in_block() & 31 & ~(size - 1));
}

}  // namespace details

template <unsigned Size, class Parent = void, bool is_large = (Size > 32)> class thread_block_tile;

template <unsigned Size, class Parent>
class thread_block_tile<Size, Parent, false> : public details::lanes_group {
    static_assert(details::is_tile<Size>, "tiles have a power of two of threads");

public:
    // One of a block's, or of a larger tile.
    thread_block_tile(unsigned meta_rank, unsigned meta_size)
        : lanes_group(details::tile_mask(Size), meta_rank, meta_size) {}
    // Says the parent no more.
    template <class Other>
    thread_block_tile(const thread_block_tile<Size, Other> &other)
        : lanes_group(other.lane_mask(), other.meta_group_rank(), other.meta_group_size()) {}

    static constexpr unsigned num_threads() {
        return Size;
    }
    static constexpr unsigned size() {
        return Size;
    }
    static unsigned thread_rank() {
        return details::thread_in_block() & (Size - 1);
    }
};

// Of several warps.
template <unsigned Size, class Parent> class thread_block_tile<Size, Parent, true> {
    static_assert(details::is_tile<Size>, "tiles have a power of two of threads");

public:
    // All threads of the block make theirs at the same time.
    thread_block_tile(const thread_block &block, int line, const char *file)
        : values_(block.values_) {
        static_assert(!std::is_void_v<Parent>, "a tile is one of a block's");
        const unsigned first = meta_group_rank() * Size;
        if (!block.meetings_)
            details::no_tile_memory(line, file);
        meeting_ = block.meetings_ + meta_group_rank();
        if (thread_rank() == 0)
            simt_mbarrier_init(meeting_, min(Size, block.size() - first), line, file);
        __syncthreads(line, file);
    }
    template <class Other>
    thread_block_tile(const thread_block_tile<Size, Other, true> &other)
        : meeting_(other.meeting_), values_(other.values_) {}

    void sync(SIMT_SITE) const {
        const uint32_t phase = simt_mbarrier_parity(meeting_, line, file);
        simt_mbarrier_arrive(meeting_, 0, line, file);
        simt_mbarrier_wait(meeting_, phase, line, file);
    }
    static constexpr unsigned num_threads() {
        return Size;
    }
    static constexpr unsigned size() {
        return Size;
    }
    static unsigned thread_rank() {
        return details::thread_in_block() & (Size - 1);
    }
    static unsigned meta_group_rank() {
        return details::thread_in_block() / Size;
    }
    static unsigned meta_group_size() {
        return (details::threads_of_block() + Size - 1) / Size;
    }
    template <class T> T shfl(T value, unsigned rank, SIMT_SITE) const {
        T *const place = of_warp<T>(0);
        if (thread_rank() == rank)
            *place = value;
        sync(line, file);
        const T result = *place;
        sync(line, file);
        return result;
    }
    int any(int predicate, SIMT_SITE) const {
        const auto or_else = [](int a, int b) { return a | b; };
        return combined(__any_sync(~0u, predicate, line, file), or_else, line, file);
    }
    int all(int predicate, SIMT_SITE) const {
        return !any(!predicate, line, file);
    }
    // Of what each warp has.
    template <class T, class Op> T combined(T value, Op op, int line, const char *file) const {
        if (thread_rank() % 32 == 0)
            *of_warp<T>(thread_rank() / 32) = value;
        sync(line, file);
        T result = *of_warp<T>(0);
        for (unsigned warp = 1; warp < Size / 32; warp++)
            if (meta_group_rank() * Size + warp * 32 < details::threads_of_block())
                result = op(result, *of_warp<T>(warp));
        sync(line, file);
        return result;
    }

private:
    template <unsigned, class, bool> friend class thread_block_tile;

    template <class T> T *of_warp(unsigned warp) const {
        static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 32,
                      "up to 32 bytes are exchanged");
        return reinterpret_cast<T *>(values_[meta_group_rank() * (Size / 32) + warp]);
    }

    uint64_t *meeting_;
    unsigned char (*values_)[32];
};

template <unsigned Size>
thread_block_tile<Size, thread_block> tiled_partition(const thread_block &block, SIMT_SITE) {
    if constexpr (Size > 32)
        return {block, line, file};
    else
        return {block.thread_rank() / Size, (block.size() + Size - 1) / Size};
}

template <unsigned Size, unsigned Whole, class Parent>
thread_block_tile<Size, thread_block_tile<Whole, Parent>>
tiled_partition(const thread_block_tile<Whole, Parent> &tile) {
    static_assert(Size <= Whole, "a tile is cut into smaller ones");
    return {tile.thread_rank() / Size, Whole / Size};
}

// By number of threads, known when it runs; of ranks of lanes.
inline coalesced_group tiled_partition(const details::lanes_group &group, unsigned size) {
    const unsigned part = group.thread_rank() / size;
    unsigned mask = 0;
    for (unsigned rank = part * size; rank < (part + 1) * size; rank++) {
        const int lane = details::lane_of_rank(group.lane_mask(), rank);
        mask |= lane < 32 ? 1u << lane : 0;
    }
    return coalesced_group(mask, part, (group.num_threads() + size - 1) / size);
}

inline coalesced_group tiled_partition(const thread_block &block, unsigned size) {
    return coalesced_group(details::tile_mask(size), block.thread_rank() / size,
                           (block.size() + size - 1) / size);
}

inline thread_group tiled_partition(const thread_group &group, unsigned size) {
    if (group.mask_ == 0)
        return thread_group(details::tile_mask(size));
    return tiled_partition(coalesced_group(group.mask_), size);
}

// Those of the group that have the same label.
template <class Label>
coalesced_group labeled_partition(const details::lanes_group &group, Label label, SIMT_SITE) {
    return coalesced_group(__match_any_sync(group.lane_mask(), label, line, file));
}

inline coalesced_group binary_partition(const details::lanes_group &group, bool predicate,
                                        SIMT_SITE) {
    const unsigned yes = __ballot_sync(group.lane_mask(), predicate, line, file);
    return coalesced_group(predicate ? yes : group.lane_mask() & ~yes, predicate, 2);
}

template <class Group> void sync(const Group &group, SIMT_SITE) {
    group.sync(line, file);
}

template <class Group> auto thread_rank(const Group &group) {
    return group.thread_rank();
}

template <class Group> auto group_size(const Group &group) {
    return group.size();
}

// One of the group calls f.
template <class Group, class F, class... A>
void invoke_one(const Group &group, F &&f, A &&...arguments) {
    if (group.thread_rank() == 0)
        std::forward<F>(f)(std::forward<A>(arguments)...);
}

// All get what it returns.
template <class Group, class F, class... A>
auto invoke_one_broadcast(const Group &group, F &&f, A &&...arguments) {
    std::decay_t<decltype(std::forward<F>(f)(std::forward<A>(arguments)...))> result = {};
    if (group.thread_rank() == 0)
        result = std::forward<F>(f)(std::forward<A>(arguments)...);
    return group.shfl(result, 0);
}

}  // namespace cooperative_groups

#include "names_end.h"
