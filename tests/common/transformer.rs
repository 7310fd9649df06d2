//! The fixtures' training runs of networks that translate.

use crate::fixture::Fixture;
use crate::ops::{Checks, Failure, RUN};
use autoassist::backend::sequence::{Adam, PositionFormula, positions};
use autoassist::backend::{Executor, Pass, Sgd, StepInputs};
use autoassist::data::pairs::{EOS, PAD, PairShape, SentencePairs, Sentences};
use autoassist::nn::{
    BeamSearch, ConvS2SConfig, LstmConfig, Network, NetworkConfig, NormPlace, Optimiser,
    SearchSpec, TrainSpec, TransformerConfig,
};
use std::sync::Arc;

fn config(f: &Fixture) -> Result<NetworkConfig, Failure> {
    let size = |name| f.number(name).map(|v| v as usize);
    if f.op == "lstm_train" {
        return Ok(NetworkConfig::Lstm(LstmConfig {
            vocab: size("vocab")?,
            embed: size("embed")?,
            hidden: size("hidden")?,
            output: size("out_embed")?,
            layers: size("layers")?,
            shared: f.flag("share_all_embeddings")?,
            dropout: [0.0; 4],
        }));
    }
    if f.op == "convs2s_train" {
        return Ok(NetworkConfig::ConvS2S(ConvS2SConfig {
            vocab: size("vocab")?,
            embed: size("embed")?,
            output: size("out_embed")?,
            encoder: convolutions(f, "enc_convs")?,
            decoder: convolutions(f, "dec_convs")?,
            places: size("max_positions")?,
            dropout: 0.0,
        }));
    }
    Ok(NetworkConfig::Transformer(TransformerConfig {
        vocab: size("vocab")?,
        d: size("d")?,
        heads: size("heads")?,
        ffn: size("ffn")?,
        layers: [size("enc_layers")?, size("dec_layers")?],
        norm: match f.attrs["norm"].as_str() {
            Some("pre") => NormPlace::Pre,
            Some("post") => NormPlace::Post,
            other => return Err(format!("unknown norm {other:?}").into()),
        },
        dropout: 0.0,
    }))
}

/// Width and kernel of each.
fn convolutions(f: &Fixture, attr: &str) -> Result<Vec<[usize; 2]>, Failure> {
    Ok(serde_json::from_value(f.attrs[attr].clone())?)
}

fn optimiser(f: &Fixture) -> Result<Optimiser, Failure> {
    if f.attrs["optimizer"] == "nag" {
        return Ok(Optimiser::Sgd(Sgd {
            momentum: f.number("momentum")? as f32,
            nesterov: true,
            weight_decay: f.number("weight_decay")? as f32,
        }));
    }
    let betas = f.attrs["betas"].as_array().ok_or("no betas in attrs")?;
    let beta = |i: usize| betas.get(i).and_then(|b| b.as_f64()).ok_or("no number");
    Ok(Optimiser::Adam(Adam {
        betas: [beta(0)? as f32, beta(1)? as f32],
        eps: f.number("adam_eps")? as f32,
        weight_decay: f.number("weight_decay")? as f32,
        decoupled: false,
    }))
}

/// The fixture's sentences without their padding.
fn sentences(f: &Fixture, tokens: &str, lengths: &str) -> Result<Vec<Vec<i32>>, Failure> {
    let (tokens, lengths) = (f.ints(tokens)?, f.ints(lengths)?);
    let rows = tokens.chunks(tokens.len() / lengths.len()).zip(lengths);
    Ok(rows
        .map(|(row, len)| row[..*len as usize].to_vec())
        .collect())
}

