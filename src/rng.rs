//! Counter-based random numbers: a value is a pure function of what it is for (seed, step,
//! instance, …), so it is the same whatever thread asks for it, in whatever order, and after
//! whatever resume.
//!
//! The mixer is SplitMix64's (Steele, Lea, Flood, 2014). For training, not for secrets.

/// The odd number nearest 2⁶⁴ / golden ratio: SplitMix64's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser, a bijection in which each input bit flips each output bit with
/// probability one half.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 random bits for `(seed, a, b)`. The three do not commute: swapping two gives other bits.
pub fn hash(seed: u64, a: u64, b: u64) -> u64 {
    [a, b].iter().fold(mix(seed.wrapping_add(STEP)), |h, &x| {
        mix((h ^ x).wrapping_add(STEP))
    })
}

/// Random bits to a uniform number in `[0, 1)`, a multiple of 2⁻²⁴.
pub fn unit_f32(bits: u64) -> f32 {
    (bits >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
}

/// Random bits to a uniform number in `[0, 1)`, a multiple of 2⁻⁵³.
pub fn unit_f64(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// What tells the draws of one dropout, number `site` of the network, in one step from all others.
/// (Instance numbers have 32 bits, so the high bit keeps it apart from those of the augmentation.)
pub fn dropout_key(seed: u64, step: u64, site: u32) -> u64 {
    hash(seed, step, 1 << 63 | u64::from(site))
}

/// 64 random bits for a dropout's elements `4·group … 4·group + 3`: element `i` takes bits
/// `16·(i mod 4) …` and is zeroed where they are, as a number, below its threshold. Kernels on a
/// device compute the same.
#[inline]
pub fn dropout_bits(key: u64, group: u64) -> u64 {
    mix((key ^ group).wrapping_add(STEP))
}

/// As many random numbers as one wants for one `(seed, a, b)`, one after the other.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of `(seed, a, b)`. Streams of different arguments start at unrelated points of a
    /// cycle of 2⁶⁴.
    pub fn new(seed: u64, a: u64, b: u64) -> Stream {
        Stream(hash(seed, a, b))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// The next number, uniform in `[0, 1)`.
    pub fn f32(&mut self) -> f32 {
        unit_f32(self.bits())
    }

    /// The next number, uniform in `[0, 1)`.
    pub fn f64(&mut self) -> f64 {
        unit_f64(self.bits())
    }

    /// The next integer, uniform in `0..n` up to a bias below `n`/2⁶⁴; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.bits() as u128 * n as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints and data sets depend on these bits: they are never to change.
    #[test]
    fn bits_are_pinned() {
        // SplitMix64 from state 0, as published.
        let mut stream = Stream(0);
        assert_eq!(stream.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.bits(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(hash(1, 2, 3), 0xd073_4750_fde3_62b3);
        let key = dropout_key(1, 2, 3);
        assert_eq!(key, 0x160b_2803_a35a_45d6);
        assert_eq!(dropout_bits(key, 4), 0xcf6e_98d7_2d00_467d);
    }

    #[test]
    fn arguments_matter_and_do_not_commute() {
        let all: std::collections::HashSet<u64> = (0..20u64.pow(3))
            .map(|i| hash(i / 400, i / 20 % 20, i % 20))
            .collect();
        assert_eq!(all.len(), 8000);
    }

    #[test]
    fn dropout_draws_are_uniform_and_unlike_each_other() {
        let mut bins = [[0usize; 8]; 4];
        for group in 0..8000 {
            let bits = dropout_bits(dropout_key(3, 1, 0), group);
            for (lane, bins) in bins.iter_mut().enumerate() {
                bins[(bits >> (16 * lane + 13) & 7) as usize] += 1;
            }
        }
        let even = |n: &usize| (900..1100).contains(n);
        assert!(bins.as_flattened().iter().all(even), "{bins:?}");
        let draws = (0..1000).map(|i| dropout_bits(dropout_key(3, i / 100, i as u32 % 100), i));
        assert_eq!(
            draws.collect::<std::collections::HashSet<u64>>().len(),
            1000
        );
        // Not the augmentation's numbers of an instance either.
        assert_ne!(
            dropout_bits(dropout_key(3, 1, 5), 0),
            Stream::new(3, 1, 5).bits()
        );
    }

    #[test]
    fn uniform_numbers_are_uniform() {
        assert_eq!(unit_f32(u64::MAX), 1.0 - f32::EPSILON / 2.0);
        assert_eq!(unit_f64(u64::MAX), 1.0 - f64::EPSILON / 2.0);
        assert_eq!((unit_f32(0), unit_f64(0)), (0.0, 0.0));
        let mut stream = Stream::new(7, 0, 0);
        let (mut bins, mut sum) = ([0usize; 10], 0.0);
        for _ in 0..20_000 {
            bins[stream.below(10) as usize] += 1;
            sum += stream.f64() + f64::from(stream.f32());
        }
        assert!(bins.iter().all(|n| (1800..2200).contains(n)), "{bins:?}");
        assert!((sum / 40_000.0 - 0.5).abs() < 0.01);
        assert_eq!(stream.below(0), 0);
    }
}
