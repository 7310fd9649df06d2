//! What is remembered of each instance, and the features the model sees.

use super::instances::Instances;
use super::model::{Block, SIGMOID_OPS};
use serde::{Deserialize, Serialize};

/// What training has shown of each instance. All vectors are `[N]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    last: Vec<f32>,
    average: Vec<f32>,
    visits: Vec<u32>,
    /// Step of the last visit.
    step: Vec<u64>,
    right: Vec<bool>,
    alike: Alike,
}

/// How alike instances are in what they still teach, `V = (E g)²/E g²`: g = 1 − e^(−loss), which is
/// about the norm of the loss's gradient, of every instance when it was trained on last. 1 is all
/// alike, near 0 that a few teach all there is. Keeping a share κ gives a gradient of at least
/// max(1, V/κ) times the noise of that on all data (with p ∝ g and weights 1/p; p ≤ 1), so it can be
/// for nothing where V is at most κ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Alike {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Alike {
    /// Enters a loss in place of the instance's former one.
    fn replace(&mut self, former: Option<f32>, loss: f32) {
        let g = |loss: f32| -f64::from(-loss).exp_m1();
        let (old, new) = (former.map_or(0.0, g), g(loss));
        self.count += u64::from(former.is_none());
        self.sum += new - old;
        self.squares += new * new - old * old;
    }

    fn v(&self) -> Option<f64> {
        let v = self.sum * self.sum / (self.count as f64 * self.squares);
        // 0/0 where nothing was seen, or nothing teaches any more.
        v.is_finite().then(|| v.clamp(0.0, 1.0))
    }
}

/// Share of the newest loss in an instance's average: over about two visits, since its loss falls
/// from visit to visit.
const NEWEST: f32 = 0.5;

impl Memory {
    /// Of `n` instances, none of them seen.
    pub fn new(n: usize) -> Memory {
        Memory {
            last: vec![0.0; n],
            average: vec![0.0; n],
            visits: vec![0; n],
            step: vec![0; n],
            right: vec![false; n],
            alike: Alike::default(),
        }
    }

    /// Enters what a step said of its instances.
    pub fn observe(&mut self, step: u64, ids: &[u32], losses: &[f32], right: &[bool]) {
        for ((&id, &loss), &right) in ids.iter().zip(losses).zip(right) {
            let id = id as usize;
            let former = (self.visits[id] > 0).then(|| self.last[id]);
            self.alike.replace(former, loss);
            self.average[id] = if self.visits[id] == 0 {
                loss
            } else {
                self.average[id] + NEWEST * (loss - self.average[id])
            };
            self.last[id] = loss;
            self.visits[id] = self.visits[id].saturating_add(1);
            self.step[id] = step;
            self.right[id] = right;
        }
    }

    /// Number of instances, N.
    pub fn len(&self) -> usize {
        self.visits.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.visits.is_empty()
    }

    /// Averaged loss of an instance, if it was ever trained on.
    pub fn average_loss(&self, id: usize) -> Option<f32> {
        (self.visits[id] > 0).then(|| self.average[id])
    }

    /// The instance's last loss, if it was ever trained on.
    pub fn last_loss(&self, id: usize) -> Option<f32> {
        (self.visits[id] > 0).then(|| self.last[id])
    }

    /// The step in which the instance was trained on last, if it ever was.
    pub fn last_step(&self, id: usize) -> Option<u64> {
        (self.visits[id] > 0).then(|| self.step[id])
    }

    /// Mean of the last losses of all instances that were ever trained on; 0 if none was.
    pub fn mean_last_loss(&self) -> f32 {
        let seen = (0..self.len()).filter_map(|id| self.last_loss(id));
        let (count, sum) = seen.fold((0u64, 0.0), |(n, sum), x| (n + 1, sum + f64::from(x)));
        (sum / count.max(1) as f64) as f32
    }

