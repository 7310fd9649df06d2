//! All tile units give the same bits.

use half::bf16;

use super::*;
use crate::rng::Stream;

/// bf16 of all sizes: ordinary, tiny, zeros of both signs, denormal and enormous ones.
fn awkward(random: &mut Stream, n: usize, wild: bool) -> Vec<bf16> {
    let draw = |random: &mut Stream| {
        let x = 2.0 * random.f32() - 1.0;
        let size = match (wild, (random.f32() * 16.0) as u32) {
            (false, _) | (_, 0..8) => 1.0,
            (_, 8) => 0.0,
            (_, 9) => 1e-39,
            (_, 10) => 1e-38,
            (_, 11..13) => 1e-19,
            (_, 13) => 1e-25,
            (_, 14) => 1e12,
            _ => 1e18,
        };
        bf16::from_f32(x * size)
    };
    (0..n).map(|_| draw(random)).collect()
}

fn bits<const M: usize, const N: usize>(isa: Isa, seed: u64, wild: bool, count: usize) -> Vec<u32> {
    let mut random = Stream::new(seed, 0, 0);
    // Tiles overlap, and rows are not aligned: any address will do.
    let (row_a, row_b) = (70, 64);
    let a = awkward(&mut random, 4096, wild);
    let b = awkward(&mut random, 4096, wild);
    let steps: Vec<Step> = (0..count as u32)
        .map(|i| Step {
            a: 2 * (i * 37 % 512),
            b: 2 * (i * 53 % 512),
        })
        .collect();
    let mut c = [[[0.0; SIDE * SIDE]; N]; M];
    for (i, c) in c
        .as_flattened_mut()
        .as_flattened_mut()
        .iter_mut()
        .enumerate()
    {
        *c = if wild && i % 3 == 0 {
            -1e-37
        } else {
            random.f32()
        };
    }
    let tiles = Tiles::new(isa);
    for add in [true, false, true] {
        let a = Operand {
            start: std::array::from_fn(|i| a[i * 333..].as_ptr()),
            row: row_a,
        };
        let b = Operand {
            start: std::array::from_fn(|i| b[i * 512..].as_ptr()),
            row: row_b,
        };
        // SAFETY: the last tile begins at 4·512 + 512 and takes 16 rows of at most 35 numbers.
        unsafe { tiles.block(&a, &b, &steps, &mut c, add) };
    }
    c.as_flattened()
        .as_flattened()
        .iter()
        .map(|x| x.to_bits())
        .collect()
}

fn agree<const M: usize, const N: usize>() {
    for (seed, wild) in [(1, false), (2, true), (3, true)] {
        for steps in [0, 1, 9] {
            let want = bits::<M, N>(Isa::PORTABLE, seed, wild, steps);
            for isa in Isa::available() {
                let got = bits::<M, N>(isa, seed, wild, steps);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let [got, want] = [*got, *want].map(f32::from_bits);
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(
                        same,
                        "{isa} {M}x{N}, {steps} steps, [{i}]: {got:e} not {want:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn units_agree_to_the_bit() {
    agree::<1, 1>();
    agree::<1, 2>();
    agree::<1, 3>();
    agree::<1, 4>();
    agree::<2, 1>();
    agree::<2, 2>();
    agree::<2, 3>();
    agree::<4, 1>();
}

#[test]
fn a_product_is_a_product() {
    let mut random = Stream::new(5, 0, 0);
    let a = awkward(&mut random, TILE, false);
    let b = awkward(&mut random, TILE, false);
    for isa in Isa::available() {
        let mut c = [[[f32::NAN; SIDE * SIDE]; 1]; 1];
        let a_tile = Operand {
            start: [a.as_ptr()],
            row: 64,
        };
        let b_tile = Operand {
            start: [b.as_ptr()],
            row: 64,
        };
        // SAFETY: a tile each.
        unsafe { Tiles::new(isa).block(&a_tile, &b_tile, &[Step { a: 0, b: 0 }], &mut c, false) };
        for i in 0..SIDE {
            for n in 0..SIDE {
                let want: f64 = (0..DEPTH)
                    .map(|k| {
                        let b = b[k / 2 * DEPTH + 2 * n + k % 2];
                        a[i * DEPTH + k].to_f64() * b.to_f64()
                    })
                    .sum();
                let got = f64::from(c[0][0][i * SIDE + n]);
                assert!(
                    (got - want).abs() < 1e-5,
                    "{isa} [{i}][{n}]: {got} not {want}"
                );
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let a = [bf16::NAN; TILE];
    let b = [bf16::ZERO; TILE];
    for isa in Isa::available() {
        let mut c = [[[0.0; SIDE * SIDE]; 1]; 1];
        let a_tile = Operand {
            start: [a.as_ptr()],
            row: 64,
        };
        let b_tile = Operand {
            start: [b.as_ptr()],
            row: 64,
        };
        // SAFETY: a tile each.
        unsafe { Tiles::new(isa).block(&a_tile, &b_tile, &[Step { a: 0, b: 0 }], &mut c, true) };
        assert!(c[0][0].iter().all(|x| x.is_nan()), "{isa}");
    }
}
