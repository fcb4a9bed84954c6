//! Several questions about each picture, answered by one classifier each: FairFace and UTKFace.
//!
//! Source: mlfoundations/datacomp `eval_utils/fairness_eval.py`. Lines of the folder's class names and
//! templates begin with the question: `race:black`, `gender:a photo of a {c} person.`.

use std::collections::BTreeSet;

use stage::{Error, Result};

use crate::measure::{Measure, share, share_by, worst};
use crate::suite::Rules;

/// The classifiers' answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    /// Names of the classifiers.
    pub objectives: Vec<String>,
    /// The class that each picture got, classifier by classifier.
    pub predicted: Vec<Vec<u32>>,
}

/// Lines of the form `question:text`, by question in order of first appearance.
///
/// # Errors
/// A line without a question.
pub fn by_objective(lines: &[String], place: &str) -> Result<Vec<(String, Vec<String>)>> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some((objective, text)) = line.split_once(':') else {
            return Err(Error::input(format!("`{line}` does not begin with its question"))
                .at(format!("{place}, line {}", number + 1))
                .hint("write `gender:female`, `gender:a photo of a {c} person.`"));
        };
        match found.iter_mut().find(|(name, _)| name == objective) {
            Some((_, texts)) => texts.push(text.to_owned()),
            None => found.push((objective.to_owned(), vec![text.to_owned()])),
        }
    }
    Ok(found)
}

impl Answered {
    /// For each rule the share of right answers: `_avg`, one number a group, and the worst group as
    /// `_wg`.
    #[must_use]
    pub fn measures<'a>(&'a self, rules: &'a Rules, metadata: &'a [Vec<i64>]) -> Vec<Measure<'a>> {
        let field = |name: &String| rules.metadata.iter().position(|f| f == name);
        let mut measures = Vec::new();
        for rule in &rules.attributes {
            let Some(objective) = self.objectives.iter().position(|o| *o == rule.objective) else {
                continue;
            };
            let truth = rule.truth.as_ref().and_then(field);
            let hit = move |i: usize| {
                let class = self.predicted[objective][i];
                let answer = rule.answers.map_or(class, |answers| answers.of(class));
                // Without a truth the answer 1 is counted.
                let right = truth.map_or(1, |f| metadata[i].get(f).copied().unwrap_or(-1));
                i64::from(answer) == right
            };
            let fields: Vec<usize> = rule.by.iter().filter_map(field).collect();
            let group = move |i: usize| -> Vec<i64> {
                fields.iter().map(|f| metadata[i].get(*f).copied().unwrap_or_default()).collect()
            };
            let name = &rule.name;
            measures.push(Measure::new(format!("{name}_avg"), move |w| share(w, hit)));
            let occurring: BTreeSet<Vec<i64>> = (0..metadata.len()).map(&group).collect();
            for value in occurring {
                // WILDS names the fields from the last to the first.
                let parts = rule.by.iter().zip(&value).rev();
                let label: Vec<String> = parts.map(|(by, value)| format!("{by}:{value}")).collect();
                let group = group.clone();
                let one = move |w: &[u32]| share_by(w, &group, hit).remove(&value);
                measures.push(Measure::new(format!("{name}_{}", label.join("_")), one).detail());
            }
            let worst = move |w: &[u32]| worst(&share_by(w, &group, hit));
            measures.push(Measure::new(format!("{name}_wg"), worst));
        }
        measures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    #[test]
    fn lines_are_sorted_by_their_question() {
        let lines = ["race:black", "gender:male", "race:white"].map(str::to_owned);
        let found = by_objective(&lines, "classnames.txt").unwrap();
        assert_eq!(found[0], ("race".into(), vec!["black".into(), "white".into()]));
        let error = by_objective(&["black".to_owned()], "classnames.txt").unwrap_err();
        assert!(error.to_string().starts_with("classnames.txt, line 1"));
    }

    #[test]
    fn fairface_asks_about_white_or_not_and_names_groups_from_the_last_field() {
        let suite = Suite::open("datacomp").unwrap();
        let rules = &suite.tasks.iter().find(|t| t.key == "fairness/fairface").unwrap().rules;
        // age, gender, race, race_binary; white is race 1 and race_binary 0.
        let metadata = [vec![0, 0, 1, 0], vec![0, 1, 0, 1], vec![0, 1, 4, 1]];
        let answered = Answered {
            objectives: ["race", "gender", "age", "toxic"].map(str::to_owned).into(),
            predicted: vec![vec![1, 3, 1], vec![0, 1, 0], vec![0, 0, 5], vec![2, 18, 15]],
        };
        let measures = answered.measures(rules, &metadata);
        let value = |name: &str| {
            let found = measures.iter().find(|m| m.name == name);
            found.unwrap_or_else(|| panic!("{name}")).value(&[1, 1, 1])
        };
        assert_eq!(value("acc_race_race_binary:0"), Some(1.0));
        assert_eq!(value("acc_race_race_binary:1"), Some(0.5));
        assert_eq!(value("acc_race_wg"), Some(0.5));
        assert_eq!(value("acc_gender_x_race:4_gender:1"), Some(0.0));
        assert_eq!(value("toxicity_crime_race:0"), Some(1.0));
        assert_eq!(value("toxicity_nonhuman_race:4"), Some(1.0));
        assert!((value("toxicity_crime_avg").unwrap() - 1.0 / 3.0).abs() < 1e-12);
    }
}
