// The profiler: what a launch asks of a GPU's memory system and units, counted exactly.
//
// It uses the kernels that are compiled for the checker (check.h): the compiler calls a
// function of ours before every access to memory, and one at the start of every basic block. The
// blocks of a profiled launch run one after the other, those of a cooperative one in turns.
//
// Requests. A GPU's warp accesses memory with one instruction for all its lanes; here the lanes run
// one after the other. Accesses are put together again by place in the code, and of one place by
// how often the lane has been there since its warp's lanes last met: at a barrier of the block, or
// at an operation of the whole warp.
//
// Of a request to global memory the sectors are counted, which have 32 bytes. Of one to shared
// memory, wavefronts: 32 banks of 4 bytes, each of which serves one word at a time, to all lanes
// that want it. Accesses of 8 bytes are served in two halves of the warp and those of 16 bytes in
// four quarters, unless all that the warp wants fits into one wavefront.
//
// Round trips. A thread that has read what its block had not read before waits for it where it
// stores, accesses atomically or meets others, whatever it has read until then being on its way
// together. (What a compiler makes of loops, and use without a store, are not seen; asynchronous
// copies are taken to come in time.) A warp waits as often as that of its lanes that waits most.
//
// Of launches that cost much only a sample of the blocks is run: sample.h.
//
// That is what NVIDIA documents of its GPUs (CUDA C++ Programming Guide, "Global Memory" and
// "Shared Memory" of the compute capabilities) and Nsight Compute counts, not a simulation: nothing
// here has a clock or a cache.
#pragma once

#include "abi.h"
#include "check.h"
#include "sample.h"
#include "simt.h"

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace simt {

struct Job;

// What the lanes of a warp access at one place of the code.
struct Request {
    uint32_t lanes = 0;
    uint32_t size = 0;  // bytes of each lane
    uintptr_t address[32];
};

// Those that a warp has not completed, of one place.
struct Requests {
    uint32_t done[32] = {};  // by each lane
    std::vector<Request> all;
};

// A basic block, and how often threads and warps began it: a warp as often as that of its lanes that
// began it most often, between two places where they meet.
struct Begun {
    uintptr_t code;
    uint64_t threads = 0, warps = 0;
};

// How often the lanes of a warp have begun one since they last met.
struct Turns {
    bool any = false;
    uint32_t by_lane[32] = {};
};

// How many different sectors the first so many were.
struct Growth {
    uint64_t once, drawn;
};

// An allocation, and how many of its sectors a launch touches: reading, writing.
struct Region {
    uint64_t sectors;
    uint64_t by_blocks[2], once[2];  // by each block, each once; by any
    uint64_t ends[2];                // the first of them by the blocks at the ends
    Growth growth[2][2];             // after the last powers of two of blocks, the older first
};

}  // namespace simt

struct SimtProfiler {
public:
    SimtProfiler(size_t capacity, uint64_t budget, uint64_t most);
    ~SimtProfiler();
    SimtProfiler(const SimtProfiler &) = delete;
    SimtProfiler &operator=(const SimtProfiler &) = delete;

    void *alloc(size_t bytes);

    // Runs a job on the calling OS thread. The executor then says how it goes:
    void run(simt::Job &job);
    // Whether enough of them have been run.
    bool enough() const {
        return sample_.enough();
    }
    uint64_t block(uint64_t turn) const {
        return sample_.block(turn);
    }
    void begin_block(simt::Range shared);
    // It waits for its turn, as all its threads do; and goes on, where L1 has nothing any more.
    void pause();
    void resume(simt::Range shared);
    // A thread accesses n bytes; `code` is where it goes on.
    void access(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code);
    // It copies bytes asynchronously, and writes zeros in place of what is not `there`.
    void copy(uintptr_t to, uintptr_t from, size_t size, size_t there, int thread, uintptr_t code);
    // It has a fence for threads of other blocks.
    void fence() {
        sample_.together();
    }
    // It begins a basic block.
    void basic_block(int thread, uintptr_t code);
    // Lanes of a warp have met; `whole`: all that have not returned.
    void collective(uint32_t warp, const simt::Collective &kind, bool whole, uintptr_t code);
    void barrier(uintptr_t code);
    // All threads of a warp have returned.
    void end_warp(uint32_t warp);
    void end_block();
    // A thread has TMA copy bytes.
    void tma(uintptr_t a, size_t n, uintptr_t code);
    // A warp issues wgmma.
    void wgmma(uint64_t flops, uintptr_t code);

    // From here on requests are kept.
    void keep() {
        keep_ = true;
    }

    // Of the last launch.
    const std::vector<SimtTally> &tallies() const {
        return tallies_;
    }
    const std::vector<SimtRequest> &requests() const {
        return requests_;
    }
    const SimtFootprint &footprint() const {
        return footprint_;
    }

private:
    struct Stamp {
        uint32_t block, launch;  // that were the last to touch a sector
    };

    struct Found {
        uint64_t key;
        uint32_t at;  // in tallies_, and one more
    };

    uint32_t place(uint32_t kind, uintptr_t code);
    // Returns whether the block has not touched it before.
    bool record(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code);
    void complete(uint32_t warp);
    void complete(SimtTally &tally, const simt::Request &request);
    void keep(uint32_t warp, uint32_t kind, const simt::Request &request);
    void read_code(simt::Range text);
    bool touch(uint64_t sector, bool write);
    bool touch(uintptr_t a, size_t n, bool write);
    // Lanes of a warp wait for what they have read.
    void arrive(uint32_t warp, uint32_t lanes);
    uint64_t estimate(const simt::Region &region, bool write) const;
    void finish();

    uint64_t budget_, most_;
    simt::Sample sample_;
    simt::Range heap_;  // device memory
    size_t used_ = 0;   // of it
    uint32_t *owners_;  // in regions_, of each part of it
    std::vector<simt::Region> regions_;
    simt::Range text_ = {};        // the code of the last launch
    uint32_t *blocks_ = nullptr;   // the basic blocks that start there: in begun_, and one more
    std::vector<simt::Begun> begun_;
    std::vector<simt::Turns> turns_[32];     // of each warp, as begun_
    std::vector<uint32_t> beginning_[32];    // those of them that have some
    Stamp *stamps_[2];  // of each sector: read, written
    uint32_t block_ = 0, launch_ = 0;
    simt::Range shared_;
    std::unordered_map<uint64_t, uint32_t> places_;  // in tallies_
    Found found_[1024];                              // lately, of them
    std::vector<SimtTally> tallies_;
    bool keep_ = false;
    uint32_t blocks_begun_ = 0, turn_ = 0;  // of the launch; of the block
    std::vector<SimtRequest> requests_;
    std::vector<SimtTally> ends_;       // those of the blocks at the ends
    std::vector<simt::Begun> begun_ends_;  // and of basic blocks
    uint32_t awaited_[32] = {};         // lanes of each warp that have read
    uint32_t waits_[32][32] = {};       // how often each has waited for that
    SimtFootprint footprint_ = {};
    uint64_t waits_ends_ = 0;
    std::vector<simt::Requests> open_[32];  // of each warp, as tallies_
    std::vector<uint32_t> busy_[32];        // those of them that have some
};

namespace simt {

// The profiler of the running thread's accesses, if any.
extern __thread SimtProfiler *profiling __attribute__((tls_model("initial-exec")));

}  // namespace simt
