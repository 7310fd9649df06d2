//! Curves as SVG. Colours are those of the light palette in the SVG itself; by attribute selectors
//! the page's style sheet adds dashes and replaces them by the dark palette at night.

use std::fmt::Write;

use plotters::prelude::*;

use super::ticks::{self, Axis};
use super::{Arm, Group, ReportError, escape};
use clap::ValueEnum;

/// Curves of one arm, one a run, none empty, all points [`drawable`].
pub(super) struct Series {
    pub arm: Arm,
    pub curves: Vec<Vec<(f64, f64)>>,
}

/// An arm's colour by day and by night, and its dashes: the same wherever it is shown. The colours
/// are after Okabe and Ito, told apart with any colour vision; the dashes tell them apart with none.
fn look(arm: Arm) -> (RGBColor, &'static str, &'static str) {
    match arm {
        Arm::Full => (RGBColor(0x4d, 0x4d, 0x4d), "#c9c9c9", "44 16"),
        Arm::Uniform => (RGBColor(0xc2, 0x55, 0x00), "#ff9d4d", "14 12"),
        Arm::Memory => (RGBColor(0x00, 0x72, 0xb2), "#56b4e9", "none"),
        Arm::Random => (RGBColor(0x00, 0x85, 0x5f), "#2fc49a", "5 10"),
        Arm::Paper => (RGBColor(0xa5, 0x42, 0x7f), "#e59ac6", "36 12 6 12"),
        Arm::Infobatch => (RGBColor(0x85, 0x69, 0x00), "#e6c229", "24 8"),
    }
}

/// An arm's colour by day.
pub(in crate::train) fn colour(arm: Arm) -> RGBColor {
    look(arm).0
}

/// Neither too dark nor too light for either background.
const GRID: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// Coordinates are whole numbers: this many to a pixel keep curves smooth.
const SCALE: u32 = 4;
const SIZE: (u32, u32) = (440 * SCALE, 290 * SCALE);
/// A curve needs no more points than this.
const MAX_POINTS: usize = 250;

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// The rules that go with the charts, and the arms' colours for others: `var(--arm)` in an element
/// of the arm's class.
pub(super) fn style() -> String {
    let mut css = String::new();
    let mut night = String::new();
    for arm in Arm::value_variants() {
        let ((light, dark, dash), name) = (look(*arm), arm.name());
        let light = hex(light);
        let _ = writeln!(
            css,
            "polyline[stroke=\"{light}\"]{{stroke-dasharray:{dash}}} .{name}{{--arm:{light}}}"
        );
        let _ = writeln!(night, "svg [stroke=\"{light}\"]{{stroke:{dark}}}");
        let _ = writeln!(night, "svg [fill=\"{light}\"]{{fill:{dark}}}");
        let _ = writeln!(night, ".{name}{{--arm:{dark}}}");
    }
    css + "@media (prefers-color-scheme: dark) {\n" + &night + "}\n"
}

/// An arm's name behind a piece of its line.
pub(super) fn key(arm: Arm) -> String {
    format!(
        "<svg class=\"line\" viewBox=\"0 0 176 40\" aria-hidden=\"true\"><polyline fill=\"none\" \
         stroke=\"{}\" stroke-width=\"11\" points=\"4,20 172,20\"/></svg> {}",
        hex(look(arm).0),
        arm.name(),
    )
}

/// Which line is whose; runs of several seeds are thin, their mean is thick.
pub(super) fn legend(arms: &[Group]) -> String {
    let keys = arms
        .iter()
        .map(|group| format!("<li>{}</li>\n", key(group.arm)));
    let mut html = format!("<ul class=\"legend\">\n{}</ul>\n", keys.collect::<String>());
    if arms.iter().any(|arm| arm.runs.len() > 1) {
        html += "<p class=\"note\">Thin: one seed each. Thick: their mean.</p>\n";
    }
    html
}

/// Whether a point can be drawn: finite, at operations of 0 or more, and of a size that an axis can
/// carry.
pub(super) fn drawable(&(x, y): &(f64, f64)) -> bool {
    (0.0..=1e9).contains(&x) && (-1e9..=1e9).contains(&y)
}

