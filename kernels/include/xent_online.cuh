// The sums of softmax cross-entropy while the maximum is not known yet.
//
// Source: Milakov, Gimelshein: Online normalizer calculation for softmax, 2018, arXiv 1805.02867.
#pragma once

#include "xent.cuh"

// RowSums of the logits so far, relative to the largest of them.
struct OnlineSums {
    RowSums so_far;
    float count = 1;

    DEVICE OnlineSums(float z, int c) {
        so_far.top = {z, c};
    }

    DEVICE void add(float z, int c) {
        Top &top = so_far.top;
        // Two infinities of one sign are equally likely; row() has the last word on them. A NaN is
        // never larger and makes the sums NaN, and so does each logit after a NaN that comes first.
        const float above = z == top.value ? 0.0f : z - top.value;
        if (above > 0.0f) {
            so_far.others = (1.0f + so_far.others) * expf(-above);
            so_far.offsets -= count * above;
            top = {z, c};
        } else {
            so_far.others += expf(above);
            so_far.offsets += above;
        }
        count += 1.0f;
    }

    // As if the other's logits had been added here. Where the largest are equal the first is kept.
    DEVICE void add(const OnlineSums &other) {
        const RowSums mine = so_far, theirs = other.so_far;
        const bool take = theirs.top.value > mine.top.value ||
                          (theirs.top.value == mine.top.value && theirs.top.index < mine.top.index);
        const RowSums &high = take ? theirs : mine, &low = take ? mine : theirs;
        const float low_count = take ? count : other.count;
        const float above =
            low.top.value == high.top.value ? 0.0f : low.top.value - high.top.value;
        so_far.top = high.top;
        so_far.others = high.others + (1.0f + low.others) * expf(above);
        so_far.offsets = high.offsets + low.offsets + low_count * above;
        count += other.count;
    }

    // Once all logits are in.
    DEVICE RowSums row() const {
        RowSums row = so_far;
        row.others += row.top.value - row.top.value;  // 0, or NaN where it is infinite
        return row;
    }
};
