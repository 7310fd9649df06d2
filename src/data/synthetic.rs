//! Built-in data: pictures of ten shapes, generated from a seed. **A demonstration, never
//! evidence**: it shows the program at work where no data set is at hand; what it shows about the
//! Assistant says nothing about real images.
//!
//! A picture is 32×32 RGB: a shape in its class's colour before a soft gradient. Each instance has
//! a **difficulty** `d` in `[0, 1)`, the square of a uniform number (half of them below 0.25, a
//! quarter above 0.56), that sets
//!
//! | what                                                      | at `d`                 |
//! |-----------------------------------------------------------|------------------------|
//! | contrast: opacity of the shape                            | `1 − 0.7 d`            |
//! | ghost: opacity of a shape of another class drawn below it | `0.4 d`                |
//! | noise: standard deviation of a pixel, full scale 1        | `0.01 + 0.11 d`        |
//! | hue: how far the colour strays from its class's, in turns | up to `0.03 + 0.47 d`  |
//! | clutter: specks of random colour over it                  | `⌊6 d⌋`                |
//!
//! Place, size and rotation vary at any difficulty. 3 % of the *training* pictures show another
//! class than their label says, as careless annotators have it: they stay hard for ever, and a good
//! Assistant has to cope.
//!
//! Only `+ − × ÷ √` are used, all correctly rounded, so the bytes are the same on every machine.

use rayon::prelude::*;

use super::{Dataset, Samples};
use crate::rng::Stream;

const SIDE: usize = 32;
const TRAIN: usize = 10_000;
const TEST: usize = 2_000;
const LABEL_NOISE: f32 = 0.03;
const CLASSES: [&str; 10] = [
    "disc", "ring", "square", "triangle", "star", "cross", "heart", "moon", "stripes", "checker",
];

/// Which part of a data set; part of an instance's random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Trained on; a few labels are wrong.
    Train,
    /// Evaluated on; all labels are right.
    Test,
}

/// What the generator knows of an instance and a learner does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Its label.
    pub label: u32,
    /// The class it really shows: the label's, but for label noise.
    pub shown: u32,
    /// 0 easy, 1 hard; see the module.
    pub difficulty: f32,
}

/// 10,000 training and 2,000 test pictures of ten classes, equally many of each label, the same for
/// equal seeds whatever the number of threads.
pub fn synthetic(seed: u64) -> Dataset {
    let samples = |split, images: usize| {
        let size = SIDE * SIDE * 3;
        let mut pixels = vec![0; images * size];
        pixels
            .par_chunks_exact_mut(size)
            .enumerate()
            .for_each(|(index, image)| {
                let (truth, mut random) = draw(seed, split, index);
                paint(truth.shown, truth.difficulty, &mut random, image);
            });
        Samples {
            pixels,
            labels: (0..images).map(label).collect(),
        }
    };
    let classes = CLASSES.map(str::to_owned).to_vec();
    let (train, test) = (samples(Split::Train, TRAIN), samples(Split::Test, TEST));
    Dataset::new(
        format!("synthetic (seed {seed})"),
        classes,
        [SIDE, SIDE, 3],
        train,
        test,
        true,
    )
    .expect("the generator's parts fit together")
}

/// What instance `index` of [`synthetic`]`(seed)` really is.
pub fn truth(seed: u64, split: Split, index: usize) -> Truth {
    draw(seed, split, index).0
}

fn label(index: usize) -> u32 {
    (index % CLASSES.len()) as u32
}

/// The truth of an instance, and the random numbers left for its looks.
fn draw(seed: u64, split: Split, index: usize) -> (Truth, Stream) {
    let mut random = Stream::new(seed, split as u64, index as u64);
    let u = random.f32();
    let wrong = random.f32() < LABEL_NOISE && split == Split::Train;
    let label = label(index);
    let shown = if wrong {
        other(label, &mut random)
    } else {
        label
    };
    (
        Truth {
            label,
            shown,
            difficulty: u * u,
        },
        random,
    )
}

