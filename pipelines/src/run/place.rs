//! A stage in its folder, under its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Commit;

use super::{Runner, external, of_another_key};
use crate::key::{self, Identities, Identity};
use crate::recipe::{Kind, Node};
use crate::stages::{Done, Scores, Site, Stage};

impl Runner<'_> {
    pub(super) fn kind(&self, node: &Node) -> &Kind {
        &self.graph.recipe.stages[node.entry].kind
    }

    pub(super) fn place(&mut self, node: &Node) -> Result<Place> {
        self.place_with(node, |_| None)
    }

    /// The stage's folder with its key checked: another recipe's output is refused or, with
    /// `--redo`, cleared.
    pub(super) fn place_with(
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
        if redo || before.is_none() {
            self.check_revoked(node)?;
        }
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
        Ok(Place { key: identities.stage.key(), identity: identities.stage.0, site, kind })
    }

    /// Pairs were taken out of a release that is marked as revoked: made again, it would have them.
    fn check_revoked(&self, node: &Node) -> Result<()> {
        let mark = format!("{}/{}", node.id, shard::release::REVOKED);
        if self.output.get(&mark)?.is_none() {
            return Ok(());
        }
        Err(Error::conflict("pairs were purged from this release, and to make it again would bring them back")
            .at(self.output.locate(&mark))
            .hint("put what was asked for on the fetcher's opt-out list and release under another `id`; or, when nothing of this release is public, remove its folder and those of its versions"))
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
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) key: String,
    /// What the key is the hash of.
    pub(super) identity: Value,
    pub(super) site: Site,
}

impl Place {
    /// The stage's commit records.
    ///
    /// # Errors
    /// A unit that was made under another key: by a process that slept while its stage was cleared.
    pub(super) fn commits(&self) -> Result<BTreeMap<String, Commit>> {
        let commits = self.site.dir.commits()?;
        match commits.values().find(|commit| commit.key != self.key) {
            Some(other) => Err(of_another_key(&other.unit)),
            None => Ok(commits),
        }
    }

    pub(super) fn done(&self, commits: Vec<Commit>) -> Done {
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
            references: self.site.references.values().map(Arc::clone).collect(),
            identity: self.identity.clone(),
            plan: self.kind.to_json(),
        }
    }
}

/// The marker that all units of a stage are there: it lists them, so that a finished stage is
/// known without opening its inputs.
pub(crate) const FINISHED: &str = "_finished";

pub(super) fn finished_before(place: &Place, commits: &BTreeMap<String, Commit>) -> Option<Done> {
    let units = commits.get(FINISHED)?.info.get("units")?.as_array()?;
    let ordered: Vec<Commit> =
        units.iter().map(|unit| commits.get(unit.as_str()?).cloned()).collect::<Option<_>>()?;
    Some(place.done(ordered))
}

impl Site {
    pub(super) fn dir_put_finished(&self, stage: &dyn Stage, done: &Done) -> Result<()> {
        if self.dir.commit(FINISHED)?.is_some() {
            return Ok(());
        }
        let units: Vec<&str> = done.commits.iter().map(|c| c.unit.as_str()).collect();
        let mut attempt = self.dir.begin(FINISHED)?;
        stage.finish(done, &mut attempt).map_err(|e| e.at(format!("stage `{}`", done.id)))?;
        attempt.commit(&done.key, Counts::default(), json!({"units": units}))?;
        Ok(())
    }
}
