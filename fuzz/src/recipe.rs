//! Recipes, which people write by hand.

use pipelines::recipe::{Graph, Recipe};

/// A recipe is taken or refused with words; what was taken is taken again.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Recipe::parse("fuzz.yaml", text).and_then(Graph::new) {
        Ok(graph) => {
            assert!(!graph.nodes.is_empty(), "a recipe without a stage was taken");
            assert!(Recipe::parse("fuzz.yaml", text).is_ok());
        }
        Err(error) => {
            assert_eq!(error.kind(), stage::Kind::Recipe, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
}
