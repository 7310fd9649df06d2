// Kernels and launches, as src/workbench/program/translate writes them:
//
//   __global__ void f(int n) { … }   void f(int n) { simt::kernel({"f", …}, [](int n) { … }, n); }
//   f<<<grid, block>>>(3);           (simt::configure(grid, block), f(3));
//   cudaFree(p);                     simt_ignores(true), cudaFree(p), simt_ignores(false);
//
// So a call of a kernel is its launch, with the arguments that C++ makes of those that are given.
// Part of cuda_runtime.h.
#pragma once

namespace simt {

// A kernel's function, as it says itself when it is called.
struct Function {
    const char *name, *file;
    const char *templates;  // names of a template's parameters, with commas between
    const char *signature;  // with their values
    uint32_t max_threads;   // __launch_bounds__
};

template <class... A> constexpr uint32_t bound(uint32_t threads, A...) {
    return threads;
}

}  // namespace simt

extern "C" {

// The thread's next call of a kernel is a launch of this shape.
void simt_configure(const uint32_t *grid, const uint32_t *block, size_t dynamic_shared,
                    cudaStream_t stream, int line, const char *file);
// That call: `call` has one CUDA thread run, with the addresses of so many arguments of these sizes.
// What goes wrong is the last error.
void simt_program_launch(const simt::Function *function, void (*call)(void **), uint32_t argc,
                         const uint32_t *sizes, void **args);
// What has become of it.
cudaError_t simt_launched(void);
// What calls of the runtime return from here on the program does not look at, or does.
void simt_ignores(bool does);
// The function has so many parameters, and `call` calls it with what is at these addresses.
void *simt_function(void *function, uint32_t argc, void (*call)(void *function, void **args));

}  // extern "C"

// Calls main(). It is the program's, because what its C++ library has thrown no other one knows: an
// exception that main() lets go ends the program here, with what it says.
extern "C" __attribute__((weak, used, visibility("default"))) int
simt_program_main(int (*main)(int, char **), int argc, char **argv) noexcept {
    return main(argc, argv);
}

namespace simt {

inline void configure(dim3 grid, dim3 block, size_t dynamic_shared = 0,
                      cudaStream_t stream = nullptr, SIMT_SITE) {
    const uint32_t g[] = {grid.x, grid.y, grid.z}, b[] = {block.x, block.y, block.z};
    simt_configure(g, b, dynamic_shared, stream, line, file);
}

// How a thread calls a kernel's body, which is a lambda without captures.
template <class Body, class... P> struct Caller {
    template <size_t... I>
    SIMT_UNCHECKED static void unpack([[maybe_unused]] void **args, std::index_sequence<I...>) {
        // It has no state: any byte is one.
        alignas(Body) char body[sizeof(Body)];
        (*reinterpret_cast<const Body *>(body))(*static_cast<P *>(args[I])...);
    }
    SIMT_UNCHECKED static void call(void **args) {
        unpack(args, std::index_sequence_for<P...>{});
    }
};

// Launches a kernel that has been called.
template <class Body, class... P>
void kernel(const Function &function, Body, P... parameters) {
    static_assert(std::is_empty_v<Body>);
    static constexpr uint32_t sizes[] = {uint32_t(sizeof(P))..., 0};
    void *args[] = {const_cast<void *>(static_cast<const void *>(&parameters))..., nullptr};
    simt_program_launch(&function, &Caller<Body, P...>::call, sizeof...(P), sizes, args);
}

// How a function with these parameters is called with what is at so many addresses.
template <class... P> struct Thunk {
    template <size_t... I>
    static void unpack(void (*function)(P...), [[maybe_unused]] void **args,
                       std::index_sequence<I...>) {
        function(*static_cast<std::remove_cv_t<P> *>(args[I])...);
    }
    static void call(void *function, void **args) {
        unpack(reinterpret_cast<void (*)(P...)>(function), args, std::index_sequence_for<P...>{});
    }
};

// A kernel's address, of which it is known from now on how it is called.
template <class... P> void *function(void (*kernel)(P...)) {
    return simt_function(reinterpret_cast<void *>(kernel), sizeof...(P), &Thunk<P...>::call);
}
// Dynamic shared memory that is declared outside of functions: a pointer to it.
template <class Array> struct Dynamic {
    using Element = std::remove_extent_t<Array>;

    operator Element *() const {
        return static_cast<Element *>(simt_dynamic_shared());
    }
};

}  // namespace simt
