//! The task of `resnet`: classes of images.

mod boss;
mod data;
mod known;

use super::config::{absolute, require};
use super::program::Program;
use super::report::{Picture, Sample, Shown};
use super::task::{Boss, Curve, Task, Words};
use super::{Config, ConfigError, Console, Defaults, Schedule, TrainError};
use crate::assist::Instances;
use crate::backend::Precision;
use crate::data::Dataset;
use crate::files::WriteError;
use crate::nn::{About, Architecture, WeightFile};
use boss::ImageBoss;
use clap::ValueEnum;
use known::Known;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Where instances come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Built-in images, generated from the seed: a demonstration, never evidence.
    Synthetic,
    /// The official binary batches of CIFAR-10.
    Cifar10,
    /// Those of CIFAR-100, with its 100 fine labels.
    Cifar100,
    /// MNIST, or another set of ten classes in its format: IDX files, plain or .gz.
    Mnist,
    /// Fashion-MNIST: the same format with the names of its classes.
    FashionMnist,
    /// A tree `train/<class>/*.{jpg,png}`, `test/<class>/…` under --data-dir.
    Folder,
}

/// The flags of `resnet` alone, each also a key of a `--config` file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Data and network")]
#[serde(rename_all = "kebab-case", default)]
pub struct ImageOptions {
    /// Where images come from; without it, a demonstration on synthetic data
    #[arg(long, value_enum)]
    pub data: Option<Data>,
    /// Folder of the data set [default: what --download has fetched]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Fetch the data set unless it is there, into --data-dir or ~/.cache/autoassist
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub download: Option<bool>,
    /// Judge by this share of each class of the training images, held out, instead of by the test
    /// images: for choosing settings
    #[arg(long, value_name = "SHARE")]
    pub valid_share: Option<f64>,
    /// Layers of the network: 8, 14, 20, 32, 44, 56, 110, 18, 34, 50 or 101 [default: 8]
    #[arg(long)]
    pub depth: Option<u32>,
}

/// The resolved settings of `resnet` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each is the flag of the same name, documented in `ImageOptions`
pub struct ImageConfig {
    pub data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub download: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_share: Option<f64>,
    pub depth: u32,
}

/// The program `resnet`.
pub struct Resnet;

impl Program for Resnet {
    const NAME: &'static str = "resnet";
    const ABOUT: &'static str = "Trains a ResNet on images with AutoAssist: a light Assistant \
        learns which images still matter and skips the rest.\n\nWithout --data this is a \
        demonstration: built-in synthetic images, three arms, under two minutes.";
    const DEMONSTRATION: &'static str = "A demonstration on synthetic images, not evidence. Real \
        data: --data folder --data-dir DIR; see --help.";
    const EXAMPLES: &'static str = "Examples:
  resnet                                              the demonstration
  resnet --data cifar10 --download --compare full,uniform,memory
  resnet study benches/studies/fashion.toml           what a claim takes
  resnet --data folder --data-dir DIR --epochs 0.5    a quick look
  resnet --data folder --data-dir DIR --depth 20 --out my-run
  resnet --resume my-run                              after Ctrl-C, or a kill
  resnet --data folder --data-dir DIR --init my-run --eval-only";
    const WORDS: &'static Words = &WORDS;
    const NAMES: &'static str = "torchvision's";
    type Options = ImageOptions;
    type Config = ImageConfig;

    fn has_data(options: &ImageOptions) -> bool {
        options.data.is_some()
    }

    fn defaults(demonstration: bool) -> Defaults {
        Defaults {
            epochs: if demonstration { 6.0 } else { 16.0 },
            batch: 128,
            lr: 0.2,
            weight_decay: 5e-4,
            label_smoothing: 0.0,
        }
    }

    fn resolve(options: ImageOptions, _: bool) -> ImageConfig {
        ImageConfig {
            data: options.data.unwrap_or(Data::Synthetic),
            data_dir: options.data_dir.map(absolute),
            download: options.download.unwrap_or(false),
            valid_share: options.valid_share,
            depth: options.depth.unwrap_or(8),
        }
    }

    fn check(config: &ImageConfig) -> Result<(), ConfigError> {
        let depths = Architecture::DEPTHS.map(|d| d.to_string()).join(", ");
        let depth_ok = Architecture::of_depth(config.depth).is_some();
        let remedy = format!("choose one of {depths}");
        require(depth_ok, "depth", &config.depth, &remedy)?;
        if let Some(share) = config.valid_share {
            let remedy = "give a share above 0 and below 1, such as 0.1";
            require(share > 0.0 && share < 1.0, "valid-share", &share, remedy)?;
        }
        let together = |remedy: &str| Err(ConfigError::Together(remedy.into()));
        if config.download && matches!(config.data, Data::Synthetic | Data::Folder) {
            return together(
                "--download fetches a published data set: name it by --data cifar10, --data cifar100, \
                 --data mnist or --data fashion-mnist",
            );
        }
        match (config.data, &config.data_dir) {
            (Data::Folder, None) => {
                together("--data folder needs --data-dir DIR, a folder with train/ and test/")
            }
            (Data::Synthetic, Some(_)) => together(
                "--data-dir is not used by --data synthetic; add --data folder, or what it holds",
            ),
            _ => Ok(()),
        }
    }

