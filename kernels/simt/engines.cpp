#include "engines.h"

#include "check.h"
#include "core.h"
#include "profile.h"

#include <cmath>
#include <cstring>

namespace simt {

namespace {

constexpr size_t ROW = TILE_ROW;
constexpr uintptr_t REPEAT = 8 * ROW;  // bytes after which the swizzle repeats

// The eight elements from `address` on, as floats.
void fetch(const unsigned char *address, float (&to)[8]) {
    uint16_t bits[8];
    memcpy(bits, reinterpret_cast<const void *>(swizzled(uintptr_t(address))), sizeof bits);
    for (int i = 0; i < 8; i++)
        to[i] = cuda::__uint_as_float(uint32_t(bits[i]) << 16);
}

// Row and column of a lane's element j of a tile's sums.
int sum_row(int lane, int j) {
    return lane / 4 + j / 2 * 8;
}
int sum_column(int lane, int tile, int j) {
    return 8 * tile + lane % 4 * 2 + j % 2;
}

constexpr uint64_t MAGIC = 1;  // in the two highest bits: neither 0 nor poison is an mbarrier

}  // namespace

uint64_t Mbarrier::encode() const {
    return MAGIC << 62 | uint64_t(parity) << 61 | (uint64_t(bytes) & 0x1fffff) << 40 |
           uint64_t(pending) << 20 | expected;
}

bool Mbarrier::decode(uint64_t word) {
    expected = uint32_t(word & MOST);
    pending = uint32_t(word >> 20 & MOST);
    bytes = int32_t(uint32_t(word >> 40 & 0x1fffff) << 11) >> 11;
    parity = uint32_t(word >> 61 & 1);
    return word >> 62 == MAGIC;
}

BoxCopy::BoxCopy(void *to, const TensorBox &box, int64_t column_bytes, int64_t row)
    : to(static_cast<unsigned char *>(to)), bytes(box.bytes()) {
    box.each_row(column_bytes, row, [&](size_t at, const unsigned char *from, size_t n) {
        memcpy(&bytes[at], from, n);
    });
}

void BoxCopy::poison() {
    memset(to, 0xff, bytes.size());
}

void BoxCopy::land() const {
    for (size_t i = 0; i < bytes.size(); i += 16)
        memcpy(reinterpret_cast<void *>(swizzled(uintptr_t(to + i))), &bytes[i], 16);
}

WgmmaQueue::Sums &WgmmaQueue::sums_of(const Wgmma &wgmma) {
    for (Sums &sums : sums_)
        if (sums.d[0] == wgmma.d[0])
            return sums;
    sums_.push_back({{}, wgmma.tiles, std::vector<float>(size_t(16 * 8 * wgmma.tiles)), 0});
    Sums &sums = sums_.back();
    memcpy(sums.d, wgmma.d, sizeof sums.d);
    for (int lane = 0; lane < 32; lane++)
        for (int tile = 0; tile < sums.tiles; tile++)
            for (int j = 0; j < 4; j++) {
                float &d = sums.d[lane][4 * tile + j];
                const int column = sum_column(lane, tile, j);
                sums.values[size_t(sum_row(lane, j) * 8 * sums.tiles + column)] = d;
                d = NAN;
            }
    return sums;
}

void WgmmaQueue::issue(const Wgmma &wgmma, int first_row) {
    sums_of(wgmma).pending++;
    pending_.push_back({wgmma, first_row, group_});
}

void WgmmaQueue::run(const Operation &operation) {
    const Wgmma &wgmma = operation.wgmma;
    Sums &sums = sums_of(wgmma);
    const int width = 8 * wgmma.tiles;
    constexpr int MOST = 256;
    float a[16][16], b[16][MOST];  // [row][k], [k][column]
    float eight[8];
    for (int k = 0; k < 16 && !wgmma.outer_a; k += 8)
        for (int row = 0; row < 16; row++) {
            fetch(wgmma.a + size_t(operation.first_row + row) * ROW + 2 * k, eight);
            memcpy(&a[row][k], eight, sizeof eight);
        }
    for (int k = 0; k < 16 && wgmma.outer_a; k++)
        for (int row = 0; row < 16; row += 8) {
            fetch(wgmma.a + size_t(k) * ROW + 2 * (operation.first_row + row), eight);
            for (int i = 0; i < 8; i++)
                a[row + i][k] = eight[i];
        }
    for (int k = 0; k < 16 && !wgmma.outer_b; k += 8)
        for (int column = 0; column < width; column++) {
            fetch(wgmma.b + size_t(column) * ROW + 2 * k, eight);
            for (int i = 0; i < 8; i++)
                b[k + i][column] = eight[i];
        }
    for (int k = 0; k < 16 && wgmma.outer_b; k++)
        for (int column = 0; column < width; column += 8) {
            const size_t tile = size_t(column / 64) * OUTER_TILE;
            fetch(wgmma.b + tile + size_t(k) * ROW + 2 * (column % 64), eight);
            memcpy(&b[k][column], eight, sizeof eight);
        }
    for (int row = 0; row < 16; row++) {
        float *to = &sums.values[size_t(row * width)];
        if (!wgmma.add)
            memset(to, 0, size_t(width) * sizeof *to);
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < width; column++)
                to[column] += a[row][k] * b[k][column];
    }
    sums.pending--;
}

