//! The flags of `transformer` alone.

use crate::nn::{ConvS2SConfig, LstmConfig, NetworkConfig, NormPlace, TransformerConfig};
use crate::train::config::{absolute, require};
use crate::train::{ConfigError, Schedule};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where sentences come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Built-in sums in words, German and English: a demonstration, never evidence.
    Synthetic,
    /// Files of one sentence a line, --src and --tgt, plain or .gz.
    Parallel,
}

/// What translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// The encoder–decoder Transformer.
    Transformer,
    /// Recurrences with attention (Luong et al., 2015); on cpu only so far.
    Lstm,
    /// Convolutions with attention (Gehring et al., 2017); on cpu only so far.
    Convs2s,
}

impl Arch {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Arch::Transformer => "Transformer",
            Arch::Lstm => "LSTM",
            Arch::Convs2s => "ConvS2S",
        }
    }

    /// As the flag has it.
    pub fn flag(self) -> &'static str {
        match self {
            Arch::Transformer => "transformer",
            Arch::Lstm => "lstm",
            Arch::Convs2s => "convs2s",
        }
    }

    /// Tokens of a sentence, its end included, that it has places for.
    pub fn most_tokens(self) -> usize {
        match self {
            Arch::Convs2s => ConvS2SConfig::MOST_TOKENS.min(MOST_TOKENS),
            _ => MOST_TOKENS,
        }
    }
}

/// Sizes that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// d 128, ffn 512, 4 heads, 3+3 layers, dropout 0.1; lstm: d 128, states of 256, 1+1 layers,
    /// dropout 0.1, one table of embeddings; convs2s: d 128, 4+3 layers that see 3 tokens, dropout
    /// 0.1.
    Tiny,
    /// d 512, ffn 1024, 4 heads, 6+6 layers, dropout 0.3; lstm: d and states of 256, 1+1 layers,
    /// dropout 0.1 of the decoder's outputs, three tables; convs2s: d 256, 4+3 layers, dropout 0.2.
    Iwslt,
    /// d 512, ffn 2048, 8 heads, 6+6 layers, dropout 0.1; lstm: d and states of 1000, 4+4 layers,
    /// dropout 0.1 of the embeddings, three tables; convs2s: d 768, 15+15 layers of widths 512 to
    /// 2048, dropout 0.2.
    Base,
}

impl Preset {
    fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Iwslt => "iwslt",
            Preset::Base => "base",
        }
    }
}

/// Where the layer norms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Before the sublayers.
    Pre,
    /// After them, as first published.
    Post,
}

/// The flags of `transformer` alone, each also a key of a `--config` file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[command(next_help_heading = "Data and network")]
#[serde(rename_all = "kebab-case", default)]
pub struct TranslationOptions {
    /// Where sentences come from; without it, a demonstration on synthetic data
    #[arg(long, value_enum)]
    pub data: Option<Data>,
    /// Folder that --src and --tgt are in [default: the working directory]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Sentences to train on, to validate on and to test on, one a line, plain or .gz
    #[arg(long, num_args = 3, value_names = ["TRAIN", "VALID", "TEST"])]
    pub src: Option<Vec<PathBuf>>,
    /// Their translations, line by line
    #[arg(long, num_args = 3, value_names = ["TRAIN", "VALID", "TEST"])]
    pub tgt: Option<Vec<PathBuf>>,
    /// What translates [default: transformer]
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
    /// Sizes that go together; the flags below change one [default: tiny]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Where the layer norms are; transformer alone [default: pre]
    #[arg(long, value_enum)]
    pub norm: Option<Norm>,
    /// Tokens of the vocabulary that both languages share [default: 4000]
    #[arg(long)]
    pub vocab: Option<usize>,
    /// Width of the model; of an lstm that of its embeddings, and its states are 2 times as wide
    /// (tiny) or as wide (iwslt, base); not for convs2s with --preset base, as --layers
    #[arg(long)]
    pub d_model: Option<usize>,
    /// Layers of the encoder, and of the decoder
    #[arg(long)]
    pub layers: Option<usize>,
    /// Attention heads; transformer alone
    #[arg(long)]
    pub heads: Option<usize>,
    /// Width inside the feed-forward layers; transformer alone
    #[arg(long)]
    pub ffn: Option<usize>,
    /// Share of activations dropped in training; of an lstm, where its preset drops any
    #[arg(long)]
    pub dropout: Option<f64>,
    /// Largest norm of the gradient [default: 1]
    #[arg(long)]
    pub clip_norm: Option<f64>,
    /// Tokens of a sentence, its end included, at most 1024 (convs2s: 1022): longer training pairs
    /// are left out, other sentences cut [default: 128]
    #[arg(long)]
    pub max_length: Option<usize>,
    /// Padded tokens in a step, both languages together; --batch caps sentences [default: 4096]
    #[arg(long)]
    pub max_tokens: Option<usize>,
    /// How the learning rate falls after its rise [default: linear]
    #[arg(long, value_enum)]
    pub schedule: Option<Schedule>,
    /// Hypotheses of a sentence in the search for its translation; 1 is greedy [default: 4]
    #[arg(long)]
    pub beam: Option<usize>,
}

