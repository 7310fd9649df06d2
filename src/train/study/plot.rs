//! The plots of a study: dots on a plane, with bars for what is known of their mean.

use crate::train::Arm;
use crate::train::report::colour;
use plotters::prelude::*;
use std::ops::Range;

/// Something at a place.
pub enum Mark {
    /// One run, or one seed.
    Dot(Arm, f64, f64),
    /// A mean, between its bounds where there are some.
    Mean(Arm, f64, [f64; 3]),
    /// What is written beside a place.
    Name(String, f64, f64),
    /// A line from one place to another.
    Line([(f64, f64); 2]),
}

/// A plane with marks.
pub struct Plot<'a> {
    /// What goes from left to right, and from bottom to top.
    pub names: [&'a str; 2],
    /// Names of the places 0, 1, 2, … from left to right, if they have names.
    pub columns: &'a [String],
    /// In any order.
    pub marks: Vec<Mark>,
}

const SIZE: (u32, u32) = (760, 420);
const GREY: RGBColor = RGBColor(0x70, 0x70, 0x70);

/// A plot that could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a plot of the study cannot be drawn: {0}")]
pub struct PlotError(String);

impl Plot<'_> {
    /// As the text of an SVG file.
    ///
    /// # Errors
    /// Whatever the library says. What is not finite is left out.
    pub fn svg(&self) -> Result<String, PlotError> {
        let error = |e: &dyn std::fmt::Display| PlotError(e.to_string());
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| error(&e))?;
        let places: Vec<(f64, f64)> = self.marks.iter().flat_map(Mark::places).collect();
        let x = match self.columns.len() {
            0 => around(places.iter().map(|p| p.0)),
            n => -0.5..n as f64 - 0.5,
        };
        let y = around(places.iter().map(|p| p.1));
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(x, y)
            .map_err(|e| error(&e))?;
        let column = |x: &f64| {
            let whole = (x.round() - x).abs() < 1e-6 && *x > -0.5;
            let name = self.columns.get(x.round() as usize).filter(|_| whole);
            name.cloned().unwrap_or_default()
        };
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .label_style(("sans-serif", 14))
            .x_desc(self.names[0])
            .y_desc(self.names[1]);
        if !self.columns.is_empty() {
            mesh.disable_x_mesh()
                .x_labels(2 * self.columns.len() + 1)
                .x_label_formatter(&column);
        }
        mesh.draw().map_err(|e| error(&e))?;
        for mark in self.marks.iter().filter(|m| m.drawable()) {
            let drawn = match mark {
                Mark::Dot(arm, x, y) => {
                    let style = colour(*arm).mix(0.55).filled();
                    chart
                        .draw_series([Circle::new((*x, *y), 4, style)])
                        .map(drop)
                }
                Mark::Mean(arm, x, [low, mean, high]) => {
                    let style = colour(*arm).stroke_width(2);
                    let bar = PathElement::new([(*x, *low), (*x, *high)], style);
                    let dot = Circle::new((*x, *mean), 6, colour(*arm).filled());
                    let drawn = chart.draw_series([bar]).map(drop);
                    drawn.and_then(|()| chart.draw_series([dot]).map(drop))
                }
                Mark::Name(name, x, y) => {
                    let style = ("sans-serif", 14).into_font().color(&GREY);
                    let text = EmptyElement::at((*x, *y)) + Text::new(name.clone(), (9, -7), style);
                    chart.draw_series([text]).map(drop)
                }
                Mark::Line(ends) => {
                    let line = PathElement::new(ends.to_vec(), GREY.stroke_width(1));
                    chart.draw_series([line]).map(drop)
                }
            };
            drawn.map_err(|e| error(&e))?;
        }
        root.present().map_err(|e| error(&e))?;
        drop(chart);
        drop(root);
        Ok(svg)
    }
}

impl Mark {
    /// The places that must be on the plane.
    fn places(&self) -> Vec<(f64, f64)> {
        match self {
            Mark::Dot(_, x, y) | Mark::Name(_, x, y) => vec![(*x, *y)],
            Mark::Mean(_, x, ys) => ys.iter().map(|y| (*x, *y)).collect(),
            Mark::Line(ends) => ends.to_vec(),
        }
    }

    fn drawable(&self) -> bool {
        let mut places = self.places().into_iter();
        places.all(|(x, y)| x.abs() < 1e9 && y.abs() < 1e9)
    }
}

/// All of them with some room on both sides.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|v| v.abs() < 1e9);
    let ends = |(low, high): (f64, f64), v: f64| (low.min(v), high.max(v));
    let (low, high) = finite.fold((f64::MAX, f64::MIN), ends);
    if low > high {
        return 0.0..1.0;
    }
    let room = (0.08 * (high - low)).max(1e-3 * low.abs().max(high.abs()).max(1e-3));
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_known_is_drawn_and_nothing_else() {
        let columns = ["full".to_string(), "uniform".to_string()];
        let plot = |marks| Plot {
            names: ["against", "points"],
            columns: &columns,
            marks,
        };
        let empty = plot(vec![]).svg().unwrap();
        assert!(empty.contains("points") && !empty.contains("<circle"));
        let some = plot(vec![
            Mark::Dot(Arm::Full, 0.0, 1.0),
            Mark::Dot(Arm::Full, 0.0, f64::NAN),
            Mark::Mean(Arm::Memory, 1.0, [f64::NEG_INFINITY, 0.0, f64::INFINITY]),
            Mark::Mean(Arm::Memory, 1.0, [-1.0, 0.0, 1.0]),
            Mark::Name("bed <a>".into(), 0.0, 0.0),
            Mark::Line([(0.0, 0.0), (1.0, 0.0)]),
        ]);
        let svg = some.svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains("full") && svg.contains("uniform") && svg.contains("bed &lt;a&gt;"));
        assert_eq!(svg, some.svg().unwrap());
        let one = plot(vec![Mark::Dot(Arm::Full, 0.0, 5.0)]).svg().unwrap();
        assert!(one.contains("<circle"));
    }
}
