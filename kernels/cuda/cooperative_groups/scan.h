// Prefix sums of tiles and coalesced groups, in the order of ranks.
#pragma once

#include "../cooperative_groups.h"
#include "reduce.h"
#include "../names_begin.h"

namespace cooperative_groups {

namespace details {

template <class T, class Op> SIMT_UNCHECKED void scan_run(const simt::Lanes &lanes) {
    using Arg = Reduction<T, Op>;
    Arg *before = nullptr;
    simt::each_lane<Arg>(lanes, [&](int, Arg &arg) {
        if (before)
            arg.value = (*arg.op)(before->value, arg.value);
        before = &arg;
    });
}

template <class T, class Op>
inline constexpr Collective SCAN = {"cooperative_groups::inclusive_scan", scan_run<T, Op>};

}  // namespace details

template <class T, class Op>
T inclusive_scan(const details::lanes_group &group, T value, Op op, SIMT_SITE) {
    details::Reduction<T, Op> arg = {value, &op};
    simt_warp_collective(group.lane_mask(), &details::SCAN<T, Op>, &arg, line, file);
    return arg.value;
}

template <class T> T inclusive_scan(const details::lanes_group &group, T value, SIMT_SITE) {
    return inclusive_scan(group, value, plus<T>(), line, file);
}

// The first gets T().
template <class T, class Op>
T exclusive_scan(const details::lanes_group &group, T value, Op op, SIMT_SITE) {
    const T sum = inclusive_scan(group, value, op, line, file);
    const T before = group.shfl_up(sum, 1, line, file);
    return group.thread_rank() == 0 ? T() : before;
}

template <class T> T exclusive_scan(const details::lanes_group &group, T value, SIMT_SITE) {
    return exclusive_scan(group, value, plus<T>(), line, file);
}

}  // namespace cooperative_groups

#include "../names_end.h"
