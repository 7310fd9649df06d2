//! The Boss: a network on an executor, with its data.

use super::{Config, TrainError};
use crate::assist::LossRing;
use crate::backend::{self, Augment, DataId, Executor, Sgd, StepInputs};
use crate::data::Dataset;
use crate::nn::{self, InputShape, ResNet};
use std::sync::Arc;

/// Pixels of padding from which training images are cropped back, the usual choice for images of
/// about 32×32.
const CROP: usize = 4;

/// Mean loss and share of right answers on a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Cross entropy, nats.
    pub loss: f64,
    /// 0 to 1.
    pub accuracy: f64,
}

/// A network on an executor.
pub struct Boss {
    pub exec: Box<dyn Executor>,
    pub net: ResNet,
    train: DataId,
    test: DataId,
    test_images: usize,
    batch: usize,
    augment: Augment,
    smoothing: f32,
    sgd: Sgd,
}

impl Boss {
    /// Opens the device and allocates the network, with all parameters zero.
    pub fn new(config: &Config, data: &Dataset, ring: Arc<LossRing>) -> Result<Boss, TrainError> {
        let mut exec = backend::open(&config.device).map_err(TrainError::unusable)?;
        let (height, width) = (data.train.height, data.train.width);
        let channels = data.train.channels;
        let input = InputShape {
            batch: config.batch,
            height,
            width,
            channels,
        };
        let net = ResNet::new(
            &mut *exec,
            &config.architecture(),
            input,
            data.classes.len(),
        );
        let train = exec.attach_images(data.train.clone());
        let test = exec.attach_images(data.test.clone());
        exec.attach_ring(ring);
        Ok(Boss {
            exec,
            net,
            train,
            test,
            test_images: data.test.len(),
            batch: config.batch,
            augment: Augment {
                crop: CROP,
                flip: data.flip,
            },
            smoothing: config.label_smoothing as f32,
            sgd: Sgd {
                momentum: 0.9,
                nesterov: true,
                weight_decay: config.weight_decay as f32,
            },
        })
    }

    /// Draws the weights from the seed, or reads them from `--init`.
    pub fn initialise(&mut self, config: &Config) -> Result<(), TrainError> {
        let (exec, params) = (&mut *self.exec, &self.net.params);
        match &config.init {
            None => params.initialise(exec, config.seed),
            Some(file) => nn::import(exec, params, file).map_err(TrainError::unusable)?,
        }
        Ok(())
    }

    /// Sees the same pixels at every step.
    pub fn without_augmentation(mut self) -> Boss {
        self.augment = Augment::NONE;
        self
    }

    /// One training step.
    pub fn step(&mut self, inputs: StepInputs) {
        self.exec.begin_step(inputs);
        self.net.train_step(
            &mut *self.exec,
            self.train,
            self.augment,
            self.smoothing,
            self.sgd,
        );
    }

    /// Loss and accuracy on the test images.
    pub fn evaluate(&mut self) -> Evaluation {
        let (mut loss, mut right) = (0.0, 0.0);
        for start in (0..self.test_images).step_by(self.batch) {
            let ids: Vec<u32> = (start..(start + self.batch).min(self.test_images))
                .map(|i| i as u32)
                .collect();
            let rows = ids.len();
            self.exec.begin_step(StepInputs {
                ids,
                ..StepInputs::default()
            });
            self.net.eval_step(&mut *self.exec, self.test);
            let sum = |v: Vec<f32>| v[..rows].iter().map(|v| f64::from(*v)).sum::<f64>();
            loss += sum(self.exec.read(self.net.loss.loss));
            right += sum(self.exec.read(self.net.loss.right));
        }
        let n = self.test_images as f64;
        Evaluation {
            loss: loss / n,
            accuracy: right / n,
        }
    }
}
