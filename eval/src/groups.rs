//! Shares by group and the worst of them, as WILDS computes them and DataComp's evaluator calls it.
//!
//! Source: mlfoundations/datacomp `eval_utils/{wilds_eval,fairness_eval}.py` and wilds 2.0.0. Two
//! things differ from how those read: groups that do not occur are not listed (there they are NaN),
//! and FMoW's region "Other" **is** among the regions, because their evaluator has no names for the
//! numbers and its test for the name "Other" never holds. That region has 4 of 22,108 pictures, so
//! `acc_worst_region_of_20` is given beside it: the worst region of at least 20 pictures.

use std::collections::BTreeMap;

use crate::measure::{Measure, share, share_by, worst};
use crate::suite::Rules;

/// Smallest group whose share says something: the standard error at 0.5 is then 0.11.
const FEWEST: u64 = 20;
/// Groups that are listed one by one; a field of more values is no group.
const LISTED: usize = 1000;

/// The measures of `rules.groups`. `metadata[i]` are the numbers of picture `i`; `top1` and `top5`
/// make tests of whether picture `i` is right.
pub(crate) fn measures<'a, A, B>(
    rules: &'a Rules,
    metadata: &'a [Vec<i64>],
    top1: &dyn Fn() -> A,
    top5: &dyn Fn() -> B,
) -> Vec<Measure<'a>>
where
    A: Fn(usize) -> bool + Send + Sync + 'a,
    B: Fn(usize) -> bool + Send + Sync + 'a,
{
    let mut measures: Vec<Measure<'a>> = Vec::new();
    for rule in &rules.groups {
        if rule.of == "acc_top5" {
            of_rule(rule, rules, metadata, top5, &mut measures);
        } else {
            of_rule(rule, rules, metadata, top1, &mut measures);
        }
    }
    measures
}

fn of_rule<'a, H>(
    rule: &'a crate::suite::GroupRule,
    rules: &'a Rules,
    metadata: &'a [Vec<i64>],
    hit: &dyn Fn() -> H,
    measures: &mut Vec<Measure<'a>>,
) where
    H: Fn(usize) -> bool + Send + Sync + 'a,
{
    let field = rules.metadata.iter().position(|name| *name == rule.by).unwrap_or(usize::MAX);
    let group = move |i: usize| metadata[i].get(field).copied().unwrap_or_default();
    let (by, of) = (&rule.by, &rule.of);
    let average = format!("{of}_avg");
    if !measures.iter().any(|m| m.name == average) {
        let hit = hit();
        measures.push(Measure::new(average, move |w| share(w, &hit)));
    }
    let mut sizes: BTreeMap<i64, u64> = BTreeMap::new();
    (0..metadata.len()).for_each(|i| *sizes.entry(group(i)).or_default() += 1);
    for (&value, &size) in sizes.iter().take(LISTED) {
        let hit = hit();
        let one = move |w: &[u32]| share_by(w, group, &hit).remove(&value);
        measures.push(Measure::new(format!("{of}_{by}:{value}"), one).detail());
        let count = move |_: &[u32]| Some(size as f64);
        measures.push(Measure::new(format!("count_{by}:{value}"), count).detail());
    }
    let test = hit();
    measures.push(Measure::new(rule.worst.clone(), move |w| worst(&share_by(w, group, &test))));
    if sizes.values().any(|size| *size < FEWEST) {
        let test = hit();
        let large = move |w: &[u32]| {
            let mut shares = share_by(w, group, &test);
            shares.retain(|value, _| sizes.get(value).is_some_and(|size| *size >= FEWEST));
            worst(&shares)
        };
        measures.push(Measure::new(format!("{}_of_{FEWEST}", rule.worst), large));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::GroupRule;

    fn values(metadata: &[Vec<i64>], right: &[bool]) -> Vec<(String, Option<f64>)> {
        let rules = Rules {
            metadata: vec!["region".into(), "year".into()],
            groups: vec![GroupRule {
                of: "acc".into(),
                by: "region".into(),
                worst: "acc_worst_region".into(),
            }],
            ..Rules::default()
        };
        let hit = || |i: usize| right[i];
        let ones = vec![1; right.len()];
        let measures = measures(&rules, metadata, &hit, &hit);
        measures.iter().map(|m| (m.name.clone(), m.value(&ones))).collect()
    }

    #[test]
    fn groups_are_listed_with_their_sizes_and_the_worst_counts() {
        let metadata = [vec![0, 5], vec![0, 6], vec![2, 5], vec![2, 5]];
        let got = values(&metadata, &[true, true, true, false]);
        let expected: [(&str, f64); 7] = [
            ("acc_avg", 0.75),
            ("acc_region:0", 1.0),
            ("count_region:0", 2.0),
            ("acc_region:2", 0.5),
            ("count_region:2", 2.0),
            ("acc_worst_region", 0.5),
            ("acc_worst_region_of_20", f64::NAN),
        ];
        for ((name, value), (expected_name, expected)) in got.iter().zip(expected) {
            assert_eq!(name, expected_name);
            assert_eq!(*value, (!expected.is_nan()).then_some(expected));
        }
        assert_eq!(got.len(), 7);
    }

    #[test]
    fn a_region_of_four_pictures_decides_the_worst_and_not_the_worst_of_20() {
        let metadata: Vec<Vec<i64>> = (0..44).map(|i| vec![i64::from(i >= 40) * 5, 0]).collect();
        let right: Vec<bool> = (0..44).map(|i| i < 30).collect();
        let got = values(&metadata, &right);
        let of = |name: &str| got.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(of("acc_worst_region"), Some(0.0));
        assert_eq!(of("acc_worst_region_of_20"), Some(0.75));
    }
}
