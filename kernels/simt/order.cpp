#include "order.h"

#include "check.h"

#include <algorithm>
#include <cstring>

namespace simt {

void Clocks::meet(uint32_t lanes, bool whole) {
    time++;
    if (whole) {
        all = time;
        return;
    }
    uint32_t joint[32] = {};
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1)
        for (int i = 0; i < 32; i++)
            joint[i] = std::max(joint[i], known[__builtin_ctz(rest)][i]);
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1)
        joint[__builtin_ctz(rest)] = time;
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1)
        memcpy(known[__builtin_ctz(rest)], joint, sizeof joint);
}

bool Known::has(const Past &past) const {
    if (past.barrier != 0)
        return past.barrier < phases_.size() && past.time < phases_[past.barrier];
    const auto later = std::upper_bound(moments_.begin(), moments_.end(), past.epoch,
                                        [](uint32_t e, const Moment &m) { return e < m.first; });
    // Backwards through those of the block, if it is the access's.
    for (auto m = later; m != moments_.begin() && m[-1].first == later[-1].first; m--)
        if (past.epoch < m[-1].epoch ||
            (past.epoch == m[-1].epoch && past.thread / 32u == m[-1].warp &&
             past.time < m[-1].times[past.thread % 32]))
            return true;
    return false;
}

void Known::add(const Moment &moment) {
    const auto begin = std::lower_bound(moments_.begin(), moments_.end(), moment.first,
                                        [](const Moment &m, uint32_t e) { return m.first < e; });
    auto end = begin;
    for (; end != moments_.end() && end->first == moment.first; end++) {
        if (end->epoch > moment.epoch)
            return;
        if (end->epoch == moment.epoch && end->warp == moment.warp) {
            for (int i = 0; i < 32; i++)
                end->times[i] = std::max(end->times[i], moment.times[i]);
            return;
        }
    }
    const bool outdated = begin != end && begin->epoch < moment.epoch;
    moments_.insert(outdated ? moments_.erase(begin, end) : end, moment);
}

void Known::add(const Known &more) {
    if (moments_.empty())
        moments_ = more.moments_;
    else
        for (const Moment &moment : more.moments_)
            add(moment);
    for (size_t i = 0; i < more.phases_.size(); i++)
        complete(uint8_t(i), more.phases_[i]);
}

void Known::complete(uint8_t barrier, uint32_t phases) {
    if (phases_.size() <= barrier)
        phases_.resize(barrier + size_t(1));
    phases_[barrier] = std::max(phases_[barrier], phases);
}

}  // namespace simt

using namespace simt;

bool SimtChecker::has_learnt(const Past &past, int thread) const {
    if (common_.has(past))
        return true;
    const auto own = known_.find(thread);
    return own != known_.end() && own->second.has(past);
}

Known SimtChecker::known_now(int thread) {
    const uint32_t warp = uint32_t(thread / 32);
    Clocks &clocks = clocks_[warp];
    Moment moment = {block_, now_, warp, {}};
    for (int i = 0; i < 32; i++)
        moment.times[i] = std::max(clocks.all, clocks.known[thread % 32][i]);
    // What it does from here on is later.
    moment.times[thread % 32] = ++clocks.time;
    Known known = common_;
    const auto own = known_.find(thread);
    if (own != known_.end())
        known.add(own->second);
    known.add(moment);
    return known;
}

void SimtChecker::barrier() {
    now_++;
    for (const auto &known : known_)
        common_.add(known.second);
    known_.clear();
    // What a thread had fenced before the barrier all have: whoever tells others of it tells them of all
    // that. (The count of blocks that are done: all write and fence, the block meets, one thread counts.)
    for (const auto &fenced : fenced_)
        fenced_by_all_.add(fenced.second);
    fenced_.clear();
    forget_fetched();
}

void SimtChecker::order(uint32_t warp, uint32_t lanes, bool whole) {
    clocks_[warp].meet(lanes, whole);
    if (known_.empty())
        return;
    const auto each = [&](auto f) {
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1)
            f(int(warp * 32) + __builtin_ctz(rest));
    };
    Known joint;
    each([&](int thread) {
        const auto own = known_.find(thread);
        if (own != known_.end())
            joint.add(own->second);
    });
    if (!joint.empty())
        each([&](int thread) { known_[thread] = joint; });
}

void SimtChecker::fence(int thread) {
    Known &known = fenced_[thread] = known_now(thread);
    known.leave_block();
}

void SimtChecker::atomic(uintptr_t a, int thread) {
    const auto left = words_.find(a);
    if (left != words_.end())
        known_[thread].add(left->second);
    const auto fenced = fenced_.find(thread);
    if (fenced != fenced_.end())
        words_[a].add(fenced->second);
    if (!fenced_by_all_.empty())
        words_[a].add(fenced_by_all_);
}
