// Copies that a group makes together.
#pragma once

#include "../async_copies.h"
#include "../cooperative_groups.h"
#include "../names_begin.h"

namespace cooperative_groups {

template <class Group, class T>
SIMT_INLINE void memcpy_async(const Group &group, T *to, const T *from, size_t bytes, SIMT_SITE) {
    simt::copy_any(group, to, from, bytes, line, file);
    simt_copy_commit();
}

// Of as many elements as both have.
template <class Group, class T>
SIMT_INLINE void memcpy_async(const Group &group, T *to, size_t room, const T *from, size_t count,
                              SIMT_SITE) {
    simt::copy_any(group, to, from, (room < count ? room : count) * sizeof(T), line, file);
    simt_copy_commit();
}

template <class Group> void wait(const Group &group, SIMT_SITE) {
    simt_copy_wait(0);
    group.sync(line, file);
}

template <unsigned groups, class Group> void wait_prior(const Group &group, SIMT_SITE) {
    simt_copy_wait(groups);
    group.sync(line, file);
}

}  // namespace cooperative_groups

#include "../names_end.h"
