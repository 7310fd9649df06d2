//! Where images come from.

use super::{Data, ImageConfig};
use crate::data::download::{self, DownloadError, Downloader};
use crate::data::{self, DataError, Dataset};
use crate::train::{ConfigError, Console, TrainError};
use clap::ValueEnum;
use indicatif::HumanBytes;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The synthetic images are the same for every `--seed`, as any data set's are.
const SYNTHETIC_SEED: u64 = 0;
/// Names a server that has the published files, for who cannot reach theirs.
const MIRROR: &str = "AUTOASSIST_DOWNLOAD_URL";

/// Reads or generates the data set, and fetches it first where `--download` says so.
///
/// # Errors
/// Whatever is wrong with the files or the download; [`TrainError::StoppedReading`] once
/// `interrupt` is set while a file arrives.
pub fn load(
    config: &ImageConfig,
    console: Console,
    interrupt: &AtomicBool,
) -> Result<Dataset, TrainError> {
    let read: fn(&Path) -> Result<Dataset, DataError> = match config.data {
        Data::Synthetic => return Ok(data::synthetic(SYNTHETIC_SEED)),
        Data::Folder => {
            let dir = data_dir(config, "folder")?;
            return data::folder(&dir, console.bars()).map_err(TrainError::unusable);
        }
        Data::Cifar10 => data::cifar10,
        Data::Cifar100 => data::cifar100,
        Data::Mnist => data::mnist,
        Data::FashionMnist => data::fashion_mnist,
    };
    let name = config.data.to_possible_value().expect("none is hidden");
    let dir = data_dir(config, name.get_name())?;
    if config.download {
        fetch(config.data, &dir, console, interrupt).map_err(|e| match e {
            DownloadError::Stopped => TrainError::StoppedReading,
            e => TrainError::unusable(e),
        })?;
    }
    read(&dir).map_err(TrainError::unusable)
}

/// Where the data set is: `--data-dir`, or its folder in the user's cache.
fn data_dir(config: &ImageConfig, name: &str) -> Result<PathBuf, ConfigError> {
    if let Some(dir) = &config.data_dir {
        return Ok(dir.clone());
    }
    let folder = |variable| Some(PathBuf::from(std::env::var_os(variable)?));
    // A relative path in either is to be ignored, says the XDG base directory specification.
    let absolute = |path: &PathBuf| path.is_absolute();
    let cache = folder("XDG_CACHE_HOME").filter(absolute);
    let home = || {
        folder("HOME")
            .filter(absolute)
            .map(|home| home.join(".cache"))
    };
    match cache.or_else(home) {
        Some(cache) => Ok(cache.join("autoassist").join(name)),
        None => Err(ConfigError::Together(format!(
            "--data {name} needs --data-dir DIR: neither XDG_CACHE_HOME nor HOME names a folder"
        ))),
    }
}

fn fetch(
    data: Data,
    dir: &Path,
    console: Console,
    interrupt: &AtomicBool,
) -> Result<(), DownloadError> {
    let on_start = |url: &str, have: u64, total: Option<u64>| {
        let size = total.map_or("unknown size".into(), |n| HumanBytes(n).to_string());
        let rest = match have {
            0 => String::new(),
            _ => format!(", of which {} are here", HumanBytes(have)),
        };
        console.note(format_args!(
            "fetching {url} ({size}{rest}) into {}",
            dir.display()
        ));
        console.bar("download", total.unwrap_or(0), have)
    };
    let downloader = Downloader {
        mirror: std::env::var(MIRROR).ok(),
        on_start: &on_start,
        interrupt,
    };
    match data {
        Data::Cifar10 => downloader.cifar10(&download::CIFAR10, dir),
        Data::Cifar100 => downloader.cifar100(&download::CIFAR100, dir),
        Data::Mnist => downloader.idx(&download::MNIST, dir),
        Data::FashionMnist => downloader.idx(&download::FASHION_MNIST, dir),
        Data::Synthetic | Data::Folder => Ok(()),
    }
}
