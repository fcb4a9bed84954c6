//! The runner: stages in order, unit by unit, each committed before the next is begun.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ingest::DialMap;
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::{Attempt, Commit, Output};

use crate::key::{self, Identities, Identity};
use crate::recipe::{Graph, Kind, Node};
use crate::stages::{Done, Outcome, Scores, Site, fused};

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

/// One share of the units: `3/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if of > 0 && index < of => Ok(Self { index, of }),
            _ => Err(format!(
                "`{text}` is no share; write `3/16` for units 3, 19, 35, ... counted from 0"
            )),
        }
    }
}

/// What the runner tells whoever watches.
pub trait Watch: Send + Sync {
    /// A stage begins.
    fn begin(&self, id: &str, kind: &str, units: usize, done: usize);
    /// A stage was found finished.
    fn reused(&self, id: &str, kind: &str, counts: &Counts);
    /// A stage is finished.
    fn end(&self, id: &str, kind: &str, counts: &Counts, seconds: f64);
    /// The progress to hand to a stage.
    fn progress(&self, id: &str) -> Arc<dyn stage::Progress>;
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
        self.watch.begin(&node.id, kind.name(), units.len(), units.len() - missing.len());
        for (index, unit) in &missing {
            if units.len() > 1 && self.options.share.is_some_and(|s| index % s.of != s.index) {
                continue;
            }
            place.site.check_cancelled()?;
            let began = Instant::now();
            let mut attempt = place.site.dir.begin(unit)?;
            let outcome = worker
                .run(unit, &mut attempt)
                .map_err(|e| e.at(format!("stage `{}`, unit {unit}", node.id)))?;
            commit(attempt, &place.key, outcome, began)?;
        }
        drop(worker);
        self.finish(&place, &units, started)
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
        place.site.dir_put_finished(&done)?;
        place.site.dir.trim_work()?;
        self.watch.end(&done.id, done.kind, &done.counts, started.elapsed().as_secs_f64());
        Ok(Some(vec![Arc::new(done)]))
    }

    /// The one judge that takes this fetch's shards as a stream, if nothing else it needs is
    /// missing.
    fn fusable(&self, node: &Node) -> Option<String> {
        if self.options.apart || !matches!(self.kind(node), Kind::Fetch(_)) {
            return None;
        }
        let mut consumers = self.graph.nodes.iter().filter(|n| n.inputs.contains(&node.id));
        let judge = consumers.find(|n| matches!(self.kind(n), Kind::Judge(_)))?;
        let ready = judge.references.iter().all(|id| self.done.contains_key(id));
        (judge.inputs == [node.id.clone()] && ready).then(|| judge.id.clone())
    }

    fn fused(&mut self, fetch: &Place, judge: &Node) -> Result<Option<Vec<Arc<Done>>>> {
        let started = Instant::now();
        let mut place = self.place_with(judge, |id| {
            (id == fetch.site.id).then(|| Arc::new(fetch.done(Vec::new())))
        })?;
        let (fetched, judged) = (fetch.commits()?, place.commits()?);
        let units = match (finished_before(fetch, &fetched), finished_before(&place, &judged)) {
            (Some(fetch), Some(judge)) => {
                self.watch.reused(&fetch.id, fetch.kind, &fetch.counts);
                self.watch.reused(&judge.id, judge.kind, &judge.counts);
                // The judge was placed before its input's units were known.
                let fetch = Arc::new(fetch);
                let judge = Done { inputs: vec![Arc::clone(&fetch)], ..judge };
                return Ok(Some(vec![fetch, Arc::new(judge)]));
            }
            _ => {
                let (Kind::Fetch(fetch_plan), Kind::Judge(judge_plan)) = (&fetch.kind, &place.kind)
                else {
                    return Err(Error::internal("only fetch and judge run as one stream"));
                };
                let mut stream =
                    fused::Stream::open(fetch_plan, &fetch.site, judge_plan, &place.site).map_err(
                        |e| e.at(format!("stages `{}` and `{}`", fetch.site.id, judge.id)),
                    )?;
                let units = stream.units();
                let missing = units
                    .iter()
                    .filter(|u| !judged.contains_key(*u) || !fetched.contains_key(*u))
                    .count();
                let name = format!("{} + {}", fetch.site.id, judge.id);
                self.watch.begin(&name, "one stream", units.len(), units.len() - missing);
                for (index, unit) in units.iter().enumerate() {
                    if units.len() > 1
                        && self.options.share.is_some_and(|s| index % s.of != s.index)
                    {
                        continue;
                    }
                    fetch.site.check_cancelled()?;
                    let began = Instant::now();
                    let at = |e: Error| e.at(format!("stages `{name}`, unit {unit}"));
                    match (fetched.contains_key(unit), judged.contains_key(unit)) {
                        (true, true) => {}
                        (false, _) => {
                            let mut parts = stream.begin(unit, place.site.dir.begin(unit)?)?;
                            let (a, mut b) = stream.run(unit, &mut parts).map_err(at)?;
                            let ours = parts.shard.name();
                            if commit(parts.shard, &fetch.key, a, began)?.attempt == ours {
                                stream.commit_scores(parts.scores)?;
                            } else {
                                // Another run's shard stands: these scores are of other pictures.
                                parts.verdicts = place.site.dir.begin(unit)?;
                                b = stream.judge_apart(unit, &mut parts.verdicts).map_err(at)?;
                            }
                            commit(parts.verdicts, &place.key, b, began)?;
                        }
                        (true, false) => {
                            let mut verdicts = place.site.dir.begin(unit)?;
                            let outcome = stream.judge_apart(unit, &mut verdicts).map_err(at)?;
                            commit(verdicts, &place.key, outcome, began)?;
                        }
                    }
                }
                units
            }
        };
        let Some(mut first) = self.finish(fetch, &units, started)? else { return Ok(None) };
        place.site.inputs = vec![Arc::clone(&first[0])];
        let Some(second) = self.finish(&place, &units, started)? else { return Ok(None) };
        first.extend(second);
        Ok(Some(first))
    }

    fn kind(&self, node: &Node) -> &Kind {
        &self.graph.recipe.stages[node.entry].kind
    }

    fn place(&mut self, node: &Node) -> Result<Place> {
        self.place_with(node, |_| None)
    }

    /// The stage's folder with its key checked: another recipe's output is refused or, with
    /// `--redo`, cleared.
    fn place_with(
        &mut self,
        node: &Node,
        extra: impl Fn(&str) -> Option<Arc<Done>>,
    ) -> Result<Place> {
        let kind = self.kind(node).clone();
        let find = |id: &String| {
            extra(id)
                .or_else(|| self.done.get(id).map(Arc::clone))
                .ok_or_else(|| Error::internal(format!("stage `{id}` has not run")))
        };
        let inputs: Vec<Arc<Done>> = node.inputs.iter().map(find).collect::<Result<_>>()?;
        let references: BTreeMap<String, Arc<Done>> =
            node.references.iter().map(|id| Ok((id.clone(), find(id)?))).collect::<Result<_>>()?;
        let input_keys: Vec<String> = inputs.iter().map(|done| done.key.clone()).collect();
        let reference_keys =
            references.iter().map(|(id, done)| (id.clone(), done.key.clone())).collect();
        let external = match self.external.remove(&node.id) {
            Some(external) => external,
            None => {
                external(&kind, self.context).map_err(|e| e.at(format!("stage `{}`", node.id)))?
            }
        };
        let identities =
            Identities::of(&kind, self.context, &external, &input_keys, &reference_keys);
        let inherited =
            node.inputs.iter().chain(&node.references).any(|id| self.redone.contains(id));
        let redo = inherited || self.options.redo.contains(&node.id);
        let dir = self.output.stage(&node.id);
        let name = stage_file(&node.id);
        let before = self.output.get(&name)?.map(|bytes| key::parse(&bytes)).transpose()?;
        let unchanged = before.as_ref() == Some(&identities.stage.0);
        // What failed before it made anything is corrected without a word.
        let redo = redo || (before.is_some() && !unchanged && dir.is_unused()?);
        if let Some(before) = before.as_ref().filter(|_| !unchanged && !redo) {
            let differences = identities.stage.differences(before);
            let scores = match &identities.scores {
                Some(scores) => self.scores_there(node, scores)?,
                None => false,
            };
            return Err(key::changed(&node.id, &differences, scores));
        }
        let scores = match &identities.scores {
            // Asked to make again what is unchanged, or with other inputs: the scores too.
            Some(scores) => Some(self.scores(node, scores, inherited || (redo && unchanged))?),
            None => None,
        };
        if redo && self.redone.insert(node.id.clone()) {
            dir.clear()?;
        }
        if redo || before.is_none() {
            self.output.put(&name, identities.stage.0.to_string().into())?;
        }
        let context = Context { progress: self.watch.progress(&node.id), ..self.context.clone() };
        let (id, dial) = (node.id.clone(), self.dial.clone());
        let site = Site { id, context, dir, scores, inputs, references, dial };
        Ok(Place { key: identities.stage.key(), site, kind })
    }

    /// Where a stage's scores lie. Those that were made otherwise are cleared, and with `again`
    /// all.
    fn scores(&self, node: &Node, identity: &Identity, again: bool) -> Result<Scores> {
        let dir = self.output.stage(&scores_id(&node.id));
        if again || !self.scores_there(node, identity)? {
            dir.clear()?;
            let name = stage_file(&scores_id(&node.id));
            self.output.put(&name, identity.0.to_string().into())?;
        }
        Ok(Scores { dir, key: identity.key() })
    }

    /// Whether the scores that lie there were made as this identity says.
    fn scores_there(&self, node: &Node, identity: &Identity) -> Result<bool> {
        let before = self.output.get(&stage_file(&scores_id(&node.id)))?;
        Ok(before.map(|bytes| key::parse(&bytes)).transpose()?.as_ref() == Some(&identity.0))
    }
}

