// Embedding: what the steps of kernels/embedding/ compute.
//
//   out[r,c]    = m(r,c) · (√d · table[token[r],c] + positions[r mod L,c]), 0 for padding
//   dtable[v,c] += Σ_{r: token[r] = v} √d · m(r,c) · dout[r,c]   in the order of r
//
//   tokens [R] i32, R = B · L; table, dtable [V,d] f32; positions [≥L,d] f32; out, dout [R,d] bf16;
//   m = 0 or 1/(1 − p): dropout.cuh
//
// A token that is none is a fault.
//
// Source: Vaswani et al.: Attention Is All You Need, 2017, arXiv 1706.03762.
#pragma once

#include "dropout.cuh"
#include "vector.cuh"

// A token of some row, or −1 for padding.
DEVICE int checked_token(const int *tokens, int row, int padding, int vocabulary) {
    const int token = tokens[row];
    if (token == padding)
        return -1;
    if (token < 0 || token >= vocabulary)
        __trap();
    return token;
}
