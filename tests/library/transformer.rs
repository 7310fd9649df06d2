//! The networks that translate as a whole: the gradient with dropout, what padding and threads must
//! not change, and that they learn.

use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::sequence::{Adam, Sequence};
use autoassist::backend::{DataId, Executor, Pass, Precision, StepInputs};
use autoassist::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use autoassist::nn::{
    BeamSearch, Bound, ConvS2SConfig, LstmConfig, Network, NetworkConfig, NormPlace, Optimiser,
    SearchSpec, TrainSpec, TransformerConfig,
};
use autoassist::rng::Stream;
use std::sync::Arc;

const VOCAB: usize = 17;
const PAIRS: usize = 12;
const SPEC: TrainSpec = TrainSpec {
    smoothing: 0.1,
    clip: 1.0,
    optimiser: Optimiser::Adam(Adam {
        betas: [0.9, 0.98],
        eps: 1e-9,
        weight_decay: 1e-4,
        decoupled: true,
    }),
};

fn config(norm: NormPlace, dropout: f32) -> TransformerConfig {
    TransformerConfig {
        vocab: VOCAB,
        d: 16,
        heads: 2,
        ffn: 24,
        layers: [2, 1],
        norm,
        dropout,
    }
}

/// An LSTM with one table or three.
fn lstm(shared: bool, dropout: f32) -> LstmConfig {
    LstmConfig {
        vocab: VOCAB,
        embed: 16,
        hidden: 32,
        output: if shared { 16 } else { 32 },
        layers: 2,
        shared,
        dropout: [dropout; 4],
    }
}

/// A ConvS2S whose widths and kernels differ.
fn convs2s(dropout: f32) -> ConvS2SConfig {
    ConvS2SConfig {
        vocab: VOCAB,
        embed: 16,
        output: 12,
        encoder: vec![[24, 3], [16, 5], [16, 1]],
        decoder: vec![[24, 3], [16, 4], [16, 1]],
        places: 12,
        dropout,
    }
}

/// One of each kind.
fn all(dropout: f32) -> [NetworkConfig; 5] {
    [
        config(NormPlace::Pre, dropout).into(),
        config(NormPlace::Post, dropout).into(),
        lstm(true, dropout).into(),
        lstm(false, dropout).into(),
        convs2s(dropout).into(),
    ]
}

/// Sentences of one to six random tokens; the translation is the sentence backwards.
fn pairs() -> SentencePairs {
    let mut random = Stream::new(4, 0, 0);
    let (mut source, mut target) = (Sentences::default(), Sentences::default());
    for _ in 0..PAIRS {
        let length = 1 + random.below(6) as usize;
        let token = |_| 4 + random.below(VOCAB as u64 - 4) as i32;
        let tokens: Vec<i32> = (0..length).map(token).collect();
        source.push(&[&tokens[..], &[EOS]].concat());
        let back: Vec<i32> = tokens.into_iter().rev().collect();
        target.push(&[&back[..], &[EOS]].concat());
    }
    SentencePairs::new(source, target)
}

const SHAPE: PairShape = PairShape {
    sentences: PAIRS,
    source: 7,
    target: 7,
};

/// A network on the CPU, with its data.
fn network(mut cpu: Cpu, config: impl Into<NetworkConfig>) -> (Cpu, Network, DataId) {
    let room = PairShape {
        sentences: PAIRS + 1,
        source: 10,
        target: 9,
    };
    let net = Network::new(&mut cpu, config, room).unwrap();
    net.params.initialise(&mut cpu, 3).unwrap();
    cpu.create_ring(4, PAIRS).unwrap();
    let data = cpu.attach_pairs(Arc::new(pairs()));
    (cpu, net, data)
}

fn inputs(step: u64, rows: u32) -> StepInputs {
    StepInputs {
        step,
        ids: (0..rows)
            .map(|i| (i * 5 + step as u32) % PAIRS as u32)
            .collect(),
        lr: 0.01,
        seed: 8,
        ..StepInputs::default()
    }
}

/// Mean loss of a batch's tokens, and with `backward` the gradient beside it.
fn loss(cpu: &mut Cpu, bound: &Bound, data: DataId, train: bool, backward: bool) -> f64 {
    cpu.step(Pass::Train, inputs(2, PAIRS as u32), &|exec| {
        let ops = exec.sequence().unwrap();
        ops.gather_pairs(data, bound.pairs);
        bound.encode(ops, train);
        bound.decode(ops, train);
        bound.loss(ops, 0.1, false);
        if backward {
            bound.backward(ops);
        }
    })
    .unwrap();
    let losses = cpu.read(bound.results.token_loss).unwrap();
    let tokens = losses.iter().filter(|l| **l != 0.0).count();
    losses.iter().map(|l| f64::from(*l)).sum::<f64>() / tokens as f64
}

