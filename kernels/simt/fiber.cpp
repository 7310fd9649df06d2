#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>

// The System V ABI has six registers survive a call, beside the stack pointer; control words of the
// floating-point units are left alone by kernels. Fibers that wait at the same barrier have the same
// return addresses above them, so the processor, which predicts them from the calls that it has
// seen, is right even though they are another fiber's.
asm(R"(
    .text
    .globl simt_switch
    .type simt_switch, @function
    .balign 16
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    .globl simt_resume
simt_resume:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, .-simt_switch
)");

namespace simt {

namespace {

// Equal offsets of all stacks from multiples of 4 KiB would put their hot lines into the same sets
// of the L1 cache.
constexpr size_t STAGGER = 192, STAGGERED = 4 << 10;

}  // namespace

bool Stacks::grow() {
    const size_t size = GUARD + SIZE + STAGGERED;
    void *low = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (low == MAP_FAILED)
        return false;
    if (mprotect(low, GUARD, PROT_NONE) != 0) {
        munmap(low, size);
        return false;
    }
    lows_.push_back(static_cast<char *>(low));
    free_.reserve(lows_.size());
    free_.push_back(int(lows_.size()) - 1);
    return true;
}

void Stacks::reclaim() {
    free_.clear();
    for (size_t i = lows_.size(); i-- > 0;)
        free_.push_back(int(i));
}

void *Stacks::fresh(int i, void (*entry)()) const {
    char *high = lows_[i] + GUARD + SIZE + STAGGERED - i * STAGGER % STAGGERED;
    auto *top = reinterpret_cast<uint64_t *>(high);
    // As if `entry` had just been called from nowhere: that is where debuggers stop.
    *--top = 0;
    *--top = reinterpret_cast<uint64_t>(entry);
    for (int saved = 0; saved < 6; saved++)
        *--top = 0;
    return top;
}

bool Stacks::overflowed(int i, const void *address) const {
    const char *a = static_cast<const char *>(address);
    return a >= lows_[i] && a < lows_[i] + GUARD;
}

}  // namespace simt
