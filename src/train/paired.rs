//! Two arms on the same seeds and the same test set: how far their difference can be trusted.
//!
//! Two things are left to chance: which seeds were trained, and which images are in the test set, which
//! all runs have in common. Both are resampled, as pairs: a seed's two runs stay together, and so do all
//! answers to an image (Owen's pigeonhole bootstrap, 2007). Taken plainly that counts the noise of a
//! seed on an image three times, and knows little of the spread where seeds are few. So its shape is
//! kept and its width is set to what the analysis of variance of the table seeds × images gives without
//! bias, times Student's t for as many seeds over the normal distribution's: with few seeds the bounds
//! are wide, with one there are none.

use super::summary::Estimate;
use super::task::Score;
use crate::rng::Stream;
use serde::{Serialize, Serializer};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Tables drawn anew. Of as many, 5 % are known to about 0.03 standard errors.
const RESAMPLES: u64 = 4000;
/// What a one-sided bound leaves to chance.
const CHANCE: f64 = 0.05;
/// How likely a study is to show what is there.
const POWER: f64 = 0.8;
/// Seeds that nobody trains for one answer.
const MOST_SEEDS: usize = 200;
/// Salt of the draws.
const DRAWS: u64 = 0x7061_6972;

/// How much better one arm is than another, in points.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Seeds that both have.
    pub seeds: usize,
    /// Over them.
    pub mean: f64,
    /// Standard error of the mean.
    pub standard_error: f64,
    /// One-sided 95 % bounds; there are none of one seed.
    #[serde(serialize_with = "finite")]
    pub lower: f64,
    /// See `lower`.
    #[serde(serialize_with = "finite")]
    pub upper: f64,
    /// Standard deviation from seed to seed, not known of one.
    #[serde(serialize_with = "finite")]
    pub seeds_deviation: f64,
    /// What the test set adds to the standard error, however many seeds there are.
    pub images_error: f64,
}

/// What is not known is null.
fn finite<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    let value = Some(*value).filter(|v| v.is_finite());
    value.serialize(to)
}

/// The mean difference and the two variances of it, in points².
struct Spread {
    mean: f64,
    /// From seed to seed; no number of one.
    between: f64,
    /// What the images add, however many seeds there are.
    images: f64,
    error: f64,
}

impl Spread {
    fn of(pairs: &[(&Score, &Score)], table: Option<&Table>) -> Spread {
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| a.points() - b.points()).collect();
        let seeds = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / seeds;
        let squares = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>();
        let between = squares / (seeds - 1.0);
        let images = table.map_or_else(
            // As if the test sets were different ones: too much rather than too little.
            || {
                let variance = |s: &Score| (s.per_point() * s.standard_error).powi(2);
                let sum: f64 = pairs.iter().map(|(a, b)| variance(a) + variance(b)).sum();
                sum / seeds
            },
            |table| table.images_variance(between),
        );
        let known = if seeds > 1.0 { between } else { 0.0 };
        Spread {
            mean,
            between,
            images,
            error: (known / seeds + images).sqrt(),
        }
    }
}

/// The mean difference of two arms, seed by seed, with its standard error; `None` of no seed.
pub fn estimate(pairs: &[(&Score, &Score)]) -> Option<Estimate> {
    let spread = Spread::of(pairs, Table::of(pairs).as_ref());
    (!pairs.is_empty()).then_some(Estimate {
        mean: spread.mean,
        error: spread.error,
    })
}

impl Paired {
    /// Of the scores of two arms, seed by seed; `None` of none.
    pub fn new(pairs: &[(&Score, &Score)]) -> Option<Paired> {
        let seeds = pairs.len();
        if seeds == 0 {
            return None;
        }
        let table = Table::of(pairs);
        let shape = table.as_ref().and_then(Table::quantiles);
        let Spread {
            mean,
            between,
            images,
            error: standard_error,
        } = Spread::of(pairs, table.as_ref());
        let t = student(seeds, 1.0 - CHANCE);
        let z = normal(1.0 - CHANCE);
        let (low, high) = shape.unwrap_or((-z, z));
        // Nothing times infinity would be no number: without spread there is still one seed only.
        let bound = |side: f64| match t.is_finite() {
            true => mean + side / z * t * standard_error,
            false => side.signum() * f64::INFINITY,
        };
        Some(Paired {
            seeds,
            mean,
            standard_error,
            lower: bound(low),
            upper: bound(high),
            seeds_deviation: between.sqrt(),
            images_error: images.sqrt(),
        })
    }

    /// How many seeds would show, with a chance of 80 %, that the difference is above `margin`, if it
    /// is `truth`; `None` if that takes more than anybody trains, or how seeds differ is not known.
    pub fn seeds_needed(&self, truth: f64, margin: f64) -> Option<usize> {
        let enough = |seeds: &usize| {
            let between = self.seeds_deviation.powi(2) / *seeds as f64;
            let error = (between + self.images_error.powi(2)).sqrt();
            truth - margin > (student(*seeds, 1.0 - CHANCE) + normal(POWER)) * error
        };
        (2..=MOST_SEEDS).find(enough)
    }
}