/// A class that is not `class`.
fn other(class: u32, random: &mut Stream) -> u32 {
    let classes = CLASSES.len() as u64;
    ((u64::from(class) + 1 + random.below(classes - 1)) % classes) as u32
}

/// How a difficulty looks; see the module.
struct Looks {
    contrast: f32,
    ghost: f32,
    noise: f32,
    hue: f32,
    specks: usize,
}

impl Looks {
    fn of(d: f32) -> Looks {
        Looks {
            contrast: 1.0 - 0.7 * d,
            ghost: 0.4 * d,
            noise: 0.01 + 0.11 * d,
            hue: 0.03 + 0.47 * d,
            specks: (6.0 * d) as usize,
        }
    }
}

type Rgb = [f32; 3];

/// A shape of a class at a place: `p ↦ R (p − centre) / radius`.
struct Sprite {
    class: u32,
    colour: Rgb,
    opacity: f32,
    centre: (f32, f32),
    radius: f32,
    /// Cosine and sine.
    rotation: (f32, f32),
}

impl Sprite {
    fn draw(class: u32, opacity: f32, hue_spread: f32, random: &mut Stream) -> Sprite {
        let mut within = |spread: f32| spread * (2.0 * random.f32() - 1.0);
        let hue = class as f32 / CLASSES.len() as f32 + within(hue_spread);
        let centre = (within(0.25), within(0.25));
        let radius = 0.62 + within(0.16);
        // t = tan(angle / 2) gives cosine and sine without either: up to ±25°.
        let t = within(0.22);
        let rotation = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        let colour = hsv(hue, 0.8, 0.95);
        Sprite {
            class,
            colour,
            opacity,
            centre,
            radius,
            rotation,
        }
    }

    /// Blends itself over `below` at `(x, y)`, both in -1..1. Edges are one pixel soft.
    fn over(&self, below: &mut Rgb, x: f32, y: f32) {
        let (x, y) = (
            (x - self.centre.0) / self.radius,
            (y - self.centre.1) / self.radius,
        );
        let (cos, sin) = self.rotation;
        let distance = shape(self.class, cos * x + sin * y, cos * y - sin * x);
        let pixels = distance * self.radius * (SIDE / 2) as f32;
        blend(
            below,
            &self.colour,
            self.opacity * (0.5 - pixels).clamp(0.0, 1.0),
        );
    }
}

/// Paints one picture `[32, 32, 3]`.
fn paint(class: u32, difficulty: f32, random: &mut Stream, image: &mut [u8]) {
    let looks = Looks::of(difficulty);
    let shape = Sprite::draw(class, looks.contrast, looks.hue, random);
    let ghost = Sprite::draw(other(class, random), looks.ghost, 0.5, random);
    let specks: Vec<Sprite> = (0..looks.specks)
        .map(|_| {
            let mut speck = Sprite::draw(0, 0.9, 0.5, random);
            speck.centre = (2.0 * random.f32() - 1.0, 2.0 * random.f32() - 1.0);
            speck.radius *= 0.25;
            speck
        })
        .collect();
    // A soft gradient between two muted colours, across any direction.
    let (hue, light) = (random.f32(), 0.25 + 0.55 * random.f32());
    let near = hsv(hue, 0.3, light);
    let far = hsv(hue + 0.15, 0.3, light + 0.15);
    let (gx, gy) = (random.f32() - 0.5, random.f32() - 0.5);

    for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
        let at = |i: usize| (2 * i + 1) as f32 / SIDE as f32 - 1.0;
        let (x, y) = (at(i % SIDE), at(i / SIDE));
        let mut colour = near;
        blend(&mut colour, &far, 0.5 + 0.5 * (gx * x + gy * y));
        ghost.over(&mut colour, x, y);
        shape.over(&mut colour, x, y);
        specks
            .iter()
            .for_each(|speck| speck.over(&mut colour, x, y));
        // A sum of four bytes is close to normal, with mean 510 and standard deviation 147.8.
        for (byte, value) in pixel.iter_mut().zip(colour) {
            let bits = random.bits() as u32;
            let sum: u32 = bits.to_le_bytes().map(u32::from).iter().sum();
            let noise = looks.noise * (sum as f32 - 510.0) / 147.8;
            *byte = (255.0 * (value + noise) + 0.5).clamp(0.0, 255.0) as u8;
        }
    }
}