/// What a chart's axes show.
pub(super) struct Axes<'a> {
    /// What goes from left to right.
    pub x: &'a str,
    /// Where that ends; it begins at 0.
    pub until: f64,
    /// What goes from bottom to top.
    pub scale: Scale,
    /// A dot on each point.
    pub marks: bool,
    /// A line where both are equal.
    pub diagonal: bool,
}

/// Least and greatest value of an axis.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// These.
    Fixed(f64, f64),
    /// Those of the data, which cannot be beyond these.
    Data(f64, f64),
}

/// The chart of at least one curve.
pub(super) fn svg(name: &str, series: &[Series], axes: &Axes) -> Result<String, ReportError> {
    let &Axes { until, marks, .. } = axes;
    let error = |e: &dyn std::fmt::Display| ReportError::Chart(format!("{name}: {e}"));
    let points = || series.iter().flat_map(|s| s.curves.iter().flatten());
    let x1 = points().map(|p| p.0).fold(until, f64::max).max(1e-9);
    let (low, high) = match axes.scale {
        Scale::Fixed(low, high) => (low, high),
        Scale::Data(least, most) => ticks::range(points().map(|p| p.1), least, most),
    };
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let font = ("sans-serif", 17 * SCALE).into_font().color(&GRID);
    let mut chart = ChartBuilder::on(&root)
        .margin(6 * SCALE)
        .margin_right(14 * SCALE)
        .x_label_area_size(42 * SCALE)
        .y_label_area_size(44 * SCALE)
        .build_cartesian_2d(Axis::new(0.0..x1), Axis::new(low..high))
        .map_err(|e| error(&e))?;
    chart
        .configure_mesh()
        .set_all_tick_mark_size(4 * SCALE)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.mix(0.3).stroke_width(SCALE))
        .axis_style(GRID.stroke_width(SCALE))
        .label_style(font)
        .x_desc(axes.x)
        .draw()
        .map_err(|e| error(&e))?;
    let ends = [low.max(0.0), high.min(x1)];
    if axes.diagonal && ends[0] < ends[1] {
        let line = LineSeries::new(ends.map(|v| (v, v)), GRID.mix(0.6).stroke_width(SCALE));
        chart.draw_series(line).map_err(|e| error(&e))?;
    }
    for Series { arm, curves } in series {
        let colour = look(*arm).0;
        let mut draw = |curve: Vec<(f64, f64)>, width: u32, opacity: f64| {
            let style = colour.mix(opacity);
            if marks || curve.len() == 1 {
                let dot = |&p: &_| Circle::new(p, 3 * width / 2, style.filled());
                chart
                    .draw_series(curve.iter().map(dot))
                    .map_err(|e| error(&e))?;
            }
            let line = LineSeries::new(curve, style.stroke_width(width));
            chart.draw_series(line).map_err(|e| error(&e))?;
            Ok(())
        };
        if curves.len() > 1 {
            for curve in curves {
                draw(thin(curve), SCALE, 0.45)?;
            }
        }
        draw(thin(&mean(curves)), 5 * SCALE / 2, 1.0)?;
    }
    root.present().map_err(|e| error(&e))?;
    drop(chart);
    drop(root);
    let label = format!(
        "<svg role=\"img\" aria-label=\"{} against {}\" ",
        escape(name),
        escape(axes.x)
    );
    // In HTML the name space is implied.
    Ok(svg
        .replacen("<svg ", &label, 1)
        .replace(" xmlns=\"http://www.w3.org/2000/svg\"", ""))
}

/// At most [`MAX_POINTS`] points, each the mean of as many neighbours.
fn thin(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    curve
        .chunks(curve.len().div_ceil(MAX_POINTS).max(1))
        .map(centre)
        .collect()
}

