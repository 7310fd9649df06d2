// Launches: what is checked, and how the blocks of a grid are spread over OS threads.
#include "check.h"
#include "core.h"
#include "profile.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

namespace simt {

namespace {

// Stacks of 1024 threads are 2048 mappings, of which Linux grants a process 65530.
constexpr unsigned MAX_DEFAULT_THREADS = 24, MAX_WANTED_THREADS = 256;
constexpr size_t MAX_ARGUMENTS = 128, ARGUMENT_ALIGN = 64;

unsigned wanted_threads() {
    const char *text = getenv("AUTOASSIST_SIMT_THREADS");
    if (!text) {
        const unsigned processors = std::thread::hardware_concurrency();
        return std::min(std::max(processors, 1u), MAX_DEFAULT_THREADS);
    }
    char *end;
    const long n = strtol(text, &end, 10);
    if (end == text || *end != 0 || n < 1 || n > long(MAX_WANTED_THREADS))
        throw std::invalid_argument(std::string("AUTOASSIST_SIMT_THREADS=") + text +
                                    ": a number from 1 to 256 is wanted");
    return unsigned(n);
}

// While it lives, OS threads are started for which other people's signals are not.
class OthersSignals {
public:
    OthersSignals() {
        sigset_t all;
        sigfillset(&all);
        for (int number : {SIGSEGV, SIGBUS, SIGFPE})
            sigdelset(&all, number);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~OthersSignals() {
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    OthersSignals(const OthersSignals &) = delete;
    OthersSignals &operator=(const OthersSignals &) = delete;

private:
    sigset_t before_;
};

class Pool {
public:
    Pool();
    void launch(Job &job);
    void launch_together(Job &job);
    uint64_t launches(const SimtKernel *kernel);

private:
    void work(Worker &worker);

    std::mutex launching_;  // for the whole of a launch, and for these three
    std::unique_ptr<Worker> callers_;
    uint64_t serial_ = 0;
    std::unordered_map<const SimtKernel *, uint64_t> launches_;

    std::mutex mutex_;  // for the rest
    std::condition_variable begun_, ended_;
    Job *job_ = nullptr;
    uint64_t generation_ = 0;  // number of jobs that were shared with the workers
    unsigned busy_ = 0;        // workers that have joined in
    size_t workers_ = 0;
};

Pool::Pool() : callers_(new Worker) {
    catch_faults();
    const unsigned threads = wanted_threads();
    const OthersSignals blocked;
    try {
        while (workers_ + 1 < threads) {
            // Pool and workers live as long as the process, so nothing is freed or joined.
            std::unique_ptr<Worker> worker(new Worker);
            std::thread([this, w = worker.get()] { work(*w); }).detach();
            worker.release();
            workers_++;
        }
    } catch (const std::exception &) {
        // Fewer will do.
    }
}

void Pool::work(Worker &worker) {
    SignalStack stack(worker.signal_stack);
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        begun_.wait(lock, [&] { return job_ && generation_ != seen; });
        seen = generation_;
        Job &job = *job_;
        busy_++;
        lock.unlock();
        worker.core.run(job);
        lock.lock();
        if (--busy_ == 0)
            ended_.notify_one();
    }
}

void Pool::launch(Job &job) {
    std::lock_guard<std::mutex> launching(launching_);
    launches_[job.kernel]++;
    job.serial = ++serial_;
    const size_t helpers = size_t(std::min<uint64_t>(workers_, job.blocks - 1));
    if (helpers > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        job_ = &job;
        generation_++;
    }
    for (size_t i = 0; i < helpers; i++)
        begun_.notify_one();
    {
        SignalStack stack(callers_->signal_stack);
        callers_->core.run(job);
    }
    if (helpers > 0) {
        // Workers that have not woken up by now are not needed.
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;
        ended_.wait(lock, [&] { return busy_ == 0; });
    }
}

void Pool::launch_together(Job &job) {
    std::lock_guard<std::mutex> launching(launching_);
    launches_[job.kernel]++;
    job.serial = ++serial_;
    const OthersSignals blocked;
    run_together(job);
}

uint64_t Pool::launches(const SimtKernel *kernel) {
    std::lock_guard<std::mutex> lock(launching_);
    const auto found = launches_.find(kernel);
    return found == launches_.end() ? 0 : found->second;
}

Pool &pool() {
    static Pool &pool = *new Pool;
    return pool;
}

// Workers are made of many mappings, so they are kept for the next who needs one.
std::mutex idle_mutex;
std::vector<std::unique_ptr<Worker>> &idle(bool guarded) {
    static auto *all = new std::vector<std::unique_ptr<Worker>>[2];
    return all[guarded];
}

// The arguments, and the pointers to them, as they were when the kernel was launched.
struct Bank {
    // CUDA takes 32764 bytes; here each argument begins at a multiple of its own.
    alignas(ARGUMENT_ALIGN) unsigned char bytes[40 << 10];
    void *pointers[MAX_ARGUMENTS];

