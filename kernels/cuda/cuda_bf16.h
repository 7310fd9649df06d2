// Floats without their lower half: 8 bits of exponent, 7 of fraction.
#pragma once

#include "narrow.h"
#include "names_begin.h"

#define SIMT_T __nv_bfloat16
#define SIMT_T2 __nv_bfloat162
#define SIMT_EXPONENT 8
#define SIMT_NARROW(a, b) a##bfloat16##b
#include "narrow_functions.h"
#undef SIMT_T
#undef SIMT_T2
#undef SIMT_EXPONENT
#undef SIMT_NARROW

inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) {
    return {a, a};
}

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;
using __nv_bfloat16_raw = simt_bfloat16_raw;
using __nv_bfloat162_raw = simt_bfloat162_raw;

#include "names_end.h"
