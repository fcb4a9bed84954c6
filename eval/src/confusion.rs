//! Which classes are mistaken for which.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::classification::Classified;

/// One class of a classification.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassRow {
    /// Its number.
    pub class: usize,
    /// Its pictures.
    pub pictures: u64,
    /// Share of them that are right; none without pictures.
    pub recall: Option<f64>,
    /// Share of the answers that are right; none where it was never answered.
    pub precision: Option<f64>,
    /// Harmonic mean of the two.
    pub f1: Option<f64>,
    /// The class that most of its wrong pictures got, and how many.
    pub mistaken_for: Option<(usize, u64)>,
}

impl Classified {
    /// How many pictures of a class got an answer, by (class, answer), both in ascending order.
    #[must_use]
    pub fn confusion(&self) -> BTreeMap<(u32, u32), u64> {
        let mut counts = BTreeMap::new();
        for pair in self.labels.iter().copied().zip(self.predicted.iter().copied()) {
            *counts.entry(pair).or_default() += 1;
        }
        counts
    }

    /// One row a class.
    #[must_use]
    pub fn class_rows(&self, classes: usize) -> Vec<ClassRow> {
        let ones = vec![1; self.labels.len()];
        let mut mistakes: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        for ((class, answer), count) in self.confusion().into_iter().filter(|((c, a), _)| c != a) {
            let most = mistakes.entry(class as usize).or_insert((answer as usize, 0));
            if count > most.1 {
                *most = (answer as usize, count);
            }
        }
        let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
        let tallies = self.tallies(&ones, classes).into_iter().enumerate();
        tallies
            .map(|(class, t)| ClassRow {
                class,
                pictures: t.truth,
                recall: share(t.right, t.truth),
                precision: share(t.right, t.answers),
                f1: share(2 * t.right, t.truth + t.answers).filter(|_| t.truth > 0),
                mistaken_for: mistakes.get(&class).copied(),
            })
            .collect()
    }

    /// The table of classes as CSV, in their order.
    #[must_use]
    pub fn classes_csv(&self, names: &[String]) -> String {
        let mut csv = "class,name,pictures,recall,precision,f1,mistaken_for,times\n".to_owned();
        let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.6}"));
        let name = |class: usize| quoted(names.get(class).map_or("", String::as_str));
        for row in self.class_rows(names.len()) {
            let (other, times) = row
                .mistaken_for
                .map_or((String::new(), String::new()), |(c, n)| (name(c), n.to_string()));
            let _ = writeln!(
                csv,
                "{},{},{},{},{},{},{other},{times}",
                row.class,
                name(row.class),
                row.pictures,
                number(row.recall),
                number(row.precision),
                number(row.f1),
            );
        }
        csv
    }

    /// The confusion matrix as CSV, without its zeros.
    #[must_use]
    pub fn confusion_csv(&self, names: &[String]) -> String {
        let mut csv = "class,answer,pictures,class_name,answer_name\n".to_owned();
        let name = |class: u32| quoted(names.get(class as usize).map_or("", String::as_str));
        for ((class, answer), count) in self.confusion() {
            let _ = writeln!(csv, "{class},{answer},{count},{},{}", name(class), name(answer));
        }
        csv
    }
}

/// A cell that may hold commas, quotes and line breaks.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Classified {
        Classified {
            labels: vec![0, 0, 0, 1],
            predicted: vec![0, 1, 1, 1],
            ranks: vec![0, 1, 1, 0],
        }
    }

    #[test]
    fn a_row_says_what_a_class_is_mistaken_for() {
        let rows = found().class_rows(3);
        assert_eq!(rows[0].recall, Some(1.0 / 3.0));
        assert_eq!(rows[0].precision, Some(1.0));
        assert_eq!(rows[0].mistaken_for, Some((1, 2)));
        assert_eq!(rows[1].precision, Some(1.0 / 3.0));
        assert_eq!((rows[2].pictures, rows[2].recall, rows[2].f1), (0, None, None));
    }

    #[test]
    fn names_with_commas_are_quoted() {
        let names = ["crane, bird", "crane", "say \"x\""].map(str::to_owned);
        let csv = found().confusion_csv(&names);
        assert_eq!(csv.lines().nth(2), Some("0,1,2,\"crane, bird\",crane"));
        let classes = found().classes_csv(&names);
        assert_eq!(classes.lines().nth(3), Some("2,\"say \"\"x\"\"\",0,,,,,"));
        assert!(
            classes.lines().nth(1).unwrap().starts_with("0,\"crane, bird\",3,0.333333,1.000000,")
        );
    }
}
