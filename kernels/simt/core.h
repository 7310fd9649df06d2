// The executor's own structures; block.cpp explains them.
#pragma once

#include "abi.h"
#include "copies.h"
#include "engines.h"
#include "fiber.h"
#include "simt.h"

#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace simt {

constexpr uint32_t MAX_THREADS = 1024;  // of a block
constexpr size_t STATIC_SHARED_LIMIT = 48 << 10;
constexpr size_t SHARED_LIMIT = 227 << 10;  // of the GPU that has most
// In checked launches there are unusable bytes between static variables.
constexpr size_t STATIC_SHARED_ROOM = STATIC_SHARED_LIMIT + (16 << 10);

using Checker = ::SimtChecker;
using Profiler = ::SimtProfiler;

// The text of an error, composed without allocating: its author may be about to be forgotten, or
// the heap be broken.
struct Message {
    char text[8192];
    size_t length = 0;

    void add(const char *format, ...) __attribute__((format(printf, 2, 3)));
    void add(const char *format, va_list values);
    bool full() const {
        return length + 1 >= sizeof text;
    }
};

// One launch.
struct Job {
    const SimtKernel *kernel;
    SimtLaunch launch;
    void **args;      // the parameter bank
    Checker *check;   // null unless the launch is checked
    Profiler *profile;  // null unless it is profiled
    uint64_t serial;  // of all launches that are not checked
    uint64_t blocks;
    uint32_t threads;  // of a block

    std::atomic<uint64_t> next{0};     // turn of the next block to run
    std::atomic<bool> failed{false};   // no block is started any more
    std::mutex mutex;                  // for the rest
    size_t static_shared = 0;          // bytes laid out
    uint64_t error_turn = UINT64_MAX;  // of the block whose error it is
    std::string error;

    bool together = false;             // all blocks are there at once; then:
    std::condition_variable woken;
    uint64_t waiting = 0, ended = 0;   // blocks at the barrier of all; that are no more
    uint64_t rounds = 0;               // how often all have met

    // Number of the block whose turn it is.
    uint64_t block(uint64_t turn) const;
    bool stuck = false;                // those that wait are all that are left

    // What becomes of blocks that wait for all others.
    enum class Meeting { COMPLETE, STUCK, FAILED };
    // A block waits for all others to be here.
    Meeting meet();
    // Fewer blocks are left.
    void end_block();
    void fail(uint64_t turn, const Message &message);
};

// A CUDA thread of the block.
struct alignas(64) Thread {
    void *sp;           // where it waits
    uint32_t index[4];  // threadIdx
    // The last barrier, mbarrier or collective that it came to.
    const Collective *kind;
    void *arg;
    const char *file;
    uint32_t mask;  // or the parity, at an mbarrier, which is then `arg`
    int line;
    int stack;
};

// Sets of a warp's lanes. A lane is ready, or running, or waits, or is gone; fresh ones are ready.
struct Warp {
    uint32_t ready;
    uint32_t fresh;    // not begun: they have no stack yet
    uint32_t meeting;  // wait in a warp collective
    uint32_t waiting;  // wait at an mbarrier; those that wait otherwise wait at the barrier
    uint32_t gone;     // have returned, or never were
    uint32_t converging;  // wait until no other lane is ready
};

// What threads are at that wait for all others of the grid.
inline constexpr Collective GRID_BARRIER = {"sync of the grid", nullptr};

// What a thread is at that waits for an mbarrier.
inline constexpr Collective MBARRIER_WAIT = {"mbarrier_wait", nullptr};

// Runs blocks, one after the other, on the OS thread that calls `run`.
class Core {
public:
    explicit Core(bool guarded);
    ~Core();
    Core(const Core &) = delete;
    Core &operator=(const Core &) = delete;

    // Runs blocks of the job until no more are left.
    void run(Job &job);
    // Of a job whose blocks run in turns: runs one until it has ended or waits for all others of the
    // grid; and goes on with it, when it is known what became of that. Return whether it waits.
    bool start(Job &job, uint64_t turn);
    bool go_on(Job::Meeting meeting);
    // Whether all threads of the last block have returned.
    bool complete() const {
        return gone_ == job_->threads;
    }

