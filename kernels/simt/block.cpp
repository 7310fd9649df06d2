// How a block runs. Each CUDA thread is a fiber with a stack of its own; all fibers of a block share
// one OS thread, so exactly one runs at any time, until it has to wait for others. Then it switches
// straight to another one that can run.
//
// A thread waits for one of two things. At a block barrier it counts as arrived; the last to arrive
// makes all ready again. Threads that have returned count as arrived, as on the hardware. At a warp
// collective (a shuffle, a vote, __syncwarp) it leaves a pointer to its part; the last lane of the
// mask to come runs the collective for all of them, then all are ready again.
//
// Nothing else can happen, so when no thread is ready and some have not returned, they wait for what
// will never come: that is reported with who waits where, instead of hanging. Meetings that hardware
// leaves undefined are errors, too: one barrier reached at different places, lanes of one mask in
// different collectives, a mask without the lane itself or with lanes that have returned.
#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <map>

namespace simt {

thread_local Builtins builtins;
thread_local Block *current = nullptr;

namespace {

std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char *pattern, ...) {
    char text[512];
    va_list args;
    va_start(args, pattern);
    vsnprintf(text, sizeof text, pattern, args);
    va_end(args);
    return text;
}

// From the repository's root, as people know it.
const char *short_name(const char *file) {
    const char *root = strstr(file, "kernels/");
    return root ? root : file;
}

std::string at(Site site) {
    return format("%s:%d", short_name(site.file), site.line);
}

// "0-3, 7" for sorted numbers.
std::string ranges(const std::vector<uint32_t> &numbers) {
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) last++;
        if (!text.empty()) text += ", ";
        text += last == i ? format("%u", numbers[i]) : format("%u-%u", numbers[i], numbers[last]);
        i = last + 1;
    }
    return text;
}

uint32_t splitmix(uint64_t &state) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return uint32_t(z >> 32);
}

// A set bit of a word that is not 0, as the schedule has it.
int pick(uint32_t bits, uint32_t schedule, uint64_t &random) {
    switch (schedule) {
    case 0:
        return __builtin_ctz(bits);
    case 1:
        return 31 - __builtin_clz(bits);
    default:
        for (int skip = int(splitmix(random) % __builtin_popcount(bits)); skip > 0; skip--) {
            bits &= bits - 1;
        }
        return __builtin_ctz(bits);
    }
}

constexpr size_t ALIGN = 128;

}  // namespace

Block::Block()
    : threads_(MAX_THREADS), stacks_(MAX_THREADS), memory_(MAX_SHARED + MAX_STATIC_SHARED + ALIGN) {
    uintptr_t start = (reinterpret_cast<uintptr_t>(memory_.data()) + ALIGN - 1) & ~(ALIGN - 1);
    shared_ = reinterpret_cast<char *>(start);
    dynamic_ = shared_ + MAX_STATIC_SHARED;
}

void Block::start_threads() {
    dim3 dim = builtins.block_dim;
    uint32_t thread = 0;
    for (unsigned z = 0; z < dim.z; z++) {
        for (unsigned y = 0; y < dim.y; y++) {
            for (unsigned x = 0; x < dim.x; x++, thread++) {
                threads_[thread] = {};
                threads_[thread].index = {x, y, z};
                threads_[thread].stack = stacks_.start(int(thread), entry);
            }
        }
    }
    warps_ = 0;
    for (uint32_t w = 0; w * 32 < count_; w++) {
        uint32_t lanes = std::min(32u, count_ - w * 32);
        ready_[w] = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warps_ |= 1u << w;
    }
}

bool Block::run(const Grid &grid, uint3 index, std::string &error) {
    const SimtLaunch &launch = grid.launch;
    grid_ = &grid;
    index_ = index;
    count_ = launch.block[0] * launch.block[1] * launch.block[2];
    arrived_ = gone_ = 0;
    votes_ = 0;
    error_.clear();
    const uint32_t *g = launch.grid, *b = launch.block;
    uint64_t number = index.x + uint64_t(g[0]) * (index.y + uint64_t(g[1]) * index.z);
    random_ = launch.seed * 0x9e3779b97f4a7c15 + number;
    builtins.block = index;
    builtins.block_dim = {b[0], b[1], b[2]};
    builtins.grid_dim = {g[0], g[1], g[2]};
    // NaN to whoever reads what no thread has written.
    memset(shared_, 0xff, MAX_STATIC_SHARED + launch.dynamic_shared);
    start_threads();
    current = this;
    if (sigsetjmp(rescue, 1) == 0) {
        resume(next(), &main_);
    } else {
        error_ = fault;
    }
    // Threads of a block that failed are left where they are: their stacks are used anew.
    current = nullptr;
    error = error_;
    return error_.empty();
}

// The next thread to run, or -1 if there is none.
int Block::next() {
    if (!warps_) return -1;
    uint32_t schedule = grid_->launch.schedule;
    int warp = pick(warps_, schedule, random_);
    int lane = pick(ready_[warp], schedule, random_);
    ready_[warp] &= ~(1u << lane);
    if (!ready_[warp]) warps_ &= ~(1u << warp);
    return warp * 32 + lane;
}

void Block::wake(uint32_t thread) {
    threads_[thread].wait = Wait::Ready;
    ready_[thread / 32] |= 1u << thread % 32;
    warps_ |= 1u << thread / 32;
}

void Block::resume(int thread, void **save) {
    running_ = uint32_t(thread);
    builtins.thread = threads_[thread].index;
    simt_switch(save, threads_[thread].stack);
}

