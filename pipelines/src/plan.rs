//! `plan`: what a run would do with each stage, and why; looks only.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stage::{Context, Result};
use store::{Commit, Output};

use crate::cost::Cost;
use crate::estimate::{self, Estimate, Estimator, span};
use crate::key::{self, Identities};
use crate::recipe::{Graph, Node};
use crate::run::{FINISHED, scores_id, stage_file};
use crate::wall;

/// What a run would do with a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Finished under this key: used as it is.
    Reuse,
    /// So many of its units are committed under this key.
    GoOn(usize),
    /// Nothing of it is there.
    Make,
    /// It was made by another recipe; the differences, field by field. A run refuses it without
    /// `--redo`.
    Changed(Vec<String>),
    /// A file that it names cannot be read.
    Unknown(String),
}

/// One stage of a plan.
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) state: State,
    /// Whether scores of an earlier verdict can be used again.
    pub(crate) scores: bool,
    /// Committed units, bytes and seconds so far; of units side by side each second once.
    pub(crate) units: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// What it takes, or has taken.
    pub(crate) estimate: Estimate,
}

/// Compares the recipe with what lies in the output, if there is one.
///
/// # Errors
/// When the output cannot be read.
pub(crate) fn plan(graph: &Graph, context: &Context, output: Option<&Output>) -> Result<Vec<Row>> {
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    // Stages that a run would make again, or whose key is not known.
    let mut unsure: BTreeSet<String> = BTreeSet::new();
    let mut estimator = Estimator::default();
    let mut rows = Vec::new();
    for node in &graph.nodes {
        let kind = &graph.recipe.stages[node.entry].kind;
        let commits = match output {
            Some(output) => output.stage(&node.id).commits()?,
            None => BTreeMap::new(),
        };
        let made = || commits.values().filter(|commit| commit.unit != FINISHED);
        let mut row = Row {
            id: node.id.clone(),
            kind: kind.name(),
            state: State::Make,
            scores: false,
            units: made().count(),
            bytes: made().flat_map(|commit| &commit.files).map(|file| file.bytes).sum(),
            seconds: wall::seconds(made()),
            estimate: Estimate::unknown(),
        };
        let mut named = Value::Null;
        let inputs: Vec<String> =
            node.inputs.iter().filter_map(|id| keys.get(id).cloned()).collect();
        let references = node
            .references
            .iter()
            .filter_map(|id| Some((id.clone(), keys.get(id)?.clone())))
            .collect();
        match kind.stage().external(context) {
            Ok(external) => {
                let identities = Identities::of(kind, context, &external, &inputs, &references);
                named = external;
                keys.insert(node.id.clone(), identities.stage.key());
                if let Some(output) = output {
                    row.state = state(output, node, &identities, &commits)?;
                    row.scores = scores_there(output, &node.id, &identities)?;
                }
            }
            Err(error) => {
                keys.insert(node.id.clone(), String::new());
                row.state = State::Unknown(error.to_string());
            }
        }
        let done = row.state == State::Reuse;
        row.estimate = estimator.next(node, kind, &named, &commits, done, context);
        let above: Vec<&String> =
            node.inputs.iter().chain(&node.references).filter(|id| unsure.contains(*id)).collect();
        if let State::Changed(differences) = &mut row.state {
            // A hash says nothing; which stage it belongs to does.
            differences
                .retain(|line| !line.starts_with("inputs") && !line.starts_with("references"));
            differences.extend(above.iter().map(|id| format!("`{id}` above it is made again")));
            if differences.is_empty() {
                differences.push("it takes other stages than before".to_owned());
            }
        }
        if !matches!(row.state, State::Reuse | State::GoOn(_)) && row.units > 0 {
            unsure.insert(node.id.clone());
        }
        rows.push(row);
    }
    Ok(rows)
}

