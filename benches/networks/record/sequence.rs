//! The ops of networks over tokens, written down.

use super::{NO_MEMORY, Product, Recorder, Task, Work};
use autoassist::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, PairBatch, SentenceLoss, Sequence,
};
use autoassist::backend::{DataId, Executor, Tensor};
use autoassist::data::pairs::SentencePairs;
use std::sync::Arc;

/// The same ops on whatever executor has them.
fn ops(exec: &mut dyn Executor) -> &mut dyn Sequence {
    exec.sequence().expect("it has made the network")
}

/// `1024x256`: rows and columns.
fn matrix(t: Tensor) -> String {
    format!("{}x{}", t.len() / t.dims[3], t.dims[3])
}

/// `64 x 16 to 24 causal`: sentences, queries, keys.
fn attended(a: &Attention) -> String {
    let ([_, b, queries, _], [_, _, keys, _]) = (a.q.t.dims, a.k.t.dims);
    let causal = if a.mask.causal { " causal" } else { "" };
    format!("{b} x {queries} to {keys}{causal}")
}

/// Of the scores and of the weighted sum: the whole square, also where a mask leaves half of it.
fn attention_flops(a: &Attention) -> f64 {
    4.0 * (a.out.len() * a.k.t.dims[2]) as f64
}

/// Queries and output as many, keys and values as many.
fn attention_elements(a: &Attention) -> f64 {
    let keys = a.out.len() / a.out.dims[2] * a.k.t.dims[2];
    2.0 * (a.out.len() + keys) as f64
}

impl Sequence for Recorder {
    fn attach_pairs(&mut self, _: Arc<SentencePairs>) -> DataId {
        unreachable!("{NO_MEMORY}")
    }

    fn gather_pairs(&mut self, data: DataId, batch: PairBatch) {
        let tokens = [batch.source, batch.previous, batch.target];
        // Read once, written once.
        let work = Work::of(0.0, &[], &[tokens, tokens].concat());
        let [.., b, length] = batch.target.dims;
        self.note(format!("gather_pairs {b} x {length}"), work, move |exec| {
            ops(exec).gather_pairs(data, batch);
        });
    }

    fn embed(&mut self, embedding: Embedding, out: Tensor) {
        let work = Work::of(0.0, &[out], &[out]);
        self.note(format!("embed {}", matrix(out)), work, move |exec| {
            ops(exec).embed(embedding, out);
        });
    }

    fn embed_backward(&mut self, embedding: Embedding, dout: Tensor, dtable: Tensor) {
        let work = Work::of(0.0, &[dout], &[dout, dout]);
        let name = format!("embed_backward {}", matrix(dout));
        self.note(name, work, move |exec| {
            ops(exec).embed_backward(embedding, dout, dtable);
        });
    }

    fn linear(&mut self, x: Tensor, layer: Linear, act: Act, pre: Option<Tensor>, y: Tensor) {
        let [.., n, k] = layer.w.dims;
        let m = y.len() / n;
        let mut moved = vec![x, y];
        moved.extend(pre);
        let work = Work::of(2.0 * (m * n * k) as f64, &moved, &[layer.w]);
        let act_name = match act {
            Act::None => String::new(),
            _ => format!(" {act:?}"),
        };
        let name = format!("linear {m} x {k}->{n}{act_name}");
        let call = self.note(name, work, move |exec| {
            ops(exec).linear(x, layer, act, pre, y);
        });
        let product = Product {
            sizes: [m, n, k],
            transposed: [false, true],
        };
        call.task = Some(Task::Products(vec![product]));
    }

    fn linear_backward(
        &mut self,
        x: Tensor,
        w: Tensor,
        dz: Tensor,
        grad: LinearGrad,
        dx: Option<LinearInputGrad>,
    ) {
        let [.., outputs, inputs] = w.dims;
        let rows = dz.len() / outputs;
        let (mut moved, mut floats) = (vec![x, dz], vec![grad.dw]);
        if grad.accumulate {
            floats.push(grad.dw);
        }
        let mut products = vec![Product {
            sizes: [outputs, inputs, rows],
            transposed: [true, false],
        }];
        let mut only = " dw";
        if let Some(to) = dx {
            only = "";
            floats.push(w);
            moved.push(to.dx);
            moved.extend(to.through.map(|(_, before)| before));
            if to.accumulate {
                moved.push(to.dx);
            }
            products.push(Product {
                sizes: [rows, inputs, outputs],
                transposed: [false, false],
            });
        }
        let flops = 2.0 * (products.len() * rows * inputs * outputs) as f64;
        let name = format!("linear_backward {rows} x {inputs}->{outputs}{only}");
        let work = Work::of(flops, &moved, &floats);
        let call = self.note(name, work, move |exec| {
            ops(exec).linear_backward(x, w, dz, grad, dx);
        });
        call.task = Some(Task::Products(products));
    }

