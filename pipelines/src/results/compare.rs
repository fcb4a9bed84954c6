//! The page that compares evaluated checkpoints.

use eval::compare::{AverageRow, Comparison, TaskRow};
use eval::paired::Difference;
use eval::suite::{Aggregate, Suite};
use report::{Block, Dot, DotRow, Figure, Number, Page, Section, Table, dots};
use stage::Result;

/// Below this a difference is called one.
const LEVEL: f64 = 0.05;

/// The page as HTML. `samples` is how many bootstrap samples there were.
///
/// # Errors
/// An internal error when the template fails.
pub(crate) fn compare_page(comparison: &Comparison, suite: &Suite, samples: u32) -> Result<String> {
    let names: Vec<&str> = comparison.names.iter().map(String::as_str).collect();
    let mut page = Page {
        title: names.join(" · "),
        lead: format!(
            "{} checkpoints on {} tasks; differences are taken against {}",
            names.len(),
            comparison.tasks.len(),
            names.first().copied().unwrap_or_default()
        ),
        ..Page::default()
    };
    page.sections.push(overview(comparison, suite, &names));
    page.sections.push(scores(comparison, &names));
    if names.len() > 1 {
        page.sections.push(differences(comparison, &names, samples));
        page.sections.extend(classes(comparison, &names));
    }
    page.credits.push(
        "Made by clipmill. This file loads nothing from elsewhere and runs no script.".to_owned(),
    );
    page.html()
}

fn overview(comparison: &Comparison, suite: &Suite, names: &[&str]) -> Section {
    let mut section = Section::new("overview", "Overview");
    let AverageRow { tasks, values, intervals, .. } = &comparison.average;
    let numbers = names.iter().enumerate().map(|(i, name)| Number {
        label: (*name).to_owned(),
        value: shown(values.get(i).copied().flatten()),
        note: match intervals.get(i).copied().flatten() {
            Some(interval) => format!("mean of {tasks} tasks, {}", range(interval)),
            None => format!("mean of {tasks} tasks"),
        },
    });
    section.push(Block::Numbers(numbers.collect()));
    let known = |a: &Aggregate| a.tasks > 0;
    if comparison.aggregates.iter().any(known) {
        section.push(Block::Heading(format!("Means of the suite {}", suite.name)));
        let mut table = Table::new(&["mean"]);
        table.head.extend(names.iter().map(|n| (*n).to_owned()));
        for group in &suite.groups {
            let of = |a: &Aggregate| shown(a.groups.get(&group.name).copied().flatten());
            let cells = comparison.aggregates.iter().map(of);
            table.rows.push(std::iter::once(group.name.clone()).chain(cells).collect());
        }
        let all = comparison.aggregates.iter().all(Aggregate::is_complete);
        let label = if all { "Average".to_owned() } else { "Average of what is there".to_owned() };
        let cells = comparison.aggregates.iter().map(|a| {
            let number = shown(a.average);
            if a.is_complete() { number } else { format!("{number} ({} of {})", a.tasks, a.of) }
        });
        table.rows.push(std::iter::once(label).chain(cells).collect());
        section.push(Block::Table(table));
        if !all {
            section.push(Block::Note(format!(
                "The suite's average is that of {} tasks; a mean of fewer compares with no published number.",
                suite.average_of
            )));
        }
    }
    section
}

fn scores(comparison: &Comparison, names: &[&str]) -> Section {
    let mut section = Section::new("scores", "Scores");
    section.say(
        "The main metric of each task with its 95 % bootstrap interval: how far it moves when the test set is drawn again from itself. The dashed line is what guessing gives.",
    );
    let row = |task: &TaskRow| DotRow {
        name: task.name.clone(),
        mark: task.chance,
        dots: task
            .values
            .iter()
            .zip(&task.intervals)
            .map(|(value, interval)| value.map(|value| Dot { value, interval: *interval }))
            .collect(),
    };
    let counted: Vec<&TaskRow> =
        comparison.tasks.iter().filter(|t| t.values.iter().any(Option::is_some)).collect();
    let rows: Vec<DotRow> = counted.iter().map(|task| row(task)).collect();
    let svg = dots("score", names, &rows);
    section.push(Block::Wide(Figure { title: String::new(), svg }));
    let mut table = Table::new(&["task"]);
    for name in names {
        table.head.push((*name).to_owned());
        table.head.push("95 %".to_owned());
    }
    table.head.push("guessing".to_owned());
    for task in counted {
        let mut cells = vec![task.name.clone()];
        for (value, interval) in task.values.iter().zip(&task.intervals) {
            cells.push(shown(*value));
            cells.push(interval.map_or("–".to_owned(), range));
        }
        cells.push(shown(task.chance));
        table.rows.push(cells);
    }
    section.push(Block::Table(table));
    section
}