    fn load(
        shared: &Config,
        config: ImageConfig,
        run: Option<&Path>,
        console: Console,
        interrupt: &AtomicBool,
    ) -> Result<Box<dyn Task>, TrainError> {
        let init = shared.init.as_deref().filter(|_| run.is_none());
        let init = init.map(|file| WeightFile::of_program(file, Resnet::NAME));
        let init = init.transpose().map_err(TrainError::unusable)?;
        let mut data = data::load(&config, console, interrupt)?;
        if let Some(share) = config.valid_share {
            data = data.hold_out(share).map_err(TrainError::unusable)?;
        }
        for line in read(&data) {
            console.note(line);
        }
        let own = Known::of(&data);
        Known::apply(&mut data, run, init.as_ref())?;
        let known = Known::of(&data);
        if known != own {
            console.note(format_args!(
                "normalised as the weights were trained: {known}"
            ));
        }
        let architecture = Architecture::of_depth(config.depth).expect("checked");
        Ok(Box::new(ImageTask {
            config,
            architecture,
            data,
        }))
    }
}

/// What was read, and what was not, a line each.
fn read(data: &Dataset) -> Vec<String> {
    let (images, classes) = (&data.train, &data.classes);
    let mut names = classes.iter().take(NAMED).cloned().collect::<Vec<_>>();
    if classes.len() > NAMED {
        names.push("…".into());
    }
    let first = format!(
        "{}: {} training and {} {} images of {}x{}x{} in {} classes ({})",
        data.name,
        images.len(),
        data.test.len(),
        if data.held_out { "validation" } else { "test" },
        images.height,
        images.width,
        images.channels,
        classes.len(),
        names.join(", "),
    );
    [first].into_iter().chain(data.notes.clone()).collect()
}

/// Classes that a line has room for.
const NAMED: usize = 10;

/// Images to learn, and the ResNet for them.
struct ImageTask {
    config: ImageConfig,
    architecture: Architecture,
    data: Dataset,
}

/// How it speaks of them.
pub(super) const WORDS: Words = Words {
    one: "image",
    many: "images",
    short: "img",
    score: "test accuracy",
    unit: " %",
    signature: None,
    curve: Curve::Accuracy,
};

/// The same where images were held out.
const VALID_WORDS: Words = Words {
    score: "validation accuracy",
    ..WORDS
};

impl Task for ImageTask {
    fn title(&self) -> String {
        format!("ResNet-{} on {}", self.config.depth, self.data.name)
    }

    fn data(&self) -> String {
        let (train, test) = (self.data.train.len(), self.data.test.len());
        let which = if self.data.held_out {
            " (validation)"
        } else {
            ""
        };
        format!("{}, {train} + {test}{which} images", self.data.name)
    }

    fn words(&self) -> &'static Words {
        if self.data.held_out {
            &VALID_WORDS
        } else {
            &WORDS
        }
    }

    fn about(&self) -> About {
        let images = &self.data.train;
        let [height, width, channels] = [images.height, images.width, images.channels];
        let size = ("image", format!("{height}x{width}x{channels}"));
        About {
            program: Resnet::NAME,
            flags: vec![("depth", self.config.depth.to_string())],
            facts: Known::of(&self.data)
                .facts()
                .into_iter()
                .chain([size])
                .collect(),
        }
    }

    fn settings(&self) -> toml::Table {
        toml::Table::try_from(&self.config).expect("settings are plain values")
    }

    fn size(&self) -> usize {
        self.data.train.len()
    }

    fn fingerprint(&self) -> u64 {
        self.data.fingerprint()
    }

    /// A step's batch.
    fn pool(&self, batch: usize) -> usize {
        batch
    }

    fn instances(&self) -> Instances {
        Instances::from_images(&self.data.train)
    }

    fn schedule(&self) -> Schedule {
        Schedule::Linear
    }

    fn boss(&self, config: &Config, usual: Precision) -> Result<Box<dyn Boss>, TrainError> {
        let boss = ImageBoss::new((config, usual), &self.architecture, &self.data)?;
        Ok(Box::new(boss))
    }

    /// Names of the classes, and the normalisation.
    fn write_into(&self, dir: &Path) -> Result<(), WriteError> {
        Known::of(&self.data).write_into(dir)
    }

    fn show(&self, id: usize) -> Shown {
        let (data, images) = (&self.data, &self.data.train);
        let picture = Picture {
            height: images.height,
            width: images.width,
            channels: images.channels,
            pixels: images.image(id).to_vec(),
        };
        let class = data.classes[images.labels[id] as usize].clone();
        Shown::Image { picture, class }
    }

    /// None.
    fn samples(&self, _: &Path) -> Vec<Sample> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_name() {
        let options = ImageOptions {
            depth: Some(9),
            ..ImageOptions::default()
        };
        let error = Resnet::check(&Resnet::resolve(options, false)).unwrap_err();
        assert!(error.to_string().starts_with("--depth 9"), "{error}");
    }
}
