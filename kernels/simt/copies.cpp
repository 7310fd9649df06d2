#include "copies.h"

#include "core.h"

#include <cstring>

namespace simt {

void Copies::issue(void *to, const void *from, bool there, bool at_once) {
    Copy copy = {static_cast<unsigned char *>(to), {}, group_};
    if (there)
        memcpy(copy.bytes, from, sizeof copy.bytes);
    if (at_once) {
        memcpy(to, copy.bytes, sizeof copy.bytes);
    } else {
        memset(to, 0xff, sizeof copy.bytes);
        pending_.push_back(copy);
    }
}

void Copies::wait(uint64_t keep) {
    size_t landed = 0;
    while (landed < pending_.size() && pending_[landed].group + keep < group_) {
        const Copy &copy = pending_[landed++];
        memcpy(copy.to, copy.bytes, sizeof copy.bytes);
    }
    pending_.erase(pending_.begin(), pending_.begin() + ptrdiff_t(landed));
}

void Core::copy_async(void *to, const void *from, bool there, int line, const char *file) {
    if (!shared_holds(to, 16))
        fail(running(), "copy_async at %s:%d: destination %p is not in shared memory", file, line,
             to);
    if ((uintptr_t(to) | (there ? uintptr_t(from) : 0)) % 16 != 0)
        fail(running(), "copy_async at %s:%d: %p or %p is not aligned to 16 bytes", file, line, to,
             from);
    copied_ = true;
    copies_[running()].issue(to, from, there, at_once());
}

}  // namespace simt

void simt_copy_async(void *to, const void *from, bool there, int line, const char *file) {
    simt::current->copy_async(to, from, there, line, file);
}

void simt_copy_commit() {
    simt::current->copies().commit();
}

void simt_copy_wait(uint64_t keep) {
    simt::current->copies().wait(keep);
}

bool simt_shared_holds(const void *p, size_t size) {
    return simt::current->shared_holds(p, size);
}
