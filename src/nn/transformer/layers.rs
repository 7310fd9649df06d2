//! What a layer is made of: attention, and two linear layers with a ReLU between them.

use super::TransformerConfig;
use super::inputs::{Memory, Present, StackShape};
use crate::backend::sequence::{
    Act, Attention, AttentionGrad, Heads, Linear, LinearGrad, LinearInputGrad, Mask, Sequence,
};
use crate::backend::{Kind, Tensor};
use crate::nn::params::{ParamList, Params};

/// What a sublayer may look at.
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    /// `[1, B, L, d]`.
    pub x: Tensor,
    /// `[B]`: how much of it counts.
    pub lengths: Tensor,
    pub memory: Memory,
    /// In decoding, where `x` is one token a row: what this sublayer keeps.
    pub past: Option<(Option<Tensor>, Present)>,
    pub shape: StackShape,
}

/// Where a sublayer's backward pass puts things.
#[derive(Clone, Copy)]
pub(super) struct Gradients {
    /// Of the sublayer's output. Not read any more when `dx` is written, which it may be.
    pub df: Tensor,
    /// Of its input, and whether to add to what is there.
    pub dx: (Tensor, bool),
    /// Of the memory, likewise.
    pub dmemory: Option<(Tensor, bool)>,
    /// Two of `[1, B, L, d]`, and one for whatever is wider: undefined before and after.
    pub narrow: [Tensor; 2],
    pub wide: Tensor,
}

/// A part of a layer: `f = F(x)`.
pub(super) trait Sublayer: Send + Sync {
    fn forward(&self, exec: &mut dyn Sequence, inputs: Inputs, f: Tensor);
    /// Also sets the gradients of the parameters.
    fn backward(&self, exec: &mut dyn Sequence, inputs: Inputs, to: Gradients);
    /// Whether it looks at the memory.
    fn remembers(&self) -> bool;
    /// Whether it looks at tokens before the present one.
    fn keeps_past(&self) -> bool {
        false
    }
    /// What all steps of decoding need of the memory.
    fn project_memory(&self, _exec: &mut dyn Sequence, _memory: Tensor) {}
}

/// A linear layer's parameters and their gradients.
#[derive(Clone, Copy)]
struct Layer {
    params: Linear,
    grad: LinearGrad,
}

impl Layer {
    /// `count` layers whose weights lie one after the other, from `name` on.
    fn new(params: &Params, name: &str, count: usize) -> Layer {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let [(w, dw), (b, db)] = [weight, bias].map(|name| params.stacked(&name, count));
        Layer {
            params: Linear { w, b: Some(b) },
            grad: LinearGrad {
                dw,
                db: Some(db),
                accumulate: false,
            },
        }
    }

    fn forward(&self, exec: &mut dyn Sequence, x: Tensor, act: Act, y: Tensor) {
        exec.linear(x, self.params, act, None, y);
    }

    fn backward(&self, exec: &mut dyn Sequence, x: Tensor, dz: Tensor, dx: LinearInputGrad) {
        exec.linear_backward(x, self.params.w, dz, self.grad, Some(dx));
    }
}

fn plain((dx, accumulate): (Tensor, bool)) -> LinearInputGrad {
    LinearInputGrad {
        dx,
        through: None,
        accumulate,
    }
}

/// The first columns of a tensor's memory as another shape.
fn shaped(t: Tensor, [b, l]: [usize; 2], width: usize) -> Tensor {
    t.view(0, [1, b, l, width])
}

/// Multi-head attention: of a sequence to itself, or of the decoder to what the encoder made.
pub(super) struct Attend {
    heads: usize,
    d: usize,
    causal: bool,
    /// Projections of queries, keys and values, as many as read the same input.
    first: Layer,
    /// Keys and values of the memory.
    second: Option<Layer>,
    out: Layer,
    /// Outputs of the projections: `[1, B, L, 3d]`, or `[1, B, L, d]` and `[1, B, S, 2d]`.
    projected: Tensor,
    remembered: Option<Tensor>,
    /// `[1, B, L, d]`: what the heads give.
    mixed: Tensor,
    lse: Tensor,
}

impl Attend {
    pub fn declare(list: &mut ParamList, name: &str, d: usize) {
        // Self-attention makes all three at once, and the decoder the last two of the memory.
        let names = ["q_proj", "k_proj", "v_proj"].map(|p| format!("{name}.{p}"));
        list.projections(&names, d, d, 0.5_f32.sqrt());
        list.projections(&[format!("{name}.out_proj")], d, d, 1.0);
    }

