//! Small parallel files: counting in two made-up languages.

use std::path::Path;
use std::process::Command;

const WORDS: [[&str; 2]; 6] = [
    ["eins", "one"],
    ["zwei", "two"],
    ["drei", "three"],
    ["vier", "four"],
    ["fünf", "five"],
    ["sechs", "six"],
];

/// Sentence `i` and its translation, of one to six words.
pub fn pair(i: usize) -> [String; 2] {
    let words = (0..1 + i % 6).map(|k| WORDS[(i / 6 + k * (1 + i % 5)) % 6]);
    let words: Vec<[&str; 2]> = words.collect();
    [0, 1].map(|side| words.iter().map(|w| w[side]).collect::<Vec<_>>().join(" "))
}

/// A network small enough for any machine.
const SIZES: &str =
    "d-model = 16\nffn = 32\nheads = 2\nlayers = 1\nvocab = 60\nbeam = 2\nbatch = 4\n";

/// Networks of other kinds, as small.
const OTHERS: [&str; 2] = ["lstm", "convs2s"];
const OTHER_SIZES: &str = "d-model = 16\nlayers = 1\nvocab = 60\nbeam = 2\nbatch = 4\n";

/// Writes `train`, `valid` and `test` with the endings `.de` and `.en`.
pub fn write_pairs(dir: &Path, train: usize) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("sizes.toml"), SIZES).unwrap();
    for arch in OTHERS {
        let sizes = format!("arch = \"{arch}\"\n{OTHER_SIZES}");
        std::fs::write(dir.join(format!("{arch}.toml")), sizes).unwrap();
    }
    for (name, first, count) in [("train", 0, train), ("valid", 7, 20), ("test", 100, 20)] {
        for (side, ending) in ["de", "en"].iter().enumerate() {
            let lines = (first..first + count).map(|i| pair(i)[side].clone() + "\n");
            let text: String = lines.collect();
            std::fs::write(dir.join(format!("{name}.{ending}")), text).unwrap();
        }
    }
}

/// A run on what [`write_pairs`] wrote.
#[allow(dead_code)] // not by every test
pub fn transformer(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transformer"));
    arguments(&mut command, dir);
    command
}

/// The same of another `--arch`, which runs on the CPU only.
#[allow(dead_code)] // not by every test
pub fn other(arch: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transformer"));
    sized(&mut command, dir, &format!("{arch}.toml"));
    command.args(["--device", "cpu"]);
    command
}

/// What such a run is called with.
pub fn arguments(command: &mut Command, dir: &Path) {
    sized(command, dir, "sizes.toml");
}

fn sized(command: &mut Command, dir: &Path, sizes: &str) {
    command
        .env("RAYON_NUM_THREADS", "2")
        .env_remove("AUTOASSIST_ISA")
        .args(["--data", "parallel", "--data-dir"])
        .arg(dir)
        .args(["--src", "train.de", "valid.de", "test.de"])
        .args(["--tgt", "train.en", "valid.en", "test.en"])
        .arg("--config")
        .arg(dir.join(sizes));
}
