//! The counts equation as one bar: what was kept, what was turned away, what broke.

use stage::Counts;

/// One stage's counts.
#[derive(Debug, Clone)]
pub struct CountsBar {
    /// Samples in.
    pub entered: u64,
    /// The parts, in order: kept, each reason of a drop, each reason of a failure.
    pub parts: Vec<Part>,
}

/// A part of the bar.
#[derive(Debug, Clone)]
pub struct Part {
    /// `kept`, `dropped` or `failed`: its colour.
    pub class: &'static str,
    /// `kept` or the reason.
    pub word: String,
    /// Samples.
    pub count: u64,
    /// Percent of the samples in.
    pub percent: String,
}

impl CountsBar {
    /// The bar of these counts.
    #[must_use]
    pub fn new(counts: &Counts) -> Self {
        let part = |class: &'static str, word: &str, count: u64| Part {
            class,
            word: word.to_owned(),
            count,
            percent: format!("{:.2}", 100.0 * count as f64 / counts.entered.max(1) as f64),
        };
        let mut parts = vec![part("kept", "kept", counts.kept)];
        parts.extend(counts.dropped.iter().map(|(reason, n)| part("dropped", reason, *n)));
        parts.extend(counts.failed.iter().map(|(reason, n)| part("failed", reason, *n)));
        Self { entered: counts.entered, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_bar_add_up_to_a_hundred() {
        let mut counts = Counts::default();
        counts.keep();
        counts.drop("small");
        counts.fail("http_404");
        counts.fail("http_404");
        let bar = CountsBar::new(&counts);
        let words: Vec<_> =
            bar.parts.iter().map(|p| (p.class, p.word.as_str(), p.percent.as_str())).collect();
        assert_eq!(
            words,
            [
                ("kept", "kept", "25.00"),
                ("dropped", "small", "25.00"),
                ("failed", "http_404", "50.00")
            ]
        );
    }
}
