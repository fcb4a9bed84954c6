//! Dots with intervals: one row a task, one dot a series.

use std::fmt::Write;

use crate::chart::escape;
use crate::scale::{Scale, label};

const WIDTH: f64 = 760.0;
/// Room for the names of the rows.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 30.0;
/// Height of one dot, and the gap after each row.
const DOT: f64 = 11.0;
const GAP: f64 = 9.0;
/// Colours that the page knows.
const COLOURS: usize = 5;

/// One row.
#[derive(Debug, Clone, Default)]
pub struct DotRow {
    /// Its name.
    pub name: String,
    /// A value that is marked across the row: what guessing gives, or zero.
    pub mark: Option<f64>,
    /// Of each series the value with its interval.
    pub dots: Vec<Option<Dot>>,
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dot {
    /// The value.
    pub value: f64,
    /// Low and high.
    pub interval: Option<[f64; 2]>,
}

/// Draws rows of dots over a common axis; colours by the order of the series.
#[must_use]
pub fn dots(x_label: &str, series: &[&str], rows: &[DotRow]) -> String {
    let ends = |dot: &Dot| {
        dot.interval.map_or([dot.value; 2], |[l, h]| [l.min(dot.value), h.max(dot.value)])
    };
    let all = rows.iter().flat_map(|row| {
        row.dots.iter().flatten().flat_map(ends).chain(row.mark).collect::<Vec<f64>>()
    });
    let finite = all.filter(|v| v.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let row_height = DOT * series.len().max(1) as f64 + GAP;
    let height = TOP + BOTTOM + row_height * rows.len().max(1) as f64;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{}">"#,
        escape(x_label)
    );
    if !low.is_finite() {
        let _ = write!(svg, r#"<text x="{LEFT}" y="{:.0}">no value</text></svg>"#, height / 2.0);
        return svg;
    }
    let x = Scale::new(low, high, LEFT, WIDTH - RIGHT);
    let floor = height - BOTTOM;
    for tick in x.ticks(7) {
        let at = x.at(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{floor:.1}"/><text class="x" x="{at:.1}" y="{:.1}">{}</text>"#,
            floor + 14.0,
            label(tick)
        );
    }
    let middle = f64::midpoint(x.from, x.to);
    let _ = write!(
        svg,
        r#"<text class="x" x="{middle:.1}" y="{:.1}">{}</text>"#,
        height - 3.0,
        escape(x_label)
    );
    for (number, row) in rows.iter().enumerate() {
        let top = TOP + GAP / 2.0 + row_height * number as f64;
        let inner = row_height - GAP;
        let _ = write!(
            svg,
            r#"<text class="y" x="{:.1}" y="{:.1}">{}</text>"#,
            LEFT - 10.0,
            top + inner / 2.0 + 4.0,
            escape(&row.name)
        );
        if let Some(mark) = row.mark.filter(|m| m.is_finite()) {
            let at = x.at(mark);
            let _ = write!(
                svg,
                r#"<line class="cut" x1="{at:.1}" x2="{at:.1}" y1="{top:.1}" y2="{:.1}"/>"#,
                top + inner
            );
        }
        for (one, dot) in row.dots.iter().enumerate() {
            let Some(dot) = dot.filter(|d| d.value.is_finite()) else { continue };
            let (colour, y) = (one % COLOURS, top + DOT * (one as f64 + 0.5));
            if let Some([from, to]) = dot.interval.filter(|i| i.iter().all(|v| v.is_finite())) {
                let _ = write!(
                    svg,
                    r#"<line class="s{colour}" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
                    x.at(from),
                    x.at(to)
                );
            }
            let _ = write!(
                svg,
                r#"<circle class="s{colour}" cx="{:.1}" cy="{y:.1}" r="3.4"/>"#,
                x.at(dot.value)
            );
        }
    }
    let mut at = LEFT;
    for (one, name) in series.iter().enumerate().filter(|_| series.len() > 1) {
        let _ = write!(
            svg,
            r#"<circle class="s{}" cx="{:.1}" cy="11" r="4"/><text x="{:.1}" y="15">{}</text>"#,
            one % COLOURS,
            at + 4.0,
            at + 13.0,
            escape(name)
        );
        at += 28.0 + name.chars().count() as f64 * 6.6;
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: f64, interval: Option<[f64; 2]>) -> DotRow {
        DotRow {
            name: name.into(),
            mark: Some(0.0),
            dots: vec![Some(Dot { value, interval }), None],
        }
    }

    #[test]
    fn a_dot_lies_in_its_interval_on_the_common_axis() {
        let svg = dots("acc1", &["a", "b"], &[row("MNIST", 0.5, Some([0.25, 1.0]))]);
        let half = f64::midpoint(LEFT, WIDTH - RIGHT);
        assert!(svg.contains(&format!(r#"<circle class="s0" cx="{half:.1}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"x2="{:.1}""#, WIDTH - RIGHT)));
        // One dot and two keys: the second series has no value.
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn values_that_are_no_numbers_are_not_drawn() {
        let svg = dots("acc1", &["a"], &[row("x", f64::NAN, None)]);
        assert!(!svg.contains("NaN"), "{svg}");
        assert!(dots("acc1", &["a"], &[]).contains("no value"));
    }

    #[test]
    fn names_are_escaped() {
        assert!(dots("acc1", &["a"], &[row("<b>", 0.5, None)]).contains("&lt;b&gt;"));
    }
}
