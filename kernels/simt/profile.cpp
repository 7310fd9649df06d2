#include "profile.h"

#include "core.h"
#include "image.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>

extern "C" void __sanitizer_cov_trace_pc();

namespace simt {

__thread SimtProfiler *profiling = nullptr;

namespace {

constexpr size_t ALIGN = 256, SECTOR = 32, BANKS = 32, WORD = 4;

// Where the image starts that a function lies in, and the executable part of it around that.
struct Image {
    uintptr_t start;
    Range code;
};

Image image_around(uintptr_t function) {
    Dl_info symbol;
    dladdr(reinterpret_cast<void *>(function), &symbol);
    struct Search {
        uintptr_t function;
        Range found;
    } search = {function, {}};
    const auto look = [](dl_phdr_info *info, size_t, void *data) {
        auto &search = *static_cast<Search *>(data);
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto &part = info->dlpi_phdr[i];
            const Range range = {info->dlpi_addr + part.p_vaddr, part.p_memsz};
            if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0 ||
                !range.holds(search.function))
                continue;
            search.found = range;
            return 1;
        }
        return 0;
    };
    dl_iterate_phdr(look, &search);
    return {uintptr_t(symbol.dli_fbase), search.found};
}

// Distinct multiples of a unit that some ranges of bytes touch.
struct Units {
    uint64_t unit[32 * 5];  // 16 bytes are in five words at most
    size_t count = 0;

    void add(uintptr_t a, size_t size, size_t bytes) {
        for (uint64_t u = a / bytes; u <= (a + size - 1) / bytes; u++)
            unit[count++] = u;
    }
    void sort() {
        if (!std::is_sorted(unit, unit + count))
            std::sort(unit, unit + count);
        count = size_t(std::unique(unit, unit + count) - unit);
    }
};

// Words of shared memory that some lanes want; rounds until every bank has served its own.
struct Wavefronts {
    uint64_t rounds, ideal;
};

Wavefronts wavefronts(const Request &request, uint32_t lanes) {
    Units words;
    for (uint32_t rest = lanes & request.lanes; rest != 0; rest &= rest - 1)
        words.add(request.address[__builtin_ctz(rest)], request.size, WORD);
    words.sort();
    uint32_t wanted[BANKS] = {}, most = 0;
    for (size_t i = 0; i < words.count; i++)
        most = std::max(most, ++wanted[words.unit[i] % BANKS]);
    return {most, (words.count + BANKS - 1) / BANKS};
}

}  // namespace

}  // namespace simt

using namespace simt;

SimtProfiler::SimtProfiler(size_t capacity)
    : heap_{0, (capacity + 4095) / 4096 * 4096} {
    heap_.low = uintptr_t(reserve<char>(heap_.size));
    for (Stamp *&stamps : stamps_)
        stamps = reserve<Stamp>(heap_.size / SECTOR);
    catch_faults();
}

SimtProfiler::~SimtProfiler() {
    munmap(reinterpret_cast<void *>(heap_.low), heap_.size);
    read_code({});
    for (Stamp *stamps : stamps_)
        munmap(stamps, heap_.size / SECTOR * sizeof *stamps);
}

// From now on basic blocks are counted that lie there.
void SimtProfiler::read_code(Range text) {
    if (blocks_ != nullptr)
        munmap(blocks_, text_.size * sizeof *blocks_);
    text_ = text;
    blocks_ = text.size == 0 ? nullptr : reserve<uint64_t>(text.size);
}

void *SimtProfiler::alloc(size_t bytes) {
    if (bytes > heap_.size || used_ + bytes + ALIGN > heap_.size)
        return nullptr;
    const size_t start = used_;
    used_ += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return reinterpret_cast<void *>(heap_.low + start);
}

