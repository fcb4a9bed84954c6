//! The steps of a run: what the nodes of a graph become when a file is opened.
//!
//! Nodes whose output nobody reads are left out. A normalisation behind a convolution that nobody
//! else reads goes into its weights, and a function of single numbers behind that is applied where
//! the convolution writes. The first changes the rounding: a weight is rounded once to
//! f32(w · factor), with the factor in f64, where the network would round each sum times the factor;
//! so does the bias, f32(b · factor + summand). The second changes nothing. Only a weight with one
//! reader takes a normalisation, and only one: the plan never holds more than the file does.

use std::collections::{HashMap, HashSet};

use stage::{Error, Result};

use super::array::{Array, Numbers};
use super::graph::Graph;
use super::numbers::channels;
use super::ops::Op;

/// Where an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// It is left out.
    Absent,
    Weight(usize),
    /// What a step made, or 0: the input of the network.
    Value(usize),
}

#[derive(Debug)]
pub(super) struct Step {
    /// Name and operator of its node.
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) inputs: Vec<Source>,
    /// Number of its value.
    pub(super) output: usize,
    /// Values that nobody reads after it.
    pub(super) done: Vec<usize>,
    /// Whether it is the only and last reader of its first input.
    pub(super) owns_first: bool,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) weights: Vec<Array>,
    pub(super) outputs: Vec<Source>,
    /// How many values there are.
    pub(super) values: usize,
}

impl Plan {
    pub(super) fn of(mut graph: Graph) -> Result<Self> {
        let mut steps = Vec::with_capacity(graph.nodes.len());
        for node in &mut graph.nodes {
            let op = Op::of(node, graph.opset, &graph.weights)
                .map_err(|e| e.at(format!("node {} ({})", node.name, node.op)))?;
            steps.push(op);
        }
        let mut sources = HashMap::from([("", Source::Absent)]);
        let (names, weights): (Vec<String>, Vec<Array>) = graph.weights.into_iter().unzip();
        for (i, name) in names.iter().enumerate() {
            sources.insert(name, Source::Weight(i));
        }
        sources.insert(&graph.input.0, Source::Value(0));
        let find = |sources: &HashMap<&str, Source>, name: &str| {
            let source = sources.get(name).copied();
            source.ok_or_else(|| Error::model(format!("nothing makes the value `{name}`")))
        };
        let mut plan = Self {
            steps: Vec::with_capacity(steps.len()),
            weights,
            outputs: Vec::new(),
            values: steps.len() + 1,
        };
        for (i, (node, op)) in graph.nodes.iter().zip(steps).enumerate() {
            let at = |e: Error| e.at(format!("node {} ({})", node.name, node.op));
            let inputs = node.inputs.iter().map(|name| find(&sources, name));
            let inputs = inputs.collect::<Result<Vec<_>>>().map_err(at)?;
            let output = node.outputs.first().filter(|name| !name.is_empty());
            let output = output.ok_or_else(|| at(Error::model("it has no output")))?;
            if sources.insert(output, Source::Value(i + 1)).is_some() {
                return Err(at(Error::model(format!("two values of the name `{output}`"))));
            }
            let name = format!("{} ({})", node.name, node.op);
            let (done, owns_first) = (Vec::new(), false);
            plan.steps.push(Step { name, op, inputs, output: i + 1, done, owns_first });
        }
        for name in &graph.outputs {
            match find(&sources, name)? {
                Source::Absent => return Err(Error::model("an output without a name")),
                source => plan.outputs.push(source),
            }
        }
        plan.leave_out();
        plan.join();
        plan.forget();
        Ok(plan)
    }

    /// Leaves out what nobody reads.
    fn leave_out(&mut self) {
        let mut read: HashSet<Source> = self.outputs.iter().copied().collect();
        let mut steps = std::mem::take(&mut self.steps);
        steps.reverse();
        steps.retain(|step| {
            let wanted = read.contains(&Source::Value(step.output));
            if wanted {
                read.extend(&step.inputs);
            }
            wanted
        });
        steps.reverse();
        self.steps = steps;
    }