/// What a gradient is of the loss's slope: a ConvS2S's encoder moves as if it had one reader rather
/// than two (keys and values) an attention. Its tables, which values also have as they are, do so in
/// part.
fn share_of_slope(config: &NetworkConfig, name: &str) -> Option<f64> {
    match config {
        NetworkConfig::ConvS2S(_) if name.starts_with("encoder.embed") => None,
        NetworkConfig::ConvS2S(config) if name.starts_with("encoder.") => {
            Some(1.0 / (2 * config.decoder.len()) as f64)
        }
        _ => Some(1.0),
    }
}

#[test]
fn the_gradient_is_that_of_the_loss_with_its_dropout() {
    for config in all(0.2) {
        let (mut cpu, net, data) = network(Cpu::with_isa(Isa::PORTABLE), config);
        // What is drawn is too small for anything to look at anything.
        let larger = match net.config {
            NetworkConfig::Lstm(_) => 6.0,
            NetworkConfig::ConvS2S(_) => 1.4,
            NetworkConfig::Transformer(_) => 1.0,
        };
        let values = cpu.read(net.params.values).unwrap();
        let values: Vec<f32> = values.iter().map(|v| larger * v).collect();
        cpu.write(net.params.values, &values).unwrap();
        let bound = net.bind(SHAPE);
        loss(&mut cpu, &bound, data, true, true);
        let mut tried = 0;
        for (entry, tensor) in net.params.tensors() {
            // Along its own gradient, where the loss changes most.
            let gradient = cpu.read(net.params.grad(&entry.name)).unwrap();
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            if norm < 1e-3 {
                // Too little to be told from rounding; so is all that a key's bias has.
                assert!(
                    entry.name.ends_with("bias"),
                    "{} has no gradient",
                    entry.name
                );
                continue;
            }
            let values = cpu.read(tensor).unwrap();
            let by = 2e-3 / norm;
            let mut moved = |by: f32| {
                let at = values.iter().zip(&gradient).map(|(v, g)| v + by * g);
                cpu.write(tensor, &at.collect::<Vec<f32>>()).unwrap();
                loss(&mut cpu, &bound, data, true, false)
            };
            let slope = (moved(by) - moved(-by)) / (4e-3);
            cpu.write(tensor, &values).unwrap();
            let Some(share) = share_of_slope(&net.config, &entry.name) else {
                continue;
            };
            assert!(
                (share * slope / f64::from(norm) - 1.0).abs() < 0.03,
                "{:?}, {}: {slope}, by the gradient {norm}",
                net.config,
                entry.name
            );
            tried += 1;
        }
        assert!(
            3 * tried > 2 * net.params.tensors().count(),
            "{tried} tensors"
        );
    }
}

#[test]
fn dropout_changes_from_step_to_step_and_is_off_in_evaluation() {
    let (mut cpu, net, data) = network(Cpu::with_isa(Isa::PORTABLE), config(NormPlace::Pre, 0.2));
    let bound = net.bind(SHAPE);
    let trained = loss(&mut cpu, &bound, data, true, false);
    let evaluated = loss(&mut cpu, &bound, data, false, false);
    assert_eq!(trained, loss(&mut cpu, &bound, data, true, false));
    assert_ne!(trained, evaluated);
    let (mut cpu, net, data) = network(Cpu::with_isa(Isa::PORTABLE), config(NormPlace::Pre, 0.0));
    assert_eq!(
        evaluated,
        loss(&mut cpu, &net.bind(SHAPE), data, true, false)
    );
}

#[test]
fn padding_changes_nothing() {
    for config in all(0.0) {
        let (mut cpu, net, data) = network(Cpu::with_isa(Isa::PORTABLE), config);
        let wide = PairShape {
            sentences: PAIRS + 1,
            source: 10,
            target: 9,
        };
        let [(a, ga), (b, gb)] = [SHAPE, wide].map(|shape| {
            let loss = loss(&mut cpu, &net.bind(shape), data, true, true);
            (loss, cpu.read(net.params.grads).unwrap())
        });
        assert!((a - b).abs() < 1e-6, "{a} {b}");
        let largest = ga.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        let apart = ga.iter().zip(&gb).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0f32, f32::max) < 1e-5 * largest);
    }
}

/// The bits of all parameters after three steps.
fn steps(isa: Isa, precision: Precision, threads: usize, config: &NetworkConfig) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let (mut cpu, net, data) = network(Cpu::with(isa, precision), config.clone());
        let bound = net.bind(SHAPE);
        for step in 0..3 {
            cpu.step(Pass::Train, inputs(step, 11), &|exec| {
                bound.train_step(exec.sequence().unwrap(), data, SPEC);
            })
            .unwrap();
        }
        let values = cpu.read(net.params.values).unwrap();
        assert!(values.iter().all(|v| v.is_finite()));
        values.iter().map(|v| v.to_bits()).collect()
    })
}

