//! The published Assistant (`--assist paper`): logistic regression on the raw input, one weight a
//! class, and labels by a running mean that follows the losses closely.
//!
//! As in the authors' code: no bias but the classes', SGD on the mean gradient, L2 divided by the
//! batch like the gradient, and a mean loss from two moving sums. It starts at zero where theirs
//! starts at noise of 0.001: the problem is convex.

use super::model::{SIGMOID_OPS, sigmoid};
use crate::data::Images;
use serde::{Deserialize, Serialize};

/// Step size, on the mean gradient of a batch.
const RATE: f32 = 0.01;
/// L2 coefficient.
const L2: f32 = 1e-3;
/// What a moving sum keeps of itself from batch to batch.
const DECAY: f32 = 0.75;

/// `logit = w·x + v[class]` on normalised pixels `x = (u8/255 − mean)/std`, `[H, W, C]`.
///
/// Normalisation is folded into the weights, `w·x = Σ (w_j·a_j)·u_j − Σ w_j·c_j` with `a = 1/(255·
/// std)` and `c = mean/std`, so a score is one dot product of bytes with floats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelModel {
    weights: Vec<f32>,
    classes: Vec<f32>,
    mean: MovingMean,
}

/// A mean loss that follows the losses closely: the ratio of two moving sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MovingMean {
    /// Of losses and of instances.
    loss: f32,
    count: f32,
}

impl MovingMean {
    /// Enters a batch; returns which of its losses are above the mean, itself included.
    pub(super) fn labels(&mut self, losses: &[f32]) -> Vec<bool> {
        self.count = DECAY * self.count + (1.0 - DECAY) * losses.len() as f32;
        self.loss = DECAY * self.loss + (1.0 - DECAY) * losses.iter().sum::<f32>();
        let mean = self.loss / self.count;
        losses.iter().map(|&loss| loss > mean).collect()
    }

    /// Operations of [`labels`](MovingMean::labels) on `n` losses: a sum and a comparison each, and
    /// 7 for the mean.
    pub(super) fn labels_ops(n: usize) -> u64 {
        2 * n as u64 + 7
    }

    /// Whether both sums are finite.
    pub(super) fn is_sound(&self) -> bool {
        self.loss.is_finite() && self.count.is_finite()
    }
}

impl PixelModel {
    /// All zero, for images of `pixels` bytes.
    pub fn new(pixels: usize, n_classes: usize) -> PixelModel {
        PixelModel {
            weights: vec![0.0; pixels],
            classes: vec![0.0; n_classes],
            mean: MovingMean::default(),
        }
    }

    /// Number of bytes an image, D, and of classes.
    pub fn shape(&self) -> (usize, usize) {
        (self.weights.len(), self.classes.len())
    }

    /// Whether every number in it is finite.
    pub fn is_sound(&self) -> bool {
        let mut all = self.weights.iter().chain(&self.classes);
        self.mean.is_sound() && all.all(|w| w.is_finite())
    }

    /// Logits of some images, `[n]`.
    pub fn logits(&self, images: &Images, ids: &[u32]) -> Vec<f32> {
        let (mut folded, mut offset) = (self.weights.clone(), 0.0);
        for (channel, (a, c)) in fold(images).enumerate() {
            for w in folded[channel..].iter_mut().step_by(images.channels) {
                offset += *w * c;
                *w *= a;
            }
        }
        let logit = |&id: &u32| {
            let id = id as usize;
            let class = self.classes[images.labels[id] as usize];
            dot(images.image(id), &folded) - offset + class
        };
        ids.iter().map(logit).collect()
    }

    /// Operations of [`logits`](PixelModel::logits) on `n` images: a multiply and an add a byte, two
    /// adds; folding is 3 a weight.
    pub fn logits_ops(&self, n: usize) -> u64 {
        let pixels = self.weights.len();
        (n * (2 * pixels + 2) + 3 * pixels) as u64
    }

    /// One step of SGD on what became of a batch: `w −= rate/n·(Σ r_i·x_i + λ·w)`, and for each
    /// record `v[class] −= rate/n·(r_i + λ·v[class])`, `r = σ(logit) − label`. Returns the labels,
    /// `loss > mean` with the batch itself in the mean.
    pub fn learn(&mut self, images: &Images, ids: &[u32], losses: &[f32]) -> Vec<bool> {
        let labels = self.mean.labels(losses);
        let mut residuals = self.logits(images, ids);
        for (r, &label) in residuals.iter_mut().zip(&labels) {
            *r = sigmoid(*r) - f32::from(label);
        }
        let rate = RATE / ids.len() as f32;
        let (mut slope, mut total) = (vec![0.0; self.weights.len()], 0.0);
        for (&id, &r) in ids.iter().zip(&residuals) {
            let id = id as usize;
            add(&mut slope, r, images.image(id));
            total += r;
            let class = &mut self.classes[images.labels[id] as usize];
            *class -= rate * (r + L2 * *class);
        }
        for (channel, (a, c)) in fold(images).enumerate() {
            let weights = self.weights[channel..].iter_mut();
            let pairs = weights.zip(&slope[channel..]).step_by(images.channels);
            for (w, &slope) in pairs {
                *w -= rate * (a * slope - c * total + L2 * *w);
            }
        }
        labels
    }

