//! Whole training steps of Transformers on the executors that run kernels.

use super::{Rounded, distance};
use autoassist::assist::Drain;
use autoassist::backend::cpu::{Cpu, simd::Isa};
use autoassist::backend::gpu::{Gpu, Ladder};
use autoassist::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Heads, LayerNorm, Linear, LinearGrad, LinearInputGrad,
    Mask,
};
use autoassist::backend::{DataId, Executor, Kind, Pass, StepInputs, Tensor, wait_for_records};
use autoassist::data::pairs::{EOS, PairShape, SentencePairs, Sentences};
use autoassist::nn::{Network, NormPlace, Optimiser, TrainSpec, TransformerConfig};
use autoassist::rng;
use std::sync::Arc;

const PAIRS: u32 = 20;
const SPEC: TrainSpec = TrainSpec {
    smoothing: 0.1,
    clip: 0.5,
    optimiser: Optimiser::Adam(Adam {
        betas: [0.9, 0.98],
        eps: 1e-6,
        weight_decay: 1e-3,
        decoupled: true,
    }),
};

/// Sizes that the upper steps of the ladders are made for.
const EVEN: TransformerConfig = TransformerConfig {
    vocab: 72,
    d: 64,
    heads: 2,
    ffn: 96,
    layers: [1, 1],
    norm: NormPlace::Pre,
    dropout: 0.1,
};
/// Vector loads need multiples of 8; this network has none.
const ODD: TransformerConfig = TransformerConfig {
    vocab: 37,
    d: 12,
    heads: 2,
    ffn: 21,
    layers: [1, 2],
    norm: NormPlace::Post,
    dropout: 0.0,
};
/// The largest batch; steps take turns with it and a smaller one.
const SHAPES: [PairShape; 2] = [
    PairShape {
        sentences: 6,
        source: 9,
        target: 8,
    },
    PairShape {
        sentences: 5,
        source: 8,
        target: 8,
    },
];

/// Sentences of up to so many random tokens.
fn sentences(seed: u64, vocab: usize, longest: u64) -> Sentences {
    let mut random = rng::Stream::new(seed, 0, 0);
    let mut all = Sentences::default();
    for _ in 0..PAIRS {
        let token = |random: &mut rng::Stream| 4 + random.below(vocab as u64 - 4) as i32;
        let length = random.below(longest);
        let mut tokens: Vec<i32> = (0..length).map(|_| token(&mut random)).collect();
        tokens.push(EOS);
        all.push(&tokens);
    }
    all
}

/// A network with its data on an executor.
struct Setup<'a> {
    exec: &'a mut dyn Executor,
    net: Network,
    data: DataId,
    drain: Drain,
}

