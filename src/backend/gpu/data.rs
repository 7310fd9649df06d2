//! Data sets: their parts, on the host and on the device.

use crate::data::Images;
use crate::data::pairs::SentencePairs;
use std::borrow::Cow;
use std::sync::Arc;

/// A data set on its way to the device, or there.
pub(super) struct Data {
    pub held: Held,
    /// Of its parts.
    pub blocks: Vec<usize>,
    pub uploaded: bool,
}

/// What a data set consists of.
#[derive(Clone)]
pub(super) enum Held {
    Images(Arc<Images>),
    Pairs(Arc<SentencePairs>),
}

impl Held {
    /// Pixels, labels, mean and deviation; or tokens and ends of both sides.
    pub fn parts(&self) -> Vec<Cow<'_, [u8]>> {
        match self {
            Held::Images(images) => {
                let moments = [&images.mean[..], &images.std[..]].concat();
                vec![
                    Cow::Borrowed(&images.pixels),
                    Cow::Borrowed(bytemuck::cast_slice(&images.labels)),
                    Cow::Owned(bytemuck::cast_slice(&moments).to_vec()),
                ]
            }
            Held::Pairs(pairs) => {
                let (source, target) = (pairs.source(), pairs.target());
                let parts = [
                    bytemuck::cast_slice(source.tokens()),
                    bytemuck::cast_slice(source.ends()),
                    bytemuck::cast_slice(target.tokens()),
                    bytemuck::cast_slice(target.ends()),
                ];
                parts.map(Cow::Borrowed).to_vec()
            }
        }
    }
}

/// Images on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// Address of the pixels, u8 `[count, height, width, channels]`.
    pub pixels: u64,
    /// Address of the classes, u32 `[count]`.
    pub labels: u64,
    /// Address of the channels' means, then of their standard deviations, f32 `[2, channels]`.
    pub mean_std: u64,
    /// Number of images; an id beyond is a fault.
    pub count: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 3 for colour, 1 for grey.
    pub channels: usize,
}
