// Asynchronous copies, as include/copy.cuh has them for the device: what the executor keeps of
// them.
//
// The hardware may land bytes at any time between issue and wait. So does this, in three modes
// (SimtLaunch::landing): as late as is allowed, at once, or by a coin for each copy. Until then the
// destination holds 0xFF bytes (NaN), so a missing wait, or a buffer that is filled again while
// others still read it, gives wrong results here too, and not right ones by luck.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace simt {

struct Copy {
    unsigned char *to;
    unsigned char bytes[16];  // as they were at issue
    size_t size;              // of them: 4, 8 or 16
    uint64_t group;           // that it is in
    bool landed;              // at once
};

// Those of one thread that are under way.
class Copies {
public:
    // Copies `there` bytes, and zeros up to `size`.
    void issue(void *to, const void *from, size_t size, size_t there, bool at_once);
    void commit() {
        group_++;
    }
    // Lands all but the last `keep` groups, and hands their copies to f.
    template <class F> void wait(uint64_t keep, F f) {
        size_t landed = 0;
        while (landed < pending_.size() && pending_[landed].group + keep < group_) {
            const Copy &copy = pending_[landed++];
            if (!copy.landed)
                memcpy(copy.to, copy.bytes, copy.size);
            f(copy);
        }
        pending_.erase(pending_.begin(), pending_.begin() + ptrdiff_t(landed));
    }
    void forget() {
        pending_.clear();
        group_ = 0;
    }

private:
    std::vector<Copy> pending_;  // in the order of issue
    uint64_t group_ = 0;         // the one that is not yet committed
};

}  // namespace simt
