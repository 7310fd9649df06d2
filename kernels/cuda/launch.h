// Launches, as src/workbench/program/translate.rs writes them: `f<<<grid, block>>>(a, b)` becomes
// `f | simt::Launch("f", "f.cu", grid, block)(a, b)`. Part of cuda_runtime.h.
#pragma once

extern "C" {

// Runs a kernel: `call` with the addresses of so many arguments of these sizes, the last of which is
// the function. What goes wrong is the last error.
void simt_program_launch(const char *name, const char *file, void (*call)(void **), uint32_t argc,
                         const uint32_t *sizes, void **args, const uint32_t *grid,
                         const uint32_t *block, size_t dynamic_shared);

}  // extern "C"

namespace simt {

// Dynamic shared memory that is declared outside of functions: a pointer to it.
template <class Array> struct Dynamic {
    using Element = std::remove_extent_t<Array>;

    operator Element *() const {
        return static_cast<Element *>(simt_dynamic_shared());
    }
};

// A launch's arguments, which live to its end.
template <class... A> struct Call;

struct Launch {
    const char *name, *file;
    dim3 grid, block;
    size_t dynamic_shared;

    Launch(const char *name, const char *file, dim3 grid, dim3 block, size_t dynamic_shared = 0,
           cudaStream_t = nullptr)
        : name(name), file(file), grid(grid), block(block), dynamic_shared(dynamic_shared) {}

    template <class... A> Call<A...> operator()(A &&...arguments) const {
        return {*this, {std::forward<A>(arguments)...}};
    }

    // Has `function` called with what its parameters make of the arguments.
    template <class F, class... P> void run(F function, P... parameters) const {
        static_assert((std::is_trivially_copyable_v<P> && ...), "arguments are copied as bytes");
        static constexpr uint32_t sizes[] = {uint32_t(sizeof(P))..., uint32_t(sizeof(F))};
        void *args[] = {const_cast<void *>(static_cast<const void *>(&parameters))..., &function};
        const uint32_t g[] = {grid.x, grid.y, grid.z}, b[] = {block.x, block.y, block.z};
        simt_program_launch(name, file, &call<F, P...>, sizeof...(P) + 1, sizes, args, g, b,
                            dynamic_shared);
    }

private:
    template <class F, class... P, size_t... I>
    SIMT_UNCHECKED static void unpack(void **args, std::index_sequence<I...>) {
        (*static_cast<F *>(args[sizeof...(P)]))(*static_cast<P *>(args[I])...);
    }
    template <class F, class... P> SIMT_UNCHECKED static void call(void **args) {
        unpack<F, P...>(args, std::index_sequence_for<P...>{});
    }
};

template <class... A> struct Call {
    Launch launch;
    std::tuple<A &&...> arguments;
};

// NULL and 0 are pointers where pointers are wanted.
template <class P, class A> std::remove_cv_t<P> parameter(A &&argument) {
    if constexpr (std::is_pointer_v<P> && std::is_integral_v<std::remove_reference_t<A>>)
        return reinterpret_cast<P>(intptr_t(argument));
    else
        return std::forward<A>(argument);
}

template <class... P, class... A> void operator|(void (*kernel)(P...), Call<A...> call) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
    const auto run = [&](auto &&...arguments) {
        call.launch.run(kernel, parameter<P>(std::forward<A>(arguments))...);
    };
    std::apply(run, call.arguments);
}

// A template, in a function that finds its types.
template <class F, class... A>
std::enable_if_t<std::is_class_v<F>> operator|(F kernel, Call<A...> call) {
    const auto run = [&](auto &&...arguments) {
        call.launch.run(kernel, std::decay_t<A>(std::forward<A>(arguments))...);
    };
    std::apply(run, call.arguments);
}

}  // namespace simt
