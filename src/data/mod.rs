//! Data sets and their readers.

use std::sync::Arc;

/// Labelled images of one size, in memory as they came: `[N, H, W, C]`, one byte a channel.
#[derive(Clone, Debug)]
pub struct Images {
    /// Rows of pixels.
    pub pixels: Vec<u8>,
    /// Class of each image.
    pub labels: Vec<u32>,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 3 for colour, 1 for grey.
    pub channels: usize,
    /// Per channel mean of the *training* images, in 0..1: normalisation subtracts it.
    pub mean: Vec<f32>,
    /// Per channel standard deviation of the training images, in 0..1, never 0.
    pub std: Vec<f32>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of one image, `[H, W, C]`.
    pub fn image(&self, id: usize) -> &[u8] {
        let size = self.height * self.width * self.channels;
        &self.pixels[id * size..][..size]
    }
}

/// A training and a test set over the same classes.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What it is, for people.
    pub name: String,
    /// Names of the classes, in label order.
    pub classes: Vec<String>,
    /// Trained on.
    pub train: Arc<Images>,
    /// Evaluated on, never trained on.
    pub test: Arc<Images>,
    /// Whether a mirrored image is as good an example.
    pub flip: bool,
}
