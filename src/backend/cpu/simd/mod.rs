//! Vector code chosen at run time: one logical vector of 16 `f32` lanes on every machine.
//!
//! An operation is a [`Kernel`], written once against [`Simd`] and run by [`Isa::run`], which
//! compiles it for AVX-512 (a vector is one register), for AVX2 with FMA (two) and portably (an
//! array). Results of different instruction sets differ in the last bits: the portable `fma`
//! rounds twice, because a fused one without hardware is a library call. [`Isa::fused`] has them
//! alike.

use std::fmt;
use std::str::FromStr;

pub use buffer::Buffer;
pub use element::Element;
use half::bf16;

/// Lanes of a logical vector.
pub const LANES: usize = 16;

/// Sixteen `f32` lanes. A value of the implementing type is proof that the CPU has the
/// instructions: only [`Isa::run`] makes one.
///
/// Everything here is inlined into the kernel, which is what makes it vector code. Closures do
/// not inherit the target features: keep them out of kernels.
pub trait Simd: Copy + Send + Sync {
    /// 16 lanes of `f32`.
    type V: Copy;
    /// 16 lanes of `f64`, for long sums.
    type D: Copy;
    /// How many `V` the register file holds.
    const REGISTERS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads 16 lanes.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Reads up to 16 lanes; the others are 0.
    fn load_first(self, from: &[f32]) -> Self::V;
    /// Writes 16 lanes.
    fn store(self, to: &mut [f32; LANES], v: Self::V);
    /// Writes the first `to.len() ≤ 16` lanes.
    fn store_first(self, to: &mut [f32], v: Self::V);
    /// Reads 16 lanes of bf16.
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V;
    /// Writes 16 lanes as bf16, rounded to the nearest even; denormal numbers become zero, as in the
    /// tiles' arithmetic.
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V);
    /// Lanes of 32 bits: `low` as bf16 in the low half, `high` in the high one, both rounded as
    /// `store_bf16` does.
    fn pair_bf16(self, low: Self::V, high: Self::V) -> Self::V;
    /// The same of numbers that are bf16 already, as they are.
    fn interleave_bf16(self, low: &[bf16; LANES], high: &[bf16; LANES]) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of `v` and `floor`; a NaN in `v` stays.
    fn at_least(self, floor: Self::V, v: Self::V) -> Self::V;
    /// `v` where `x > 0` (or `x` is NaN), else 0: the backward pass of ReLU.
    fn where_positive(self, x: Self::V, v: Self::V) -> Self::V;
    /// Lane `i` of vector `j` becomes lane `j` of vector `i`.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];

    /// Zeros.
    fn wide_zero(self) -> Self::D;
    /// `sum + v`.
    fn wide_add(self, sum: Self::D, v: Self::V) -> Self::D;
    /// `sum + a·b`, the product taken in `f64`, where it is exact.
    fn wide_fma(self, a: Self::V, b: Self::V, sum: Self::D) -> Self::D;
    /// The lanes.
    fn wide_lanes(self, sum: Self::D) -> [f64; LANES];

    /// Starts to bring the cache line of an address, any address, nearer.
    fn prefetch(self, line: *const f32);
    /// The same into L1, for what is wanted within a few hundred cycles.
    fn prefetch_l1(self, line: *const f32);

    /// Runs a kernel as a function of its own, compiled for this instruction set.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
}

/// An operation for any instruction set. Mark `run` and the generic functions it calls
/// `#[inline(always)]`: what is not inlined is compiled without vector instructions.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The operation.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable {
        /// Whether its `fma` rounds once.
        fused: bool,
    },
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512, its conversions to bf16, and tiles.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

/// Why an instruction set cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No such name.
    #[error("AUTOASSIST_ISA: unknown instruction set {0:?} (portable, avx2, avx512 or amx)")]
    Unknown(String),
    /// Known, but this CPU lacks it.
    #[error("AUTOASSIST_ISA: this CPU does not have {0} (it has {1})")]
    Unavailable(String, String),
}

impl Isa {
    /// No special instructions: runs everywhere.
    pub const PORTABLE: Isa = Isa(Level::Portable { fused: false });

