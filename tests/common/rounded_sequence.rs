//! The naive low-precision computation of the ops of sequence networks.

use super::Rounded;
use autoassist::backend::convolutional::Convolutional;
use autoassist::backend::recurrent::Recurrent;
use autoassist::backend::sequence::{
    Act, Adam, Attention, AttentionGrad, Dropout, Embedding, Heads, LayerNorm, Linear, LinearGrad,
    LinearInputGrad, PairBatch, SentenceLoss, Sequence,
};
use autoassist::backend::{DataId, Executor, Kind, Tensor};
use autoassist::data::pairs::SentencePairs;
use std::sync::Arc;

impl Rounded {
    /// Another tensor of that shape.
    fn like(&mut self, t: Tensor) -> Tensor {
        self.alloc(Kind::Activation, t.dims)
    }

    /// One head's vectors of one sentence: `[L][D]`.
    fn head(&mut self, heads: Heads, [sentence, head, depth]: [usize; 3]) -> Vec<Vec<f32>> {
        let [_, _, l, width] = heads.t.dims;
        let values = self.get(heads.t);
        let rows = values[sentence * l * width..][..l * width].chunks(width);
        let first = heads.first + head * depth;
        rows.map(|row| row[first..first + depth].to_vec()).collect()
    }

    /// Stores it, rounded.
    fn set_head(&mut self, to: Heads, [sentence, head, depth]: [usize; 3], rows: &[Vec<f32>]) {
        let [_, _, l, width] = to.t.dims;
        let mut values = self.get(to.t);
        for (i, row) in rows.iter().enumerate() {
            let row = self.rounded(row);
            let at = (sentence * l + i) * width + to.first + head * depth;
            values[at..at + depth].copy_from_slice(&row);
        }
        self.set(to.t, &values);
    }

    /// `[B·Lq][Lk]` probabilities of a head, rounded as their scores are, and each row's logarithm
    /// of the sum of exponentials.
    fn probabilities(
        &mut self,
        a: &Attention,
        at: [usize; 3],
        keys: usize,
    ) -> (Vec<Vec<f32>>, Vec<f32>) {
        let (q, k) = (self.head(a.q, at), self.head(a.k, at));
        let scale = 1.0 / (at[2] as f32).sqrt();
        let mut rows = Vec::new();
        let mut sums = Vec::new();
        for (i, q) in q.iter().enumerate() {
            let seen = if a.mask.causal { keys.min(i + 1) } else { keys };
            let scores: Vec<f32> = k[..seen].iter().map(|k| scale * dot(q, k)).collect();
            let scores = self.rounded(&scores);
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|s| (s - largest).exp()).sum();
            let row: Vec<f32> = scores.iter().map(|s| (s - largest).exp() / sum).collect();
            let mut row = self.rounded(&row);
            row.resize(k.len(), 0.0);
            rows.push(row);
            sums.push(largest + sum.ln());
        }
        (rows, sums)
    }

    /// How many keys of each sentence count.
    fn key_lengths(&mut self, a: &Attention) -> Vec<usize> {
        let lengths = self.cpu.read_labels(a.mask.key_len);
        let lengths = lengths.expect("the CPU does not fail");
        lengths.iter().map(|l| *l as usize).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `Σ_j weights[j]·rows[j]`.
fn mix(weights: impl Iterator<Item = f32>, rows: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; rows[0].len()];
    for (weight, row) in weights.zip(rows) {
        sum.iter_mut().zip(row).for_each(|(s, r)| *s += weight * r);
    }
    sum
}

impl Sequence for Rounded {
    fn recurrent(&mut self) -> Option<&mut dyn Recurrent> {
        Some(self)
    }

    fn convolutional(&mut self) -> Option<&mut dyn Convolutional> {
        Some(self)
    }

    fn attach_pairs(&mut self, pairs: Arc<SentencePairs>) -> DataId {
        self.cpu.attach_pairs(pairs)
    }

    fn gather_pairs(&mut self, data: DataId, batch: PairBatch) {
        self.cpu.gather_pairs(data, batch);
    }

    fn embed(&mut self, embedding: Embedding, out: Tensor) {
        let table = self.cast(embedding.table);
        self.cpu.embed(Embedding { table, ..embedding }, out);
        self.round(out);
    }

    fn embed_backward(&mut self, embedding: Embedding, dout: Tensor, dtable: Tensor) {
        self.cpu.embed_backward(embedding, dout, dtable);
    }

    fn linear(&mut self, x: Tensor, layer: Linear, act: Act, pre: Option<Tensor>, y: Tensor) {
        let w = self.cast(layer.w);
        let pre = pre.unwrap_or_else(|| self.like(y));
        self.cpu.linear(x, Linear { w, ..layer }, act, Some(pre), y);
        self.round(pre);
        self.round(y);
    }

