// The checker: what each byte that a kernel can reach holds, and who touched it last.
//
// src/simt/instrumented.rs compiles kernels with -fsanitize=thread,undefined, which makes the
// compiler call a function before every memory access and where arithmetic goes wrong. Those
// functions are ours (check_hooks.cpp), not the sanitizers'; they do nothing unless a checked
// launch is running, and end up in `access` and `report` here.
//
//   state of a byte    not there (red zones, too), undefined, defined, or flying: an asynchronous
//                      copy that nobody has waited for may write it any moment.
//   Cell of a word     the last plain write, and who read it or changed it atomically since the
//                      last barrier, with thread, time and site. From the first access to a part of
//                      a word on, each of its bytes has a Cell.
//
// Order. Time is cut into epochs: each block has its own, and each barrier of a block begins one.
// Two accesses to the same bytes, one of them a write and not both atomic, race if they are of
// different blocks of a launch, or of different threads in one epoch; unless the later thread knows
// of the earlier access by __syncwarp, or by an atomic access after a __threadfence (order.h).
// Nothing else orders: not shuffles, votes, mma or ldmatrix, neither atomics nor fences alone. The
// blocks of a checked launch run one after the other, so that findings are the same every time; those
// of a cooperative one in turns, from one barrier of the grid to the next. Such a turn has epochs as a
// block of a launch of its own would: what all blocks did before the barrier is over.
//
// TMA and wgmma (check_hopper.cpp) access shared memory on behalf of a thread, but when they like.
// What TMA writes is ordered before those alone who know that the phase is complete; what wgmma
// reads is kept in a list, and over when its group has been waited for.
//
// A plain read of a word that others change atomically is a race, unless the thread goes on to compare
// and exchange it: `old = *p; do … while (atomicCAS(p, …) != …)`, as the CUDA C++ Programming Guide has
// it. The exchange fails if what was read is not what is there. So such a read counts only when the
// thread reads again, or the block ends, without an exchange.
//
// Of a struct that is copied as a whole some bytes may be padding, which nobody has written. The compiler's
// calls do not say which, so a member of 4 bytes and more is missed only in structs of up to 16.
//
// Memory of host and driver is not watched, nor are a thread's own local variables. Of what a kernel
// has by new or malloc its bounds are.
#pragma once

#include "abi.h"
#include "order.h"
#include "simt.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace simt {

struct Job;

struct Range {
    uintptr_t low = 0;
    size_t size = 0;

    bool holds(uintptr_t a) const {
        return a - low < size;
    }
};

// Threads that did the same to a cell.
struct Crowd {
    Past last;       // its time is that of the earliest of the lanes
    uint32_t lanes;  // of its warp: those whose accesses nothing has ordered before `last`
    Past other;      // of another block, or else of another warp, or else of another lane
};

struct Cell {
    Past write;
    Crowd reads, atomics;
};

// What a unit of its own accesses for a thread.
struct Unit {
    uint8_t barrier;  // a copy of TMA's: what completes it, and in which phase; otherwise 0
    uint32_t phase;
};

// What a warp's wgmma reads of a factor: `rows` times 32 bytes, swizzled.
struct Fetch {
    const unsigned char *first;
    int rows;
    Past past;       // of the warp's first lane; once over, when it was
    uint64_t group;
    bool over;
};

// An mbarrier of the block.
struct Meeting {
    uint8_t number;
    uint32_t phase;         // that is under way
    Known arrived, passed;  // what is known to who arrived, and to who has waited
};

// Shared memory of a block with what lies between and behind its parts.
constexpr size_t SHARED_ROOM = 512 << 10;

enum State : uint8_t { ABSENT, UNDEFINED, DEFINED, FLYING };

// States and cells of a range of addresses. Its own memory is address space until it is used.
class Shadow {
public:
    explicit Shadow(size_t size);
    ~Shadow();
    Shadow(const Shadow &) = delete;
    Shadow &operator=(const Shadow &) = delete;

