// Reductions of tiles and coalesced groups.
#pragma once

#include "../cooperative_groups.h"
#include "../names_begin.h"

namespace cooperative_groups {

template <class T> struct plus {
    T operator()(T a, T b) const {
        return a + b;
    }
};

template <class T> struct less {
    T operator()(T a, T b) const {
        return b < a ? b : a;
    }
};

template <class T> struct greater {
    T operator()(T a, T b) const {
        return a < b ? b : a;
    }
};

template <class T> struct bit_and {
    T operator()(T a, T b) const {
        return a & b;
    }
};

template <class T> struct bit_or {
    T operator()(T a, T b) const {
        return a | b;
    }
};

template <class T> struct bit_xor {
    T operator()(T a, T b) const {
        return a ^ b;
    }
};

namespace details {

template <class T, class Op> struct Reduction {
    T value;
    Op *op;
};

// In the order of exchanges over half of the group, half of that, and so on, as GPUs do it: sums of
// floats depend on it.
template <class T, class Op> SIMT_UNCHECKED void reduce_run(const simt::Lanes &lanes) {
    using Arg = Reduction<T, Op>;
    Arg *ranks[32];
    unsigned count = 0;
    simt::each_lane<Arg>(lanes, [&](int, Arg &arg) { ranks[count++] = &arg; });
    Op &op = *ranks[0]->op;
    unsigned width = 32;
    for (; width > 1; width /= 2)
        for (unsigned rank = 0; rank + width / 2 < count && rank < width / 2; rank++)
            ranks[rank]->value = op(ranks[rank]->value, ranks[rank + width / 2]->value);
    for (unsigned rank = 1; rank < count; rank++)
        ranks[rank]->value = ranks[0]->value;
}

template <class T, class Op>
inline constexpr Collective REDUCE = {"cooperative_groups::reduce", reduce_run<T, Op>};

}  // namespace details

template <class T, class Op>
T reduce(const details::lanes_group &group, T value, Op op, SIMT_SITE) {
    details::Reduction<T, Op> arg = {value, &op};
    simt_warp_collective(group.lane_mask(), &details::REDUCE<T, Op>, &arg, line, file);
    return arg.value;
}

template <unsigned Size, class Parent, class T, class Op>
T reduce(const thread_block_tile<Size, Parent, true> &tile, T value, Op op, SIMT_SITE) {
    const coalesced_group warp(~0u);
    return tile.combined(reduce(warp, value, op, line, file), op, line, file);
}

}  // namespace cooperative_groups

#include "../names_end.h"
