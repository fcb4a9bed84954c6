//! Commands that run a recipe or read its output: `run`, `plan`, `replay`, `report`.

use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use ingest::DialMap;
use serde_json::{Value, json};
use stage::{Context, Error, Result};
use train::ranks::environment::Seat;

use super::progress::Talk;
use super::{Output, inspect, share};
use crate::metrics::{self, Metrics};
use crate::plan::{self, State};
use crate::recipe::{Graph, Kind, Recipe};
use crate::results;
use crate::run::{self, Options, Share};
use crate::watch::Board;

pub(crate) fn run(args: &ArgMatches) -> Result<Output> {
    let graph = inspect::graph(args)?;
    execute(&graph, args, None)
}

/// Runs a checked recipe with the flags of [`super::args`]; `dial` overrules the recipe's own.
pub(crate) fn execute(graph: &Graph, args: &ArgMatches, dial: Option<DialMap>) -> Result<Output> {
    let options = options(args)?;
    let context = context(&graph.recipe, args);
    stop_on_signals(&context)?;
    let url = output_url(&graph.recipe, args);
    if let Some(seat) = other_rank(graph)? {
        let trained = crate::follow::follow(graph, &url, &context, &options, &seat)?;
        let text = format!("rank {} of {} took part in {trained} trainings", seat.rank, seat.size);
        return Ok(Output::new(
            text,
            json!({"output": url, "rank": seat.rank, "trained": trained}),
        ));
    }
    let output = store::Output::open(&url)?;
    let _lease = match options.share {
        Some(share) => output.lock_share(&graph.recipe.name, share.index, share.of)?,
        None => output.lock(&graph.recipe.name)?,
    };
    claim(&output, &graph.recipe)?;
    let world = Replaying::start(&graph.recipe, dial)?;
    // The mark that this folder is ours comes first.
    output.put(RESOLVED, resolved(graph).to_string().into())?;
    output.put("recipe.yaml", graph.recipe.text().to_owned().into())?;
    keep_estimate(graph, &context, &output)?;
    let board = Arc::new(Board::default());
    let metrics = metrics_of(&board, args)?;
    let talk = Talk::new(&board);
    let finished = run::run(graph, &output, &context, &world.dial, &options, &talk)?;
    drop((talk, metrics));
    if options.share.is_none() {
        // What kills left: the lease says that nobody else is at work here.
        output.gc()?;
    }
    let summary = results::summary(&finished.stages);
    let mut text = results::table(&finished.stages);
    if finished.complete && options.until.is_none() {
        let place = results::write_report(&graph.recipe, &output, &finished.stages, None)?;
        text.push_str(&format!("\nreport: {place}\n"));
    } else if !finished.complete {
        text.push_str("\nthis share is done; other shares are still missing\n");
    }
    Ok(Output::new(text, json!({"output": url, "complete": finished.complete, "stages": summary})))
}

/// What was expected before the first unit was made, for the report to hold against what came.
pub(crate) const ESTIMATE: &str = "estimate.json";

fn keep_estimate(graph: &Graph, context: &Context, output: &store::Output) -> Result<()> {
    if output.get(ESTIMATE)?.is_some() {
        return Ok(());
    }
    // A plan that cannot be made is the run's to complain of.
    let Ok(rows) = plan::plan(graph, context, Some(output)) else { return Ok(()) };
    let stages: serde_json::Map<String, Value> =
        rows.iter().map(|row| (row.id.clone(), row.estimate.to_json())).collect();
    output.put(ESTIMATE, Value::Object(stages).to_string().into())
}

/// The seat of a rank other than the first, for a recipe that trains.
fn other_rank(graph: &Graph) -> Result<Option<Seat>> {
    let trains = graph.recipe.stages.iter().any(|entry| matches!(entry.kind, Kind::Train(_)));
    if !trains {
        return Ok(None);
    }
    Ok(Seat::from_process()?.filter(|seat| seat.rank > 0))
}

/// The recipe as it was run; every output has one.
pub(crate) const RESOLVED: &str = "recipe.resolved.json";

