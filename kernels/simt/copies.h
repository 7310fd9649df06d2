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
#include <vector>

namespace simt {

struct Copy {
    unsigned char *to;
    unsigned char bytes[16];  // as they were at issue
    uint64_t group;           // that it is in
};

// Those of one thread that are under way.
class Copies {
public:
    void issue(void *to, const void *from, bool there, bool at_once);
    void commit() {
        group_++;
    }
    // Lands all but the last `keep` groups.
    void wait(uint64_t keep);
    void forget() {
        pending_.clear();
        group_ = 0;
    }

private:
    std::vector<Copy> pending_;  // in the order of issue
    uint64_t group_ = 0;         // the one that is not yet committed
};

}  // namespace simt