/// The record of what a stage's key is made of.
pub(crate) fn stage_file(id: &str) -> String {
    format!("{id}/_stage.json")
}

/// The folder of a stage's scores: no id has a dot.
pub(crate) fn scores_id(id: &str) -> String {
    format!("{id}.scores")
}

/// A stage in its folder.
struct Place {
    kind: Kind,
    key: String,
    site: Site,
}

impl Place {
    /// The stage's commit records.
    ///
    /// # Errors
    /// A unit that was made under another key: by a process that slept while its stage was cleared.
    fn commits(&self) -> Result<BTreeMap<String, Commit>> {
        let commits = self.site.dir.commits()?;
        match commits.values().find(|commit| commit.key != self.key) {
            Some(other) => Err(of_another_key(&other.unit)),
            None => Ok(commits),
        }
    }

    fn done(&self, commits: Vec<Commit>) -> Done {
        let mut counts = Counts::default();
        for commit in &commits {
            counts.merge(&commit.counts);
        }
        Done {
            id: self.site.id.clone(),
            kind: self.kind.name(),
            noun: self.kind.info().gives,
            key: self.key.clone(),
            dir: self.site.dir.clone(),
            commits,
            counts,
            inputs: self.site.inputs.clone(),
            plan: self.kind.to_json(),
        }
    }
}

