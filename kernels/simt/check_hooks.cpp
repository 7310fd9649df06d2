// What the compiler calls in kernels built with -fsanitize=thread,undefined; see check.h. The names
// and parameters are those of compiler-rt (lib/tsan/rtl/tsan_interface.h, lib/ubsan/
// ubsan_handlers.h), to which gcc and clang keep. And what the linker puts in place of the C library's
// heap in programs of one's own.
#include "check.h"
#include "core.h"
#include "profile.h"

#include <cstdlib>
#include <cstring>
#include <new>

using namespace simt;

namespace {

// A thread's local variables lie above the hook's own frame.
#define TOUCH(p, n, how) \
    touch(p, n, how, __builtin_frame_address(0), uintptr_t(__builtin_return_address(0)))

__attribute__((always_inline)) inline void touch(const volatile void *p, size_t n, uint32_t how,
                                                 const void *frame, uintptr_t code) {
    SimtChecker *checker = watching;
    SimtProfiler *profiler = profiling;
    if (!(checker || profiler) || n == 0 || current->on_stack(uintptr_t(p), uintptr_t(frame)))
        return;
    if (checker)
        checker->access(uintptr_t(p), n, how, current->running(), code);
    else
        profiler->access(uintptr_t(p), n, how, current->running(), code);
}

// The same of a comparison and exchange: of atomicCAS, and not of one that another atomic function is
// made of; see intrinsics.h.
__attribute__((always_inline)) inline void compare(const volatile void *p, size_t n, int order,
                                                   const void *frame, uintptr_t code) {
    if (watching && order != __ATOMIC_RELAXED && !current->on_stack(uintptr_t(p), uintptr_t(frame)))
        watching->compares(uintptr_t(p), n, current->running(), code);
    else
        touch(p, n, SIMT_ATOMIC, frame, code);
}

// A kernel's heap is the host's: what it has of that is memory that kernels may access, until one of
// them gives it back.
void *lent(void *p, size_t size) {
    if (watching && p)
        watching->share(uintptr_t(p), size);
    return p;
}

void *given_back(void *p) {
    if (watching && p)
        watching->unshare(uintptr_t(p));
    return p;
}

}  // namespace

extern "C" {

// -fsanitize-coverage=trace-pc
void __sanitizer_cov_trace_pc() {
    if (profiling)
        profiling->basic_block(current->running(), uintptr_t(__builtin_return_address(0)));
}

void simt_special() {}
void simt_fused() {}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_ignore_thread_begin() {}
void __tsan_ignore_thread_end() {}

void __tsan_vptr_read(void **p) {
    TOUCH(p, sizeof *p, SIMT_READ);
}

void __tsan_vptr_update(void **p, void *) {
    TOUCH(p, sizeof *p, SIMT_WRITE);
}

void __tsan_read_range(void *p, size_t n) {
    TOUCH(p, n, SIMT_READ);
}

void __tsan_write_range(void *p, size_t n) {
    TOUCH(p, n, SIMT_WRITE);
}

#define ACCESSES(n)                          \
    void __tsan_read##n(void *p) {           \
        TOUCH(p, n, SIMT_READ);              \
    }                                        \
    void __tsan_write##n(void *p) {          \
        TOUCH(p, n, SIMT_WRITE);             \
    }                                        \
    void __tsan_volatile_read##n(void *p) {  \
        TOUCH(p, n, SIMT_READ);              \
    }                                        \
    void __tsan_volatile_write##n(void *p) { \
        TOUCH(p, n, SIMT_WRITE);             \
    }                                        \
    void __tsan_unaligned_read##n(void *p) { \
        TOUCH(p, n, SIMT_READ);              \
    }                                        \
    void __tsan_unaligned_write##n(void *p) {\
        TOUCH(p, n, SIMT_WRITE);             \
    }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES

// clang calls these in place of the C library's.
void *__tsan_memcpy(void *to, const void *from, size_t n) {
    TOUCH(from, n, SIMT_READ);
    TOUCH(to, n, SIMT_WRITE);
    return memcpy(to, from, n);
}

void *__tsan_memmove(void *to, const void *from, size_t n) {
    TOUCH(from, n, SIMT_READ);
    TOUCH(to, n, SIMT_WRITE);
    return memmove(to, from, n);
}

void *__tsan_memset(void *to, int value, size_t n) {
    TOUCH(to, n, SIMT_WRITE);
    return memset(to, value, n);
}

// Atomics, which are these calls' to do. All as if seq_cst: the launch runs on one OS thread, but
// the host may look.

// See __threadfence in intrinsics.h.
void __tsan_atomic_thread_fence(int order) {
    if (watching && order == __ATOMIC_SEQ_CST)
        watching->fence(current->running());
    if (profiling && order == __ATOMIC_SEQ_CST)
        profiling->fence();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int) {}

#define COMPARE(p, n)                               \
    compare(p, n, order, __builtin_frame_address(0), \
            uintptr_t(__builtin_return_address(0)))

