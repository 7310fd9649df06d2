#include "check.h"

#include "core.h"
#include "image.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

namespace simt {

__thread SimtChecker *watching = nullptr;

namespace {

constexpr size_t RED_ZONE = 256;
constexpr size_t MAX_FINDINGS = 256;

size_t rounded(size_t size, size_t unit) {
    return (size + unit - 1) / unit * unit;
}

// Constants of the program, its tables of pointers among them.
bool is_constant(uintptr_t a) {
    const auto holds = [](dl_phdr_info *info, size_t, void *address) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto &part = info->dlpi_phdr[i];
            const bool fixed = (part.p_type == PT_LOAD && (part.p_flags & PF_W) == 0) ||
                               part.p_type == PT_GNU_RELRO;
            const Range range = {info->dlpi_addr + part.p_vaddr, part.p_memsz};
            if (fixed && range.holds(*static_cast<const uintptr_t *>(address)))
                return 1;
        }
        return 0;
    };
    return dl_iterate_phdr(holds, &a) != 0;
}

// Variables of a program of one's own: its device variables are among them.
bool in_library(uintptr_t a) {
    Dl_info image;
    return library_start != 0 && dladdr(reinterpret_cast<void *>(a), &image) != 0 &&
           uintptr_t(image.dli_fbase) == library_start;
}

}  // namespace

Shadow::Shadow(size_t size)
    : size_(size), states_(reserve<uint8_t>(size)), split_(reserve<uint8_t>(size / 4)),
      words_(reserve<Cell>(size / 4)), bytes_(reserve<Cell>(size)) {}

Shadow::~Shadow() {
    munmap(states_, size_);
    munmap(split_, size_ / 4);
    munmap(words_, size_ / 4 * sizeof(Cell));
    munmap(bytes_, size_ * sizeof(Cell));
}

void Shadow::swap(Shadow &other) {
    std::swap(range, other.range);
    std::swap(size_, other.size_);
    std::swap(states_, other.states_);
    std::swap(split_, other.split_);
    std::swap(words_, other.words_);
    std::swap(bytes_, other.bytes_);
}

void Shadow::join() {
    memset(split_, 0, range.size / 4);
}

}  // namespace simt

using namespace simt;

SimtChecker::SimtChecker(size_t capacity)
    : heap_{0, rounded(capacity, 4096)}, memory_(heap_.size), shared_(SHARED_ROOM) {
    heap_.low = uintptr_t(reserve<char>(heap_.size));
    memory_.range = heap_;
    catch_faults();
}

SimtChecker::~SimtChecker() {
    munmap(reinterpret_cast<void *>(heap_.low), heap_.size);
}

void *SimtChecker::alloc(size_t bytes, size_t align) {
    const size_t start = rounded(used_ + RED_ZONE, align);
    if (bytes > heap_.size || start + rounded(bytes, align) + RED_ZONE > heap_.size)
        return nullptr;
    used_ = start + rounded(bytes, align);
    allocations_.push_back({heap_.low + start, bytes});
    memset(memory_.state(heap_.low + start), DEFINED, bytes);  // as zeros
    return reinterpret_cast<void *>(heap_.low + start);
}

void SimtChecker::share(uintptr_t a, size_t n) {
    guests_[a] = n;
}

bool SimtChecker::is_guest(uintptr_t a, size_t n) const {
    auto after = guests_.upper_bound(a);
    if (after == guests_.begin())
        return false;
    --after;
    return a - after->first < after->second && n <= after->second - (a - after->first);
}

void SimtChecker::scratch(void *allocation, size_t bytes) {
    for (const Allocation &a : allocations_)
        if (a.start == uintptr_t(allocation)) {
            uint8_t *state = memory_.state(a.start);
            bytes = std::min(bytes, a.size);
            memset(state, UNDEFINED, bytes);
            memset(state + bytes, ABSENT, a.size - bytes);
            memset(allocation, 0xff, a.size);
        }
}

