// __half and __nv_bfloat16.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "expect.h"

// What a number of 16 bits is, by its definition.
double value_of(unsigned bits, int exponent_bits) {
    const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = int(bits >> fraction_bits & ((1u << exponent_bits) - 1));
    const double fraction = double(bits & ((1u << fraction_bits) - 1)) / (1 << fraction_bits);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return fraction == 0 ? sign * HUGE_VAL : NAN;
    return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                         : sign * std::ldexp(1 + fraction, exponent - bias);
}

// Every number, and what lies a quarter, half and three quarters of the way to the next.
template <class T> void conversions(int exponent_bits, T (*of_bits)(unsigned short),
                                    unsigned short (*bits_of)(T)) {
    const unsigned infinite = ((1u << exponent_bits) - 1) << (15 - exponent_bits);
    for (unsigned bits = 0; bits < 0x10000; bits++) {
        const T number = of_bits((unsigned short)(bits));
        const double value = value_of(bits, exponent_bits);
        if (std::isnan(value)) {
            EXPECT(std::isnan(float(number)) && __hisnan(number) && number != number);
            EXPECT(std::isnan(float(T(float(number)))));
            continue;
        }
        EXPECT(double(float(number)) == value && bits_of(T(value)) == bits);
        EXPECT(__hisinf(number) == (std::isinf(value) ? (value < 0 ? -1 : 1) : 0));
        if ((bits & 0x7fff) + 1 >= infinite)
            continue;
        const double next = value_of(bits + 1, exponent_bits), step = (next - value) / 4;
        const unsigned even = bits % 2 == 0 ? bits : bits + 1;
        EXPECT(bits_of(T(value + step)) == bits);
        EXPECT(bits_of(T(value + 2 * step)) == even);
        EXPECT(bits_of(T(value + 3 * step)) == bits + 1);
    }
}

__global__ void halves(const __half *in, __half *out, __half2 *pairs, float *sum) {
    const int i = int(threadIdx.x);
    const __half x = __ldg(in + i), two = 2.0f;
    EXPECT(float(x) == i - 16);
    EXPECT(x + two == __float2half(i - 14) && x - two == __half(i - 18) && -x == __half(16 - i));
    EXPECT(x * two == __hmul(two, x) && float(x / two) == (i - 16) / 2.0f);
    EXPECT((x < two) == (i < 18) && (x >= two) == (i >= 18) && __hgt(two, x) == (i < 18));
    EXPECT(float(__hmax(x, two)) == fmaxf(i - 16, 2) && float(__hmin(x, two)) == fminf(i - 16, 2));
    EXPECT(__hfma(x, x, two) == __half((i - 16) * (i - 16) + 2));
    EXPECT(float(__habs(x)) == abs(i - 16) && __half2int_rn(x) == i - 16);
    __half z = x;
    z += two;
    z *= two;
    EXPECT(float(z) == (i - 14) * 2);
    EXPECT(float(__shfl_xor_sync(~0u, x, 1)) == (i ^ 1) - 16);
    EXPECT(float(hsqrt(__half(i * i))) == i && float(hrcp(__half(4.0f))) == 0.25f);
    EXPECT(float(hexp2(x)) == exp2f(i - 16));

    const __half2 pair = __halves2half2(x, two);
    EXPECT(__low2float(pair) == i - 16 && __high2float(pair) == 2);
    const float2 sums = __half22float2(__hadd2(pair, __half2half2(two)));
    EXPECT(sums.x == i - 14 && sums.y == 4);
    EXPECT(__hfma2(pair, pair, pair).y == __half(6) && (pair * pair).y == __half(4));
    EXPECT(__hbeq2(pair, pair) && __hlt2(pair, __half2half2(two)).x == __half(i < 18));
    EXPECT(__heq2_mask(pair, __half2half2(two)) == (i == 18 ? ~0u : 0xffff0000u));
    EXPECT(__lowhigh2highlow(pair).x == two);
    out[i] = x;
    pairs[i] = pair;
    atomicAdd(&out[32], __half(1.0f));
    atomicAdd(&pairs[32], __floats2half2_rn(1, 2));
    atomicAdd(sum, float(x));
}

