#include "copies.h"

#include "check.h"
#include "core.h"
#include "profile.h"

#include <algorithm>

namespace simt {

void Copies::issue(void *to, const void *from, size_t size, size_t there, bool at_once) {
    Copy copy = {static_cast<unsigned char *>(to), {}, size, group_, at_once};
    if (there > 0)
        memcpy(copy.bytes, from, there);
    if (at_once)
        memcpy(to, copy.bytes, size);
    else
        memset(to, 0xff, size);
    pending_.push_back(copy);
}

void Core::copy_async(void *to, const void *from, size_t size, size_t there, int line,
                      const char *file, uintptr_t site) {
    if (size != 4 && size != 8 && size != 16)
        fail(running(), "copy_async at %s:%d: %zu bytes; 4, 8 or 16 are possible", file, line,
             size);
    if (!shared_holds(to, size))
        fail(running(), "copy_async at %s:%d: destination %p is not in shared memory", file, line,
             to);
    if ((uintptr_t(to) | (there > 0 ? uintptr_t(from) : 0)) % size != 0)
        fail(running(), "copy_async at %s:%d: %p or %p is not aligned to %zu bytes", file, line, to,
             from, size);
    there = std::min(there, size);
    if (check_) {
        if (there > 0)
            check_->access(uintptr_t(from), there, SIMT_READ, running(), site);
        check_->access(uintptr_t(to), size, SIMT_COPIES, running(), site);
    }
    if (profile_)
        profile_->copy(uintptr_t(to), uintptr_t(from), size, there, running(), site);
    copied_ = true;
    copies_[running()].issue(to, from, size, there, at_once());
}

void Core::copy_wait(uint64_t keep) {
    copies_[running()].wait(keep, [this](const Copy &copy) {
        if (check_)
            check_->landed(uintptr_t(copy.to), copy.size, running());
    });
}

}  // namespace simt

void simt_copy_async(void *to, const void *from, bool there, int line, const char *file) {
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->copy_async(to, from, 16, there ? 16 : 0, line, file, site);
}

extern "C" void simt_copy_part(void *to, const void *from, size_t size, size_t there, int line,
                               const char *file) {
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->copy_async(to, from, size, there, line, file, site);
}

void simt_copy_commit() {
    simt::current->copy_commit();
}

void simt_copy_wait(uint64_t keep) {
    simt::current->copy_wait(keep);
}
