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
// Not modelled: what fences (wgmma_begin, mbarrier_publish) order. What else is in order, checked
// launches see (check_hopper.cpp).
#pragma once

#include "simt.h"

#include <algorithm>
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

constexpr size_t TILE_ROW = 128;  // bytes of a tile's row
constexpr size_t CHUNK = 16;      // bytes that change places within their row

// Where the byte that would be at `address` is: the swizzle.
inline uintptr_t swizzled(uintptr_t address) {
    return address ^ (address / TILE_ROW % 8 * CHUNK);
}

// Bytes from 64 columns of a factor with K outermost to the next.
constexpr size_t OUTER_TILE = 64 * TILE_ROW;

// Calls f(where it is) for each chunk of a factor of wgmma: 16 elements of so many rows.
template <class F> void each_chunk(const unsigned char *first, int rows, F f) {
    for (int row = 0; row < rows; row++)
        for (size_t at = 0; at < 2 * CHUNK; at += CHUNK)
            f(swizzled(uintptr_t(first) + size_t(row) * TILE_ROW + at));
}

// A box of a matrix as simt's driver describes it in a TensorMap: rows of 128 bytes.
struct TensorBox {
    const unsigned char *base;
    uint64_t rows, row_bytes;  // of the matrix
    uint64_t box_rows;

    size_t bytes() const {
        return box_rows * TILE_ROW;
    }
    // Calls f(offset in the box, address, bytes) for each row of the box that starts there, as far
    // as the matrix has it.
    template <class F> void each_row(int64_t column_bytes, int64_t row, F f) const {
        const int64_t left = column_bytes < 0 ? -column_bytes : 0;
        const int64_t right = std::min<int64_t>(TILE_ROW, int64_t(row_bytes) - column_bytes);
        for (int64_t i = 0; i < int64_t(box_rows); i++)
            if (row + i >= 0 && row + i < int64_t(rows) && left < right)
                f(size_t(i) * TILE_ROW + size_t(left),
                  base + (row + i) * int64_t(row_bytes) + column_bytes + left,
                  size_t(right - left));
    }
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
    // The one that is not yet committed.
    uint64_t group() const {
        return group_;
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
    uint64_t group_ = 0;
};

}  // namespace simt
