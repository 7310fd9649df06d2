// Arithmetic of numbers and bits.
#include <math_constants.h>

#include <cmath>

#include "expect.h"

__global__ void integers() {
    EXPECT(__clz(1) == 31 && __clz(0) == 32 && __clzll(1ll << 40) == 23 && __ffs(8) == 4);
    EXPECT(__ffsll(1ll << 40) == 41 && __popc(0xf0f0) == 8 && __popcll(~0ull) == 64);
    EXPECT(__brev(1) == 0x80000000 && __brevll(2) == 1ull << 62);
    EXPECT(__byte_perm(0x33221100, 0x77665544, 0x7531) == 0x77553311);
    EXPECT(__byte_perm(0x00008000, 0, 0x9910) == 0xffff8000);
    EXPECT(__funnelshift_l(0x80000000, 1, 1) == 3 && __funnelshift_r(2, 1, 1) == 0x80000001);
    EXPECT(__funnelshift_lc(5, 1, 40) == 5 && __funnelshift_rc(5, 1, 32) == 1);
    EXPECT(__mulhi(-1, 1) == -1 && __umulhi(~0u, 2) == 1 && __umul64hi(~0ull, 2) == 1);
    EXPECT(__mul24(0x800001, 2) == -0xfffffe && __umul24(0x1000002, 3) == 6);
    EXPECT(__sad(-3, 4, 5) == 12 && __usad(4, 3, 5) == 6);
    EXPECT(__hadd(-3, 4) == 0 && __rhadd(-3, 4) == 1 && __uhadd(~0u, 1) == 0x80000000);
    EXPECT(__dp4a(0x01020304, 0x01ff0201, 10) == 10 + 1 - 2 + 6 + 4);
    EXPECT(__dp4a(0x010203ffu, 0x01ff0202u, 0u) == 1 + 510 + 6 + 510);
    EXPECT(__dp2a_lo(0x0003ffff, 0x00000205, 1) == 1 - 5 + 6);
    EXPECT(__dp2a_hi(0x0003ffff, 0x02050000, 1) == 1 - 5 + 6);
    EXPECT(__vadd4(0x01ff7f80, 0x01010180) == 0x02008000);
    EXPECT(__vaddss4(0x01ff7f80, 0x01010180) == 0x02007f80);
    EXPECT(__vaddus4(0x01ff7f80, 0x01010180) == 0x02ff80ff && __vsub2(0x00010000, 1) == 0x0001ffff);
    EXPECT(__vmaxs4(0x01ff7f80, 0) == 0x01007f00 && __vminu4(0x01ff7f80, 0x80808080) == 0x01807f80);
    EXPECT(__vabsdiffu4(0x00ff1020, 0xff002010) == 0xffff1010 && __vsadu4(0x01020304, 0) == 10);
    EXPECT(__vcmpeq4(0x01020304, 0x01000300) == 0xff00ff00);
    EXPECT(__vavgu4(0x01ff0002, 0) == 0x01800001);
    EXPECT(max(-1, 2u) == 4294967295u && min(3ll, 2) == 2 && max(1.0, 2.0f) == 2);
    EXPECT(umin(1, ~0u) == 1 && llmax(-1, 1) == 1);
}

__global__ void rounded() {
    const float third = 1.0f / 3.0f, tiny = 1e-30f;
    const float above = nextafterf(1, 2), below = nextafterf(1, 0);
    EXPECT(__fadd_rn(1, tiny) == 1 && __fadd_rz(1, tiny) == 1 && __fadd_rd(1, tiny) == 1);
    EXPECT(__fadd_ru(1, tiny) == above && __fadd_rz(1, -tiny) == below);
    EXPECT(__fsub_rd(1, tiny) == below && __fsub_rz(-1, tiny) == -1);
    EXPECT(__fsub_rd(-1, tiny) == -above);
    EXPECT(__fmul_rd(above, above) < __fmul_ru(above, above));
    EXPECT(__fdiv_rd(1, 3) == nextafterf(third, 0) && __fdiv_ru(1, 3) == third);
    EXPECT(__fdiv_rd(1, -3) == -third && __frcp_rz(3) == nextafterf(third, 0));
    EXPECT(__fsqrt_rd(2) < __fsqrt_ru(2) && __fsqrt_ru(4) == 2 && __fsqrt_rd(4) == 2);
    EXPECT(__fmaf_ru(1, 1, tiny) == above && __fmaf_rd(1, 1, tiny) == 1);
    EXPECT(std::signbit(__fadd_rd(1, -1)) && !std::signbit(__fadd_rn(1, -1)));
    EXPECT(__fmul_rz(3e38f, 2) == 0x1.fffffep127f && std::isinf(__fmul_ru(3e38f, 2)));
    EXPECT(__dadd_ru(1, 1e-30) == nextafter(1.0, 2) && __dadd_rz(1, -1e-30) == nextafter(1.0, 0));
    EXPECT(__ddiv_rd(1, 3) < __ddiv_ru(1, 3) && __dsqrt_rd(2) < __dsqrt_ru(2));
    EXPECT(__dmul_rd(1.1, 1.1) < __dmul_ru(1.1, 1.1) && __fma_rd(1, 1, -1e-30) < 1);
    EXPECT(__frsqrt_rn(4) == 0.5f && __drcp_rn(4) == 0.25);

    EXPECT(__float2int_rn(2.5f) == 2 && __float2int_rz(-2.5f) == -2 && __float2int_ru(2.1f) == 3);
    EXPECT(__float2int_rd(-2.1f) == -3 && __float2int_rn(1e20f) == 2147483647);
    EXPECT(__float2int_rz(NAN) == 0 && __float2uint_rn(-5) == 0 && __double2int_rn(3.5) == 4);
    EXPECT(__double2ll_rz(NAN) == 1ll << 63 && __float2ull_rn(1e30f) == ~0ull);
    EXPECT(__int2float_rn(16777217) == 16777216 && __int2float_ru(16777217) == 16777218);
    EXPECT(__int2float_rz(-16777217) == -16777216 && __uint2float_rd(~0u) == 4294967040.0f);
    EXPECT(__ll2double_ru((1ll << 53) + 1) == 9007199254740994.0);
    EXPECT(__double2float_rd(1 - 1e-12) == below && __double2float_ru(1 + 1e-12) == above);
    EXPECT(__float_as_int(-0.0f) == int(0x80000000) && __int_as_float(0x3f800000) == 1);
    EXPECT(__double2hiint(1.0) == 0x3ff00000 && __hiloint2double(0x3ff00000, 0) == 1);
}