    /// Joins normalisations and functions to the convolutions before them.
    fn join(&mut self) {
        let mut readers: HashMap<Source, usize> = HashMap::new();
        for source in self.steps.iter().flat_map(|step| &step.inputs).chain(&self.outputs) {
            *readers.entry(*source).or_default() += 1;
        }
        let mut made_by: HashMap<Source, usize> = HashMap::new();
        let mut gone = vec![false; self.steps.len()];
        for i in 0..self.steps.len() {
            let (before, rest) = self.steps.split_at_mut(i);
            let Some(step) = rest.first_mut() else { break };
            let first = step.inputs.first().copied().unwrap_or(Source::Absent);
            if let Some(&maker) = made_by.get(&first)
                && readers.get(&first) == Some(&1)
                && let Some(before) = before.get_mut(maker)
                && let Op::Conv(conv) = &mut before.op
                && conv.after.is_none()
            {
                let joined = match &step.op {
                    Op::Map(map) => {
                        conv.after = Some(*map);
                        true
                    }
                    // Weights made here have no entry among the readers.
                    Op::BatchNorm(epsilon)
                        if before.inputs.get(1).and_then(|w| readers.get(w)) == Some(&1) =>
                    {
                        fold(&mut self.weights, &mut before.inputs, *epsilon, &step.inputs)
                    }
                    _ => false,
                };
                if joined {
                    step.op = before.op.clone();
                    step.inputs = std::mem::take(&mut before.inputs);
                    step.name = format!("{} and {}", before.name, step.name);
                    if let Some(gone) = gone.get_mut(maker) {
                        *gone = true;
                    }
                }
            }
            made_by.insert(Source::Value(step.output), i);
        }
        let mut gone = gone.into_iter();
        self.steps.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Notes what may be forgotten when, and forgets weights that nobody reads any more.
    fn forget(&mut self) {
        let mut later: HashSet<Source> = self.outputs.iter().copied().collect();
        for step in self.steps.iter_mut().rev() {
            let first = step.inputs.first().copied();
            let once = step.inputs.iter().filter(|input| Some(**input) == first).count() == 1;
            for input in &step.inputs {
                if later.insert(*input)
                    && let Source::Value(value) = input
                {
                    step.owns_first |= once && Some(*input) == first;
                    step.done.push(*value);
                }
            }
        }
        for (i, weight) in self.weights.iter_mut().enumerate() {
            if !later.contains(&Source::Weight(i)) {
                *weight = Array::empty();
            }
        }
    }
}

/// Multiplies a convolution's weights, which nobody else reads, by a normalisation's factors, and
/// makes its bias; false where they do not fit or are no weights.
fn fold(
    weights: &mut Vec<Array>,
    convolution: &mut Vec<Source>,
    epsilon: f64,
    norm: &[Source],
) -> bool {
    let of = |source: Option<&Source>| match source {
        Some(Source::Weight(i)) => weights.get(*i),
        _ => None,
    };
    let folded = || -> Option<(Array, Array)> {
        let parameters = [of(norm.get(1))?, of(norm.get(2))?, of(norm.get(3))?, of(norm.get(4))?];
        let channels = channels(epsilon, parameters).ok()?;
        let weight = of(convolution.get(1))?;
        let m = *weight.shape().first()?;
        if weight.len() == 0 || channels.len() != m {
            return None;
        }
        let bias = match convolution.get(2) {
            None | Some(Source::Absent) => vec![0.0; m],
            bias => of(bias).filter(|bias| bias.shape() == [m])?.floats().ok()?.to_vec(),
        };
        let rows = weight.floats().ok()?.chunks(weight.len().div_ceil(m).max(1)).zip(&channels);
        let scaled = rows.flat_map(|(row, channel)| {
            row.iter().map(move |w| (f64::from(*w) * channel.factor) as f32)
        });
        let bias = bias.iter().zip(&channels).map(|(bias, channel)| {
            (f64::from(*bias) * channel.factor + channel.summand(channel.factor)) as f32
        });
        let weight = Array::of(weight.shape().to_vec(), Numbers::F32(scaled.collect())).ok()?;
        Some((weight, Array::new(&[m], bias.collect()).ok()?))
    };
    let Some((weight, bias)) = folded() else { return false };
    if let Some(Source::Weight(old)) = convolution.get(1)
        && let Some(old) = weights.get_mut(*old)
    {
        *old = Array::empty();
    }
    convolution.truncate(1);
    for array in [weight, bias] {
        convolution.push(Source::Weight(weights.len()));
        weights.push(array);
    }
    true
}