/// Five steps of training, and what the trained network translates.
pub fn run(f: &Fixture, exec: &mut dyn Executor) -> Checks {
    let size = |name| f.number(name).map(|v| v as usize);
    let most = size("greedy_max_len")?;
    let batch = size("batch")?;
    let shape = PairShape {
        sentences: batch,
        source: f.ints("src_tokens")?.len() / batch,
        target: f.ints("target")?.len() / batch,
    };
    // Larger than the batch, so that its tensors are parts of others.
    let largest = PairShape {
        sentences: batch + 1,
        source: shape.source + 2,
        target: shape.target.max(most) + 1,
    };
    let config = config(f)?;
    let ops = exec.sequence().ok_or("an executor without these ops")?;
    let net = Network::new(ops, config, largest)?;
    let tensors: Vec<_> = net
        .params
        .tensors()
        .map(|(e, t)| (e.name.clone(), t))
        .collect();
    let known = f.names().filter(|n| n.starts_with("init.")).count();
    if known != tensors.len() {
        return Err(format!("{known} initial tensors for a network of {}", tensors.len()).into());
    }
    for (name, tensor) in &tensors {
        exec.write(*tensor, f.floats(&format!("init.{name}"))?)?;
    }
    let bound = net.bind(shape);
    let sources = sentences(f, "src_tokens", "src_len")?;
    let targets = sentences(f, "target", "tgt_len")?;
    let all = |list: &[Vec<i32>]| list.iter().map(|s| &s[..]).collect::<Sentences>();
    let pairs = SentencePairs::new(all(&sources), all(&targets));
    let ops = exec.sequence().ok_or("an executor without these ops")?;
    let data = ops.attach_pairs(Arc::new(pairs));
    let ring = exec.create_ring(4, batch)?;
    let spec = TrainSpec {
        smoothing: f.number("label_smoothing")? as f32,
        clip: match f.number("clip_norm") {
            Ok(clip) if clip > 0.0 => clip as f32,
            _ => f32::INFINITY,
        },
        optimiser: optimiser(f)?,
    };
    let mut checks = vec![];
    if let NetworkConfig::Transformer(config) = &net.config {
        let places = positions(PositionFormula::Fairseq, 2, shape.target, config.d);
        checks.push(f.check("pos_table", places, RUN)?);
    }
    // A key's bias moves all scores of a query alike: nothing depends on it, and what an optimiser
    // makes of the rounding noise in its gradient is anything.
    let idle = |name: &str| name.ends_with("k_proj.bias");
    let excluded = f.attrs["exclude_final"].as_array().map_or(0, Vec::len);
    assert_eq!(
        tensors.iter().filter(|(name, _)| idle(name)).count(),
        excluded
    );
    let rates: Vec<f64> = f.attrs["lr"]
        .as_array()
        .ok_or("no lr in attrs")?
        .iter()
        .flat_map(|lr| lr.as_f64())
        .collect();
    let len = |list: &[Vec<i32>]| list.iter().map(Vec::len).collect::<Vec<_>>();
    let (source_lengths, lengths) = (len(&sources), len(&targets));
    let (mut means, mut totals, mut scales) = (Vec::new(), Vec::new(), Vec::new());
    for (step, lr) in rates.iter().enumerate() {
        let inputs = StepInputs {
            step: step as u64,
            ids: (0..batch as u32).collect(),
            lr: *lr as f32,
            ..StepInputs::default()
        };
        let mut logits = Vec::new();
        if step == 0 {
            // Before the loss puts their gradient in their place.
            exec.step(Pass::Eval, inputs.clone(), &|exec| {
                let ops = exec.sequence().expect("it was there a moment ago");
                ops.gather_pairs(data, bound.pairs);
                bound.encode(ops, false);
                bound.decode(ops, false);
            })?;
            logits = exec.read(bound.results.logits)?;
        }
        exec.step(Pass::Train, inputs, &|exec| {
            let ops = exec.sequence().expect("it was there a moment ago");
            bound.train_step(ops, data, spec);
        })?;
        scales.extend(exec.read(net.scale)?);
        let losses = exec.read(bound.results.loss)?;
        totals.push(
            losses
                .iter()
                .zip(&lengths)
                .map(|(loss, len)| loss * *len as f32)
                .collect::<Vec<_>>(),
        );
        means.extend(losses);
        if step > 0 {
            continue;
        }
        // Rows of padding are zeros in the reference.
        let clear = |rows: &mut [f32], width: usize, lengths: &[usize]| {
            for (rows, len) in rows.chunks_mut(rows.len() / lengths.len()).zip(lengths) {
                rows[len * width..].fill(0.0);
            }
        };
        clear(&mut logits, net.config.vocab(), &lengths);
        checks.push(f.check("logits0", logits, RUN)?);
        let mut encoded = exec.read(bound.results.encoded)?;
        clear(&mut encoded, bound.results.encoded.dims[3], &source_lengths);
        checks.push(f.check("enc_out0", encoded, RUN)?);
        for (name, _) in &tensors {
            let (of, grad) = (format!("grad0.{name}"), exec.read(net.params.grad(name))?);
            checks.push(match idle(name) {
                true => f.check_zero(&of, grad, 1e-6)?,
                false => f.check(&of, grad, RUN)?,
            });
        }
    }
    let previous = exec.read_labels(bound.pairs.previous)?;
    let previous = previous.into_iter().map(|token| token as f32).collect();
    checks.push(f.check_ints("prev_output_tokens", previous)?);
    for (row, loss) in means[means.len() - lengths.len()..].iter().enumerate() {
        let record = ring.read(rates.len() as u64 - 1, row).ok_or("no record")?;
        assert_eq!(record.loss.to_bits(), loss.to_bits(), "sentence {row}");
    }
    let tokens: usize = lengths.iter().sum();
    let total = totals
        .iter()
        .map(|t| t.iter().sum::<f32>() / tokens as f32)
        .collect();
    if f.names().any(|name| name == "clip_scale") {
        checks.push(f.check("clip_scale", scales, RUN)?);
    }
    checks.push(f.check("sent_loss_mean", means, RUN)?);
    checks.push(f.check("sent_loss_sum", totals.concat(), RUN)?);
    checks.push(f.check("total_loss", total, RUN)?);
    for (name, tensor) in &tensors {
        let (of, value) = (format!("final.{name}"), exec.read(*tensor)?);
        checks.push(match idle(name) {
            true => f.check_within(&of, value, rates.iter().sum())?,
            false => f.check(&of, value, RUN)?,
        });
    }
    checks.extend(greedy(f, exec, &net, &sources, most)?);
    Ok(checks)
}