void SimtChecker::define(uintptr_t a, size_t n) {
    memset(memory_.state(a), DEFINED, n);
}

void SimtChecker::carry(uintptr_t to, uintptr_t from, size_t n) {
    if (memory_.range.holds(from))
        memmove(memory_.state(to), memory_.state(from), n);
    else
        define(to, n);
}

bool SimtChecker::written(uintptr_t a, size_t n) {
    return !memory_.range.holds(a) || memchr(memory_.state(a), DEFINED, n);
}

void SimtChecker::free(uintptr_t allocation) {
    const auto is_it = [=](const Allocation &a) { return a.start == allocation; };
    const auto found = std::find_if(allocations_.begin(), allocations_.end(), is_it);
    if (found == allocations_.end())
        return;
    memset(memory_.state(found->start), ABSENT, found->size);
    allocations_.erase(found);
}

void SimtChecker::run(Job &job) {
    begin(job);
    if (job.together)
        run_in_turns(job);
    else
        run_alone(job);
    add_guesses();
    asides_.clear();
    job_ = nullptr;
}

void SimtChecker::begin(const Job &job) {
    for (const Variable &v : variables_)
        memset(shared_.state(shared_.range.low + v.offset), ABSENT, v.size);
    if (dynamic_.size > 0)
        memset(shared_.state(dynamic_.low), ABSENT, dynamic_.size);
    variables_.clear();
    placed_ = 0;
    dynamic_ = {};
    job_ = &job;
    blocks_.clear();
    met();
}

// What has happened is over for all blocks.
void SimtChecker::met() {
    launch_ = now_ + 1;
    words_.clear();
}

void SimtChecker::begin_turn(uint64_t number) {
    add_guesses();
    block_ = ++now_;
    blocks_.push_back({now_, number});
    known_.clear();
    common_ = {};
    fenced_.clear();
    fenced_by_all_ = {};
}

void SimtChecker::pause(uint64_t number) {
    Aside &aside = asides_[number];
    shared_.swap(aside.shared);
    aside.dynamic = dynamic_;
    aside.meetings.swap(meetings_);
    aside.fetches.swap(fetches_);
}

void SimtChecker::resume(uint64_t number) {
    begin_turn(number);
    Aside &aside = asides_[number];
    shared_.swap(aside.shared);
    dynamic_ = aside.dynamic;
    meetings_.swap(aside.meetings);
    fetches_.swap(aside.fetches);
}

void SimtChecker::begin_block(uint64_t number, Range arena, Range dynamic) {
    begin_turn(number);
    shared_.range = arena;
    dynamic_ = dynamic;
    meetings_.clear();
    fetches_.clear();
    shared_.join();
    for (const Variable &v : variables_)
        memset(shared_.state(shared_.range.low + v.offset), UNDEFINED, v.size);
    memset(shared_.state(dynamic_.low), UNDEFINED, dynamic_.size);
}

size_t SimtChecker::place(SharedVariable &variable, size_t size, size_t unit, size_t &declared) {
    for (const Variable &v : variables_)
        if (v.variable == &variable)
            return v.offset;
    declared = rounded(declared, unit) + size;
    const size_t offset = rounded(placed_ + RED_ZONE, unit);
    if (offset + size <= STATIC_SHARED_ROOM) {
        variables_.push_back({&variable, offset, size});
        placed_ = offset + size;
        memset(shared_.state(shared_.range.low + offset), UNDEFINED, size);
        // Blocks that wait have it, too.
        for (auto &[_, aside] : asides_)
            memset(aside.shared.state(aside.shared.range.low + offset), UNDEFINED, size);
    }
    return offset;
}

// Whether nothing has ordered the access before mine.
bool SimtChecker::is_stranger(const Past &past, const Me &me) const {
    if (past.epoch < me.first)
        return false;
    if (past.epoch >= block_ && past.barrier == 0 &&
        (past.epoch < now_ || past.thread == me.thread ||
         (past.thread / 32 == me.thread / 32 &&
          me.clocks.knows(me.thread % 32, past.thread % 32, past.time))))
        return false;
    return !has_learnt(past, me.thread);
}