#[test]
fn a_step_does_not_depend_on_the_number_of_threads() {
    let isa = Isa::detect().unwrap();
    for config in all(0.1) {
        let run = |threads| steps(isa, Precision::F32, threads, &config);
        assert_eq!(run(1), run(3), "{config:?}");
    }
}

#[test]
fn a_step_in_bf16_does_not_depend_on_the_instruction_set_either() {
    for config in all(0.1) {
        let run = |isa, threads| steps(isa, Precision::Bf16, threads, &config);
        let want = run(Isa::PORTABLE, 3);
        for isa in Isa::available() {
            assert_eq!(run(isa, 1), want, "{isa}: {config:?}");
        }
    }
}

#[test]
fn it_learns_to_say_things_backwards() {
    for config in all(0.0) {
        let (mut cpu, net, data) = network(Cpu::new().unwrap(), config);
        let bound = net.bind(SHAPE);
        for step in 0..250 {
            cpu.step(Pass::Train, inputs(step, PAIRS as u32), &|exec| {
                bound.train_step(exec.sequence().unwrap(), data, SPEC);
            })
            .unwrap();
        }
        let right = cpu.read(bound.results.right).unwrap();
        assert_eq!(right, [1.0; PAIRS], "{:?}", net.config);
        let pairs = pairs();
        let list = |s: &Sentences| (0..PAIRS).map(|i| s.get(i).to_vec()).collect::<Vec<_>>();
        for beams in [1, 3] {
            let spec = SearchSpec {
                beams,
                most: 9,
                penalty: 1.0,
            };
            let mut search = BeamSearch::new(&mut cpu, &net, spec);
            let found = search.translate(&mut cpu, &net, &list(pairs.source()));
            let tokens: Vec<_> = found.unwrap().into_iter().map(|t| t.tokens).collect();
            assert_eq!(
                tokens,
                list(pairs.target()),
                "{:?}, {beams} beams",
                net.config
            );
        }
    }
}

/// What a search says of a translation is what the whole decoder says of it at once, though the
/// search went token by token and its hypotheses changed places.
#[test]
fn a_search_s_scores_are_log_probabilities() {
    let gains = [
        scores_are_log_probabilities(config(NormPlace::Pre, 0.0)),
        scores_are_log_probabilities(lstm(true, 0.0)),
        scores_are_log_probabilities(convs2s(0.0)),
    ];
    // A network that is sure enough finds the likeliest with one beam.
    let likelier = gains.iter().filter(|gain| **gain > 0.0).count();
    assert!(
        likelier >= 2 && gains.iter().all(|gain| *gain >= 0.0),
        "more beams find likelier ones: {gains:?}"
    );
}

/// And by how much those of more beams are larger.
fn scores_are_log_probabilities(config: impl Into<NetworkConfig>) -> f64 {
    let (mut cpu, net, data) = network(Cpu::with_isa(Isa::PORTABLE), config);
    let bound = net.bind(SHAPE);
    for step in 0..40 {
        cpu.step(Pass::Train, inputs(step, PAIRS as u32), &|exec| {
            bound.train_step(exec.sequence().unwrap(), data, SPEC);
        })
        .unwrap();
    }
    let pairs = pairs();
    let sources: Vec<_> = (0..PAIRS).map(|i| pairs.source().get(i).to_vec()).collect();
    let mut scores = Vec::new();
    for (beams, penalty) in [(1, 0.0), (4, 0.0), (4, 1.0)] {
        let spec = SearchSpec {
            beams,
            most: 7,
            penalty,
        };
        let mut search = BeamSearch::new(&mut cpu, &net, spec);
        let found = search.translate(&mut cpu, &net, &sources).unwrap();
        for (source, hypothesis) in sources.iter().zip(&found) {
            let tokens = &hypothesis.tokens;
            let bound = net.bind(PairShape {
                sentences: 1,
                source: source.len(),
                target: tokens.len(),
            });
            let previous = [&[EOS], &tokens[..tokens.len() - 1]].concat();
            cpu.write_labels(bound.pairs.source, source).unwrap();
            cpu.write_labels(bound.pairs.source_len, &[source.len() as i32])
                .unwrap();
            cpu.write_labels(bound.pairs.previous, &previous).unwrap();
            cpu.write_labels(bound.pairs.target_len, &[tokens.len() as i32])
                .unwrap();
            bound.encode(&mut cpu, false);
            bound.decode(&mut cpu, false);
            let logits = cpu.read(bound.results.logits).unwrap();
            let mut sum = 0.0;
            for (token, row) in tokens.iter().zip(logits.chunks(VOCAB)) {
                let total: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
                sum += f64::from(row[*token as usize]) - total.ln();
            }
            let score = sum / (tokens.len() as f64).powf(f64::from(penalty));
            assert!(
                (f64::from(hypothesis.score) - score).abs() < 1e-4,
                "{hypothesis:?}: {score}"
            );
        }
        scores.push(found.iter().map(|h| f64::from(h.score)).sum::<f64>());
    }
    scores[1] - scores[0]
}
