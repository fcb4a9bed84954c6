//! Recipes with a few bytes changed: an answer or an error that names the file, never a panic.

use pipelines::recipe::{Graph, Recipe};
use stage::{Dice, Kind};

/// The recipes of the repository.
fn recipes() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Pieces that mean something to YAML or to a recipe.
const PIECES: [&str; 24] = [
    ":",
    "- ",
    "\n",
    "  ",
    "\t",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!str ",
    "|\n",
    "'",
    "\"",
    "#",
    "---\n",
    "null",
    "-1",
    "1e999",
    "99999999999999999999",
    "\u{0}",
    "\u{1b}[31m",
    "é",
];

#[test]
fn mutated_recipes_never_panic_and_errors_name_the_file() {
    let recipes = recipes();
    assert!(recipes.len() >= 4);
    let mut dice = Dice::new(0);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..4000 {
        let mut text = recipes[round % recipes.len()].clone();
        for _ in 0..=dice.below(3) {
            let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            ends.push(text.len());
            let at = ends[dice.below(ends.len())];
            let to = ends[dice.below(ends.len())].clamp(at, text.len().min(at + 8));
            let to = (to..=text.len()).find(|&to| text.is_char_boundary(to)).unwrap();
            let with = match dice.below(3) {
                0 => "",
                _ => PIECES[dice.below(PIECES.len())],
            };
            text.replace_range(at..to, with);
        }
        match Recipe::parse("r.yaml", &text).and_then(Graph::new) {
            Ok(_) => sound += 1,
            Err(error) => {
                let shown = error.to_string();
                assert_eq!(error.kind(), Kind::Recipe, "{shown}\n{text}");
                assert!(shown.starts_with("r.yaml"), "{shown}\n{text}");
                assert!(shown.len() < 10_000, "{} bytes for\n{text}", shown.len());
                assert!(!shown.contains(['\u{0}', '\u{1b}']), "{shown:?}");
                refused += 1;
            }
        }
    }
    // Both happen: a changed comment is no mistake, a changed key is one.
    assert!(sound > 100 && refused > 1000, "{sound} sound, {refused} refused");
}
