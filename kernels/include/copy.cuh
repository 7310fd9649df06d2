// Copies from global to shared memory that run on their own (cp.async, sm_80): the thread goes on
// at once and nothing passes through its registers. Bytes are there when the thread that asked has
// waited for them; for other threads, after a barrier that comes after that. The SIMT executor has
// them in kernels/simt/copies.h.
//
//   copy_async(to, from);  copy_async(to2, from2);  copy_commit();   // a group
//   ...                                                              // more groups
//   copy_wait<1>();  __syncthreads();                                // all groups but the last one
//
// Source: PTX ISA, "Data Movement and Conversion Instructions: cp.async".
#pragma once

#include "kernel.cuh"

#ifdef __CUDACC__

// 16 bytes, both ends aligned. Where `there` is false the bytes are zeros, and `from` is not read.
DEVICE void copy_async(void *shared, const void *global, bool there = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(uint32_t(__cvta_generic_to_shared(shared))),
                   "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0)
                 : "memory");
}

// The thread's copies since the last call are a group.
DEVICE void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until no more than `groups` of the thread's last groups are under way.
template <int groups> DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#endif