inline uint32_t SimtChecker::strangers(const Crowd &crowd, const Me &me) const {
    Past past = crowd.last;
    uint32_t found = 0;
    if (past.epoch < me.first || (past.epoch >= block_ && past.epoch < now_))
        return found;
    for (uint32_t rest = crowd.lanes; rest != 0; rest &= rest - 1) {
        past.thread = uint16_t(crowd.last.thread / 32 * 32 + __builtin_ctz(rest));
        if (is_stranger(past, me))
            found |= rest & -rest;
    }
    return found;
}

// `in_turn`: each of them comes after the others, as atomic accesses do.
inline bool SimtChecker::clash(const Crowd &crowd, bool in_turn, const Me &me, Past &other) const {
    other = crowd.last;
    if (const uint32_t lanes = strangers(crowd, me)) {
        const auto is_one = [&](const Past &past) {
            return past.epoch == other.epoch && past.thread / 32 == other.thread / 32 &&
                   (lanes >> past.thread % 32 & 1);
        };
        if (!is_one(other) && is_one(crowd.other))
            other = crowd.other;
        else if (!is_one(other))
            other.thread = uint16_t(other.thread / 32 * 32 + __builtin_ctz(lanes));
        return true;
    }
    // Who comes after the last comes after those of all other blocks.
    if (in_turn && crowd.last.epoch >= me.first && crowd.other.epoch < block_)
        return false;
    other = crowd.other;
    return is_stranger(other, me);
}

inline int SimtChecker::clash(const Cell &cell, const Me &me, Past &other) const {
    if (is_stranger(cell.write, me)) {
        other = cell.write;
        return other.copies ? SIMT_COPIES : SIMT_WRITE;
    }
    if (me.how != SIMT_READ && clash(cell.reads, false, me, other))
        return SIMT_READ;
    if (me.how != SIMT_ATOMIC && clash(cell.atomics, true, me, other))
        return SIMT_ATOMIC;
    return -1;
}

inline void SimtChecker::join(Crowd &crowd, const Me &me) const {
    const uint32_t lane = 1u << (me.thread % 32);
    Past &last = crowd.last, &other = crowd.other;
    if (last.epoch == now_ && last.thread / 32 == me.thread / 32) {
        if (last.time != me.past.time)
            for (uint32_t rest = crowd.lanes; rest != 0; rest &= rest - 1)
                if (me.clocks.knows(me.thread % 32, __builtin_ctz(rest), last.time))
                    crowd.lanes &= ~(rest & -rest);
        if (last.thread != me.thread && !is_stranger(other, me))
            other = last;
        // One time for all lanes: where it says too little of one, nothing false is found.
        const bool again = crowd.lanes & lane;
        if ((crowd.lanes & ~lane) != 0 && (!again || last.time == me.past.time)) {
            const uint32_t earliest = last.time;
            last = me.past;
            last.time = earliest;
            crowd.lanes |= lane;
            return;
        }
    } else if (is_stranger(last, me) &&
               (last.epoch < block_ || other.epoch >= block_ || !is_stranger(other, me))) {
        other = last;
    }
    last = me.past;
    crowd.lanes = lane;
}

Past SimtChecker::past(uint32_t how, int thread, uintptr_t code) const {
    return {now_, uint32_t(site_of(code)), clocks_[thread / 32].time, uint16_t(thread),
            how == SIMT_COPIES, 0};
}

// Whether it is a mistake to read bytes of which nothing has written some. A struct is copied with its
// padding, which nobody writes: of a word, and of more than 16 bytes, at least one must be written; of up
// to 16 bytes, which may be a vector, one of each word.
static bool is_unwritten(const uint8_t *state, size_t n) {
    static const uint8_t NOTHING[4] = {UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED};
    if (n < 4)
        return true;
    size_t missing = 0;
    for (size_t i = 0; i + 4 <= n; i += 4)
        missing += memcmp(state + i, NOTHING, 4) == 0;
    return n <= 16 ? missing > 0 : missing == n / 4;
}