/// Quantile of Student's distribution for the mean over so many seeds.
fn student(seeds: usize, share: f64) -> f64 {
    if seeds < 2 {
        return f64::INFINITY;
    }
    let t = StudentsT::new(0.0, 1.0, seeds as f64 - 1.0).expect("of one degree or more");
    t.inverse_cdf(share)
}

fn normal(share: f64) -> f64 {
    Normal::standard().inverse_cdf(share)
}

/// Right or wrong, of one arm minus of the other: −1, 0 or 1, seed by seed, image by image.
struct Table {
    seeds: usize,
    images: usize,
    /// Of each image, its seeds one after the other; those where all are 0 come to nothing and are
    /// left out.
    rows: Vec<i8>,
}

impl Table {
    /// `None` unless all answers are there, of the same number of images.
    fn of(pairs: &[(&Score, &Score)]) -> Option<Table> {
        let right = |score: &'_ Score| score.answers.as_ref().map(|a| a.right().to_vec());
        let answers: Option<Vec<_>> = pairs
            .iter()
            .map(|(a, b)| Some((right(a)?, right(b)?)))
            .collect();
        let answers = answers?;
        let images = answers.first()?.0.len();
        if images == 0
            || answers
                .iter()
                .any(|(a, b)| [a.len(), b.len()] != [images; 2])
        {
            return None;
        }
        let mut rows = Vec::new();
        for image in 0..images {
            let row = answers.iter();
            let row: Vec<i8> = row
                .map(|(a, b)| i8::from(a[image]) - i8::from(b[image]))
                .collect();
            if row.iter().any(|&d| d != 0) {
                rows.extend(row);
            }
        }
        Some(Table {
            seeds: answers.len(),
            images,
            rows,
        })
    }

    fn each_image(&self) -> impl Iterator<Item = &[i8]> {
        self.rows.chunks_exact(self.seeds)
    }

    /// Variance, in points², that the images leave to the mean, whatever the number of seeds: the
    /// unbiased component of variance, at least 0. Of one seed it is all that there is. `between` is
    /// the variance of the seeds' own differences.
    fn images_variance(&self, between: f64) -> f64 {
        let (s, n) = (self.seeds as f64, self.images as f64);
        let sum = |row: &[i8]| row.iter().map(|&d| f64::from(d)).sum::<f64>();
        let total: f64 = self.each_image().map(sum).sum();
        let mean = total / (s * n);
        let of_images: f64 = self.each_image().map(|row| (sum(row) / s).powi(2)).sum();
        let of_images = s * (of_images - n * mean * mean);
        if n < 2.0 {
            return 0.0;
        }
        if self.seeds == 1 {
            return 1e4 * of_images / (n - 1.0) / n;
        }
        let all: f64 = self.rows.iter().map(|&d| f64::from(d).powi(2)).sum();
        let of_seeds = n * between / 1e4 * (s - 1.0);
        let rest = all - s * n * mean * mean - of_seeds - of_images;
        let component = of_images / (n - 1.0) - rest / ((s - 1.0) * (n - 1.0));
        1e4 * component.max(0.0) / (s * n)
    }

