//! What is known of the training instances before training: their classes, a few cheap numbers
//! about each input, and the inputs themselves.

use crate::data::Images;
use rayon::prelude::*;
use std::sync::Arc;

/// The training set as the Assistant sees it.
#[derive(Clone, Debug)]
pub struct Instances {
    /// Class of each instance, `[N]`, each below `n_classes`.
    pub classes: Vec<u32>,
    /// Number of classes.
    pub n_classes: usize,
    /// Input features, `[N, F]` row-major, each of mean 0 and variance 1 over the set.
    pub features: Vec<f32>,
    /// The inputs, for a preset that reads them.
    pub images: Option<Arc<Images>>,
}

impl Instances {
    /// Pools each image into `2·C + 2` numbers: mean and standard deviation of each channel, and
    /// the mean absolute difference of neighbours, across and down.
    pub fn from_images(images: &Arc<Images>) -> Instances {
        let width = 2 * images.channels + 2;
        let mut features: Vec<f32> = (0..images.len())
            .into_par_iter()
            .flat_map_iter(|id| pool(images, id))
            .collect();
        standardise(&mut features, width);
        Instances {
            classes: images.labels.clone(),
            n_classes: images.labels.iter().max().map_or(0, |&c| c as usize + 1),
            features,
            images: Some(images.clone()),
        }
    }

    /// Number of instances, N.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Number of input features, F.
    pub fn width(&self) -> usize {
        self.features.len() / self.len().max(1)
    }

    /// Input features of one instance, `[F]`.
    pub(super) fn row(&self, id: usize) -> &[f32] {
        let width = self.width();
        &self.features[id * width..][..width]
    }
}

fn pool(images: &Images, id: usize) -> Vec<f32> {
    let (channels, line) = (images.channels, images.width * images.channels);
    let pixels = images.image(id);
    // Whole numbers below 2⁶⁴: exact, so the order of summation is free.
    let mut sums = vec![(0u64, 0u64); channels];
    for pixel in pixels.chunks_exact(channels) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            let value = u64::from(value);
            sum.0 += value;
            sum.1 += value * value;
        }
    }
    let difference = |a: &[u8], b: &[u8]| -> u64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| u64::from(a.abs_diff(b)))
            .sum()
    };
    let (mut across, mut down) = (0, 0);
    for row in pixels.chunks_exact(line) {
        across += difference(&row[channels..], row);
    }
    if images.height > 1 {
        down = difference(&pixels[line..], pixels);
    }
    let area = (images.height * images.width) as f64;
    let mean = sums.iter().map(|s| s.0 as f64 / area);
    let deviation = sums.iter().map(|s| {
        let mean = s.0 as f64 / area;
        (s.1 as f64 / area - mean * mean).max(0.0).sqrt()
    });
    let edges = [across, down].map(|d| d as f64 / (area * channels as f64));
    mean.chain(deviation)
        .chain(edges)
        .map(|x| x as f32)
        .collect()
}

/// Gives each column mean 0 and variance 1; a constant column becomes 0.
fn standardise(features: &mut [f32], width: usize) {
    let rows = (features.len() / width) as f64;
    for column in 0..width {
        let values = features[column..]
            .iter()
            .step_by(width)
            .map(|&x| f64::from(x));
        let mean = values.clone().sum::<f64>() / rows;
        let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / rows;
        let scale = if variance > 1e-12 {
            1.0 / variance.sqrt()
        } else {
            0.0
        };
        for x in features[column..].iter_mut().step_by(width) {
            *x = ((f64::from(*x) - mean) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: usize, pixel: impl Fn(usize, usize) -> u8) -> Arc<Images> {
        let size = 4 * 3 * 2;
        Arc::new(Images {
            pixels: (0..n * size).map(|i| pixel(i / size, i % size)).collect(),
            labels: (0..n as u32).map(|i| i % 3).collect(),
            height: 4,
            width: 3,
            channels: 2,
            mean: vec![0.5; 2],
            std: vec![0.25; 2],
        })
    }

    #[test]
    fn features_are_standardised_and_constant_ones_vanish() {
        let instances = Instances::from_images(&images(50, |id, i| (id * 37 + i * i * id) as u8));
        assert_eq!(
            (instances.len(), instances.width(), instances.n_classes),
            (50, 6, 3)
        );
        for column in 0..6 {
            let values: Vec<f32> = (0..50).map(|id| instances.row(id)[column]).collect();
            let mean = values.iter().sum::<f32>() / 50.0;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / 50.0;
            assert!(
                mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3,
                "{column}"
            );
        }
        let flat = Instances::from_images(&images(5, |_, _| 9));
        assert!(flat.features.iter().all(|&x| x == 0.0));
    }

    #[test]
    fn features_are_what_they_are_called() {
        // Channel 0 rises from left to right, channel 1 is flat.
        let ramp = images(1, |_, i| {
            if i % 2 == 0 {
                (i / 2 % 3) as u8 * 10
            } else {
                7
            }
        });
        let features = pool(&ramp, 0);
        let deviation = (200.0f32 / 3.0).sqrt();
        let expected = [10.0, 7.0, deviation, 0.0, 80.0 / 24.0, 0.0];
        for (x, y) in features.iter().zip(expected) {
            assert!((x - y).abs() < 1e-5, "{features:?}");
        }
    }
}
