//! Reading fixtures, and comparing with what they hold.

use safetensors::tensor::{Dtype, SafeTensors};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One file: inputs and reference outputs of one op.
pub struct Fixture {
    pub op: String,
    pub attrs: serde_json::Value,
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ints: BTreeMap<String, Vec<i32>>,
    /// Tensors that have been asked for.
    used: RefCell<BTreeSet<String>>,
}

impl Fixture {
    pub fn read(path: &Path) -> Result<Fixture, String> {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| e.to_string())?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
        let meta = header.metadata().as_ref().ok_or("no metadata")?;
        let op = meta.get("op").ok_or("no op in the metadata")?.clone();
        let attrs = meta.get("attrs").ok_or("no attrs in the metadata")?;
        let attrs = serde_json::from_str(attrs).map_err(|e| e.to_string())?;
        let (mut floats, mut ints) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.tensors() {
            let (data, _) = view.data().as_chunks::<4>();
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.iter().map(|b| f32::from_le_bytes(*b)).collect();
                    floats.insert(name, (view.shape().to_vec(), values));
                }
                Dtype::I32 => {
                    ints.insert(name, data.iter().map(|b| i32::from_le_bytes(*b)).collect());
                }
                other => return Err(format!("{name} is {other}")),
            }
        }
        Ok(Fixture {
            op,
            attrs,
            floats,
            ints,
            used: RefCell::default(),
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.floats.keys().map(String::as_str)
    }

    /// What no one has asked for: inputs that were not fed, or outputs that were not compared.
    pub fn unused(&self) -> Vec<&String> {
        let used = self.used.borrow();
        let all = self.floats.keys().chain(self.ints.keys());
        all.filter(|name| !used.contains(*name)).collect()
    }

    pub fn floats(&self, name: &str) -> Result<&[f32], String> {
        self.used.borrow_mut().insert(name.into());
        Ok(&self
            .floats
            .get(name)
            .ok_or(format!("no F32 tensor {name}"))?
            .1)
    }

    pub fn ints(&self, name: &str) -> Result<&[i32], String> {
        self.used.borrow_mut().insert(name.into());
        Ok(self.ints.get(name).ok_or(format!("no I32 tensor {name}"))?)
    }

    /// The shape, with leading ones to make four dimensions.
    pub fn dims(&self, name: &str) -> Result<[usize; 4], String> {
        let shape = &self
            .floats
            .get(name)
            .ok_or(format!("no F32 tensor {name}"))?
            .0;
        let mut dims = [1; 4];
        let first = 4_usize
            .checked_sub(shape.len())
            .ok_or(format!("{name} is {shape:?}"))?;
        dims[first..].copy_from_slice(shape);
        Ok(dims)
    }

    pub fn number(&self, attr: &str) -> Result<f64, String> {
        self.attrs[attr]
            .as_f64()
            .ok_or(format!("no number {attr} in attrs"))
    }

    pub fn flag(&self, attr: &str) -> Result<bool, String> {
        self.attrs[attr]
            .as_bool()
            .ok_or(format!("no flag {attr} in attrs"))
    }

    /// Integers beside the reference of that name: they are to be the same.
    pub fn check_ints(&self, name: &str, result: Vec<f32>) -> Result<Check, String> {
        let reference = self.ints(name)?.iter().map(|v| *v as f32).collect();
        Ok(Check {
            name: name.into(),
            result,
            reference,
            limit: 0.0,
            exact: true,
            loose: false,
        })
    }

    /// A result whose difference from the reference of that name is to be at most this, however
    /// small the reference is.
    pub fn check_within(&self, name: &str, result: Vec<f32>, limit: f64) -> Result<Check, String> {
        let check = self.check(name, result, limit)?;
        let scale = match check.largest() {
            0.0 => 1.0,
            largest => largest,
        };
        Ok(Check {
            limit: limit / scale,
            loose: true,
            ..check
        })
    }

    /// A result that is to be within this of 0, as the reference of that name is.
    pub fn check_zero(&self, name: &str, result: Vec<f32>, limit: f64) -> Result<Check, String> {
        let mut check = self.check(name, result, limit)?;
        let scale = check.largest();
        assert!(scale < limit / 1e3, "{name} is up to {scale}");
        check.reference.fill(0.0);
        check.loose = true;
        Ok(check)
    }

    /// A result beside the reference of that name.
    pub fn check(&self, name: &str, result: Vec<f32>, limit: f64) -> Result<Check, String> {
        let reference = self.floats(name)?.to_vec();
        Ok(Check {
            name: name.into(),
            result,
            reference,
            limit,
            exact: false,
            loose: false,
        })
    }
}