/// Refuses a folder with somebody's files in it, and the output of a recipe of another name: both
/// would lose something.
pub(crate) fn claim(output: &store::Output, recipe: &Recipe) -> Result<()> {
    if let Some(name) = output.foreign(RESOLVED)? {
        return Err(Error::conflict(format!("the folder holds `{name}`, which no run wrote"))
            .at(output.url())
            .hint(
                "choose a folder of its own: a run would write recipe.yaml and report.html there",
            ));
    }
    let Some(bytes) = output.get(RESOLVED)? else { return Ok(()) };
    let before: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::store("not JSON").because(e).at(output.locate(RESOLVED)))?;
    match before.get("name").and_then(Value::as_str) {
        Some(name) if name != recipe.name => Err(Error::conflict(format!(
            "this is the output of the recipe `{name}`, not of `{}`",
            recipe.name
        ))
        .at(output.url())
        .hint("choose another output with `--output`")),
        _ => Ok(()),
    }
}

pub(crate) fn plan(args: &ArgMatches) -> Result<Output> {
    let graph = inspect::graph(args)?;
    let url = output_url(&graph.recipe, args);
    let exists = url.contains("://") && !url.starts_with("file://") || Path::new(&url).is_dir();
    let output = if exists { Some(store::Output::open_existing(&url)?) } else { None };
    let rows = plan::plan(&graph, &context(&graph.recipe, args), output.as_ref())?;
    let cost = graph.recipe.cost.as_ref();
    let mut text = format!("output: {url}\n");
    if !exists {
        text.push_str("  it does not exist yet\n");
    }
    for row in &rows {
        text.push_str(&format!("  {:<16} {:<10} {}\n", row.id, row.kind, row.say()));
        if row.state != State::Reuse {
            let money =
                cost.zip(row.estimate.seconds).map(|(cost, s)| format!(", {}", cost.span(s)));
            let money = money.unwrap_or_default();
            text.push_str(&format!("{:30}about {}{money}\n", "", row.estimate.say()));
        }
    }
    if let Some(total) = plan::total(&rows, cost) {
        text.push_str(&format!("\nabout {total}\n"));
    }
    let changed = rows.iter().find(|row| matches!(row.state, State::Changed(_)));
    if let Some(first) = changed {
        let id = &first.id;
        text.push_str(&format!("\n`run --redo {id}` makes {id} and all after it again\n"));
    }
    let stages: Vec<Value> = rows.iter().map(|row| row.to_json(cost)).collect();
    let mut told = json!({"output": url, "exists": exists, "stages": stages});
    if let Some(cost) = cost {
        told["cost"] = json!(cost);
    }
    Ok(Output::new(text, told))
}

pub(crate) fn report(args: &ArgMatches) -> Result<Output> {
    let graph = inspect::graph(args)?;
    let url = output_url(&graph.recipe, args);
    let output = store::Output::open(&url)?;
    let stages = results::finished(&graph, &output)?;
    let place = results::write_report(&graph.recipe, &output, &stages, None)?;
    Ok(Output::new(format!("report: {place}"), json!({"report": place})))
}

pub(crate) fn replay(args: &ArgMatches) -> Result<Output> {
    let warc: Vec<String> =
        args.get_many::<String>("warc").into_iter().flatten().cloned().collect();
    let archive = open_archive(&warc)?;
    let (urls, server) = (archive.len(), archive.serve()?);
    eprintln!("{} URLs on {}; put this into a recipe, stop with Ctrl-C:", urls, server.address());
    eprintln!("dial: {{\"*\": \"{}\"}}", server.address());
    let context = Context::default();
    stop_on_signals(&context)?;
    while !context.cancel.is_cancelled() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(Output::new("", json!({"address": server.address().to_string(), "urls": urls})))
}

/// The hosts that are dialled elsewhere while a recipe runs, and the server behind them.
struct Replaying {
    dial: DialMap,
    _server: Option<ingest::serve::Server>,
}