void WgmmaQueue::land(size_t count) {
    for (size_t i = 0; i < count; i++)
        run(pending_[i]);
    pending_.erase(pending_.begin(), pending_.begin() + ptrdiff_t(count));
    size_t kept = 0;
    for (Sums &sums : sums_) {
        if (sums.pending > 0) {
            if (&sums_[kept] != &sums)
                sums_[kept] = std::move(sums);
            kept++;
            continue;
        }
        for (int lane = 0; lane < 32; lane++)
            for (int tile = 0; tile < sums.tiles; tile++)
                for (int j = 0; j < 4; j++) {
                    const int column = sum_column(lane, tile, j);
                    sums.d[lane][4 * tile + j] =
                        sums.values[size_t(sum_row(lane, j) * 8 * sums.tiles + column)];
                }
    }
    sums_.erase(sums_.begin() + ptrdiff_t(kept), sums_.end());
}

void WgmmaQueue::wait(uint64_t keep) {
    size_t count = 0;
    while (count < pending_.size() && pending_[count].group + keep < group_)
        count++;
    land(count);
}

void WgmmaQueue::forget() {
    pending_.clear();
    sums_.clear();
    group_ = 0;
}

// The executor's side

Mbarrier Core::mbarrier(const uint64_t *word, const char *what, int line, const char *file) {
    Mbarrier barrier = {};
    if (uintptr_t(word) % 8 != 0 || !shared_holds(word, sizeof *word))
        fail(running(), "%s at %s:%d: mbarrier %p is not 8 bytes of shared memory", what, file,
             line, static_cast<const void *>(word));
    if (!barrier.decode(*word))
        fail(running(), "%s at %s:%d: mbarrier %p is not initialised", what, file, line,
             static_cast<const void *>(word));
    return barrier;
}

void Core::mbarrier_init(uint64_t *word, uint32_t arrivals, int line, const char *file,
                         uintptr_t site) {
    if (uintptr_t(word) % 8 != 0 || !shared_holds(word, sizeof *word))
        fail(running(), "mbarrier_init at %s:%d: mbarrier %p is not 8 bytes of shared memory",
             file, line, static_cast<void *>(word));
    if (arrivals < 1 || arrivals > Mbarrier::MOST)
        fail(running(), "mbarrier_init at %s:%d: %u arrivals", file, line, arrivals);
    if (check_)
        check_->meeting(word, running(), site);
    *word = Mbarrier{arrivals, arrivals, 0, 0}.encode();
}

// Stores the barrier, in its next phase if this one is complete.
void Core::mbarrier_update(uint64_t *word, Mbarrier barrier) {
    if (barrier.complete()) {
        barrier.parity ^= 1;
        barrier.pending = barrier.expected;
        if (check_)
            check_->complete(word);
        for (uint32_t w = 0; w * 32 < job_->threads; w++)
            for (uint32_t lanes = warps_[w].waiting; lanes != 0; lanes &= lanes - 1) {
                const uint32_t lane = uint32_t(__builtin_ctz(lanes));
                const Thread &thread = threads_[w * 32 + lane];
                if (thread.arg == word && thread.mask != barrier.parity) {
                    if (check_)
                        check_->passed(word, int(w * 32 + lane));
                    warps_[w].waiting &= ~(1u << lane);
                    make_ready(w, 1u << lane);
                }
            }
    }
    *word = barrier.encode();
}