    void fill(const SimtKernel &kernel, void **args) {
        if (kernel.argc > 0 && !args)
            throw std::invalid_argument("the argument array is null");
        size_t used = 0;
        for (uint32_t i = 0; i < kernel.argc; i++) {
            const size_t size = kernel.arg_sizes[i];
            if (!args[i])
                throw std::invalid_argument("argument " + std::to_string(i) + " is null");
            if (used + size > sizeof bytes)
                throw std::invalid_argument("its arguments are too many or too large");
            memcpy(bytes + used, args[i], size);
            pointers[i] = bytes + used;
            used += (size + ARGUMENT_ALIGN - 1) / ARGUMENT_ALIGN * ARGUMENT_ALIGN;
        }
    }
};

std::string shape(const uint32_t (&n)[3]) {
    return "(" + std::to_string(n[0]) + "," + std::to_string(n[1]) + "," + std::to_string(n[2]) +
           ")";
}

// The number of elements, if every dimension has 1 to `limits`.
uint64_t count(const char *what, const uint32_t (&n)[3], const uint32_t (&limits)[3]) {
    for (int i = 0; i < 3; i++)
        if (n[i] < 1 || n[i] > limits[i])
            throw std::invalid_argument(std::string(what) + " " + shape(n) + ": 1 up to " +
                                        shape(limits) + " are possible");
    return uint64_t(n[0]) * n[1] * n[2];
}

void launch(const SimtKernel &kernel, const SimtLaunch &launch, void **args, Checker *check,
            Profiler *profile) {
    const uint64_t blocks = count("grid", launch.grid, {0x7fffffff, 65535, 65535});
    const uint64_t threads = count("block", launch.block, {1024, 1024, 64});
    const uint32_t most = std::min(kernel.max_threads, MAX_THREADS);
    if (threads > most)
        throw std::invalid_argument("block " + shape(launch.block) + " has " +
                                    std::to_string(threads) + " threads, the kernel's limit is " +
                                    std::to_string(most));
    const uint32_t limit = std::min(launch.shared_limit, uint32_t(SHARED_LIMIT));
    if (launch.dynamic_shared > limit)
        throw std::invalid_argument(std::to_string(launch.dynamic_shared) +
                                    " bytes of dynamic shared memory, the limit is " +
                                    std::to_string(limit));
    if (launch.landing > SIMT_LAND_RANDOMLY)
        throw std::invalid_argument("landing " + std::to_string(launch.landing) + " is unknown");
    const uint32_t schedule = launch.schedule & ~uint32_t(SIMT_TOGETHER);
    if (schedule > SIMT_RANDOM)
        throw std::invalid_argument("schedule " + std::to_string(launch.schedule) + " is unknown");
    Bank bank;
    bank.fill(kernel, args);

    Job job;
    job.kernel = &kernel;
    job.check = check;
    job.profile = profile;
    job.launch = launch;
    job.launch.schedule = schedule;
    job.args = bank.pointers;
    job.blocks = blocks;
    job.threads = uint32_t(threads);
    job.together = launch.schedule != schedule && blocks > 1;
    if (check) {
        job.serial = 0;
        check->run(job);
    } else if (profile) {
        profile->run(job);
    } else if (job.together) {
        pool().launch_together(job);
    } else {
        pool().launch(job);
    }
    if (!job.error.empty())
        throw std::runtime_error(job.error);
}

int launch_or_say(const SimtKernel *kernel, const SimtLaunch *launch, void **args, Checker *check,
                  Profiler *profile, char *error, size_t error_size) {
    try {
        simt::launch(*kernel, *launch, args, check, profile);
        return 0;
    } catch (const std::invalid_argument &e) {
        snprintf(error, error_size, "kernel %s (%s): cannot be launched: %s", kernel->name,
                 kernel->file, e.what());
    } catch (const std::exception &e) {
        snprintf(error, error_size, "%s", e.what());
    }
    return 1;
}

}  // namespace

std::unique_ptr<Worker> take_worker(bool guarded) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle(guarded).empty())
        return std::unique_ptr<Worker>(new Worker(guarded));
    std::unique_ptr<Worker> worker = std::move(idle(guarded).back());
    idle(guarded).pop_back();
    return worker;
}

void give_worker(std::unique_ptr<Worker> worker, bool guarded) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    idle(guarded).push_back(std::move(worker));
}

void run_alone(Job &job, bool guarded) {
    std::unique_ptr<Worker> worker = take_worker(guarded);
    {
        SignalStack stack(worker->signal_stack);
        worker->core.run(job);
    }
    give_worker(std::move(worker), guarded);
}

}  // namespace simt

int simt_launch(const SimtKernel *kernel, const SimtLaunch *launch, void **args, char *error,
                size_t error_size) {
    return simt::launch_or_say(kernel, launch, args, nullptr, nullptr, error, error_size);
}

int simt_launch_checked(SimtChecker *checker, const SimtKernel *kernel, const SimtLaunch *launch,
                        void **args, char *error, size_t error_size) {
    return simt::launch_or_say(kernel, launch, args, checker, nullptr, error, error_size);
}

int simt_launch_profiled(SimtProfiler *profiler, const SimtKernel *kernel,
                         const SimtLaunch *launch, void **args, char *error, size_t error_size) {
    return simt::launch_or_say(kernel, launch, args, nullptr, profiler, error, error_size);
}

uint64_t simt_launches(const SimtKernel *kernel) {
    try {
        return simt::pool().launches(kernel);
    } catch (const std::exception &) {
        return 0;  // no pool, so no launches
    }
}