    /// The 5 % and 95 % quantiles of the mean of tables drawn anew, in standard deviations from their
    /// own mean; `None` if all are the same.
    fn quantiles(&self) -> Option<(f64, f64)> {
        let rows: Vec<&[i8]> = self.each_image().collect();
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|draw| self.redrawn(&rows, draw))
            .collect();
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let deviation = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n).sqrt();
        means.sort_by(f64::total_cmp);
        let at = |share: f64| (means[(share * (n - 1.0)).round() as usize] - mean) / deviation;
        (deviation > 0.0).then(|| (at(CHANCE), at(1.0 - CHANCE)))
    }

    /// The sum over a table of as many seeds and images drawn with repetition.
    fn redrawn(&self, rows: &[&[i8]], draw: u64) -> f64 {
        let mut random = Stream::new(DRAWS, draw, 0);
        let mut times = vec![0i32; self.seeds];
        for _ in 0..self.seeds {
            times[random.below(self.seeds as u64) as usize] += 1;
        }
        let mut sum = 0i64;
        for _ in 0..self.images {
            let image = random.below(self.images as u64) as usize;
            // Those left out stand behind the others.
            if let Some(row) = rows.get(image) {
                let weighted = row.iter().zip(&times).map(|(&d, &t)| i32::from(d) * t);
                sum += i64::from(weighted.sum::<i32>());
            }
        }
        sum as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{hash, unit_f64};
    use crate::train::Answers;

    fn score(right: Vec<bool>) -> Score {
        let accuracy = right.iter().filter(|r| **r).count() as f64 / right.len() as f64;
        Score {
            test_accuracy: Some(accuracy),
            answers: Some(Answers::new(right)),
            ..Score::default()
        }
    }

    /// Scores of a run whose chance to be right about an image is `level`, a shift of its own for the
    /// seed, and one for the image that all runs have in common.
    fn run(world: u64, arm: u64, seed: u64, level: f64, images: u64) -> Score {
        let unit = |a, b| unit_f64(hash(world, a, b));
        let own = 0.02 * (unit(hash(arm, seed, 1), 2) - 0.5);
        let right = (0..images).map(|image| {
            let hard = 0.2 * (unit(image, 3) - 0.5);
            unit(hash(arm, seed, 4), image) < level + own + hard
        });
        score(right.collect())
    }

    fn paired(world: u64, seeds: u64, levels: [f64; 2], images: u64) -> Paired {
        let runs: Vec<(Score, Score)> = (0..seeds)
            .map(|seed| {
                let of = |arm: usize| run(world, arm as u64, seed, levels[arm], images);
                (of(0), of(1))
            })
            .collect();
        let pairs: Vec<(&Score, &Score)> = runs.iter().map(|(a, b)| (a, b)).collect();
        Paired::new(&pairs).unwrap()
    }

    #[test]
    fn bounds_hold_as_often_as_they_say_for_few_seeds_and_many() {
        // Where there is no difference, 5 % of the lower bounds are above 0: of 200 worlds 10 ± 3.1.
        for (seeds, images) in [(2, 400), (3, 400), (8, 200)] {
            let worlds = 200;
            let all = (0..worlds).map(|world| paired(world, seeds, [0.8; 2], images));
            let all: Vec<Paired> = all.collect();
            let above = all.iter().filter(|p| p.lower > 0.0).count();
            let below = all.iter().filter(|p| p.upper < 0.0).count();
            for (side, wrong) in [("lower", above), ("upper", below)] {
                assert!(
                    (1..=20).contains(&wrong),
                    "{side} of {seeds} seeds: {wrong}"
                );
            }
        }
    }

    #[test]
    fn what_is_there_is_found_and_more_seeds_find_more() {
        let few = paired(1, 3, [0.85, 0.8], 2000);
        assert!((few.mean - 5.0).abs() < 2.0 && few.lower < few.mean && few.mean < few.upper);
        let many = paired(1, 20, [0.85, 0.8], 2000);
        assert!(many.lower > 3.0 && many.upper < 7.0, "{many:?}");
        assert!(many.upper - many.lower < few.upper - few.lower);
        let (needs, sees) = (many.seeds_needed(0.3, -0.2), many.seeds_needed(5.0, -0.2));
        assert!(sees < needs || needs.is_none(), "{sees:?} {needs:?}");
        assert_eq!(many.seeds_needed(-0.3, -0.2), None, "the wrong side");
        // The same numbers again: nothing is drawn from a clock.
        assert_eq!(many, paired(1, 20, [0.85, 0.8], 2000));
    }

    #[test]
    fn the_error_is_the_same_whichever_way_it_is_known() {
        // The analysis of variance agrees with the scatter of means over fresh worlds.
        let worlds = 200;
        let all = (0..worlds).map(|world| paired(world, 4, [0.8; 2], 300));
        let all: Vec<Paired> = all.collect();
        let n = f64::from(worlds as u32);
        let scatter = (all.iter().map(|p| p.mean.powi(2)).sum::<f64>() / n).sqrt();
        let said = (all.iter().map(|p| p.standard_error.powi(2)).sum::<f64>() / n).sqrt();
        assert!((said / scatter - 1.0).abs() < 0.2, "{said} for {scatter}");
    }

    #[test]
    fn one_seed_has_no_bounds_and_no_number_is_no_news() {
        let one = paired(1, 1, [0.99, 0.5], 500);
        assert_eq!((one.lower, one.upper), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(one.standard_error > 0.0 && one.seeds_needed(1.0, 0.0).is_none());
        assert_eq!(Paired::new(&[]), None);
        let json = serde_json::to_value(one).unwrap();
        assert!(json["lower"].is_null() && json["mean"].is_f64());
        let same = score(vec![true; 100]);
        let level = Paired::new(&[(&same, &same), (&same, &same)]).unwrap();
        assert_eq!([level.mean, level.lower, level.upper], [0.0; 3]);
        let only = Paired::new(&[(&same, &same)]).unwrap();
        assert_eq!(only.lower, f64::NEG_INFINITY);
        let bad = Score::default();
        let nan = Paired::new(&[(&bad, &same), (&same, &same)]).unwrap();
        let holds = nan.lower > -0.2;
        assert!(nan.mean.is_nan() && !holds && nan.seeds_needed(nan.mean, 0.0).is_none());
    }

    #[test]
    fn without_answers_the_test_set_counts_in_full() {
        let bleu = |bleu, standard_error| Score {
            bleu: Some(bleu),
            standard_error,
            ..Score::default()
        };
        let runs = [
            (bleu(31.0, 0.6), bleu(30.0, 0.8)),
            (bleu(31.2, 0.6), bleu(30.2, 0.8)),
        ];
        let pairs: Vec<(&Score, &Score)> = runs.iter().map(|(a, b)| (a, b)).collect();
        let paired = Paired::new(&pairs).unwrap();
        assert!((paired.mean - 1.0).abs() < 1e-9 && (paired.standard_error - 1.0).abs() < 1e-6);
        // t of one degree is 6.31.
        assert!((paired.lower + 5.31).abs() < 0.01, "{paired:?}");
    }
}