fn blend(below: &mut Rgb, above: &Rgb, opacity: f32) {
    for (b, a) in below.iter_mut().zip(above) {
        *b += opacity * (a - *b);
    }
}

/// Hue in turns, any number of them; saturation and value in 0..1.
fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    [0.0, 4.0, 2.0].map(|offset: f32| {
        let h = (6.0 * (hue - hue.floor()) + offset) % 6.0;
        value * (1.0 - saturation * (1.0 - ((h - 3.0).abs() - 1.0).clamp(0.0, 1.0)))
    })
}

/// Signed distance (negative inside, exact or a lower bound) from `(x, y)`, y pointing down, to the
/// edge of a class's shape, which lies in about -1..1. After
/// <https://iquilezles.org/articles/distfunctions2d>.
fn shape(class: u32, x: f32, y: f32) -> f32 {
    let length = |x: f32, y: f32| (x * x + y * y).sqrt();
    let square = |half: f32| x.abs().max(y.abs()) - half;
    match class {
        0 => length(x, y) - 0.9,
        1 => (length(x, y) - 0.7).abs() - 0.2,
        2 => square(0.78),
        3 => (0.866 * x.abs() - 0.5 * y).max(y) - 0.55,
        4 => star(x.abs(), -y),
        5 => {
            let bar = |x: f32, y: f32| (x.abs() - 0.3).max(y.abs() - 0.92);
            bar(x, y).min(bar(y, x))
        }
        6 => {
            // Unit height from its tip at the origin, upwards.
            let (x, y) = (x.abs() * 0.6, 0.55 - y * 0.6);
            let edge = if x + y > 1.0 {
                length(x - 0.25, y - 0.75) - 0.125f32.sqrt()
            } else {
                let t = 0.5 * (x + y).max(0.0);
                length(x, y - 1.0).min(length(x - t, y - t)) * if x > y { 1.0 } else { -1.0 }
            };
            edge / 0.6
        }
        7 => (length(x, y) - 0.95).max(0.75 - length(x - 0.45, y)),
        8 => square(0.88).max((y.abs() - 0.18).min((y.abs() - 0.69).abs() - 0.19)),
        _ => {
            let (a, b) = (x.abs() - 0.29, y.abs() - 0.29);
            square(0.88).max(-a.min(b).max(-a.max(b)))
        }
    }
}

