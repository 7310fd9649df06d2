//! A stack of layers: the encoder, or the decoder.
//!
//! A sublayer's output f is not added to the stream x where it is made: the norm that follows does
//! it ([`Sequence::add_norm`]), so a sum never makes a trip through memory of its own. Pre-norm,
//! that is the next sublayer's norm (or the stack's last); post-norm, its own.

use super::inputs::{Memory, Past, StackShape};
use super::layers::{Attend, FeedForward, Gradients, Inputs, Sublayer};
use super::{NormPlace, TransformerConfig};
use crate::backend::sequence::{Dropout, LayerNorm, Sequence};
use crate::backend::{Kind, Tensor};
use crate::nn::network::part;
use crate::nn::params::{ParamList, Params};

/// A sublayer and the norm that goes with it.
struct Member {
    sublayer: Box<dyn Sublayer>,
    norm: LayerNorm,
    /// Of its output.
    site: u32,
    /// What its norm read, and what that made of it.
    h: Tensor,
    y: Tensor,
    /// Its output.
    f: Tensor,
}

/// All of a stack's layers, with activations for as many tokens as the largest batch has.
pub(super) struct Stack {
    place: NormPlace,
    embedding_site: u32,
    members: Vec<Member>,
    /// Pre-norm: the norm at the end, with the stream that it read.
    last: Option<(LayerNorm, Tensor)>,
    input: Tensor,
    output: Tensor,
    /// Gradient of the stream, and of a sublayer's output.
    dx: Tensor,
    df: Tensor,
    narrow: [Tensor; 2],
    wide: Tensor,
}

fn layer_norm(
    exec: &mut dyn Sequence,
    params: &Params,
    name: &str,
    [b, l]: [usize; 2],
) -> LayerNorm {
    let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    let mut row = || exec.alloc(Kind::Float, [1, 1, b, l]);
    LayerNorm {
        gamma: params.value(&weight),
        beta: params.value(&bias),
        dgamma: params.grad(&weight),
        dbeta: params.grad(&bias),
        mean: row(),
        rstd: row(),
    }
}

/// Names of a layer's sublayers and of their norms.
fn sublayers(stack: &str) -> &'static [(&'static str, &'static str)] {
    let all = &[
        ("self_attn", "self_attn_layer_norm"),
        ("encoder_attn", "encoder_attn_layer_norm"),
        ("", "final_layer_norm"),
    ];
    match stack {
        "decoder" => all,
        _ => &[
            ("self_attn", "self_attn_layer_norm"),
            ("", "final_layer_norm"),
        ],
    }
}

fn layers_of(config: &TransformerConfig, stack: &str) -> usize {
    config.layers[usize::from(stack == "decoder")]
}

impl Stack {
    pub fn declare(list: &mut ParamList, config: &TransformerConfig, stack: &str) {
        for i in 0..layers_of(config, stack) {
            let layer = format!("{stack}.layers.{i}");
            for (name, norm) in sublayers(stack) {
                match *name {
                    "" => FeedForward::declare(list, &layer, config),
                    name => Attend::declare(list, &format!("{layer}.{name}"), config.d),
                }
                list.layer_norm(&format!("{layer}.{norm}"), config.d);
            }
        }
        if config.norm == NormPlace::Pre {
            list.layer_norm(&format!("{stack}.layer_norm"), config.d);
        }
    }

