#include "profile.h"

#include "core.h"
#include "image.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <mutex>
#include <new>

extern "C" void __sanitizer_cov_trace_pc();

namespace simt {

__thread SimtProfiler *profiling = nullptr;

namespace {

constexpr size_t ALIGN = 256, SECTOR = 32, BANKS = 32, WORD = 4;

// FLOPs of a tensor core that cost the executor as much as an access does.
constexpr uint64_t FLOPS_A_STEP = 32;

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

SimtProfiler::SimtProfiler(size_t capacity, uint64_t budget, uint64_t most)
    : budget_(budget), most_(most), heap_{0, (capacity + 4095) / 4096 * 4096} {
    heap_.low = uintptr_t(reserve<char>(heap_.size));
    owners_ = reserve<uint32_t>(heap_.size / ALIGN);
    for (Stamp *&stamps : stamps_)
        stamps = reserve<Stamp>(heap_.size / SECTOR);
    catch_faults();
}

SimtProfiler::~SimtProfiler() {
    munmap(reinterpret_cast<void *>(heap_.low), heap_.size);
    munmap(owners_, heap_.size / ALIGN * sizeof *owners_);
    read_code({});
    for (Stamp *stamps : stamps_)
        munmap(stamps, heap_.size / SECTOR * sizeof *stamps);
}

// From now on basic blocks are counted that lie there.
void SimtProfiler::read_code(Range text) {
    if (blocks_ != nullptr)
        munmap(blocks_, text_.size * sizeof *blocks_);
    text_ = text;
    blocks_ = text.size == 0 ? nullptr : reserve<uint32_t>(text.size);
}

void *SimtProfiler::alloc(size_t bytes) {
    if (bytes > heap_.size || used_ + bytes + ALIGN > heap_.size)
        return nullptr;
    const size_t start = used_;
    used_ += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    std::fill(owners_ + start / ALIGN, owners_ + used_ / ALIGN, uint32_t(regions_.size()));
    regions_.push_back({(bytes + SECTOR - 1) / SECTOR, {}, {}, {}, {}});
    return reinterpret_cast<void *>(heap_.low + start);
}

void SimtProfiler::run(Job &job) {
    const auto function = uintptr_t(job.kernel->call);
    if (!text_.holds(function))
        read_code(image_around(function).code);
    launch_++;
    footprint_ = {};
    waits_ends_ = 0;
    for (Region &region : regions_)
        region = {region.sectors, {}, {}, {}, {}};
    places_.clear();
    memset(found_, 0, sizeof found_);
    tallies_.clear();
    requests_.clear();
    blocks_begun_ = 0;
    ends_.clear();
    begun_ends_.clear();
    for (uint32_t w = 0; w < 32; w++) {
        open_[w].clear();
        busy_[w].clear();
        beginning_[w].clear();
    }
    // Shared variables have one place for all, so one launch at a time; and a number of its own,
    // by which they know that they have not been placed yet.
    static std::mutex running;
    static uint64_t serial = 0;
    std::lock_guard<std::mutex> lock(running);
    job.serial = ++serial;
    sample_.begin(job.blocks, budget_, most_);
    if (keep_ || job.together)
        sample_.together();  // all of them, and in order
    if (job.together)
        run_in_turns(job);
    else
        run_alone(job);
    footprint_.static_shared = uint32_t(job.static_shared);
    finish();
}

// What the sample says of all blocks.
void SimtProfiler::finish() {
    for (size_t i = 0; i < tallies_.size(); i++) {
        const SimtTally ends = i < ends_.size() ? ends_[i] : SimtTally();
        SimtTally &all = tallies_[i];
        all.requests = sample_.all(ends.requests, all.requests);
        all.bytes = sample_.all(ends.bytes, all.bytes);
        all.units = sample_.all(ends.units, all.units);
        all.ideal = sample_.all(ends.ideal, all.ideal);
    }
    for (size_t i = 0; i < begun_.size(); i++) {
        const Begun &all = begun_[i], ends = i < begun_ends_.size() ? begun_ends_[i] : Begun();
        tallies_.push_back({SIMT_BASIC_BLOCK, 0, site_of(all.code + 1),
                            sample_.all(ends.threads, all.threads), 0,
                            sample_.all(ends.warps, all.warps), 0});
        blocks_[all.code - text_.low] = 0;
    }
    begun_.clear();
    for (auto &turns : turns_)
        turns.clear();
    for (const Region &region : regions_) {
        footprint_.read_by_blocks += sample_.all(region.ends[0], region.by_blocks[0]);
        footprint_.written_by_blocks += sample_.all(region.ends[1], region.by_blocks[1]);
        footprint_.read += estimate(region, false);
        footprint_.written += estimate(region, true);
    }
    footprint_.waits = sample_.all(waits_ends_, footprint_.waits);
    footprint_.run = sample_.ended();
}

// How many different sectors of the region all blocks touch. If no more of the sample's came twice
// than chance would have it, blocks share out all of the region. Otherwise it is data that says
// which, and their number goes on growing as it did, by a power (Heaps' law).
uint64_t SimtProfiler::estimate(const Region &region, bool write) const {
    const double seen = double(region.once[write]), drawn = double(region.by_blocks[write]);
    if (sample_.whole() || seen == 0)
        return region.once[write];
    const uint64_t all = sample_.all(region.ends[write], region.by_blocks[write]);
    const double size = double(region.sectors), draws = double(sample_.ended());
    const double chance = draws * (1 - size / drawn * -expm1(-drawn / size));
    if (draws * (1 - seen / drawn) <= chance + 2 * sqrt(chance) + 1)
        return std::min(std::max(region.sectors, region.once[write]), all);
    double power = 1;
    for (const Growth &then : {region.growth[write][0], region.growth[write][1]})
        if (then.once > 0 && double(then.drawn) * 1.5 <= drawn)
            power = log(seen / double(then.once)) / log(drawn / double(then.drawn));
    const double grown = seen * pow(double(all) / drawn, power);
    return std::min({uint64_t(grown), all, region.sectors});
}

void SimtProfiler::basic_block(int thread, uintptr_t code) {
    sample_.work(1);
    if (!text_.holds(code))
        return;
    uint32_t &at = blocks_[code - text_.low];
    if (at == 0) {
        begun_.push_back({code});
        at = uint32_t(begun_.size());
        for (auto &turns : turns_)
            turns.emplace_back();
    }
    const uint32_t warp = uint32_t(thread) / 32;
    Turns &turns = turns_[warp][at - 1];
    if (!turns.any)
        beginning_[warp].push_back(at - 1);
    turns.any = true;
    turns.by_lane[uint32_t(thread) % 32]++;
}

void SimtProfiler::begin_block(Range shared) {
    block_++;
    blocks_begun_++;
    turn_ = 0;
    shared_ = shared;
}

void SimtProfiler::pause() {
    for (uint32_t warp = 0; warp < 32; warp++)
        end_warp(warp);
}

void SimtProfiler::resume(Range shared) {
    block_++;
    shared_ = shared;
}

uint32_t SimtProfiler::place(uint32_t kind, uintptr_t code) {
    const uint64_t site = site_of(code), key = site << 8 | kind;
    Found &found = found_[(site ^ kind) % std::size(found_)];
    if (found.key == key && found.at != 0)
        return found.at - 1;
    const auto [at, is_new] = places_.try_emplace(key, uint32_t(tallies_.size()));
    if (is_new) {
        tallies_.push_back({kind, 0, site, 0, 0, 0, 0});
        for (auto &open : open_)
            open.emplace_back();
    }
    found = {key, at->second + 1};
    return at->second;
}

void SimtProfiler::access(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code) {
    const uint32_t warp = uint32_t(thread) / 32, lane = 1u << (uint32_t(thread) % 32);
    const bool fresh = record(a, n, how, thread, code);
    if (how != SIMT_READ)
        arrive(warp, lane);
    else if (fresh)
        awaited_[warp] |= lane;
}

void SimtProfiler::copy(uintptr_t to, uintptr_t from, size_t size, size_t there, int thread,
                        uintptr_t code) {
    if (there > 0)
        record(from, there, SIMT_READ, thread, code);
    record(to, size, SIMT_COPIES, thread, code);
}

bool SimtProfiler::record(uintptr_t a, size_t n, uint32_t how, int thread, uintptr_t code) {
    const bool shared = shared_.holds(a);
    // Constants of the program are no memory of the device's.
    if (!shared && !heap_.holds(a))
        return false;
    sample_.work(1);
    bool fresh = false;
    // An instruction has 16 bytes at most.
    for (; n > 16; a += 16, n -= 16)
        fresh |= record(a, 16, how, thread, code);
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
    if (shared)
        return false;
    sample_.moved(n);
    if (how == SIMT_ATOMIC)
        sample_.together();
    if (how != SIMT_READ)
        touch(a, n, true);
    return (how == SIMT_READ || how == SIMT_ATOMIC) && touch(a, n, false) | fresh;
}

bool SimtProfiler::touch(uint64_t sector, bool write) {
    Stamp &stamp = stamps_[write][sector];
    if (stamp.block == block_)
        return false;
    Region &region = regions_[owners_[sector / (ALIGN / SECTOR)]];
    region.by_blocks[write]++;
    region.once[write] += stamp.launch != launch_;
    stamp = {block_, launch_};
    return true;
}

bool SimtProfiler::touch(uintptr_t a, size_t n, bool write) {
    const uint64_t first = (a - heap_.low) / SECTOR, last = (a + n - 1 - heap_.low) / SECTOR;
    bool fresh = false;
    for (uint64_t sector = first; sector <= last; sector++)
        fresh |= touch(sector, write);
    return fresh;
}

void SimtProfiler::arrive(uint32_t warp, uint32_t lanes) {
    for (uint32_t rest = awaited_[warp] & lanes; rest != 0; rest &= rest - 1)
        waits_[warp][__builtin_ctz(rest)]++;
    awaited_[warp] &= ~lanes;
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
    for (const uint32_t at : beginning_[warp]) {
        Turns &turns = turns_[warp][at];
        begun_[at].warps += *std::max_element(turns.by_lane, turns.by_lane + 32);
        for (const uint32_t times : turns.by_lane)
            begun_[at].threads += times;
        turns = {};
    }
    beginning_[warp].clear();
}

void SimtProfiler::complete(SimtTally &tally, const Request &request) {
    tally.requests++;
    tally.size = std::max(tally.size, request.size);
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
    sample_.work(32 + kind.flops / FLOPS_A_STEP);
    arrive(warp, ~0u);
    if (whole)
        complete(warp);
}

void SimtProfiler::barrier(uintptr_t code) {
    tallies_[place(SIMT_BARRIER, code)].requests++;
    for (uint32_t warp = 0; warp < 32; warp++) {
        arrive(warp, ~0u);
        complete(warp);
    }
    turn_++;
}

void SimtProfiler::end_warp(uint32_t warp) {
    complete(warp);
    arrive(warp, ~0u);
    footprint_.waits += *std::max_element(waits_[warp], waits_[warp] + 32);
    memset(waits_[warp], 0, sizeof waits_[warp]);
}

void SimtProfiler::end_block() {
    for (uint32_t warp = 0; warp < 32; warp++)
        end_warp(warp);
    sample_.end_block();
    const uint64_t ended = sample_.ended();
    if ((ended & (ended - 1)) == 0)
        for (Region &region : regions_)
            for (uint32_t write = 0; write < 2; write++) {
                auto &growth = region.growth[write];
                growth[0] = growth[1];
                growth[1] = {region.once[write], region.by_blocks[write]};
            }
    if (!sample_.at_ends())
        return;
    ends_ = tallies_;
    begun_ends_ = begun_;
    for (Region &region : regions_)
        std::copy(region.by_blocks, region.by_blocks + 2, region.ends);
    waits_ends_ = footprint_.waits;
}

void SimtProfiler::tma(uintptr_t a, size_t n, uintptr_t code) {
    SimtTally &tally = tallies_[place(SIMT_TMA, code)];
    tally.requests++;
    tally.bytes += n;
    tally.units += (a + n - 1) / SECTOR - a / SECTOR + 1;
    tally.ideal += (n + SECTOR - 1) / SECTOR;
    touch(a, n, false);
    sample_.work(n / 16);
    sample_.moved(n);
}

void SimtProfiler::wgmma(uint64_t flops, uintptr_t code) {
    SimtTally &tally = tallies_[place(SIMT_WGMMA, code)];
    tally.requests++;
    tally.units += flops;
    sample_.work(flops / FLOPS_A_STEP);
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

SimtProfiler *simt_profiler_new(size_t capacity, uint64_t budget, uint64_t most_blocks) {
    try {
        return new SimtProfiler(capacity, budget, most_blocks);
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