impl<'a> Setup<'a> {
    fn new(exec: &'a mut dyn Executor, config: &TransformerConfig) -> Setup<'a> {
        let ops = exec.sequence().expect("it has the ops");
        let net = Network::new(ops, config.clone(), SHAPES[0]).expect("memory for a network");
        let pairs =
            SentencePairs::new(sentences(1, config.vocab, 8), sentences(2, config.vocab, 8));
        let data = ops.attach_pairs(Arc::new(pairs));
        let ring = exec.create_ring(4, SHAPES[0].sentences);
        net.params.initialise(exec, 3).expect("a device that works");
        Setup {
            drain: Drain::new(ring.expect("memory for a ring"), 0),
            exec,
            net,
            data,
        }
    }

    /// Runs a step of training or of evaluation.
    fn run(&mut self, pass: Pass, step: u64) {
        let shape = SHAPES[step as usize % 2];
        // Some batches are not full.
        let rows = (shape.sentences - usize::from(step % 3 == 2)) as u32;
        let inputs = StepInputs {
            step,
            ids: (0..rows).map(|i| (i * 7 + step as u32) % PAIRS).collect(),
            weights: (0..rows).map(|i| 0.5 + i as f32 / 5.0).collect(),
            lr: 0.002,
            seed: 9,
            shape: [shape.sentences, shape.source, shape.target].map(|size| size as u32),
            ..StepInputs::default()
        };
        if pass == Pass::Train {
            self.drain.launching(step, rows as usize);
        }
        let (bound, data) = (self.net.bind(shape), self.data);
        let stepped = self.exec.step(pass, inputs, &|exec| {
            let ops = exec.sequence().expect("it has the ops");
            match pass {
                Pass::Train => bound.train_step(ops, data, SPEC),
                Pass::Eval => bound.eval_step(ops, data),
            }
        });
        stepped.expect("the device works");
    }

    /// Losses of the oldest step under way.
    fn records(&mut self) -> Vec<f32> {
        let records = wait_for_records(self.exec, &mut self.drain);
        records.expect("the device works").losses
    }

    /// Losses of some steps, one at a time.
    fn losses(&mut self, steps: std::ops::Range<u64>) -> Vec<f32> {
        let each = steps.flat_map(|step| {
            self.run(Pass::Train, step);
            self.records()
        });
        each.collect()
    }

    fn values(&mut self) -> Vec<f32> {
        let values = self.exec.read(self.net.params.values);
        values.expect("the device works")
    }
}

/// Losses and gradients stay as near to the CPU's f32 as a naive computation in bf16 does, with all
/// steps of the ladders.
pub fn they_train_like_the_cpu(gpu: &mut Gpu) {
    for config in [EVEN, ODD] {
        let run = |exec: &mut dyn Executor| {
            let mut setup = Setup::new(exec, &config);
            let first = setup.losses(0..1);
            let grads = setup.exec.read(setup.net.params.grads).expect("gradients");
            let losses = setup.losses(1..5);
            setup.run(Pass::Eval, 4);
            let eval = setup.exec.read(setup.net.bind(SHAPES[0]).results.loss);
            [first, grads, losses, eval.expect("the device works")]
        };
        let exact = run(&mut Cpu::with_isa(Isa::PORTABLE));
        let naive = [
            run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE))),
            run(&mut Rounded::dithered(Cpu::with_isa(Isa::PORTABLE), 1)),
        ];
        // The longest ladder that a Transformer climbs.
        for step in 1..=Ladder::Linear.last() {
            Ladder::ALL.into_iter().for_each(|l| gpu.limit(l, step));
            let ours = run(gpu);
            let parts = ["first losses", "gradients", "losses", "evaluation"];
            for (i, part) in parts.iter().enumerate() {
                let error = distance(&ours[i], &exact[i]);
                let allowed = naive.each_ref().map(|n| distance(&n[i], &exact[i]));
                let allowed = allowed[0].max(allowed[1]);
                assert!(
                    error <= 2.0 * allowed + 0.01,
                    "step {step}, {part} of {config:?}: error {error:.1e}, naively {allowed:.1e}"
                );
            }
        }
    }
}

/// As many steps under way as the ring has credits for, in batches of two shapes, with an
/// evaluation between: no synchronisation, and the bits of steps one by one.
pub fn they_have_graphs_of_each_shape(gpu: &mut Gpu) {
    let one_by_one = {
        let mut setup = Setup::new(gpu, &EVEN);
        (setup.losses(0..12), setup.values())
    };
    let mut setup = Setup::new(gpu, &EVEN);
    let mut losses = setup.losses(0..2);
    setup.run(Pass::Eval, 0);
    setup.values();
    let before = setup.exec.host_syncs();
    for step in 2..12 {
        while !setup.drain.may_launch(step) {
            losses.extend(setup.records());
        }
        setup.run(Pass::Train, step);
    }
    while setup.drain.in_flight() > 0 {
        losses.extend(setup.records());
    }
    assert_eq!(setup.exec.host_syncs() - before, 0);
    assert!(one_by_one == (losses, setup.values()));
}

/// Sizes of ops that the networks above have no use for.
pub fn their_ops_agree_with_the_cpu(gpu: &mut Gpu) {
    for (length, depth) in [(40, 64), (40, 128), (70, 32), (70, 64), (70, 128)] {
        agrees(gpu, &|exec| attention(exec, length, depth));
    }
    for depth in [32, 64, 128] {
        agrees(gpu, &|exec| attention(exec, 140, depth));
    }
    agrees(gpu, &|exec| wide_norm(exec));
    let layers = [
        [300, 136, 136],
        [300, 72, 40],
        [130, 72, 512],
        [130, 136, 200],
    ];
    for step in 2..=Ladder::Linear.last() {
        gpu.limit(Ladder::Linear, step);
        for [rows, inputs, outputs] in layers {
            agrees(gpu, &|exec| linear(exec, rows, inputs, outputs));
        }
    }
    agrees(gpu, &|exec| moved(exec));
}

/// Every result of an op is about as near to the CPU's in f32 as the naive one in bf16.
fn agrees(gpu: &mut Gpu, op: &dyn Fn(&mut dyn Executor) -> Vec<Tensor>) {
    let run = |exec: &mut dyn Executor| -> Vec<Vec<f32>> {
        let results = op(exec);
        let read = |t: Tensor| exec.read(t).expect("the device works");
        results.into_iter().map(read).collect()
    };
    let exact = run(&mut Cpu::with_isa(Isa::PORTABLE));
    let naive = run(&mut Rounded::new(Cpu::with_isa(Isa::PORTABLE)));
    for (i, ours) in run(gpu).iter().enumerate() {
        let (error, allowed) = (distance(ours, &exact[i]), distance(&naive[i], &exact[i]));
        assert!(
            error <= 2.0 * allowed + 0.005,
            "result {i}: {error:.1e}, naively {allowed:.1e}"
        );
    }
}

