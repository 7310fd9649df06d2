// What went wrong in a block, in words:
//
//   kernel sum (kernels/x.cu), block (3,0,0): divergent barrier: ...
//     threads 0-31: wait at __syncthreads, kernels/x.cu:12
//     threads 32-63: wait at __syncthreads, kernels/x.cu:14
//     threads 64-127: have returned
#include "../cuda/assert.h"
#include "core.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace simt {

namespace {

// A message does not name more groups of threads.
constexpr int MAX_GROUPS = 24;

// Threads of one kernel all have its file names from one object, so pointers mostly do.
bool same_group(const Thread &a, const Thread &b) {
    return a.kind == b.kind && a.line == b.line && a.mask == b.mask && strcmp(a.file, b.file) == 0;
}

// 0-15, 17, 20-31
void add_ranges(Message &message, const bool (&member)[MAX_THREADS], int first) {
    const char *separator = "";
    for (int i = 0; i < int(MAX_THREADS); i++) {
        if (!member[i])
            continue;
        int end = i;
        while (end + 1 < int(MAX_THREADS) && member[end + 1])
            end++;
        message.add(i == end ? "%s%d" : "%s%d-%d", separator, i - first, end - first);
        separator = ", ";
        i = end;
    }
}

// What a thread waits for at an mbarrier.
void add_mbarrier(Message &message, const Thread &thread) {
    message.add(": wait for parity %u of mbarrier %p", thread.mask, thread.arg);
    Mbarrier barrier = {};
    if (barrier.decode(*static_cast<const uint64_t *>(thread.arg)))
        message.add(", of whose phase %u of %u arrivals and %d bytes are missing", barrier.pending,
                    barrier.expected, barrier.bytes);
    message.add(", %s:%d", thread.file, thread.line);
}

}  // namespace

void Message::add(const char *format, va_list values) {
    const int wanted = vsnprintf(text + length, sizeof text - length, format, values);
    if (wanted > 0)
        length = std::min(length + size_t(wanted), sizeof text - 1);
}

void Message::add(const char *format, ...) {
    va_list values;
    va_start(values, format);
    add(format, values);
    va_end(values);
}

// Begins a message: whose fault it is.
void Core::blame(int thread) {
    const uint32_t *block = simt_position + 4;
    error_.length = 0;
    error_.add("kernel %s (%s), block (%u,%u,%u)", job_->kernel->name, job_->kernel->file, block[0],
               block[1], block[2]);
    if (thread >= 0) {
        const uint32_t *index = threads_[thread].index;
        error_.add(", thread (%u,%u,%u)", index[0], index[1], index[2]);
    }
    error_.add(": ");
}

void Core::fail(int thread, const char *format, va_list values) {
    blame(thread);
    error_.add(format, values);
    abandon();
}

void Core::fail(int thread, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fail(thread, format, values);
}

void Lanes::fail(int lane, const char *format, ...) const {
    const int number = current->lane(lane);
    const Thread &thread = current->thread(number);
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    current->fail(number, "%s at %s:%d, lane %d: %s", thread.kind->name, thread.file, thread.line,
                  lane, text);
}

// Nobody can go on, or the barrier that all have reached is not one. Says where everybody is.
void Core::diverged() {
    const int threads = int(job_->threads);
    const auto in = [&](uint32_t Warp::*set, int i) {
        return (warps_[i / 32].*set >> (i % 32) & 1) != 0;
    };
    blame(-1);
    bool meeting = false, waiting = false;
    for (int i = 0; i < threads; i++) {
        meeting |= in(&Warp::meeting, i);
        waiting |= in(&Warp::waiting, i);
    }
    if (waiting)
        error_.add("deadlock: threads wait at mbarriers for phases that nobody completes");
    else if (!meeting)
        error_.add("divergent barrier: threads wait at different barriers");
    else if (arrived_ > 0)
        error_.add("deadlock: threads wait at a barrier for others, which wait for lanes that do "
                   "not come");
    else
        error_.add("divergent collective: lanes of a warp wait in different operations, at "
                   "different lines or with different masks");

    // Threads that have returned are one group; those at a barrier one for each barrier; those in
    // a collective one for each warp, operation and mask; those at an mbarrier one for each of them
    // and each parity.
    bool told[MAX_THREADS] = {};
    int groups = 0;
    for (int first = 0; first < threads; first++) {
        if (told[first])
            continue;
        if (groups++ == MAX_GROUPS || error_.full()) {
            error_.add("\n  and others");
            break;
        }
        const Thread &like = threads_[first];
        const bool gone = in(&Warp::gone, first), meets = in(&Warp::meeting, first);
        const bool waits = in(&Warp::waiting, first);
        bool member[MAX_THREADS] = {};
        for (int i = first; i < threads; i++) {
            const bool same = gone ? in(&Warp::gone, i)
                                   : !in(&Warp::gone, i) && same_group(threads_[i], like) &&
                                         (!meets || i / 32 == first / 32) &&
                                         (!waits || threads_[i].arg == like.arg);
            member[i] = same;
            told[i] |= same;
        }
        if (meets) {
            error_.add("\n  warp %d, lanes ", first / 32);
            add_ranges(error_, member, first / 32 * 32);
        } else {
            error_.add("\n  threads ");
            add_ranges(error_, member, 0);
        }
        if (gone)
            error_.add(": have returned");
        else if (waits)
            add_mbarrier(error_, like);
        else if (meets)
            error_.add(": wait in %s with mask 0x%08x, %s:%d", like.kind->name, like.mask,
                       like.file, like.line);
        else
            error_.add(": wait at %s, %s:%d", like.kind->name, like.file, like.line);
    }
    abandon();
}

// Not on the fiber, whose stack may be what is wrong.
void Core::blame_for_signal() {
    const Thread &thread = *running_;
    blame(running());
    const void *address = signal_info_.si_addr;
    if (signal_ == SIGFPE)
        error_.add("integer division by zero or overflow (SIGFPE), instruction %p", address);
    else if (stacks_.overflowed(thread.stack, address))
        error_.add("stack overflow, address %p: local variables of a thread have %zu KiB here",
                   address, Stacks::SIZE >> 10);
    else if (signal_info_.si_code == SI_KERNEL)
        error_.add("access to a wild address that is not even canonical (SIGSEGV)");
    else
        error_.add("access to address %p, which is not there (%s)", address,
                   signal_ == SIGBUS ? "SIGBUS" : "SIGSEGV");
    char line[512];
    if (line_of && line_of(signal_sites_, line, sizeof line))
        error_.add(", at %s", line);
    else if (thread.kind)
        error_.add("; after %s at %s:%d", thread.kind->name, thread.file, thread.line);
}

}  // namespace simt

void simt_trap(int line, const char *file) {
    simt::current->fail(simt::current->running(), "__trap() at %s:%d", file, line);
}

void simt_assert_failed(const char *condition, const char *file, unsigned line) {
    if (!simt::current)
        __assert_fail(condition, file, line, nullptr);
    simt::current->fail(simt::current->running(), "%s:%u: Assertion `%s` failed.", file, line,
                        condition);
}
