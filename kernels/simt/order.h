// What the checker knows of the order of accesses, apart from the barriers of a block.
//
// Lanes of a warp learn of one another's past by __syncwarp: vector clocks (Fidge, 1988).
//
// Other threads, of whatever block, learn of it where one thread leaves word for them and they find
// it: a thread that has executed __threadfence() leaves what it knew then at every address that it
// changes atomically later, and whoever accesses that address atomically after it finds it there.
// What a thread has found its warp learns by __syncwarp and its block by __syncthreads.
//
// So it is with mbarriers: who arrives leaves what it knows for those that wait for the phase, and
// so does the TMA unit, whose copies are ordered by nothing else.
#pragma once

#include <cstdint>
#include <vector>

namespace simt {

// An access, as a Cell remembers it.
struct Past {
    uint32_t epoch, site;
    uint32_t time;    // of its warp; or the phase of the mbarrier that completes it
    uint16_t thread;
    bool copies;      // asynchronously
    uint8_t barrier;  // a copy of TMA's: number of that mbarrier; otherwise 0
};

// Which lanes of a warp know what of each other's past.
struct Clocks {
    uint32_t time = 0;  // of __syncwarps and moments
    uint32_t all = 0;   // the last in which all lanes met
    uint32_t known[32][32] = {};

    bool knows(int lane, int other, uint32_t then) const {
        return then < all || then < known[lane][other];
    }
    void meet(uint32_t lanes, bool whole);
};

// A moment of a thread: what had happened before it in its block.
struct Moment {
    uint32_t first;      // epoch of the block
    uint32_t epoch;      // and of the moment: everything before it
    uint32_t warp;       // and in it what the lanes of the warp did
    uint32_t times[32];  // before these times
};

// What had happened before some moments, and phases of mbarriers that are complete.
class Known {
public:
    bool empty() const {
        return moments_.empty() && phases_.empty();
    }
    bool has(const Past &past) const;
    void add(const Moment &moment);
    void add(const Known &more);
    // So many phases of the block's mbarrier of that number.
    void complete(uint8_t barrier, uint32_t phases);
    // What another block can make use of.
    void leave_block() {
        phases_.clear();
    }

private:
    // By `first`; those of a block are of one epoch, as later ones include earlier ones.
    std::vector<Moment> moments_;
    std::vector<uint32_t> phases_;
};

}  // namespace simt
