//! A pass over shards in an order that a seed decides: from any place of it, and in shares.
//!
//! WebDataset shuffles the list of shards, then samples in a buffer as they come by; the order is
//! lost when a process ends. Here both are functions of seed and epoch. The tars of the set stand in
//! a permuted order, their samples one after another; a share is a range of that sequence; within
//! it, each window of so many samples is permuted by itself. So a place is one number, nothing has
//! to be read to get there, and what is read lies close together.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Error, PairSource, Pairs, Result};

use crate::sample::Sample;
use crate::shards::Shards;
use crate::shuffle::{permutation, seed_of};

/// Samples that are read at once from files; over a network it is the whole window.
const CHUNK: usize = 256;
/// Bytes of members at which such a read ends early.
const CHUNK_BYTES: u64 = 256 << 20;

/// How passes over shards go.
///
/// ```
/// # let mut tar = shard::TarWriter::new(Vec::new());
/// # for i in 0..6 { tar.append(&format!("{i}.png"), b"\x89PNG\r\n\x1a\n")?; }
/// # let blob = store::Blob::from_bytes("00000.tar", tar.finish()?.into());
/// # let shards = shard::Shards::from_blobs(&[blob], shard::Truncated::Refuse)?;
/// let plan = shard::EpochPlan { seed: 7, ..shard::EpochPlan::default() };
/// let mut epoch = plan.epoch(&shards, 0)?;
/// let seen: Vec<usize> = epoch.by_ref().take(2).collect();
/// let cursor = epoch.cursor().to_string();
/// // Another day, another process:
/// let rest: Vec<usize> = plan.resume(&shards, &cursor.parse()?)?.collect();
/// assert_eq!(seen.len() + rest.len(), 6);
/// assert!(rest.iter().all(|sample| !seen.contains(sample)));
/// # Ok::<(), stage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpochPlan {
    /// Seed of every order; default 0.
    pub seed: u64,
    /// Samples that are shuffled among themselves, after the shards: 1 leaves those of a shard in
    /// its order, the number of all samples or more shuffles everything. 0 shuffles nothing, shards
    /// neither. Default 4,096.
    pub window: u64,
    /// The part of each pass that is read here; default all.
    pub share: Share,
}

impl Default for EpochPlan {
    fn default() -> Self {
        Self { seed: 0, window: 4096, share: Share::default() }
    }
}

/// One of several parts of a pass that are disjoint, together the whole, and equally long up to one
/// sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// From 0.
    pub index: u64,
    /// How many there are, at least 1.
    pub of: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Share {
    /// The part of worker `worker` of `workers` on rank `rank` of `ranks`.
    #[must_use]
    pub fn of_worker(rank: u32, ranks: u32, worker: u32, workers: u32) -> Self {
        let (workers, ranks) = (u64::from(workers), u64::from(ranks));
        Self { index: u64::from(rank) * workers + u64::from(worker), of: ranks * workers }
    }

    fn range(self, len: u64) -> Range<u64> {
        let cut = |i: u64| (u128::from(len) * u128::from(i) / u128::from(self.of)) as u64;
        cut(self.index)..cut(self.index + 1)
    }
}

/// A place in a pass. As text `<epoch>:<position>:<check>`, the check 16 hex digits that change with
/// the shards, the seed, the window and the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of the pass, from 0.
    pub epoch: u64,
    /// Samples of the share that were given in this pass.
    pub position: u64,
    /// What the place belongs to.
    pub check: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:016x}", self.epoch, self.position, self.check)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::recipe(format!("`{text}` is no cursor"))
                .hint("a cursor reads `<epoch>:<position>:<16 hex digits>`")
        };
        let parts: Vec<&str> = text.trim().split(':').collect();
        let &[epoch, position, check] = &parts[..] else { return Err(wrong()) };
        let number = |digits: &str| digits.parse().map_err(|_| wrong());
        let check = u64::from_str_radix(check, 16).map_err(|_| wrong())?;
        Ok(Self { epoch: number(epoch)?, position: number(position)?, check })
    }
}

