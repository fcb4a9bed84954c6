//! The runner: stages in order, unit by unit, each committed before the next is begun.

mod place;
mod share;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ingest::DialMap;
use serde_json::{Value, json};
use stage::{Context, Error, Result};
use store::{Attempt, Commit, Output};

pub(crate) use self::place::{FINISHED, scores_id, stage_file};
use self::place::{Place, finished_before};
pub use self::share::Share;
use crate::recipe::{Graph, Kind, Node};
use crate::stages::{Done, Outcome};
use crate::wall;
use crate::watch::Watch;

/// How to run a recipe.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Ids to make again, with everything after them.
    pub redo: Vec<String>,
    /// Only units `u` with `u % of == share` of stages that have many.
    pub share: Option<Share>,
    /// Run neighbouring map stages apart even where they could be one stream.
    pub apart: bool,
    /// Stop after this stage.
    pub until: Option<String>,
}

/// A finished run.
pub struct Finished {
    /// The stages in the order in which they ran.
    pub stages: Vec<Arc<Done>>,
    /// False when units of other shares are still missing.
    pub complete: bool,
}

/// Runs or resumes a recipe.
///
/// # Errors
/// The first error that stops a stage; what was committed before stays.
pub fn run(
    graph: &Graph,
    output: &Output,
    context: &Context,
    dial: &DialMap,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Finished> {
    for id in options.redo.iter().chain(&options.until) {
        if graph.node(id).is_none() {
            let ids: Vec<&str> = graph.nodes.iter().map(|n| n.id.as_str()).collect();
            return Err(Error::recipe(format!("no stage has the id `{id}`"))
                .hint(format!("ids: {}", ids.join(", "))));
        }
    }
    let mut runner = Runner {
        graph,
        output,
        context,
        dial,
        options,
        watch,
        done: BTreeMap::new(),
        redone: BTreeSet::new(),
        external: external_of_all(graph, output, context)?,
    };
    let mut stages = Vec::new();
    for node in &graph.nodes {
        context.cancel.check()?;
        if runner.done.contains_key(&node.id) {
            continue;
        }
        let Some(finished) = runner.node(node)? else {
            return Ok(Finished { stages, complete: false });
        };
        for done in finished {
            runner.done.insert(done.id.clone(), Arc::clone(&done));
            stages.push(done);
        }
        // One stream finishes two stages.
        if options.until.as_ref().is_some_and(|id| runner.done.contains_key(id)) {
            break;
        }
    }
    Ok(Finished { stages, complete: true })
}

/// What the stages name that no stage makes, looked for before anything runs: a file that is missing
/// for the last stage is better known before the first. What this run's own output holds may come
/// into being meanwhile.
fn external_of_all(
    graph: &Graph,
    output: &Output,
    context: &Context,
) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for node in &graph.nodes {
        match external(&graph.recipe.stages[node.entry].kind, context) {
            Ok(value) => {
                all.insert(node.id.clone(), value);
            }
            Err(error) if error.to_string().contains(output.url()) => {}
            Err(error) => return Err(error.at(format!("stage `{}`", node.id))),
        }
    }
    Ok(all)
}

fn external(kind: &Kind, context: &Context) -> Result<Value> {
    kind.stage().external(context)
}

struct Runner<'a> {
    graph: &'a Graph,
    output: &'a Output,
    context: &'a Context,
    dial: &'a DialMap,
    options: &'a Options,
    watch: &'a dyn Watch,
    done: BTreeMap<String, Arc<Done>>,
    redone: BTreeSet<String>,
    external: BTreeMap<String, Value>,
}