    Range range;  // may be moved

    void swap(Shadow &other);
    uint8_t *state(uintptr_t a) {
        return states_ + (a - range.low);
    }
    // Makes all cells whole words again; their contents must be of the past.
    void join();
    // Calls f for each cell of the bytes.
    template <class F> void each(uintptr_t a, size_t n, F f) {
        for (size_t at = a - range.low, end = at + n; at < end;) {
            const size_t word = at / 4, next = word * 4 + 4;
            if (!split_[word] && at % 4 == 0 && next <= end) {
                f(words_[word]);
                at = next;
                continue;
            }
            if (!split_[word]) {
                split_[word] = 1;
                for (size_t i = word * 4; i < next; i++)
                    bytes_[i] = words_[word];
            }
            for (; at < end && at < next; at++)
                f(bytes_[at]);
        }
    }

private:
    size_t size_;  // reserved
    uint8_t *states_, *split_;
    Cell *words_, *bytes_;
};

}  // namespace simt

struct SimtChecker {
public:
    explicit SimtChecker(size_t capacity);
    ~SimtChecker();
    SimtChecker(const SimtChecker &) = delete;
    SimtChecker &operator=(const SimtChecker &) = delete;

    void *alloc(size_t bytes, size_t align);
    void share(uintptr_t a, size_t n);
    void unshare(uintptr_t a) {
        guests_.erase(a);
    }
    void scratch(void *allocation, size_t bytes);
    void define(uintptr_t a, size_t n);
    // What has become of bytes that were copied by the host, and whether any of some is defined.
    void carry(uintptr_t to, uintptr_t from, size_t n);
    bool written(uintptr_t a, size_t n);
    void free(uintptr_t allocation);
    const std::vector<SimtFinding> &findings() const {
        return findings_;
    }

    // Runs a job on the calling OS thread. The executor then says how it goes:
    void run(simt::Job &job);
    void begin_block(uint64_t number, simt::Range arena, simt::Range dynamic);
    void barrier();
    // Of blocks that run in turns: this one waits for the others; all have met; it goes on.
    void pause(uint64_t number);
    void met();
    void resume(uint64_t number);
    // __syncwarp of these lanes, which are all that have not returned, or not.
    void order(uint32_t warp, uint32_t lanes, bool whole);
    // __threadfence
    void fence(int thread);
    // Offset of a variable of static shared memory; adds its size to `declared`.
    size_t place(simt::SharedVariable &variable, size_t size, size_t unit, size_t &declared);
    // The thread is about to access n bytes; `code` is where it goes on. Comes back if they are
    // there.
    void access(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code,
                const simt::Unit *unit = nullptr);
    // The thread is about to compare and exchange n bytes.
    void compares(uintptr_t a, size_t n, int thread, uintptr_t code);
    // An asynchronous copy of the thread is complete.
    void landed(uintptr_t a, size_t n, int thread);
    // mbarriers: a thread makes one, arrives, has waited; a phase is complete.
    void meeting(const uint64_t *word, int thread, uintptr_t code);
    void arrive(const uint64_t *word, int thread, uintptr_t code);
    void wait(const uint64_t *word, int thread, uintptr_t code);
    void passed(const uint64_t *word, int thread);
    void complete(const uint64_t *word);
    // A thread has TMA copy rows, that are there, to all of the n bytes; and they have come.
    void box(uintptr_t a, size_t n, const uint64_t *word, int thread, uintptr_t code);
    void box_landed(uintptr_t a, size_t n);
    // A warp has wgmma read; has waited for all but the last `keep` groups before `group`.
    void fetch(const unsigned char *first, int rows, uint64_t group, int thread, uintptr_t code);
    void fetched(uint32_t warp, uint64_t group, uint64_t keep);
    // A finding of the running thread that is not about its order with others.
    void report(uint32_t kind, uint32_t how, uintptr_t code, const char *format, ...)
        __attribute__((format(printf, 5, 6)));

private:
    // What there is of a block that waits for its turn.
    struct Aside {
        simt::Shadow shared{simt::SHARED_ROOM};
        simt::Range dynamic;
        std::map<const uint64_t *, simt::Meeting> meetings;
        std::vector<simt::Fetch> fetches;
    };
    struct Allocation {
        uintptr_t start;
        size_t size;
    };
    struct Variable {
        const simt::SharedVariable *variable;
        size_t offset, size;
    };
    struct Block {
        uint32_t first;  // epoch
        uint64_t number;
    };
    // The one who accesses.
    struct Me {
        uint32_t how;
        int thread;
        uint32_t first;  // epoch in which an access by another block could have been
        const simt::Clocks &clocks;
        simt::Past past;
    };