    pub fn new(
        exec: &mut dyn Sequence,
        params: &Params,
        config: &TransformerConfig,
        stack: &str,
        shape: StackShape,
        site: &mut u32,
    ) -> Stack {
        let [b, l] = shape.rows();
        let mut next_site = || {
            *site += 1;
            *site - 1
        };
        let activation =
            |exec: &mut dyn Sequence| exec.alloc(Kind::Activation, [1, b, l, config.d]);
        let embedding_site = next_site();
        let input = activation(exec);
        let mut members: Vec<Member> = Vec::new();
        for i in 0..layers_of(config, stack) {
            let layer = format!("{stack}.layers.{i}");
            for (name, norm) in sublayers(stack) {
                let sublayer: Box<dyn Sublayer> = match *name {
                    "" => Box::new(FeedForward::new(exec, params, &layer, config, shape)),
                    name => {
                        let of = format!("{layer}.{name}");
                        let causal = stack == "decoder" && name == "self_attn";
                        let memory = shape.memory.filter(|_| name == "encoder_attn");
                        Box::new(Attend::new(
                            exec, params, &of, config, shape, causal, memory,
                        ))
                    }
                };
                let norm = layer_norm(exec, params, &format!("{layer}.{norm}"), [b, l]);
                let first = members.is_empty() && config.norm == NormPlace::Pre;
                members.push(Member {
                    sublayer,
                    norm,
                    site: next_site(),
                    // The first norm's stream is the embedding itself.
                    h: if first { input } else { activation(exec) },
                    y: activation(exec),
                    f: activation(exec),
                });
            }
        }
        let longest = l.max(shape.memory.unwrap_or(0));
        let widest = (3 * config.d).max(config.ffn);
        let wide = exec.alloc(Kind::Activation, [1, b, longest, widest]);
        let (last, output) = match config.norm {
            NormPlace::Pre => {
                let name = format!("{stack}.layer_norm");
                let last = (layer_norm(exec, params, &name, [b, l]), activation(exec));
                (Some(last), activation(exec))
            }
            NormPlace::Post => (None, members.last().map_or(input, |m| m.y)),
        };
        Stack {
            place: config.norm,
            embedding_site,
            members,
            last,
            input,
            output,
            dx: activation(exec),
            df: activation(exec),
            narrow: [(); 2].map(|()| activation(exec)),
            wide,
        }
    }

    /// Which sublayers keep keys and values of the past, one for each sublayer.
    pub fn remembering(&self) -> impl Iterator<Item = bool> {
        self.members.iter().map(|m| m.sublayer.keeps_past())
    }

    /// Projects the memory to the keys and values that all steps of decoding look at.
    pub fn project_memory(&self, exec: &mut dyn Sequence, memory: Tensor) {
        for member in &self.members {
            member.sublayer.project_memory(exec, memory);
        }
    }

    /// The output for all tokens.
    pub fn output(&self) -> Tensor {
        self.output
    }

    pub fn at(&self, shape: StackShape, dropout: f32) -> StackAt<'_> {
        StackAt {
            stack: self,
            shape,
            dropout,
        }
    }
}

/// A stack at a shape, with a rate of dropout.
pub(super) struct StackAt<'a> {
    stack: &'a Stack,
    shape: StackShape,
    dropout: f32,
}

