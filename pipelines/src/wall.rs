//! How long units took together, by the clock on the wall of each machine.

use std::collections::BTreeMap;

use serde_json::Value;
use store::Commit;

/// Fields of a unit's record: when it was begun, seconds since 1970, and how many seconds it took.
/// They are a record's alone: no published byte depends on a clock.
pub(crate) const BEGAN: &str = "began";
pub(crate) const SECONDS: &str = "seconds";
/// The share of the units, `0/2`, that the machine did which did this one; none where one does all.
pub(crate) const SHARE: &str = "share";

/// Seconds in which at least one of these units was being made, on each machine: those side by side
/// on one count once, pauses between two runs not at all, and what several machines (`--units`) did
/// at once is added, for each of them costs and takes its time. A record that does not say when it
/// began is added.
pub(crate) fn seconds<'a>(commits: impl Iterator<Item = &'a Commit>) -> f64 {
    let mut apart = 0.0;
    let mut machines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for commit in commits {
        let number = |name: &str| commit.info.get(name).and_then(Value::as_f64);
        let Some(took) = number(SECONDS).filter(|took| *took > 0.0) else { continue };
        let share = commit.info.get(SHARE).and_then(Value::as_str).unwrap_or_default();
        match number(BEGAN) {
            Some(began) => machines.entry(share).or_default().push((began, began + took)),
            None => apart += took,
        }
    }
    apart + machines.into_values().map(together).sum::<f64>()
}

/// How long at least one of these spans lasted.
fn together(mut spans: Vec<(f64, f64)>) -> f64 {
    spans.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::NEG_INFINITY);
    for (from, to) in spans {
        sum += (to - from.max(until)).max(0.0);
        until = until.max(to);
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stage::Counts;

    use super::*;

    fn unit(info: Value) -> Commit {
        Commit {
            unit: "0".into(),
            key: "k".into(),
            code: "1".into(),
            nonce: "n".into(),
            attempt: "0.n".into(),
            counts: Counts::default(),
            files: Vec::new(),
            info,
        }
    }

    #[test]
    fn units_side_by_side_count_once_and_pauses_not_at_all() {
        let units = [
            unit(json!({"began": 100.0, "seconds": 4.0})),
            unit(json!({"began": 102.0, "seconds": 3.0})),
            unit(json!({"began": 101.0, "seconds": 1.0})),
            unit(json!({"began": 200.0, "seconds": 2.0})),
        ];
        assert_eq!(seconds(units.iter()), 7.0);
    }

    #[test]
    fn what_two_machines_did_at_once_counts_for_each() {
        let unit = |share: &str, began: f64| {
            unit(json!({"began": began, "seconds": 100.0, "share": share}))
        };
        let units = [unit("0/2", 0.0), unit("0/2", 50.0), unit("1/2", 0.0), unit("1/2", 10.0)];
        assert_eq!(seconds(units.iter()), 150.0 + 110.0);
    }

    #[test]
    fn a_record_without_a_beginning_is_added() {
        let units = [unit(json!({"seconds": 2.5})), unit(json!({"seconds": 1.5})), unit(json!({}))];
        assert_eq!(seconds(units.iter()), 4.0);
    }
}
