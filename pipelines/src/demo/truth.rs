//! Joins the truth about the demo's links with what the run decided, after the run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use report::{Block, Number, Section, Table};
use serde_json::{Value, json};
use stage::{Error, Report, Result, ResultExt};
use store::subset;

use super::world::{Fault, Truth};
use crate::results::{Extra, Judged, scores};
use crate::stages::Done;

/// What the truth says of a run.
pub(crate) struct Judgement {
    /// For the top of the report.
    pub(crate) extra: Extra,
    /// For the terminal.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: Value,
}

/// A filter's decision against the truth: it says `bad` of what it turns away.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quality {
    turned_away: usize,
    precision: f64,
    recall: f64,
}

/// Measures every filter of the run against the truth.
///
/// # Errors
/// When the truth or the scores cannot be read.
pub(crate) fn judge(folder: &Path, stages: &[Arc<Done>]) -> Result<Judgement> {
    let path = folder.join(super::TRUTH);
    let truth =
        std::fs::read(&path).input("cannot read the truth").map_err(|e| e.at(path.display()))?;
    let truth: Vec<Truth> = serde_json::from_slice(&truth).input("broken truth")?;
    let by_link: BTreeMap<(&str, &str), &Truth> =
        truth.iter().map(|t| ((t.url.as_str(), t.alt.as_str()), t)).collect();
    let find = |kind: &str| {
        stages
            .iter()
            .find(|d| d.kind == kind)
            .ok_or_else(|| Error::input(format!("no `{kind}` stage")))
    };
    let judge = find("judge")?;
    let judged = scores(judge)?;
    let known: Vec<(&Judged, &Truth)> = judged
        .rows
        .iter()
        .filter_map(|row| Some((row, *by_link.get(&(row.url.as_str(), row.caption.as_str()))?)))
        .collect();
    let fetch = fetch_quality(&known);
    let caption =
        quality(&known, |r| has_reason(r, "caption_"), |t| t.fault == Fault::ShortCaption, decoded);
    let size = quality(
        &known,
        |r| has_reason(r, "image_") || has_reason(r, "min_side") || has_reason(r, "aspect"),
        |t| matches!(t.fault, Fault::Tiny | Fault::Banner),
        decoded,
    );
    let score = score_quality(&known, &judged.names, stages)?;
    let dedup = dedup_quality(&truth, stages);
    let filters = [
        ("dedup: exact duplicates", dedup),
        ("fetch: broken, hostile or refused", fetch),
        ("caption_length: captions that say nothing", caption),
        ("image_size: icons and banners", size),
        ("clip_score below the threshold: swapped captions", score.quality),
    ];
    let retrieval = retrieval(stages);
    Ok(write(&filters, &score, &retrieval, truth.len()))
}

fn has_reason(row: &Judged, start: &str) -> bool {
    row.reason.as_deref().is_some_and(|reason| reason.starts_with(start))
}

fn decoded(row: &Judged) -> bool {
    row.success
}

/// Precision and recall of `away` at finding `bad`, among the rows of `among`.
fn quality(
    known: &[(&Judged, &Truth)],
    away: impl Fn(&Judged) -> bool,
    bad: impl Fn(&Truth) -> bool,
    among: impl Fn(&Judged) -> bool,
) -> Quality {
    let rows = || known.iter().filter(|(row, _)| among(row));
    let count = |f: &dyn Fn(&Judged, &Truth) -> bool| rows().filter(|(r, t)| f(r, t)).count();
    measure(count(&|r, _| away(r)), count(&|_, t| bad(t)), count(&|r, t| away(r) && bad(t)))
}

fn measure(turned_away: usize, bad: usize, both: usize) -> Quality {
    Quality {
        turned_away,
        precision: both as f64 / turned_away.max(1) as f64,
        recall: both as f64 / bad.max(1) as f64,
    }
}

/// What the fetcher and the decoder should not have let through.
fn fetch_quality(known: &[(&Judged, &Truth)]) -> Quality {
    let bad = |t: &Truth| {
        matches!(
            t.fault,
            Fault::Huge
                | Fault::Truncated
                | Fault::Html
                | Fault::ScanBomb
                | Fault::Gone
                | Fault::Slow
                | Fault::Endless
                | Fault::Robots
                | Fault::NoAi
        )
    };
    quality(known, |r| !r.success, bad, |_| true)
}

