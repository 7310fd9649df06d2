//! Operands for libraries to compute with.

use half::bf16;

/// Numbers in -0.5..0.5.
pub fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7 % 64) as f32 / 64.0 - 0.5).collect()
}

/// The same as bits of bf16.
pub fn noise_bits(len: usize) -> Vec<u16> {
    let bits = |v: f32| bf16::from_f32(v).to_bits();
    noise(len).into_iter().map(bits).collect()
}