    /// What there is anywhere, slowest first: who has one has all before it.
    pub const NAMES: [&str; 4] = ["portable", "avx2", "avx512", "amx"];

    /// All that this CPU has, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "x86-64 only has more")]
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Isa(Level::Avx2));
            if is_x86_feature_detected!("avx512f") {
                all.push(Isa(Level::Avx512));
                #[cfg(target_os = "linux")]
                if is_x86_feature_detected!("avx512bf16") && amx::is_available() {
                    all.push(Isa(Level::Amx));
                }
            }
        }
        all
    }

    /// What the environment variable `AUTOASSIST_ISA` names, or else the best that this CPU has.
    ///
    /// # Errors
    /// If the variable names an instruction set that is unknown or that this CPU lacks.
    pub fn detect() -> Result<Isa, IsaError> {
        match std::env::var_os("AUTOASSIST_ISA") {
            Some(name) => name.to_string_lossy().parse(),
            None => Ok(*Isa::available().last().unwrap_or(&Isa::PORTABLE)),
        }
    }

    /// The same, its `fma` rounding once on every instruction set, so that all give the same bits;
    /// portably slow.
    pub fn fused(self) -> Isa {
        match self.0 {
            Level::Portable { .. } => Isa(Level::Portable { fused: true }),
            _ => self,
        }
    }

    /// What its vector code is compiled for: the same, but for tiles.
    pub fn vectors(self) -> Isa {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Level::Amx => Isa(Level::Avx512),
            _ => self,
        }
    }

    pub(super) fn level(self) -> Level {
        self.0
    }

    /// `portable`, `avx2`, `avx512` or `amx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable { .. } => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Level::Amx => "amx",
        }
    }

    /// Runs a kernel on this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable { fused } => kernel.run(Portable { fused }),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::Avx2::new(self).call(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::Avx512::new(self).call(kernel),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Level::Amx => x86::Avx512::new(self).call(kernel),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let available = Isa::available();
        if let Some(isa) = available.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        if !Isa::NAMES.contains(&name) {
            return Err(IsaError::Unknown(name.into()));
        }
        let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
        Err(IsaError::Unavailable(name.into(), names.join(", ")))
    }
}

/// Plain Rust that the compiler vectorises for the target's baseline.
#[derive(Clone, Copy, Debug)]
pub struct Portable {
    fused: bool,
}

/// The bits of `x` as a bf16, in the upper half; denormal numbers are zero.
#[inline(always)]
fn rounded_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let size = bits & 0x7fff_ffff;
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let value = match size {
        0..0x0080_0000 => bits & 0x8000_0000,
        0x7f80_0001.. => bits | 0x0040_0000,
        _ => nearest,
    };
    value & 0xffff_0000
}

/// `[f(0), …, f(15)]` without a closure call in the way of vectorisation.
macro_rules! lanes {
    ($zero:expr, $i:ident => $value:expr) => {{
        let mut out = [$zero; LANES];
        let mut $i = 0;
        while $i < LANES {
            out[$i] = $value;
            $i += 1;
        }
        out
    }};
}

