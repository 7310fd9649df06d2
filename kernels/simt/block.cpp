// How a block runs.
//
// A block runs from beginning to end on one OS thread (its Core), and each of its CUDA threads on a
// fiber, which has a stack of its own. One of them runs at a time, until it returns or comes to a
// barrier or a warp collective at which others are missing. Then it saves a few registers on its
// stack, `choose` picks another that is ready, and the CPU goes on with that one's stack and
// registers; no scheduler is in between (fiber.cpp). Between two such points a thread is plain
// compiled code.
//
//   the block   Thread[1024]: where each waits, and at what. Warp[32]: sets of lanes as bit masks.
//   ready       may run. At first all are ready and *fresh*: they get a stack when they are chosen.
//               A thread that returns hands its stack to the next if that one is fresh, so a kernel
//               without barriers runs all of its threads on one stack, by a loop (`enter`).
//   meeting     waits in a warp collective. Whoever makes it complete runs the operation for all
//               lanes, whose arguments lie on their stacks, and makes them ready.
//   waiting     waits at an mbarrier, until its phase is complete (engines.h).
//   converging  waits for the others of its warp: when none of them is ready, those that wait at
//               the same place go on together (`gather`). That is what is active on a GPU.
//   at barrier  none of these, and not the one that runs. When as many have
//               arrived as have not returned, all are made ready.
//   gone        has returned. From then on nobody waits for it, as on hardware since Volta.
//
// Schedules. The next thread is the lowest ready lane of the present warp, and when it has none, of
// the lowest warp; or the highest; or any lane of any warp, at random. After a barrier the choice
// starts anew. All are legal orders, so a kernel that is right gives the same results under all.
//
// Rules. Lanes meet if they name the same mask at the same operation at the same source line, and
// complete it when all lanes of the mask that are not gone are there. Threads meet at a barrier if
// it is the same line. This is a bit stricter than hardware, which may let different lines meet.
// When no thread is ready and some have not returned, they wait for one another for ever: that is
// noticed at once, and reported with everybody's place (report.cpp).
//
// Errors. `fail` stores a message and switches to `run_block`, which was left when the block began.
// A signal does the same through the interrupted context (fault.cpp). Fibers are just forgotten.
//
// Memory. Shared memory is the core's, filled with 0xFF bytes (a NaN for every float format, -1 for
// every int) before each block, so that what a kernel does not initialise shows. A SHARED variable
// gets its offset when the first thread of a launch passes its declaration. Dynamic memory ends at
// a guard page. Built-in variables (threadIdx, ...) are thread-local words that `choose` rewrites.
#include "check.h"
#include "core.h"
#include "profile.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

__thread uint32_t simt_position[16] = {};
// Its parts by names of their own, for kernels/cuda/cuda_runtime.h.
#define PART(name, offset)                                                   \
    __asm__(".globl " name "\n.type " name ", @tls_object\n.set " name \
            ", simt_position + " offset)
PART("simt_block_index", "16");
PART("simt_block_dim", "32");
PART("simt_grid_dim", "48");
#undef PART