#define CHANGE(bits, T, name, builtin)                          \
    T __tsan_atomic##bits##_##name(volatile T *p, T v, int) {   \
        TOUCH(p, sizeof v, SIMT_ATOMIC);                        \
        return builtin(p, v, __ATOMIC_SEQ_CST);                 \
    }
#define ATOMICS(bits, T)                                                                      \
    T __tsan_atomic##bits##_load(const volatile T *p, int) {                                  \
        TOUCH(p, sizeof *p, SIMT_ATOMIC);                                                     \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                          \
    }                                                                                         \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int) {                               \
        TOUCH(p, sizeof v, SIMT_ATOMIC);                                                      \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                             \
    }                                                                                         \
    CHANGE(bits, T, exchange, __atomic_exchange_n)                                            \
    CHANGE(bits, T, fetch_add, __atomic_fetch_add)                                            \
    CHANGE(bits, T, fetch_sub, __atomic_fetch_sub)                                            \
    CHANGE(bits, T, fetch_and, __atomic_fetch_and)                                            \
    CHANGE(bits, T, fetch_or, __atomic_fetch_or)                                              \
    CHANGE(bits, T, fetch_xor, __atomic_fetch_xor)                                            \
    CHANGE(bits, T, fetch_nand, __atomic_fetch_nand)                                          \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *expected, T v,        \
                                                      int order, int) {                       \
        COMPARE(p, sizeof v);                                                                 \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST,           \
                                           __ATOMIC_SEQ_CST);                                 \
    }                                                                                         \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *expected, T v,          \
                                                    int order, int) {                         \
        COMPARE(p, sizeof v);                                                                 \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST,           \
                                           __ATOMIC_SEQ_CST);                                 \
    }                                                                                         \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T expected, T v, int order,   \
                                                 int) {                                       \
        COMPARE(p, sizeof v);                                                                 \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST,                 \
                                    __ATOMIC_SEQ_CST);                                        \
        return expected;                                                                      \
    }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
#undef ATOMICS
#undef CHANGE

}  // extern "C"

// Undefined behaviour. Each handler is given a constant that says where and of which type, and the
// values.

namespace {

struct Location {
    const char *file;
    uint32_t line, column;
};

struct Type {
    uint16_t kind;  // 0: integer
    uint16_t info;  // of integers: 2 · log2(bits) + is signed
    char name[];    // in quotes

    bool is_integer() const {
        return kind == 0;
    }
    bool is_signed() const {
        return info & 1;
    }
    int bits() const {
        return 1 << (info >> 1);
    }
};

// A value is itself where it fits into a word, else its address.
struct Text {
    char digits[32];

    Text(const Type &type, uintptr_t value) {
        if (!type.is_integer() || type.bits() > 64)
            snprintf(digits, sizeof digits, "a value");
        else if (type.is_signed())
            snprintf(digits, sizeof digits, "%lld",
                     (long long)(int64_t(value << (64 - type.bits())) >> (64 - type.bits())));
        else
            snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    }
};

struct Typed {
    Location location;
    const Type *type;
};

struct TwoTypes {
    Location location;
    const Type *left, *right;
};

struct Mismatch {
    Location location;
    const Type *type;
    unsigned char log_alignment, use;
};

#define CODE uintptr_t(__builtin_return_address(0))

void overflow(const Typed *data, uintptr_t a, const char *sign, uintptr_t b, uintptr_t code) {
    if (watching)
        watching->report(SIMT_UNDEFINED, SIMT_NOTHING, code, "overflow: %s %s %s as %s",
                         Text(*data->type, a).digits, sign, Text(*data->type, b).digits,
                         data->type->name);
}

}  // namespace

extern "C" {

void __ubsan_handle_add_overflow(const Typed *data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "+", b, CODE);
}

void __ubsan_handle_sub_overflow(const Typed *data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "-", b, CODE);
}

void __ubsan_handle_mul_overflow(const Typed *data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "*", b, CODE);
}

void __ubsan_handle_negate_overflow(const Typed *data, uintptr_t a) {
    overflow(data, 0, "-", a, CODE);
}

void __ubsan_handle_divrem_overflow(const Typed *data, uintptr_t a, uintptr_t b) {
    if (!watching)
        return;
    const bool zero = data->type->is_integer() && data->type->bits() <= 64 && b == 0;
    watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "%s: %s / %s as %s",
                     zero ? "division by zero" : "overflow", Text(*data->type, a).digits,
                     Text(*data->type, b).digits, data->type->name);
    // The processor would end it as well, and a GPU would not.
    current->abandon();
}

void __ubsan_handle_shift_out_of_bounds(const TwoTypes *data, uintptr_t a, uintptr_t b) {
    if (watching)
        watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "shift of %s, %s with %d bits, by %s",
                         Text(*data->left, a).digits, data->left->name, data->left->bits(),
                         Text(*data->right, b).digits);
}