    pub fn new(
        exec: &mut dyn Sequence,
        params: &Params,
        name: &str,
        config: &TransformerConfig,
        shape: StackShape,
        causal: bool,
        memory: Option<usize>,
    ) -> Attend {
        let (b, l, d, heads) = (shape.sentences, shape.length, config.d, config.heads);
        assert!(d.is_multiple_of(heads), "{d} columns for {heads} heads");
        let mut activation = |l, width| exec.alloc(Kind::Activation, [1, b, l, width]);
        let projected = activation(l, if memory.is_some() { d } else { 3 * d });
        let remembered = memory.map(|l| activation(l, 2 * d));
        let mixed = activation(l, d);
        let first = if memory.is_some() { 1 } else { 3 };
        Attend {
            heads,
            d,
            causal,
            first: Layer::new(params, &format!("{name}.q_proj"), first),
            second: memory.map(|_| Layer::new(params, &format!("{name}.k_proj"), 2)),
            out: Layer::new(params, &format!("{name}.out_proj"), 1),
            projected,
            remembered,
            mixed,
            lse: exec.alloc(Kind::Float, [1, b, heads, l]),
        }
    }

    /// The memory, where this looks at it.
    fn memory(&self, inputs: Inputs) -> Option<(Tensor, Tensor)> {
        inputs.memory.filter(|_| self.second.is_some())
    }

    /// Queries, keys and values, side by side in tensors of these shapes; the second is that of the
    /// memory.
    fn heads(&self, first: Tensor, second: Option<Tensor>) -> [Heads; 3] {
        let d = self.d;
        let at = |t: Tensor, column: usize| Heads {
            t,
            first: column * d,
        };
        match second {
            None => [at(first, 0), at(first, 1), at(first, 2)],
            Some(memory) => [at(first, 0), at(memory, 0), at(memory, 1)],
        }
    }

    fn attention(&self, inputs: Inputs) -> Attention {
        let rows = inputs.shape.rows();
        let [b, l] = rows;
        let width = self.projected.dims[3];
        let memory = self.memory(inputs);
        let remembered = self.remembered.zip(memory).map(|(t, (memory, _))| {
            let [_, b, s, _] = memory.dims;
            shaped(t, [b, s], 2 * self.d)
        });
        let [q, k, v] = self.heads(shaped(self.projected, rows, width), remembered);
        Attention {
            heads: self.heads,
            q,
            k,
            v,
            mask: Mask {
                key_len: memory.map_or(inputs.lengths, |(_, lengths)| lengths),
                causal: self.causal,
            },
            out: shaped(self.mixed, rows, self.d),
            lse: self.lse.view(0, [1, b, self.heads, l]),
        }
    }
}

impl Attend {
    /// The attention of one token a row to its past, or to the memory, which all hypotheses of a
    /// sentence look at together.
    fn forward_step(
        &self,
        exec: &mut dyn Sequence,
        inputs: Inputs,
        cache: Option<Tensor>,
        now: Present,
        f: Tensor,
    ) {
        let (rows, d) = (inputs.shape.sentences, self.d);
        let projected = shaped(self.projected, [rows, 1], self.projected.dims[3]);
        self.first.forward(exec, inputs.x, Act::None, projected);
        let (shape, keys, key_len) = match (cache, self.memory(inputs)) {
            (Some(cache), _) => {
                let made = Heads {
                    t: projected,
                    first: d,
                };
                exec.move_rows(made, now.rows, cache, now.slots);
                let [_, _, most, width] = cache.dims;
                ([rows, 1], shaped(cache, [rows, most], width), now.lengths)
            }
            (None, Some((memory, lengths))) => {
                let [_, b, s, _] = memory.dims;
                let remembered = self.remembered.expect("it looks at the memory");
                let keys = shaped(remembered, [b, s], 2 * d);
                ([b, now.beams], keys, lengths)
            }
            (None, None) => panic!("an attention looks at something"),
        };
        let attention = Attention {
            heads: self.heads,
            q: Heads {
                t: shaped(self.projected, shape, self.projected.dims[3]),
                first: 0,
            },
            k: Heads { t: keys, first: 0 },
            v: Heads { t: keys, first: d },
            mask: Mask {
                key_len,
                causal: false,
            },
            out: shaped(self.mixed, shape, d),
            lse: self.lse.view(0, [1, shape[0], self.heads, shape[1]]),
        };
        exec.attention(attention);
        self.out
            .forward(exec, shaped(self.mixed, [rows, 1], d), Act::None, f);
    }
}