fn differences(comparison: &Comparison, names: &[&str], samples: u32) -> Section {
    let first = names[0];
    let mut section = Section::new("differences", "Differences");
    section.say(format!(
        "Each checkpoint less {first}, sample by sample: the same {samples} bootstrap samples of each test set for both. p is two-sided; p (Holm) holds for all tasks together. McNemar's exact test counts the pictures that only one of the two gets right."
    ));
    for (other, name) in names.iter().enumerate().skip(1) {
        let found: Vec<(&TaskRow, &eval::compare::Against)> = comparison
            .tasks
            .iter()
            .filter_map(|task| Some((task, task.against.get(other - 1)?.as_ref()?)))
            .collect();
        section.push(Block::Heading(format!("{name} less {first}")));
        if found.is_empty() {
            section.push(Block::Note("No task of which both kept their samples.".to_owned()));
            continue;
        }
        section.push(Block::Note(verdict(comparison, other, name, &found)));
        let rows: Vec<DotRow> = found
            .iter()
            .map(|(task, against)| {
                let Difference { value, interval, .. } = against.difference;
                let dot = Some(Dot { value, interval });
                DotRow { name: task.name.clone(), mark: Some(0.0), dots: vec![dot] }
            })
            .collect();
        let svg = dots("difference of the score", &[name], &rows);
        section.push(Block::Wide(Figure { title: String::new(), svg }));
        let mut table = Table::new(&[
            "task",
            "difference",
            "95 %",
            "p",
            "p (Holm)",
            &format!("only {first}"),
            &format!("only {name}"),
            "McNemar p",
        ]);
        for (task, against) in &found {
            let d = &against.difference;
            let (only_first, only_second, p) = against.mcnemar.map_or_else(
                || ("–".to_owned(), "–".to_owned(), "–".to_owned()),
                |m| (m.only_first.to_string(), m.only_second.to_string(), probability(m.p)),
            );
            table = table.row(&[
                &task.name,
                &format!("{:+.4}", d.value),
                &d.interval.map_or("–".to_owned(), |[l, h]| format!("{l:+.4} … {h:+.4}")),
                &probability(d.p),
                &probability(against.adjusted),
                &only_first,
                &only_second,
                &p,
            ]);
        }
        section.push(Block::Table(table));
    }
    for note in &comparison.notes {
        section.push(Block::Note(format!("Not compared: {note}")));
    }
    section
}

/// One sentence on what the differences say.
fn verdict(
    comparison: &Comparison,
    other: usize,
    name: &str,
    found: &[(&TaskRow, &eval::compare::Against)],
) -> String {
    let clear = |better: bool| {
        let sure = found.iter().filter(|(_, a)| a.adjusted < LEVEL);
        sure.filter(|(_, a)| (a.difference.value > 0.0) == better).count()
    };
    let mut text = format!(
        "{name} is better on {} and worse on {} of {} tasks at the level of 5 % over all of them.",
        clear(true),
        clear(false),
        found.len()
    );
    if let Some(d) = comparison.average.against.get(other - 1).copied().flatten() {
        text.push_str(&format!(
            " Mean of {} tasks: {:+.4}{}, p = {}.",
            comparison.average.tasks,
            d.value,
            d.interval.map_or(String::new(), |[l, h]| format!(" ({l:+.4} … {h:+.4})")),
            probability(d.p)
        ));
    }
    text
}

fn classes(comparison: &Comparison, names: &[&str]) -> Option<Section> {
    let mut section = Section::new("classes", "Classes");
    section.say("Of each classification the classes that lost and gained most pictures.");
    for (other, name) in names.iter().enumerate().skip(1) {
        let mut table = Table::new(&["task", "class", "pictures", names[0], name, "difference"]);
        for task in &comparison.tasks {
            let Some(against) = task.against.get(other - 1).and_then(Option::as_ref) else {
                continue;
            };
            for (class, pictures, before, after) in &against.classes {
                table = table.row(&[
                    &task.name,
                    class,
                    &pictures.to_string(),
                    &shown(Some(*before)),
                    &shown(Some(*after)),
                    &format!("{:+.3}", after - before),
                ]);
            }
        }
        if !table.rows.is_empty() {
            section.push(Block::Heading(format!("Recall by class, {name} beside {}", names[0])));
            section.push(Block::Table(table));
        }
    }
    (!section.blocks.is_empty()).then_some(section)
}

fn shown(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |v| format!("{v:.4}"))
}

fn range([low, high]: [f64; 2]) -> String {
    format!("{low:.4} … {high:.4}")
}

fn probability(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_keep_their_size() {
        assert_eq!([0.5, 0.0123, 0.00004].map(probability), ["0.500", "0.012", "4e-5"]);
    }
}