void SimtChecker::access(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code,
                         const Unit *unit) {
    const bool is_shared = shared_.range.holds(a);
    Shadow &shadow = is_shared ? shared_ : memory_;
    if (!shadow.range.holds(a) || n > shadow.range.size - (a - shadow.range.low)) {
        const bool built_in = a - uintptr_t(simt_position) < sizeof simt_position;
        if ((how == SIMT_READ && (built_in || is_constant(a))) || in_library(a) ||
            is_guest(a, n)) {
            // A program's variables are not watched, but what they order is heeded.
            if (how == SIMT_ATOMIC)
                atomic(a, thread);
            return;
        }
        out_of_bounds(a, n, how, thread, code);
    }
    uint8_t *state = shadow.state(a);
    // Nearly always.
    static const uint8_t DEFINED_16[16] = {DEFINED, DEFINED, DEFINED, DEFINED, DEFINED, DEFINED,
                                           DEFINED, DEFINED, DEFINED, DEFINED, DEFINED, DEFINED,
                                           DEFINED, DEFINED, DEFINED, DEFINED};
    uint32_t seen = 0;
    if ((n == 4 && memcmp(state, DEFINED_16, 4) == 0) ||
        (n == 16 && memcmp(state, DEFINED_16, 16) == 0))
        seen = 1u << DEFINED;
    else
        for (size_t i = 0; i < n; i++)
            seen |= 1u << state[i];
    if (seen & 1u << ABSENT)
        out_of_bounds(a, n, how, thread, code);
    const bool writes = how == SIMT_WRITE || how == SIMT_COPIES;
    if (!writes && (seen & 1u << UNDEFINED) && is_unwritten(state, n)) {
        SimtFinding finding = {SIMT_UNINITIALISED, 1, {}, job_->kernel, 0, {}};
        finding.act[0] = act(how, now_, thread, site_of(code));
        describe(a, n, finding.what);
        add(finding);
    }

    const Clocks &clocks = clocks_[thread / 32];
    Me me = {how, thread, is_shared ? block_ : launch_, clocks, past(how, thread, code)};
    if (unit && unit->barrier != 0)
        me.past.barrier = unit->barrier, me.past.time = unit->phase;
    const bool flying = seen & 1u << FLYING;
    int did = -1;  // by the other
    Past other;
    shadow.each(a, n, [&](Cell &cell) {
        if (did < 0 && flying) {
            did = cell.write.copies ? SIMT_COPIES : -1;
            other = cell.write;
        } else if (did < 0) {
            did = clash(cell, me, other);
        }
        if (how == SIMT_READ) {
            if (!unit)
                join(cell.reads, me);
        } else if (how == SIMT_ATOMIC) {
            join(cell.atomics, me);
        } else if (!flying) {
            cell.write = me.past;
        }
    });
    Past fetched;
    if (how != SIMT_READ && is_shared && !fetches_.empty() && overwrite(a, n, me, fetched) &&
        did < 0) {
        did = SIMT_READ;
        other = fetched;
    }
    if (did >= 0) {
        const bool early = flying || (did == SIMT_COPIES && other.barrier != 0);
        SimtFinding finding = {early ? SIMT_COPY : SIMT_RACE, 2, {}, job_->kernel, 0, {}};
        finding.act[0] = act(how, now_, thread, site_of(code));
        finding.act[1] = act(uint32_t(did), other.epoch, other.thread, other.site);
        describe(a, n, finding.what);
        if (how == SIMT_READ && did == SIMT_ATOMIC && !early) {
            const auto [guess, is_new] = guesses_.try_emplace({a, thread}, finding);
            if (!is_new)
                add(std::exchange(guess->second, finding));
        } else {
            add(finding);
        }
    }
    if (how != SIMT_READ && !flying)
        memset(state, how == SIMT_COPIES ? FLYING : DEFINED, n);
    if (how == SIMT_ATOMIC && !is_shared)
        atomic(a, thread);
}

