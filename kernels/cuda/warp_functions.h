// Shuffles, votes, matches and reductions beyond those that the kernels of this repository use. Part
// of cuda_runtime.h.
#pragma once

extern "C" {

// The lanes of the warp that wait here together once no other lane of it can go on.
void simt_converge(const simt::Collective *kind, void *arg, int line, const char *file);

}  // extern "C"

namespace simt {
inline namespace SIMT_FLAVOUR {

// Lanes give values of any type and take that of another. What a lane gets of one that does not
// take part is undefined in CUDA; it gets zeros here, as from a GPU.
template <class T> struct Exchange {
    T value, result;
    int source;  // lane
};

template <class T> SIMT_UNCHECKED void exchange_run(const Lanes &lanes) {
    each_lane<Exchange<T>>(lanes, [&](int, Exchange<T> &arg) {
        if (lanes.mask >> arg.source & 1)
            arg.result = static_cast<const Exchange<T> *>(lanes.arg[arg.source])->value;
        else
            __builtin_memset(static_cast<void *>(&arg.result), 0, sizeof arg.result);
    });
}

template <class T>
inline constexpr Collective EXCHANGE[] = {
    {"__shfl_sync", exchange_run<T>},
    {"__shfl_up_sync", exchange_run<T>},
    {"__shfl_down_sync", exchange_run<T>},
    {"__shfl_xor_sync", exchange_run<T>},
};

SIMT_INLINE int lane_number() {
    const unsigned in_row = blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    return int((in_row + threadIdx.x) & 31);
}

// The lane's value of `mode`, in a segment of `width` lanes, by the rules of shuffle_source.
template <Shuffle mode, class T>
SIMT_INLINE T shuffle_any(unsigned mask, T value, int operand, int width, int line,
                          const char *file) {
    static_assert(std::is_trivially_copyable_v<T>, "bytes are shuffled");
    Exchange<T> arg = {value, value, 0};
    arg.source = shuffle_source<mode>(lane_number(), {0, operand, width});
    simt_warp_collective(mask, &EXCHANGE<T>[int(mode)], &arg, line, file);
    return arg.result;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

// One set for each type, so that they are preferred to the templates of warp.h, which refuse to read
// lanes that do not take part. Narrower integers become int, as in CUDA.
#define SIMT_SHUFFLES(type, result)                                                             \
    SIMT_INLINE result __shfl_sync(unsigned mask, type value, int source, int width = 32,       \
                                       SIMT_SITE) {                                             \
        return shuffle_any<Shuffle::INDEX>(mask, (result)(value), source, width, line, file);     \
    }                                                                                           \
    SIMT_INLINE result __shfl_up_sync(unsigned mask, type value, unsigned delta,                \
                                          int width = 32, SIMT_SITE) {                          \
        return shuffle_any<Shuffle::UP>(mask, (result)(value), int(delta), width, line, file);    \
    }                                                                                           \
    SIMT_INLINE result __shfl_down_sync(unsigned mask, type value, unsigned delta,              \
                                            int width = 32, SIMT_SITE) {                        \
        return shuffle_any<Shuffle::DOWN>(mask, (result)(value), int(delta), width, line, file);  \
    }                                                                                           \
    SIMT_INLINE result __shfl_xor_sync(unsigned mask, type value, int lanes,                    \
                                           int width = 32, SIMT_SITE) {                         \
        return shuffle_any<Shuffle::XOR>(mask, (result)(value), lanes, width, line, file);        \
    }

SIMT_SHUFFLES(bool, int)
SIMT_SHUFFLES(char, int)
SIMT_SHUFFLES(signed char, int)
SIMT_SHUFFLES(unsigned char, int)
SIMT_SHUFFLES(short, int)
SIMT_SHUFFLES(unsigned short, int)
SIMT_SHUFFLES(int, int)
SIMT_SHUFFLES(unsigned, unsigned)
SIMT_SHUFFLES(long, long)
SIMT_SHUFFLES(unsigned long, unsigned long)
SIMT_SHUFFLES(long long, long long)
SIMT_SHUFFLES(unsigned long long, unsigned long long)
SIMT_SHUFFLES(float, float)
SIMT_SHUFFLES(double, double)

// Which lanes are active is a matter of time on a GPU. Here lanes of a warp that have come to the
// same place are, which is what people expect.
}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

inline constexpr Collective ACTIVEMASK = {"__activemask", vote};

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

SIMT_INLINE unsigned __activemask(SIMT_SITE) {
    VoteArg arg = {true, 0, 0};
    simt_converge(&ACTIVEMASK, &arg, line, file);
    return arg.voters;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda

namespace simt {
inline namespace SIMT_FLAVOUR {

struct MatchArg {
    uint64_t value;
    uint32_t voters, same;  // out: of the lanes that take part, those with this value
};

inline void match_run(const Lanes &lanes) {
    each_lane<MatchArg>(lanes, [&](int, MatchArg &arg) {
        arg.voters = lanes.mask;
        arg.same = 0;
        each_lane<MatchArg>(lanes, [&](int lane, MatchArg &other) {
            arg.same |= uint32_t(other.value == arg.value) << lane;
        });
    });
}

inline constexpr Collective MATCH_ANY = {"__match_any_sync", match_run};
inline constexpr Collective MATCH_ALL = {"__match_all_sync", match_run};

// Values are equal if their bits are.
template <class T>
SIMT_INLINE MatchArg matched(const Collective &kind, unsigned mask, T value, int line,
                             const char *file) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8, "numbers are compared");
    MatchArg arg = {0, 0, 0};
    __builtin_memcpy(&arg.value, &value, sizeof value);
    simt_warp_collective(mask, &kind, &arg, line, file);
    return arg;
}

}  // namespace SIMT_FLAVOUR
}  // namespace simt

namespace simt::cuda {
inline namespace SIMT_FLAVOUR {

template <class T> SIMT_INLINE unsigned __match_any_sync(unsigned mask, T value, SIMT_SITE) {
    return matched(MATCH_ANY, mask, value, line, file).same;
}

template <class T>
SIMT_INLINE unsigned __match_all_sync(unsigned mask, T value, int *all, SIMT_SITE) {
    const MatchArg arg = matched(MATCH_ALL, mask, value, line, file);
    *all = arg.same == arg.voters;
    return *all ? arg.voters : 0;
}

#define SIMT_REDUCE(name, op)                                                                    \
    inline unsigned name##_bits(unsigned a, unsigned b) {                                        \
        return a op b;                                                                           \
    }                                                                                            \
    inline constexpr Collective KIND_##name = {#name, reduce<unsigned, name##_bits>};            \
    SIMT_INLINE unsigned name(unsigned mask, unsigned value, SIMT_SITE) {                        \
        simt_warp_collective(mask, &KIND_##name, &value, line, file);                            \
        return value;                                                                            \
    }

SIMT_REDUCE(__reduce_and_sync, &)
SIMT_REDUCE(__reduce_or_sync, |)
SIMT_REDUCE(__reduce_xor_sync, ^)

#undef SIMT_REDUCE

}  // namespace SIMT_FLAVOUR
}  // namespace simt::cuda