    fn add_norm(
        &mut self,
        x: Tensor,
        branch: Option<(Tensor, Option<Dropout>)>,
        norm: LayerNorm,
        h: Tensor,
        y: Tensor,
    ) {
        let mut moved = vec![x, y];
        moved.extend(branch.into_iter().flat_map(|(branch, _)| [branch, h]));
        let name = match branch {
            Some(_) => format!("add_norm {}", matrix(x)),
            None => format!("norm {}", matrix(x)),
        };
        self.note(name, Work::of(0.0, &moved, &[]), move |exec| {
            ops(exec).add_norm(x, branch, norm, h, y);
        });
    }

    fn add_norm_backward(
        &mut self,
        h: Tensor,
        norm: LayerNorm,
        dy: Tensor,
        dh: Option<Tensor>,
        dx: Tensor,
        branch: Option<(Tensor, Dropout)>,
    ) {
        let mut moved = vec![h, dy, dx];
        moved.extend(dh);
        moved.extend(branch.map(|(branch, _)| branch));
        let name = format!("add_norm_backward {}", matrix(h));
        self.note(name, Work::of(0.0, &moved, &[]), move |exec| {
            ops(exec).add_norm_backward(h, norm, dy, dh, dx, branch);
        });
    }

    fn attention(&mut self, attention: Attention) {
        let work = Work {
            flops: attention_flops(&attention),
            activations: attention_elements(&attention),
            floats: attention.lse.len() as f64,
        };
        let name = format!("attention {}", attended(&attention));
        self.note(name, work, move |exec| ops(exec).attention(attention));
    }

    fn attention_backward(&mut self, attention: Attention, grad: AttentionGrad) {
        let work = Work {
            // Five products for two: the scores once more.
            flops: 2.5 * attention_flops(&attention),
            activations: 2.0 * attention_elements(&attention),
            floats: attention.lse.len() as f64,
        };
        let name = format!("attention_backward {}", attended(&attention));
        self.note(name, work, move |exec| {
            ops(exec).attention_backward(attention, grad);
        });
    }

    fn move_rows(&mut self, from: Heads, source: Tensor, to: Tensor, target: Tensor) {
        let rows = source.len();
        let work = Work {
            activations: 2.0 * (rows * to.dims[3]) as f64,
            ..Work::default()
        };
        let name = format!("move_rows {rows}x{}", to.dims[3]);
        self.note(name, work, move |exec| {
            ops(exec).move_rows(from, source, to, target);
        });
    }

    fn sentence_xent(&mut self, loss: SentenceLoss, _: bool) {
        let work = Work::of(0.0, &[loss.logits, loss.dlogits], &[]);
        let name = format!("sentence_xent {}", matrix(loss.logits));
        self.note(name, work, move |exec| {
            ops(exec).sentence_xent(loss, false);
        });
    }

    fn clip_scale(&mut self, grads: Tensor, clip: f32, scale: Tensor) {
        let work = Work::of(0.0, &[], &[grads]);
        self.note(format!("clip_scale {}", grads.len()), work, move |exec| {
            ops(exec).clip_scale(grads, clip, scale);
        });
    }

    fn adam(
        &mut self,
        params: Tensor,
        grads: Tensor,
        moments: [Tensor; 2],
        config: Adam,
        scale: Option<Tensor>,
    ) {
        let [m, v] = moments;
        let work = Work::of(0.0, &[], &[params, params, grads, m, m, v, v]);
        self.note(format!("adam {}", params.len()), work, move |exec| {
            ops(exec).adam(params, grads, moments, config, scale);
        });
    }
}