/// The resolved settings of `transformer` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each is the flag of the same name, documented in `TranslationOptions`
pub struct TranslationConfig {
    pub data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub src: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tgt: Vec<PathBuf>,
    pub arch: Arch,
    /// What of an LSTM or a ConvS2S has no flag of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    pub vocab: usize,
    pub d_model: usize,
    /// Those of the encoder and as many of the decoder; none where the preset's two lists stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    pub dropout: f64,
    pub clip_norm: f64,
    #[serde(default = "usual_length")]
    pub max_length: usize,
    pub max_tokens: usize,
    pub schedule: Schedule,
    pub beam: usize,
}

/// Tokens of a sentence, its end included, that there are places for.
pub const MOST_TOKENS: usize = 1024;

/// The default of `--max-length`.
fn usual_length() -> usize {
    128
}

impl TranslationOptions {
    /// Fills in the defaults; those of a demonstration suit its task.
    pub fn resolve(self, demonstration: bool) -> TranslationConfig {
        let (arch, preset) = (
            self.arch.unwrap_or(Arch::Transformer),
            self.preset.unwrap_or(Preset::Tiny),
        );
        let own = demonstration && self.preset.is_none();
        // Of the width, the layers and the dropout, and what a Transformer alone has.
        let (sizes, norm, heads, ffn) = match arch {
            Arch::Transformer => {
                let mut sizes = TransformerConfig::preset(preset.name(), 0).expect("a preset");
                if own {
                    (sizes.d, sizes.ffn, sizes.layers, sizes.dropout) = (64, 256, [2; 2], 0.0);
                }
                let (norm, heads) = (self.norm.unwrap_or(Norm::Pre), sizes.heads);
                (
                    (sizes.d, Some(sizes.layers[0]), sizes.dropout),
                    Some(norm),
                    Some(self.heads.unwrap_or(heads)),
                    Some(self.ffn.unwrap_or(sizes.ffn)),
                )
            }
            // What is given in spite of that is refused by `check`.
            Arch::Lstm => {
                let sizes = LstmConfig::preset(preset.name(), 0).expect("a preset");
                let most = sizes.dropout.into_iter().fold(0.0, f32::max);
                let sizes = match own {
                    true => (64, Some(1), 0.0),
                    false => (sizes.embed, Some(sizes.layers), most),
                };
                (sizes, self.norm, self.heads, self.ffn)
            }
            Arch::Convs2s => {
                let sizes = ConvS2SConfig::preset(preset.name(), 0).expect("a preset");
                let sizes = match own {
                    true => (64, Some(2), 0.0),
                    false => (sizes.embed, None, sizes.dropout),
                };
                (sizes, self.norm, self.heads, self.ffn)
            }
        };
        let (d_model, layers, dropout) = sizes;
        let data_dir = self.data_dir.map(absolute);
        let dir = data_dir.clone().unwrap_or_default();
        let files = |files: Option<Vec<PathBuf>>| {
            let files = files.unwrap_or_default().into_iter();
            files.map(|file| absolute(dir.join(file))).collect()
        };
        TranslationConfig {
            data: self.data.unwrap_or(Data::Synthetic),
            data_dir,
            src: files(self.src),
            tgt: files(self.tgt),
            arch,
            preset: (arch != Arch::Transformer).then_some(preset),
            norm,
            vocab: self.vocab.unwrap_or(if demonstration {
                crate::data::text::SYNTHETIC_VOCAB
            } else {
                4000
            }),
            d_model: self.d_model.unwrap_or(d_model),
            layers: self.layers.or(layers),
            heads,
            ffn,
            // As it is written, not as an f32 is.
            dropout: self
                .dropout
                .unwrap_or((f64::from(dropout) * 1e6).round() / 1e6),
            clip_norm: self.clip_norm.unwrap_or(1.0),
            max_length: self.max_length.unwrap_or_else(usual_length),
            max_tokens: self.max_tokens.unwrap_or(4096),
            schedule: self.schedule.unwrap_or(Schedule::Linear),
            beam: self.beam.unwrap_or(4),
        }
    }
}