impl StackAt<'_> {
    fn part(&self, t: Tensor) -> Tensor {
        part(t, self.shape.rows())
    }

    fn norm(&self, norm: LayerNorm) -> LayerNorm {
        let [b, l] = self.shape.rows();
        let row = |t: Tensor| t.view(0, [1, 1, b, l]);
        LayerNorm {
            mean: row(norm.mean),
            rstd: row(norm.rstd),
            ..norm
        }
    }

    fn dropout(&self, site: u32) -> Option<Dropout> {
        let p = self.dropout;
        (p > 0.0).then_some(Dropout { p, site })
    }

    pub fn embedding_site(&self) -> u32 {
        self.stack.embedding_site
    }

    pub fn input(&self) -> Tensor {
        self.part(self.stack.input)
    }

    pub fn output(&self) -> Tensor {
        self.part(self.stack.output)
    }

    /// Gradient of the output before [`StackAt::backward`], of the input after it.
    pub fn gradient(&self) -> Tensor {
        self.part(self.stack.dx)
    }

    fn inputs(&self, x: Tensor, lengths: Tensor, memory: Memory) -> Inputs {
        Inputs {
            x,
            lengths,
            memory,
            past: None,
            shape: self.shape,
        }
    }

    /// Input to output. With a past the input is one token a row, behind all those of the past.
    pub fn forward(
        &self,
        exec: &mut dyn Sequence,
        lengths: Tensor,
        memory: Memory,
        past: Option<&Past>,
    ) {
        let stack = self.stack;
        let (mut x, mut branch) = (self.input(), None);
        for (i, member) in stack.members.iter().enumerate() {
            let [h, y, f] = [member.h, member.y, member.f].map(|t| self.part(t));
            let inputs = |x| Inputs {
                past: past.map(|past| (past.caches[i], past.now)),
                ..self.inputs(x, lengths, memory)
            };
            let norm = self.norm(member.norm);
            let made = Some((f, self.dropout(member.site)));
            match stack.place {
                NormPlace::Pre => {
                    exec.add_norm(x, branch, norm, h, y);
                    member.sublayer.forward(exec, inputs(y), f);
                    (x, branch) = (h, made);
                }
                NormPlace::Post => {
                    member.sublayer.forward(exec, inputs(x), f);
                    exec.add_norm(x, made, norm, h, y);
                    x = y;
                }
            }
        }
        if let Some((norm, h)) = stack.last {
            let norm = self.norm(norm);
            exec.add_norm(x, branch, norm, self.part(h), self.output());
        }
    }

    /// Back through a norm: sets the stream's gradient, and gives that of the sublayer's output
    /// that was added before it.
    fn norm_backward(
        &self,
        exec: &mut dyn Sequence,
        h: Tensor,
        norm: LayerNorm,
        dy: Tensor,
        dh: Option<Tensor>,
        dropout: Option<Dropout>,
    ) -> Tensor {
        let dx = self.gradient();
        let df = self.part(self.stack.df);
        let branch = dropout.map(|d| (df, d));
        exec.add_norm_backward(self.part(h), self.norm(norm), dy, dh, dx, branch);
        if branch.is_some() { df } else { dx }
    }

    /// From the gradient of the output that of the input, in its place; that of the memory is added
    /// up in `dmemory`.
    pub fn backward(
        &self,
        exec: &mut dyn Sequence,
        lengths: Tensor,
        memory: Memory,
        dmemory: Option<Tensor>,
    ) {
        let stack = self.stack;
        let dx = self.gradient();
        let site = |i: usize| stack.members.get(i).and_then(|m| self.dropout(m.site));
        // What is known of the gradient of the sublayer's output that comes next.
        let mut df = dx;
        if let Some((norm, h)) = stack.last {
            let before = stack.members.len().checked_sub(1).and_then(site);
            df = self.norm_backward(exec, h, norm, dx, None, before);
        }
        // The first to look at the memory, seen from here, sets its gradient.
        let mut first = true;
        for (i, member) in stack.members.iter().enumerate().rev() {
            let y = self.part(member.y);
            let mut sublayer = |exec: &mut dyn Sequence, x, df, dx| {
                let sublayer = &member.sublayer;
                let to = Gradients {
                    df,
                    dx,
                    dmemory: dmemory.map(|d| (d, !first)),
                    narrow: stack.narrow,
                    wide: stack.wide,
                };
                sublayer.backward(exec, self.inputs(x, lengths, memory), to);
                first &= !sublayer.remembers();
            };
            match stack.place {
                NormPlace::Pre => {
                    // dy takes the place of f, which nobody needs any more.
                    let dy = self.part(member.f);
                    sublayer(exec, y, df, (dy, false));
                    let before = i.checked_sub(1).and_then(site);
                    df = self.norm_backward(exec, member.h, member.norm, dy, Some(dx), before);
                }
                NormPlace::Post => {
                    let x = match i {
                        0 => self.input(),
                        i => self.part(stack.members[i - 1].y),
                    };
                    df = self.norm_backward(exec, member.h, member.norm, dx, None, site(i));
                    sublayer(exec, x, df, (dx, true));
                }
            }
        }
    }
}