void SimtChecker::compares(uintptr_t a, size_t n, int thread, uintptr_t code) {
    access(a, n, SIMT_ATOMIC, thread, code);
    guesses_.erase({a, thread});
    Shadow &shadow = shared_.range.holds(a) ? shared_ : memory_;
    if (!shadow.range.holds(a))
        return;
    // Nor is what the thread has read one for those who change it later.
    shadow.each(a, n, [&](Cell &cell) {
        Crowd &reads = cell.reads;
        const auto is_mine = [&](const Past &past) {
            return past.epoch == now_ && past.thread == thread;
        };
        if (is_mine(reads.other))
            reads.other = {};
        if (reads.last.epoch != now_ || reads.last.thread / 32 != thread / 32)
            return;
        reads.lanes &= ~(1u << (thread % 32));
        if (reads.lanes == 0) {
            reads.last = reads.other;
            reads.lanes = reads.other.epoch == 0 ? 0 : 1u << (reads.other.thread % 32);
            reads.other = {};
        } else if (is_mine(reads.last)) {
            reads.last.thread = uint16_t(thread / 32 * 32 + __builtin_ctz(reads.lanes));
        }
    });
}

void SimtChecker::add_guesses() {
    for (const auto &guess : guesses_)
        add(guess.second);
    guesses_.clear();
}

void SimtChecker::landed(uintptr_t a, size_t n, int thread) {
    memset(shared_.state(a), DEFINED, n);
    // For others it is as if the thread had written now.
    shared_.each(a, n, [&](Cell &cell) {
        cell.write.epoch = now_;
        cell.write.time = clocks_[thread / 32].time;
    });
}

void SimtChecker::out_of_bounds(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code) {
    SimtFinding finding = {SIMT_BOUNDS, 1, {}, job_->kernel, 0, {}};
    finding.act[0] = act(how, now_, thread, site_of(code));
    describe(a, n, finding.what);
    add(finding);
    current->abandon();
}

void SimtChecker::report(uint32_t kind, uint32_t how, uintptr_t code, const char *format, ...) {
    SimtFinding finding = {kind, 1, {}, job_->kernel, 0, {}};
    finding.act[0] = act(how, now_, current->running(), site_of(code));
    va_list values;
    va_start(values, format);
    vsnprintf(finding.what, sizeof finding.what, format, values);
    va_end(values);
    add(finding);
}

SimtAct SimtChecker::act(uint32_t how, uint32_t epoch, int thread, uint64_t site) const {
    const auto later = std::upper_bound(blocks_.begin(), blocks_.end(), epoch,
                                        [](uint32_t e, const Block &b) { return e < b.first; });
    const uint64_t number = later == blocks_.begin() ? 0 : later[-1].number;
    const uint32_t(&grid)[3] = job_->launch.grid;
    SimtAct act = {how, {}, {}, site};
    act.block[0] = uint32_t(number % grid[0]);
    act.block[1] = uint32_t(number / grid[0] % grid[1]);
    act.block[2] = uint32_t(number / grid[0] / grid[1]);
    memcpy(act.thread, current->thread(thread).index, sizeof act.thread);
    return act;
}

void SimtChecker::add(SimtFinding finding) {
    const auto same = [&](const SimtFinding &f) {
        const uint64_t a = f.act[0].site, b = f.act[1].site;
        const uint64_t c = finding.act[0].site, d = finding.act[1].site;
        return f.kind == finding.kind && f.kernel == finding.kernel &&
               ((a == c && b == d) || (a == d && b == c));
    };
    const auto known = std::find_if(findings_.begin(), findings_.end(), same);
    if (known != findings_.end()) {
        known->count++;
    } else if (findings_.size() < MAX_FINDINGS) {
        finding.count = 1;
        findings_.push_back(finding);
    }
}