__global__ void bfloats(__nv_bfloat16 *out) {
    const int i = int(threadIdx.x);
    const __nv_bfloat16 x = __float2bfloat16(i), half = 0.5f;
    EXPECT(__bfloat162float(x * half) == i * 0.5f && float(x + half) == i + 0.5f);
    EXPECT(float(__shfl_down_sync(~0u, x, 4)) == (i < 28 ? i + 4 : i));
    const __nv_bfloat162 pair = __floats2bfloat162_rn(i, -i);
    EXPECT(__hadd2(pair, pair).y == __nv_bfloat16(-2 * i));
    EXPECT(__bfloat1622float2(pair).x == i && __low2bfloat16(pair) == x);
    EXPECT(__bfloat162int_rz(__nv_bfloat16(-1.5f)) == -1 && __hisnan(hsqrt(__nv_bfloat16(-1))));
    __stcs(&out[i], x);
    atomicAdd(&out[32], half);
}

int main() {
    conversions<__half>(5, __ushort_as_half, __half_as_ushort);
    conversions<__nv_bfloat16>(8, __ushort_as_bfloat16, __bfloat16_as_ushort);
    // From doubles and long integers at once, and not by way of floats.
    EXPECT(__half_as_ushort(__double2half(1 + 0x1p-11 + 0x1p-40)) == 0x3c01);
    EXPECT(__half_as_ushort(__double2half(1 + 0x1p-11)) == 0x3c00);
    EXPECT(__bfloat16_as_ushort(__ll2bfloat16_rn((1ll << 60) + (1ll << 52) + 1)) == 0x5d81);
    EXPECT(__half_as_ushort(__float2half_rz(65519.0f)) == 0x7bff);
    EXPECT(std::isinf(float(__half(65520))));
    EXPECT(__half_as_ushort(__float2half_ru(1e-10f)) == 1);
    EXPECT(__half_as_ushort(__float2half_rd(-1e-10f)) == 0x8001);
    EXPECT(__half2int_rz(__half(-2.5f)) == -2 && __half2uint_rn(__half(-1.0f)) == 0);
    EXPECT(__half2short_rn(__half(HUGE_VALF)) == 32767 && __half2int_rn(__half(NAN)) == 0);
    // Fused: once rounded the product would be 1 + 2^-9, and the result 2^-9.
    const __half a = 1 + 0x1p-10f, b = -1 - 0x1p-9f;
    EXPECT(float(__hfma(a, a, b)) == 0x1p-20f);
    EXPECT(std::isnan(float(__hmax_nan(__half(1), __half(NAN)))));
    EXPECT(float(__hmax(__half(1), __half(NAN))) == 1);
    EXPECT(float(__hadd_sat(__half(0.75f), __half(0.75f))) == 1);

    __half numbers[33], *in, *out;
    __half2 *pairs;
    float *sum;
    for (int i = 0; i < 33; i++)
        numbers[i] = i < 32 ? i - 16 : 0;
    CHECK(cudaMalloc(&in, sizeof numbers));
    CHECK(cudaMalloc(&out, sizeof numbers));
    CHECK(cudaMalloc(&pairs, 33 * sizeof *pairs));
    CHECK(cudaMalloc(&sum, sizeof *sum));
    CHECK(cudaMemcpy(in, numbers, sizeof numbers, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(out, 0, sizeof numbers));
    CHECK(cudaMemset(pairs, 0, 33 * sizeof *pairs));
    CHECK(cudaMemset(sum, 0, sizeof *sum));
    halves<<<1, 32>>>(in, out, pairs, sum);
    CHECK(cudaMemcpy(numbers, out, sizeof numbers, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 33; i++)
        EXPECT(float(numbers[i]) == (i < 32 ? i - 16 : 32));
    __half2 last;
    CHECK(cudaMemcpy(&last, pairs + 32, sizeof last, cudaMemcpyDeviceToHost));
    EXPECT(float(last.x) == 32 && float(last.y) == 64);

    __nv_bfloat16 bfloat;
    CHECK(cudaMemset(out, 0, sizeof numbers));
    bfloats<<<1, 32>>>(reinterpret_cast<__nv_bfloat16 *>(out));
    CHECK(cudaMemcpy(&bfloat, out + 32, sizeof bfloat, cudaMemcpyDeviceToHost));
    EXPECT(float(bfloat) == 16);
    puts("right");
}
