#include "copies.h"

#include "check.h"
#include "core.h"
#include "profile.h"

namespace simt {

void Copies::issue(void *to, const void *from, bool there, bool at_once) {
    Copy copy = {static_cast<unsigned char *>(to), {}, group_, at_once};
    if (there)
        memcpy(copy.bytes, from, sizeof copy.bytes);
    if (at_once)
        memcpy(to, copy.bytes, sizeof copy.bytes);
    else
        memset(to, 0xff, sizeof copy.bytes);
    pending_.push_back(copy);
}

void Core::copy_async(void *to, const void *from, bool there, int line, const char *file,
                      uintptr_t site) {
    if (!shared_holds(to, 16))
        fail(running(), "copy_async at %s:%d: destination %p is not in shared memory", file, line,
             to);
    if ((uintptr_t(to) | (there ? uintptr_t(from) : 0)) % 16 != 0)
        fail(running(), "copy_async at %s:%d: %p or %p is not aligned to 16 bytes", file, line, to,
             from);
    if (check_) {
        if (there)
            check_->access(uintptr_t(from), 16, SIMT_READ, running(), site);
        check_->access(uintptr_t(to), 16, SIMT_COPIES, running(), site);
    }
    if (profile_)
        profile_->copy(uintptr_t(to), uintptr_t(from), there, running(), site);
    copied_ = true;
    copies_[running()].issue(to, from, there, at_once());
}

void Core::copy_wait(uint64_t keep) {
    copies_[running()].wait(keep, [this](const Copy &copy) {
        if (check_)
            check_->landed(uintptr_t(copy.to), sizeof copy.bytes, running());
    });
}

}  // namespace simt

void simt_copy_async(void *to, const void *from, bool there, int line, const char *file) {
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->copy_async(to, from, there, line, file, site);
}

void simt_copy_commit() {
    simt::current->copy_commit();
}

void simt_copy_wait(uint64_t keep) {
    simt::current->copy_wait(keep);
}

bool simt_shared_holds(const void *p, size_t size) {
    return simt::current->shared_holds(p, size);
}
