//! From a [`Recipe`] to a [`Graph`]: every id resolved, no cycle, nouns that fit, an order.

use std::collections::{BTreeMap, BTreeSet};

use stage::{Error, Result};

use super::kinds::{KindInfo, Noun};
use super::parse::{Place, Recipe, meant};

/// A checked recipe: its stages in an order in which each finds its inputs done.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The recipe.
    pub recipe: Recipe,
    /// The stages in the order in which they run.
    pub nodes: Vec<Node>,
}

/// One stage with its inputs resolved.
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique name; also its folder in the output.
    pub id: String,
    /// Index into the recipe's stages.
    pub entry: usize,
    /// Ids of the stages whose output it takes, in order.
    pub inputs: Vec<String>,
    /// Ids of stages that its plan names (a scorer's checkpoint).
    pub references: Vec<String>,
}

impl Graph {
    /// Checks and orders.
    ///
    /// # Errors
    /// Duplicate, dangling or cyclic ids (with both lines), nouns that do not fit, bad ids.
    pub fn new(recipe: Recipe) -> Result<Self> {
        let ids = ids(&recipe)?;
        let by_id: BTreeMap<&str, usize> =
            ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
        let mut nodes = Vec::with_capacity(ids.len());
        for (index, entry) in recipe.stages.iter().enumerate() {
            let info = entry.kind.info();
            let inputs = inputs(&recipe, index, &ids, &by_id)?;
            if inputs.is_empty() && !info.optional {
                return Err(recipe
                    .error_at(
                        entry.place,
                        &format!("`{}` takes {} and has no input", info.name, takes(info)),
                    )
                    .hint("put a stage above it, or name one with `from:`"));
            }
            if inputs.len() > 1 && !info.many {
                return Err(recipe.error_at(
                    entry.place,
                    &format!("`{}` takes one input, got {}", info.name, inputs.join(", ")),
                ));
            }
            for input in &inputs {
                let gives = recipe.stages[by_id[input.as_str()]].kind.info().gives;
                if !info.takes.contains(&gives) {
                    return Err(recipe.error_at(
                        entry.place,
                        &format!(
                            "`{}` takes {}, but `{input}` gives {}",
                            info.name,
                            takes(info),
                            gives.word()
                        ),
                    ));
                }
            }
            let kinds: Vec<_> =
                inputs.iter().map(|id| &recipe.stages[by_id[id.as_str()]].kind).collect();
            if let Err(error) = entry.kind.stage().check_inputs(&kinds) {
                return Err(recipe.located(entry.place, &error));
            }
            let references = references(&recipe, index, &by_id)?;
            nodes.push(Node { id: ids[index].clone(), entry: index, inputs, references });
        }
        let order = order(&recipe, &nodes)?;
        let nodes = order.into_iter().map(|i| nodes[i].clone()).collect();
        Ok(Self { recipe, nodes })
    }

    /// The node of this id.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

fn takes(info: &KindInfo) -> String {
    let words: Vec<&str> = info.takes.iter().map(|noun| noun.word()).collect();
    words.join(" or ")
}

/// The id of each stage: the one given, else its kind, numbered from the second on.
fn ids(recipe: &Recipe) -> Result<Vec<String>> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for entry in &recipe.stages {
        let Some(id) = &entry.id else { continue };
        let place = Place::from(id);
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if id.value.is_empty()
            || id.value.len() > 64
            || !id.value.chars().all(legal)
            || id.value.starts_with('-')
        {
            return Err(recipe
                .error_at(place, &format!("`{}` cannot be a stage id", id.value))
                .hint("use 1 to 64 letters, digits, `-` and `_`; it names a folder"));
        }
        if let Some(first) = places.insert(id.value.clone(), place) {
            let message = format!("the id `{}` was given on line {} already", id.value, first.line);
            return Err(recipe.error_at(place, &message));
        }
    }
    let mut taken: BTreeSet<String> = places.keys().cloned().collect();
    let mut ids = Vec::new();
    for entry in &recipe.stages {
        let id = match &entry.id {
            Some(id) => id.value.clone(),
            None => {
                let name = entry.kind.name();
                let free = |id: &String| !taken.contains(id);
                std::iter::once(name.to_owned())
                    .chain((2..).map(|n| format!("{name}-{n}")))
                    .find(free)
                    .ok_or_else(|| Error::internal("no free stage id"))?
            }
        };
        taken.insert(id.clone());
        ids.push(id);
    }
    Ok(ids)
}

