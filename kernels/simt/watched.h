// What a kernel file sees first when it is compiled for the checker: copies by name are calls of
// ours. (clang sees to that by itself, and gcc to copies by assignment.)
#pragma once

#include <cstddef>

#ifndef __clang__
extern "C" {
void *memcpy(void *to, const void *from, size_t n) noexcept __asm__("__tsan_memcpy");
void *memmove(void *to, const void *from, size_t n) noexcept __asm__("__tsan_memmove");
void *memset(void *to, int value, size_t n) noexcept __asm__("__tsan_memset");
}
#endif
