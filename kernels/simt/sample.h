// Which blocks of a profiled launch are run, and what the rest is taken to do.
//
// A launch whose blocks cost more than a budget is profiled by a sample: the first block, the last,
// and from between them as many as the budget pays for, spread evenly by multiples of the golden
// ratio, so that whatever the grid's width is its edges have their share. First and last count once,
// the others for all between. The cost of a block is what it is seen to do, so that the sample is
// the same on every machine; where blocks differ so much, in that or in the bytes that they access,
// that the whole would be uncertain by more than 2 % (standard error) there are more of them, up to
// all. Whoever says how many blocks gets no more than those, and what they know.
//
// Blocks that speak to one another are all run, in their order: those of a launch in which one that
// has been run has accessed global memory atomically, or has had a fence for other blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace simt {

// What blocks do of something, one after the other.
struct Share {
    uint64_t all = 0, before = 0;   // by all blocks, and before the present one
    double ends = 0;                // by the first two
    double mean = 0, squares = 0;   // of the others: Welford's

    void end_block(uint64_t others) {
        const double own = double(all - before);
        before = all;
        if (others == 0) {
            ends += own;
            return;
        }
        const double off = own - mean;
        mean += off / double(others);
        squares += off * (own - mean);
    }
    // Whether the sum over n others is known from t of them.
    bool known(double n, double t) const {
        const double error = n * sqrt(squares / (t - 1) / t * (1 - t / n));
        return error <= 0.02 * (ends + n * mean);
    }
};

class Sample {
public:
    void begin(uint64_t blocks, uint64_t budget, uint64_t most) {
        *this = Sample();
        blocks_ = blocks;
        budget_ = budget;
        most_ = std::max(most, ENDS + 1);
        if (blocks_ <= ENDS)
            return;
        // The next from the golden section on that reaches all.
        stride_ = std::max<uint64_t>(1, uint64_t(double(between()) * 0.6180339887498949));
        while (std::gcd(stride_, between()) != 1)
            stride_++;
    }
    // Number of the block that has its turn.
    uint64_t block(uint64_t turn) const {
        if (turn == 0 || in_order_)
            return turn;
        if (turn == 1)
            return blocks_ - 1;
        return 1 + uint64_t((unsigned __int128)(turn - ENDS) * stride_ % between());
    }
    // The present block does so much, accesses so many bytes of global memory.
    void work(uint64_t n) {
        work_.all += n;
    }
    void moved(uint64_t bytes) {
        bytes_.all += bytes;
    }
    // Blocks speak to one another.
    void together() {
        together_ = true;
        in_order_ |= ended_ == 0;
    }
    // A block has ended.
    void end_block() {
        const uint64_t others = ++ended_ <= ENDS ? 0 : ended_ - ENDS;
        work_.end_block(others);
        bytes_.end_block(others);
    }
    // Of first and last only.
    bool at_ends() const {
        return ended_ == ENDS;
    }
    bool enough() const {
        // So many that edges are among them; of blocks that do very much, two.
        const uint64_t least = work_.all / HEAVY < budget_ ? LEAST : 2;
        if (!together_ && ended_ >= most_)
            return true;
        if (together_ || work_.all < budget_ || whole() || ended_ < ENDS + least)
            return false;
        const double n = double(between()), t = double(ended_ - ENDS);
        return work_.known(n, t) && bytes_.known(n, t);
    }
    uint64_t ended() const {
        return ended_;
    }
    bool whole() const {
        return ended_ == blocks_;
    }
    // What all blocks do of which those at the ends and then all that were run do so much.
    uint64_t all(uint64_t ends, uint64_t run) const {
        if (whole() || ended_ <= ENDS)
            return run;
        return ends + uint64_t((unsigned __int128)(run - ends) * between() / (ended_ - ENDS));
    }

private:
    static constexpr uint64_t ENDS = 2, LEAST = 30, HEAVY = 4;

    uint64_t between() const {
        return blocks_ - ENDS;
    }

    uint64_t blocks_ = 0, budget_ = 0, most_ = 0, stride_ = 1, ended_ = 0;
    Share work_, bytes_;
    bool together_ = false, in_order_ = false;
};

}  // namespace simt
