//! The batch from instance numbers: crop, flip and normalise images in memory.

use super::loss::IGNORED;
use super::simd::Element;
use crate::backend::{Augment, StepInputs};
use crate::data::Images;
use crate::rng;
use rayon::prelude::*;

/// Fills `x` (`[n, h, w, c]`); rows past the last id are zero.
pub fn gather<E: Element>(images: &Images, inputs: &StepInputs, augment: Augment, x: &mut [E]) {
    let (channels, width) = (images.channels, images.width);
    let size = images.height * width * channels;
    assert!(
        x.len().is_multiple_of(size) && inputs.ids.len() * size <= x.len(),
        "{} instances for a batch of {}",
        inputs.ids.len(),
        x.len() / size
    );
    // (u8/255 − mean)/std of every byte, so that a pixel costs a look-up.
    let table: Vec<[E; 256]> = images
        .mean
        .iter()
        .zip(&images.std)
        .map(|(mean, std)| {
            std::array::from_fn(|byte| E::from_f32((byte as f32 / 255.0 - mean) / std))
        })
        .collect();
    let row = width * channels;
    let rows = x.par_chunks_mut(size).enumerate();
    rows.for_each(|(i, x)| {
        let Some(&id) = inputs.ids.get(i) else {
            x.fill(E::ZERO);
            return;
        };
        let image = images.image(id as usize);
        let view = View::draw(inputs, id, augment);
        for (y, to) in x.chunks_exact_mut(row).enumerate() {
            // Padding is the mean colour: 0 after normalisation.
            to.fill(E::ZERO);
            let Some(from) = (y + view.top)
                .checked_sub(augment.crop)
                .filter(|y| *y < images.height)
            else {
                continue;
            };
            let from = &image[from * row..][..row];
            for (column, to) in to.chunks_exact_mut(channels).enumerate() {
                let column = if view.flip {
                    width - 1 - column
                } else {
                    column
                };
                let source = (column + view.left).checked_sub(augment.crop);
                if let Some(source) = source.filter(|c| *c < width) {
                    let pixel = &from[source * channels..][..channels];
                    for ((to, byte), table) in to.iter_mut().zip(pixel).zip(&table) {
                        *to = table[usize::from(*byte)];
                    }
                }
            }
        }
    });
}

/// Labels and weights `[n]`; rows past the last id are ignored, with weight 0.
pub fn rows(images: &Images, inputs: &StepInputs, labels: &mut [i32], weights: &mut [f32]) {
    assert_eq!(labels.len(), weights.len());
    for (i, (label, weight)) in labels.iter_mut().zip(weights).enumerate() {
        (*label, *weight) = match inputs.ids.get(i) {
            None => (IGNORED, 0.0),
            Some(&id) => {
                let weight = inputs.weights.get(i).copied().unwrap_or(1.0);
                (images.labels[id as usize] as i32, weight)
            }
        };
    }
}

/// Which part of the padded image is seen, and whether in the mirror.
struct View {
    top: usize,
    left: usize,
    flip: bool,
}

impl View {
    fn draw(inputs: &StepInputs, id: u32, augment: Augment) -> View {
        let mut random = rng::Stream::new(inputs.seed, inputs.step, u64::from(id));
        let offsets = 2 * augment.crop as u64 + 1;
        let mut offset = || random.below(offsets) as usize;
        let (top, left) = (offset(), offset());
        View {
            top,
            left,
            flip: augment.flip && random.bits() >> 63 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images {
            pixels: (0..3 * 4 * 5 * 2)
                .map(|i| (i * 7 % 251) as u8 + 1)
                .collect(),
            labels: vec![2, 0, 1],
            height: 4,
            width: 5,
            channels: 2,
            mean: vec![0.25, 0.5],
            std: vec![0.5, 0.125],
        }
    }

    fn run(augment: Augment, step: u64) -> Vec<f32> {
        let inputs = StepInputs {
            step,
            ids: vec![2, 0],
            seed: 5,
            ..StepInputs::default()
        };
        let mut x = vec![f32::NAN; 3 * 40];
        gather(&images(), &inputs, augment, &mut x);
        x
    }

    #[test]
    fn without_augmentation_it_only_normalises_and_fills_up() {
        let (x, images) = (run(Augment::NONE, 0), images());
        for (i, x) in x[..80].iter().enumerate() {
            let byte = f32::from(images.image([2, 0][i / 40])[i % 40]);
            let expected = (byte / 255.0 - images.mean[i % 2]) / images.std[i % 2];
            assert!((x - expected).abs() < 1e-6);
        }
        assert!(x[80..].iter().all(|v| *v == 0.0));
        let inputs = StepInputs {
            ids: vec![2, 0],
            weights: vec![0.5, 2.0],
            ..StepInputs::default()
        };
        let (mut labels, mut weights) = ([9; 3], [9.0; 3]);
        rows(&images, &inputs, &mut labels, &mut weights);
        assert_eq!((labels, weights), ([1, 2, IGNORED], [0.5, 2.0, 0.0]));
    }

    #[test]
    fn augmentation_is_a_shift_and_a_mirror_of_the_same_pixels() {
        let plain = run(Augment::NONE, 0);
        let at = |x: &[f32], y: isize, c: isize| -> [f32; 2] {
            if !(0..4).contains(&y) || !(0..5).contains(&c) {
                return [0.0; 2];
            }
            let i = (y * 5 + c) as usize * 2;
            [x[i], x[i + 1]]
        };
        let mut seen = std::collections::HashSet::new();
        for step in 0..300 {
            let x = run(
                Augment {
                    crop: 1,
                    flip: true,
                },
                step,
            );
            assert_eq!(
                x,
                run(
                    Augment {
                        crop: 1,
                        flip: true
                    },
                    step
                )
            );
            let fits = |&(dy, dx, flip): &(isize, isize, bool)| {
                (0..4).all(|y| {
                    (0..5).all(|c| {
                        let from = if flip { 4 - c } else { c };
                        at(&x[..40], y, c) == at(&plain[..40], y + dy, from + dx)
                    })
                })
            };
            let views =
                (-1..2).flat_map(|y| (-1..2).flat_map(move |x| [(y, x, false), (y, x, true)]));
            seen.insert(
                views
                    .clone()
                    .find(fits)
                    .expect("some shift and mirror explains it"),
            );
        }
        assert_eq!(seen.len(), 18, "all views come up");
    }

    #[test]
    fn the_view_depends_on_seed_step_and_id_alone() {
        let augment = Augment {
            crop: 1,
            flip: true,
        };
        let on = |ids: &[u32], threads: usize| {
            let inputs = StepInputs {
                step: 3,
                ids: ids.to_vec(),
                seed: 5,
                ..StepInputs::default()
            };
            let mut x = vec![f32::NAN; ids.len() * 40];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| gather(&images(), &inputs, augment, &mut x));
            x
        };
        let x = on(&[0, 1, 2], 1);
        assert_eq!(x, on(&[0, 1, 2], 3));
        // Another place in another batch shows the same view.
        assert_eq!(x[80..], on(&[2, 0], 1)[..40]);
    }

    #[test]
    #[should_panic(expected = "4 instances for a batch of 3")]
    fn more_instances_than_rows_panic() {
        let inputs = StepInputs {
            ids: vec![0; 4],
            ..StepInputs::default()
        };
        gather(&images(), &inputs, Augment::NONE, &mut [0.0; 120]);
    }
}
