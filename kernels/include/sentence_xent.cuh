// The loss of sentences: what the steps of kernels/sentence_xent/ compute. Rows are those of
// xent.cuh; sentence b has rows offsets[b]..offsets[b + 1].
//
//   token_loss[r] = loss of row r, 0 if its label is −100
//   loss[b]       = mean of the token losses of its rows that count, 0 if none does
//   right[b]      = rows count, and the largest logit of each is its label's
//   dlogits[r,c]  = weight[b] / T · (softmax(z[r])_c − q_c),   T = rows that count
//   ring[step mod slots, b] = record(loss[b], right[b], step)  for b < rows of this step
//
//   logits, dlogits [R,V] bf16, which may be the same; labels, offsets [R], [B+1] i32
#pragma once

#include "xent.cuh"

// The sentence of a row: the last whose first row is not behind it and that is not empty.
DEVICE int sentence_of(const int *offsets, int sentences, int row) {
    int low = 0, high = sentences;  // offsets[low] <= row < offsets[high]
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (offsets[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// A sentence's losses so far, in the order of its rows. In double, as the CPU adds them.
struct SentenceSum {
    double sum = 0;
    int count = 0;
    bool right = true;

    DEVICE void add(bool counts, float row_loss, bool row_right) {
        if (counts) {
            sum += double(row_loss);
            count++;
            right &= row_right;
        }
    }

    DEVICE void store(const RowResults &results, int sentence) const {
        const float mean = count > 0 ? float(sum / double(count)) : 0.0f;
        results.store(uint32_t(sentence), mean, count > 0 && right);
    }
};