    /// Operations of [`learn`](PixelModel::learn) on `n` images: the logits; a multiply and an add a
    /// byte; σ, residual, a sum and 4 for the class an image; 7 a weight; the labels, and the rate.
    pub fn learn_ops(&self, n: usize) -> u64 {
        let pixels = self.weights.len() as u64;
        let residuals = n as u64 * (2 * pixels + SIGMOID_OPS + 6);
        self.logits_ops(n) + residuals + 7 * pixels + MovingMean::labels_ops(n) + 1
    }
}

/// `(a, c)` of each channel, with `x = a·u8 − c`.
fn fold(images: &Images) -> impl Iterator<Item = (f32, f32)> {
    let channels = images.mean.iter().zip(&images.std);
    channels.map(|(mean, std)| (1.0 / (255.0 * std), mean / std))
}

/// Independent sums in a dot product: as many vectors as hide the latency of an add.
const LANES: usize = 32;

/// `Σ u8·w`, in a fixed order.
fn dot(bytes: &[u8], weights: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (u, w) = (bytes.chunks_exact(LANES), weights.chunks_exact(LANES));
    let rest = u.remainder().iter().zip(w.remainder());
    for (u, w) in u.zip(w) {
        for lane in 0..LANES {
            sums[lane] += f32::from(u[lane]) * w[lane];
        }
    }
    for (lane, (&u, w)) in rest.enumerate() {
        sums[lane] += f32::from(u) * w;
    }
    sums.iter().sum()
}

/// `to += r·u8`.
fn add(to: &mut [f32], r: f32, bytes: &[u8]) {
    for (to, &u) in to.iter_mut().zip(bytes) {
        *to += r * f32::from(u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{hash, unit_f64};

    fn images(n: usize) -> Images {
        let size = 5 * 7 * 3;
        Images {
            pixels: (0..n * size).map(|i| hash(4, i as u64, 0) as u8).collect(),
            labels: (0..n as u32).map(|i| i % 4).collect(),
            height: 5,
            width: 7,
            channels: 3,
            mean: vec![0.4, 0.5, 0.6],
            std: vec![0.2, 0.25, 0.3],
        }
    }

    /// Normalised pixels, as they are defined.
    fn normalised(images: &Images, id: u32) -> Vec<f64> {
        let pixel = |(j, &u): (usize, &u8)| {
            let (mean, std) = (images.mean[j % 3], images.std[j % 3]);
            (f64::from(u) / 255.0 - f64::from(mean)) / f64::from(std)
        };
        let bytes = images.image(id as usize);
        bytes.iter().enumerate().map(pixel).collect()
    }

    #[test]
    fn folded_scores_and_steps_are_those_of_normalised_pixels() {
        let images = images(40);
        let (pixels, ids) = (105, [3, 17, 39, 0, 8]);
        let mut model = PixelModel::new(pixels, 4);
        let (mut w, mut v) = (vec![0.0f64; pixels], [0.0f64; 4]);
        let (mut sum, mut count) = (0.0, 0.0);
        for step in 0..50 {
            let losses: Vec<f32> = (0..5)
                .map(|i| unit_f64(hash(5, step, i)) as f32 * 3.0)
                .collect();
            count = 0.75 * count + 0.25 * 5.0;
            sum = 0.75 * sum + 0.25 * losses.iter().map(|&x| f64::from(x)).sum::<f64>();
            let label = |loss: f32| f64::from(u8::from(f64::from(loss) > sum / count));
            let logit = |w: &[f64], v: &[f64], id: u32| {
                let x = normalised(&images, id);
                let dot: f64 = w.iter().zip(&x).map(|(w, x)| w * x).sum();
                dot + v[id as usize % 4]
            };
            let r: Vec<f64> = ids
                .iter()
                .zip(&losses)
                .map(|(&id, &loss)| 1.0 / (1.0 + (-logit(&w, &v, id)).exp()) - label(loss))
                .collect();
            let labels = model.learn(&images, &ids, &losses);
            for ((&id, &r), (&is, &loss)) in ids.iter().zip(&r).zip(labels.iter().zip(&losses)) {
                assert_eq!(f64::from(u8::from(is)), label(loss));
                let v = &mut v[id as usize % 4];
                *v -= 0.01 / 5.0 * (r + 1e-3 * *v);
            }
            let xs: Vec<_> = ids.iter().map(|&id| normalised(&images, id)).collect();
            for (j, w) in w.iter_mut().enumerate() {
                let slope: f64 = r.iter().zip(&xs).map(|(r, x)| r * x[j]).sum();
                *w -= 0.01 / 5.0 * (slope + 1e-3 * *w);
            }
            for (&id, got) in ids.iter().zip(model.logits(&images, &ids)) {
                let want = logit(&w, &v, id);
                assert!((f64::from(got) - want).abs() < 1e-4, "{step}: {got} {want}");
            }
        }
        assert!(model.is_sound() && model.shape() == (pixels, 4));
    }

    #[test]
    fn it_learns_what_pixels_tell() {
        let images = images(400);
        let mut model = PixelModel::new(105, 4);
        // What is bright in one corner is hard.
        let hard = |id: u32| images.image(id as usize)[0] > 127;
        for step in 0..2000u64 {
            let ids: Vec<u32> = (0..32).map(|i| (hash(6, step, i) % 300) as u32).collect();
            let losses: Vec<f32> = ids.iter().map(|&id| f32::from(hard(id))).collect();
            model.learn(&images, &ids, &losses);
        }
        let unseen: Vec<u32> = (300..400).collect();
        let logits = model.logits(&images, &unseen);
        let right = logits.iter().zip(&unseen);
        let right = right.filter(|(l, id)| (**l > 0.0) == hard(**id)).count();
        assert!(right > 85, "{right}");
    }
}
