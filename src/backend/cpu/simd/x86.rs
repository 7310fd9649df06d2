//! [`Simd`] for AVX2 with FMA and for AVX-512.
//!
//! SAFETY of every intrinsic here: it needs a CPU that has the instructions, and a value of
//! `Avx2` or `Avx512` exists only where [`Isa::available`] found them (`new` takes an [`Isa`] of
//! that level, and only `available` makes those). Loads and stores go through slices and arrays
//! of the length that they touch, or through masks that stop at it.

use std::arch::x86_64::*;

use half::bf16;

use super::{Isa, Kernel, LANES, Level, Simd};

/// AVX2 and FMA: a vector is two registers.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// AVX-512F: a vector is one register.
#[derive(Clone, Copy, Debug)]
pub struct Avx512 {
    /// Whether there is an instruction that rounds to bf16.
    rounds: bool,
}

impl Avx2 {
    pub(super) fn new(isa: Isa) -> Avx2 {
        assert_eq!(isa.0, Level::Avx2);
        Avx2(())
    }
}

impl Avx512 {
    pub(super) fn new(isa: Isa) -> Avx512 {
        match isa.0 {
            Level::Avx512 => Avx512 { rounds: false },
            #[cfg(target_os = "linux")]
            Level::Amx => Avx512 { rounds: true },
            _ => unreachable!("{isa} is not AVX-512"),
        }
    }
}

/// Lane-wise on both halves; see the module for why intrinsics are safe here.
macro_rules! halves {
    ($f:ident($($x:expr),*)) => {
        // SAFETY: the module's.
        unsafe { [$f($($x[0]),*), $f($($x[1]),*)] }
    };
}

/// Four vectors `u` of four `rows`: of each quarter of 4 lanes, `u[j]` holds column `j`.
macro_rules! quarters {
    ($rows:expr, $lo:ident, $hi:ident, $lo2:ident, $hi2:ident, $to:ident, $from:ident) => {{
        let [a, b, c, d] = $rows;
        // SAFETY: the module's.
        unsafe {
            let [p, q] = [$to($lo(a, b)), $to($lo(c, d))];
            let [r, t] = [$to($hi(a, b)), $to($hi(c, d))];
            [
                $from($lo2(p, q)),
                $from($hi2(p, q)),
                $from($lo2(r, t)),
                $from($hi2(r, t)),
            ]
        }
    }};
}

/// [`quarters`] of 256 bits.
#[inline(always)]
fn quarters256(rows: [__m256; 4]) -> [__m256; 4] {
    quarters!(
        rows,
        _mm256_unpacklo_ps,
        _mm256_unpackhi_ps,
        _mm256_unpacklo_pd,
        _mm256_unpackhi_pd,
        _mm256_castps_pd,
        _mm256_castpd_ps
    )
}

/// [`quarters`] of 512 bits.
#[inline(always)]
fn quarters512(rows: [__m512; 4]) -> [__m512; 4] {
    quarters!(
        rows,
        _mm512_unpacklo_ps,
        _mm512_unpackhi_ps,
        _mm512_unpacklo_pd,
        _mm512_unpackhi_pd,
        _mm512_castps_pd,
        _mm512_castpd_ps
    )
}

