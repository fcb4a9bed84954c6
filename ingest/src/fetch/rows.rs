//! Links in, pairs out: which rows share a URL, and rows in input order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef};
use arrow_select::interleave::interleave;
use md5::Md5;
use md5::digest::Digest as _;
use stage::{Counts, Error, Links, PairRow, Pairs, PairsBuilder, Result, ResultExt, Status};

use super::links_say::LinksSay;
use super::opt_out::OptOutList;
use super::picture::{Outcome, Wanted};
use super::policy::Target;
use super::reason::Class;
use super::{Digest, FetchPlan, Reason};

/// The rows of a unit and the distinct URLs behind them.
pub(super) struct Work {
    /// In input order.
    pub(super) rows: Vec<Row>,
    /// In the order in which they first occur.
    pub(super) jobs: Vec<Job>,
}

/// One link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    batch: usize,
    index: usize,
    pub(super) job: usize,
}

/// One distinct URL (with the same boxes and digest, where the plan reads them), or one link whose URL is refused.
pub(super) struct Job {
    pub(super) target: std::result::Result<Target, Reason>,
    /// What its links say about the picture.
    pub(super) wanted: Arc<Wanted>,
    /// Rows that it serves.
    pub(super) rows: usize,
}

impl Work {
    /// Checks every URL and finds out which are the same.
    ///
    /// # Errors
    /// When there are more links than a shard has rows, or a column is missing that the plan names.
    pub(super) fn new(links: &[Links], plan: &FetchPlan, opt_out: &OptOutList) -> Result<Self> {
        let total: usize = links.iter().map(Links::len).sum();
        let most = plan.number_sample_per_shard;
        if total > most as usize {
            return Err(Error::recipe(format!(
                "a unit has {total} links, more than number_sample_per_shard ({most})"
            )));
        }
        let mut jobs: Vec<Job> = Vec::new();
        let mut rows = Vec::with_capacity(total);
        let mut by_url: HashMap<String, usize> = HashMap::new();
        let none = Arc::new(Wanted::default());
        for (batch, links) in links.iter().enumerate() {
            let say = LinksSay::open(links, plan)?;
            for (index, url) in links.urls().iter().enumerate() {
                let wanted = say.of(index);
                let target = Target::parse(url.unwrap_or_default(), plan).and_then(|target| {
                    if opt_out.covers(&target) { Err(Reason::OptOut) } else { Ok(target) }
                });
                let (target, wanted) = match (target, wanted) {
                    (Ok(target), Ok(wanted)) => (Ok(target), wanted),
                    (Err(reason), _) | (_, Err(reason)) => (Err(reason), Wanted::default()),
                };
                let same = target.as_ref().ok().map(|target| {
                    let mut name = target.url.as_str().to_owned();
                    if wanted != *none {
                        name.push_str(&format!(" {wanted:?}")); // no URL has a space
                    }
                    *by_url.entry(name).or_insert(jobs.len())
                });
                let job = same.unwrap_or(jobs.len());
                match jobs.get_mut(job) {
                    Some(job) => job.rows += 1,
                    None => {
                        let wanted =
                            if wanted == *none { Arc::clone(&none) } else { Arc::new(wanted) };
                        jobs.push(Job { target, wanted, rows: 1 });
                    }
                }
                rows.push(Row { batch, index, job });
            }
        }
        Ok(Self { rows, jobs })
    }
}

/// Rows a batch, at most.
const BATCH_ROWS: usize = 128;
/// Bytes of pictures after which a batch is full before that. Both depend on the rows alone, so
/// that batches are the same whatever the timing.
const BATCH_BYTES: usize = 16 << 20;

/// Turns outcomes, given in input order, into batches.
pub(super) struct Writer<'a> {
    links: &'a [Links],
    plan: &'a FetchPlan,
    shard: u32,
    /// By name: the arrays of all batches.
    extra: Vec<(&'a str, Vec<&'a dyn Array>)>,
    builder: PairsBuilder,
    exif: StringBuilder,
    digest: StringBuilder,
    pending: Vec<(usize, usize)>,
    bytes: usize,
    counts: Counts,
}