fn centre(points: &[(f64, f64)]) -> (f64, f64) {
    let sum = points
        .iter()
        .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
    (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
}

/// The mean curve: point by point if all have equally many, else interpolated where all run.
fn mean(curves: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let Some(first) = curves.first() else {
        return Vec::new();
    };
    if curves.iter().all(|curve| curve.len() == first.len()) {
        return (0..first.len())
            .map(|i| centre(&curves.iter().map(|curve| curve[i]).collect::<Vec<_>>()))
            .collect();
    }
    let from = curves
        .iter()
        .map(|c| c[0].0)
        .fold(f64::NEG_INFINITY, f64::max);
    let to = curves
        .iter()
        .map(|c| c[c.len() - 1].0)
        .fold(f64::INFINITY, f64::min);
    let longest = curves
        .iter()
        .max_by_key(|curve| curve.len())
        .unwrap_or(first);
    let xs = longest
        .iter()
        .map(|p| p.0)
        .filter(|x| (from..=to).contains(x));
    xs.map(|x| {
        let sum: f64 = curves.iter().map(|curve| interpolate(curve, x)).sum();
        (x, sum / curves.len() as f64)
    })
    .collect()
}

/// The value of a curve of growing x at `x`, which lies within it.
fn interpolate(curve: &[(f64, f64)], x: f64) -> f64 {
    let after = curve.partition_point(|p| p.0 < x).min(curve.len() - 1);
    let (a, b) = (curve[after.saturating_sub(1)], curve[after]);
    match b.0 > a.0 {
        true => a.1 + (b.1 - a.1) * ((x - a.0) / (b.0 - a.0)).clamp(0.0, 1.0),
        false => b.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_point_by_point_or_interpolated() {
        let a = vec![(0.0, 0.0), (10.0, 10.0)];
        assert_eq!(
            mean(&[a.clone(), vec![(0.0, 2.0), (12.0, 12.0)]]),
            [(0.0, 1.0), (11.0, 11.0)]
        );
        let b = vec![(2.0, 0.0), (4.0, 0.0), (8.0, 0.0), (12.0, 0.0)];
        assert_eq!(mean(&[a, b]), [(2.0, 1.0), (4.0, 2.0), (8.0, 4.0)]);
        assert_eq!(mean(&[]), []);
        // No common stretch.
        assert_eq!(mean(&[vec![(0.0, 1.0)], vec![(1.0, 1.0), (2.0, 1.0)]]), []);
    }

    #[test]
    fn arms_are_told_apart_by_colour_and_by_dashes() {
        let arms = Arm::value_variants();
        for (i, a) in arms.iter().enumerate() {
            for b in &arms[..i] {
                let ((day, night, dash), other) = (look(*a), look(*b));
                assert!(
                    day != other.0 && night != other.1 && dash != other.2,
                    "{a:?} {b:?}"
                );
            }
        }
        // Alone or beside others, an arm looks the same.
        let alone = key(Arm::Memory);
        assert!(alone.contains("#0072B2") && alone.ends_with(" memory"));
        assert!(look(Arm::Full).2 != "none", "full is dashed");
    }

    #[test]
    fn long_curves_are_thinned_to_means() {
        let curve: Vec<_> = (0..100_000)
            .map(|i| (f64::from(i), f64::from(i % 2)))
            .collect();
        let thinned = thin(&curve);
        assert_eq!(thinned.len(), MAX_POINTS);
        assert!(thinned.iter().all(|p| p.1 == 0.5));
        assert_eq!(thin(&[]), []);
    }

    #[test]
    fn axes_take_any_drawable_data() {
        for ys in [
            &[0.0][..],
            &[1e9, 1e9 - 1e-7],
            &[-1e9, 1e9],
            &[2.3, 2.3 + 1e-15],
            &[1e-300],
        ] {
            let curve: Vec<_> = ys.iter().map(|&y| (1e-12, y)).collect();
            assert!(curve.iter().all(drawable));
            let series = [Series {
                arm: Arm::Paper,
                curves: vec![curve],
            }];
            let axes = Axes {
                x: "y",
                until: 0.0,
                scale: Scale::Data(f64::NEG_INFINITY, f64::INFINITY),
                marks: true,
                diagonal: true,
            };
            assert!(svg("x", &series, &axes).unwrap().contains("<circle"));
        }
        assert!(!drawable(&(f64::NAN, 0.0)) && !drawable(&(0.0, f64::INFINITY)));
    }
}
