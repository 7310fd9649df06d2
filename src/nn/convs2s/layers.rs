//! What both stacks are made of: layers with normalised weights, and convolutions of them.

use super::dropped;
use crate::backend::convolutional::{Convolutional, GluConv, GluConvGrad, WeightNorm};
use crate::backend::sequence::{
    Act, Dropout, Embedding, Linear, LinearGrad, LinearInputGrad, Sequence,
};
use crate::backend::{Kind, Tensor};
use crate::data::pairs::PAD;
use crate::nn::network::{FIRST_PLACE, part};
use crate::nn::params::Params;

/// The part of a tensor that so many tokens of that width take.
pub(super) fn wide(t: Tensor, [rows, columns]: [usize; 2], width: usize) -> Tensor {
    t.view(0, [1, rows, columns, width])
}

/// A linear layer or a convolution.
#[derive(Clone, Copy)]
pub(super) struct Normed {
    norm: WeightNorm,
    b: Tensor,
    /// Of direction and length.
    grads: [Tensor; 2],
    db: Tensor,
}

impl Normed {
    pub fn new(exec: &mut dyn Sequence, params: &Params, name: &str) -> Normed {
        let [v, dv] = params.both(&format!("{name}.weight_v"));
        let [g, dg] = params.both(&format!("{name}.weight_g"));
        let [b, db] = params.both(&format!("{name}.bias"));
        let w = exec.alloc(Kind::Float, v.dims);
        Normed {
            norm: WeightNorm { v, g, w },
            b,
            grads: [dv, dg],
            db,
        }
    }

    /// Elements of the weights.
    pub fn len(&self) -> usize {
        self.norm.w.len()
    }

    /// Makes weights of the present directions and lengths.
    pub fn renew(&self, exec: &mut dyn Convolutional) {
        exec.weight_norm(self.norm);
    }

    pub fn linear(&self) -> Linear {
        Linear {
            w: self.norm.w,
            b: Some(self.b),
        }
    }

    pub fn forward(&self, exec: &mut dyn Convolutional, x: Tensor, y: Tensor) {
        exec.linear(x, self.linear(), Act::None, None, y);
    }

    /// From the gradient `dz` of a linear layer's output its own and that of `x`, which is added to
    /// what is in `dx` if `accumulate`. `scratch` is large enough for any layer's weights.
    pub fn backward(
        &self,
        exec: &mut dyn Convolutional,
        [x, dz]: [Tensor; 2],
        (dx, accumulate): (Tensor, bool),
        scratch: Tensor,
    ) {
        let dw = scratch.view(0, self.norm.w.dims);
        let grad = LinearGrad {
            dw,
            db: Some(self.db),
            accumulate: false,
        };
        let dx = LinearInputGrad {
            dx,
            through: None,
            accumulate,
        };
        exec.linear_backward(x, self.norm.w, dz, grad, Some(dx));
        exec.weight_norm_backward(self.norm, dw, self.grads);
    }
}

/// A convolution with what it reads and keeps.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    layer: Normed,
    /// Of what is added to its output, where that is wider or narrower than its input.
    projection: Option<Normed>,
    causal: bool,
    site: u32,
    /// `[tokens, in]`: the output of the layer before.
    pub x: Tensor,
    /// `[tokens, 2C]`.
    pre: Tensor,
    pub width: usize,
    pub kernel: usize,
}

impl Conv {
    /// Layer `number` of a stack, at whose first site from `site` on it drops out.
    pub fn new(
        exec: &mut dyn Sequence,
        params: &Params,
        stack: &str,
        number: usize,
        site: u32,
        tokens: usize,
    ) -> Conv {
        let layer = Normed::new(exec, params, &format!("{stack}.convolutions.{number}"));
        let [_, outputs, kernel, inputs] = layer.norm.w.dims;
        let width = outputs / 2;
        let projects = width != inputs;
        let name = format!("{stack}.projections.{number}");
        let mut rows = |width| exec.alloc(Kind::Activation, [1, 1, tokens, width]);
        let (x, pre) = (rows(inputs), rows(outputs));
        Conv {
            layer,
            projection: projects.then(|| Normed::new(exec, params, &name)),
            causal: stack == "decoder",
            site: site + number as u32,
            x,
            pre,
            width,
            kernel,
        }
    }

