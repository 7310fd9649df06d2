// The CUDA runtime's memory. Of a program under the checker the host cannot access device memory but
// through the runtime: whoever tries is remembered by where he did, and let through.
#include "runtime.h"

#include "core.h"
#include "image.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <iterator>

namespace simt {

namespace {

constexpr uintptr_t PAGE = 4096;

std::vector<SimtTouch> &touches() {
    static std::vector<SimtTouch> &touches = *new std::vector<SimtTouch>;
    return touches;
}

void protect(const std::pair<const uintptr_t, Allocation> &allocation, bool on) {
    const auto &[start, a] = allocation;
    if (a.type != cudaMemoryTypeDevice)
        return;
    const uintptr_t low = start / PAGE * PAGE, high = (start + a.size + PAGE - 1) / PAGE * PAGE;
    mprotect(reinterpret_cast<void *>(low), high - low, on ? PROT_NONE : PROT_READ | PROT_WRITE);
}

void protect_all(bool on) {
    if (runtime().program.guard)
        for (const auto &allocation : runtime().allocations)
            protect(allocation, on);
}

int reaching = 0;
struct sigaction before;

// An access to this byte of an allocation; where, is to be added.
SimtTouch touch_of(const std::pair<const uintptr_t, Allocation> &allocation, const void *p) {
    SimtTouch touch = {};
    touch.at = uintptr_t(p) - allocation.first;
    touch.size = allocation.second.size;
    touch.line = allocation.second.line;
    touch.file = allocation.second.file;
    return touch;
}

// Of a host thread in its own code.
void handle(int number, siginfo_t *info, void *context) {
    Runtime &all = runtime();
    {
        std::lock_guard<std::recursive_mutex> lock(all.mutex);
        const auto *const found = all.around(info->si_addr);
        if (found && found->second.type == cudaMemoryTypeDevice && reaching == 0) {
            const auto *const interrupted = static_cast<const ucontext_t *>(context);
            SimtTouch touch = touch_of(*found, info->si_addr);
            touch.writes = interrupted->uc_mcontext.gregs[REG_ERR] >> 1 & 1;
            interrupted_sites(interrupted, touch.site);
            touches().push_back(touch);
            protect(*found, false);
            return;
        }
    }
    // A kernel's, or nobody's: whoever was there before knows, and the next one may be ours again.
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else
        sigaction(number, &before, nullptr);
}

// Whether kernels can access these bytes: a variable's, or of an allocation.
bool device_has(const void *p, size_t size) {
    if (const auto *const found = runtime().around(p))
        return size <= found->second.size - (uintptr_t(p) - found->first);
    Dl_info image;
    return dladdr(p, &image) != 0;
}

// Whether the host can.
bool host_has(const void *p, size_t size) {
    const auto *const found = runtime().around(p);
    return !found || (found->second.type != cudaMemoryTypeDevice &&
                      size <= found->second.size - (uintptr_t(p) - found->first));
}

void define(void *p, size_t size) {
    if (runtime().around(p))
        runtime().program.define(p, size);
}

cudaError_t release(void *p, bool host) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    if (const cudaError_t error = faulted())
        return error;
    if (!p)
        return cudaSuccess;
    const auto found = all.allocations.find(uintptr_t(p));
    const bool known = found != all.allocations.end() && !found->second.registered;
    if (!known || (found->second.type == cudaMemoryTypeHost) != host)
        return fail(cudaErrorInvalidValue);
    const Reach reach;
    all.allocations.erase(found);
    all.program.release(p);
    return cudaSuccess;
}

}  // namespace

const std::pair<const uintptr_t, Allocation> *Runtime::around(const void *p) const {
    auto after = allocations.upper_bound(uintptr_t(p));
    if (after == allocations.begin())
        return nullptr;
    --after;
    return uintptr_t(p) - after->first < after->second.size ? &*after : nullptr;
}

Reach::Reach() {
    if (reaching++ == 0)
        protect_all(false);
}

Reach::~Reach() {
    if (--reaching == 0)
        protect_all(true);
}

void read_unwritten(const void *p) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    const auto *const found = runtime().around(p);
    if (!found)
        return;
    SimtTouch touch = touch_of(*found, p);
    touch.unwritten = true;
    void *frames[std::size(touch.site)];
    const int count = backtrace(frames, int(std::size(frames)));
    for (int i = 0; i < count; i++)
        touch.site[i] = site_of(uintptr_t(frames[i]));
    touches().push_back(touch);
}

cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                 size_t height, cudaMemcpyKind kind) {
    if (unsigned(kind) > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (width > to_pitch || width > from_pitch)
        return cudaErrorInvalidPitchValue;
    if (!to || !from)
        return cudaErrorInvalidValue;
    const auto has = [=](const void *p, size_t pitch, bool host) {
        const size_t size = pitch * (height - 1) + width;
        if (kind == cudaMemcpyDefault)
            return host_has(p, size) || device_has(p, size);
        return host ? host_has(p, size) : device_has(p, size);
    };
    const bool within = kind == cudaMemcpyHostToHost;
    if (!has(to, to_pitch, within || kind == cudaMemcpyDeviceToHost) ||
        !has(from, from_pitch, within || kind == cudaMemcpyHostToDevice))
        return cudaErrorInvalidValue;
    const Reach reach;
    bool some = false;
    for (size_t row = 0; row < height; row++) {
        char *const at = static_cast<char *>(to) + row * to_pitch;
        const char *const source = static_cast<const char *>(from) + row * from_pitch;
        memmove(at, source, width);
        if (runtime().around(at))
            runtime().program.carry(at, source, width);
        some = some || runtime().program.written(source, width);
    }
    // Between devices nothing is lost, and of a buffer that goes to the host some may be unused.
    if (!some && host_has(to, width))
        read_unwritten(from);
    return cudaSuccess;
}

cudaError_t fill(void *p, size_t pitch, unsigned value, size_t element, size_t width,
                 size_t height) {
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (!device_has(p, pitch * (height - 1) + width * element))
        return cudaErrorInvalidValue;
    const Reach reach;
    for (size_t row = 0; row < height; row++) {
        char *const at = static_cast<char *>(p) + row * pitch;
        for (size_t i = 0; element > 1 && i < width; i++)
            memcpy(at + i * element, &value, element);
        if (element == 1)
            memset(at, int(value), width);
        define(at, width * element);
    }
    return cudaSuccess;
}

}  // namespace simt

using namespace simt;

extern "C" {

cudaError_t simt_malloc(void **p, size_t size, cudaMemoryType type, int line, const char *file) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    if (const cudaError_t error = faulted())
        return error;
    if (!p)
        return fail(cudaErrorInvalidValue);
    *p = nullptr;
    if (size == 0)
        return type == cudaMemoryTypeManaged ? fail(cudaErrorInvalidValue) : cudaSuccess;
    // What is allocated is written to, and may share a page with what was before.
    const Reach reach;
    *p = all.program.alloc(size, type != cudaMemoryTypeDevice);
    if (!*p)
        return fail(cudaErrorMemoryAllocation);
    all.allocations[uintptr_t(*p)] = {size, type, false, line, file};
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    return release(p, false);
}

cudaError_t cudaFreeHost(void *p) {
    return release(p, true);
}

cudaError_t cudaHostRegister(void *p, size_t size, unsigned) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    if (!p || size == 0)
        return fail(cudaErrorInvalidValue);
    const auto after = all.allocations.lower_bound(uintptr_t(p));
    if (all.around(p) ||
        (after != all.allocations.end() && after->first - uintptr_t(p) < size))
        return fail(cudaErrorHostMemoryAlreadyRegistered);
    all.allocations[uintptr_t(p)] = {size, cudaMemoryTypeHost, true, 0, ""};
    all.program.share(p, size);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    const auto found = all.allocations.find(uintptr_t(p));
    if (found == all.allocations.end() || !found->second.registered)
        return fail(cudaErrorHostMemoryNotRegistered);
    all.allocations.erase(found);
    all.program.share(p, 0);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    if (!device || !runtime().around(host))
        return fail(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaHostGetFlags(unsigned *flags, void *host) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    if (!flags || !runtime().around(host))
        return fail(cudaErrorInvalidValue);
    *flags = cudaHostAllocMapped;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    if (!attributes)
        return fail(cudaErrorInvalidValue);
    const auto *const found = runtime().around(p);
    void *const same = found ? const_cast<void *>(p) : nullptr;
    const cudaMemoryType type = found ? found->second.type : cudaMemoryTypeUnregistered;
    *attributes = {type, found ? 0 : cudaInvalidDeviceId, same,
                   type == cudaMemoryTypeDevice ? nullptr : same};
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    return fail(submit(stream, cudaGraphNodeTypeMemcpy, [=] {
        return copy(to, to_pitch, from, from_pitch, width, height, kind);
    }));
}

cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms *params, cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    if (!params || params->srcArray || params->dstArray)
        return fail(cudaErrorNotSupported);
    return fail(submit(stream, cudaGraphNodeTypeMemcpy, [p = *params] {
        const auto slice = [](const cudaPitchedPtr &at, const cudaPos &position, size_t z) {
            return static_cast<char *>(at.ptr) +
                   ((position.z + z) * at.ysize + position.y) * at.pitch + position.x;
        };
        for (size_t z = 0; z < p.extent.depth; z++) {
            const cudaError_t error =
                copy(slice(p.dstPtr, p.dstPos, z), p.dstPtr.pitch, slice(p.srcPtr, p.srcPos, z),
                     p.srcPtr.pitch, p.extent.width, p.extent.height, p.kind);
            if (error != cudaSuccess)
                return error;
        }
        return cudaSuccess;
    }));
}

cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(runtime().mutex);
    return fail(submit(stream, cudaGraphNodeTypeMemset, [=] {
        return fill(p, pitch, unsigned(value), 1, width, height);
    }));
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    Runtime &all = runtime();
    std::lock_guard<std::recursive_mutex> lock(all.mutex);
    size_t used = 0;
    for (const auto &[_, a] : all.allocations)
        used += a.type == cudaMemoryTypeHost ? 0 : a.size;
    *total = all.program.device.memory;
    *free = *total - std::min(*total, used);
    return cudaSuccess;
}

// Has the host's accesses to device memory noticed, if the program is to be run so.
void simt_program_guard() {
    struct sigaction ours = {};
    ours.sa_sigaction = handle;
    // A kernel that overflows its stack has none left for a handler.
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGSEGV, &ours, &before);
}

size_t simt_program_touches(const SimtTouch **found) {
    *found = touches().data();
    return touches().size();
}

}  // extern "C"