    // What a running thread asks for; see simt.h.
    // The first three return the stack pointer of the thread to go on with; `sp` is the caller's.
    void *collective(uint32_t mask, const Collective *kind, void *arg, int line, const char *file,
                     void *sp);
    void *barrier(const Collective *kind, bool vote, int line, const char *file, void *sp);
    void *converge(const Collective *kind, void *arg, int line, const char *file, void *sp);
    int votes() const {
        return counted_;
    }
    void *shared(SharedVariable &variable, size_t size, size_t align, int line, const char *file);
    void *dynamic_shared() {
        return dynamic_;
    }
    // Whether the bytes are the block's shared memory.
    bool shared_holds(const void *p, size_t size) const;
    // The running thread's copies; `site` is where the code goes on.
    void copy_async(void *to, const void *from, size_t size, size_t there, int line,
                    const char *file, uintptr_t site);
    void copy_commit() {
        copies_[running()].commit();
    }
    void copy_wait(uint64_t keep);
    // See simt_check.
    void check(int lane, const void *p, size_t size, bool write);
    // See engines.h.
    void mbarrier_init(uint64_t *word, uint32_t arrivals, int line, const char *file,
                       uintptr_t site);
    void mbarrier_arrive(uint64_t *word, uint32_t bytes, int line, const char *file,
                         uintptr_t site);
    // Of the phase that is under way.
    uint32_t mbarrier_parity(const uint64_t *word, int line, const char *file) {
        return mbarrier(word, "mbarrier_arrive", line, file).parity;
    }
    // Returns the stack pointer of the thread to go on with.
    void *mbarrier_wait(uint64_t *word, uint32_t parity, int line, const char *file, void *sp);
    void tma_load(void *to, const TensorBox &box, int column, int row, uint64_t *barrier, int line,
                  const char *file, uintptr_t site);
    void wgmma_issue(const Lanes &lanes, const Wgmma &wgmma);
    void wgmma_commit() {
        wgmmas_[warp_].commit();
    }
    void wgmma_wait(uint64_t keep);
    // Ends the block with an error of a thread, or of the whole block (-1). Its fibers are
    // abandoned: what is on their stacks is forgotten, which is right, because kernels own nothing.
    [[noreturn]] void fail(int thread, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
    [[noreturn]] void fail(int thread, const char *format, va_list values);
    // For the signal handler. If a fiber was running: changes the interrupted context so that the
    // block ends with an error, and returns true.
    bool fault(int number, const siginfo_t *info, ucontext_t *context);

    // The running thread's number in the block, and that of a lane of its warp.
    int running() const {
        return int(running_ - threads_);
    }
    int lane(int lane) const {
        return int(warp_) * 32 + lane;
    }
    const Thread &thread(int i) const {
        return threads_[i];
    }
    // Whether the running thread's stack has the address, which is not below `low`.
    bool on_stack(uintptr_t address, uintptr_t low) const {
        return address - low < stacks_.end(running_->stack) - low;
    }
    // Ends the block unless it may wait for all others of the grid.
    void want_grid(int line, const char *file);
    // Ends the block, about which everything has been said.
    [[noreturn]] void abandon();

private:
    void take(Job &job);
    void run_block(uint64_t number);
    void be_at(uint64_t number);
    void proceed(void *sp);
    void end(uint64_t turn);
    Job::Meeting give_way();
    static void enter();
    void leave();
    void choose(bool anew);
    void *stack_of_running();
    int pick(uint32_t set);
    uint64_t draw();
    bool coin() {
        return draw() >> 63;
    }
    void watch(bool on);
    void meet(const Thread &like);
    void gather();
    void complete(const Thread &like, const Lanes &lanes);
    void release();
    void meet_blocks();
    void make_ready(uint32_t warp, uint32_t lanes);
    size_t place(SharedVariable &variable, size_t size, size_t unit);
    void lay_out();
    // Whether an asynchronous operation that is being issued lands now.
    bool at_once();
    // Where the code of a thread that has given way goes on: above the six registers that it saved.
    static uintptr_t site_of(const void *sp) {
        return static_cast<const uintptr_t *>(sp)[6];
    }
    Mbarrier mbarrier(const uint64_t *word, const char *what, int line, const char *file);
    void mbarrier_update(uint64_t *word, Mbarrier barrier);
    void land_box(size_t i);
    void land_boxes();
    void forget_engines();
    void blame(int thread);
    void blame_for_signal();
    [[noreturn]] void diverged();

    Job *job_ = nullptr;
    Checker *check_ = nullptr;      // the job's
    Profiler *profile_ = nullptr;
    Stacks stacks_;
    unsigned char *arena_;          // static shared memory, then dynamic, then a guard page
    unsigned char *dynamic_;        // ends where the guard page starts
    size_t static_used_ = 0;        // bytes of static shared memory that may have been written
    void *main_ = nullptr;          // stack pointer of proceed
    void *waiting_ = nullptr;       // that of a block that waits for others to have their turns
    Job::Meeting met_ = {};         // what has become of that
    uint64_t turn_ = 0;             // of the block, if it has turns
    uint64_t number_ = 0;           // of the block
    bool inside_ = false;           // a fiber is running
    uint64_t random_ = 0;           // state of the random choices
    uint32_t warp_ = 0;             // of the running thread
    Thread *running_ = nullptr;
    uint32_t ready_warps_ = 0;      // those with ready lanes
    uint32_t gone_ = 0;             // threads that have returned
    uint32_t arrived_ = 0;          // threads that wait at the barrier
    const Thread *first_ = nullptr; // of them
    bool mixed_ = false;            // they wait at different ones
    int votes_ = 0;                 // of them
    int counted_ = 0;               // votes of the last barrier that was completed
    Message error_;
    int signal_ = 0;                // that ended the block
    siginfo_t signal_info_ = {};
    uint64_t signal_sites_[16] = {};
    uint32_t laid_out_[3] = {};     // the block shape that `index` of the threads is for
    Warp warps_[MAX_THREADS / 32] = {};
    Thread threads_[MAX_THREADS] = {};
    Copies copies_[MAX_THREADS];
    bool copied_ = false;            // some copies_ are not as new
    std::vector<BoxCopy> boxes_;     // under way, in the order of issue
    WgmmaQueue wgmmas_[MAX_THREADS / 32];
    bool engaged_ = false;           // these two are not as new
};

// A core, and the stack for signals of the OS thread that runs it.
struct Worker {
    explicit Worker(bool guarded = true) : core(guarded) {}