impl EpochPlan {
    /// Pass `epoch` over these shards, from its start.
    ///
    /// # Errors
    /// When the share is none.
    pub fn epoch<'a>(&self, shards: &'a Shards, epoch: u64) -> Result<Epoch<'a>> {
        let Share { index, of } = self.share;
        if index >= of {
            return Err(Error::recipe(format!("share {index} of {of}"))
                .hint("shares are numbered from 0: `0/4` to `3/4`"));
        }
        let mut order: Vec<usize> = (0..shards.tar_count()).collect();
        if self.window > 0 {
            order = permutation(order.len(), seed_of(&[self.seed, epoch]));
        }
        let mut before = Vec::with_capacity(order.len());
        let mut len = 0;
        for &tar in &order {
            before.push(len);
            len += shards.tar_range(tar).len() as u64;
        }
        let range = self.share.range(len);
        let (next, window, ready) = (0, None, VecDeque::new());
        let check = self.check(shards);
        Ok(Epoch {
            shards,
            plan: *self,
            number: epoch,
            order,
            before,
            range,
            check,
            next,
            window,
            ready,
        })
    }

    /// What is left of a pass.
    ///
    /// # Errors
    /// When the cursor is of other shards or of another plan.
    pub fn resume<'a>(&self, shards: &'a Shards, cursor: &Cursor) -> Result<Epoch<'a>> {
        let mut epoch = self.epoch(shards, cursor.epoch)?;
        if cursor.check != epoch.check || cursor.position > epoch.len() {
            return Err(Error::conflict(format!("the cursor {cursor} belongs to another reading"))
                .hint("resume with the same shards, seed, window and share"));
        }
        epoch.next = cursor.position;
        Ok(epoch)
    }

    fn check(&self, shards: &Shards) -> u64 {
        let Share { index, of } = self.share;
        let text = format!("{} {} {index}/{of}\n", self.seed, self.window);
        let digest = Sha256::new().chain_update(text).chain_update(shards.fingerprint()).finalize();
        digest[..8].iter().fold(0, |check, &byte| (check << 8) | u64::from(byte))
    }
}

/// One pass, or what is left of it: the indices of its samples in order, or the samples themselves.
#[derive(Debug)]
pub struct Epoch<'a> {
    shards: &'a Shards,
    plan: EpochPlan,
    number: u64,
    /// The tars in the order of this pass, and how many samples stand before each.
    order: Vec<usize>,
    before: Vec<u64>,
    /// The share within the sequence.
    range: Range<u64>,
    check: u64,
    /// Position within the share.
    next: u64,
    /// Number of a window of the share, and the order within it.
    window: Option<(u64, Vec<usize>)>,
    /// Samples that were read ahead.
    ready: VecDeque<(usize, Sample<Bytes>)>,
}

impl Epoch<'_> {
    /// Samples of the share in one pass.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Number of the pass, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The place after what was given so far.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let position = self.next - self.ready.len() as u64;
        Cursor { epoch: self.number, position, check: self.check }
    }

    /// The next samples as pairs, at most `batch_size`; `None` at the end of the pass.
    ///
    /// # Errors
    /// When a shard cannot be read.
    pub fn next_pairs(&mut self, batch_size: usize) -> Option<Result<Pairs>> {
        let batch: Vec<usize> = self.by_ref().take(batch_size.max(1)).collect();
        (!batch.is_empty()).then(|| self.shards.read(&batch))
    }

    /// The next sample: its index, its key and all its members as they lie in the shard; `None` at
    /// the end of the pass. Many are read at once.
    ///
    /// # Errors
    /// When a shard cannot be read.
    pub fn next_sample(&mut self) -> Option<Result<(usize, Sample<Bytes>)>> {
        if self.ready.is_empty()
            && let Err(error) = self.read_ahead()
        {
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }

    fn read_ahead(&mut self) -> Result<()> {
        let window = usize::try_from(self.plan.window).unwrap_or(usize::MAX);
        let most = if self.shards.any_remote() { window.max(CHUNK) } else { CHUNK };
        let begun = self.next;
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < most
            && bytes < CHUNK_BYTES
            && let Some(sample) = self.at(self.next)
        {
            self.next += 1;
            bytes += self.shards.sample_bytes(sample);
            chunk.push(sample);
        }
        match self.shards.samples(&chunk) {
            Ok(samples) => self.ready.extend(chunk.into_iter().zip(samples)),
            Err(error) => {
                self.next = begun;
                return Err(error);
            }
        }
        Ok(())
    }

    /// The sample at this position of the share.
    fn at(&mut self, position: u64) -> Option<usize> {
        if position >= self.len() {
            return None;
        }
        if self.plan.window < 2 {
            return Some(self.in_sequence(self.range.start + position));
        }
        let number = position / self.plan.window;
        let start = number * self.plan.window;
        if self.window.as_ref().is_none_or(|(held, _)| *held != number) {
            let len = self.plan.window.min(self.len() - start);
            let seed = seed_of(&[self.plan.seed, self.number, self.range.start, number]);
            self.window = Some((number, permutation(len as usize, seed)));
        }
        let (_, order) = self.window.as_ref()?;
        let within = order[(position - start) as usize] as u64;
        Some(self.in_sequence(self.range.start + start + within))
    }

    /// The sample at this place of the tars in the order of the pass.
    fn in_sequence(&self, place: u64) -> usize {
        // Empty tars share their start with the next one: the last of equal starts holds it.
        let turn = self.before.partition_point(|&before| before <= place) - 1;
        self.shards.tar_range(self.order[turn]).start + (place - self.before[turn]) as usize
    }
}

/// Indices in the set of shards. Samples that [`Epoch::next_sample`] has read ahead come first.
impl Iterator for Epoch<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some((index, _)) = self.ready.pop_front() {
            return Some(index);
        }
        let sample = self.at(self.next)?;
        self.next += 1;
        Some(sample)
    }
}