impl TranslationConfig {
    /// The network, for a vocabulary of `vocab` tokens.
    ///
    /// # Panics
    /// For settings that [`TranslationConfig::check`] refuses.
    pub fn network(&self, vocab: usize) -> NetworkConfig {
        let rate = self.dropout as f32;
        match self.arch {
            Arch::Transformer => NetworkConfig::Transformer(TransformerConfig {
                vocab,
                d: self.d_model,
                heads: self.heads.expect("a Transformer has heads"),
                ffn: self.ffn.expect("a Transformer has feed-forward layers"),
                layers: [self.layers.expect("a Transformer has layers"); 2],
                norm: match self.norm.expect("a Transformer has norms") {
                    Norm::Pre => NormPlace::Pre,
                    Norm::Post => NormPlace::Post,
                },
                dropout: rate,
            }),
            Arch::Lstm => {
                let name = self.preset.expect("an LSTM has one").name();
                let preset = LstmConfig::preset(name, vocab).expect("a preset");
                let wider = preset.hidden / preset.embed;
                NetworkConfig::Lstm(LstmConfig {
                    embed: self.d_model,
                    hidden: wider * self.d_model,
                    output: self.d_model,
                    layers: self.layers.expect("an LSTM has layers"),
                    dropout: preset.dropout.map(|p| if p > 0.0 { rate } else { 0.0 }),
                    ..preset
                })
            }
            Arch::Convs2s => NetworkConfig::ConvS2S(self.convs2s(vocab, rate)),
        }
    }

