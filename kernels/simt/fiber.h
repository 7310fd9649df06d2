// Fibers: stacks, and the switch from one to another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

extern "C" {
// Saves the running fiber's state on its stack and the stack pointer in *save, then goes on where
// the fiber whose stack pointer is `to` was saved.
void simt_switch(void **save, void *to);
// The second half of it: forgets the running fiber.
[[noreturn]] void simt_resume(void *to);
}

namespace simt {

// The fiber stacks of one OS thread, made as they are needed and kept. Below each is memory that
// cannot be accessed, so that an overflow is a SIGSEGV; unless they are so many that the system does
// not grant a mapping for each.
class Stacks {
public:
    static constexpr size_t SIZE = 64 << 10;  // usable, but for the stagger
    static constexpr size_t GUARD = 64 << 10;  // a large local array skips the first pages

    explicit Stacks(bool guarded) : guarded_(guarded) {}
    Stacks(const Stacks &) = delete;
    Stacks &operator=(const Stacks &) = delete;

    // A free stack's number, or -1 if there is no memory for more.
    int take() {
        if (free_.empty() && !grow())
            return -1;
        const int i = free_.back();
        free_.pop_back();
        return i;
    }
    void give(int i) {
        free_.push_back(i);
    }
    // Takes all stacks back, whatever is on them.
    void reclaim();
    // The stack pointer with which to start `entry`, which must never return, on an empty stack.
    void *fresh(int i, void (*entry)()) const;
    // Where stack i ends.
    uintptr_t end(int i) const {
        return uintptr_t(lows_[i]) + GUARD + SIZE + STAGGERED;
    }
    // Whether the address is in stack i's guard.
    bool overflowed(int i, const void *address) const;

private:
    // Equal offsets of all stacks from multiples of 4 KiB would put their hot lines into the same
    // sets of the L1 cache.
    static constexpr size_t STAGGER = 192, STAGGERED = 4 << 10;

    bool grow();

    bool guarded_;
    std::vector<char *> lows_;  // where the guards start
    std::vector<int> free_;     // has room for all
};

}  // namespace simt