    /// Its layers.
    pub fn layers(&self) -> impl Iterator<Item = Normed> {
        [Some(self.layer), self.projection].into_iter().flatten()
    }

    /// What is added to its output: its input, or what `projected` has room for.
    pub fn residual(
        &self,
        exec: &mut dyn Convolutional,
        rows: [usize; 2],
        projected: Tensor,
    ) -> Tensor {
        let x = part(self.x, rows);
        let Some(projection) = self.projection else {
            return x;
        };
        let to = wide(projected, rows, self.width);
        projection.forward(exec, x, to);
        to
    }

    /// At so many tokens, with dropout `p`.
    pub fn at(&self, rows: [usize; 2], p: f32, y: Tensor) -> GluConv {
        GluConv {
            x: part(self.x, rows),
            w: self.layer.norm.w,
            b: self.layer.b,
            lengths: None,
            causal: self.causal,
            dropout: dropped(p, self.site),
            before: None,
            residual: None,
            conv: part(self.pre, rows),
            y,
        }
    }

    /// From `dy`, the gradient of its units' output, and `d[0]`, that of what was added to it, the
    /// gradient of `x`, which is in `d[0]` then. `d` have room for all widths.
    pub fn backward(
        &self,
        exec: &mut dyn Convolutional,
        conv: GluConv,
        dy: Tensor,
        d: &mut [Tensor; 2],
        scratch: Tensor,
    ) {
        let [_, rows, columns, inputs] = conv.x.dims;
        if let Some(projection) = self.projection {
            let [of_sum, dx] = [(d[0], self.width), (d[1], inputs)]
                .map(|(t, width)| wide(t, [rows, columns], width));
            projection.backward(exec, [conv.x, of_sum], (dx, false), scratch);
            d.swap(0, 1);
        }
        let dw = scratch.view(0, conv.w.dims);
        let grad = GluConvGrad {
            dy,
            dw,
            db: self.layer.db,
            dx: wide(d[0], [rows, columns], inputs),
            accumulate: true,
        };
        exec.glu_conv_backward(conv, grad);
        exec.weight_norm_backward(self.layer.norm, dw, self.layer.grads);
    }
}

/// Tables of tokens and places, and their gradients.
#[derive(Clone, Copy)]
pub(super) struct Tables {
    tokens: [Tensor; 2],
    places: [Tensor; 2],
    site: u32,
}

impl Tables {
    pub fn new(params: &Params, stack: &str, site: u32) -> Tables {
        let both = |name| params.both(&format!("{stack}.{name}.weight"));
        Tables {
            tokens: both("embed_tokens"),
            places: both("embed_positions"),
            site,
        }
    }

    /// Of tokens `[1, 1, B, L]`, of which the first are number `place` of their sentences.
    pub fn embedding(&self, tokens: Tensor, place: usize, p: f32) -> Embedding {
        Embedding {
            tokens,
            table: self.tokens[0],
            scale: 1.0,
            positions: Some(self.places_from(self.places[0], place)),
            padding: Some(PAD),
            dropout: dropped(p, self.site),
        }
    }

    fn places_from(&self, table: Tensor, place: usize) -> Tensor {
        let ([.., places, width], first) = (table.dims, FIRST_PLACE + place);
        table.view(first * width, [1, 1, places - first, width])
    }

    /// From the gradient of what was embedded those of the tables.
    pub fn backward(&self, exec: &mut dyn Convolutional, embedding: Embedding, dout: Tensor) {
        exec.clear(self.tokens[1]);
        exec.embed_backward(embedding, dout, self.tokens[1]);
        let dplaces = self.places_from(self.places[1], 0);
        exec.positions_backward(embedding, dout, dplaces);
    }
}

/// Dropout of what the output layer reads.
pub(super) fn drop_in_place(exec: &mut dyn Convolutional, dropout: Option<Dropout>, x: Tensor) {
    if let Some(dropout) = dropout {
        exec.drop_out(x, dropout, x);
    }
}
