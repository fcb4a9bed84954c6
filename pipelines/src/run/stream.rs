//! `fetch` and `judge` as one stream: which stages may, and how their units are committed.

use std::sync::Arc;
use std::time::Instant;

use stage::{Error, Result};

use super::Runner;
use super::place::{Place, finished_before};
use crate::recipe::{Kind, Node};
use crate::stages::{Done, fused};

impl Runner<'_> {
    /// The one judge that takes this fetch's shards as a stream, if nothing else it needs is
    /// missing.
    pub(super) fn fusable(&self, node: &Node) -> Option<String> {
        if self.options.apart || !matches!(self.kind(node), Kind::Fetch(_)) {
            return None;
        }
        let mut consumers = self.graph.nodes.iter().filter(|n| n.inputs.contains(&node.id));
        let judge = consumers.find(|n| matches!(self.kind(n), Kind::Judge(_)))?;
        let ready = judge.references.iter().all(|id| self.done.contains_key(id));
        (judge.inputs == [node.id.clone()] && ready).then(|| judge.id.clone())
    }

    pub(super) fn fused(&mut self, fetch: &Place, judge: &Node) -> Result<Option<Vec<Arc<Done>>>> {
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
                let (a, b) = (&fetch.site.id, &judge.id);
                let both = [(a.as_str(), fetch.kind.name()), (b.as_str(), place.kind.name())];
                self.watch.begin(&both, units.len(), units.len() - missing);
                for (index, unit) in units.iter().enumerate() {
                    if self.is_of_others(index, units.len()) {
                        continue;
                    }
                    self.may_go_on()?;
                    let began = Instant::now();
                    let at = |e: Error| e.at(format!("stages `{name}`, unit {unit}"));
                    match (fetched.contains_key(unit), judged.contains_key(unit)) {
                        (true, true) => {}
                        (false, _) => {
                            let mut parts = stream.begin(unit, place.site.dir.begin(unit)?)?;
                            let (a, mut b) = stream.run(unit, &mut parts).map_err(at)?;
                            let ours = parts.shard.name();
                            let shard = self.commit(parts.shard, &fetch.key, a, began)?;
                            self.watch.unit(&fetch.site.id, &shard.counts);
                            if shard.attempt == ours {
                                stream.commit_scores(parts.scores)?;
                            } else {
                                // Another run's shard stands: these scores are of other pictures.
                                parts.verdicts = place.site.dir.begin(unit)?;
                                b = stream.judge_apart(unit, &mut parts.verdicts).map_err(at)?;
                            }
                            let judged = self.commit(parts.verdicts, &place.key, b, began)?;
                            self.watch.unit(&judge.id, &judged.counts);
                        }
                        (true, false) => {
                            let mut verdicts = place.site.dir.begin(unit)?;
                            let outcome = stream.judge_apart(unit, &mut verdicts).map_err(at)?;
                            let judged = self.commit(verdicts, &place.key, outcome, began)?;
                            self.watch.unit(&judge.id, &judged.counts);
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
}
