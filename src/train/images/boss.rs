//! The Boss for images: a ResNet on an executor, with its data.

use crate::assist::LossRing;
use crate::backend::{
    self, Augment, DataId, DeviceError, Executor, Pass, Precision, Sgd, StepInputs, Tensor,
};
use crate::data::Dataset;
use crate::nn::{Architecture, InputShape, Params, ResNet};
use crate::train::task::{Boss, Evaluation, Planned, SLOTS, Score, own_part};
use crate::train::{Answers, Config, Guess, TrainError};
use crate::world::world;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pixels of padding from which training images are cropped back, the usual choice for images of
/// about 32×32.
const CROP: usize = 4;
/// Tells evaluation of training images from that of test images, whose steps have no shape.
const TRAINING: [u32; 3] = [1, 0, 0];

/// A ResNet on an executor.
pub struct ImageBoss {
    exec: Box<dyn Executor>,
    net: Arc<ResNet>,
    ring: Arc<LossRing>,
    train: DataId,
    test: DataId,
    test_images: usize,
    held_out: bool,
    classes: Vec<String>,
    /// Images that the network takes at a time: this rank's part of a batch.
    batch: usize,
    augment: Augment,
    smoothing: f32,
    sgd: Sgd,
}

impl ImageBoss {
    /// Opens the device, with activations as settings say or else as usual, and allocates the
    /// network, with all parameters zero, and a ring.
    pub fn new(
        (config, usual): (&Config, Precision),
        architecture: &Architecture,
        data: &Dataset,
    ) -> Result<ImageBoss, TrainError> {
        let exec = backend::open(&config.device, config.precision, usual);
        let mut exec = exec.map_err(TrainError::unusable)?;
        let (height, width) = (data.train.height, data.train.width);
        let channels = data.train.channels;
        let batch = world().largest_part(config.batch);
        let input = InputShape {
            batch,
            height,
            width,
            channels,
        };
        let net = ResNet::new(&mut *exec, architecture, input, data.classes.len());
        let train = exec.attach_images(data.train.clone());
        let test = exec.attach_images(data.test.clone());
        let ring = exec.create_ring(SLOTS, world().ring_rows(config.batch));
        Ok(ImageBoss {
            ring: ring.map_err(TrainError::unusable)?,
            exec,
            net: Arc::new(net),
            train,
            test,
            test_images: data.test.len(),
            held_out: data.held_out,
            classes: data.classes.clone(),
            batch,
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

    /// Mean loss on the images that training does not see, and which of them are right; of each
    /// rank's batches by that rank.
    fn look(&mut self, stop: &AtomicBool) -> Result<Option<(f64, Vec<bool>)>, DeviceError> {
        let (mut loss, mut stopped) = (0.0, 0.0);
        let mut right = vec![0_u8; self.test_images];
        let (net, data, world) = (&self.net, self.test, world());
        let batches = (0..self.test_images).step_by(self.batch);
        for start in batches.skip(world.rank()).step_by(world.size()) {
            if stop.load(Ordering::Relaxed) {
                stopped = 1.0;
                break;
            }
            let end = (start + self.batch).min(self.test_images);
            let inputs = StepInputs {
                ids: (start..end).map(|i| i as u32).collect(),
                ..StepInputs::default()
            };
            let pass = Pass::Eval;
            self.exec
                .step(pass, inputs, &|exec| net.eval_step(exec, data))?;
            let losses = self.exec.read(net.loss.loss)?;
            loss += losses
                .iter()
                .take(end - start)
                .map(|v| f64::from(*v))
                .sum::<f64>();
            for (right, v) in right[start..end]
                .iter_mut()
                .zip(self.exec.read(net.loss.right)?)
            {
                *right = u8::from(v > 0.5);
            }
        }
        let [loss, stopped] = world.sums("evaluation", [loss, stopped])?;
        if stopped > 0.0 {
            return Ok(None);
        }
        let all = world.exchange("evaluation", &right)?;
        let right = (0..self.test_images).map(|i| all.iter().any(|rank| rank[i] != 0));
        Ok(Some((loss / self.test_images as f64, right.collect())))
    }

    /// What a training step does.
    fn training(&self) -> impl Fn(&mut dyn Executor) + use<> {
        let (net, data, augment) = (self.net.clone(), self.train, self.augment);
        let (smoothing, sgd) = (self.smoothing, self.sgd);
        move |exec| net.train_step(exec, data, augment, smoothing, sgd)
    }
}

impl Boss for ImageBoss {
    fn parts(&mut self) -> (&mut dyn Executor, &Params) {
        (&mut *self.exec, &self.net.params)
    }

    fn ring(&self) -> Arc<LossRing> {
        self.ring.clone()
    }

    fn state(&self) -> Vec<(&'static str, Tensor)> {
        let params = &self.net.params;
        vec![
            ("values", params.values),
            ("momentum", params.momentum),
            ("buffers", params.buffers),
        ]
    }

    /// All at once.
    fn plan(&self, ids: &[u32]) -> Vec<Planned> {
        vec![Planned {
            places: (0..ids.len() as u32).collect(),
            shape: [0; 3],
            ops: ids.len() as u64 * self.net.train_ops_per_instance(),
        }]
    }

    fn plain(&mut self) {
        self.augment = Augment::NONE;
        self.smoothing = 0.0;
    }

    fn prepare(&mut self) -> Result<(), TrainError> {
        let (net, test, train) = (&self.net, self.test, self.training());
        let trained = self.exec.prepare(Pass::Train, [0; 3], &train);
        let prepared = trained.and_then(|()| {
            self.exec
                .prepare(Pass::Eval, [0; 3], &|exec| net.eval_step(exec, test))
        });
        prepared.map_err(|e| TrainError::unusable(e.at_batch(world().size() * self.batch)))
    }

    fn step(&mut self, inputs: StepInputs) -> Result<(), DeviceError> {
        let train = self.training();
        let inputs = own_part(inputs, |ids| ids.len() as u64);
        self.exec.step(Pass::Train, inputs, &train)
    }

    fn evaluate(&mut self, stop: &AtomicBool) -> Result<Option<Evaluation>, DeviceError> {
        let seen = self.look(stop)?;
        Ok(seen.map(|(loss, right)| Evaluation {
            loss,
            accuracy: share(&right),
        }))
    }

    fn guess(&mut self, ids: &[u32]) -> Result<Vec<Guess>, TrainError> {
        let mut guesses = Vec::with_capacity(ids.len());
        let (net, data) = (&self.net, self.train);
        for ids in ids.chunks(self.batch) {
            let inputs = StepInputs {
                ids: ids.to_vec(),
                shape: TRAINING,
                ..StepInputs::default()
            };
            let step = &|exec: &mut dyn Executor| net.eval_step(exec, data);
            let stepped = self.exec.step(Pass::Eval, inputs, step);
            stepped.map_err(TrainError::failed)?;
            let logits = self.exec.read(net.logits).map_err(TrainError::failed)?;
            let labels = self.exec.read_labels(net.labels);
            let labels = labels.map_err(TrainError::failed)?;
            let rows = logits.chunks(self.classes.len()).zip(labels);
            guesses.extend(rows.take(ids.len()).map(|(logits, label)| {
                let (class, sure) = likeliest(logits);
                Guess {
                    answer: self.classes[class].clone(),
                    sure,
                    agrees: f64::from(class == label as usize),
                }
            }));
        }
        Ok(guesses)
    }

    /// Each image is right or not, so that the error is that of a share.
    fn score(&mut self, _: Option<&Path>) -> Result<Score, TrainError> {
        let all = self.look(&AtomicBool::new(false));
        let (_, right) = all.map_err(TrainError::failed)?.expect("all seen");
        let accuracy = share(&right);
        let variance = accuracy * (1.0 - accuracy) / self.test_images as f64;
        Ok(Score {
            test_accuracy: (!self.held_out).then_some(accuracy),
            valid_accuracy: self.held_out.then_some(accuracy),
            standard_error: variance.sqrt(),
            answers: Some(Answers::new(right)),
            ..Score::default()
        })
    }
}

/// How many of them are right, of one.
fn share(right: &[bool]) -> f64 {
    right.iter().filter(|r| **r).count() as f64 / right.len() as f64
}

/// The class of the largest logit, and its probability.
fn likeliest(logits: &[f32]) -> (usize, f64) {
    let all = logits.iter().enumerate();
    let (class, top) = all.fold((0, f32::NEG_INFINITY), |best, (class, &logit)| {
        if logit > best.1 { (class, logit) } else { best }
    });
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    (class, 1.0 / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_class_has_its_share_of_probability() {
        let (class, sure) = likeliest(&[0.0, 1000.0, 1000.0 - 3f32.ln()]);
        assert_eq!(class, 1);
        assert!((sure - 0.75).abs() < 1e-4, "{sure}");
    }
}
