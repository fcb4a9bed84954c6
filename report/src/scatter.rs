//! Points in the plane, coloured by group.

use std::fmt::Write;

use crate::chart::{HEIGHT, WIDTH, empty, legend, open};

/// Room between the outermost points and the edge.
const EDGE: f64 = 10.0;

/// Draws points of several groups over one another, the first group below. Both axes have the same
/// scale and no ticks: what counts is what lies near what.
#[must_use]
pub fn scatter(label: &str, groups: &[(String, Vec<(f64, f64)>)]) -> String {
    let finite = |points: &[(f64, f64)]| {
        let all = points.iter().copied();
        all.filter(|(x, y)| x.is_finite() && y.is_finite()).collect::<Vec<_>>()
    };
    let groups: Vec<(&str, Vec<(f64, f64)>)> =
        groups.iter().map(|(name, points)| (name.as_str(), finite(points))).collect();
    let all = || groups.iter().flat_map(|(_, points)| points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let (left, right) = range(&mut all().map(|p| p.0));
    let (low, high) = range(&mut all().map(|p| p.1));
    if !left.is_finite() {
        return empty("no point");
    }
    let wide = (right - left).max(f64::MIN_POSITIVE) / (WIDTH - 2.0 * EDGE);
    let tall = (high - low).max(f64::MIN_POSITIVE) / (HEIGHT - 2.0 * EDGE);
    let unit = wide.max(tall);
    let (middle, height) = (f64::midpoint(left, right), f64::midpoint(low, high));
    let mut svg = open(label);
    for (number, (_, points)) in groups.iter().enumerate() {
        for (x, y) in points {
            let x = WIDTH / 2.0 + (x - middle) / unit;
            let y = HEIGHT / 2.0 - (y - height) / unit;
            let _ = write!(
                svg,
                r#"<circle class="s{number}" cx="{x:.1}" cy="{y:.1}" r="1.8" fill-opacity=".55"/>"#
            );
        }
    }
    legend(&mut svg, groups.iter().map(|(name, _)| *name));
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_points_touch_the_edge_and_the_scale_is_one() {
        let svg =
            scatter("map", &[("a".to_owned(), vec![(0.0, 0.0), (1.0, 0.0), (f64::NAN, 1.0)])]);
        assert!(svg.contains(r#"cx="10.0" cy="120.0""#), "{svg}");
        assert!(svg.contains(r#"cx="470.0" cy="120.0""#), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(scatter("map", &[]).contains("no point"));
    }
}