fn inputs(
    recipe: &Recipe,
    index: usize,
    ids: &[String],
    by_id: &BTreeMap<&str, usize>,
) -> Result<Vec<String>> {
    let entry = &recipe.stages[index];
    let info = entry.kind.info();
    let Some(from) = &entry.from else {
        // A source ignores the stage above; everything else takes it.
        let above = index.checked_sub(1).filter(|_| !info.takes.is_empty());
        return Ok(above.map(|above| ids[above].clone()).into_iter().collect());
    };
    if info.takes.is_empty() && !from.is_empty() {
        let message = format!("`{}` is a source and takes no input", info.name);
        return Err(recipe.error_at(Place::from(&from[0]), &message));
    }
    let mut inputs = Vec::new();
    for id in from {
        if !by_id.contains_key(id.value.as_str()) {
            let names: Vec<&str> = by_id.keys().copied().collect();
            let error =
                recipe.error_at(Place::from(id), &format!("no stage has the id `{}`", id.value));
            return Err(match meant(&id.value, &names) {
                Some(hint) => error.hint(hint),
                None => error.hint(format!("ids: {}", names.join(", "))),
            });
        }
        inputs.push(id.value.clone());
    }
    Ok(inputs)
}

/// Stages named inside a plan. A name that is no stage id is left to the stage: it may be a path.
fn references(recipe: &Recipe, index: usize, by_id: &BTreeMap<&str, usize>) -> Result<Vec<String>> {
    let entry = &recipe.stages[index];
    let mut references = Vec::new();
    for (name, noun) in entry.kind.stage().references() {
        let Some(&target) = by_id.get(name.as_str()) else {
            no_file(recipe, entry.place, &name, noun, by_id)?;
            continue;
        };
        let gives = recipe.stages[target].kind.info().gives;
        if gives != noun {
            return Err(recipe.error_at(
                entry.place,
                &format!(
                    "`{name}` is named as {}, but that stage gives {}",
                    noun.word(),
                    gives.word()
                ),
            ));
        }
        references.push(name);
    }
    Ok(references)
}

/// A plain word that is neither a stage nor a file is a misspelt id: better said before a crawl than
/// after it.
fn no_file(
    recipe: &Recipe,
    place: Place,
    name: &str,
    noun: Noun,
    by_id: &BTreeMap<&str, usize>,
) -> Result<()> {
    if name.contains(['/', '.', '\\']) || std::path::Path::new(name).exists() {
        return Ok(());
    }
    let fitting = by_id.iter().filter(|(_, i)| recipe.stages[**i].kind.info().gives == noun);
    let ids: Vec<&str> = fitting.map(|(id, _)| *id).collect();
    let message = format!("`{name}` is no stage of this recipe and no file");
    let error = recipe.error_at(place, &message);
    Err(match meant(name, &ids) {
        Some(hint) => error.hint(hint),
        None if ids.is_empty() => error.hint(format!("no stage here gives {}", noun.word())),
        None => error.hint(format!("stages that give {}: {}", noun.word(), ids.join(", "))),
    })
}

/// Depth-first order that keeps the written order wherever it can.
fn order(recipe: &Recipe, nodes: &[Node]) -> Result<Vec<usize>> {
    let index: BTreeMap<&str, usize> =
        nodes.iter().enumerate().map(|(i, n)| (n.id.as_str(), i)).collect();
    let mut state = vec![0_u8; nodes.len()];
    let mut order = Vec::new();
    for start in 0..nodes.len() {
        visit(recipe, nodes, &index, start, &mut state, &mut order)?;
    }
    Ok(order)
}

fn visit(
    recipe: &Recipe,
    nodes: &[Node],
    index: &BTreeMap<&str, usize>,
    at: usize,
    state: &mut [u8],
    order: &mut Vec<usize>,
) -> Result<()> {
    if state[at] == 2 {
        return Ok(());
    }
    state[at] = 1;
    for id in streams_into(recipe, nodes, index, at) {
        visit(recipe, nodes, index, index[id], state, order)?;
    }
    for id in nodes[at].inputs.iter().chain(&nodes[at].references) {
        let next = index[id.as_str()];
        if state[next] == 1 {
            let (here, there) =
                (recipe.stages[nodes[at].entry].place, recipe.stages[nodes[next].entry].place);
            return Err(recipe.error_at(
                here,
                &format!(
                    "`{}` needs `{id}` (line {}), which needs `{}` again: a cycle",
                    nodes[at].id, there.line, nodes[at].id
                ),
            ));
        }
        visit(recipe, nodes, index, next, state, order)?;
    }
    state[at] = 2;
    order.push(at);
    Ok(())
}

