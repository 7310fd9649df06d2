// The losses of a step that several ranks share, from all of them to the host. Each rank's part of
// `all` are the records of its rows, as the loss kernel has stored them, and its vote to stop.
//
//   ring[step mod slots, first(r) + i] = all[r, i]       for r < ranks, i < first(r + 1) - first(r)
//   ring[step mod slots, total] = record(sum over r of all[r, words - 1].loss)
//   first(r) = floor(total * r / ranks)
//
// The idea: records are words that validate themselves, wherever they have been. So they travel as
// they are, and reach the host by the same single stores as those of one rank.
//
// Bound: latency; 8 bytes a row over the bus.
// Launch: a block a rank, any number of threads.

#include "record.cuh"
#include "step.cuh"

KERNEL(share_records, 128)
(const StepState *state, const uint64_t *all, uint32_t words, uint64_t *ring, uint32_t ring_slots,
 uint32_t ring_rows) {
    const uint64_t ranks = gridDim.x, rank = blockIdx.x, total = state->total;
    const uint64_t first = total * rank / ranks, end = total * (rank + 1) / ranks;
    if (total >= ring_rows || end - first >= words)
        __trap();  // the host's mistake, caught before anybody writes past the ring
    uint64_t *rows = ring + size_t(state->step % ring_slots) * ring_rows;
    for (uint64_t row = first + threadIdx.x; row < end; row += blockDim.x)
        store_word(rows + row, all[rank * words + (row - first)]);
    if (rank == 0 && threadIdx.x == 0) {
        float votes = 0.0f;
        for (uint64_t r = 0; r < ranks; r++)
            votes += __uint_as_float(uint32_t(all[(r + 1) * words - 1]));
        store_record(rows + total, votes, false, state->step);
    }
}
EXPORT(share_records)