fn state(
    output: &Output,
    node: &Node,
    identities: &Identities,
    commits: &BTreeMap<String, Commit>,
) -> Result<State> {
    let Some(before) = output.get(&stage_file(&node.id))? else { return Ok(State::Make) };
    let differences = identities.stage.differences(&key::parse(&before)?);
    if !differences.is_empty() {
        // What failed before it made anything is corrected without `--redo`, as in a run.
        let unused = output.stage(&node.id).is_unused()?;
        return Ok(if unused { State::Make } else { State::Changed(differences) });
    }
    Ok(match (commits.contains_key(FINISHED), commits.len()) {
        (true, _) => State::Reuse,
        (false, 0) => State::Make,
        (false, units) => State::GoOn(units),
    })
}

fn scores_there(output: &Output, id: &str, identities: &Identities) -> Result<bool> {
    let Some(scores) = &identities.scores else { return Ok(false) };
    let before = output.get(&stage_file(&scores_id(id)))?;
    Ok(before.map(|bytes| key::parse(&bytes)).transpose()?.as_ref() == Some(&scores.0))
}

impl Row {
    /// What a person reads.
    pub(crate) fn say(&self) -> String {
        let scores = if self.scores { "; its scores are used again" } else { "" };
        match &self.state {
            State::Reuse => format!(
                "reuse: {} units, {}, made in {:.1} s",
                self.units,
                bytes(self.bytes),
                self.seconds
            ),
            State::GoOn(units) => format!("go on: {units} units are committed"),
            State::Make => "make: nothing of it is there".to_owned(),
            State::Changed(differences) => {
                format!("changed, needs --redo{scores}\n        {}", differences.join("\n        "))
            }
            State::Unknown(error) => format!("cannot say: {error}"),
        }
    }

    /// The row as JSON; with a price, `cost` is its expected price from and to.
    pub(crate) fn to_json(&self, cost: Option<&Cost>) -> Value {
        let (state, why) = match &self.state {
            State::Reuse => ("reuse", Vec::new()),
            State::GoOn(_) => ("go_on", Vec::new()),
            State::Make => ("make", Vec::new()),
            State::Changed(differences) => ("changed", differences.clone()),
            State::Unknown(error) => ("unknown", vec![error.clone()]),
        };
        let mut row = json!({
            "id": self.id, "kind": self.kind, "state": state, "why": why, "scores_reused": self.scores,
            "units": self.units, "bytes": self.bytes, "seconds": self.seconds,
            "estimate": self.estimate.to_json(),
        });
        if let Some(cost) = cost {
            row["cost"] =
                json!(self.estimate.seconds.map(|(low, high)| [cost.of(low), cost.of(high)]));
        }
        row
    }
}

/// What all stages that are not there yet take together; of memory the most that one takes.
pub(crate) fn total(rows: &[Row], cost: Option<&Cost>) -> Option<String> {
    let open: Vec<&Estimate> =
        rows.iter().filter(|row| row.state != State::Reuse).map(|row| &row.estimate).collect();
    if open.is_empty() {
        return None;
    }
    let sum = |of: &dyn Fn(&Estimate) -> (f64, f64)| {
        open.iter().map(|e| of(e)).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let written = span(sum(&|e| e.bytes), &|n| estimate::bytes(n));
    let seconds = sum(&|e| e.seconds.unwrap_or_default());
    let taken = span(seconds, &|n| estimate::time(n));
    let money = cost.map(|cost| format!(", {}", cost.span(seconds))).unwrap_or_default();
    // What was measured says nothing of memory.
    let most = open.iter().filter_map(|e| e.memory).map(|m| m.1).reduce(f64::max);
    let memory = most.map(|most| format!("; at most {} of memory", estimate::bytes(most)));
    let unknown = open.iter().filter(|e| e.seconds.is_none()).count();
    let rest = match unknown {
        0 => String::new(),
        n => format!(", and {n} stages whose time is known once they have run"),
    };
    Some(format!("{written} to write, {taken}{money}{rest}{}", memory.unwrap_or_default()))
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}