void SimtProfiler::run(Job &job) {
    const auto function = uintptr_t(job.kernel->call);
    if (!text_.holds(function))
        read_code(image_around(function).code);
    launch_++;
    footprint_ = {};
    places_.clear();
    tallies_.clear();
    requests_.clear();
    blocks_begun_ = 0;
    for (uint32_t w = 0; w < 32; w++) {
        open_[w].clear();
        busy_[w].clear();
    }
    // Shared variables have one place for all, so one launch at a time; and a number of its own,
    // by which they know that they have not been placed yet.
    static std::mutex running;
    static uint64_t serial = 0;
    std::lock_guard<std::mutex> lock(running);
    job.serial = ++serial;
    run_alone(job);
    footprint_.static_shared = uint32_t(job.static_shared);
    for (const uintptr_t code : begun_) {
        uint64_t &times = blocks_[code - text_.low];
        tallies_.push_back({SIMT_BASIC_BLOCK, site_of(code + 1), times, 0, 0, 0});
        times = 0;
    }
    begun_.clear();
}

void SimtProfiler::basic_block(uintptr_t code) {
    if (text_.holds(code) && blocks_[code - text_.low]++ == 0)
        begun_.push_back(code);
}

void SimtProfiler::begin_block(Range shared) {
    block_++;
    blocks_begun_++;
    turn_ = 0;
    shared_ = shared;
}

uint32_t SimtProfiler::place(uint32_t kind, uintptr_t code) {
    const uint64_t site = site_of(code);
    const auto [at, is_new] = places_.try_emplace(site << 8 | kind, uint32_t(tallies_.size()));
    if (is_new) {
        tallies_.push_back({kind, site, 0, 0, 0, 0});
        for (auto &open : open_)
            open.emplace_back();
    }
    return at->second;
}

void SimtProfiler::access(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code) {
    const bool shared = shared_.holds(a);
    // Constants of the program are no memory of the device's.
    if (!shared && !heap_.holds(a))
        return;
    // An instruction has 16 bytes at most.
    for (; n > 16; a += 16, n -= 16)
        access(a, 16, how, thread, code);
    const uint32_t what = how == SIMT_READ ? 0 : how == SIMT_ATOMIC ? 2 : 1;
    const uint32_t at = place((shared ? SIMT_SHARED_READ : SIMT_GLOBAL_READ) + what, code);
    const uint32_t warp = uint32_t(thread) / 32, lane = uint32_t(thread) % 32;
    Requests &requests = open_[warp][at];
    if (requests.all.empty())
        busy_[warp].push_back(at);
    const uint32_t turn = requests.done[lane]++;
    if (turn >= requests.all.size())
        requests.all.resize(turn + 1);
    Request &request = requests.all[turn];
    request.lanes |= 1u << lane;
    request.size = uint32_t(n);
    request.address[lane] = a;
}

void SimtProfiler::touch(uint64_t sector, bool write) {
    Stamp &stamp = stamps_[write][sector];
    uint64_t &by_blocks = write ? footprint_.written_by_blocks : footprint_.read_by_blocks;
    uint64_t &once = write ? footprint_.written : footprint_.read;
    by_blocks += stamp.block != block_;
    once += stamp.launch != launch_;
    stamp = {block_, launch_};
}

// What the warp has asked for so far, no lane will join any more.
void SimtProfiler::complete(uint32_t warp) {
    for (const uint32_t at : busy_[warp]) {
        Requests &requests = open_[warp][at];
        for (const Request &request : requests.all) {
            complete(tallies_[at], request);
            if (keep_)
                keep(warp, tallies_[at].kind, request);
        }
        requests.all.clear();
        memset(requests.done, 0, sizeof requests.done);
    }
    busy_[warp].clear();
}

void SimtProfiler::complete(SimtTally &tally, const Request &request) {
    tally.requests++;
    tally.bytes += uint64_t(__builtin_popcount(request.lanes)) * request.size;
    if (tally.kind >= SIMT_SHARED_READ) {
        const Wavefronts all = wavefronts(request, ~0u);
        const uint32_t parts = request.size <= 4 || all.rounds == 1 ? 1 : request.size <= 8 ? 2 : 4;
        const uint32_t lanes = 32 / parts;
        for (uint32_t part = 0; part < parts; part++) {
            const Wavefronts some = wavefronts(request, ~0u >> (32 - lanes) << part * lanes);
            tally.units += some.rounds;
            tally.ideal += some.ideal;
        }
        return;
    }
    Units sectors;
    uintptr_t first[32];
    size_t count = 0;
    for (uint32_t rest = request.lanes; rest != 0; rest &= rest - 1) {
        const uintptr_t a = request.address[__builtin_ctz(rest)];
        sectors.add(a, request.size, SECTOR);
        first[count++] = a;
    }
    sectors.sort();
    std::sort(first, first + count);
    uint64_t bytes = 0;
    uintptr_t end = 0;
    for (size_t i = 0; i < count; i++) {
        const uintptr_t from = std::max(first[i], end);
        end = std::max(end, first[i] + request.size);
        bytes += end - from;
    }
    tally.units += sectors.count;
    tally.ideal += (bytes + SECTOR - 1) / SECTOR;
    for (size_t i = 0; i < sectors.count; i++) {
        const uint64_t sector = sectors.unit[i] - heap_.low / SECTOR;
        if (tally.kind != SIMT_GLOBAL_WRITE)
            touch(sector, false);
        if (tally.kind != SIMT_GLOBAL_READ)
            touch(sector, true);
    }
}

