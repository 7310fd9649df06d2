// The step's first kernel: what the host says about this step, from the slot to the device.
//
//   step    = counter, slot = slots + (step mod slot_count) · slot_bytes
//   state   = { step, header.seed, header.rows, header.lr, header.total }
//   ids     = slot.ids,  weights = slot.weights        [capacity]
//   vote    = record(header.vote), where several ranks share the step
//   counter = step + 1
//
// The idea: only this kernel reads host memory. Slots lie across the bus, where a load takes about
// a microsecond, so all loads are issued before any is used: whole arrays are copied, because
// waiting for `rows` first would be a second journey. Entries past `rows` are stale and unread.
//
// The counter is bumped here, not at the step's end: later kernels take the step from `state`, and
// the next launch of this kernel, the only other reader, comes after this one in stream order.
//
// Bound: latency, two dependent loads (counter, slot) and 24 + 8·capacity bytes over the bus.
// Launch: one block, any number of threads.

#include "record.cuh"
#include "step.cuh"

KERNEL(begin_step, 1024)
(const unsigned char *slots, uint32_t slot_bytes, uint32_t slot_count, uint32_t capacity,
 uint64_t *counter, StepState *state, uint32_t *ids, float *weights, uint64_t *vote) {
    const uint64_t step = *counter;
    const unsigned char *slot = slots + size_t(step % slot_count) * slot_bytes;
    // Volatile: the host rewrites slots, so no cached or merged copy will do.
    const volatile SlotHeader *header = reinterpret_cast<const volatile SlotHeader *>(slot);
    const volatile uint32_t *slot_ids =
        reinterpret_cast<const volatile uint32_t *>(slot + sizeof(SlotHeader));
    const volatile float *slot_weights =
        reinterpret_cast<const volatile float *>(slot_ids + capacity);

    StepState now = {step, 0, 0, 0.0f, 0, 0};
    float wish = 0.0f;
    if (threadIdx.x == 0) {
        now.seed = header->seed;
        now.rows = header->rows;
        now.lr = header->lr;
        now.total = header->total;
        wish = header->vote;
    }
    for (uint32_t i = threadIdx.x; i < capacity; i += blockDim.x) {
        const uint32_t id = slot_ids[i];
        const float weight = slot_weights[i];
        ids[i] = id;
        weights[i] = weight;
    }
    __syncthreads();  // every thread has read the counter
    if (threadIdx.x == 0) {
        if (now.rows > capacity)
            __trap();  // the host's mistake, caught before anybody reads past the arrays
        *state = now;
        if (vote)
            *vote = record_word(wish, false, step);
        *counter = step + 1;
    }
}
EXPORT(begin_step)