// The running thread waits. Comes back when it has been woken and is next.
void Block::pause() {
    Thread &me = threads_[running_];
    int thread = next();
    if (thread < 0) deadlock("deadlock: no thread can go on");
    if (uint32_t(thread) != running_) resume(thread, &me.stack);
}

void Block::entry() {
    Block &block = *current;
    block.grid_->kernel->call(const_cast<void **>(block.grid_->args.data()));
    block.returned();
}

void Block::returned() {
    threads_[running_].wait = Wait::Returned;
    gone_++;
    if (arrived_ && arrived_ + gone_ == count_) release_barrier();
    int thread = next();
    void *abandoned;
    if (thread >= 0) resume(thread, &abandoned);
    if (gone_ < count_) deadlock("deadlock: no thread can go on");
    simt_switch(&abandoned, main_);
}

int Block::barrier(Vote vote, int predicate, Site site) {
    Thread &me = threads_[running_];
    if (arrived_) {
        for (uint32_t t = 0; t < count_; t++) {
            const Thread &other = threads_[t];
            if (other.wait != Wait::Barrier) continue;
            if (other.site == site && other.vote == vote) break;
            me.wait = Wait::Barrier;
            me.site = site;
            deadlock("divergent barrier: threads of the block wait at different ones");
        }
    }
    votes_ += predicate != 0;
    me.vote = vote;
    me.wait = Wait::Barrier;
    me.site = site;
    if (++arrived_ + gone_ == count_) release_barrier();
    pause();
    return result_;
}

void Block::release_barrier() {
    Vote vote = Vote::None;
    for (uint32_t t = 0; t < count_; t++) {
        if (threads_[t].wait != Wait::Barrier) continue;
        vote = threads_[t].vote;
        wake(t);
    }
    result_ = vote == Vote::Or    ? votes_ != 0
              : vote == Vote::And ? votes_ == int(arrived_)
                                  : votes_;
    arrived_ = 0;
    votes_ = 0;
}

void Block::collective(uint32_t mask, const Collective &kind, void *arg, Site site) {
    uint32_t lane = running_ % 32, first = running_ - lane;
    Thread &me = threads_[running_];
    me.kind = &kind;
    me.mask = mask;
    me.arg = arg;
    me.wait = Wait::Warp;
    me.site = site;
    if (!(mask >> lane & 1)) {
        deadlock("a lane that its own mask does not name");
    }
    uint32_t there = 0;
    void *args[32] = {};
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        uint32_t other = uint32_t(__builtin_ctz(rest)), t = first + other;
        // Lanes beyond a block that is no multiple of 32 do not exist, as if they had returned.
        if (t >= count_ || threads_[t].wait == Wait::Returned) {
            deadlock(t >= count_ ? "a mask that names a lane which does not exist"
                                 : "a mask that names a lane which has returned");
        }
        const Thread &thread = threads_[t];
        if (thread.wait != Wait::Warp) continue;
        if (thread.mask != mask || thread.kind != &kind) {
            deadlock("lanes of one mask meet in different collectives");
        }
        there |= 1u << other;
        args[other] = thread.arg;
    }
    if (there == mask) {
        kind.run(args, mask);
        for (uint32_t rest = mask; rest; rest &= rest - 1) {
            wake(first + uint32_t(__builtin_ctz(rest)));
        }
    }
    pause();
}

void *Block::static_shared(size_t bytes) {
    uint32_t &top = threads_[running_].shared;
    void *p = shared_ + top;
    top += uint32_t((bytes + 15) & ~size_t(15));
    if (top > MAX_STATIC_SHARED) {
        fail(format("more than %zu bytes of static shared memory", MAX_STATIC_SHARED));
    }
    return p;
}

std::string Block::self() const {
    return format("thread %u of block (%u, %u, %u)", running_, index_.x, index_.y, index_.z);
}

// Threads by what they wait for and where, a line each.
std::string Block::dump() const {
    std::map<std::string, std::vector<uint32_t>> groups;
    for (uint32_t t = 0; t < count_; t++) {
        const Thread &thread = threads_[t];
        switch (thread.wait) {
        case Wait::Ready:
            groups["can run"].push_back(t);
            break;
        case Wait::Barrier:
            groups["at a barrier of the block, " + at(thread.site)].push_back(t);
            break;
        case Wait::Warp:
            groups[format("in %s with mask %08x, %s", thread.kind->name, thread.mask,
                          at(thread.site).c_str())]
                .push_back(t);
            break;
        case Wait::Returned:
            groups["have returned"].push_back(t);
            break;
        }
    }
    std::string text;
    for (const auto &[where, threads] : groups) {
        text += format("\n  threads %s: %s", ranges(threads).c_str(), where.c_str());
    }
    return text;
}

void Block::deadlock(const char *what) {
    fail(format("block (%u, %u, %u): %s%s", index_.x, index_.y, index_.z, what, dump().c_str()));
}

// Leaves all fibers where they are.
void Block::fail(const std::string &what) {
    error_ = format("%s in %s, ", grid_->kernel->name, short_name(grid_->kernel->file)) + what;
    void *abandoned;
    simt_switch(&abandoned, main_);
    __builtin_unreachable();
}

// ---- what kernels call ----

void *shared(size_t bytes) {
    return current->static_shared(bytes);
}

void *dynamic_shared() {
    return current->dynamic_shared();
}

int block_barrier(Vote vote, int predicate, Site site) {
    return current->barrier(vote, predicate, site);
}

void warp_collective(uint32_t mask, const Collective &kind, void *arg, Site site) {
    current->collective(mask, kind, arg, site);
}

void fail(const char *what, Site site) {
    current->fail(current->self() + ": " + what + " at " + at(site));
}

}  // namespace simt
