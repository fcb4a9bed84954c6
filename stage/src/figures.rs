//! Figures of a running stage that change all the time, for whoever looks at a run.
//!
//! Nothing of them enters an output.

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What is measured, with its unit: `clipmill_fetch_downloaded_bytes_total`. Prometheus's rules
    /// hold: `[a-z_]+`, base units, `_total` at the end of what only grows.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// Which of several: `step` and `decode`. Keys are `[a-z_]+`, values any text.
    pub labels: Vec<(&'static str, String)>,
    /// The value now.
    pub value: f64,
}

impl Figure {
    /// A figure without labels.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, labels: Vec::new(), value }
    }

    /// The same with one label more.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((key, value.into()));
        self
    }
}

/// Something that knows figures of a running stage; asked from another thread at any time, and
/// after the stage's end too.
pub trait Figures: Send + Sync {
    /// What stands in the progress line: rates of the last seconds, and what holds things up.
    fn line(&self) -> String;

    /// Every figure. Those of one name stand together and have the same keys in the same order.
    fn figures(&self) -> Vec<Figure>;
}