void SimtProfiler::keep(uint32_t warp, uint32_t kind, const Request &request) {
    SimtRequest kept = {kind, blocks_begun_ - 1, warp, turn_, request.lanes, request.size, {}};
    const uintptr_t start = kind >= SIMT_SHARED_READ ? shared_.low : 0;
    for (uint32_t rest = request.lanes; rest != 0; rest &= rest - 1)
        kept.address[__builtin_ctz(rest)] = request.address[__builtin_ctz(rest)] - start;
    requests_.push_back(kept);
}

void SimtProfiler::collective(uint32_t warp, const Collective &kind, bool whole, uintptr_t code) {
    SimtTally &tally = tallies_[place(kind.flops > 0 ? SIMT_MMA : SIMT_WARP_OP, code)];
    tally.requests++;
    tally.units += kind.flops;
    if (whole)
        complete(warp);
}

void SimtProfiler::barrier(uintptr_t code) {
    tallies_[place(SIMT_BARRIER, code)].requests++;
    for (uint32_t warp = 0; warp < 32; warp++)
        complete(warp);
    turn_++;
}

void SimtProfiler::end_block() {
    for (uint32_t warp = 0; warp < 32; warp++)
        complete(warp);
}

void SimtProfiler::tma(uintptr_t a, size_t n, uintptr_t code) {
    SimtTally &tally = tallies_[place(SIMT_TMA, code)];
    tally.requests++;
    tally.bytes += n;
    for (uint64_t sector = a / SECTOR; sector <= (a + n - 1) / SECTOR; sector++) {
        tally.units++;
        touch(sector - heap_.low / SECTOR, false);
    }
    tally.ideal += (n + SECTOR - 1) / SECTOR;
}

void SimtProfiler::wgmma(uint64_t flops, uintptr_t code) {
    SimtTally &tally = tallies_[place(SIMT_WGMMA, code)];
    tally.requests++;
    tally.units += flops;
}

SimtCode simt_code(const void *function) {
    const Image image = image_around(uintptr_t(function));
    const bool in_library = image.start == library_start;
    return {in_library ? image.start - LIBRARY_SITES : image.start,
            image.start,
            image.code.low,
            image.code.size,
            uintptr_t(&__sanitizer_cov_trace_pc),
            uintptr_t(&simt_special),
            uintptr_t(&simt_fused)};
}

void simt_loaded(const void *function) {
    library_start = image_around(uintptr_t(function)).start;
}

SimtProfiler *simt_profiler_new(size_t capacity) {
    try {
        return new SimtProfiler(capacity);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void simt_profiler_delete(SimtProfiler *profiler) {
    delete profiler;
}

void *simt_profiler_alloc(SimtProfiler *profiler, size_t bytes) {
    return profiler->alloc(bytes);
}

size_t simt_profiler_tallies(const SimtProfiler *profiler, SimtFootprint *footprint,
                             const SimtTally **tallies) {
    *footprint = profiler->footprint();
    *tallies = profiler->tallies().data();
    return profiler->tallies().size();
}

void simt_profiler_keep(SimtProfiler *profiler) {
    profiler->keep();
}

size_t simt_profiler_requests(const SimtProfiler *profiler, const SimtRequest **requests) {
    *requests = profiler->requests().data();
    return profiler->requests().size();
}
