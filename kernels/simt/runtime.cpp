// The CUDA runtime for programs of one's own (../cuda/cuda_runtime.h): launches and errors. Device
// memory is memory of this process, everything is done when a call returns, and whoever runs the
// program has its kernels checked or profiled or neither.
#include "runtime.h"

#include "core.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

namespace simt {

namespace {

// Of a thread of the host.
struct HostThread {
    std::vector<Configuration> shapes;  // of calls that are being made
    cudaError_t last = cudaSuccess, launched = cudaSuccess;
    std::string note;  // what the last error is of, if it is of a launch
    bool ignores = false;  // what the call returns that is being made
    ProgramKernel *asked = nullptr;
};

HostThread &mine() {
    // Outlives the thread: what it has to say is asked for at the end.
    static thread_local HostThread &thread = *new HostThread;
    return thread;
}

// "f<float, 4>" of "void f(T *) [with T = float; int n = 4]", g++'s, or "[T = float, n = 4]".
std::string named(const Function &function) {
    const char *const list = strrchr(function.signature, '[');
    std::string values;
    for (const char *at = function.templates; list && *at != 0;) {
        const std::string name(at, strcspn(at, ","));
        at += name.size() + (at[name.size()] == ',');
        const char *found = list;
        do
            found = strstr(found + 1, (name + " = ").c_str());
        while (found && found[-1] != ' ' && found[-1] != '[');
        if (!found)
            continue;
        const char *const value = found + name.size() + 3, *end = value;
        for (int depth = 0; *end != 0; end++) {
            depth += (*end == '<' || *end == '(' || *end == '{') - (*end == '>' || *end == ')' || *end == '}');
            if (*end == ';' || ((*end == ',' || *end == ']') && depth == 0))
                break;
        }
        values += (values.empty() ? "" : ", ") + std::string(value, end);
    }
    // Types of ours are CUDA's to the program.
    for (const char *const own : {"simt::cuda::simt_program::", "simt::simt_program::"})
        for (size_t at; (at = values.find(own)) != std::string::npos;)
            values.erase(at, strlen(own));
    return values.empty() ? function.name : function.name + ("<" + values + ">");
}

ProgramKernel &described(const Function &function, void (*call)(void **), uint32_t argc,
                         const uint32_t *sizes) {
    std::unique_ptr<ProgramKernel> &kernel = runtime().kernels[call];
    if (!kernel) {
        kernel.reset(new ProgramKernel);
        kernel->name = named(function);
        kernel->described = {kernel->name.c_str(), function.file, function.max_threads, argc,
                             sizes, call};
    }
    return *kernel;
}

// Why there can be no launch of that shape.
cudaError_t refused(const ProgramKernel &kernel, const Configuration &shape) {
    const auto &[x, y, z] = shape.block;
    const uint64_t threads = uint64_t(x) * y * z;
    const bool some = threads > 0 && shape.grid[0] > 0 && shape.grid[1] > 0 && shape.grid[2] > 0;
    if (!some || x > 1024 || y > 1024 || z > 64 || threads > 1024 || shape.grid[0] > 0x7fffffff ||
        shape.grid[1] > 65535 || shape.grid[2] > 65535)
        return cudaErrorInvalidConfiguration;
    if (threads > kernel.described.max_threads)
        return cudaErrorLaunchOutOfResources;
    if (shape.dynamic_shared > kernel.dynamic_shared)
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

cudaError_t run(const ProgramKernel &kernel, const Configuration &shape, void **args) {
    Runtime &all = runtime();
    SimtLaunch launch = {};
    std::copy(shape.grid, shape.grid + 3, launch.grid);
    std::copy(shape.block, shape.block + 3, launch.block);
    launch.dynamic_shared = uint32_t(shape.dynamic_shared);
    launch.shared_limit = all.program.device.block_shared;
    launch.schedule = shape.together ? SIMT_TOGETHER : 0;
    const Reach reach;
    all.fault = cudaError_t(all.program.launch(&kernel.described, &launch, args));
    all.heard &= all.fault == cudaSuccess;
    return all.fault;
}

// As the arguments are now.
Work later(const ProgramKernel &kernel, const Configuration &shape, void **args) {
    std::vector<std::vector<char>> copies;
    for (uint32_t i = 0; i < kernel.described.argc; i++) {
        const char *const from = static_cast<const char *>(args[i]);
        copies.emplace_back(from, from + kernel.described.arg_sizes[i]);
    }
    return [&kernel, shape, copies]() mutable {
        std::vector<void *> args;
        for (std::vector<char> &copy : copies)
            args.push_back(copy.data());
        args.push_back(nullptr);
        return run(kernel, shape, args.data());
    };
}

}  // namespace

Runtime &runtime() {
    static Runtime &runtime = *new Runtime;
    return runtime;
}

cudaError_t fail(cudaError_t error) {
    HostThread &me = mine();
    if (!me.note.empty() && error != cudaSuccess) {
        std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
        runtime().notes.push_back(me.note);
        me.note.clear();
    }
    heard(error);
    return error == cudaSuccess ? error : me.last = error;
}

// The program is told.
void heard(cudaError_t error) {
    if (error != cudaSuccess && error == runtime().fault && !mine().ignores)
        runtime().heard = true;
}

cudaError_t faulted() {
    return fail(runtime().fault);
}

ProgramKernel *kernel_at(const void *function) {
    const auto found = runtime().addresses.find(function);
    if (found == runtime().addresses.end())
        return nullptr;
    // It says who it is when it is called; what with is no matter.
    alignas(64) static char nothing[32 << 10];
    std::vector<void *> args(found->second.argc, nothing);
    Configuration shape = {};
    shape.asks = true;
    mine().shapes.push_back(shape);
    found->second.call(const_cast<void *>(function), args.data());
    return mine().asked;
}

cudaError_t launch_at(const void *function, const Configuration &shape, void **args) {
    const auto found = runtime().addresses.find(function);
    if (found == runtime().addresses.end())
        return fail(cudaErrorInvalidDeviceFunction);
    mine().shapes.push_back(shape);
    found->second.call(const_cast<void *>(function), args);
    heard(mine().launched);
    return mine().launched;
}

}  // namespace simt

using namespace simt;

extern "C" {

void simt_program(const SimtProgram *program) {
    runtime().program = *program;
    line_of = program->line;
}

bool simt_program_heard() {
    return runtime().heard;
}

void simt_ignores(bool does) {
    mine().ignores = does;
}

void *simt_function(void *function, uint32_t argc, void (*call)(void *, void **)) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    runtime().addresses[function] = {argc, call};
    return function;
}

void simt_configure(const uint32_t *grid, const uint32_t *block, size_t dynamic_shared,
                    cudaStream_t stream, int line, const char *file) {
    Configuration shape = {{}, {}, dynamic_shared, stream, line, file, false, false};
    std::copy(grid, grid + 3, shape.grid);
    std::copy(block, block + 3, shape.block);
    mine().shapes.push_back(shape);
}

void simt_program_launch(const Function *function, void (*call)(void **), uint32_t argc,
                         const uint32_t *sizes, void **args) {
    if (current)
        current->fail(current->running(),
                      "a kernel launches %s (dynamic parallelism), which is not run here",
                      function->name);
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    HostThread &me = mine();
    if (me.shapes.empty()) {
        me.launched = fail(cudaErrorMissingConfiguration);
        return;
    }
    const Configuration shape = me.shapes.back();
    me.shapes.pop_back();
    ProgramKernel &kernel = described(*function, call, argc, sizes);
    if (shape.asks) {
        me.asked = &kernel;
        return;
    }
    me.launched = refused(kernel, shape);
    // Whoever launches by <<<>>> is told nothing.
    const bool ignores = std::exchange(me.ignores, true);
    if (all.fault != cudaSuccess) {
        me.launched = faulted();
    } else if (me.launched != cudaSuccess) {
        fail(me.launched);
        char text[512];
        snprintf(text, sizeof text,
                 "%s:%d: launch of %s<<<(%u,%u,%u), (%u,%u,%u), %zu>>> failed: %s, and the program "
                 "does not ask (cudaGetLastError)",
                 shape.file, shape.line, kernel.name.c_str(), shape.grid[0], shape.grid[1],
                 shape.grid[2], shape.block[0], shape.block[1], shape.block[2],
                 shape.dynamic_shared, cudaGetErrorString(me.launched));
        me.note = text;
    } else {
        me.launched = fail(submit(shape.stream, cudaGraphNodeTypeKernel, later(kernel, shape, args)));
    }
    me.ignores = ignores;
}

cudaError_t simt_launched() {
    mine().note.clear();
    heard(mine().launched);
    return mine().launched;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **args,
                             size_t dynamic_shared, cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    const cudaError_t error = launch_at(function,
                                        {{grid.x, grid.y, grid.z},
                                         {block.x, block.y, block.z},
                                         dynamic_shared,
                                         stream,
                                         0,
                                         "cudaLaunchKernel",
                                         false,
                                         false},
                                        args);
    mine().note.clear();
    return error;
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **args,
                                        size_t dynamic_shared, cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    int fitting = 0;
    const int threads = int(block.x * block.y * block.z);
    if (const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &fitting, function, threads, dynamic_shared))
        return error;
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    if (blocks > uint64_t(fitting) * runtime().program.device.multiprocessors)
        return fail(cudaErrorCooperativeLaunchTooLarge);
    const cudaError_t error = launch_at(function,
                                        {{grid.x, grid.y, grid.z},
                                         {block.x, block.y, block.z},
                                         dynamic_shared,
                                         stream,
                                         0,
                                         "cudaLaunchCooperativeKernel",
                                         false,
                                         true},
                                        args);
    mine().note.clear();
    return error;
}

cudaError_t cudaGetLastError() {
    const cudaError_t error = cudaPeekAtLastError();
    // What a fault leaves stays.
    mine().last = runtime().fault;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    mine().note.clear();
    const cudaError_t fault = runtime().fault;
    heard(fault);
    return fault != cudaSuccess ? fault : mine().last;
}

// What is left to be said when the program has ended.
size_t simt_program_notes(bool leaks, char *text, size_t size) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    if (!mine().note.empty())
        fail(mine().last);
    std::string whole;
    for (const std::string &note : all.notes)
        whole += note + "\n";
    for (const auto &[_, a] : all.allocations)
        if (leaks && !a.registered)
            whole += std::string(a.file) + ":" + std::to_string(a.line) + ": " +
                     std::to_string(a.size) + " bytes are never freed\n";
    snprintf(text, size, "%s", whole.c_str());
    return whole.size();
}

}  // extern "C"
