//! Global average pooling and the linear layer behind it. A thousandth of the network's work: plain
//! loops.

use super::simd::{Element, Isa, Kernel, Simd};
use rayon::prelude::*;

/// What [`forward`] reads.
#[derive(Clone, Copy)]
pub struct Input<'a, E = f32> {
    pub x: &'a [E],
    /// Of `x`: `[n, h, w, c]`.
    pub dims: [usize; 4],
    /// `[outputs, c]`.
    pub w: &'a [f32],
    /// `[outputs]`.
    pub b: &'a [f32],
}

/// `pooled[n,c] = mean_{h,w} x`, `y = pooled·wᵀ + b`.
pub fn forward<E: Element>(isa: Isa, input: Input<E>, pooled: &mut [f32], y: &mut [f32]) {
    let Input { x, dims, w, b } = input;
    let ([n, height, width, c], outputs) = (dims, b.len());
    let pixels = height * width;
    assert_eq!((x.len(), pooled.len()), (n * pixels * c, n * c));
    assert_eq!((w.len(), y.len()), (outputs * c, n * outputs));
    pooled
        .par_chunks_mut(c)
        .zip(y.par_chunks_mut(outputs))
        .zip(x.par_chunks(pixels * c))
        .for_each(|((pooled, y), x)| {
            let scale = 1.0 / pixels as f32;
            isa.run(Pool { x, pooled, scale });
            for ((y, w), b) in y.iter_mut().zip(w.chunks_exact(c)).zip(b) {
                *y = isa.run(Dot { a: w, b: pooled }) + b;
            }
        });
}

struct Pool<'a, E> {
    x: &'a [E],
    pooled: &'a mut [f32],
    scale: f32,
}

impl<E: Element> Kernel for Pool<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.pooled.fill(0.0);
        for x in self.x.chunks_exact(self.pooled.len()) {
            for (p, x) in self.pooled.iter_mut().zip(x) {
                *p += x.to_f32();
            }
        }
        for p in self.pooled {
            *p *= self.scale;
        }
    }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        // Sixteen sums, so that the order of addition is fixed and yet vectorises.
        let (a, a_tail) = self.a.as_chunks::<16>();
        let (b, b_tail) = self.b.as_chunks::<16>();
        let mut sums = [0.0_f32; 16];
        for (a, b) in a.iter().zip(b) {
            for i in 0..16 {
                sums[i] += a[i] * b[i];
            }
        }
        let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
        sums.iter().sum::<f32>() + tail
    }
}

/// What [`backward`] reads.
#[derive(Clone, Copy)]
pub struct GradInput<'a> {
    /// `[n, c]`.
    pub pooled: &'a [f32],
    /// `[outputs, c]`.
    pub w: &'a [f32],
    /// `[n, outputs]`.
    pub dy: &'a [f32],
    /// Of `dx`: `[n, h, w, c]`.
    pub dims: [usize; 4],
}

/// `dw = dyᵀ·pooled`, `db = Σ dy`, and `dx`, each pixel of which gets `dy·w` over the number of
/// pixels.
pub fn backward<E: Element>(
    isa: Isa,
    input: GradInput,
    dx: &mut [E],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let GradInput {
        pooled,
        w,
        dy,
        dims,
    } = input;
    let ([n, height, width, c], outputs) = (dims, db.len());
    let pixels = height * width;
    assert_eq!((dx.len(), pooled.len()), (n * pixels * c, n * c));
    assert_eq!((dw.len(), dy.len()), (w.len(), n * outputs));
    assert_eq!(w.len(), outputs * c);
    dx.par_chunks_mut(pixels * c)
        .zip(dy.par_chunks(outputs))
        .for_each(|(dx, dy)| {
            let mut sum = vec![0.0; c];
            for (dy, w) in dy.iter().zip(w.chunks_exact(c)) {
                isa.run(AddScaled {
                    to: &mut sum,
                    a: dy / pixels as f32,
                    x: w,
                });
            }
            let (first, rest) = dx.split_at_mut(c);
            for (first, sum) in first.iter_mut().zip(sum) {
                *first = E::from_f32(sum);
            }
            for pixel in rest.chunks_exact_mut(c) {
                pixel.copy_from_slice(first);
            }
        });
    dw.par_chunks_mut(c)
        .zip(db)
        .enumerate()
        .for_each(|(o, (dw, db))| {
            dw.fill(0.0);
            let mut sum = 0.0;
            let column = dy.iter().skip(o).step_by(outputs);
            for (dy, pooled) in column.zip(pooled.chunks_exact(c)) {
                isa.run(AddScaled {
                    to: dw,
                    a: *dy,
                    x: pooled,
                });
                sum += f64::from(*dy);
            }
            *db = sum as f32;
        });
}