/// The translations by the trained network, and by how much each token wins.
fn greedy(
    f: &Fixture,
    exec: &mut dyn Executor,
    net: &Network,
    sources: &[Vec<i32>],
    most: usize,
) -> Checks {
    let ops = exec.sequence().ok_or("an executor without these ops")?;
    let mut search = BeamSearch::new(
        ops,
        net,
        SearchSpec {
            beams: 1,
            most,
            penalty: 1.0,
        },
    );
    let translations = search.translate(ops, net, sources)?;
    let translations: Vec<Vec<i32>> = translations.into_iter().map(|t| t.tokens).collect();
    let padded = |first: Option<i32>| -> Vec<i32> {
        let row = |t: &Vec<i32>| -> Vec<i32> {
            let tokens = first.into_iter().chain(t.iter().copied());
            tokens.chain(std::iter::repeat(PAD)).take(most).collect()
        };
        translations.iter().flat_map(row).collect()
    };
    // All at once, which must be what came of it one by one.
    let bound = net.bind(PairShape {
        sentences: sources.len(),
        source: sources.iter().map(Vec::len).max().ok_or("no sources")?,
        target: most,
    });
    exec.write_labels(bound.pairs.previous, &padded(Some(EOS)))?;
    exec.write_labels(bound.pairs.target_len, &vec![most as i32; sources.len()])?;
    let ops = exec.sequence().ok_or("an executor without these ops")?;
    bound.decode(ops, false);
    let logits = exec.read(bound.results.logits)?;
    let mut margins = Vec::new();
    for (translation, rows) in translations
        .iter()
        .zip(logits.chunks(most * net.config.vocab()))
    {
        for (i, row) in rows.chunks(net.config.vocab()).enumerate() {
            margins.push(translation.get(i).map_or(0.0, |token| {
                let others = row
                    .iter()
                    .enumerate()
                    .filter(|(c, _)| *c != *token as usize);
                let second = others.map(|(_, z)| *z).fold(f32::NEG_INFINITY, f32::max);
                row[*token as usize] - second
            }));
        }
    }
    let tokens = padded(None).into_iter().map(|t| t as f32).collect();
    Ok(vec![
        f.check_ints("greedy", tokens)?,
        f.check("greedy_margin", margins, RUN)?,
    ])
}
