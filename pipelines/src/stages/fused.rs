//! `fetch` and `judge` as one stream: batches flow from the network through the judges while they
//! are written, and nothing is read twice. The bytes are those of the stages run apart.

use std::sync::mpsc::sync_channel;

use ingest::fetch::FetchPlan;
use stage::{Error, Result};
use store::Attempt;

use super::fetch::Fetch;
use super::judge::{self, Judges, JudgesPlan};
use super::{Outcome, Site};

/// Batches between the two stages; each holds its pictures, so few are enough.
const BATCHES: usize = 2;

/// Both stages with what they need open.
pub(crate) struct Stream<'a> {
    fetch: Fetch<'a>,
    fetched: &'a Site,
    judges: Judges,
}

impl<'a> Stream<'a> {
    pub(crate) fn open(
        fetch: &'a FetchPlan,
        fetch_site: &'a Site,
        judge: &'a JudgesPlan,
        judge_site: &'a Site,
    ) -> Result<Self> {
        let judges = Judges::open(judge, judge_site)?;
        Ok(Self { fetch: Fetch::open(fetch, fetch_site)?, fetched: fetch_site, judges })
    }

    pub(crate) fn units(&self) -> Vec<String> {
        self.fetch.units()
    }

    /// Fetches and judges one shard at once.
    pub(crate) fn run(
        &mut self,
        unit: &str,
        shard: &mut Attempt,
        scores: &mut Attempt,
    ) -> Result<(Outcome, Outcome)> {
        let (send, receive) = sync_channel(BATCHES);
        let (fetch, judges) = (&mut self.fetch, &mut self.judges);
        std::thread::scope(|scope| {
            let judging =
                scope.spawn(move || judges.run(unit, receive.into_iter().map(Ok), scores));
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

    /// Judges a shard that was committed before a stop.
    pub(crate) fn judge_apart(&mut self, unit: &str, scores: &mut Attempt) -> Result<Outcome> {
        let tar = self.fetched.dir.locate(&format!("{unit}.tar"));
        self.judges.run(unit, judge::read(&tar)?, scores)
    }
}
