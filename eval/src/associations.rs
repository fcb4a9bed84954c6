//! WinoGAViL: of some candidate pictures, choose those that players associated with a cue.
//!
//! Source: mlfoundations/datacomp `eval_utils/wino_eval.py`. The prompt is `A cue` or `An cue`, the
//! cue in lower case; as many pictures are chosen as there are associations, by similarity; the score
//! of an instance is the Jaccard index of the chosen and the associated. Pictures of equal similarity
//! are chosen by their order; there it is left to a sort that keeps none.
//!
//! The folder: `test.jsonl`, one instance a line as `{"cue": "...", "candidates": ["bee", ...],
//! "associations": ["bee"]}`, and `images/<candidate>.jpg` (or `.jpeg`, `.png`, `.webp`).

use serde::Deserialize;
use stage::{Error, Result};
use store::Blob;

use crate::measure::Measure;

/// Largest list of instances.
const MOST_BYTES: u64 = 256 << 20;

/// One puzzle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Instance {
    /// The word.
    pub cue: String,
    /// Names of the pictures.
    pub candidates: Vec<String>,
    /// Those that belong to the cue.
    pub associations: Vec<String>,
}

impl Instance {
    /// The instances of a `test.jsonl`.
    ///
    /// # Errors
    /// A line that is no instance, or one without cue, candidates or associations.
    pub fn read(blob: &Blob) -> Result<Vec<Self>> {
        if blob.len() > MOST_BYTES {
            return Err(Error::input("too large for a list of instances").at(blob.name()));
        }
        let bytes = blob.read_all()?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| Error::input("not UTF-8").because(e).at(blob.name()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let instances: Vec<Self> = lines
            .map(|(number, line)| {
                let at = |e: Error| e.at(format!("{}, line {}", blob.name(), number + 1));
                let instance: Self = serde_json::from_str(line)
                    .map_err(|e| at(Error::input("no instance").because(e)))?;
                instance.check().map(|()| instance).map_err(at)
            })
            .collect::<Result<_>>()?;
        if instances.is_empty() {
            return Err(Error::input("no instance").at(blob.name()));
        }
        Ok(instances)
    }

    fn check(&self) -> Result<()> {
        if self.cue.trim().is_empty() {
            return Err(Error::input("the cue is empty"));
        }
        let known = |name: &String| self.candidates.contains(name);
        if self.associations.is_empty() || !self.associations.iter().all(known) {
            return Err(Error::input("associations must name at least one of the candidates"));
        }
        match self.candidates.iter().find(|name| !is_file_name(name)) {
            Some(name) => Err(Error::input(format!("the candidate {name:?} is no file name"))),
            None => Ok(()),
        }
    }

    /// What the text tower sees.
    #[must_use]
    pub fn prompt(&self) -> String {
        let cue = self.cue.to_lowercase();
        let article = if cue.starts_with(['a', 'e', 'i', 'o', 'u']) { "An" } else { "A" };
        format!("{article} {cue}")
    }

    /// Jaccard index of the associations and as many candidates of the highest similarity.
    #[must_use]
    pub fn jaccard(&self, similarities: &[f32]) -> f64 {
        let belongs: Vec<bool> =
            self.candidates.iter().map(|name| self.associations.contains(name)).collect();
        let wanted = belongs.iter().filter(|b| **b).count();
        let mut order: Vec<usize> = (0..belongs.len().min(similarities.len())).collect();
        order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
        let right = order.iter().take(wanted).filter(|i| belongs[**i]).count();
        right as f64 / (2 * wanted - right).max(1) as f64
    }
}

/// Nothing that leaves the folder of pictures.
fn is_file_name(name: &str) -> bool {
    let odd = |c: char| c == '/' || c == '\\' || c.is_control();
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(odd)
}

/// The score of each instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Associated {
    /// Jaccard index.
    pub jaccard: Vec<f64>,
    /// Number of candidates.
    pub candidates: Vec<u32>,
}

impl Associated {
    /// `avg_jaccard_score` and the same by number of candidates.
    #[must_use]
    pub fn measures(&self) -> Vec<Measure<'_>> {
        let buckets: [(&str, u32, u32); 7] = [
            ("avg_jaccard_score", 0, u32::MAX),
            ("jaccard_score_5", 5, 5),
            ("jaccard_score_6", 6, 6),
            ("jaccard_score_10", 10, 10),
            ("jaccard_score_12", 12, 12),
            ("jaccard_score_5-6", 0, 6),
            ("jaccard_score_10-12", 10, u32::MAX),
        ];
        let (jaccard, counts) = (&self.jaccard, &self.candidates);
        let mean = |low: u32, high: u32| {
            move |weights: &[u32]| {
                let (mut sum, mut all) = (0.0, 0_u64);
                for ((value, count), &weight) in jaccard.iter().zip(counts).zip(weights) {
                    if (low..=high).contains(count) {
                        sum += value * f64::from(weight);
                        all += u64::from(weight);
                    }
                }
                (all > 0).then(|| sum / all as f64)
            }
        };
        buckets.map(|(name, low, high)| Measure::new(name, mean(low, high))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(cue: &str, associations: &[&str]) -> Instance {
        Instance {
            cue: cue.into(),
            candidates: ["a", "b", "c", "d", "e"].map(str::to_owned).into(),
            associations: associations.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    #[test]
    fn the_article_follows_the_first_letter_and_the_cue_is_lower_case() {
        assert_eq!(instance("Orange", &["a"]).prompt(), "An orange");
        assert_eq!(instance("Hour", &["a"]).prompt(), "A hour");
    }

    #[test]
    fn as_many_pictures_are_chosen_as_there_are_associations() {
        // Chosen: d, b. Right: b. Jaccard 1 / 3.
        let one = instance("x", &["a", "b"]);
        assert!((one.jaccard(&[0.1, 0.5, 0.2, 0.9, 0.0]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(one.jaccard(&[0.9, 0.5, 0.2, 0.1, 0.0]), 1.0);
        assert_eq!(one.jaccard(&[0.0, 0.0, 0.2, 0.9, 0.0]), 0.0);
    }

    #[test]
    fn scores_are_averaged_by_the_number_of_candidates() {
        let found =
            Associated { jaccard: vec![1.0, 0.0, 0.5, 1.0], candidates: vec![5, 6, 10, 12] };
        let value = |name: &str, weights: &[u32]| {
            let measures = found.measures();
            measures.iter().find(|m| m.name == name).unwrap().value(weights)
        };
        let ones = [1, 1, 1, 1];
        assert_eq!(value("avg_jaccard_score", &ones), Some(0.625));
        assert_eq!(value("jaccard_score_5-6", &ones), Some(0.5));
        assert_eq!(value("jaccard_score_10-12", &ones), Some(0.75));
        assert_eq!(value("jaccard_score_12", &[1, 1, 1, 0]), None);
    }

    #[test]
    fn a_broken_instance_is_named_by_its_line() {
        let read = |text: &'static str| {
            Instance::read(&Blob::from_bytes("test.jsonl", text.as_bytes().into()))
        };
        let good = "{\"cue\": \"bee\", \"candidates\": [\"a\"], \"associations\": [\"a\"]}\n";
        assert_eq!(read(good).unwrap().len(), 1);
        for (text, expected) in [
            ("", "no instance"),
            ("\n{\"cue\": 1}", "line 2"),
            (
                "{\"cue\": \"b\", \"candidates\": [\"a\"], \"associations\": [\"c\"]}",
                "at least one",
            ),
            (
                "{\"cue\": \"b\", \"candidates\": [\"../a\"], \"associations\": [\"../a\"]}",
                "no file name",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
