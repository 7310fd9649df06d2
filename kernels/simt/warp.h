// CUDA's barriers, shuffles, votes and reductions. Part of simt.h.
//
// A warp operation is a struct that each lane brings, on its own stack, and a function that sees
// those of all lanes: see Lanes and Collective.
#pragma once

// What is behind them, by names that are not for kernels.
namespace simt {
inline namespace SIMT_FLAVOUR {

inline constexpr Collective SYNCTHREADS = {"__syncthreads", nullptr};
inline constexpr Collective SYNCTHREADS_OR = {"__syncthreads_or", nullptr};
inline constexpr Collective SYNCTHREADS_AND = {"__syncthreads_and", nullptr};
inline constexpr Collective SYNCTHREADS_COUNT = {"__syncthreads_count", nullptr};

// Calls f(lane, what it brought) for the lanes of the mask, low ones first.
template <class Arg, class F> DEVICE void each_lane(const Lanes &lanes, F f) {
    for (uint32_t rest = lanes.mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        f(lane, *static_cast<Arg *>(lanes.arg[lane]));
    }
}

inline constexpr Collective SYNCWARP = {"__syncwarp", [](const Lanes &) {}, true};

// Shuffles

struct ShuffleArg {
    uint64_t value;  // in, and out
    int operand;     // source lane, distance or mask
    int width;
};

// Which lane's value the lane gets, by PTX's rules for shfl.sync. Lanes are cut into segments of
// `width`. UP, DOWN and XOR give a lane its own value where they would leave its segment (XOR only
// upwards).
enum class Shuffle { INDEX, UP, DOWN, XOR };

template <Shuffle mode> int shuffle_source(int lane, const ShuffleArg &arg) {
    const int first = lane & ~(arg.width - 1), last = first + arg.width - 1;
    const int operand = arg.operand & 31;
    switch (mode) {
    case Shuffle::INDEX:
        return first + (operand & (arg.width - 1));
    case Shuffle::UP:
        return lane - operand < first ? lane : lane - operand;
    case Shuffle::DOWN:
        return lane + operand > last ? lane : lane + operand;
    default:
        return (lane ^ operand) > last ? lane : lane ^ operand;
    }
}

template <Shuffle mode> void shuffle(const Lanes &lanes) {
    uint64_t values[32];
    each_lane<ShuffleArg>(lanes, [&](int lane, ShuffleArg &arg) { values[lane] = arg.value; });
    each_lane<ShuffleArg>(lanes, [&](int lane, ShuffleArg &arg) {
        if (arg.width < 1 || arg.width > 32 || (arg.width & (arg.width - 1)) != 0)
            lanes.fail(lane, "width %d is not a power of two up to 32", arg.width);
        const int source = shuffle_source<mode>(lane, arg);
        if ((lanes.mask >> source & 1) == 0)
            lanes.fail(lane, "it reads lane %d, which is not in the mask or has returned", source);
        arg.value = values[source];
    });
}

inline constexpr Collective SHFL = {"__shfl_sync", shuffle<Shuffle::INDEX>};
inline constexpr Collective SHFL_UP = {"__shfl_up_sync", shuffle<Shuffle::UP>};
inline constexpr Collective SHFL_DOWN = {"__shfl_down_sync", shuffle<Shuffle::DOWN>};
inline constexpr Collective SHFL_XOR = {"__shfl_xor_sync", shuffle<Shuffle::XOR>};

template <class T>
DEVICE T shuffled(const Collective &kind, unsigned mask, T value, int operand, int width, int line,
                  const char *file) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "numbers of 32 or 64 bits are shuffled");
    ShuffleArg arg = {0, operand, width};
    __builtin_memcpy(&arg.value, &value, sizeof value);
    simt_warp_collective(mask, &kind, &arg, line, file);
    __builtin_memcpy(&value, &arg.value, sizeof value);
    return value;
}

// Votes: everybody learns which lanes said yes, and which were asked.

struct VoteArg {
    bool yes;
    uint32_t voters, ballot;  // out
};