impl Sublayer for Attend {
    fn forward(&self, exec: &mut dyn Sequence, inputs: Inputs, f: Tensor) {
        if let Some((cache, now)) = inputs.past {
            return self.forward_step(exec, inputs, cache, now, f);
        }
        let attention = self.attention(inputs);
        self.first.forward(exec, inputs.x, Act::None, attention.q.t);
        if let (Some(layer), Some((memory, _))) = (self.second, self.memory(inputs)) {
            layer.forward(exec, memory, Act::None, attention.k.t);
        }
        exec.attention(attention);
        self.out.forward(exec, attention.out, Act::None, f);
    }

    fn backward(&self, exec: &mut dyn Sequence, inputs: Inputs, to: Gradients) {
        let attention = self.attention(inputs);
        let (rows, d) = (inputs.shape.rows(), self.d);
        let dout = shaped(to.narrow[0], rows, d);
        self.out
            .backward(exec, attention.out, to.df, plain((dout, false)));
        let memory = self.memory(inputs);
        let (first, second) = match memory {
            None => (shaped(to.wide, rows, 3 * d), None),
            Some((memory, _)) => {
                let [_, b, s, _] = memory.dims;
                let wide = shaped(to.wide, [b, s], 2 * d);
                (shaped(to.narrow[1], rows, d), Some(wide))
            }
        };
        let [dq, dk, dv] = self.heads(first, second);
        exec.attention_backward(attention, AttentionGrad { dout, dq, dk, dv });
        self.first.backward(exec, inputs.x, first, plain(to.dx));
        if let (Some(layer), Some((memory, _)), Some(second)) = (self.second, memory, second) {
            let dmemory = to
                .dmemory
                .expect("whoever reads a memory passes a gradient back");
            layer.backward(exec, memory, second, plain(dmemory));
        }
    }

    fn remembers(&self) -> bool {
        self.second.is_some()
    }

    fn keeps_past(&self) -> bool {
        self.second.is_none()
    }

    fn project_memory(&self, exec: &mut dyn Sequence, memory: Tensor) {
        if let (Some(layer), Some(to)) = (self.second, self.remembered) {
            let [_, b, s, _] = memory.dims;
            layer.forward(exec, memory, Act::None, shaped(to, [b, s], 2 * self.d));
        }
    }
}

/// `fc2(relu(fc1(x)))`.
pub(super) struct FeedForward {
    layers: [Layer; 2],
    hidden: Tensor,
}

impl FeedForward {
    pub fn declare(list: &mut ParamList, layer: &str, config: &TransformerConfig) {
        let (d, ffn) = (config.d, config.ffn);
        list.projections(&[format!("{layer}.fc1")], ffn, d, 1.0);
        list.projections(&[format!("{layer}.fc2")], d, ffn, 1.0);
    }

    pub fn new(
        exec: &mut dyn Sequence,
        params: &Params,
        layer: &str,
        config: &TransformerConfig,
        shape: StackShape,
    ) -> FeedForward {
        let [b, l] = shape.rows();
        FeedForward {
            layers: ["fc1", "fc2"].map(|fc| Layer::new(params, &format!("{layer}.{fc}"), 1)),
            hidden: exec.alloc(Kind::Activation, [1, b, l, config.ffn]),
        }
    }

    fn hidden(&self, inputs: Inputs) -> Tensor {
        shaped(self.hidden, inputs.shape.rows(), self.hidden.dims[3])
    }
}

impl Sublayer for FeedForward {
    fn forward(&self, exec: &mut dyn Sequence, inputs: Inputs, f: Tensor) {
        let hidden = self.hidden(inputs);
        let [fc1, fc2] = &self.layers;
        fc1.forward(exec, inputs.x, Act::Relu, hidden);
        fc2.forward(exec, hidden, Act::None, f);
    }

    fn backward(&self, exec: &mut dyn Sequence, inputs: Inputs, to: Gradients) {
        let hidden = self.hidden(inputs);
        let dhidden = shaped(to.wide, inputs.shape.rows(), hidden.dims[3]);
        let [fc1, fc2] = &self.layers;
        let through = LinearInputGrad {
            dx: dhidden,
            through: Some((Act::Relu, hidden)),
            accumulate: false,
        };
        fc2.backward(exec, hidden, to.df, through);
        fc1.backward(exec, inputs.x, dhidden, plain(to.dx));
    }

    fn remembers(&self) -> bool {
        false
    }
}
