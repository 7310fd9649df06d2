// Launches: the blocks of a grid are handed out to a pool of OS threads that lives as long as the
// process. A signal that a kernel raises (a wild pointer, a stack that is full, a division by zero)
// ends the launch with a message, not the process.
#include "block.h"

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <unordered_map>

namespace simt {
namespace {

struct sigaction previous[NSIG];

void on_signal(int number, siginfo_t *info, void *context) {
    if (Block *block = current) {
        // Not safe in general; here the signal comes from a kernel's own code, not from within
        // the C library.
        const char *what = number == SIGFPE ? "integer division by zero" : "wild access";
        snprintf(block->fault, sizeof block->fault, "%s, %s: %s (address %p)",
                 block->kernel()->name, block->self().c_str(), what, info->si_addr);
        siglongjmp(block->rescue, 1);
    }
    const struct sigaction &old = previous[number];
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(number, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
        signal(number, SIG_DFL);
        raise(number);
    } else {
        old.sa_handler(number);
    }
}

void catch_signals() {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(number, &action, &previous[number]);
}

class Pool {
  public:
    static Pool &get() {
        // Never destroyed: its threads may outlive static objects.
        static Pool *pool = new Pool;
        return *pool;
    }

    // One launch at a time, as one stream has it.
    bool run(const Grid &grid, std::string &error) {
        std::lock_guard launch(launch_);
        {
            std::lock_guard lock(mutex_);
            const uint32_t *g = grid.launch.grid;
            grid_ = &grid;
            blocks_ = uint64_t(g[0]) * g[1] * g[2];
            next_ = 0;
            failed_ = UINT64_MAX;
            error_.clear();
            busy_ = workers_;
            round_++;
        }
        begin_.notify_all();
        std::unique_lock lock(mutex_);
        end_.wait(lock, [&] { return busy_ == 0; });
        error = error_;
        return error_.empty();
    }

    std::mutex counts;
    std::unordered_map<const SimtKernel *, uint64_t> launches;

  private:
    Pool() {
        catch_signals();
        const char *wish = getenv("AUTOASSIST_SIMT_THREADS");
        int threads = wish ? atoi(wish) : int(std::thread::hardware_concurrency());
        workers_ = std::max(threads, 1);
        for (int i = 0; i < workers_; i++) std::thread([this] { work(); }).detach();
    }

    void work() {
        stack_t alternate = {};
        alternate.ss_size = 64 << 10;
        alternate.ss_sp = malloc(alternate.ss_size);
        sigaltstack(&alternate, nullptr);
        Block block;
        std::string error;
        for (uint64_t seen = 0;;) {
            std::unique_lock lock(mutex_);
            begin_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            const Grid &grid = *grid_;
            lock.unlock();
            for (uint64_t i; (i = next_.fetch_add(1)) < blocks_;) {
                const uint32_t *g = grid.launch.grid;
                uint3 index = {uint32_t(i % g[0]), uint32_t(i / g[0] % g[1]),
                               uint32_t(i / g[0] / g[1])};
                if (block.run(grid, index, error)) continue;
                // Blocks that have not begun never will. Of those that fail the first is told.
                next_ = blocks_;
                std::lock_guard guard(mutex_);
                if (i < failed_) {
                    failed_ = i;
                    error_ = error;
                }
            }
            lock.lock();
            if (--busy_ == 0) end_.notify_one();
        }
    }

    std::mutex launch_, mutex_;
    std::condition_variable begin_, end_;
    int workers_ = 0, busy_ = 0;
    uint64_t round_ = 0, blocks_ = 0, failed_ = UINT64_MAX;
    std::atomic<uint64_t> next_{0};
    const Grid *grid_ = nullptr;
    std::string error_;
};

// Why a GPU would refuse the launch, or nothing.
std::string refusal(const SimtKernel &kernel, const SimtLaunch &launch) {
    const uint32_t *g = launch.grid, *b = launch.block;
    uint64_t threads = uint64_t(b[0]) * b[1] * b[2];
    uint64_t most = std::min(kernel.max_threads, MAX_THREADS);
    if (!g[0] || !g[1] || !g[2]) return "a grid without blocks";
    if (g[0] > 0x7fffffff || g[1] > 65535 || g[2] > 65535) return "a grid that is too large";
    if (!threads) return "a block without threads";
    if (b[0] > most || b[1] > most || b[2] > most || threads > most) {
        return "a block of " + std::to_string(threads) + " threads; " + std::to_string(most) +
               " are allowed";
    }
    if (launch.dynamic_shared > MAX_SHARED) {
        return std::to_string(launch.dynamic_shared) + " bytes of shared memory; " +
               std::to_string(MAX_SHARED) + " are allowed";
    }
    return "";
}

}  // namespace
}  // namespace simt

extern "C" int simt_launch(const SimtKernel *kernel, const SimtLaunch *launch, void **args,
                           char *error, size_t error_size) {
    std::string text = simt::refusal(*kernel, *launch);
    if (!text.empty()) {
        text = std::string(kernel->name) + " in " + kernel->file + ", " + text;
    } else {
        simt::Pool &pool = simt::Pool::get();
        simt::Grid grid = {kernel, *launch, std::vector<uint64_t>(kernel->argc), {}};
        for (uint32_t i = 0; i < kernel->argc; i++) {
            memcpy(&grid.words[i], args[i], kernel->arg_sizes[i]);
            grid.args.push_back(&grid.words[i]);
        }
        {
            std::lock_guard lock(pool.counts);
            pool.launches[kernel]++;
        }
        pool.run(grid, text);
    }
    snprintf(error, error_size, "%s", text.c_str());
    return text.empty() ? 0 : 1;
}

extern "C" uint64_t simt_launches(const SimtKernel *kernel) {
    simt::Pool &pool = simt::Pool::get();
    std::lock_guard lock(pool.counts);
    auto found = pool.launches.find(kernel);
    return found == pool.launches.end() ? 0 : found->second;
}
