// Fibers: stacks of their own, and a switch from one to the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <sys/mman.h>

namespace simt {

// Leaves what the ABI asks a function to keep on the present stack, whose top goes to `save`, and
// goes on where the stack `load` was left.
extern "C" void simt_switch(void **save, void *load);

// Stacks side by side, each above a page that must not be touched. Memory is used when it is.
class Stacks {
  public:
    static constexpr size_t SIZE = 64 << 10, GUARD = 4 << 10;

    explicit Stacks(int count) : count_(count) {
        void *p = mmap(nullptr, count * (SIZE + GUARD), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) throw std::runtime_error("no memory for the stacks of CUDA threads");
        base_ = static_cast<char *>(p);
        for (int i = 0; i < count; i++) mprotect(base_ + i * (SIZE + GUARD), GUARD, PROT_NONE);
    }
    ~Stacks() { munmap(base_, count_ * (SIZE + GUARD)); }
    Stacks(const Stacks &) = delete;

    // A stack pointer from which simt_switch starts `entry`, which must not return.
    void *start(int i, void (*entry)()) {
        // Neighbours start at different cache sets, or all threads' locals would share a few.
        char *top = base_ + (i + 1) * (SIZE + GUARD) - 64 * (i % 32);
        auto *words = reinterpret_cast<void **>(top) - 8;
        for (int k = 0; k < 6; k++) words[k] = nullptr;
        words[6] = reinterpret_cast<void *>(entry);
        words[7] = nullptr;  // as a return address would be: aligns the stack for `entry`
        return words;
    }

  private:
    char *base_;
    size_t count_;
};

}  // namespace simt