    void begin(const simt::Job &job);
    void begin_turn(uint64_t number);
    // An access of the thread's, now.
    simt::Past past(uint32_t how, int thread, uintptr_t code) const;
    // What `me` does is not ordered after what the cell remembers: how that was accessed, or -1.
    int clash(const simt::Cell &cell, const Me &me, simt::Past &other) const;
    bool clash(const simt::Fetch &fetch, const Me &me) const;
    bool is_guest(uintptr_t a, size_t n) const;
    // Whether there is a clash with what wgmma reads of the bytes, which now are others.
    bool overwrite(uintptr_t a, size_t n, const Me &me, simt::Past &other);
    void forget_fetched();
    bool clash(const simt::Crowd &crowd, bool in_turn, const Me &me, simt::Past &other) const;
    bool is_stranger(const simt::Past &past, const Me &me) const;
    uint32_t strangers(const simt::Crowd &crowd, const Me &me) const;
    bool has_learnt(const simt::Past &past, int thread) const;
    simt::Known known_now(int thread);
    // An atomic access outside of shared memory.
    void atomic(uintptr_t a, int thread);
    void join(simt::Crowd &crowd, const Me &me) const;
    void out_of_bounds(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code);
    SimtAct act(uint32_t how, uint32_t epoch, int thread, uint64_t site) const;
    void add(SimtFinding finding);
    void add_guesses();
    void describe(uintptr_t a, size_t n, char (&text)[256]) const;

    std::vector<SimtFinding> findings_;
    simt::Range heap_;               // device memory
    size_t used_ = 0;                // of it
    std::vector<Allocation> allocations_;
    std::map<uintptr_t, size_t> guests_;  // other memory that kernels may access
    simt::Shadow memory_, shared_;
    const simt::Job *job_ = nullptr;
    std::vector<Variable> variables_;
    simt::Range dynamic_;
    size_t placed_ = 0;              // end of the last variable
    uint32_t now_ = 0;               // epoch
    uint32_t launch_ = 0;            // first epoch of the launch
    uint32_t block_ = 0;             // and of the block
    std::vector<Block> blocks_;      // of the launch, so far
    simt::Clocks clocks_[32];
    // What was left at addresses by the launch's threads, and what those of the block have found
    // since the last barrier, and before it, and what they knew at their last fence.
    std::map<uintptr_t, simt::Known> words_;
    std::map<int, simt::Known> known_;
    simt::Known common_;
    std::map<int, simt::Known> fenced_;  // since the last barrier
    simt::Known fenced_by_all_;          // before it
    std::map<const uint64_t *, simt::Meeting> meetings_;  // of the block
    std::vector<simt::Fetch> fetches_;                    // that no barrier has followed
    std::map<uint64_t, Aside> asides_;                    // by number of the block
    // Reads by the block's threads of what others change atomically, by address and thread.
    std::map<std::pair<uintptr_t, int>, SimtFinding> guesses_;
};

namespace simt {

// The checker of the running thread's accesses, if any.
extern __thread SimtChecker *watching __attribute__((tls_model("initial-exec")));

}  // namespace simt
