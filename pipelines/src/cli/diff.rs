//! `clipmill diff A B`: what changed between two releases.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use shard::release::{self, Changes, Manifest, Summary};
use stage::Result;

use super::{Output, purge, text_of};
use crate::key::differences;

pub(crate) fn command() -> Command {
    let folder = |name: &'static str, value: &'static str| {
        Arg::new(name).required(true).value_name(value).help("The folder of a release")
    };
    Command::new("diff")
        .about("Compare two releases: pairs, stages and their fields, scores")
        .arg(folder("first", "RELEASE_A"))
        .arg(folder("second", "RELEASE_B"))
        .arg(purge::threads())
}

pub(crate) fn diff(args: &ArgMatches) -> Result<Output> {
    let mut dirs = Vec::new();
    for name in ["first", "second"] {
        let (parent, id) = purge::place(&text_of(args, name)?)?;
        dirs.push(store::Output::open_existing(&parent)?.stage(&id));
    }
    let changes = release::diff(&purge::context(args), &dirs[0], &dirs[1])?;
    let stages = stages(&changes.manifests);
    Ok(Output::new(text(&changes, &stages), as_json(&changes, &stages)))
}

/// Lines on each stage that differs.
fn stages([before, after]: &[Manifest; 2]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let find = |manifest: &Manifest, id: &str| {
        manifest.lineage.iter().find(|stage| stage.id == id).cloned()
    };
    let ids = before.lineage.iter().chain(&after.lineage).map(|stage| stage.id.clone());
    for id in ids {
        if all.contains_key(&id) {
            continue;
        }
        let lines = match (find(before, &id), find(after, &id)) {
            (Some(a), Some(b)) if a.key == b.key => continue,
            (Some(a), Some(b)) => {
                let mut lines = differences(&a.identity, &b.identity);
                // A hash says nothing; which stage it belongs to is said there.
                lines.retain(|l| !l.starts_with("inputs") && !l.starts_with("references"));
                if lines.is_empty() {
                    lines.push("other input".to_owned());
                }
                if a.counts.kept != b.counts.kept {
                    lines.push(format!("kept: {} → {}", a.counts.kept, b.counts.kept));
                }
                lines
            }
            (Some(a), None) => vec![format!("only in the first ({})", a.kind)],
            (None, Some(b)) => vec![format!("only in the second ({})", b.kind)],
            (None, None) => continue,
        };
        all.insert(id, lines);
    }
    all
}

fn text(changes: &Changes, stages: &BTreeMap<String, Vec<String>>) -> String {
    let [before, after] = &changes.manifests;
    let mut text = format!(
        "{} version {} ({}) → {} version {} ({})\n",
        before.name,
        before.version,
        short(&before.merkle_root),
        after.name,
        after.version,
        short(&after.merkle_root)
    );
    text.push_str(&format!(
        "pairs: {} → {}; bytes: {} → {}\n",
        before.samples, after.samples, before.bytes, after.bytes
    ));
    if before.plan.license != after.plan.license {
        text.push_str(&format!("licence: {} → {}\n", before.plan.license, after.plan.license));
    }
    text.push_str(&format!(
        "  {} the same, {} added, {} removed, {} changed\n",
        changes.same, changes.added.0, changes.removed.0, changes.changed.0
    ));
    for (word, (count, uids)) in
        [("+", &changes.added), ("-", &changes.removed), ("~", &changes.changed)]
    {
        uids.iter().for_each(|uid| text.push_str(&format!("    {word} {uid}\n")));
        if *count > uids.len() as u64 {
            text.push_str(&format!("    {word} and {} more\n", count - uids.len() as u64));
        }
    }
    for (column, count) in &changes.columns {
        text.push_str(&format!("  column {column}: {count} pairs differ\n"));
    }
    for (id, lines) in stages {
        text.push_str(&format!("stage {id}:\n"));
        lines.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    for (name, score) in &changes.scores {
        let [a, b] = &score.summaries;
        if a == b {
            continue;
        }
        text.push_str(&format!("score {name}:\n"));
        for (word, of) in MARKS {
            let [a, b] = [a, b].map(|s| s.as_ref().and_then(of));
            let shown = |v: Option<f64>| v.map_or("–".to_owned(), |v| format!("{v:.4}"));
            text.push_str(&format!("    {word:<8} {} → {}\n", shown(a), shown(b)));
        }
    }
    if before.merkle_root == after.merkle_root {
        text.push_str("the same files\n");
    }
    text
}

/// A number of a summary, where it has one.
type Mark = fn(&Summary) -> Option<f64>;

/// What of a summary is compared in words.
const MARKS: [(&str, Mark); 6] = [
    ("pairs", |s| Some(s.count as f64)),
    ("mean", |s| (s.count > 0).then_some(s.mean)),
    ("least", |s| s.deciles.first().copied()),
    ("10 %", |s| s.deciles.get(1).copied()),
    ("median", |s| s.deciles.get(5).copied()),
    ("greatest", |s| s.deciles.get(10).copied()),
];

fn as_json(changes: &Changes, stages: &BTreeMap<String, Vec<String>>) -> Value {
    let list = |(count, uids): &(u64, Vec<String>)| json!({"count": count, "first": uids});
    let head = |m: &Manifest| {
        json!({
            "name": m.name, "version": m.version, "merkle_root": m.merkle_root, "samples": m.samples,
            "bytes": m.bytes, "license": m.plan.license, "counts": m.counts,
        })
    };
    let scores: serde_json::Map<String, Value> =
        changes.scores.iter().map(|(name, score)| (name.clone(), json!(score.summaries))).collect();
    json!({
        "releases": changes.manifests.each_ref().map(head),
        "same": changes.same,
        "added": list(&changes.added),
        "removed": list(&changes.removed),
        "changed": list(&changes.changed),
        "columns": changes.columns,
        "stages": stages,
        "scores": scores,
    })
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