/// All ones in the lanes below `n` of 8.
#[inline(always)]
fn mask8(n: usize) -> __m256i {
    // SAFETY: the module's.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    type D = [__m256d; 4];
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the module's.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        let p = from.as_ptr();
        // SAFETY: the module's; 16 floats are there.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    fn load_first(self, from: &[f32]) -> Self::V {
        let (n, p) = (from.len(), from.as_ptr());
        assert!(n <= LANES);
        // SAFETY: the module's; masked lanes are not touched.
        unsafe {
            [
                _mm256_maskload_ps(p, mask8(n)),
                _mm256_maskload_ps(p.wrapping_add(8), mask8(n.saturating_sub(8))),
            ]
        }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        let p = to.as_mut_ptr();
        // SAFETY: the module's; 16 floats are there.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn store_first(self, to: &mut [f32], v: Self::V) {
        let (n, p) = (to.len(), to.as_mut_ptr());
        assert!(n <= LANES);
        // SAFETY: the module's; masked lanes are not touched.
        unsafe {
            _mm256_maskstore_ps(p, mask8(n), v[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), mask8(n.saturating_sub(8)), v[1]);
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
        // SAFETY: the module's; 16 numbers are there.
        unsafe {
            let all = _mm256_loadu_si256(from.as_ptr().cast());
            let wide = [
                _mm256_cvtepu16_epi32(_mm256_castsi256_si128(all)),
                _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(all)),
            ];
            wide.map(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
        // SAFETY: the module's; 16 numbers are there.
        unsafe {
            let [low, high] = [rounded8(v[0]), rounded8(v[1])];
            let [low, high] = [_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high)];
            let mixed = _mm256_packus_epi32(low, high);
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }
    #[inline(always)]
    fn pair_bf16(self, low: Self::V, high: Self::V) -> Self::V {
        [
            joined8(rounded8(low[0]), rounded8(high[0])),
            joined8(rounded8(low[1]), rounded8(high[1])),
        ]
    }
    #[inline(always)]
    fn interleave_bf16(self, low: &[bf16; LANES], high: &[bf16; LANES]) -> Self::V {
        let [low, high] = [self.load_bf16(low), self.load_bf16(high)];
        let [low, high] = [bits8(low), bits8(high)];
        [joined8(low[0], high[0]), joined8(low[1], high[1])]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn at_least(self, floor: Self::V, v: Self::V) -> Self::V {
        // Of two operands, one NaN, the instruction returns the second.
        halves!(_mm256_max_ps(floor, v))
    }
    #[inline(always)]
    fn where_positive(self, x: Self::V, v: Self::V) -> Self::V {
        // SAFETY: the module's. "Not less or equal" is true for NaN.
        unsafe {
            let zero = _mm256_setzero_ps();
            [
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(x[0], zero), v[0]),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(x[1], zero), v[1]),
            ]
        }
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut out = rows;
        for i in 0..4 {
            // Eight rows and eight columns.
            let (down, right) = (i / 2, i % 2);
            let mut halves = [[rows[0][0]; 4]; 2];
            for (from, half) in halves.iter_mut().enumerate() {
                let at = 8 * down + 4 * from;
                *half = quarters256([
                    rows[at][right],
                    rows[at + 1][right],
                    rows[at + 2][right],
                    rows[at + 3][right],
                ]);
            }
            let [top, bottom] = halves;
            for j in 0..4 {
                // SAFETY: the module's.
                unsafe {
                    out[8 * right + j][down] = _mm256_permute2f128_ps::<0x20>(top[j], bottom[j]);
                    out[8 * right + 4 + j][down] =
                        _mm256_permute2f128_ps::<0x31>(top[j], bottom[j]);
                }
            }
        }
        out
    }
    #[inline(always)]
    fn wide_zero(self) -> Self::D {
        // SAFETY: the module's.
        unsafe { [_mm256_setzero_pd(); 4] }
    }
    #[inline(always)]
    fn wide_add(self, sum: Self::D, v: Self::V) -> Self::D {
        let v = widen4(v);
        // SAFETY: the module's.
        unsafe {
            [
                _mm256_add_pd(sum[0], v[0]),
                _mm256_add_pd(sum[1], v[1]),
                _mm256_add_pd(sum[2], v[2]),
                _mm256_add_pd(sum[3], v[3]),
            ]
        }
    }
    #[inline(always)]
    fn wide_fma(self, a: Self::V, b: Self::V, sum: Self::D) -> Self::D {
        let (a, b) = (widen4(a), widen4(b));
        // SAFETY: the module's.
        unsafe {
            [
                _mm256_fmadd_pd(a[0], b[0], sum[0]),
                _mm256_fmadd_pd(a[1], b[1], sum[1]),
                _mm256_fmadd_pd(a[2], b[2], sum[2]),
                _mm256_fmadd_pd(a[3], b[3], sum[3]),
            ]
        }
    }
    #[inline(always)]
    fn wide_lanes(self, sum: Self::D) -> [f64; LANES] {
        let mut out = [0.0; LANES];
        for (four, sum) in out.as_chunks_mut::<4>().0.iter_mut().zip(sum) {
            // SAFETY: the module's; 4 doubles are there.
            unsafe { _mm256_storeu_pd(four.as_mut_ptr(), sum) };
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, line: *const f32) {
        // SAFETY: a hint; never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
    #[inline(always)]
    fn prefetch_l1(self, line: *const f32) {
        // SAFETY: a hint; never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        fn entry<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: the module's: `self` is proof that the CPU has AVX2 and FMA.
        unsafe { entry(self, kernel) }
    }
}

/// The bits of 16 lanes.
#[inline(always)]
fn bits8(v: [__m256; 2]) -> [__m256i; 2] {
    // SAFETY: the module's.
    unsafe { [_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1])] }
}