impl Simd for Portable {
    type V = [f32; LANES];
    type D = [f64; LANES];
    const REGISTERS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn load_first(self, from: &[f32]) -> Self::V {
        let mut v = [0.0; LANES];
        v[..from.len()].copy_from_slice(from);
        v
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        *to = v;
    }
    #[inline(always)]
    fn store_first(self, to: &mut [f32], v: Self::V) {
        to.copy_from_slice(&v[..to.len()]);
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
        lanes!(0.0, i => f32::from_bits(u32::from(from[i].to_bits()) << 16))
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
        *to = lanes!(bf16::ZERO, i => bf16::from_bits((rounded_to_bf16(v[i]) >> 16) as u16));
    }
    #[inline(always)]
    fn pair_bf16(self, low: Self::V, high: Self::V) -> Self::V {
        lanes!(0.0, i => {
            f32::from_bits(rounded_to_bf16(low[i]) >> 16 | rounded_to_bf16(high[i]))
        })
    }
    #[inline(always)]
    fn interleave_bf16(self, low: &[bf16; LANES], high: &[bf16; LANES]) -> Self::V {
        lanes!(0.0, i => {
            f32::from_bits(u32::from(low[i].to_bits()) | u32::from(high[i].to_bits()) << 16)
        })
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(0.0, i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(0.0, i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes!(0.0, i => a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        match self.fused {
            true => lanes!(0.0, i => a[i].mul_add(b[i], c[i])),
            false => lanes!(0.0, i => a[i] * b[i] + c[i]),
        }
    }
    #[inline(always)]
    fn at_least(self, floor: Self::V, v: Self::V) -> Self::V {
        lanes!(0.0, i => if floor[i] > v[i] { floor[i] } else { v[i] })
    }
    #[inline(always)]
    fn where_positive(self, x: Self::V, v: Self::V) -> Self::V {
        lanes!(0.0, i => if x[i] <= 0.0 { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        lanes!([0.0; LANES], i => lanes!(0.0, j => rows[j][i]))
    }
    #[inline(always)]
    fn wide_zero(self) -> Self::D {
        [0.0; LANES]
    }
    #[inline(always)]
    fn wide_add(self, sum: Self::D, v: Self::V) -> Self::D {
        lanes!(0.0, i => sum[i] + f64::from(v[i]))
    }
    #[inline(always)]
    fn wide_fma(self, a: Self::V, b: Self::V, sum: Self::D) -> Self::D {
        // The product is exact in `f64`: fused or not is the same.
        lanes!(0.0, i => sum[i] + f64::from(a[i]) * f64::from(b[i]))
    }
    #[inline(always)]
    fn wide_lanes(self, sum: Self::D) -> [f64; LANES] {
        sum
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn prefetch_l1(self, _: *const f32) {}
    #[inline]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod buffer;
mod element;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every lane operation on awkward values, as bits.
    struct All<'a>(&'a [f32; LANES], &'a [f32; LANES], usize);

    impl Kernel for All<'_> {
        type Output = Vec<[f32; LANES]>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let (a, b) = (s.load(self.0), s.load(self.1));
            let values = [
                s.splat(2.5),
                s.load_first(&self.0[..self.2]),
                s.add(a, b),
                s.sub(a, b),
                s.mul(a, b),
                s.at_least(a, b),
                s.where_positive(a, b),
                s.pair_bf16(a, b),
                s.fma(a, b, s.splat(1.0)),
            ];
            let mut out = Vec::new();
            for v in values {
                let mut lanes = [7.0; LANES];
                s.store(&mut lanes, v);
                out.push(lanes);
                let mut lanes = [7.0; LANES];
                s.store_first(&mut lanes[..self.2], v);
                out.push(lanes);
            }
            let mut square = [a; LANES];
            for (i, row) in square.iter_mut().enumerate() {
                *row = s.mul(s.splat(i as f32), a);
            }
            for row in s.transpose(square) {
                let mut lanes = [7.0; LANES];
                s.store(&mut lanes, row);
                out.push(lanes);
            }
            let sum = s.wide_fma(a, b, s.wide_add(s.wide_zero(), a));
            out.push(s.wide_lanes(sum).map(|x| x as f32));
            out
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let mut a = [0.0; LANES];
        let mut b = [0.0; LANES];
        for i in 0..LANES {
            a[i] = (i as f32 - 7.0) * 1.37; // Products that are not exact.
            b[i] = 5.0 - i as f32 * 0.61;
        }
        a[3] = f32::NAN;
        b[9] = f32::NAN;
        a[12] = f32::INFINITY;
        a[13] = -0.0;
        for n in 0..=LANES {
            let want = Isa::PORTABLE.fused().run(All(&a, &b, n));
            for isa in Isa::available().into_iter().map(Isa::fused) {
                let got = isa.run(All(&a, &b, n));
                for (op, (got, want)) in got.iter().zip(&want).enumerate() {
                    for i in 0..LANES {
                        let same = got[i] == want[i] || got[i].is_nan() && want[i].is_nan();
                        assert!(same, "{isa} op {op} lane {i}: {} not {}", got[i], want[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn names() {
        for isa in Isa::available() {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert_eq!("mmx".parse::<Isa>(), Err(IsaError::Unknown("mmx".into())));
    }
}