impl Runner<'_> {
    /// Finishes a stage, or two that run as one stream. `None` when other shares are missing.
    fn node(&mut self, node: &Node) -> Result<Option<Vec<Arc<Done>>>> {
        let place = self.place(node)?;
        if let Some(consumer) = self.fusable(node) {
            let after = self.graph.node(&consumer).ok_or_else(|| Error::internal("no consumer"))?;
            return self.fused(&place, after);
        }
        let kind = self.kind(node);
        let stage = kind.stage();
        let started = Instant::now();
        let worker = || stage.worker(&place.site);
        let commits = place.commits()?;
        if let Some(done) = finished_before(&place, &commits) {
            place.site.dir.trim_work()?;
            self.watch.reused(&node.id, kind.name(), &done.counts);
            return Ok(Some(vec![Arc::new(done)]));
        }
        let mut worker = worker().map_err(|e| e.at(format!("stage `{}`", node.id)))?;
        let units = worker.units();
        let missing: Vec<(usize, &String)> =
            units.iter().enumerate().filter(|(_, unit)| !commits.contains_key(*unit)).collect();
        let done = units.len() - missing.len();
        self.watch.begin(&[(&node.id, kind.name())], units.len(), done);
        let mut todo =
            missing.into_iter().filter(|(index, _)| !self.is_of_others(*index, units.len()));
        let make = |unit: &str, run: &mut dyn FnMut(&mut Attempt) -> Result<Outcome>| {
            self.may_go_on()?;
            let began = Instant::now();
            let mut attempt = place.site.dir.begin(unit)?;
            let outcome =
                run(&mut attempt).map_err(|e| e.at(format!("stage `{}`, unit {unit}", node.id)))?;
            let committed = self.commit(attempt, &place.key, outcome, began)?;
            self.watch.unit(&node.id, &committed.counts);
            Ok(())
        };
        if let Some(units) = worker.side_by_side() {
            let todo: Vec<&String> = todo.map(|(_, unit)| unit).collect();
            stage::in_parallel(units.at_once, todo.len(), |i| {
                make(todo[i], &mut |out| (units.run)(todo[i], out))
            })?;
        } else {
            todo.try_for_each(|(_, unit)| make(unit, &mut |out| worker.run(unit, out)))?;
        }
        drop(worker);
        self.finish(&place, &units, started)
    }

    /// Whether another share does this unit.
    fn is_of_others(&self, index: usize, units: usize) -> bool {
        units > 1 && self.options.share.is_some_and(|s| index % s.of as usize != s.index as usize)
    }

    /// Whether the next unit may be begun: nobody asked to stop, and the output is still held. A
    /// commit asks for the lease too; to ask here saves the work that it would refuse.
    fn may_go_on(&self) -> Result<()> {
        self.context.cancel.check()?;
        self.output.check_lease()
    }

    fn finish(
        &self,
        place: &Place,
        units: &[String],
        started: Instant,
    ) -> Result<Option<Vec<Arc<Done>>>> {
        let mut commits = place.site.dir.commits()?;
        let ordered: Vec<Commit> = units.iter().filter_map(|unit| commits.remove(unit)).collect();
        if ordered.len() < units.len() {
            return Ok(None);
        }
        let done = place.done(ordered);
        // That nothing is left to be retried is good news.
        let retry = matches!(&place.kind, Kind::Fetch(plan) if plan.retry_failed);
        if done.counts.entered == 0 && place.kind.info().counts_samples() && !retry {
            let from: Vec<&str> = done.inputs.iter().map(|input| input.id.as_str()).collect();
            let error = Error::input("not one sample entered").at(format!("stage `{}`", done.id));
            return Err(if from.is_empty() {
                error.hint("the files that it names are empty or of another kind")
            } else {
                error.hint(format!("look at what came out of {}", from.join(", ")))
            });
        }
        done.counts.check().map_err(|e| e.at(format!("stage `{}`", done.id)))?;
        place.site.dir_put_finished(place.kind.stage(), &done)?;
        place.site.dir.trim_work()?;
        self.watch.end(&done.id, done.kind, &done.counts, started.elapsed().as_secs_f64());
        Ok(Some(vec![Arc::new(done)]))
    }

    /// Commits a unit with when its work began, how many seconds it took, and of which share of the
    /// units it is.
    fn commit(
        &self,
        attempt: Attempt,
        key: &str,
        outcome: Outcome,
        began: Instant,
    ) -> Result<Commit> {
        let mut info = match outcome.info {
            Value::Object(map) => map,
            Value::Null => serde_json::Map::new(),
            other => serde_json::Map::from_iter([("info".to_owned(), other)]),
        };
        // The monotonic clock says how long, the other one when.
        let took = began.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        info.insert(wall::BEGAN.to_owned(), json!(now.saturating_sub(took).as_secs_f64()));
        info.insert(wall::SECONDS.to_owned(), json!(took.as_secs_f64()));
        if let Some(Share { index, of }) = self.options.share.filter(|share| share.of > 1) {
            info.insert(wall::SHARE.to_owned(), json!(format!("{index}/{of}")));
        }
        let committed = attempt.commit(key, outcome.counts, Value::Object(info))?;
        if committed.key == key { Ok(committed) } else { Err(of_another_key(&committed.unit)) }
    }
}

fn of_another_key(unit: &str) -> Error {
    Error::conflict(format!("unit {unit} was committed under another key"))
        .hint("another run with another recipe writes to this output; stop one, then use `--redo`")
}
