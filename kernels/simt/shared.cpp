// Where a block's shared memory is.
#include "check.h"
#include "core.h"

#include <algorithm>

namespace simt {

namespace {

// Offsets of shared variables are stored beside the launch that they are for.
constexpr int OFFSET_BITS = 17;
static_assert(STATIC_SHARED_LIMIT < 1 << OFFSET_BITS, "offsets fit");

}  // namespace

void *Core::shared(SharedVariable &variable, size_t size, size_t align, int line,
                   const char *file) {
    const size_t unit = std::max<size_t>(align, 16);
    const size_t offset = check_ ? check_->place(variable, size, unit, job_->static_shared)
                                 : place(variable, size, unit);
    const size_t end = offset + size;
    // Without the unusable bytes.
    const size_t used = check_ ? job_->static_shared : end;
    if (used > STATIC_SHARED_LIMIT || end > STATIC_SHARED_ROOM)
        fail(-1,
             "SHARED %s at %s:%d: %zu bytes of static shared memory, the limit is %zu (use "
             "DYNAMIC_SHARED)",
             variable.name, file, line, used, STATIC_SHARED_LIMIT);
    if (used + job_->launch.dynamic_shared > job_->launch.shared_limit)
        fail(-1,
             "SHARED %s at %s:%d: %zu bytes of static and %u of dynamic shared memory, the limit "
             "of both is %u",
             variable.name, file, line, used, job_->launch.dynamic_shared,
             job_->launch.shared_limit);
    static_used_ = std::max(static_used_, end);
    return arena_ + offset;
}

// The variable's offset, the same in all blocks of the launch.
size_t Core::place(SharedVariable &variable, size_t size, size_t unit) {
    const uint64_t ours = job_->serial << OFFSET_BITS;
    uint64_t word = variable.place.load(std::memory_order_relaxed);
    if (word >> OFFSET_BITS != job_->serial) {
        job_->mutex.lock();
        word = variable.place.load(std::memory_order_relaxed);
        const size_t offset = (job_->static_shared + unit - 1) / unit * unit;
        if (word >> OFFSET_BITS != job_->serial) {
            // Too large ones are placed nowhere, and the caller fails.
            if (offset + size <= STATIC_SHARED_LIMIT) {
                job_->static_shared = offset + size;
                variable.place.store(ours | offset, std::memory_order_relaxed);
            }
            word = ours | std::min(offset, STATIC_SHARED_LIMIT);
        }
        job_->mutex.unlock();
    }
    return word - ours;
}

bool Core::shared_holds(const void *p, size_t size) const {
    const uintptr_t at = uintptr_t(p), low = uintptr_t(arena_), dynamic = uintptr_t(dynamic_);
    return (at >= low && at + size <= low + static_used_) ||
           (at >= dynamic && at + size <= dynamic + job_->launch.dynamic_shared);
}

}  // namespace simt

void *simt_shared(simt::SharedVariable *variable, size_t size, size_t align, int line,
                  const char *file) {
    return simt::current->shared(*variable, size, align, line, file);
}

void *simt_dynamic_shared() {
    return simt::current->dynamic_shared();
}

bool simt_shared_holds(const void *p, size_t size) {
    return simt::current->shared_holds(p, size);
}
