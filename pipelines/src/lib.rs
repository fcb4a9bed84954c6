//! Recipes, the runner and the clipmill binary.