void __ubsan_handle_out_of_bounds(const TwoTypes *data, uintptr_t index) {
    if (!watching)
        return;
    watching->report(SIMT_BOUNDS, SIMT_NOTHING, CODE, "index %s into %s",
                     Text(*data->right, index).digits, data->left->name);
    current->abandon();
}

void __ubsan_handle_type_mismatch_v1(const Mismatch *data, uintptr_t p) {
    if (!watching)
        return;
    static const char *const uses[] = {"read", "write", "reference"};
    const uint32_t how = data->use == 1 ? SIMT_WRITE : data->use == 0 ? SIMT_READ : SIMT_NOTHING;
    const char *use = data->use < 3 ? uses[data->use] : "use";
    const uintptr_t alignment = uintptr_t(1) << data->log_alignment;
    if (p == 0)
        watching->report(SIMT_BOUNDS, how, CODE, "%s of %s through a null pointer", use,
                         data->type->name);
    else if (p % alignment != 0)
        watching->report(SIMT_MISALIGNED, how, CODE,
                         "%s of %s at address %#zx, which is no multiple of %zu", use,
                         data->type->name, size_t(p), size_t(alignment));
    else
        watching->report(SIMT_BOUNDS, how, CODE, "%s of %s, for which there is no room", use,
                         data->type->name);
    // As on a GPU.
    current->abandon();
}

void __ubsan_handle_pointer_overflow(const Location *, uintptr_t base, uintptr_t result) {
    if (watching)
        watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE,
                         "pointer overflow: from %#zx to %#zx", size_t(base), size_t(result));
}

void __ubsan_handle_load_invalid_value(const Typed *data, uintptr_t value) {
    if (watching)
        watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "%zu is no value of %s",
                         size_t(value), data->type->name);
}

void __ubsan_handle_float_cast_overflow(const TwoTypes *data, uintptr_t) {
    if (watching)
        watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "%s that does not fit into %s",
                         data->left->name, data->right->name);
}

#define HANDLER(name, text)                                                   \
    void __ubsan_handle_##name(const void *) {                                \
        if (watching)                                                         \
            watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "%s", text); \
    }
HANDLER(invalid_builtin, "count of the zeros of 0")
HANDLER(vla_bound_not_positive, "an array without elements")
HANDLER(nonnull_arg, "a null pointer where none may be")
HANDLER(nonnull_return_v1, "a null pointer where none may be")
HANDLER(alignment_assumption, "an assumption about alignment that does not hold")
HANDLER(function_type_mismatch, "a call through a pointer of another type")
#undef HANDLER

// Nothing may come after these.
#define HANDLER(name, text)                                                   \
    void __ubsan_handle_##name(const void *) {                                \
        if (watching) {                                                       \
            watching->report(SIMT_UNDEFINED, SIMT_NOTHING, CODE, "%s", text); \
            current->abandon();                                               \
        }                                                                     \
        __builtin_trap();                                                     \
    }
HANDLER(builtin_unreachable, "a place that cannot be reached")
HANDLER(missing_return, "the end of a function without a result")
#undef HANDLER

// --wrap=malloc and so on (src/workbench/program/compile.rs); the others are operators new and delete.
void *__wrap_malloc(size_t size) {
    return lent(malloc(size), size);
}
void *__wrap__Znwm(size_t size) {
    return lent(operator new(size), size);
}
void *__wrap__Znam(size_t size) {
    return lent(operator new[](size), size);
}
void __wrap_free(void *p) {
    free(given_back(p));
}
void __wrap__ZdlPv(void *p) {
    operator delete(given_back(p));
}
void __wrap__ZdlPvm(void *p, size_t) {
    operator delete(given_back(p));
}
void __wrap__ZdaPv(void *p) {
    operator delete[](given_back(p));
}
void __wrap__ZdaPvm(void *p, size_t) {
    operator delete[](given_back(p));
}
void *__wrap__ZnwmSt11align_val_t(size_t size, std::align_val_t unit) {
    return lent(operator new(size, unit), size);
}
void *__wrap__ZnamSt11align_val_t(size_t size, std::align_val_t unit) {
    return lent(operator new[](size, unit), size);
}
void __wrap__ZdlPvSt11align_val_t(void *p, std::align_val_t unit) {
    operator delete(given_back(p), unit);
}
void __wrap__ZdlPvmSt11align_val_t(void *p, size_t, std::align_val_t unit) {
    operator delete(given_back(p), unit);
}
void __wrap__ZdaPvSt11align_val_t(void *p, std::align_val_t unit) {
    operator delete[](given_back(p), unit);
}
void __wrap__ZdaPvmSt11align_val_t(void *p, size_t, std::align_val_t unit) {
    operator delete[](given_back(p), unit);
}
void *__wrap__ZnwmRKSt9nothrow_t(size_t size, const std::nothrow_t &none) {
    return lent(operator new(size, none), size);
}
void *__wrap__ZnamRKSt9nothrow_t(size_t size, const std::nothrow_t &none) {
    return lent(operator new[](size, none), size);
}

}  // extern "C"