/// Five points, right half, y up.
fn star(mut x: f32, mut y: f32) -> f32 {
    const OUTER: f32 = 1.0;
    const INNER: f32 = 0.45;
    for (kx, ky) in [(0.809_017, -0.587_785_25), (-0.809_017, -0.587_785_25)] {
        let fold = 2.0 * (kx * x + ky * y).max(0.0);
        (x, y) = (x - fold * kx, y - fold * ky);
    }
    (x, y) = (x.abs(), y - OUTER);
    let (bx, by) = (INNER * 0.587_785_25, INNER * 0.809_017 - 1.0);
    let along = ((x * bx + y * by) / (bx * bx + by * by)).clamp(0.0, OUTER);
    let (dx, dy) = (x - bx * along, y - by * along);
    (dx * dx + dy * dy).sqrt() * (y * bx - x * by).signum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn on_threads(threads: usize, seed: u64) -> Dataset {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| synthetic(seed))
    }

    #[test]
    fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
        let (a, b, c) = (on_threads(1, 5), on_threads(3, 5), on_threads(2, 6));
        assert!(a.train.pixels == b.train.pixels && a.test.pixels == b.test.pixels);
        assert!(a.train.mean == b.train.mean && a.train.std == b.train.std);
        assert!(a.train.pixels != c.train.pixels && a.test.pixels != c.test.pixels);
    }

    #[test]
    fn classes_are_balanced_and_splits_disjoint() {
        let data = synthetic(0);
        for (images, each) in [(&data.train, 1000), (&data.test, 200)] {
            for class in 0..10 {
                assert_eq!(images.labels.iter().filter(|&&l| l == class).count(), each);
            }
        }
        let train: HashSet<&[u8]> = (0..TRAIN).map(|id| data.train.image(id)).collect();
        assert_eq!(train.len(), TRAIN);
        assert!((0..TEST).all(|id| !train.contains(data.test.image(id))));
    }

    #[test]
    fn truth_follows_the_documented_rule() {
        let all: Vec<Truth> = (0..TRAIN).map(|i| truth(3, Split::Train, i)).collect();
        let share = |is: &dyn Fn(&Truth) -> bool| {
            all.iter().filter(|t| is(t)).count() as f32 / TRAIN as f32
        };
        assert!((share(&|t| t.difficulty < 0.25) - 0.5).abs() < 0.02);
        assert!((share(&|t| t.difficulty > 0.5625) - 0.25).abs() < 0.02);
        assert!((share(&|t| t.label != t.shown) - LABEL_NOISE).abs() < 0.01);
        assert!(
            (0..TEST)
                .map(|i| truth(3, Split::Test, i))
                .all(|t| t.label == t.shown)
        );
        let data = synthetic(3);
        assert!(
            data.train
                .labels
                .iter()
                .zip(&all)
                .all(|(&label, t)| label == t.label)
        );
    }

    /// The same picture at growing difficulty shows ever less of its shape.
    #[test]
    fn contrast_falls_with_difficulty() {
        let looks: Vec<Looks> = (0..=10).map(|d| Looks::of(d as f32 / 10.0)).collect();
        for pair in looks.windows(2) {
            assert!(pair[0].contrast > pair[1].contrast && pair[0].noise < pair[1].noise);
            assert!(pair[0].ghost < pair[1].ghost && pair[0].specks <= pair[1].specks);
        }
        assert!(looks.iter().all(|l| l.contrast > 0.0));
    }

    /// Difficulty is in the pixels, not in a formula only: the simplest classifier there is, the
    /// nearest class mean, gets more of the easy test pictures than of the hard ones.
    #[test]
    fn easy_pictures_are_easier() {
        let data = synthetic(0);
        let size = SIDE * SIDE * 3;
        let mut means = vec![vec![0f32; size]; 10];
        for id in 0..TRAIN {
            let mean = &mut means[data.train.labels[id] as usize];
            for (m, &p) in mean.iter_mut().zip(data.train.image(id)) {
                *m += f32::from(p) / 1000.0;
            }
        }
        let right = |id: usize| {
            let distance = |mean: &[f32]| -> f32 {
                let image = data.test.image(id).iter();
                image
                    .zip(mean)
                    .map(|(&p, m)| (f32::from(p) - m).powi(2))
                    .sum()
            };
            let nearest =
                (0..10).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
            nearest == Some(data.test.labels[id] as usize)
        };
        let accuracy = |easy: bool| {
            let is = |&id: &usize| (truth(0, Split::Test, id).difficulty < 0.25) == easy;
            let ids: Vec<usize> = (0..TEST).filter(is).collect();
            ids.iter().filter(|&&id| right(id)).count() as f32 / ids.len() as f32
        };
        let (easy, hard) = (accuracy(true), accuracy(false));
        assert!(easy > hard + 0.1 && hard > 0.1, "easy {easy}, hard {hard}");
    }
}