fn dedup_quality(truth: &[Truth], stages: &[Arc<Done>]) -> Quality {
    let links: BTreeSet<(&str, &str)> =
        truth.iter().map(|t| (t.url.as_str(), t.alt.as_str())).collect();
    let bad = truth.len() - links.len();
    // `links` removes duplicates within a unit, `dedup` those between units.
    let removed = |kind: &str| {
        let done = stages.iter().find(|d| d.kind == kind);
        done.map_or(0, |d| d.counts.dropped.get("duplicate_uid").copied().unwrap_or(0)) as usize
    };
    let away = removed("links") + removed("dedup");
    measure(away, bad, away.min(bad))
}

struct Score {
    quality: Quality,
    auc: f64,
    swapped_before: f64,
    swapped_after: f64,
}

/// The learned score among pairs that pass the other judges: does the caption belong to the
/// picture?
fn score_quality(
    known: &[(&Judged, &Truth)],
    names: &[String],
    stages: &[Arc<Done>],
) -> Result<Score> {
    let column = names
        .iter()
        .position(|n| n == "clip_score")
        .ok_or_else(|| Error::input("no clip_score"))?;
    let rows: Vec<(&Judged, &Truth)> = known
        .iter()
        .filter(|(r, _)| r.success && r.reason.is_none() && r.scores[column].is_some())
        .copied()
        .collect();
    let values: Vec<f32> = rows.iter().map(|(r, _)| r.scores[column].unwrap_or(0.0)).collect();
    let labels: Vec<bool> = rows.iter().map(|(_, t)| t.matches).collect();
    let selected = stages.iter().find(|d| {
        d.kind == "select"
            && d.plan.get("where").and_then(Value::as_str).is_some_and(|w| w.contains("clip_score"))
    });
    let kept: BTreeSet<subset::Uid> = match selected {
        Some(done) => subset::read(&done.dir.blob("subset.npy")?)?.into_iter().collect(),
        None => BTreeSet::new(),
    };
    let is_kept =
        |row: &Judged| subset::Uid::parse(&row.uid).is_some_and(|uid| kept.contains(&uid));
    let share = |rows: &[&(&Judged, &Truth)]| {
        rows.iter().filter(|(_, t)| !t.matches).count() as f64 / rows.len().max(1) as f64
    };
    let all: Vec<&(&Judged, &Truth)> = rows.iter().collect();
    let after: Vec<&(&Judged, &Truth)> = rows.iter().filter(|(r, _)| is_kept(r)).collect();
    Ok(Score {
        quality: quality(&rows, |r| !is_kept(r), |t| !t.matches, |_| true),
        auc: tasks::auc::roc_auc(&values, &labels).unwrap_or(0.5),
        swapped_before: share(&all),
        swapped_after: share(&after),
    })
}

/// The evaluation's numbers by model, in the order of the models.
fn retrieval(stages: &[Arc<Done>]) -> Vec<(String, Vec<Report>)> {
    let mut rows = Vec::new();
    for done in stages.iter().filter(|d| d.kind == "eval") {
        let mut by_model = crate::results::reports(done);
        let of = |input: &Arc<Done>| Some((input.id.clone(), by_model.remove(&input.id)?));
        rows.extend(done.inputs.iter().filter_map(of));
    }
    rows
}

