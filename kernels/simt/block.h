// One block on one OS thread. See block.cpp.
#pragma once

#include "fiber.h"
#include "simt.h"

#include <csetjmp>
#include <string>
#include <vector>

namespace simt {

constexpr uint32_t MAX_THREADS = 1024;
// What nvcc allows static shared memory, and an H100 a block in all.
constexpr size_t MAX_STATIC_SHARED = 48 << 10, MAX_SHARED = 227 << 10;

// A launch, and the copy of its arguments that all of its threads read.
struct Grid {
    const SimtKernel *kernel;
    SimtLaunch launch;
    std::vector<uint64_t> words;
    std::vector<void *> args;
};

// Why a thread does not run.
enum class Wait : uint8_t { Ready, Barrier, Warp, Returned };

struct Thread {
    void *stack;
    uint3 index;
    Wait wait;
    Vote vote;
    // Of what it waits for.
    const Collective *kind;
    uint32_t mask;
    void *arg;
    Site site;
    // Static shared memory that it has passed declarations of.
    uint32_t shared;
};

// Runs blocks, one after the other, on the OS thread that owns it.
class Block {
  public:
    Block();
    // Runs a block to its end, or to its first error, which `error` then tells.
    bool run(const Grid &grid, uint3 index, std::string &error);

    // What the primitives call, on the running thread's fiber.
    int barrier(Vote vote, int predicate, Site site);
    void collective(uint32_t mask, const Collective &kind, void *arg, Site site);
    void *static_shared(size_t bytes);
    void *dynamic_shared() { return dynamic_; }
    [[noreturn]] void fail(const std::string &what);
    // The running thread, for messages: "thread 3 of block (1, 0, 0)".
    std::string self() const;
    const SimtKernel *kernel() const { return grid_->kernel; }
    // Where a signal handler jumps to, and what it leaves there.
    sigjmp_buf rescue;
    char fault[160];

  private:
    static void entry();
    void start_threads();
    void returned();
    void release_barrier();
    [[noreturn]] void deadlock(const char *what);
    void wake(uint32_t thread);
    int next();
    void pause();
    void resume(int thread, void **save);
    std::string dump() const;

    const Grid *grid_ = nullptr;
    uint3 index_ = {};
    uint32_t count_ = 0;
    std::vector<Thread> threads_;
    // By warp, lanes that can run; and warps that have such lanes.
    uint32_t ready_[MAX_THREADS / 32] = {}, warps_ = 0;
    uint32_t running_ = 0;
    // Threads at the barrier, threads that have returned, and what the votes come to.
    uint32_t arrived_ = 0, gone_ = 0;
    int votes_ = 0, result_ = 0;
    uint64_t random_ = 0;
    std::string error_;
    void *main_ = nullptr;
    Stacks stacks_;
    std::vector<char> memory_;
    char *shared_, *dynamic_;
};

// The block that this OS thread runs, or null.
extern thread_local Block *current;

}  // namespace simt