fn noise(exec: &mut dyn Executor, kind: Kind, dims: [usize; 4]) -> Tensor {
    let t = exec.alloc(kind, dims);
    let mut random = rng::Stream::new(dims[3] as u64, 1, 0);
    let values: Vec<f32> = (0..t.len()).map(|_| 2.0 * random.f32() - 1.0).collect();
    exec.write(t, &values).expect("memory");
    t
}

/// Of two heads, two sentences, of which one is padded.
fn attention(exec: &mut dyn Executor, length: usize, depth: usize) -> Vec<Tensor> {
    let dims = [1, 2, length, 2 * depth];
    let mut heads = || Heads {
        t: noise(exec, Kind::Activation, dims),
        first: 0,
    };
    let (q, k, v, dout) = (heads(), heads(), heads(), heads().t);
    let key_len = exec.alloc(Kind::Label, [1, 1, 1, 2]);
    let lengths = [length as i32, length as i32 / 2 + 1];
    exec.write_labels(key_len, &lengths).expect("memory");
    let a = Attention {
        heads: 2,
        q,
        k,
        v,
        mask: Mask {
            key_len,
            causal: length.is_multiple_of(4),
        },
        out: exec.alloc(Kind::Activation, dims),
        lse: exec.alloc(Kind::Float, [1, 2, 2, length]),
    };
    let mut like = || Heads {
        t: exec.alloc(Kind::Activation, dims),
        first: 0,
    };
    let (dq, dk, dv) = (like(), like(), like());
    let ops = exec.sequence().expect("it has the ops");
    ops.attention(a);
    ops.attention_backward(a, AttentionGrad { dout, dq, dk, dv });
    vec![a.out, a.lse, dq.t, dk.t, dv.t]
}

fn wide_norm(exec: &mut dyn Executor) -> Vec<Tensor> {
    let (rows, d) = (20, 1000);
    let [x, dy] = [(); 2].map(|()| noise(exec, Kind::Activation, [1, 1, rows, d]));
    let mut vector = |n| noise(exec, Kind::Float, [1, 1, 1, n]);
    let norm = LayerNorm {
        gamma: vector(d),
        beta: vector(d),
        dgamma: vector(d),
        dbeta: vector(d),
        mean: vector(rows),
        rstd: vector(rows),
    };
    let [y, dx] = [(); 2].map(|()| exec.alloc(Kind::Activation, x.dims));
    let ops = exec.sequence().expect("it has the ops");
    ops.add_norm(x, None, norm, x, y);
    ops.add_norm_backward(x, norm, dy, None, dx, None);
    vec![y, norm.mean, norm.rstd, dx, norm.dgamma, norm.dbeta]
}

fn linear(exec: &mut dyn Executor, rows: usize, inputs: usize, outputs: usize) -> Vec<Tensor> {
    let x = noise(exec, Kind::Activation, [1, 1, rows, inputs]);
    let dz = noise(exec, Kind::Activation, [1, 1, rows, outputs]);
    let layer = Linear {
        w: noise(exec, Kind::Float, [1, 1, outputs, inputs]),
        b: Some(noise(exec, Kind::Float, [1, 1, 1, outputs])),
    };
    let y = exec.alloc(Kind::Activation, dz.dims);
    let dx = exec.alloc(Kind::Activation, x.dims);
    let [dw, db] = [layer.w.dims, [1, 1, 1, outputs]].map(|dims| exec.alloc(Kind::Float, dims));
    let grad = LinearGrad {
        dw,
        db: Some(db),
        accumulate: false,
    };
    let to = LinearInputGrad {
        dx,
        through: None,
        accumulate: false,
    };
    let ops = exec.sequence().expect("it has the ops");
    ops.linear(x, layer, Act::Relu, None, y);
    ops.linear_backward(x, layer.w, dz, grad, Some(to));
    vec![y, dx, dw, db]
}

fn moved(exec: &mut dyn Executor) -> Vec<Tensor> {
    let t = noise(exec, Kind::Activation, [1, 1, 9, 24]);
    let to = exec.alloc(Kind::Activation, [1, 1, 12, 16]);
    let [source, target] = [3, 2].map(|step| {
        let rows = exec.alloc(Kind::Label, [1, 1, 1, 5]);
        let numbers: Vec<i32> = (0..5).map(|i| i * step % 9).collect();
        exec.write_labels(rows, &numbers).expect("memory");
        rows
    });
    let ops = exec.sequence().expect("it has the ops");
    ops.move_rows(Heads { t, first: 8 }, source, to, target);
    vec![to]
}