    /// `V = (E g)²/E g²` of the instances that were ever trained on, g = 1 − e^(−last loss): 1 if all
    /// teach equally much, near 0 if a few teach all there is. Skipping can be for nothing only as far
    /// as the share kept stays above it.
    pub fn v(&self) -> Option<f64> {
        self.alike.v()
    }

    /// How often the instance was trained on.
    pub fn visits(&self, id: usize) -> u32 {
        self.visits[id]
    }

    /// Whether the network was right about the instance when it was trained on last; false if it
    /// never was.
    pub fn right(&self, id: usize) -> bool {
        self.right[id]
    }

    /// Whether all is finite and of one length.
    pub(super) fn is_sound(&self) -> bool {
        let n = self.visits.len();
        [
            self.last.len(),
            self.average.len(),
            self.step.len(),
            self.right.len(),
        ] == [n; 4]
            && self.last.iter().chain(&self.average).all(|x| x.is_finite())
            && [self.alike.sum, self.alike.squares]
                .iter()
                .all(|x| x.is_finite())
    }
}

/// What the features of all instances are relative to.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The step that is composed, or that the records are of.
    pub step: u64,
    /// Running mean loss.
    pub mean_loss: f32,
    /// Sweeps a step: batch / N.
    pub pace: f32,
}

/// Features from memory; the static ones follow. A column each: bias, never seen, averaged loss,
/// last loss, logarithm of the averaged loss, wrong, time since seen, visits.
const FROM_MEMORY: usize = 8;

/// Operations of the features of one instance: two clipped ratios (4 each), three logarithms, 9
/// other.
const FEATURE_OPS: u64 = 3 * SIGMOID_OPS + 17;
/// Operations of entering one record: the average is 3.
pub const OBSERVE_OPS: u64 = 3;
/// Operations of keeping V up to date for one record, where something depends on it: the exponentials
/// of the former loss and the new, and what is done with them.
pub const ALIKE_OPS: u64 = 2 * SIGMOID_OPS + 9;

/// Where the model starts, and what it is regularised to: `4·(averaged loss / mean loss − 1)`, a
/// rule that is good in itself, with what was never seen a little above the average.
pub fn prior(instances: &Instances) -> Vec<f32> {
    let mut weights = vec![0.0; FROM_MEMORY + instances.width()];
    weights[1] = 1.0;
    weights[2] = 4.0;
    weights
}

/// Operations of [`block`] for `n` instances.
pub fn block_ops(n: usize) -> u64 {
    n as u64 * FEATURE_OPS
}

/// The features of some instances at a moment. Losses enter as ratios to the running mean, clipped,
/// so that a single huge loss cannot throw the model; what was never seen has zeros for all that
/// memory would tell.
pub fn block(memory: &Memory, instances: &Instances, ids: &[u32], at: Moment) -> Block {
    let (n, width) = (ids.len(), instances.width());
    let mut columns = vec![0.0; (FROM_MEMORY + width) * n];
    let unit = 1.0 / at.mean_loss.max(1e-12);
    for (i, &id) in ids.iter().enumerate() {
        let id = id as usize;
        let mut put = |j: usize, value: f32| columns[j * n + i] = value;
        put(0, 1.0);
        if memory.visits[id] == 0 {
            put(1, 1.0);
        } else {
            let ratio = memory.average[id] * unit;
            let age = at.step.saturating_sub(memory.step[id]) as f32 * at.pace;
            put(2, (ratio - 1.0).clamp(-1.0, 3.0));
            put(3, (memory.last[id] * unit - 1.0).clamp(-1.0, 3.0));
            put(4, ratio.clamp(0.02, 8.0).ln());
            put(5, f32::from(!memory.right[id]));
            put(6, (1.0 + age).ln());
            put(7, (1.0 + memory.visits[id] as f32).ln());
        }
        for (j, &value) in instances.row(id).iter().enumerate() {
            put(FROM_MEMORY + j, value);
        }
    }
    let classes = ids
        .iter()
        .map(|&id| instances.classes[id as usize])
        .collect();
    Block { columns, classes }
}

