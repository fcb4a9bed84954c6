//! `clipmill compare A B C`: evaluated checkpoints beside each other, as one page.

use std::path::Path;

use clap::{Arg, ArgMatches, Command, value_parser};
use eval::compare::{Comparison, Evaluated, compare};
use eval::suite::Suite;
use serde_json::{Value, json};
use stage::{Context, Error, Result};

use super::Output;
use crate::results::compare_page;

pub(crate) fn command() -> Command {
    Command::new("compare")
        .about("Compare evaluated checkpoints, each with the first, as one HTML page")
        .after_help(
            "Each DIR is what `eval` wrote for a checkpoint (it holds eval_results.jsonl), a folder of such\n\
             folders, or an eval_results.jsonl, DataComp's too. Where the samples' outcomes lie beside it,\n\
             differences are tested: paired bootstrap, and McNemar's exact test for accuracy.\n\n\
             Example:\n  clipmill compare out/eval/unfiltered out/eval/filtered -o compare.html",
        )
        .arg(Arg::new("folder").required(true).num_args(1..).value_name("DIR").help(
            "Folders of evaluated checkpoints; the first is what the others are compared with",
        ))
        .arg(
            Arg::new("page")
                .long("page")
                .visible_alias("output")
                .short('o')
                .value_name("FILE.html")
                .default_value("compare.html")
                .help("Where the page is written"),
        )
        .arg(
            Arg::new("suite")
                .long("suite")
                .value_name("NAME|FILE.json")
                .default_value("datacomp")
                .help("The list of tasks whose means are given"),
        )
        .arg(
            Arg::new("bootstrap")
                .long("bootstrap")
                .value_name("SAMPLES")
                .value_parser(value_parser!(u32).range(100..=100_000))
                .default_value("2000")
                .help("Bootstrap samples of each task"),
        )
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_parser(value_parser!(u64))
                .default_value("0")
                .help("Seed of the bootstrap"),
        )
}

pub(crate) fn run(args: &ArgMatches) -> Result<Output> {
    let mut evaluated = Vec::new();
    for path in args.get_many::<String>("folder").into_iter().flatten() {
        evaluated.extend(Evaluated::open(path)?);
    }
    let suite = Suite::open(&super::text_of(args, "suite")?)?;
    let samples = args.get_one::<u32>("bootstrap").copied().unwrap_or(2000);
    let seed = args.get_one::<u64>("seed").copied().unwrap_or(0);
    let context = Context { seed, ..Context::default() };
    let comparison = compare(&evaluated, &suite, samples, &context)?;
    let page = super::text_of(args, "page")?;
    write(&page, compare_page(&comparison, &suite, samples)?.as_bytes())?;
    Ok(Output::new(table(&comparison, &page), as_json(&comparison, &page)))
}

/// Whole or not at all.
fn write(page: &str, bytes: &[u8]) -> Result<()> {
    let part = format!("{page}.part");
    let done = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, Path::new(page)));
    done.map_err(|e| {
        // The error in hand says more than a failure to clean up.
        let _ = std::fs::remove_file(&part);
        Error::store("cannot write the page").because(e).at(page)
    })
}

fn table(comparison: &Comparison, page: &str) -> String {
    let width = comparison.tasks.iter().map(|t| t.name.chars().count()).max().unwrap_or(4).max(14);
    let mut text = format!("{:<width$}", "task");
    comparison.names.iter().for_each(|name| text.push_str(&format!("  {name:>12}")));
    text.push('\n');
    let mut line = |name: &str, values: &[Option<f64>], marks: &[bool]| {
        text.push_str(&format!("{name:<width$}"));
        for (i, value) in values.iter().enumerate() {
            let number = value.map_or("–".to_owned(), |v| format!("{v:.4}"));
            let mark = if i > 0 && marks.get(i - 1) == Some(&true) { "*" } else { " " };
            text.push_str(&format!("  {number:>11}{mark}"));
        }
        text.push('\n');
    };
    for task in &comparison.tasks {
        let sure =
            |a: &Option<eval::compare::Against>| a.as_ref().is_some_and(|a| a.adjusted < 0.05);
        line(&task.name, &task.values, &task.against.iter().map(sure).collect::<Vec<_>>());
    }
    let name = format!("mean of {}", comparison.average.tasks);
    let sure = |d: &Option<eval::paired::Difference>| d.is_some_and(|d| d.p < 0.05);
    let marks: Vec<bool> = comparison.average.against.iter().map(sure).collect();
    line(&name, &comparison.average.values, &marks);
    text.push_str("* differs from the first at the level of 5 % over all tasks (Holm)\n");
    comparison.notes.iter().for_each(|note| text.push_str(&format!("not compared: {note}\n")));
    text.push_str(&format!("page: {page}\n"));
    text
}

fn as_json(comparison: &Comparison, page: &str) -> Value {
    let difference = |d: &eval::paired::Difference| json!({"difference": d.value, "interval": d.interval, "p": d.p});
    let against = |a: &Option<eval::compare::Against>| {
        a.as_ref().map(|a| {
            let mcnemar = a.mcnemar.map(|m| {
                json!({"only_first": m.only_first, "only_second": m.only_second, "p": m.p})
            });
            json!({"bootstrap": difference(&a.difference), "p_holm": a.adjusted, "mcnemar": mcnemar})
        })
    };
    let tasks: Vec<Value> = comparison
        .tasks
        .iter()
        .map(|t| {
            json!({
                "key": t.key,
                "dataset": t.name,
                "values": t.values,
                "intervals": t.intervals,
                "chance": t.chance,
                "against_first": t.against.iter().map(against).collect::<Vec<_>>(),
            })
        })
        .collect();
    let average = &comparison.average;
    json!({
        "checkpoints": comparison.names,
        "tasks": tasks,
        "mean": {
            "tasks": average.tasks,
            "values": average.values,
            "intervals": average.intervals,
            "against_first": average.against.iter().map(|d| d.as_ref().map(difference)).collect::<Vec<_>>(),
        },
        "suite": comparison.aggregates,
        "notes": comparison.notes,
        "page": page,
    })
}