// Equal but for the last digits.
__device__ bool close(double a, double b) {
    return fabs(a - b) <= 1e-12 * fabs(b);
}

__global__ void functions() {
    EXPECT(__expf(1) == expf(1) && __saturatef(2) == 1 && __saturatef(NAN) == 0);
    EXPECT(__saturatef(-1) == 0 && __saturatef(0.5f) == 0.5f && __fdividef(1, 4) == 0.25f);
    EXPECT(rsqrt(4.0) == 0.5 && rsqrtf(4) == 0.5f && close(rcbrt(8.0), 0.5));
    EXPECT(sinpi(1.0) == 0 && cospi(0.5) == 0 && sinpif(0.5f) == 1 && cospi(3.0) == -1);
    EXPECT(close(sinpi(1.0 / 6), 0.5) && close(sinpi(-1.25), M_SQRT1_2));
    EXPECT(std::isnan(sinpi(CUDART_INF)));
    float sine, cosine;
    sincospif(0.25f, &sine, &cosine);
    EXPECT(sine == cosine && fabsf(sine - 0.70710678f) < 1e-7f);
    for (double x : {1e-200, 1e-9, 0.01, 0.4, 1.0, 1.3, 1.9})
        EXPECT(close(erfc(erfcinv(x)), x));
    for (double x : {-0.99, -0.3, 1e-9, 0.6, 0.9999})
        EXPECT(close(erf(erfinv(x)), x) && erfinv(-x) == -erfinv(x));
    EXPECT(std::isinf(erfinv(1.0)) && std::isnan(erfinv(1.5)) && erfinv(0.0) == 0);
    EXPECT(close(normcdf(1.959963984540054), 0.975) && close(normcdfinv(0.975), 1.959963984540054));
    EXPECT(close(erfcx(10.0), 0.05614099274382259) && close(erfcx(60.0), 0.009401854275176022));
    EXPECT(close(norm3d(2.0, 3.0, 6.0), 7) && close(rnorm4d(1.0, 1.0, 1.0, 1.0), 0.5));
    EXPECT(close(rhypot(3.0, 4.0), 0.2) && norm3df(2, 3, 6) == 7);
    const double large[] = {3e200, 4e200};
    EXPECT(close(norm(2, large), 5e200));
    EXPECT(close(cyl_bessel_i0(1.0), 1.2660658777520082));
    EXPECT(close(cyl_bessel_i1(-1.0), -0.565159103992485));
    EXPECT(CUDART_PI_F == 3.14159274f && CUDART_INF > 1e308 && std::isnan(CUDART_NAN_F));
}

__global__ void vectors() {
    const float3 a = make_float3(1, 2, 3);
    const uchar4 b = make_uchar4(1, 2, 3, 4);
    const long2 c = make_long2(5, 6);
    EXPECT(a.z == 3 && b.w == 4 && c.y == 6 && make_double1(2).x == 2);
    EXPECT(sizeof(float3) == 12 && alignof(float4) == 16 && sizeof(short4) == 8);
}

int main() {
    integers<<<1, 1>>>();
    rounded<<<1, 1>>>();
    functions<<<1, 1>>>();
    vectors<<<1, 1>>>();
    CHECK(cudaDeviceSynchronize());
    puts("right");
}
