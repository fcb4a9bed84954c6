//! Shares of a whole.

use std::f64::consts::TAU;
use std::fmt::Write;

use crate::chart::{HEIGHT, empty, escape, open};

/// Slices with a colour of their own; the last one takes all that is left.
const SLICES: usize = 5;

/// Draws shares, the greatest first; beyond four the rest is one slice. Each is named with its
/// count and its share.
#[must_use]
pub fn pie(label: &str, counts: &[(String, u64)]) -> String {
    let mut sorted: Vec<(String, u64)> = counts.iter().filter(|c| c.1 > 0).cloned().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: u64 = sorted.iter().map(|c| c.1).sum();
    if total == 0 {
        return empty("nothing to share");
    }
    if sorted.len() > SLICES {
        let rest = sorted.split_off(SLICES - 1);
        let count = rest.iter().map(|c| c.1).sum();
        sorted.push((format!("{} others", rest.len()), count));
    }
    let (x, y, radius) = (HEIGHT / 2.0, HEIGHT / 2.0, HEIGHT / 2.0 - 12.0);
    let mut svg = open(label);
    let mut from = 0.0_f64;
    for (number, (name, count)) in sorted.iter().enumerate() {
        let share = *count as f64 / total as f64;
        let to = from + share * TAU;
        let at = |angle: f64| (x + radius * angle.sin(), y - radius * angle.cos());
        if share > 0.999_999 {
            let _ = write!(svg, r#"<circle class="s{number}" cx="{x}" cy="{y}" r="{radius}"/>"#);
        } else {
            let ((ax, ay), (bx, by)) = (at(from), at(to));
            let large = u8::from(share > 0.5);
            let _ = write!(
                svg,
                r#"<path class="s{number}" d="M{x} {y}L{ax:.2} {ay:.2}A{radius} {radius} 0 {large} 1 {bx:.2} {by:.2}Z"/>"#
            );
        }
        let line = 40.0 + 24.0 * number as f64;
        let _ = write!(
            svg,
            r#"<rect class="s{number} key" x="{:.1}" y="{:.1}" width="10" height="10"/><text x="{:.1}" y="{line:.1}">{} · {count} · {:.1} %</text>"#,
            HEIGHT + 12.0,
            line - 9.0,
            HEIGHT + 28.0,
            escape(name),
            share * 100.0
        );
        from = to;
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_come_first_and_the_rest_is_one() {
        let counts: Vec<(String, u64)> = (1..=7).map(|i| (format!("l{i}"), i)).collect();
        let svg = pie("languages", &counts);
        assert!(svg.contains("l7 · 7 · 25.0 %"), "{svg}");
        assert!(svg.contains("3 others · 6 · 21.4 %"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 5);
    }

    #[test]
    fn one_share_is_the_whole_circle() {
        let svg = pie("languages", &[("<en>".to_owned(), 3), ("de".to_owned(), 0)]);
        assert!(svg.contains("<circle") && svg.contains("&lt;en&gt; · 3 · 100.0 %"), "{svg}");
        assert!(pie("languages", &[]).contains("nothing to share"));
    }
}
