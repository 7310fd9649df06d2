//! What numbers lie in memory as: kernels compute in `f32` whatever they read and write.

use half::bf16;

use super::{LANES, Simd, rounded_to_bf16};

/// What an activation is stored as: `f32`, or bf16 rounded to the nearest even, denormal numbers to
/// zero, as [`Simd::store_bf16`] does.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// Zero.
    const ZERO: Self;

    /// Reads 16 lanes.
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    /// Reads up to 16 lanes; the others are 0.
    fn load_first<S: Simd>(s: S, from: &[Self]) -> S::V;
    /// Writes 16 lanes.
    fn store<S: Simd>(s: S, to: &mut [Self; LANES], v: S::V);
    /// Writes the first `to.len() ≤ 16` lanes.
    fn store_first<S: Simd>(s: S, to: &mut [Self], v: S::V);

    /// One number, rounded as `store` does.
    fn from_f32(x: f32) -> Self;
    /// One number, exactly.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32; LANES]) -> S::V {
        s.load(from)
    }
    #[inline(always)]
    fn load_first<S: Simd>(s: S, from: &[f32]) -> S::V {
        s.load_first(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [f32; LANES], v: S::V) {
        s.store(to, v);
    }
    #[inline(always)]
    fn store_first<S: Simd>(s: S, to: &mut [f32], v: S::V) {
        s.store_first(to, v);
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const ZERO: bf16 = bf16::ZERO;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[bf16; LANES]) -> S::V {
        s.load_bf16(from)
    }
    #[inline(always)]
    fn load_first<S: Simd>(s: S, from: &[bf16]) -> S::V {
        let mut lanes = [bf16::ZERO; LANES];
        lanes[..from.len()].copy_from_slice(from);
        s.load_bf16(&lanes)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [bf16; LANES], v: S::V) {
        s.store_bf16(to, v);
    }
    #[inline(always)]
    fn store_first<S: Simd>(s: S, to: &mut [bf16], v: S::V) {
        let mut lanes = [bf16::ZERO; LANES];
        s.store_bf16(&mut lanes, v);
        to.copy_from_slice(&lanes[..to.len()]);
    }
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        bf16::from_bits((rounded_to_bf16(x) >> 16) as u16)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, Kernel};

    /// What of 16 numbers comes back when its first `1` are stored and loaded.
    struct Kept<'a, E>(&'a [f32; LANES], usize, std::marker::PhantomData<E>);

    impl<E: Element> Kernel for Kept<'_, E> {
        type Output = [[f32; LANES]; 2];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let v = s.load(self.0);
            let (mut whole, mut first) = ([E::ZERO; LANES], [E::ZERO; LANES]);
            E::store(s, &mut whole, v);
            E::store_first(s, &mut first[..self.1], v);
            let mut out = [[7.0; LANES]; 2];
            s.store(&mut out[0], E::load(s, &whole));
            s.store(&mut out[1], E::load_first(s, &first[..self.1]));
            out
        }
    }

    fn is_kept<E: Element>() {
        let values: [f32; LANES] = std::array::from_fn(|i| match i {
            0 => 1e-39,
            1 => -1e-40,
            2 => f32::INFINITY,
            3 => -0.0,
            4 => f32::MAX,
            _ => (i as f32 - 8.0) * 1.2345,
        });
        let bits = |x: f32| x.to_bits();
        let want = values.map(|x| bits(E::from_f32(x).to_f32()));
        for isa in Isa::available() {
            for n in 0..=LANES {
                let [whole, first] = isa.run(Kept::<E>(&values, n, std::marker::PhantomData));
                assert_eq!(whole.map(bits), want, "{isa}");
                assert_eq!(first.map(bits)[..n], want[..n], "{isa}, {n}");
                assert_eq!(first.map(bits)[n..], vec![0; LANES - n], "{isa}, {n}");
            }
        }
    }

    #[test]
    fn one_number_is_rounded_as_sixteen_are() {
        is_kept::<f32>();
        is_kept::<bf16>();
        assert_eq!(bf16::from_f32(1.0 + 1.0 / 256.0), bf16::ONE);
        assert_eq!(<bf16 as Element>::from_f32(1e-39).to_bits(), 0);
    }
}
