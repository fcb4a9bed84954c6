//! A run as a rank other than the first: it takes part in the trainings of a recipe, and writes
//! nothing. Rank 0 does all other stages; what they give is waited for.
//!
//! What is finished in the output is a promise only where this run makes nothing of it again. With
//! `--redo` of a stage upstream the meeting with rank 0 is what says that the new one is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::train::ranks::environment::Seat;
use ingest::DialMap;
use stage::{Context, Result};
use store::Output;

use crate::key::Identities;
use crate::recipe::{Graph, Kind, Node};
use crate::results;
use crate::run::Options;
use crate::stages::{Done, Site, train};

/// How often to look whether rank 0 has finished what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes part in every training of the recipe that is not finished. Returns how many.
///
/// # Errors
/// The first training that fails, or an interruption.
pub(crate) fn follow(
    graph: &Graph,
    url: &str,
    context: &Context,
    options: &Options,
    seat: &Seat,
) -> Result<usize> {
    let (mut trained, mut redone) = (0, BTreeSet::<&String>::new());
    for node in &graph.nodes {
        // As for rank 0: with a stage, all that take from it are made again.
        let taken = || node.inputs.iter().chain(&node.references);
        let again = options.redo.contains(&node.id) || taken().any(|id| redone.contains(id));
        if again {
            redone.insert(&node.id);
        }
        if let Kind::Train(plan) = &graph.recipe.stages[node.entry].kind {
            let waits = taken().any(|id| redone.contains(id));
            let look = || {
                let (output, found) = inputs(graph, node, url, context)?;
                Ok(site(&output, node, &found, context))
            };
            if again || !is_finished(graph, node, url, context)? {
                let (id, look) = (node.id.as_str(), &look as &dyn Fn() -> Result<Site>);
                train::Follower { plan, id, seat, context, waits, look }
                    .train()
                    .map_err(|e| e.at(format!("stage `{}`", node.id)))?;
                trained += 1;
            }
        }
        if options.until.as_ref() == Some(&node.id) {
            break;
        }
    }
    Ok(trained)
}

/// Whether a training that nobody wants again is finished, once all that it takes is.
fn is_finished(graph: &Graph, node: &Node, url: &str, context: &Context) -> Result<bool> {
    let (output, found) = inputs(graph, node, url, context)?;
    let site = site(&output, node, &found, context);
    let same = |done: &Arc<Done>| key(graph, node, &site).is_ok_and(|key| key == done.key);
    Ok(found.get(&node.id).is_some_and(same))
}

/// The output and its finished stages, once all that this one takes are among them.
fn inputs(
    graph: &Graph,
    node: &Node,
    url: &str,
    context: &Context,
) -> Result<(Output, BTreeMap<String, Arc<Done>>)> {
    loop {
        context.cancel.check()?;
        if let Ok(output) = Output::open_existing(url) {
            // An output in which nothing is finished yet is none to read.
            let found = results::finished(graph, &output).unwrap_or_default();
            let found: BTreeMap<_, _> =
                found.into_iter().map(|done| (done.id.clone(), done)).collect();
            if node.inputs.iter().chain(&node.references).all(|id| found.contains_key(id)) {
                return Ok((output, found));
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn site(
    output: &Output,
    node: &Node,
    found: &BTreeMap<String, Arc<Done>>,
    context: &Context,
) -> Site {
    let done = |id: &String| found.get(id).cloned();
    Site {
        id: node.id.clone(),
        context: context.clone(),
        dir: output.stage(&node.id),
        scores: None,
        inputs: node.inputs.iter().filter_map(done).collect(),
        references: node.references.iter().filter_map(|id| Some((id.clone(), done(id)?))).collect(),
        dial: DialMap::default(),
    }
}

/// The key that this stage has for rank 0.
fn key(graph: &Graph, node: &Node, site: &Site) -> Result<String> {
    let kind = &graph.recipe.stages[node.entry].kind;
    let external = kind.stage().external(&site.context)?;
    let inputs: Vec<String> = site.inputs.iter().map(|done| done.key.clone()).collect();
    let references = site.references.iter().map(|(id, done)| (id.clone(), done.key.clone()));
    let identities = Identities::of(kind, &site.context, &external, &inputs, &references.collect());
    Ok(identities.stage.key())
}