/// What the judge of a fetch needs besides the fetch: done before it, so that the two can run as
/// one stream. Nothing that itself needs the fetch.
fn streams_into<'a>(
    recipe: &Recipe,
    nodes: &'a [Node],
    index: &BTreeMap<&str, usize>,
    at: usize,
) -> impl Iterator<Item = &'a str> {
    let is = |node: &Node, kind: &str| recipe.stages[node.entry].kind.name() == kind;
    let judge = nodes
        .iter()
        .find(|n| is(&nodes[at], "fetch") && is(n, "judge") && n.inputs == [nodes[at].id.clone()]);
    let references: &[String] = judge.map_or(&[], |judge| &judge.references);
    let free: Vec<&str> = references
        .iter()
        .map(String::as_str)
        .filter(|id| !needs(nodes, index, index[id], at))
        .collect();
    free.into_iter()
}

/// Whether `node` needs `other`, directly or not. Cycles end the search: they are refused later.
fn needs(nodes: &[Node], index: &BTreeMap<&str, usize>, node: usize, other: usize) -> bool {
    let (mut open, mut seen) = (vec![node], BTreeSet::new());
    while let Some(at) = open.pop() {
        if at == other {
            return true;
        }
        if seen.insert(at) {
            open.extend(
                nodes[at].inputs.iter().chain(&nodes[at].references).map(|id| index[id.as_str()]),
            );
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stages: &str) -> Result<Graph> {
        let text = format!("version: 1\nname: t\noutput: out\nstages:\n{stages}");
        Graph::new(Recipe::parse("t.yaml", &text)?)
    }

    fn message(stages: &str) -> String {
        let error = check(stages).expect_err("must be refused");
        format!("{error}{}", error.hint_text().map(|h| format!("\nhint: {h}")).unwrap_or_default())
    }

    #[test]
    fn a_stage_takes_the_one_above_and_sources_take_none() {
        let graph = check("  - links: {wat: [a.wat.gz]}\n  - dedup: {}\n  - fetch: {}\n").unwrap();
        let inputs: Vec<_> =
            graph.nodes.iter().map(|n| (n.id.as_str(), n.inputs.clone())).collect();
        assert_eq!(
            inputs,
            [("links", vec![]), ("dedup", vec!["links".into()]), ("fetch", vec!["dedup".into()])]
        );
    }

    #[test]
    fn a_dangling_id_is_shown_with_its_line_and_the_word_meant() {
        let text = message(
            "  - links: {wat: [a.wat.gz]}\n    id: crawl\n  - dedup: {}\n    from: crowl\n",
        );
        assert!(text.contains("t.yaml:8:11: no stage has the id `crowl`"), "{text}");
        assert!(text.contains("did you mean `crawl`?"), "{text}");
    }

    #[test]
    fn a_cycle_is_shown_with_both_lines() {
        let text = message(
            "  - dedup: {}\n    id: a\n    from: b\n  - dedup: {}\n    id: b\n    from: a\n",
        );
        assert!(text.contains("line 5") && text.contains("a cycle"), "{text}");
    }

    #[test]
    fn nouns_that_do_not_fit_are_refused() {
        let text = message("  - links: {wat: [a.wat.gz]}\n  - select: {}\n");
        assert!(text.contains("`select` takes scores, but `links` gives links"), "{text}");
    }

    #[test]
    fn one_id_belongs_to_one_stage() {
        let text = message("  - links: {wat: [a]}\n    id: x\n  - dedup: {}\n    id: x\n");
        assert!(text.contains("the id `x` was given on line 6 already"), "{text}");
    }

    #[test]
    fn a_second_stage_of_a_kind_is_numbered() {
        let graph = check("  - links: {wat: [a]}\n  - dedup: {}\n  - dedup: {}\n").unwrap();
        assert_eq!(graph.nodes[2].id, "dedup-2");
    }

    #[test]
    fn a_fetch_waits_for_the_scorer_of_its_judge_so_that_both_are_one_stream() {
        let graph = check(concat!(
            "  - links: {wat: [a]}\n  - fetch: {}\n    id: pool\n",
            "  - train: {model: tiny-32, steps: 1, data: [seed.tar]}\n    id: scorer\n    from: []\n",
            "  - judge:\n      - clip_score: {checkpoint: scorer}\n    from: pool\n",
        ))
        .unwrap();
        let order: Vec<_> = graph.nodes.iter().map(|n| n.id.as_str()).collect();
        assert_eq!(order, ["links", "scorer", "pool", "judge"]);
    }

    #[test]
    fn a_judge_waits_for_the_scorer_that_its_plan_names() {
        let graph = check(concat!(
            "  - shards: {urls: [a.tar]}\n    id: pool\n",
            "  - judge:\n      - clip_score: {checkpoint: scorer}\n",
            "  - train: {model: tiny-32, steps: 1, data: [seed.tar]}\n    id: scorer\n    from: []\n",
        ))
        .unwrap();
        let order: Vec<_> = graph.nodes.iter().map(|n| n.id.as_str()).collect();
        assert_eq!(order, ["pool", "scorer", "judge"]);
    }
}
