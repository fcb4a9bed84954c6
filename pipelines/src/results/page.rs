//! The HTML report of a run, stage by stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use eval::results::TaskResult;
use eval::suite::{Aggregate, Suite};
use report::{
    Block, CountsBar, Figure, Histogram, Number, Page, Section, Series, Table, histogram, lines,
};
use serde_json::Value;
use stage::{Report, Result};
use store::Output;

use super::collect;
use super::pictures::{Album, pictures};
use super::{about, map, near, release};
use crate::recipe::{Noun, Recipe};
use crate::stages::Done;

/// What only the caller knows: the demo's truth.
pub(crate) struct Extra {
    /// One sentence under the heading.
    pub(crate) lead: String,
    /// Large numbers at the top.
    pub(crate) numbers: Vec<Number>,
    /// Sections before all others.
    pub(crate) sections: Vec<Section>,
    /// Credits.
    pub(crate) credits: Vec<String>,
}

/// Writes `report.html` and says where it is.
pub(crate) fn write_report(
    recipe: &Recipe,
    output: &Output,
    stages: &[Arc<Done>],
    extra: Option<Extra>,
) -> Result<String> {
    let mut page = Page {
        title: recipe.name.clone(),
        lead: format!("{} stages, seed {}", stages.len(), recipe.seed),
        blurred: extra.is_none(),
        ..Page::default()
    };
    let mut numbers = headline(stages);
    if let Some(extra) = extra {
        page.lead = extra.lead;
        page.credits = extra.credits;
        numbers = extra.numbers.into_iter().chain(numbers).collect();
        page.sections = extra.sections;
    }
    if let Some(first) = page.sections.first_mut() {
        first.blocks.insert(0, Block::Numbers(numbers));
    } else {
        let mut overview = Section::new("overview", "Overview");
        overview.push(Block::Numbers(numbers));
        page.sections.push(overview);
    }
    page.sections.extend(accuracy(stages));
    page.sections.push(counts(stages));
    for done in stages.iter().filter(|d| d.kind == "judge") {
        page.sections.extend(judged(done, stages)?);
    }
    for done in stages.iter().filter(|d| d.kind == "near_duplicates") {
        page.sections.extend(near::near_duplicates(done)?);
    }
    for done in stages.iter().filter(|d| d.kind == "embed") {
        let judge = stages.iter().find(|d| d.kind == "judge");
        let scores = judge.map(|judge| collect::scores(judge)).transpose()?;
        page.sections.extend(map::map(done, scores.as_ref())?);
    }
    for done in stages.iter().filter(|d| d.kind == "release") {
        page.sections.push(release::release(done)?);
    }
    page.sections.extend(training(stages)?);
    page.sections.extend(compression(stages));
    page.sections.extend(tasks(stages));
    page.sections.push(super::time::time(stages, output, recipe.cost.as_ref())?);
    page.credits.push(
        "Made by clipmill. This file loads nothing from elsewhere and runs no script.".to_owned(),
    );
    output.put("report.html", page.html()?.into())?;
    Ok(format!("{}/report.html", output.url().trim_end_matches('/')))
}

fn headline(stages: &[Arc<Done>]) -> Vec<Number> {
    let of = |kind: &str| stages.iter().find(|d| d.kind == kind);
    let mut numbers = Vec::new();
    let mut add = |label: &str, done: Option<&Arc<Done>>| {
        if let Some(done) = done.filter(|d| d.counts.entered > 0) {
            numbers.push(Number {
                label: label.to_owned(),
                value: thousands(done.counts.kept),
                note: format!("of {}", thousands(done.counts.entered)),
            });
        }
    };
    add("links", of("links").or_else(|| of("link_list")));
    add("pictures fetched", of("fetch"));
    add("pairs that pass all judges", of("judge"));
    numbers
}

fn counts(stages: &[Arc<Done>]) -> Section {
    let mut section = Section::new("counts", "What became of every sample");
    section.say("At every stage in = kept + dropped + failed; the runner checks it before a stage counts as done.");
    for done in stages.iter().filter(|d| d.counts.entered > 0) {
        section.push(Block::Heading(format!("{} ({})", done.id, done.kind)));
        section.push(Block::Counts(CountsBar::new(&done.counts)));
    }
    section
}