/// The upper halves of 8 lanes of `low` in the lower halves of those of `high`, which are zero.
#[inline(always)]
fn joined8(low: __m256i, high: __m256i) -> __m256 {
    // SAFETY: the module's.
    unsafe { _mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi32::<16>(low), high)) }
}

/// The bits of 8 lanes as bf16, in the upper halves; denormal numbers are zero.
#[inline(always)]
fn rounded8(v: __m256) -> __m256i {
    // SAFETY: the module's.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff));
        let nearest = _mm256_add_epi32(bits, half);
        let size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff_ffff));
        let tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x0080_0000), size);
        let zero = _mm256_and_si256(bits, _mm256_set1_epi32(i32::MIN));
        let nan = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7f80_0000));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let value = _mm256_blendv_epi8(nearest, zero, tiny);
        let value = _mm256_blendv_epi8(value, quiet, nan);
        _mm256_and_si256(value, _mm256_set1_epi32(0xffff_0000_u32 as i32))
    }
}

#[inline(always)]
fn widen4(v: [__m256; 2]) -> [__m256d; 4] {
    // SAFETY: the module's.
    unsafe {
        [
            _mm256_cvtps_pd(_mm256_castps256_ps128(v[0])),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v[0])),
            _mm256_cvtps_pd(_mm256_castps256_ps128(v[1])),
            _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v[1])),
        ]
    }
}

/// Ones in the lanes below `n` of 16.
#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    assert!(n <= LANES);
    ((1u32 << n) - 1) as __mmask16
}

