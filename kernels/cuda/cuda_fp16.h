// IEEE's numbers of 16 bits: 5 of exponent, 10 of fraction.
#pragma once

#include "narrow.h"
#include "names_begin.h"

#define SIMT_T __half
#define SIMT_T2 __half2
#define SIMT_EXPONENT 5
#define SIMT_NARROW(a, b) a##half##b
#include "narrow_functions.h"
#undef SIMT_T
#undef SIMT_T2
#undef SIMT_EXPONENT
#undef SIMT_NARROW

inline __half2 __half2half2(__half a) {
    return {a, a};
}

using half = __half;
using half2 = __half2;
using __half_raw = simt_half_raw;
using __half2_raw = simt_half2_raw;

#include "names_end.h"