void Core::mbarrier_arrive(uint64_t *word, uint32_t bytes, int line, const char *file,
                           uintptr_t site) {
    Mbarrier barrier = mbarrier(word, "mbarrier_arrive", line, file);
    if (barrier.pending == 0)
        fail(running(), "mbarrier_arrive at %s:%d: more arrivals than the %u that mbarrier %p is "
                        "made for", file, line, barrier.expected, static_cast<void *>(word));
    if (bytes > Mbarrier::MOST || int64_t(barrier.bytes) + bytes > Mbarrier::MOST)
        fail(running(), "mbarrier_arrive at %s:%d: more than %u bytes", file, line,
             Mbarrier::MOST);
    if (check_)
        check_->arrive(word, running(), site);
    barrier.bytes += int32_t(bytes);
    barrier.pending--;
    mbarrier_update(word, barrier);
}

void *Core::mbarrier_wait(uint64_t *word, uint32_t parity, int line, const char *file, void *sp) {
    const Mbarrier barrier = mbarrier(word, "mbarrier_wait", line, file);
    Thread &self = *running_;
    self.kind = &MBARRIER_WAIT;
    self.file = file;
    self.line = line;
    if (check_)
        check_->wait(word, running(), site_of(sp));
    if (barrier.parity != parity) {
        if (check_)
            check_->passed(word, running());
        return sp;
    }
    self.sp = sp;
    self.arg = word;
    self.mask = parity;
    warps_[warp_].waiting |= 1u << (running() % 32);
    choose(false);
    return stack_of_running();
}

bool Core::at_once() {
    const uint32_t landing = job_->launch.landing;
    return landing == SIMT_LAND_AT_ONCE || (landing == SIMT_LAND_RANDOMLY && coin());
}

void Core::tma_load(void *to, const TensorBox &box, int column, int row, uint64_t *barrier,
                    int line, const char *file, uintptr_t site) {
    mbarrier(barrier, "tma_load", line, file);
    if (uintptr_t(to) % ROW != 0 || !shared_holds(to, box.bytes()))
        fail(running(), "tma_load at %s:%d: %p is not %zu bytes of shared memory, or not aligned "
                        "to %zu", file, line, to, box.bytes(), ROW);
    if (check_) {
        box.each_row(2 * int64_t(column), row, [&](size_t, const unsigned char *from, size_t n) {
            check_->access(uintptr_t(from), n, SIMT_READ, running(), site);
        });
        check_->box(uintptr_t(to), box.bytes(), barrier, running(), site);
    }
    if (profile_)
        box.each_row(2 * int64_t(column), row, [&](size_t, const unsigned char *from, size_t n) {
            profile_->tma(uintptr_t(from), n, site);
        });
    engaged_ = true;
    boxes_.emplace_back(to, box, 2 * int64_t(column), row);
    boxes_.back().barrier = barrier;
    boxes_.back().file = file;
    boxes_.back().line = line;
    boxes_.back().poison();
    if (at_once())
        land_box(boxes_.size() - 1);
}

void Core::land_box(size_t i) {
    const BoxCopy copy = std::move(boxes_[i]);
    boxes_.erase(boxes_.begin() + ptrdiff_t(i));
    copy.land();
    if (check_)
        check_->box_landed(uintptr_t(copy.to), copy.bytes.size());
    uint64_t *word = copy.barrier;
    Mbarrier barrier = {};
    // The kernel may have written over it since.
    if (!barrier.decode(*word))
        return;
    barrier.bytes -= int32_t(copy.bytes.size());
    mbarrier_update(word, barrier);
}

// No thread can go on: bytes arrive, until one can.
void Core::land_boxes() {
    while (ready_warps_ == 0 && !boxes_.empty())
        land_box(job_->launch.landing == SIMT_LAND_RANDOMLY ? draw() % boxes_.size() : 0);
}