#[cfg(test)]
mod tests {
    use super::super::Inputs;
    use super::*;

    #[test]
    fn v_is_one_where_all_teach_alike_and_small_where_few_do() {
        let mut memory = Memory::new(100);
        assert_eq!(memory.v(), None);
        let ids: Vec<u32> = (0..100).collect();
        memory.observe(0, &ids, &[2.3; 100], &[false; 100]);
        assert!((memory.v().unwrap() - 1.0).abs() < 1e-12);
        // By the definition, however often they were seen before.
        let losses: Vec<f32> = (0..100).map(|i| 4.0 / (1.0 + i as f32)).collect();
        for step in 1..50 {
            memory.observe(step, &ids, &losses, &[true; 100]);
        }
        let g = losses.iter().map(|l| 1.0 - (-f64::from(*l)).exp());
        let (sum, squares) = g.fold((0.0, 0.0), |(s, q), g| (s + g, q + g * g));
        let exact = sum * sum / (100.0 * squares);
        assert!((memory.v().unwrap() - exact).abs() < 1e-12 && exact < 0.5);
        // Nothing teaches any more: not a number, hence nothing to go by.
        memory.observe(50, &ids, &[0.0; 100], &[true; 100]);
        assert!(memory.v().is_none_or(|v| (0.0..=1.0).contains(&v)));
        assert!(memory.is_sound());
    }

    #[test]
    fn memory_averages_and_features_tell_it() {
        let instances = Instances {
            classes: vec![0, 1, 1],
            n_classes: 2,
            features: vec![0.5, -0.5, 0.25],
            costs: vec![1; 3],
            inputs: Inputs::None,
        };
        let mut memory = Memory::new(3);
        memory.observe(0, &[0, 2], &[4.0, 1.0], &[false, true]);
        memory.observe(1, &[0], &[2.0], &[true]);
        assert_eq!(memory.average_loss(0), Some(3.0));
        assert_eq!(memory.average_loss(1), None);
        let steps = [0, 1, 2].map(|id| memory.last_step(id));
        assert_eq!(steps, [Some(1), None, Some(0)]);
        assert_eq!(
            (memory.last_loss(0), memory.last_loss(1)),
            (Some(2.0), None)
        );
        assert_eq!(
            (memory.mean_last_loss(), Memory::new(3).mean_last_loss()),
            (1.5, 0.0)
        );
        assert_eq!(
            (memory.visits(0), memory.right(0), memory.right(2)),
            (2, true, true)
        );

        let at = Moment {
            step: 5,
            mean_loss: 2.0,
            pace: 0.25,
        };
        let block = block(&memory, &instances, &[0, 1], at);
        assert_eq!(block.classes, [0, 1]);
        let of = |i: usize| {
            block
                .columns
                .iter()
                .skip(i)
                .step_by(2)
                .copied()
                .collect::<Vec<_>>()
        };
        let expected = [
            1.0,
            0.0,
            0.5,
            0.0,
            1.5f32.ln(),
            0.0,
            2f32.ln(),
            3f32.ln(),
            0.5,
        ];
        assert_eq!(of(0), expected);
        assert_eq!(of(1), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.5]);
    }

    #[test]
    fn extreme_losses_give_finite_features() {
        let instances = Instances {
            classes: vec![0],
            n_classes: 1,
            features: vec![],
            costs: vec![1],
            inputs: Inputs::None,
        };
        for (loss, mean_loss) in [(0.0, 0.0), (f32::MAX, 1e-30), (1e-40, f32::MAX)] {
            let mut memory = Memory::new(1);
            memory.observe(0, &[0], &[loss], &[true]);
            let at = Moment {
                step: u64::MAX,
                mean_loss,
                pace: 1.0,
            };
            let block = block(&memory, &instances, &[0], at);
            assert!(
                block.columns.iter().all(|x| x.is_finite()),
                "{loss} {mean_loss}"
            );
        }
    }
}
