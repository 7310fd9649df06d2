// The batch from instance numbers: crop, mirror and normalise images that live on the device.
//
//   x[n,h,w,c]  = (pixels[ids[n], h', w', c]/255 − mean[c]) / std[c],  0 outside the image
//   h' = h + top − crop,  w' = (mirrored ? W−1−w : w) + left − crop
//   labels[n]   = data_labels[ids[n]],  weights[n] = row_weights[n]
//
//   pixels [M,H,W,C] u8, data_labels [M], mean_std [2,C], ids and row_weights [rows]
//   x [N,H,W,C] bf16, labels and weights [N]; rows past `rows` are 0 with label −100 and weight 0
//
// top, left (each 0..2·crop) and the mirror are drawn from (seed, step, id) alone, with the bits of
// the CPU executor. The padding is the mean colour, which is 0 after normalisation.
//
// The one idea: threads are laid over the *output*, eight neighbouring elements each, so that every
// store is 16 aligned bytes whatever the image's size. The reads follow the same order but for the
// mirror, and so hit cache lines that a neighbour has fetched. A thread draws its image's view
// itself: a hundred or so integer instructions are cheaper than passing it on.
//
// Bound: 3 bytes an element (1 read, 2 written).
// Launch: ceil(max(N·H·W·C / 8, N) / 256) blocks of 256 threads.

#include "bf16.cuh"
#include "rng.cuh"
#include "step.cuh"

namespace {

// One row's image, and how it is seen.
struct View {
    size_t start;   // of the image in pixels
    int top, left;  // of what is seen of it
    bool mirrored;
    bool live;      // false: the step has no such row
};

DEVICE View draw_view(const StepState &state, uint32_t id, int crop, int flip) {
    RngStream random(state.seed, state.step, id);
    const uint64_t offsets = uint64_t(2 * crop + 1);
    View view = {};
    view.top = int(random.below(offsets)) - crop;
    view.left = int(random.below(offsets)) - crop;
    view.mirrored = flip && random.bits() >> 63;
    return view;
}

}  // namespace

KERNEL(gather, 256)
(const StepState *state_in, const uint32_t *ids, const float *row_weights, const uint8_t *pixels,
 const uint32_t *data_labels, const float *mean_std, uint32_t images, int height, int width,
 int channels, int crop, int flip, uint32_t n, bf16 *x, int *labels, float *weights) {
    const StepState state = *state_in;
    if (state.rows > n)
        __trap();  // more instances than the batch has rows
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        const bool live = i < state.rows;
        if (live && ids[i] >= images)
            __trap();
        labels[i] = live ? int(data_labels[ids[i]]) : -100;
        weights[i] = live ? row_weights[i] : 0.0f;
    }

    const uint32_t size = uint32_t(height * width * channels);
    const uint32_t total = n * size, first = i * 8;
    if (first >= total)
        return;
    const auto view_of = [&](uint32_t row) {
        if (row >= state.rows)
            return View{};
        const uint32_t id = ids[row];
        if (id >= images)
            __trap();
        View view = draw_view(state, id, crop, flip);
        view.start = size_t(id) * size;
        view.live = true;
        return view;
    };

    // Where the first element lies; the others by counting on, which is cheaper than dividing.
    uint32_t row = first / size;
    int c = int(first % size);
    int h = c / (width * channels);
    c -= h * width * channels;
    int w = c / channels;
    c -= w * channels;
    View view = view_of(row);

    const uint32_t count = min(total - first, 8u);
    bf16x8 out;
#pragma unroll
    for (uint32_t k = 0; k < 8; k++) {
        float value = 0.0f;
        const int y = h + view.top;
        const int column = (view.mirrored ? width - 1 - w : w) + view.left;
        const bool inside = y >= 0 && y < height && column >= 0 && column < width;
        if (k < count && view.live && inside) {
            const uint8_t byte = pixels[view.start + (y * width + column) * channels + c];
            value = (float(byte) / 255.0f - mean_std[c]) / mean_std[channels + c];
        }
        out.v[k] = to_bf16(value);
        if (++c == channels) {
            c = 0;
            if (++w == width) {
                w = 0;
                if (++h == height) {
                    h = 0;
                    if (k + 1 < count)
                        view = view_of(++row);
                }
            }
        }
    }
    if (count == 8) {
        *reinterpret_cast<bf16x8 *>(x + first) = out;
    } else {
        for (uint32_t k = 0; k < count; k++)
            x[first + k] = out.v[k];
    }
}
EXPORT(gather)
