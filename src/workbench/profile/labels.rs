//! Where labels of a plot go, so that none lies on another, on a dot or on a line.

/// A rectangle: the corner at the top left, and sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub x: f64,
    pub y: f64,
    pub wide: f64,
    pub high: f64,
}

/// Height of a line of text, and how far below its top the letters stand.
pub(super) const LINE: f64 = 15.0;
pub(super) const BASE: f64 = 12.0;
/// Between a dot's middle and its label.
const GAP: f64 = 9.0;

/// Room that a text takes at most, in the pages' 12 px of a sans-serif font.
pub(super) fn width(text: &str) -> f64 {
    7.0 * text.chars().count() as f64
}

impl Area {
    fn holds(&self, other: &Area) -> bool {
        let inside = |a: f64, size: f64, b: f64, all: f64| b <= a && a + size <= b + all;
        inside(other.x, other.wide, self.x, self.wide)
            && inside(other.y, other.high, self.y, self.high)
    }

    pub(super) fn overlaps(&self, other: &Area) -> bool {
        let apart = |a: f64, size: f64, b: f64, other: f64| a + size <= b || b + other <= a;
        !apart(self.x, self.wide, other.x, other.wide)
            && !apart(self.y, self.high, other.y, other.high)
    }

    /// Whether a line from one point to another passes through it.
    pub(super) fn crossed(&self, [a, b]: [[f64; 2]; 2]) -> bool {
        // The part of the line, from 0 to 1, that is between the sides (Liang, Barsky, 1984).
        let (mut from, mut to) = (0.0_f64, 1.0_f64);
        let sides = [(self.x, self.wide), (self.y, self.high)];
        for (i, (low, size)) in sides.into_iter().enumerate() {
            let step = b[i] - a[i];
            let ends = [low, low + size].map(|side| (side - a[i]) / step);
            if step == 0.0 {
                if a[i] <= low || a[i] >= low + size {
                    return false;
                }
                continue;
            }
            from = from.max(ends[0].min(ends[1]));
            to = to.min(ends[0].max(ends[1]));
        }
        from < to
    }
}

/// A plot's area, and what is in it already.
pub(super) struct Labels {
    pub all: Area,
    pub taken: Vec<Area>,
    pub lines: Vec<[[f64; 2]; 2]>,
}

impl Labels {
    /// Takes the area of a dot, so that no label comes to lie on it.
    pub(super) fn dot(&mut self, [x, y]: [f64; 2]) {
        const R: f64 = 6.0;
        self.taken.push(Area {
            x: x - R,
            y: y - R,
            wide: 2.0 * R,
            high: 2.0 * R,
        });
    }

    /// A free place for a text of a point, as near as there is one: beside it, or else a few lines
    /// above or below.
    pub(super) fn place(&mut self, [x, y]: [f64; 2], text: &str) -> Area {
        let wide = width(text);
        let at = |line: i32, x: f64| Area {
            x,
            y: y - LINE / 2.0 + f64::from(line) * LINE * 0.75,
            wide,
            high: LINE,
        };
        let rows = (0..80).map(|i| if i % 2 == 0 { i / 2 } else { -(i + 1) / 2 });
        let near = rows.flat_map(|row| [at(row, x + GAP), at(row, x - GAP - wide)]);
        let mut inside = near.filter(|area| self.all.holds(area)).peekable();
        let first = inside.peek().copied().unwrap_or(at(0, x + GAP));
        let is_free = |area: &Area| {
            let taken = self.taken.iter().any(|other| area.overlaps(other));
            !taken && !self.lines.iter().any(|line| area.crossed(*line))
        };
        let area = inside.find(is_free).unwrap_or(first);
        self.taken.push(area);
        area
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    const ALL: Area = Area {
        x: 80.0,
        y: 10.0,
        wide: 430.0,
        high: 340.0,
    };

    /// That of a step with a long name.
    const NAME: &str = "3 view per block";

    fn placed(dots: &[[f64; 2]]) -> Vec<Area> {
        let lines = vec![
            [[80.0, 200.0], [300.0, 40.0]],
            [[300.0, 40.0], [510.0, 40.0]],
        ];
        let taken = Vec::new();
        let mut labels = Labels {
            all: ALL,
            taken,
            lines,
        };
        dots.iter().for_each(|dot| labels.dot(*dot));
        let areas: Vec<Area> = dots.iter().map(|dot| labels.place(*dot, NAME)).collect();
        for area in &areas {
            assert!(ALL.holds(area), "{area:?}");
            let on_line = labels.lines.iter().any(|line| area.crossed(*line));
            assert!(!on_line, "{area:?}");
            let others = labels.taken.iter().filter(|other| area.overlaps(other));
            assert_eq!(others.count(), 1, "itself: {area:?} of {:?}", labels.taken);
        }
        areas
    }

    #[test]
    fn labels_lie_on_nothing_wherever_the_dots_are() {
        for seed in 0..300 {
            let mut random = Stream::new(seed, 0, 0);
            let mut unit = || random.below(1000) as f64 / 1000.0;
            let near = unit() < 0.5;
            let [x, y] = [unit(), unit()];
            let count = 1 + seed as usize % 8;
            let dots: Vec<[f64; 2]> = (0..count)
                .map(|_| {
                    // Also all in one place, as steps that memory bounds are.
                    let [dx, dy] = [unit(), unit()].map(|v| if near { v * 0.02 } else { v });
                    let [x, y] = if near { [x * 0.98, y * 0.98] } else { [0.0; 2] };
                    [80.0 + 430.0 * (x + dx), 10.0 + 340.0 * (y + dy)]
                })
                .collect();
            placed(&dots);
        }
    }

    #[test]
    fn a_label_with_room_stands_beside_its_dot() {
        let [area] = placed(&[[100.0, 300.0]])[..] else {
            panic!("one label")
        };
        assert_eq!((area.x, area.y), (100.0 + GAP, 300.0 - LINE / 2.0));
        let [area] = placed(&[[500.0, 300.0]])[..] else {
            panic!("one label")
        };
        assert_eq!(area.x + area.wide, 500.0 - GAP);
    }
}
