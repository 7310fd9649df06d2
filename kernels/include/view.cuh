// The batch from instance numbers: what every step of kernels/gather/ computes.
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
// Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv
//   1512.03385, section 4.2.
#pragma once

#include "bf16.cuh"
#include "rng.cuh"
#include "step.cuh"

// Images that live on the device.
struct Images {
    const uint8_t *pixels;
    const float *mean_std;
    uint32_t count;
    int height, width, channels;

    // Elements of one.
    DEVICE uint32_t size() const {
        return uint32_t(height * width * channels);
    }
};

// One row's image, and how it is seen.
struct View {
    const uint8_t *image;  // null: the step has no such row
    int top, left;         // of what is seen of it
    bool mirrored;

    // What is seen at a place of the output.
    DEVICE float at(const Images &images, int h, int w, int c) const {
        const int y = h + top;
        const int column = (mirrored ? images.width - 1 - w : w) + left;
        const bool inside = y >= 0 && y < images.height && column >= 0 && column < images.width;
        if (!image || !inside)
            return 0.0f;
        const uint8_t byte = image[(y * images.width + column) * images.channels + c];
        return (float(byte) / 255.0f - images.mean_std[c]) / images.mean_std[images.channels + c];
    }
};

DEVICE View draw_view(const Images &images, const StepState &state, const uint32_t *ids,
                      uint32_t row, int crop, int flip) {
    View view = {};
    if (row >= state.rows)
        return view;
    const uint32_t id = ids[row];
    if (id >= images.count)
        __trap();
    view.image = images.pixels + size_t(id) * images.size();
    RngStream random(state.seed, state.step, id);
    const uint64_t offsets = uint64_t(2 * crop + 1);
    view.top = int(random.below(offsets)) - crop;
    view.left = int(random.below(offsets)) - crop;
    view.mirrored = flip && random.bits() >> 63;
    return view;
}

// Label and weight of a row.
DEVICE void gather_row(const StepState &state, const uint32_t *ids, const float *row_weights,
                       const uint32_t *data_labels, uint32_t images, uint32_t row, int *labels,
                       float *weights) {
    const bool live = row < state.rows;
    if (live && ids[row] >= images)
        __trap();
    labels[row] = live ? int(data_labels[ids[row]]) : -100;
    weights[row] = live ? row_weights[row] : 0.0f;
}
