// Eight neighbouring elements of a batch's image.
#pragma once

#include "view.cuh"

// The vector of that number in the image that starts at `to`, as one store.
DEVICE void gather_vector(const Images &images, const View &view, uint32_t vector, bf16 *to) {
    // Where the first element lies; the others by counting on, which is cheaper than dividing.
    const int first = int(vector * 8), pixel = first / images.channels;
    int c = first - pixel * images.channels;
    int h = pixel / images.width;
    int w = pixel - h * images.width;
    bf16x8 out;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        out.v[k] = to_bf16(view.at(images, h, w, c));
        if (++c == images.channels) {
            c = 0;
            if (++w == images.width) {
                w = 0;
                h++;
            }
        }
    }
    *reinterpret_cast<bf16x8 *>(to + first) = out;
}