/// The marker that all units of a stage are there: it lists them, so that a finished stage is
/// known without opening its inputs.
pub(crate) const FINISHED: &str = "_finished";

fn finished_before(place: &Place, commits: &BTreeMap<String, Commit>) -> Option<Done> {
    let units = commits.get(FINISHED)?.info.get("units")?.as_array()?;
    let ordered: Vec<Commit> =
        units.iter().map(|unit| commits.get(unit.as_str()?).cloned()).collect::<Option<_>>()?;
    Some(place.done(ordered))
}

impl Site {
    fn dir_put_finished(&self, done: &Done) -> Result<()> {
        if self.dir.commit(FINISHED)?.is_some() {
            return Ok(());
        }
        let units: Vec<&str> = done.commits.iter().map(|c| c.unit.as_str()).collect();
        self.dir.begin(FINISHED)?.commit(&done.key, Counts::default(), json!({"units": units}))?;
        Ok(())
    }
}

fn commit(attempt: Attempt, key: &str, outcome: Outcome, began: Instant) -> Result<Commit> {
    let mut info = match outcome.info {
        Value::Object(map) => map,
        Value::Null => serde_json::Map::new(),
        other => serde_json::Map::from_iter([("info".to_owned(), other)]),
    };
    info.insert("seconds".to_owned(), json!(began.elapsed().as_secs_f64()));
    let committed = attempt.commit(key, outcome.counts, Value::Object(info))?;
    if committed.key == key { Ok(committed) } else { Err(of_another_key(&committed.unit)) }
}

fn of_another_key(unit: &str) -> Error {
    Error::conflict(format!("unit {unit} was committed under another key"))
        .hint("another run with another recipe writes to this output; stop one, then use `--redo`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_an_index_and_a_count() {
        assert_eq!("3/16".parse::<Share>().unwrap(), Share { index: 3, of: 16 });
        assert!("16/16".parse::<Share>().unwrap_err().contains("3/16"));
        assert!("x".parse::<Share>().is_err());
    }
}