namespace simt {

__thread Core *current = nullptr;

namespace {

__extension__ using Wide = unsigned __int128;

constexpr size_t PAGE = 4 << 10;
// The dynamic part's place is as large as the whole limit, in pages.
constexpr size_t ARENA = STATIC_SHARED_ROOM + (SHARED_LIMIT + PAGE - 1) / PAGE * PAGE;
static_assert(ARENA % PAGE == 0, "the guard page starts at its end");

bool same_place(const Thread &a, const Thread &b) {
    return a.kind == b.kind && a.line == b.line && a.mask == b.mask &&
           (a.file == b.file || strcmp(a.file, b.file) == 0);
}

}  // namespace

uint64_t Job::block(uint64_t turn) const {
    switch (launch.schedule) {
    case SIMT_LOW_FIRST:
        return turn;
    case SIMT_HIGH_FIRST:
        return blocks - 1 - turn;
    default:  // a permutation: the factor is a prime, and larger than any number of blocks
        return uint64_t((Wide(turn) * 0xffffffffffffffc5 + launch.seed) % blocks);
    }
}

void Job::fail(uint64_t turn, const Message &message) {
    std::lock_guard<std::mutex> lock(mutex);
    failed.store(true, std::memory_order_relaxed);
    // Turns are taken in order and begun blocks run to their end, so the lowest turn that fails is
    // the same one however many OS threads there are.
    if (turn < error_turn) {
        error_turn = turn;
        error.assign(message.text, message.length);
    }
    woken.notify_all();
}

Core::Core(bool guarded) : stacks_(guarded) {
    void *p = mmap(nullptr, ARENA + PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        throw std::bad_alloc();
    arena_ = static_cast<unsigned char *>(p);
    dynamic_ = arena_ + ARENA;
    // Without the guard it works as well.
    mprotect(dynamic_, PAGE, PROT_NONE);
    static_used_ = STATIC_SHARED_ROOM;  // not poisoned yet
    // The first thread of a block always finds a stack.
    const int stack = stacks_.take();
    if (stack < 0)
        throw std::bad_alloc();
    stacks_.give(stack);
}

Core::~Core() {
    munmap(arena_, ARENA + PAGE);
}

void Core::run(Job &job) {
    take(job);
    while (!job.failed.load(std::memory_order_relaxed)) {
        const uint64_t turn = job.next.fetch_add(1, std::memory_order_relaxed);
        if (turn >= job.blocks || (profile_ && profile_->enough()))
            break;
        run_block(profile_ ? profile_->block(turn) : job.block(turn));
        end(turn);
        if (job.together)
            job.end_block();
    }
    current = nullptr;
}

bool Core::start(Job &job, uint64_t turn) {
    take(job);
    turn_ = turn;
    run_block(profile_ ? profile_->block(turn) : job.block(turn));
    if (!waiting_)
        end(turn);
    return waiting_;
}

bool Core::go_on(Job::Meeting meeting) {
    met_ = meeting;
    void *const sp = waiting_;
    waiting_ = nullptr;
    current = this;
    be_at(number_);
    proceed(sp);
    if (!waiting_)
        end(turn_);
    return waiting_;
}

// A block has ended.
void Core::end(uint64_t turn) {
    if (error_.length > 0)
        job_->fail(turn, error_);
    if (error_.length > 0 || !complete())
        stacks_.reclaim();
    error_.length = 0;
}

void Core::take(Job &job) {
    job_ = &job;
    lay_out();
    memcpy(simt_position + 8, job.launch.block, sizeof job.launch.block);
    memcpy(simt_position + 12, job.launch.grid, sizeof job.launch.grid);
    dynamic_ = arena_ + ARENA - (job.launch.dynamic_shared + size_t(15)) / 16 * 16;
    memset(arena_, 0xff, static_used_);
    static_used_ = 0;
    current = this;
    check_ = job.check;
    profile_ = job.profile;
}

// Gives the threads their threadIdx.
void Core::lay_out() {
    const uint32_t(&shape)[3] = job_->launch.block;
    if (memcmp(laid_out_, shape, sizeof shape) == 0)
        return;
    memcpy(laid_out_, shape, sizeof shape);
    uint32_t i = 0;
    for (uint32_t z = 0; z < shape[2]; z++)
        for (uint32_t y = 0; y < shape[1]; y++)
            for (uint32_t x = 0; x < shape[0]; x++) {
                uint32_t *index = threads_[i++].index;
                index[0] = x, index[1] = y, index[2] = z;
            }
}

// Gives the block its blockIdx.
void Core::be_at(uint64_t number) {
    const uint32_t(&grid)[3] = job_->launch.grid;
    number_ = number;
    simt_position[4] = uint32_t(number % grid[0]);
    simt_position[5] = uint32_t(number / grid[0] % grid[1]);
    simt_position[6] = uint32_t(number / grid[0] / grid[1]);
}

void Core::run_block(uint64_t number) {
    const SimtLaunch &launch = job_->launch;
    be_at(number);
    memset(arena_, 0xff, static_used_);
    memset(dynamic_, 0xff, launch.dynamic_shared);

    const uint32_t threads = job_->threads, warps = (threads + 31) / 32;
    ready_warps_ = 0;
    for (uint32_t w = 0; w < warps; w++) {
        const uint32_t lanes = ~0u >> (32 - std::min(threads - w * 32, 32u));
        warps_[w] = {0, lanes, 0, 0, ~lanes, 0};
        make_ready(w, lanes);
    }
    if (copied_)
        for (uint32_t i = 0; i < threads; i++)
            copies_[i].forget();
    copied_ = false;
    forget_engines();
    gone_ = arrived_ = 0;
    mixed_ = false;
    votes_ = 0;
    // Odd, because 0 would stay 0.
    random_ = (launch.seed * 0x9e3779b97f4a7c15 + number) * 0xbf58476d1ce4e5b9 | 1;

    const Range arena = {uintptr_t(arena_), ARENA + PAGE};
    if (check_)
        check_->begin_block(number, arena, {uintptr_t(dynamic_), launch.dynamic_shared});
    if (profile_)
        profile_->begin_block(arena);

    warp_ = 0;
    choose(true);
    proceed(stack_of_running());
}

// Runs the block on from there.
void Core::proceed(void *sp) {
    inside_ = true;
    watch(true);
    simt_switch(&main_, sp);
    // Here again by `leave`, by `abandon`, by a signal or by `give_way`.
    watch(false);
    inside_ = false;
    if (waiting_)
        return;
    if (profile_)
        profile_->end_block();
    if (signal_ != 0) {
        blame_for_signal();
        signal_ = 0;
    }
}

void Core::make_ready(uint32_t warp, uint32_t lanes) {
    warps_[warp].ready |= lanes;
    ready_warps_ |= uint32_t(lanes != 0) << warp;
}

// xorshift64*
uint64_t Core::draw() {
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return random_ * 0x2545f4914f6cdd1d;
}

int Core::pick(uint32_t set) {
    switch (job_->launch.schedule) {
    case SIMT_LOW_FIRST:
        return __builtin_ctz(set);
    case SIMT_HIGH_FIRST:
        return 31 - __builtin_clz(set);
    default: {  // the first member from a random place on
        const uint32_t from = uint32_t(draw() >> 59);
        const uint32_t turned = set >> from | set << (-from & 31);
        return int((uint32_t(__builtin_ctz(turned)) + from) & 31);
    }
    }
}

// Makes a ready thread the running one. It stays in the warp if it can, unless a choice `anew` is
// wanted.
void Core::choose(bool anew) {
    gather();
    if (anew || warps_[warp_].ready == 0 || job_->launch.schedule == SIMT_RANDOM) {
        land_boxes();
        if (ready_warps_ == 0)
            diverged();
        warp_ = uint32_t(pick(ready_warps_));
    }
    Warp &warp = warps_[warp_];
    const int lane = pick(warp.ready);
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0)
        ready_warps_ &= ~(1u << warp_);
    running_ = &threads_[warp_ * 32 + uint32_t(lane)];
    memcpy(simt_position, running_->index, sizeof running_->index);
}

// Where the running thread goes on.
void *Core::stack_of_running() {
    if ((warps_[warp_].fresh >> (running() % 32) & 1) == 0)
        return running_->sp;
    running_->stack = stacks_.take();
    if (running_->stack < 0)
        fail(-1, "no memory for the threads' stacks");
    return stacks_.fresh(running_->stack, enter);
}

// Where a fresh stack begins: runs one thread after the other.
void Core::enter() {
    Core &core = *current;
    for (;;) {
        core.warps_[core.warp_].fresh &= ~(1u << (core.running() % 32));
        core.running_->kind = nullptr;
        core.job_->kernel->call(core.job_->args);
        core.leave();
    }
}

// The running thread has returned. Comes back if another shall be run on its stack.
void Core::leave() {
    const int stack = running_->stack;
    Warp &warp = warps_[warp_];
    warp.gone |= 1u << (running() % 32);
    gone_++;
    if (profile_ && warp.gone == ~0u)
        profile_->end_warp(warp_);
    if (gone_ == job_->threads) {
        if (!boxes_.empty())
            fail(running(), "returned as the block's last thread while a tma_load of %s:%d was "
                            "under way", boxes_[0].file, boxes_[0].line);
        stacks_.give(stack);
        simt_resume(main_);
    }
    // Nobody waits for it any more, which may have been all that others waited for.
    for (uint32_t lanes = warp.meeting; lanes != 0; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        if (warp.meeting >> lane & 1)
            meet(threads_[warp_ * 32 + uint32_t(lane)]);
    }
    const bool last = arrived_ > 0 && arrived_ + gone_ == job_->threads;
    if (last)
        release();
    choose(last);
    if (warps_[warp_].fresh >> (running() % 32) & 1) {
        running_->stack = stack;
        return;
    }
    stacks_.give(stack);
    simt_resume(running_->sp);
}

void *Core::collective(uint32_t mask, const Collective *kind, void *arg, int line,
                       const char *file, void *sp) {
    Thread &self = *running_;
    const uint32_t lane = 1u << (running() % 32);
    self.sp = sp;
    self.kind = kind;
    self.arg = arg;
    self.file = file;
    self.mask = mask;
    self.line = line;
    if ((mask & lane) == 0)
        fail(running(), "%s at %s:%d: its own lane, %d, is not in the mask 0x%08x", kind->name,
             file, line, running() % 32, mask);
    warps_[warp_].meeting |= lane;
    meet(self);
    choose(false);
    return stack_of_running();
}

// Has the compiler's hooks heed what the running thread does, or not.
void Core::watch(bool on) {
    watching = on ? check_ : nullptr;
    profiling = on ? profile_ : nullptr;
}

// If all that this thread of the present warp waits for are there, runs the operation.
void Core::meet(const Thread &like) {
    Warp &warp = warps_[warp_];
    const uint32_t needed = like.mask & ~warp.gone;
    if ((warp.meeting & needed) != needed)
        return;
    Lanes lanes;
    lanes.mask = needed;
    for (uint32_t rest = needed; rest != 0; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        const Thread &thread = threads_[lane(i)];
        if (!same_place(thread, like))
            return;
        lanes.arg[i] = thread.arg;
    }
    warp.meeting &= ~needed;
    complete(like, lanes);
}

// If lanes of the present warp wait for no other to be ready, those at one place go on.
void Core::gather() {
    Warp &warp = warps_[warp_];
    if (warp.converging == 0 || warp.ready != 0)
        return;
    const Thread &like = threads_[lane(__builtin_ctz(warp.converging))];
    Lanes lanes;
    lanes.mask = 0;
    for (uint32_t rest = warp.converging; rest != 0; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        const Thread &thread = threads_[lane(i)];
        if (!same_place(thread, like))
            continue;
        lanes.mask |= 1u << i;
        lanes.arg[i] = thread.arg;
    }
    warp.converging &= ~lanes.mask;
    complete(like, lanes);
}

// Runs the operation of lanes of the present warp, which are ready then.
void Core::complete(const Thread &like, const Lanes &lanes) {
    const bool whole = lanes.mask == ~warps_[warp_].gone;
    watch(false);  // what it accesses is not a thread's doing
    like.kind->run(lanes);
    watch(true);
    if (check_ && like.kind->orders)
        check_->order(warp_, lanes.mask, whole);
    if (profile_)
        profile_->collective(warp_, *like.kind, whole, uintptr_t(site_of(like.sp)));
    make_ready(warp_, lanes.mask);
}

void *Core::converge(const Collective *kind, void *arg, int line, const char *file, void *sp) {
    Thread &self = *running_;
    self.sp = sp;
    self.kind = kind;
    self.arg = arg;
    self.file = file;
    self.mask = 0;
    self.line = line;
    warps_[warp_].converging |= 1u << (running() % 32);
    choose(false);
    return stack_of_running();
}

void *Core::barrier(const Collective *kind, bool vote, int line, const char *file, void *sp) {
    Thread &self = *running_;
    self.sp = sp;
    self.kind = kind;
    self.file = file;
    self.mask = 0;
    self.line = line;
    if (arrived_ == 0)
        first_ = &self;
    else if (!same_place(self, *first_))
        mixed_ = true;
    arrived_++;
    votes_ += vote;
    const bool last = arrived_ + gone_ == job_->threads;
    if (last)
        release();
    choose(last);
    return stack_of_running();
}

// Everybody is at the barrier or gone.
void Core::release() {
    if (mixed_)
        diverged();
    if (check_)
        check_->barrier();
    if (profile_)
        profile_->barrier(site_of(first_->sp));
    if (first_->kind == &GRID_BARRIER && job_->together)
        meet_blocks();
    counted_ = votes_;
    votes_ = 0;
    arrived_ = 0;
    for (uint32_t w = 0; w * 32 < job_->threads; w++)
        make_ready(w, ~warps_[w].gone);
}

// Others have their turns, until all wait for one another.
Job::Meeting Core::give_way() {
    if (check_)
        check_->pause(number_);
    if (profile_)
        profile_->pause();
    simt_switch(&waiting_, main_);
    if (check_)
        check_->resume(number_);
    if (profile_)
        profile_->resume({uintptr_t(arena_), ARENA + PAGE});
    return met_;
}

void Core::check(int lane, const void *p, size_t size, bool write) {
    const uintptr_t site = site_of(threads_[this->lane(lane)].sp);
    const uint32_t how = write ? SIMT_WRITE : SIMT_READ;
    if (check_)
        check_->access(uintptr_t(p), size, how, this->lane(lane), site);
    if (profile_)
        profile_->access(uintptr_t(p), size, how, this->lane(lane), site);
}

void Core::abandon() {
    simt_resume(main_);
}

}  // namespace simt

// The rest of simt_block_barrier, simt_warp_collective and simt_converge, after they have saved the
// fiber's state (fiber.cpp).

extern "C" void *simt_arrive_at_barrier(const simt::Collective *kind, bool vote, int line,
                                        const char *file, void *sp) {
    return simt::current->barrier(kind, vote, line, file, sp);
}

extern "C" void *simt_arrive_at_collective(uint32_t mask, const simt::Collective *kind, void *arg,
                                           int line, const char *file, void *sp) {
    return simt::current->collective(mask, kind, arg, line, file, sp);
}

extern "C" void *simt_arrive_at_convergence(const simt::Collective *kind, void *arg, int line,
                                            const char *file, void *sp) {
    return simt::current->converge(kind, arg, line, file, sp);
}

int simt_block_votes() {
    return simt::current->votes();
}

void simt_check(int lane, const void *p, size_t size, bool write) {
    simt::current->check(lane, p, size, write);
}
