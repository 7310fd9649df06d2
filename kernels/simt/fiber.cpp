#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>

// A fiber that does not run has saved, from its stack pointer upwards, the six registers that a
// call must not change, and the address where it goes on. (Kernels leave the control words of the
// floating-point units alone.)
//
// The last instruction is not a `ret`, because processors predict that from the last call, which
// was another fiber's and often at another line of the kernel. How an indirect jump is predicted is
// right nearly always: the fibers of a block go on at the same place one after the other. It is
// half of the cost of a barrier.
asm(R"(
    .text
    .macro SIMT_SAVE
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    .cfi_adjust_cfa_offset 48
    .endm

    .macro SIMT_RESUME
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx
    .endm

    # f(..., own stack pointer), which returns the stack pointer to go on with. Calls want it
    # aligned to 16 bytes.
    .macro SIMT_GIVE_WAY f argument
    SIMT_SAVE
    movq %rsp, %\argument
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call \f@PLT
    movq %rax, %rsp
    SIMT_RESUME
    .cfi_endproc
    .endm

    .globl simt_block_barrier
    .type simt_block_barrier, @function
    .balign 16
simt_block_barrier:
    SIMT_GIVE_WAY simt_arrive_at_barrier r8
    .size simt_block_barrier, .-simt_block_barrier

    .globl simt_warp_collective
    .type simt_warp_collective, @function
    .balign 16
simt_warp_collective:
    SIMT_GIVE_WAY simt_arrive_at_collective r9
    .size simt_warp_collective, .-simt_warp_collective

    .globl simt_converge
    .type simt_converge, @function
    .balign 16
simt_converge:
    SIMT_GIVE_WAY simt_arrive_at_convergence r8
    .size simt_converge, .-simt_converge

    .globl simt_mbarrier_wait
    .type simt_mbarrier_wait, @function
    .balign 16
simt_mbarrier_wait:
    SIMT_GIVE_WAY simt_arrive_at_mbarrier r8
    .size simt_mbarrier_wait, .-simt_mbarrier_wait

    .globl simt_switch
    .type simt_switch, @function
    .balign 16
simt_switch:
    SIMT_SAVE
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    SIMT_RESUME
    .cfi_endproc
    .size simt_switch, .-simt_switch

    .globl simt_resume
    .type simt_resume, @function
    .balign 16
simt_resume:
    movq %rdi, %rsp
    SIMT_RESUME
    .size simt_resume, .-simt_resume
)");

namespace simt {

bool Stacks::grow() {
    const size_t size = GUARD + SIZE + STAGGERED;
    void *low = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (low == MAP_FAILED)
        return false;
    if (guarded_ && mprotect(low, GUARD, PROT_NONE) != 0) {
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
