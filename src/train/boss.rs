//! The Boss: a network on an executor, with its data.

use super::{Config, TrainError};
use crate::assist::{Drain, LossRing, StepRecords};
use crate::backend::{self, Augment, DataId, DeviceError, Executor, Pass, Sgd, StepInputs};
use crate::data::Dataset;
use crate::nn::{self, InputShape, ResNet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pixels of padding from which training images are cropped back, the usual choice for images of
/// about 32×32.
const CROP: usize = 4;

/// Pause between two looks at the ring by a host that waits for it.
const POLL: Duration = Duration::from_micros(50);
/// Time without a record after which the device is asked whether it still works.
const PATIENCE: Duration = Duration::from_secs(1);

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
    pub net: Arc<ResNet>,
    /// Where the losses of training steps arrive.
    pub ring: Arc<LossRing>,
    train: DataId,
    test: DataId,
    test_images: usize,
    batch: usize,
    augment: Augment,
    smoothing: f32,
    sgd: Sgd,
}

impl Boss {
    /// Opens the device and allocates the network, with all parameters zero, and a ring of `slots`
    /// steps.
    pub fn new(config: &Config, data: &Dataset, slots: usize) -> Result<Boss, TrainError> {
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
        let ring = exec.create_ring(slots, config.batch);
        Ok(Boss {
            ring: ring.map_err(TrainError::unusable)?,
            exec,
            net: Arc::new(net),
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
            None => params
                .initialise(exec, config.seed)
                .map_err(|e| TrainError::unusable(e.at_batch(config.batch)))?,
            Some(file) => nn::import(exec, params, file).map_err(TrainError::unusable)?,
        }
        Ok(())
    }

    /// Sees the same pixels at every step.
    pub fn without_augmentation(mut self) -> Boss {
        self.augment = Augment::NONE;
        self
    }

    /// Claims the memory of all steps to come.
    ///
    /// # Errors
    /// There is not enough: says which batch would fit.
    pub fn prepare(&mut self) -> Result<(), TrainError> {
        let (net, test, train) = (&self.net, self.test, self.training());
        let trained = self.exec.prepare(Pass::Train, [0; 3], &train);
        let prepared = trained.and_then(|()| {
            self.exec
                .prepare(Pass::Eval, [0; 3], &|exec| net.eval_step(exec, test))
        });
        prepared.map_err(|e| TrainError::unusable(e.at_batch(self.batch)))
    }

    /// Launches one training step.
    ///
    /// # Errors
    /// A failure of the device that is already known.
    pub fn step(&mut self, inputs: StepInputs) -> Result<(), DeviceError> {
        let train = self.training();
        self.exec.step(Pass::Train, inputs, &train)
    }

    /// What a training step does.
    fn training(&self) -> impl Fn(&mut dyn Executor) + use<> {
        let (net, data, augment) = (self.net.clone(), self.train, self.augment);
        let (smoothing, sgd) = (self.smoothing, self.sgd);
        move |exec| net.train_step(exec, data, augment, smoothing, sgd)
    }

    /// Loss and accuracy on the test images.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn evaluate(&mut self) -> Result<Evaluation, DeviceError> {
        let (mut loss, mut right) = (0.0, 0.0);
        let (net, data) = (&self.net, self.test);
        for start in (0..self.test_images).step_by(self.batch) {
            let ids: Vec<u32> = (start..(start + self.batch).min(self.test_images))
                .map(|i| i as u32)
                .collect();
            let rows = ids.len();
            let inputs = StepInputs {
                ids,
                ..StepInputs::default()
            };
            let pass = Pass::Eval;
            self.exec
                .step(pass, inputs, &|exec| net.eval_step(exec, data))?;
            let sum = |v: Vec<f32>| v[..rows].iter().map(|v| f64::from(*v)).sum::<f64>();
            loss += sum(self.exec.read(net.loss.loss)?);
            right += sum(self.exec.read(net.loss.right)?);
        }
        let n = self.test_images as f64;
        Ok(Evaluation {
            loss: loss / n,
            accuracy: right / n,
        })
    }

    /// The records of the oldest step in flight, for a host that has nothing else to do.
    ///
    /// # Errors
    /// A failure of the device: a crashed kernel writes no records.
    pub fn wait_for_records(&mut self, drain: &mut Drain) -> Result<StepRecords, DeviceError> {
        let mut asked = Instant::now();
        loop {
            if let Some(records) = drain.poll() {
                return Ok(records);
            }
            // Short beside a step, of which several are in flight; long enough to leave the core
            // to others.
            std::thread::sleep(POLL);
            if asked.elapsed() > PATIENCE {
                self.exec.check()?;
                asked = Instant::now();
            }
        }
    }
}