    Core core;
    alignas(16) char signal_stack[64 << 10];
};

// Runs a job on the calling OS thread, all of its blocks one after the other; or those that other OS
// threads leave, on stacks without guards.
void run_alone(Job &job, bool guarded = true);

// The same for who has many at a time.
std::unique_ptr<Worker> take_worker(bool guarded);
void give_worker(std::unique_ptr<Worker> worker, bool guarded);

// Runs all blocks of a job at once, each on an OS thread of its own.
void run_together(Job &job);
// Runs all blocks of a job that is checked or profiled on the calling OS thread, each until it waits
// for the others.
void run_in_turns(Job &job);

// Writes which line of a program of one's own the first of these 16 sites is at that has one; returns
// false if none has.
extern bool (*line_of)(const uint64_t *sites, char *text, size_t size);
// Where the code was that a signal has interrupted, and who called that.
void interrupted_sites(const ucontext_t *context, uint64_t (&sites)[16]);

// The core that the OS thread is running.
extern __thread Core *current __attribute__((tls_model("initial-exec")));

// Has SIGSEGV, SIGBUS and SIGFPE end a block where one is running, and go to whoever handled them
// before where not.
void catch_faults();

// While it lives, the OS thread handles signals on a stack of its own.
class SignalStack {
public:
    explicit SignalStack(void *memory);
    ~SignalStack();
    SignalStack(const SignalStack &) = delete;
    SignalStack &operator=(const SignalStack &) = delete;
    static constexpr size_t SIZE = sizeof(Worker::signal_stack);

private:
    stack_t before_;
};

}  // namespace simt

// threadIdx, blockIdx, blockDim and gridDim of the running thread, four words each.
extern "C" __thread uint32_t simt_position[16] __attribute__((tls_model("initial-exec")));