inline void vote(const Lanes &lanes) {
    uint32_t ballot = 0;
    each_lane<VoteArg>(lanes, [&](int lane, VoteArg &arg) { ballot |= uint32_t(arg.yes) << lane; });
    each_lane<VoteArg>(lanes, [&](int, VoteArg &arg) {
        arg.voters = lanes.mask;
        arg.ballot = ballot;
    });
}

inline constexpr Collective BALLOT = {"__ballot_sync", vote};
inline constexpr Collective ANY = {"__any_sync", vote};
inline constexpr Collective ALL = {"__all_sync", vote};

DEVICE VoteArg voted(const Collective &kind, unsigned mask, int predicate, int line,
                     const char *file) {
    VoteArg arg = {predicate != 0, 0, 0};
    simt_warp_collective(mask, &kind, &arg, line, file);
    return arg;
}

// Reductions

template <class T, T combine(T, T)> void reduce(const Lanes &lanes) {
    const int first = __builtin_ctz(lanes.mask);
    T result = *static_cast<T *>(lanes.arg[first]);
    each_lane<T>(lanes, [&](int lane, T &value) {
        if (lane != first)
            result = combine(result, value);
    });
    each_lane<T>(lanes, [&](int, T &value) { value = result; });
}

template <class T> T wrapping_sum(T a, T b) {
    return T(unsigned(a) + unsigned(b));
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

constexpr int warpSize = 32;

[[noreturn]] inline void __trap(SIMT_SITE) {
    simt_trap(line, file);
}

// Barriers of the block

DEVICE void __syncthreads(SIMT_SITE) {
    simt_block_barrier(&SYNCTHREADS, false, line, file);
}

DEVICE int __syncthreads_or(int predicate, SIMT_SITE) {
    simt_block_barrier(&SYNCTHREADS_OR, predicate != 0, line, file);
    return simt_block_votes() > 0;
}

DEVICE int __syncthreads_and(int predicate, SIMT_SITE) {
    simt_block_barrier(&SYNCTHREADS_AND, predicate == 0, line, file);
    return simt_block_votes() == 0;
}

DEVICE int __syncthreads_count(int predicate, SIMT_SITE) {
    simt_block_barrier(&SYNCTHREADS_COUNT, predicate != 0, line, file);
    return simt_block_votes();
}

DEVICE void __syncwarp(unsigned mask = ~0u, SIMT_SITE) {
    simt_warp_collective(mask, &SYNCWARP, nullptr, line, file);
}

// Shuffles

template <class T>
DEVICE T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
    return shuffled(SHFL, mask, value, source, width, line, file);
}

template <class T>
DEVICE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    return shuffled(SHFL_UP, mask, value, int(delta), width, line, file);
}

template <class T>
DEVICE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    return shuffled(SHFL_DOWN, mask, value, int(delta), width, line, file);
}

template <class T>
DEVICE T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_SITE) {
    return shuffled(SHFL_XOR, mask, value, lane_mask, width, line, file);
}

// Votes

DEVICE unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
    return voted(BALLOT, mask, predicate, line, file).ballot;
}

DEVICE int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
    return voted(ANY, mask, predicate, line, file).ballot != 0;
}

DEVICE int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
    const VoteArg arg = voted(ALL, mask, predicate, line, file);
    return arg.ballot == arg.voters;
}

// Reductions of int and unsigned

#define SIMT_REDUCE(name, type, combine)                                               \
    template <> struct Reduce_##name<type> {                                           \
        static constexpr Collective kind = {#name, reduce<type, combine>};             \
    };                                                                                 \
    DEVICE type name(unsigned mask, type value, SIMT_SITE) {                           \
        simt_warp_collective(mask, &Reduce_##name<type>::kind, &value, line, file);    \
        return value;                                                                  \
    }
#define SIMT_REDUCES(name, combine)           \
    template <class T> struct Reduce_##name;  \
    SIMT_REDUCE(name, int, combine)           \
    SIMT_REDUCE(name, unsigned, combine)

SIMT_REDUCES(__reduce_add_sync, wrapping_sum)
SIMT_REDUCES(__reduce_min_sync, min)
SIMT_REDUCES(__reduce_max_sync, max)

#undef SIMT_REDUCES
#undef SIMT_REDUCE

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
