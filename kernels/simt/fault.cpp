// Signals that a kernel raises: a wild pointer, a stack overflow, a division by zero.
#include "core.h"

#include <ucontext.h>

#include <mutex>

namespace simt {

namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction before[NSIG];

void handle(int number, siginfo_t *info, void *context) {
    if (current && current->fault(number, info, static_cast<ucontext_t *>(context)))
        return;
    // Not ours.
    const struct sigaction &other = before[number];
    if (other.sa_flags & SA_SIGINFO) {
        other.sa_sigaction(number, info, context);
    } else if (other.sa_handler == SIG_DFL || other.sa_handler == SIG_IGN) {
        // Returning runs into the same fault again, which then kills the process as usual. One that
        // was sent with kill() is not repeated by itself.
        sigaction(number, &other, nullptr);
        if (info->si_code <= 0)
            raise(number);
    } else {
        other.sa_handler(number);
    }
}

}  // namespace

bool Core::fault(int number, const siginfo_t *info, ucontext_t *context) {
    if (!inside_ || info->si_code <= 0)  // 0 or less: sent by somebody
        return false;
    signal_ = number;
    signal_info_ = *info;
    // When the handler returns, the OS thread finds itself in run_block.
    greg_t *registers = context->uc_mcontext.gregs;
    registers[REG_RDI] = greg_t(main_);
    registers[REG_RIP] = greg_t(&simt_resume);
    registers[REG_EFL] &= ~greg_t(0x400);  // the direction flag, as the ABI wants it
    return true;
}

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction ours = {};
        ours.sa_sigaction = handle;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&ours.sa_mask);
        for (int number : SIGNALS)
            sigaction(number, &ours, &before[number]);
    });
}

SignalStack::SignalStack(void *memory) {
    stack_t ours = {};
    ours.ss_sp = memory;
    ours.ss_size = SIZE;
    sigaltstack(&ours, &before_);
}

SignalStack::~SignalStack() {
    sigaltstack(&before_, nullptr);
}

}  // namespace simt
