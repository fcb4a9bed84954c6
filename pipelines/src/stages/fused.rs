//! `fetch` and `judge` as one stream: batches flow from the network through the judges while they
//! are written, and nothing is read twice. The bytes are those of the stages run apart.

use std::sync::mpsc::sync_channel;

use ingest::fetch::FetchPlan;
use stage::{Error, Result};
use store::Attempt;

use super::fetch::Fetch;
use super::judge::{self, Judges, JudgesPlan, judge_again, scores_of};
use super::{Outcome, Scores, Site};

/// Batches between the two stages; each holds its pictures, so few are enough.
const BATCHES: usize = 2;

/// Both stages with what they need open.
pub(crate) struct Stream<'a> {
    fetch: Fetch<'a>,
    fetched: &'a Site,
    plan: &'a JudgesPlan,
    judges: Judges<'a>,
    scores: &'a Scores,
}

impl<'a> Stream<'a> {
    pub(crate) fn open(
        fetch: &'a FetchPlan,
        fetch_site: &'a Site,
        judge: &'a JudgesPlan,
        judge_site: &'a Site,
    ) -> Result<Self> {
        let judges = Judges::open(judge, judge_site)?;
        let scores = scores_of(judge_site)?;
        let fetch = Fetch::open(fetch, fetch_site)?;
        Ok(Self { fetch, fetched: fetch_site, plan: judge, judges, scores })
    }

    pub(crate) fn units(&self) -> Vec<String> {
        self.fetch.units()
    }

    /// Fetches and judges one shard at once. Commit the shard first: scores of pictures that
    /// nobody keeps are worth nothing.
    pub(crate) fn run(&mut self, unit: &str, parts: &mut Parts) -> Result<(Outcome, Outcome)> {
        let (send, receive) = sync_channel(BATCHES);
        let (fetch, judges) = (&mut self.fetch, &mut self.judges);
        let Parts { shard, scores, verdicts } = parts;
        std::thread::scope(|scope| {
            let judging = scope
                .spawn(move || judges.run(unit, receive.into_iter().map(Ok), scores, verdicts));
            let fetched = fetch.run(unit, shard, &mut |pairs| {
                // A judge that failed has hung up; its own error says more than this one.
                send.send(pairs).map_err(|_| Error::internal("the judge stopped"))
            });
            drop(send);
            let judged = judging.join().map_err(|_| Error::internal("a judge panicked"))?;
            match (fetched, judged) {
                (Ok(fetched), Ok(judged)) => Ok((fetched, judged)),
                (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            }
        })
    }

    /// Attempts at the three outputs of a unit.
    pub(crate) fn begin(&self, unit: &str, verdicts: Attempt) -> Result<Parts> {
        let shard = self.fetched.dir.begin(unit)?;
        Ok(Parts { shard, scores: self.scores.dir.begin(unit)?, verdicts })
    }

    /// Makes a unit's scores real.
    pub(crate) fn commit_scores(&self, scores: Attempt) -> Result<()> {
        self.scores.commit(scores)
    }

    /// Judges a shard that was committed before a stop, or by another run.
    pub(crate) fn judge_apart(&mut self, unit: &str, verdicts: &mut Attempt) -> Result<Outcome> {
        if let Some(outcome) = judge_again(self.plan, unit, self.scores, verdicts)? {
            return Ok(outcome);
        }
        let tar = self.fetched.dir.locate(&format!("{unit}.tar"));
        let mut scores = self.scores.dir.begin(unit)?;
        let outcome = self.judges.run(unit, judge::read(&tar)?, &mut scores, verdicts)?;
        self.scores.commit(scores)?;
        Ok(outcome)
    }
}

/// What one unit of the stream writes.
pub(crate) struct Parts {
    /// The fetched shard.
    pub(crate) shard: Attempt,
    /// Scores of its pairs.
    pub(crate) scores: Attempt,
    /// The judge's output.
    pub(crate) verdicts: Attempt,
}
