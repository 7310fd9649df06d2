// assert() that a kernel may call: there it ends the launch, and not the process. It is found before
// the C library's header of that name, which <cassert> includes, and may be included repeatedly.
#include_next <assert.h>

#ifndef SIMT_ASSERT
#define SIMT_ASSERT
extern "C" {
// In a kernel: an error of the launch, with the thread that it is about. Otherwise as the C library
// has it.
[[noreturn]] void simt_assert_failed(const char *condition, const char *file, unsigned line);
}
#endif

#ifndef NDEBUG
#undef assert
#define assert(...) \
    ((__VA_ARGS__) ? void(0) : simt_assert_failed(#__VA_ARGS__, __FILE__, __LINE__))
#endif