impl<'a> Writer<'a> {
    /// # Errors
    /// When a column of `save_additional_columns` is missing or its type changes.
    pub(super) fn new(links: &'a [Links], plan: &'a FetchPlan, shard: u32) -> Result<Self> {
        let names = plan.save_additional_columns.iter().filter(|name| *name != "uid");
        let extra = names
            .map(|name| {
                let arrays = links.iter().map(|links| column(links, name));
                let arrays = arrays.collect::<Result<Vec<_>>>()?;
                if arrays.windows(2).any(|pair| pair[0].data_type() != pair[1].data_type()) {
                    return Err(Error::input(format!("column `{name}` changes its type")));
                }
                Ok((name.as_str(), arrays))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            links,
            plan,
            shard,
            extra,
            builder: PairsBuilder::default(),
            exif: StringBuilder::new(),
            digest: StringBuilder::new(),
            pending: Vec::new(),
            bytes: 0,
            counts: Counts::default(),
        })
    }

    /// Appends row number `number` and gives a batch when one is full.
    pub(super) fn push(
        &mut self,
        number: usize,
        row: Row,
        outcome: &Outcome,
    ) -> Result<Option<Pairs>> {
        let links = &self.links[row.batch];
        let text = |array: &'a arrow_array::StringArray| {
            if array.is_valid(row.index) { array.value(row.index) } else { "" }
        };
        let (url, caption) = (text(links.urls()), text(links.alts()));
        let uid = match text(links.uids()) {
            "" => format!("{:x}", Md5::digest(format!("{caption}{url}"))),
            uid => uid.to_owned(),
        };
        let number = u32::try_from(number).map_err(|_| Error::internal("row number"))?;
        let key = self.plan.sample_key(self.shard, number);
        let finished = outcome.result.as_ref().ok();
        let reason = outcome.result.as_ref().err().copied();
        let word = reason.map(Reason::word);
        let is_sha256 = self.plan.compute_hash == Some(Digest::Sha256);
        self.exif.append_option(finished.and_then(|f| f.exif.as_deref()));
        self.digest.append_option(outcome.digest.as_deref());
        self.builder.push(PairRow {
            uid: &uid,
            key: &key,
            url,
            caption,
            status: reason.map_or(Status::Success, Reason::status),
            error_message: word.as_deref(),
            size: finished.map(|f| f.size),
            original_size: finished.map(|f| f.original_size),
            sha256: outcome.digest.as_deref().filter(|_| is_sha256),
            image: finished.map(|f| f.bytes.as_slice()),
        });
        match (reason.map(Reason::class), word) {
            (Some(Class::Dropped), Some(word)) => self.counts.drop(&word),
            (Some(Class::Failed), Some(word)) => self.counts.fail(&word),
            _ => self.counts.keep(),
        }
        self.pending.push((row.batch, row.index));
        self.bytes += outcome.len();
        let full = self.pending.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES;
        if full { self.flush() } else { Ok(None) }
    }

    /// What is left, if anything.
    pub(super) fn flush(&mut self) -> Result<Option<Pairs>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let mut pairs = self.builder.finish();
        for (name, arrays) in &self.extra {
            let column: ArrayRef =
                interleave(arrays, &self.pending).internal(format!("column `{name}`"))?;
            pairs = pairs.with_column(name, column)?;
        }
        let (exif, digest) = (self.exif.finish(), self.digest.finish());
        if self.plan.extract_exif {
            pairs = pairs.with_column("exif", Arc::new(exif))?;
        }
        if let Some(kind) = self.plan.compute_hash.filter(|kind| *kind != Digest::Sha256) {
            pairs = pairs.with_column(kind.name(), Arc::new(digest))?;
        }
        self.pending.clear();
        self.bytes = 0;
        Ok(Some(pairs))
    }

    /// Counts of all rows so far.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn column<'a>(links: &'a Links, name: &str) -> Result<&'a dyn Array> {
    super::links_say::column(links, "save_additional_columns", name)
}