/// Histograms of all scores with the thresholds of the selections behind them, and pictures by
/// reason.
fn judged(done: &Arc<Done>, stages: &[Arc<Done>]) -> Result<Vec<Section>> {
    let scores = collect::scores(done)?;
    let mut section = Section::new(&format!("scores-{}", done.id), &format!("Scores: {}", done.id));
    if !scores.complete {
        section.say(format!("The first {} pairs.", scores.rows.len()));
    }
    let mut figures = Vec::new();
    for (column, name) in scores.names.iter().enumerate() {
        let values = |kept: bool| -> Vec<f32> {
            let rows = scores.rows.iter().filter(|r| r.success && r.reason.is_none() == kept);
            rows.filter_map(|r| r.scores[column]).collect()
        };
        let (kept, dropped) = (values(true), values(false));
        let mut groups = vec![("kept".to_owned(), kept)];
        if !dropped.is_empty() {
            groups.push(("dropped by a judge".to_owned(), dropped));
        }
        let threshold = threshold(name, done, stages);
        let svg = histogram(&Histogram { label: name.clone(), groups, threshold, bins: 40 });
        figures.push(Figure { title: name.clone(), svg });
    }
    section.push(Block::Figures(figures));
    let album = done.upstream(Noun::Shards).map(|source| Album::open(&source)).transpose()?;
    let about = about::about(&done.id, &scores, album.as_ref())?;
    let pictures = album.map(|album| pictures(done, &scores, &album)).transpose()?;
    Ok([Some(section), pictures, about].into_iter().flatten().collect())
}

/// The value at which a selection behind this judge cuts this score, else the judge's own.
fn threshold(score: &str, judge: &Arc<Done>, stages: &[Arc<Done>]) -> Option<f64> {
    let behind =
        stages.iter().filter(|d| d.kind == "select" && d.inputs.iter().any(|i| i.id == judge.id));
    let selected = behind.flat_map(|d| &d.commits).find_map(|commit| {
        let thresholds = commit.info.get("thresholds")?.as_object()?;
        thresholds
            .iter()
            .find(|(what, _)| what.contains(score))
            .and_then(|(_, value)| value.as_f64())
    });
    selected.or_else(|| own_threshold(score, &judge.plan))
}

/// The bound that a judge's plan puts on a score: `min_words` on `caption_words`.
fn own_threshold(score: &str, judges: &Value) -> Option<f64> {
    let fields = judges
        .as_array()?
        .iter()
        .filter_map(Value::as_object)
        .flat_map(serde_json::Map::values)
        .filter_map(Value::as_object)
        .flatten();
    let mut bounds = fields.filter_map(|(name, value)| {
        let of = name.strip_prefix("min_").or_else(|| name.strip_prefix("max_"))?;
        score.ends_with(&format!("_{of}")).then(|| value.as_f64()).flatten()
    });
    bounds.find(|value| *value > 0.0)
}

fn training(stages: &[Arc<Done>]) -> Result<Option<Section>> {
    let mut series = Vec::new();
    for done in stages.iter().filter(|d| d.kind == "train") {
        let points = collect::losses(done)?;
        let width = (points.len() / 40).max(1);
        series.push(Series { name: done.id.clone(), points: collect::smooth(&points, width) });
    }
    if series.iter().all(|s| s.points.is_empty()) {
        return Ok(None);
    }
    let mut section = Section::new("training", "Training");
    section.say("Contrastive loss over steps, running mean over a fortieth of the run.");
    let svg = lines("step", "loss", &series);
    section.push(Block::Figures(vec![Figure { title: "loss".to_owned(), svg }]));
    Ok(Some(section))
}

/// One table a task, one row a model, every number beside its chance.
fn accuracy(stages: &[Arc<Done>]) -> Option<Section> {
    let mut by_title: BTreeMap<String, Vec<(String, Report)>> = BTreeMap::new();
    for done in stages.iter().filter(|d| d.kind == "eval") {
        for input in &done.inputs {
            for report in collect::reports(done).remove(&input.id).unwrap_or_default() {
                by_title.entry(report.title.clone()).or_default().push((input.id.clone(), report));
            }
        }
    }
    if by_title.is_empty() {
        return None;
    }
    let mut section = Section::new("accuracy", "Accuracy");
    for done in stages.iter().filter(|d| d.kind == "eval") {
        section.blocks.extend(scores(done));
    }
    for (title, rows) in by_title {
        section.push(Block::Heading(title));
        section.push(Block::Table(metrics_table("model", &rows)));
        for note in &rows[0].1.notes {
            section.push(Block::Note(note.clone()));
        }
    }
    Some(section)
}

