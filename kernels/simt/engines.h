// The units of a Hopper multiprocessor that work on their own: what the executor keeps of them.
//
// mbarriers are words in shared memory, as on the device (of which only the executor knows the
// meaning). A thread that waits for a phase is neither ready nor at a barrier of the block; the
// arrival, or the bytes, that complete the phase make it ready.
//
// TMA copies hold their bytes as they were at issue; the destination holds 0xFF bytes (NaN) until
// they land: when no thread can go on any more, one after the other; or at once; or by a coin.
//
// wgmma: each warp has a queue. An operation reads the factors from shared memory when its group is
// waited for, or at once, or by a coin; until then the warp's accumulators are NaN.
//
// Not modelled: what fences (wgmma_begin, mbarrier_publish) order.
#pragma once

#include "simt.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

// What the word of an mbarrier says.
struct Mbarrier {
    uint32_t expected;  // arrivals of each phase
    uint32_t pending;   // that are missing
    int32_t bytes;      // announced and not there, or the other way round if negative
    uint32_t parity;    // of the phase that is under way

    static constexpr uint32_t MOST = (1 << 20) - 1;  // arrivals, and bytes

    uint64_t encode() const;
    // False if the word is none.
    bool decode(uint64_t word);
    bool complete() const {
        return pending == 0 && bytes == 0;
    }
};

// A box of a matrix as simt's driver describes it in a TensorMap: rows of 128 bytes.
struct TensorBox {
    const unsigned char *base;
    uint64_t rows, row_bytes;  // of the matrix
    uint64_t box_rows;
};

// A copy of a box that is under way.
struct BoxCopy {
    unsigned char *to;
    std::vector<unsigned char> bytes;  // rows of 128
    uint64_t *barrier;
    const char *file;
    int line;

    BoxCopy(void *to, const TensorBox &box, int64_t column_bytes, int64_t row);
    void poison();
    void land() const;
};

// The wgmma of one warp that are under way.
class WgmmaQueue {
public:
    // `first_row`: of the warp's rows of a.
    void issue(const Wgmma &wgmma, int first_row);
    void commit() {
        group_++;
    }
    // Lands all but the last `keep` groups.
    void wait(uint64_t keep);
    // Lands everything.
    void land_all() {
        land(pending_.size());
    }
    void forget();

private:
    // What a warp's accumulators will be; the lanes' own are NaN meanwhile.
    struct Sums {
        float *d[32];
        int tiles;
        std::vector<float> values;  // [16][8 tiles]
        size_t pending;
    };
    struct Operation {
        Wgmma wgmma;
        int first_row;
        uint64_t group;
    };

    Sums &sums_of(const Wgmma &wgmma);
    void run(const Operation &operation);
    void land(size_t count);

    std::vector<Operation> pending_;  // in the order of issue
    std::vector<Sums> sums_;
    uint64_t group_ = 0;  // the one that is not yet committed
};

}  // namespace simt