struct AddScaled<'a> {
    to: &'a mut [f32],
    a: f32,
    x: &'a [f32],
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (to, x) in self.to.iter_mut().zip(self.x) {
            *to += self.a * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut random = Stream::new(seed, 0, 0);
        (0..n).map(|_| random.f32() - 0.4).collect()
    }

    fn close(what: &str, got: &[f32], want: &[f64]) {
        let largest = want.iter().fold(1e-6_f64, |m, v| m.max(v.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs() / largest;
            assert!(error < 2e-6, "{what}[{i}]: {got} instead of {want}");
        }
    }

    /// `pooled` and `y` of both passes, then `dx`, `dw`, `db`.
    fn run(isa: Isa, dims: [usize; 4], outputs: usize) -> ([Vec<f32>; 4], [Vec<f32>; 5]) {
        let [n, h, width, c] = dims;
        let [x, w, b, dy] = [
            random(1, n * h * width * c),
            random(2, outputs * c),
            random(3, outputs),
            random(4, n * outputs),
        ];
        let [mut pooled, mut y, mut dx, mut dw, mut db] =
            [n * c, n * outputs, x.len(), w.len(), outputs].map(|len| vec![f32::NAN; len]);
        let input = Input {
            x: &x,
            dims,
            w: &w,
            b: &b,
        };
        forward(isa, input, &mut pooled, &mut y);
        let input = GradInput {
            pooled: &pooled,
            w: &w,
            dy: &dy,
            dims,
        };
        backward(isa, input, &mut dx, &mut dw, &mut db);
        ([x, w, b, dy], [pooled, y, dx, dw, db])
    }

    #[test]
    fn agrees_with_f64_on_odd_shapes() {
        let shapes = [
            ([1, 1, 1, 1], 1),
            ([3, 5, 7, 19], 4),
            ([70, 2, 3, 64], 10),
            ([2, 1, 1, 33], 101),
        ];
        for ([n, h, width, c], outputs) in shapes {
            for isa in Isa::available() {
                let ([x, w, b, dy], [pooled, y, dx, dw, db]) = run(isa, [n, h, width, c], outputs);
                let pixels = h * width;
                let at = |t: &[f32], i: usize| f64::from(t[i]);
                let mean = |r: usize, k: usize| -> f64 {
                    let sum: f64 = (0..pixels).map(|p| at(&x, (r * pixels + p) * c + k)).sum();
                    sum / pixels as f64
                };
                let all =
                    |len: usize, f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<_>>();
                close("pooled", &pooled, &all(n * c, &|i| mean(i / c, i % c)));
                let want = all(n * outputs, &|i| {
                    let (r, o) = (i / outputs, i % outputs);
                    (0..c).map(|k| mean(r, k) * at(&w, o * c + k)).sum::<f64>() + at(&b, o)
                });
                close("y", &y, &want);
                let want = all(x.len(), &|i| {
                    let (r, k) = (i / (pixels * c), i % c);
                    let dot = (0..outputs).map(|o| at(&dy, r * outputs + o) * at(&w, o * c + k));
                    dot.sum::<f64>() / pixels as f64
                });
                close("dx", &dx, &want);
                let want = all(w.len(), &|i| {
                    let (o, k) = (i / c, i % c);
                    (0..n).map(|r| at(&dy, r * outputs + o) * mean(r, k)).sum()
                });
                close("dw", &dw, &want);
                let sum = |o: usize| (0..n).map(|r| at(&dy, r * outputs + o)).sum();
                close("db", &db, &all(outputs, &sum));
            }
        }
    }

    #[test]
    fn one_thread_and_three_give_equal_bits() {
        for isa in Isa::available() {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build()
                    .unwrap()
                    .install(|| run(isa, [37, 4, 3, 21], 11).1)
            };
            assert!(on(1) == on(3), "{isa}");
        }
    }
}