/// Where there are many tasks: the main metric of each with its interval, one column a model, and a
/// suite's means.
fn scores(done: &Done) -> Vec<Block> {
    const MANY: usize = 4;
    let models: Vec<&str> = done.inputs.iter().map(|input| input.id.as_str()).collect();
    let results: Vec<Vec<TaskResult>> =
        models.iter().map(|model| crate::stages::eval_lines(done, model)).collect();
    let most = results.iter().map(Vec::len).max().unwrap_or(0);
    let Some(longest) = results.iter().find(|r| r.len() == most && most >= MANY) else {
        return Vec::new();
    };
    let mut table = Table::new(&["task"]);
    table.head.extend(models.iter().map(|model| (*model).to_owned()));
    table.head.push("guessing".to_owned());
    for task in longest.iter().filter(|task| task.main().is_some()) {
        let cell = |results: &Vec<TaskResult>| {
            let found = results.iter().find(|r| r.key == task.key);
            match found.and_then(|r| Some((r.main()?, r.main_interval()))) {
                Some((value, Some([low, high]))) => format!("{value:.3} ({low:.3} … {high:.3})"),
                Some((value, None)) => format!("{value:.3}"),
                None => "–".to_owned(),
            }
        };
        let chance = task.chance.map_or("–".to_owned(), |c| format!("{c:.3}"));
        let cells = results.iter().map(cell).chain([chance]);
        table.rows.push(std::iter::once(task.dataset.clone()).chain(cells).collect());
    }
    let suite = done.plan.get("suite").and_then(serde_json::Value::as_str);
    if let Some(suite) = suite.and_then(|name| Suite::open(name).ok()) {
        let means: Vec<Aggregate> = results.iter().map(|r| suite.aggregate(r)).collect();
        let row = |name: String, of: &dyn Fn(&Aggregate) -> String| {
            let cells = means.iter().map(of).chain(["–".to_owned()]);
            std::iter::once(name).chain(cells).collect::<Vec<String>>()
        };
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.3}"));
        for group in &suite.groups {
            let name = format!("mean: {}", group.name);
            let of = |a: &Aggregate| number(a.groups.get(&group.name).copied().flatten());
            table.rows.push(row(name, &of));
        }
        let average = |a: &Aggregate| format!("{} ({} of {})", number(a.average), a.tasks, a.of);
        table.rows.push(row("average".to_owned(), &average));
    }
    vec![Block::Heading(format!("Scores with 95 % intervals: {}", done.id)), Block::Table(table)]
}

fn metrics_table(first: &str, rows: &[(String, Report)]) -> Table {
    let metrics = &rows[0].1.metrics;
    let mut table = Table { head: vec![first.to_owned()], rows: Vec::new() };
    table.head.extend(metrics.iter().map(|m| heading(&m.name)));
    for (id, report) in rows {
        let cells = metrics
            .iter()
            .map(|m| report.get(&m.name).map_or("–".to_owned(), |v| shown(v, &m.unit)));
        table.rows.push(std::iter::once(id.clone()).chain(cells).collect());
    }
    if metrics.iter().any(|m| m.chance.is_some()) {
        let cells =
            metrics.iter().map(|m| m.chance.map_or("–".to_owned(), |v| shown(v, &m.unit)));
        table.rows.push(std::iter::once("guessing".to_owned()).chain(cells).collect());
    }
    table
}

/// The field's names as people say them; the files keep the long ones.
fn heading(metric: &str) -> String {
    metric
        .replace("image_retrieval_recall@", "text → image R@")
        .replace("text_retrieval_recall@", "image → text R@")
        .replace("mean_per_class_recall", "per-class recall")
}

fn compression(stages: &[Arc<Done>]) -> Option<Section> {
    let mut section = Section::new("compression", "Compression");
    for done in stages.iter().filter(|d| d.kind == "compress") {
        for report in collect::reports(done).into_values().flatten() {
            section.push(Block::Table(one_report(&done.id, &report)));
            report.notes.iter().for_each(|note| section.say(note));
        }
    }
    (!section.blocks.is_empty()).then_some(section)
}

fn tasks(stages: &[Arc<Done>]) -> Option<Section> {
    let mut section = Section::new("tasks", "Downstream tasks");
    for done in stages.iter().filter(|d| d.kind == "task") {
        for (model, reports) in collect::reports(done) {
            for report in reports {
                section.push(Block::Table(one_report(
                    &format!("{}, on {model}", report.title),
                    &report,
                )));
                report.notes.iter().for_each(|note| section.say(note));
            }
        }
    }
    (!section.blocks.is_empty()).then_some(section)
}

fn one_report(title: &str, report: &Report) -> Table {
    let mut table = Table::new(&[title, "value", "unit", "guessing"]);
    for metric in &report.metrics {
        let chance = metric.chance.map_or("–".to_owned(), |v| shown(v, &metric.unit));
        table =
            table.row(&[&metric.name, &shown(metric.value, &metric.unit), &metric.unit, &chance]);
    }
    table
}

/// Shares with three digits, counts whole, the rest with one digit after the point.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        "share" => format!("{value:.3}"),
        "count" | "parameters" | "MAC" => thousands(value as u64),
        _ if value != 0.0 && value.abs() < 0.01 => format!("{value:.1e}"),
        _ => format!("{value:.2}"),
    }
}

/// `1,234,567`
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judges_bound_belongs_to_the_score_of_its_name() {
        let plan = serde_json::json!([
            {"caption_length": {"min_words": 2, "max_words": null, "min_chars": 0}},
            {"image_size": {"min_side": 32, "max_aspect": 3.0}},
        ]);
        let bounds =
            ["caption_words", "caption_chars", "image_min_side", "image_aspect", "clip_score"]
                .map(|score| own_threshold(score, &plan));
        assert_eq!(bounds, [Some(2.0), None, Some(32.0), Some(3.0), None]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