void Core::wgmma_issue(const Lanes &lanes, const Wgmma &wgmma) {
    // A slice starts in the first row of its tile, with K outermost at each eighth row.
    const auto check = [&](const unsigned char *matrix, bool outer, int count) {
        const unsigned char *tile = matrix - uintptr_t(matrix) % REPEAT;
        if (uintptr_t(matrix) % 16 != 0 || uintptr_t(matrix) % REPEAT + 32 > (outer ? 32 : ROW))
            lanes.fail(0, "matrix %p does not start at a multiple of %zu bytes%s",
                       static_cast<const void *>(matrix), size_t(REPEAT),
                       outer ? "" : ", or 32, 64 or 96 bytes after one");
        const size_t last = size_t(count / 64 - 1) * OUTER_TILE;
        if (!shared_holds(tile, outer ? last + 16 * ROW : size_t(count) * ROW))
            lanes.fail(0, "matrix %p, %d %s, is not in shared memory",
                       static_cast<const void *>(matrix), count, outer ? "columns" : "rows");
    };
    check(wgmma.a, wgmma.outer_a, 64);
    check(wgmma.b, wgmma.outer_b, 8 * wgmma.tiles);
    engaged_ = true;
    const int first_row = int(warp_ % 4) * 16;
    if (check_) {
        const uint64_t group = wgmmas_[warp_].group();
        const uintptr_t site = site_of(threads_[lane(0)].sp);
        // 16 elements of so many rows.
        const auto fetch = [&](const unsigned char *first, int rows) {
            check_->fetch(first, rows, group, lane(0), site);
        };
        const size_t row = size_t(first_row);
        fetch(wgmma.a + (wgmma.outer_a ? 2 * row : ROW * row), 16);
        if (!wgmma.outer_b)
            fetch(wgmma.b, 8 * wgmma.tiles);
        for (int column = 0; column < 8 * wgmma.tiles && wgmma.outer_b; column += 16)
            fetch(wgmma.b + size_t(column / 64) * OUTER_TILE + 2 * size_t(column % 64), 16);
    }
    if (profile_)
        profile_->wgmma(2ull * 16 * 16 * 8 * uint64_t(wgmma.tiles), site_of(threads_[lane(0)].sp));
    wgmmas_[warp_].issue(wgmma, first_row);
    if (at_once())
        wgmmas_[warp_].land_all();
}

void Core::wgmma_wait(uint64_t keep) {
    wgmmas_[warp_].wait(keep);
    if (check_)
        check_->fetched(warp_, wgmmas_[warp_].group(), keep);
}

void Core::forget_engines() {
    if (!engaged_)
        return;
    engaged_ = false;
    boxes_.clear();
    for (WgmmaQueue &queue : wgmmas_)
        queue.forget();
}

}  // namespace simt

void simt_mbarrier_init(uint64_t *barrier, uint32_t arrivals, int line, const char *file) {
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->mbarrier_init(barrier, arrivals, line, file, site);
}

void simt_mbarrier_arrive(uint64_t *barrier, uint32_t bytes, int line, const char *file) {
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->mbarrier_arrive(barrier, bytes, line, file, site);
}

extern "C" uint32_t simt_mbarrier_parity(const uint64_t *barrier, int line, const char *file) {
    return simt::current->mbarrier_parity(barrier, line, file);
}

// The rest of simt_mbarrier_wait (fiber.cpp).
extern "C" void *simt_arrive_at_mbarrier(uint64_t *barrier, uint32_t parity, int line,
                                         const char *file, void *sp) {
    return simt::current->mbarrier_wait(barrier, parity, line, file, sp);
}

void simt_tma_load(void *shared, const void *map, int column, int row, uint64_t *barrier, int line,
                   const char *file) {
    simt::TensorBox box;
    memcpy(&box, map, sizeof box);
    const auto site = uintptr_t(__builtin_return_address(0));
    simt::current->tma_load(shared, box, column, row, barrier, line, file, site);
}

void simt_wgmma_issue(const simt::Lanes &lanes, const simt::Wgmma &wgmma) {
    simt::current->wgmma_issue(lanes, wgmma);
}

void simt_wgmma_commit() {
    simt::current->wgmma_commit();
}

void simt_wgmma_wait(uint64_t keep) {
    simt::current->wgmma_wait(keep);
}
