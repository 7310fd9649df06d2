// What the checker makes of mbarriers, TMA and wgmma.
#include "check.h"
#include "engines.h"

#include <algorithm>
#include <cstring>

using namespace simt;

void SimtChecker::meeting(const uint64_t *word, int thread, uintptr_t code) {
    access(uintptr_t(word), sizeof *word, SIMT_WRITE, thread, code);
    const uint8_t next = uint8_t(std::min<size_t>(meetings_.size() + 1, UINT8_MAX));
    Meeting &meeting = meetings_.try_emplace(word, Meeting{next, 0, {}, {}}).first->second;
    // It may not be the first there.
    meeting.phase++;
    meeting.arrived = meeting.passed = {};
}

void SimtChecker::arrive(const uint64_t *word, int thread, uintptr_t code) {
    access(uintptr_t(word), sizeof *word, SIMT_ATOMIC, thread, code);
    meetings_[word].arrived.add(known_now(thread));
}

void SimtChecker::wait(const uint64_t *word, int thread, uintptr_t code) {
    access(uintptr_t(word), sizeof *word, SIMT_ATOMIC, thread, code);
}

void SimtChecker::complete(const uint64_t *word) {
    Meeting &meeting = meetings_[word];
    meeting.arrived.complete(meeting.number, ++meeting.phase);
    meeting.passed = meeting.arrived;
}

void SimtChecker::passed(const uint64_t *word, int thread) {
    const Known &passed = meetings_[word].passed;
    if (!passed.empty())
        known_[thread].add(passed);
}

void SimtChecker::box(uintptr_t a, size_t n, const uint64_t *word, int thread, uintptr_t code) {
    const Meeting &meeting = meetings_[word];
    const Unit tma = {meeting.number, meeting.phase};
    access(a, n, SIMT_COPIES, thread, code, &tma);
}

void SimtChecker::box_landed(uintptr_t a, size_t n) {
    memset(shared_.state(a), DEFINED, n);
}

void SimtChecker::fetch(const unsigned char *first, int rows, uint64_t group, int thread,
                        uintptr_t code) {
    const Unit wgmma = {0, 0};
    each_chunk(first, rows, [&](uintptr_t a) {
        access(a, CHUNK, SIMT_READ, thread, code, &wgmma);
    });
    fetches_.push_back({first, rows, past(SIMT_READ, thread, code), group, false});
}

void SimtChecker::fetched(uint32_t warp, uint64_t group, uint64_t keep) {
    for (Fetch &fetch : fetches_)
        if (!fetch.over && fetch.past.thread / 32u == warp && fetch.group + keep < group) {
            fetch.over = true;
            fetch.past.epoch = now_;
            fetch.past.time = clocks_[warp].time;
        }
}

void SimtChecker::forget_fetched() {
    const auto over = [](const Fetch &fetch) { return fetch.over; };
    fetches_.erase(std::remove_if(fetches_.begin(), fetches_.end(), over), fetches_.end());
}

bool SimtChecker::clash(const Fetch &fetch, const Me &me) const {
    if (!fetch.over)
        return true;
    if (fetch.past.thread / 32 == me.thread / 32)
        return false;
    // All lanes have waited, so any of them may have left word.
    Past past = fetch.past;
    for (int lane = 0; lane < 32; lane++) {
        past.thread = uint16_t(fetch.past.thread / 32 * 32 + lane);
        if (!is_stranger(past, me))
            return false;
    }
    return true;
}

bool SimtChecker::overwrite(uintptr_t a, size_t n, const Me &me, Past &other) {
    bool clashes = false;
    const Range bytes = {a, n};
    const auto is_gone = [&](const Fetch &fetch) {
        const uintptr_t low = uintptr_t(fetch.first), high = low + size_t(fetch.rows) * TILE_ROW;
        if (a >= high || a + n <= low - low % TILE_ROW)
            return false;
        int hit = 0;
        each_chunk(fetch.first, fetch.rows, [&](uintptr_t chunk) {
            hit += bytes.holds(chunk) || Range{chunk, CHUNK}.holds(a);
        });
        if (hit > 0 && !clashes && clash(fetch, me)) {
            clashes = true;
            other = fetch.past;
        }
        // From now on it is the write that others have to be in order with.
        return hit == 2 * fetch.rows && fetch.over;
    };
    fetches_.erase(std::remove_if(fetches_.begin(), fetches_.end(), is_gone), fetches_.end());
    return clashes;
}