/// The rule for low precision (FlashAttention's): an error of at most twice that of the naive
/// computation in that precision, and a little. Of several naive runs and of the tensors of a
/// family (`grad0.*`) the worst counts. Integers are to be those of the first naive run, which sees
/// the same rounded input.
pub fn beside(checks: Vec<Check>, naive: &[Vec<Check>], little: f64) -> Vec<Check> {
    let family = |check: &Check| check.name.split('.').next().map(str::to_string);
    let mut worst = BTreeMap::new();
    for check in naive.iter().flatten().filter(|check| !check.loose) {
        let error: &mut f64 = worst.entry(family(check)).or_default();
        *error = error.max(check.error());
    }
    let limited = checks.into_iter().zip(&naive[0]).map(|(check, naive)| {
        assert_eq!(check.name, naive.name);
        match check.exact {
            true => Check {
                reference: naive.result.clone(),
                ..check
            },
            false => Check {
                limit: check.limit + 2.0 * worst[&family(&check)] + little,
                ..check
            },
        }
    });
    limited.collect()
}

/// A result to be compared with its reference: `max|a − b| ≤ limit·max|b|`, everything finite.
#[derive(Clone)]
pub struct Check {
    name: String,
    result: Vec<f32>,
    reference: Vec<f32>,
    limit: f64,
    /// Integers.
    exact: bool,
    /// Only its size is known, so that its error says nothing of anyone's accuracy.
    pub loose: bool,
}

impl Check {
    fn largest(&self) -> f64 {
        self.reference
            .iter()
            .fold(0.0, |m, v| f64::from(v.abs()).max(m))
    }

    /// The largest difference and where it is; infinite where either side is not finite.
    fn worst(&self) -> Option<(usize, f64)> {
        let pairs = self.result.iter().zip(&self.reference);
        let gaps = pairs.map(|(a, b)| {
            let gap = (f64::from(*a) - f64::from(*b)).abs();
            if gap.is_finite() { gap } else { f64::INFINITY }
        });
        gaps.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The largest error over the largest reference value (over 1 if all are 0); infinite if
    /// anything is not finite or missing.
    pub fn error(&self) -> f64 {
        let Some((_, gap)) = self.worst() else {
            return f64::INFINITY;
        };
        match self.largest() {
            _ if self.result.len() != self.reference.len() || gap.is_infinite() => f64::INFINITY,
            0.0 => gap,
            largest => gap / largest,
        }
    }

    pub fn verdict(&self) -> Result<(), String> {
        let (error, name) = (self.error(), &self.name);
        if error <= self.limit {
            return Ok(());
        }
        let (len, expected) = (self.result.len(), self.reference.len());
        match self.worst() {
            Some((at, _)) if len == expected => Err(format!(
                "{name}[{at}] is {:e} instead of {:e}; error {error:.2e}, allowed {:.0e}",
                self.result[at], self.reference[at], self.limit
            )),
            _ => Err(format!("{name} has {len} elements instead of {expected}")),
        }
    }

    /// Whether the comparison notices every way of spoiling one element of a good result: by half
    /// a percent of the largest (or a little more than what is allowed to both sides, if that is
    /// larger), up and down, with NaN and infinity, and a missing one. The element is the one in
    /// the middle.
    pub fn notices_errors(&self) -> bool {
        let part = (2.01 * self.limit).max(0.005) as f32;
        let step = match self.largest() as f32 {
            0.0 => part,
            largest => part * largest,
        };
        let spoilt = |change: &dyn Fn(&mut Vec<f32>, usize)| {
            let mut check = self.clone();
            change(&mut check.result, self.reference.len() / 2);
            check.verdict().is_err()
        };
        spoilt(&|v, at| v[at] += step)
            && spoilt(&|v, at| v[at] -= step)
            && spoilt(&|v, at| v[at] = f32::NAN)
            && spoilt(&|v, at| v[at] = f32::INFINITY)
            && spoilt(&|v, _| v.truncate(v.len() - 1))
    }
}