    /// The preset, whose widths are all the same where one of them may be given.
    fn convs2s(&self, vocab: usize, dropout: f32) -> ConvS2SConfig {
        let name = self.preset.expect("a ConvS2S has one").name();
        let preset = ConvS2SConfig::preset(name, vocab).expect("a preset");
        let given = |convs: Vec<[usize; 2]>| {
            let count = self.layers.unwrap_or(convs.len());
            vec![[self.d_model, convs[0][1]]; count]
        };
        match self.preset {
            Some(Preset::Base) => ConvS2SConfig { dropout, ..preset },
            _ => ConvS2SConfig {
                embed: self.d_model,
                output: self.d_model,
                encoder: given(preset.encoder),
                decoder: given(preset.decoder),
                dropout,
                ..preset
            },
        }
    }

    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let together = |remedy: &str| Err(ConfigError::Together(remedy.into()));
        let files = !(self.src.is_empty() && self.tgt.is_empty());
        match self.data {
            Data::Synthetic if files || self.data_dir.is_some() => {
                return together(
                    "--src, --tgt and --data-dir are not used by --data synthetic; add --data \
                     parallel",
                );
            }
            Data::Parallel if [self.src.len(), self.tgt.len()] != [3, 3] => {
                return together(
                    "--data parallel needs --src TRAIN VALID TEST and --tgt TRAIN VALID TEST, three \
                     files each",
                );
            }
            _ => (),
        }
        let within = |n: usize, least: usize, most: usize| (least..=most).contains(&n);
        let (vocab, remedy) = (self.vocab, "give a number of tokens from 8 to 1000000");
        require(within(vocab, 8, 1_000_000), "vocab", &vocab, remedy)?;
        match self.arch {
            Arch::Transformer => self.check_transformer()?,
            Arch::Lstm | Arch::Convs2s => self.check_other()?,
        }
        if let Some(layers) = self.layers {
            let remedy = "give a number from 1 to 100";
            require(within(layers, 1, 100), "layers", &layers, remedy)?;
        }
        let dropout_ok = (0.0..1.0).contains(&self.dropout);
        let remedy = "give a share from 0 to below 1";
        require(dropout_ok, "dropout", &self.dropout, remedy)?;
        let (clip, remedy) = (self.clip_norm, "give a positive number; inf for none");
        require(clip > 0.0, "clip-norm", &clip, remedy)?;
        let (length, most) = (self.max_length, self.arch.most_tokens());
        let remedy = format!("give a number of tokens from 8 to {most}");
        require(within(length, 8, most), "max-length", &length, &remedy)?;
        let (tokens, remedy) = (self.max_tokens, "give at least 16 tokens");
        require(within(tokens, 16, 1 << 24), "max-tokens", &tokens, remedy)?;
        let (beam, remedy) = (self.beam, "give a number of hypotheses from 1 to 64");
        require(within(beam, 1, 64), "beam", &beam, remedy)
    }

    /// What the Transformer alone has.
    fn check_transformer(&self) -> Result<(), ConfigError> {
        let missing =
            |flag: &str| ConfigError::Together(format!("--arch transformer needs --{flag}"));
        let heads = self.heads.ok_or_else(|| missing("heads"))?;
        let ffn = self.ffn.ok_or_else(|| missing("ffn"))?;
        self.norm.ok_or_else(|| missing("norm"))?;
        self.layers.ok_or_else(|| missing("layers"))?;
        let remedy = "give a number from 1 to 64";
        require((1..=64).contains(&heads), "heads", &heads, remedy)?;
        let (d, even) = (self.d_model, self.d_model.is_multiple_of(2));
        let d_ok = (2..=8192).contains(&d) && even && d.is_multiple_of(heads);
        let remedy = format!("give an even multiple of the {heads} heads, at most 8192");
        require(d_ok, "d-model", &d, &remedy)?;
        let remedy = "give a number from 1 to 65536";
        require((1..=65_536).contains(&ffn), "ffn", &ffn, remedy)
    }

    /// What the others have, and what they have not.
    fn check_other(&self) -> Result<(), ConfigError> {
        let (arch, together) = (self.arch.flag(), |text| Err(ConfigError::Together(text)));
        let given = [
            ("heads", self.heads.is_some()),
            ("ffn", self.ffn.is_some()),
            ("norm", self.norm.is_some()),
        ];
        if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
            return together(format!(
                "--{flag} is not a flag of --arch {arch}, which has none; leave it out"
            ));
        }
        let Some(preset) = self.preset else {
            return together(format!("--arch {arch} needs its --preset"));
        };
        if self.arch == Arch::Lstm && self.layers.is_none() {
            return together(format!("--arch {arch} needs --layers"));
        }
        let d = self.d_model;
        if self.arch == Arch::Convs2s && preset == Preset::Base {
            let sizes = ConvS2SConfig::preset(preset.name(), 0).expect("a preset");
            let flags = [
                ("layers", self.layers.is_some()),
                ("d-model", d != sizes.embed),
            ];
            if let Some((flag, _)) = flags.into_iter().find(|(_, given)| *given) {
                return together(format!(
                    "--{flag} does not go with --arch {arch} --preset base, whose layers differ; \
                     leave it out"
                ));
            }
        }
        require(
            (1..=4096).contains(&d),
            "d-model",
            &d,
            "give a number from 1 to 4096",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_give_sizes_and_flags_change_them() {
        let options = TranslationOptions {
            preset: Some(Preset::Iwslt),
            ffn: Some(100),
            ..TranslationOptions::default()
        };
        let config = options.resolve(false);
        let sizes = (config.d_model, config.layers);
        assert_eq!((sizes, config.dropout), ((512, Some(6)), 0.3));
        assert_eq!((config.ffn, config.heads), (Some(100), Some(4)));
        assert!(config.check().is_ok());
        assert!(TranslationOptions::default().resolve(true).check().is_ok());
    }

    #[test]
    fn an_lstm_s_states_and_dropout_are_its_preset_s() {
        let network = |text: &str| {
            let options: TranslationOptions = toml::from_str(text).unwrap();
            let config = options.resolve(false);
            assert!(config.check().is_ok(), "{text}");
            match config.network(50) {
                NetworkConfig::Lstm(config) => config,
                other => panic!("{other:?}"),
            }
        };
        let tiny = network("arch = \"lstm\"");
        assert_eq!(Some(&tiny), LstmConfig::preset("tiny", 50).as_ref());
        let changed = network("arch = \"lstm\"\nd-model = 64\nlayers = 2\ndropout = 0.2");
        assert_eq!(
            [changed.embed, changed.hidden, changed.layers],
            [64, 128, 2]
        );
        assert_eq!(changed.dropout, [0.2; 4]);
        let iwslt = network("arch = \"lstm\"\npreset = \"iwslt\"\ndropout = 0.3");
        assert_eq!((iwslt.hidden, iwslt.shared), (256, false));
        assert_eq!(iwslt.dropout, [0.0, 0.0, 0.0, 0.3]);
    }

    #[test]
    fn a_convs2s_has_its_preset_s_lists_unless_told_otherwise() {
        let network = |text: &str| {
            let options: TranslationOptions = toml::from_str(text).unwrap();
            let config = options.resolve(false);
            assert!(config.check().is_ok(), "{text}");
            match config.network(50) {
                NetworkConfig::ConvS2S(config) => config,
                other => panic!("{other:?}"),
            }
        };
        for name in ["tiny", "iwslt", "base"] {
            let plain = network(&format!("arch = \"convs2s\"\npreset = \"{name}\""));
            assert_eq!(Some(&plain), ConvS2SConfig::preset(name, 50).as_ref());
        }
        let changed = network("arch = \"convs2s\"\nd-model = 64\nlayers = 2\ndropout = 0.2");
        assert_eq!([changed.embed, changed.output], [64; 2]);
        assert_eq!(changed.encoder, [[64, 3]; 2]);
        assert_eq!(changed.decoder, changed.encoder);
        assert_eq!(changed.dropout, 0.2);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (flag, text) in [
            ("vocab", "vocab = 3"),
            ("d-model", "d-model = 130"),
            ("d-model", "d-model = 7\nheads = 7"),
            ("heads", "heads = 0"),
            ("layers", "layers = 0"),
            ("ffn", "ffn = 0"),
            ("dropout", "dropout = 1.0"),
            ("dropout", "dropout = nan"),
            ("clip-norm", "clip-norm = 0.0"),
            ("clip-norm", "clip-norm = nan"),
            ("max-length", "max-length = 7"),
            ("max-length", "max-length = 1025"),
            ("max-tokens", "max-tokens = 8"),
            ("beam", "beam = 0"),
            ("src", "data = \"parallel\""),
            (
                "src",
                "data = \"parallel\"\nsrc = [\"a\"]\ntgt = [\"a\", \"b\", \"c\"]",
            ),
            ("heads", "arch = \"lstm\"\nheads = 4"),
            ("ffn", "arch = \"lstm\"\nffn = 4"),
            ("norm", "arch = \"lstm\"\nnorm = \"pre\""),
            ("d-model", "arch = \"lstm\"\nd-model = 0"),
            ("heads", "arch = \"convs2s\"\nheads = 4"),
            ("max-length", "arch = \"convs2s\"\nmax-length = 1023"),
            (
                "layers",
                "arch = \"convs2s\"\npreset = \"base\"\nlayers = 2",
            ),
            (
                "d-model",
                "arch = \"convs2s\"\npreset = \"base\"\nd-model = 64",
            ),
            ("data parallel", "src = [\"a\"]"),
            ("data parallel", "data-dir = \"a\""),
        ] {
            let options: TranslationOptions = toml::from_str(text).unwrap();
            let error = options.resolve(false).check().unwrap_err().to_string();
            assert!(error.contains(&format!("--{flag}")), "{text}: {error}");
        }
    }
}