// bytes 4096-4099 of shared variable tile (4096 bytes)
void SimtChecker::describe(uintptr_t a, size_t n, char (&text)[256]) const {
    const auto say = [&](ptrdiff_t at, const char *what, const char *name, size_t size,
                         const char *more) {
        const ptrdiff_t last = at + ptrdiff_t(n) - 1;
        if (last == at)
            snprintf(text, sizeof text, "byte %td of %s%s (%zu bytes)%s", at, what, name, size,
                     more);
        else
            snprintf(text, sizeof text, "bytes %td to %td of %s%s (%zu bytes)%s", at, last, what,
                     name, size, more);
    };
    // Of two neighbours, the nearer one.
    const auto distance = [a](uintptr_t low, size_t size) {
        return a < low ? low - a : a < low + size ? 0 : a - (low + size) + 1;
    };
    if (shared_.range.holds(a)) {
        const Variable *nearest = nullptr;
        const auto to = [&](const Variable &v) {
            return distance(shared_.range.low + v.offset, v.size);
        };
        for (const Variable &v : variables_)
            if (!nearest || to(v) < to(*nearest))
                nearest = &v;
        if (nearest && (dynamic_.size == 0 || to(*nearest) < distance(dynamic_.low, dynamic_.size)))
            say(ptrdiff_t(a - shared_.range.low - nearest->offset), "shared variable ",
                nearest->variable->name, nearest->size, "");
        else
            say(ptrdiff_t(a - dynamic_.low), "dynamic shared memory", "", dynamic_.size, "");
        return;
    }
    const Allocation *nearest = nullptr;
    for (const Allocation &b : allocations_)
        if (!nearest || distance(b.start, b.size) < distance(nearest->start, nearest->size))
            nearest = &b;
    if (!nearest || !heap_.holds(a)) {
        snprintf(text, sizeof text, "%zu byte%s at address %#zx, which is no device memory", n,
                 n == 1 ? "" : "s", size_t(a));
        return;
    }
    char argument[64] = "";
    for (uint32_t i = 0; i < job_->kernel->argc && !argument[0]; i++) {
        uint64_t value = 0;
        if (job_->kernel->arg_sizes[i] == sizeof value)
            memcpy(&value, job_->args[i], sizeof value);
        if (value - nearest->start < nearest->size)
            snprintf(argument, sizeof argument, ", which argument %u points to", i + 1);
    }
    say(ptrdiff_t(a - nearest->start), "device memory", "", nearest->size, argument);
}

SimtChecker *simt_checker_new(size_t capacity) {
    try {
        return new SimtChecker(capacity);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void simt_checker_delete(SimtChecker *checker) {
    delete checker;
}

void *simt_checker_alloc(SimtChecker *checker, size_t bytes, size_t align) {
    return checker->alloc(bytes, align);
}

void simt_checker_share(SimtChecker *checker, const void *p, size_t bytes) {
    checker->share(uintptr_t(p), bytes);
}

void simt_checker_scratch(SimtChecker *checker, void *allocation, size_t bytes) {
    checker->scratch(allocation, bytes);
}

void simt_checker_define(SimtChecker *checker, void *p, size_t bytes) {
    checker->define(uintptr_t(p), bytes);
}

void simt_checker_carry(SimtChecker *checker, void *to, const void *from, size_t bytes) {
    checker->carry(uintptr_t(to), uintptr_t(from), bytes);
}

bool simt_checker_written(SimtChecker *checker, const void *p, size_t bytes) {
    return checker->written(uintptr_t(p), bytes);
}

void simt_checker_free(SimtChecker *checker, void *allocation) {
    checker->free(uintptr_t(allocation));
}

size_t simt_checker_findings(const SimtChecker *checker, const SimtFinding **findings) {
    *findings = checker->findings().data();
    return checker->findings().size();
}