    fn linear_backward(
        &mut self,
        x: Tensor,
        w: Tensor,
        dz: Tensor,
        grad: LinearGrad,
        dx: Option<LinearInputGrad>,
    ) {
        let w = self.cast(w);
        let Some(spec) = dx else {
            return self.cpu.linear_backward(x, w, dz, grad, None);
        };
        let alone = self.like(spec.dx);
        let plain = LinearInputGrad {
            dx: alone,
            accumulate: false,
            ..spec
        };
        self.cpu.linear_backward(x, w, dz, grad, Some(plain));
        self.round(alone);
        match spec.accumulate {
            true => self.zip(alone, spec.dx, spec.dx, |a, b| a + b),
            false => {
                let values = self.get(alone);
                self.set(spec.dx, &values);
            }
        }
    }

    fn add_norm(
        &mut self,
        x: Tensor,
        branch: Option<(Tensor, Option<Dropout>)>,
        norm: LayerNorm,
        h: Tensor,
        y: Tensor,
    ) {
        match branch {
            None => self.cpu.add_norm(x, None, norm, h, y),
            Some(_) => {
                self.cpu.add_norm(x, branch, norm, h, y);
                self.round(h);
                self.cpu.add_norm(h, None, norm, h, y);
            }
        }
        self.round(y);
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
        if let Some((of_branch, _)) = branch {
            self.cpu.add_norm_backward(h, norm, dy, dh, dx, branch);
            self.round(dx);
            self.round(of_branch);
            return;
        }
        let alone = self.like(dx);
        self.cpu.add_norm_backward(h, norm, dy, None, alone, None);
        self.round(alone);
        match dh {
            Some(dh) => self.zip(alone, dh, dx, |a, b| a + b),
            None => {
                let values = self.get(alone);
                self.set(dx, &values);
            }
        }
    }

    fn attention(&mut self, a: Attention) {
        let [_, sentences, queries, width] = a.out.dims;
        let (depth, lengths) = (width / a.heads, self.key_lengths(&a));
        let out = Heads { t: a.out, first: 0 };
        let mut lse = Vec::new();
        for (b, keys) in lengths.into_iter().enumerate().take(sentences) {
            for head in 0..a.heads {
                let at = [b, head, depth];
                let (p, sums) = self.probabilities(&a, at, keys);
                let v = self.head(a.v, at);
                let rows: Vec<_> = p.iter().map(|p| mix(p.iter().copied(), &v)).collect();
                self.set_head(out, at, &rows);
                lse.extend(&sums[..queries]);
            }
        }
        self.set(a.lse, &lse);
    }

    fn attention_backward(&mut self, a: Attention, grad: AttentionGrad) {
        let [_, sentences, _, width] = a.out.dims;
        let (depth, lengths) = (width / a.heads, self.key_lengths(&a));
        let scale = 1.0 / (depth as f32).sqrt();
        let dout = Heads {
            t: grad.dout,
            first: 0,
        };
        for (b, keys) in lengths.into_iter().enumerate().take(sentences) {
            for head in 0..a.heads {
                let at = [b, head, depth];
                let (p, _) = self.probabilities(&a, at, keys);
                let [q, k, v] = [a.q, a.k, a.v].map(|heads| self.head(heads, at));
                let g = self.head(dout, at);
                let mut ds = Vec::new();
                for (p, g) in p.iter().zip(&g) {
                    let dp: Vec<f32> = v.iter().map(|v| dot(g, v)).collect();
                    let dp = self.rounded(&dp);
                    let mean = dot(p, &dp);
                    let row: Vec<f32> = p.iter().zip(&dp).map(|(p, d)| p * (d - mean)).collect();
                    let row = self.rounded(&row);
                    ds.push(row.iter().map(|d| scale * d).collect::<Vec<f32>>());
                }
                let dq: Vec<_> = ds.iter().map(|row| mix(row.iter().copied(), &k)).collect();
                let column = |m: &[Vec<f32>], j: usize| m.iter().map(|r| r[j]).collect::<Vec<_>>();
                let keys = 0..k.len();
                let dk: Vec<_> = keys
                    .clone()
                    .map(|j| mix(column(&ds, j).into_iter(), &q))
                    .collect();
                let dv: Vec<_> = keys.map(|j| mix(column(&p, j).into_iter(), &g)).collect();
                for (to, rows) in [(grad.dq, dq), (grad.dk, dk), (grad.dv, dv)] {
                    self.set_head(to, at, &rows);
                }
            }
        }
    }

    fn move_rows(&mut self, from: Heads, source: Tensor, to: Tensor, target: Tensor) {
        self.cpu.move_rows(from, source, to, target);
    }

    fn sentence_xent(&mut self, loss: SentenceLoss, record: bool) {
        self.cpu.sentence_xent(loss, record);
        self.round(loss.dlogits);
    }

    fn clip_scale(&mut self, grads: Tensor, clip: f32, scale: Tensor) {
        self.cpu.clip_scale(grads, clip, scale);
    }

    fn adam(
        &mut self,
        params: Tensor,
        grads: Tensor,
        moments: [Tensor; 2],
        config: Adam,
        scale: Option<Tensor>,
    ) {
        self.cpu.adam(params, grads, moments, config, scale);
    }
}