impl Replaying {
    fn start(recipe: &Recipe, dial: Option<DialMap>) -> Result<Self> {
        if let Some(dial) = dial {
            return Ok(Self { dial, _server: None });
        }
        let Some(replay) = &recipe.replay else {
            return Ok(Self { dial: dial_map(&recipe.dial), _server: None });
        };
        let server = open_archive(&replay.warc)?.serve()?;
        let mut map = recipe.dial.clone();
        map.entry("*".to_owned()).or_insert(server.address());
        Ok(Self { dial: dial_map(&map), _server: Some(server) })
    }
}

fn dial_map(hosts: &std::collections::BTreeMap<String, std::net::SocketAddr>) -> DialMap {
    hosts.iter().fold(DialMap::default(), |map, (host, address)| map.with(host, *address))
}

fn open_archive(patterns: &[String]) -> Result<ingest::replay::Archive> {
    let mut files = Vec::new();
    for pattern in patterns {
        files.extend(store::expand(pattern)?);
    }
    ingest::replay::Archive::open(&files)
}

fn options(args: &ArgMatches) -> Result<Options> {
    let text = |name: &str| args.try_get_one::<String>(name).ok().flatten().cloned();
    let share = match text("units") {
        Some(share) => Some(share.parse::<Share>().map_err(Error::recipe)?),
        None => share::of_engine(&|name| std::env::var(name).ok())?.inspect(|share| {
            // An array may also give each task a run of its own, and then this is not what it wants.
            let Share { index, of } = share;
            eprintln!(
                "units {index}/{of} of every stage, as the variables of the cluster say; \
                 `--units 0/1` is the whole run"
            );
        }),
    };
    let redo = args.try_get_many::<String>("redo").ok().flatten();
    Ok(Options {
        redo: redo.into_iter().flatten().cloned().collect(),
        share,
        apart: args.try_get_one::<bool>("apart").ok().flatten().copied().unwrap_or(false),
        until: text("until"),
    })
}

/// What `--metrics` and `--metrics_file` ask for.
fn metrics_of(board: &Arc<Board>, args: &ArgMatches) -> Result<Metrics> {
    let text = |name: &str| args.try_get_one::<String>(name).ok().flatten();
    let address = text("metrics").map(|text| metrics::address(text)).transpose()?;
    let metrics = Metrics::start(board, address, text("metrics_file").map(Into::into))?;
    if let Some(address) = metrics.address() {
        eprintln!("metrics: http://{address}/metrics");
    }
    Ok(metrics)
}

pub(crate) fn context(recipe: &Recipe, args: &ArgMatches) -> Context {
    let threads = args.try_get_one::<u16>("threads").ok().flatten().map(|n| usize::from(*n));
    let default = Context::default();
    Context {
        seed: recipe.seed,
        threads: threads.or(recipe.threads).unwrap_or(default.threads),
        device: args
            .try_get_one::<stage::Device>("device")
            .ok()
            .flatten()
            .copied()
            .unwrap_or_default(),
        ..default
    }
}

pub(crate) fn output_url(recipe: &Recipe, args: &ArgMatches) -> String {
    let flag = args.try_get_one::<String>("output").ok().flatten();
    flag.cloned().unwrap_or_else(|| recipe.output.clone())
}

/// The first SIGINT or SIGTERM lets the run end in order; a second one ends it at once.
pub(crate) fn stop_on_signals(context: &Context) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        let flag = context.cancel.flag();
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, flag))
            .map_err(|e| Error::internal("cannot install a signal handler").because(e))?;
    }
    Ok(())
}

/// The recipe with every default written out, kept beside the output.
pub(crate) fn resolved(graph: &Graph) -> Value {
    let stages: Vec<Value> = graph
        .nodes
        .iter()
        .map(|node| {
            let kind = &graph.recipe.stages[node.entry].kind;
            json!({"id": node.id, "from": node.inputs, kind.name(): kind.to_json()})
        })
        .collect();
    json!({"version": 1, "name": graph.recipe.name, "seed": graph.recipe.seed, "stages": stages})
}