fn write(
    filters: &[(&str, Quality)],
    score: &Score,
    models: &[(String, Vec<Report>)],
    links: usize,
) -> Judgement {
    let mut section = Section::new("truth", "What the mill got right");
    section.say(format!(
        "The world of the demo is made, so the truth about each of its {links} links is known. The run never \
         sees it; only this report joins the two."
    ));
    let mut table = Table::new(&["filter", "turned away", "precision", "recall"]);
    let mut text = String::from(
        "filter                                              away  precision  recall\n",
    );
    for (name, q) in filters {
        let cells =
            [q.turned_away.to_string(), format!("{:.3}", q.precision), format!("{:.3}", q.recall)];
        text.push_str(&format!("{name:<50} {:>5}  {:>9}  {:>6}\n", cells[0], cells[1], cells[2]));
        table = table.row(&[name, &cells[0], &cells[1], &cells[2]]);
    }
    section.push(Block::Table(table));
    text.push_str(&format!(
        "\nAUC of the learned score for \"caption belongs to picture\": {:.3}\nswapped captions: {:.1} % before the score's threshold, {:.1} % behind it\n\n",
        score.auc,
        100.0 * score.swapped_before,
        100.0 * score.swapped_after
    ));
    section.say(format!(
        "Among the pairs that pass the rules, {:.1} % have another picture's caption; among those that the learned \
         score keeps, {:.1} %.",
        100.0 * score.swapped_before,
        100.0 * score.swapped_after
    ));
    let wanted = ["image_retrieval_recall@10", "text_retrieval_recall@10", "acc1"];
    text.push_str("on held-out concepts                 ");
    wanted.iter().for_each(|name| text.push_str(&format!("{name:>27}")));
    text.push('\n');
    let metric = |reports: &[Report], name: &str| {
        reports.iter().find_map(|r| r.metrics.iter().find(|m| m.name == name).cloned())
    };
    let mut best: BTreeMap<&str, f64> = BTreeMap::new();
    for (id, reports) in models {
        text.push_str(&format!("{id:<37}"));
        for name in wanted {
            let value = metric(reports, name).map_or(f64::NAN, |m| m.value);
            text.push_str(&format!("{value:>27.3}"));
        }
        text.push('\n');
        if let Some(m) = metric(reports, wanted[0]) {
            best.insert(id, m.value);
        }
    }
    if let Some((_, reports)) = models.first() {
        text.push_str(&format!("{:<37}", "guessing"));
        for name in wanted {
            let chance = metric(reports, name).and_then(|m| m.chance).unwrap_or(f64::NAN);
            text.push_str(&format!("{chance:>27.3}"));
        }
        text.push('\n');
    }
    let verdict = verdict(&best);
    section.say(verdict.clone());
    text.push_str(&format!("{verdict}\n"));
    let mut numbers = vec![Number {
        label: "learned score, AUC".into(),
        value: format!("{:.3}", score.auc),
        note: "guessing 0.5".into(),
    }];
    for (id, value) in [("filtered", best.get("filtered")), ("unfiltered", best.get("unfiltered"))]
    {
        if let Some(value) = value {
            numbers.push(Number {
                label: format!("R@10 trained on {id}"),
                value: format!("{value:.3}"),
                note: "text to picture, held-out concepts".into(),
            });
        }
    }
    let filters: Vec<Value> = filters
        .iter()
        .map(|(name, q)| json!({"filter": name, "turned_away": q.turned_away, "precision": q.precision, "recall": q.recall}))
        .collect();
    let json = json!({
        "filters": filters,
        "score_auc": score.auc,
        "swapped_before": score.swapped_before,
        "swapped_after": score.swapped_after,
        "models": models.iter().map(|(id, r)| json!({"id": id, "reports": r})).collect::<Vec<_>>(),
        "verdict": verdict,
    });
    let extra = Extra {
        lead: "From a small real web to a filtered dataset, trained, measured, compressed models and a downstream task."
            .to_owned(),
        numbers,
        sections: vec![section],
        credits: vec![
            "Pictures: Twemoji, copyright Twitter, Inc and other contributors, CC-BY-4.0.".to_owned(),
        ],
    };
    Judgement { extra, text, json }
}

/// One sentence that says what happened, also when filtering did not help.
fn verdict(r10: &BTreeMap<&str, f64>) -> String {
    let (Some(filtered), Some(unfiltered)) = (r10.get("filtered"), r10.get("unfiltered")) else {
        return "No comparison of filtered and unfiltered training was made.".to_owned();
    };
    let what = if filtered > unfiltered { "helped" } else { "did not help" };
    let random =
        r10.get("random").map_or(String::new(), |r| format!(", {r:.3} on as many by chance"));
    format!(
        "Filtering {what} in this run: R@10 on concepts that nobody trained on is {filtered:.3} after training on the \
         filtered pairs, {unfiltered:.3} on all{random}, with equal model, steps and batch. One seed; docs/results.md has three."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_of_what_was_turned_away_and_recall_of_what_is_bad() {
        let q = measure(10, 20, 8);
        assert_eq!((q.precision, q.recall), (0.8, 0.4));
    }

    #[test]
    fn a_run_in_which_filtering_did_not_help_says_so() {
        let text = verdict(&BTreeMap::from([("filtered", 0.2), ("unfiltered", 0.25)]));
        assert!(text.starts_with("Filtering did not help in this run: R@10"), "{text}");
    }
}