/// 16 lanes as bf16, denormal numbers zero, by the instruction. In assembly because its intrinsic
/// would be a call from code that is compiled for all of AVX-512.
///
/// # Safety
/// The CPU must have AVX512-BF16.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rounded16_at_once(v: __m512) -> __m256i {
    let to;
    // SAFETY: the caller's.
    unsafe {
        std::arch::asm!(
            "vcvtneps2bf16 {to}, {v}",
            to = lateout(ymm_reg) to, v = in(zmm_reg) v,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    to
}

impl Avx512 {
    /// 16 lanes as bf16; denormal numbers are zero.
    #[inline(always)]
    fn rounded16(self, v: __m512) -> __m256i {
        // SAFETY: the module's; `rounds` is the processor's word that it has the instruction.
        unsafe {
            if self.rounds {
                return rounded16_at_once(v);
            }
            let bits = _mm512_castps_si512(v);
            let even = _mm512_and_epi32(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff));
            let nearest = _mm512_add_epi32(bits, half);
            let size = _mm512_and_epi32(bits, _mm512_set1_epi32(0x7fff_ffff));
            let tiny = _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(0x0080_0000));
            let nan = _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(0x7f80_0000));
            let value = _mm512_mask_and_epi32(nearest, tiny, bits, _mm512_set1_epi32(i32::MIN));
            let value = _mm512_mask_or_epi32(value, nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(value))
        }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    type D = [__m512d; 2];
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the module's.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        // SAFETY: the module's; 16 floats are there.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_first(self, from: &[f32]) -> Self::V {
        // SAFETY: the module's; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(mask16(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        // SAFETY: the module's; 16 floats are there.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_first(self, to: &mut [f32], v: Self::V) {
        // SAFETY: the module's; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask16(to.len()), v) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
        // SAFETY: the module's; 16 numbers are there.
        unsafe {
            let all = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(all)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
        // SAFETY: the module's; 16 numbers are there.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.rounded16(v)) }
    }
    #[inline(always)]
    fn pair_bf16(self, low: Self::V, high: Self::V) -> Self::V {
        // SAFETY: the module's.
        unsafe {
            let low = _mm512_cvtepu16_epi32(self.rounded16(low));
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(self.rounded16(high)));
            _mm512_castsi512_ps(_mm512_or_epi32(low, high))
        }
    }
    #[inline(always)]
    fn interleave_bf16(self, low: &[bf16; LANES], high: &[bf16; LANES]) -> Self::V {
        // SAFETY: the module's; 16 numbers are there, of both.
        unsafe {
            let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low.as_ptr().cast()));
            let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_or_epi32(low, _mm512_slli_epi32::<16>(high)))
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the module's.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the module's.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the module's.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the module's.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn at_least(self, floor: Self::V, v: Self::V) -> Self::V {
        // SAFETY: the module's. Of two operands, one NaN, the instruction returns the second.
        unsafe { _mm512_max_ps(floor, v) }
    }
    #[inline(always)]
    fn where_positive(self, x: Self::V, v: Self::V) -> Self::V {
        // SAFETY: the module's. "Not less or equal" is true for NaN.
        unsafe {
            let keep = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(keep, v)
        }
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let [mut a, mut b, mut c, mut d] = [[rows[0]; 4]; 4];
        for (i, four) in [&mut a, &mut b, &mut c, &mut d].into_iter().enumerate() {
            *four = quarters512([
                rows[4 * i],
                rows[4 * i + 1],
                rows[4 * i + 2],
                rows[4 * i + 3],
            ]);
        }
        let mut out = rows;
        for j in 0..4 {
            // SAFETY: the module's. The even quarters of two vectors, then the odd ones.
            unsafe {
                let even = [
                    _mm512_shuffle_f32x4::<0x88>(a[j], b[j]),
                    _mm512_shuffle_f32x4::<0x88>(c[j], d[j]),
                ];
                let odd = [
                    _mm512_shuffle_f32x4::<0xdd>(a[j], b[j]),
                    _mm512_shuffle_f32x4::<0xdd>(c[j], d[j]),
                ];
                out[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
                out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
                out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
                out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
            }
        }
        out
    }
    #[inline(always)]
    fn wide_zero(self) -> Self::D {
        // SAFETY: the module's.
        unsafe { [_mm512_setzero_pd(); 2] }
    }
    #[inline(always)]
    fn wide_add(self, sum: Self::D, v: Self::V) -> Self::D {
        let v = widen2(v);
        halves!(_mm512_add_pd(sum, v))
    }
    #[inline(always)]
    fn wide_fma(self, a: Self::V, b: Self::V, sum: Self::D) -> Self::D {
        let (a, b) = (widen2(a), widen2(b));
        halves!(_mm512_fmadd_pd(a, b, sum))
    }
    #[inline(always)]
    fn wide_lanes(self, sum: Self::D) -> [f64; LANES] {
        let mut out = [0.0; LANES];
        for (eight, sum) in out.as_chunks_mut::<8>().0.iter_mut().zip(sum) {
            // SAFETY: the module's; 8 doubles are there.
            unsafe { _mm512_storeu_pd(eight.as_mut_ptr(), sum) };
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, line: *const f32) {
        // SAFETY: a hint; never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
    #[inline(always)]
    fn prefetch_l1(self, line: *const f32) {
        // SAFETY: a hint; never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn entry<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: the module's: `self` is proof that the CPU has AVX-512F, AVX2 and FMA.
        unsafe { entry(self, kernel) }
    }
}

#[inline(always)]
fn widen2(v: __m512) -> [__m512d; 2] {
    // SAFETY: the module's.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
        [
            _mm512_cvtps_pd(_mm512_castps512_ps256(v)),
            _mm512_cvtps_pd(_mm256_castpd_ps(high)),
        ]
    }
}
