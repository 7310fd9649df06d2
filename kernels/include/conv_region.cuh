// What the convolutions share that keep a whole region of an image on chip: for 3x3 kernels, pad 1,
// stride 1 or 2, over images whose rows are a power of two up to 128 outputs wide; and for the input
// gradient of a stride, over the output's gradient, of 1x1 kernels, too.
//
// A tile is PIXELS neighbouring outputs: some whole rows of an image, or some whole images. Its
// region is all inputs that the tile's windows meet, with the zeros around the image. It is copied
// once, transformed once, and then read by nine taps, each a shift of the same rows of ldmatrix.
#pragma once

#include "conv_mma.cuh"
#include "copy.cuh"

struct alignas(4) bf16x2 {
    bf16 v[2];
};

constexpr int TAPS = 9;

// How tiles of outputs [ho, wo] and their regions lie in images [h, width].
struct Regions {
    int h, width, ho, wo, stride;
    // Of a tile.
    int rows, images;
    // Of an image's part of a region.
    int high, wide;

    DEVICE Regions(int h, int width, int ho, int wo, int stride)
        : h(h), width(width), ho(ho), wo(wo), stride(stride) {
        rows = min(ho, PIXELS / wo);
        images = PIXELS / (rows * wo);
        high = (rows - 1) * stride + 3;
        wide = (wo - 1) * stride + 3;
    }

    // Pixels of a region.
    DEVICE int size() const {
        return images * high * wide;
    }

    // Where in the region the window of the tile's p-th output starts.
    DEVICE int window(int p) const {
        Digits d = digits(p, rows, wo);
        return (d.a * high + d.b * stride) * wide + d.c * stride;
    }

    // The same, of a tap.
    DEVICE int shift(int tap) const {
        return int(unsigned(tap) / 3) * wide + int(unsigned(tap) % 3);
    }
};

// One tensor's pixels of regions on their way to shared memory: thread t always takes chunk
// t % CHUNKS of CHANNELS / 8, so it can keep its channels' coefficients in registers.
template <int CHANNELS, int THREADS_> struct Copier {
    static constexpr int CHUNKS = CHANNELS / 8;
    static constexpr int STRIDE = THREADS_ / CHUNKS;
    static_assert(THREADS_ % CHUNKS == 0, "a thread's chunk is the same in all its pixels");

    DEVICE static int chunk() {
        return int(threadIdx.x % CHUNKS);
    }

    // The thread's first pixel; the next is STRIDE further on.
    DEVICE static int row() {
        return int(threadIdx.x / CHUNKS);
    }

    // Calls f(where in the region, in the image or not, offset in memory) for the thread's pixels
    // of a tile's region. `n` images have `channels` each.
    template <class F>
    DEVICE static void each(const Regions &r, int tile, int n, int channels, F f) {
        int pixel = tile * PIXELS, image = pixel / (r.ho * r.wo);
        int top = (pixel - image * r.ho * r.wo) / r.wo * r.stride - 1;
        Digits at = digits(row(), r.high, r.wide);
        const Digits step = digits(STRIDE, r.high, r.wide);
        for (int i = row(); i < r.size(); i += STRIDE) {
            int line = top + at.b, col = at.c - 1;
            bool inside = image + at.a < n && unsigned(line) < unsigned(r.h) &&
                          unsigned(col) < unsigned(r.width);
            size_t from = ((size_t(image + at.a) * r.h + line) * r.width + col) * channels;
            f(swizzled<CHUNKS>(i, chunk()), inside, from + size_t(8 * chunk()));
            advance(at, step, r.high, r.wide);
        }
    }
};
