//! What judges are built with.

use std::path::PathBuf;

use stage::{Checkpoint, Context, Error, Result};

/// Finds a checkpoint by the name that a recipe gives it, with the folder against which its
/// relative paths are resolved.
type FindCheckpoint<'a> = dyn Fn(&str) -> Result<(Checkpoint, PathBuf)> + 'a;

/// What judges are built with: the stage's context, and who knows the
/// checkpoints.
#[derive(Clone)]
pub struct JudgeContext<'a> {
    /// Seed, threads, memory, cancellation, progress.
    pub stage: &'a Context,
    find: Option<&'a FindCheckpoint<'a>>,
}

impl std::fmt::Debug for JudgeContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JudgeContext").field("stage", self.stage).finish_non_exhaustive()
    }
}

impl<'a> JudgeContext<'a> {
    /// Takes checkpoints by path alone.
    #[must_use]
    pub fn new(stage: &'a Context) -> Self {
        Self { stage, find: None }
    }

    /// Asks `find` for checkpoints: the runner knows which stage made which.
    #[must_use]
    pub fn with_checkpoints(mut self, find: &'a FindCheckpoint<'a>) -> Self {
        self.find = Some(find);
        self
    }

    /// The checkpoint of this name (a stage's id, or the path of a `checkpoint.json` or of the
    /// folder that holds it), and the folder of its relative paths.
    ///
    /// # Errors
    /// When nobody knows it, or the file cannot be read.
    pub fn checkpoint(&self, name: &str) -> Result<(Checkpoint, PathBuf)> {
        match self.find {
            Some(find) => find(name),
            None => read_by_path(name),
        }
        .map_err(|e| e.at(format!("checkpoint `{name}`")))
    }
}

fn read_by_path(name: &str) -> Result<(Checkpoint, PathBuf)> {
    let path = PathBuf::from(name);
    if !path.exists() {
        return Err(Error::input("there is no such file")
            .hint("name a checkpoint.json, the folder that holds it, or the id of a train stage"));
    }
    let checkpoint = models::read_checkpoint(&path)?;
    let folder =
        if path.is_dir() { path } else { path.parent().map(PathBuf::from).unwrap_or_default() };
    Ok((checkpoint, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_nobody_knows_is_named() {
        let stage = Context::default();
        let error = JudgeContext::new(&stage).checkpoint("no/such").unwrap_err();
        assert_eq!(error.to_string(), "checkpoint `no/such`: there is no such file");
        assert_eq!(error.kind(), stage::Kind::Input);
        let find = |name: &str| Err(Error::recipe(format!("no stage is called {name}")));
        let cx = JudgeContext::new(&stage).with_checkpoints(&find);
        let message = cx.checkpoint("scorer").unwrap_err().to_string();
        assert_eq!(message, "checkpoint `scorer`: no stage is called scorer");
    }
}
