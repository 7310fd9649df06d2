// Signals that a kernel raises: a wild pointer, a stack overflow, a division by zero.
#include "core.h"
#include "image.h"

#include <execinfo.h>
#include <ucontext.h>

#include <algorithm>
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

bool (*line_of)(const uint64_t *sites, char *text, size_t size) = nullptr;

void interrupted_sites(const ucontext_t *context, uint64_t (&sites)[16]) {
    std::fill(std::begin(sites), std::end(sites), 0);
    void *frames[24];
    const int count = backtrace(frames, 24);
    void *const fault = reinterpret_cast<void *>(context->uc_mcontext.gregs[REG_RIP]);
    sites[0] = site_of(uintptr_t(fault) + 1);
    // Who called that, too: it may be a function of the C library's.
    void **const end = frames + count, **from = std::find(frames, end, fault);
    for (size_t to = 1; to < std::size(sites) && from < end - 1; to++)
        sites[to] = site_of(uintptr_t(*++from));
}

bool Core::fault(int number, const siginfo_t *info, ucontext_t *context) {
    if (!inside_ || info->si_code <= 0)  // 0 or less: sent by somebody
        return false;
    signal_ = number;
    signal_info_ = *info;
    interrupted_sites(context, signal_sites_);
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
        // Loads what it needs, which a signal's handler cannot.
        void *frames[1];
        backtrace(frames, 1);
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
