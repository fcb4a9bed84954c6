//! Histograms and lines as SVG, drawn from the numbers and nothing else.

use std::fmt::Write;

use crate::scale::{Scale, label};

pub(crate) const WIDTH: f64 = 480.0;
pub(crate) const HEIGHT: f64 = 240.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// Values of one or more groups over the same bins.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// What is counted, under the axis.
    pub label: String,
    /// Groups: name and values; non-finite values are left out. Colours by order.
    pub groups: Vec<(String, Vec<f32>)>,
    /// Where the threshold is drawn.
    pub threshold: Option<f64>,
    /// Number of bins, at least 1.
    pub bins: usize,
}

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y), ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// Draws a histogram; groups lie over each other, half transparent.
#[must_use]
pub fn histogram(histogram: &Histogram) -> String {
    let finite = |values: &[f32]| {
        values.iter().copied().filter(|v| v.is_finite()).map(f64::from).collect::<Vec<_>>()
    };
    let groups: Vec<Vec<f64>> = histogram.groups.iter().map(|(_, values)| finite(values)).collect();
    let all = || groups.iter().flatten().copied().chain(histogram.threshold);
    let (low, high) =
        all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !low.is_finite() {
        return empty("no value");
    }
    let bins = histogram.bins.max(1);
    let x = Scale::new(low, high, LEFT, WIDTH - RIGHT);
    let counts: Vec<Vec<u64>> = groups.iter().map(|values| count(values, &x, bins)).collect();
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let y = Scale::new(0.0, most as f64, HEIGHT - BOTTOM, TOP);
    let mut svg = open(&histogram.label);
    axes(&mut svg, &x, &y, &histogram.label);
    for (group, counts) in counts.iter().enumerate() {
        for (bin, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let width = (x.to - x.from) / bins as f64;
            let top = y.at(count as f64);
            let _ = write!(
                svg,
                r#"<rect class="s{group}" x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
                x.from + bin as f64 * width,
                (width - 1.0).max(0.5),
                HEIGHT - BOTTOM - top
            );
        }
    }
    if let Some(threshold) = histogram.threshold {
        let at = x.at(threshold);
        let _ = write!(
            svg,
            r#"<line class="cut" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/><text class="cut" x="{:.1}" y="{:.1}">{}</text>"#,
            HEIGHT - BOTTOM,
            at + 4.0,
            TOP + 10.0,
            label(threshold)
        );
    }
    legend(&mut svg, histogram.groups.iter().map(|(name, _)| name.as_str()));
    svg.push_str("</svg>");
    svg
}

fn count(values: &[f64], x: &Scale, bins: usize) -> Vec<u64> {
    let mut counts = vec![0; bins];
    for value in values {
        let share = (value - x.low) / (x.high - x.low);
        counts[((share * bins as f64) as usize).min(bins - 1)] += 1;
    }
    counts
}

/// Draws lines over a common axis.
#[must_use]
pub fn lines(x_label: &str, y_label: &str, series: &[Series]) -> String {
    let points =
        || series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let (x_low, x_high) = bounds(&mut points().map(|p| p.0));
    let (y_low, y_high) = bounds(&mut points().map(|p| p.1));
    if !x_low.is_finite() {
        return empty("no point");
    }
    let x = Scale::new(x_low, x_high, LEFT, WIDTH - RIGHT);
    let y = Scale::new(y_low, y_high, HEIGHT - BOTTOM, TOP);
    let mut svg = open(&format!("{y_label} over {x_label}"));
    axes(&mut svg, &x, &y, x_label);
    for (number, one) in series.iter().enumerate() {
        let path: Vec<String> = one
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|(px, py)| format!("{:.1},{:.1}", x.at(*px), y.at(*py)))
            .collect();
        let _ = write!(svg, r#"<polyline class="s{number}" points="{}"/>"#, path.join(" "));
    }
    legend(&mut svg, series.iter().map(|s| s.name.as_str()));
    svg.push_str("</svg>");
    svg
}

pub(crate) fn open(title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(title))
}

pub(crate) fn empty(text: &str) -> String {
    format!(r#"{}<text x="{LEFT}" y="{}">{text}</text></svg>"#, open(text), HEIGHT / 2.0)
}

fn axes(svg: &mut String, x: &Scale, y: &Scale, x_label: &str) {
    let floor = HEIGHT - BOTTOM;
    for tick in y.ticks(4) {
        let at = y.at(tick);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text class="y" x="{:.1}" y="{:.1}">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            label(tick)
        );
    }
    for tick in x.ticks(6) {
        let at = x.at(tick);
        let _ = write!(
            svg,
            r#"<text class="x" x="{at:.1}" y="{:.1}">{}</text>"#,
            floor + 15.0,
            label(tick)
        );
    }
    let _ = write!(
        svg,
        r#"<text class="x" x="{:.1}" y="{:.1}">{}</text>"#,
        f64::midpoint(x.from, x.to),
        HEIGHT - 4.0,
        escape(x_label)
    );
}

pub(crate) fn legend<'a>(svg: &mut String, names: impl Iterator<Item = &'a str>) {
    let names: Vec<&str> = names.collect();
    if names.len() < 2 {
        return;
    }
    let widest = names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as f64 * 6.6 + 20.0;
    for (number, name) in names.iter().enumerate() {
        let (x, y) = (WIDTH - RIGHT - widest, TOP + 6.0 + 16.0 * number as f64);
        let _ = write!(
            svg,
            r#"<rect class="s{number} key" x="{x:.1}" y="{:.1}" width="10" height="10"/><text x="{:.1}" y="{:.1}">{}</text>"#,
            y - 5.0,
            x + 15.0,
            y + 4.0,
            escape(name)
        );
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_value_is_in_a_bin() {
        let x = Scale::new(0.0, 1.0, 0.0, 1.0);
        assert_eq!(count(&[0.0, 0.49, 0.5, 1.0], &x, 2), [2, 2]);
    }

    #[test]
    fn the_threshold_is_drawn_where_it_lies() {
        let svg = histogram(&Histogram {
            label: "score".into(),
            groups: vec![("all".into(), vec![0.0, 1.0, f32::NAN])],
            threshold: Some(0.5),
            bins: 4,
        });
        let middle = format!("{:.1}", f64::midpoint(LEFT, WIDTH - RIGHT));
        assert!(svg.contains(&format!(r#"class="cut" x1="{middle}""#)), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn no_value_is_said_and_nothing_is_drawn() {
        assert!(histogram(&Histogram::default()).contains("no value"));
        assert!(lines("x", "y", &[]).contains("no point"));
    }

    #[test]
    fn names_are_escaped() {
        let series = [Series { name: "<a>".into(), points: vec![(0.0, 1.0)] }, Series::default()];
        assert!(lines("x", "y", &series).contains("&lt;a&gt;"));
    }
}
