//! One tar of a set: its samples, and how to get at its bytes.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use stage::{Error, Result};
use store::Blob;

use crate::member_index::Indexes;
use crate::picture_suffix::PICTURES;
use crate::sample::{Grouper, Sample};
use crate::spans::Span;
use crate::tar_name::base_name;

/// Local tars that stay open; the others are opened whenever they are read, since a process may
/// hold about a thousand files and a pool of 12.8 M pairs has 1,280 tars.
const STAY_OPEN: usize = 256;

/// What to do with a tar that ends too early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Truncated {
    /// An error that names shard, member and offset.
    #[default]
    Refuse,
    /// Its whole samples are read, all but the last, which may lack members;
    /// [`crate::Shards::cuts`] tells of it.
    KeepWhole,
}

/// One tar and its samples with a picture.
#[derive(Debug)]
pub(crate) struct Tar {
    /// Path or URL.
    pub(crate) url: String,
    /// File name without `.tar`.
    pub(crate) stem: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) without_picture: u64,
    /// Where it was cut.
    pub(crate) cut: Option<String>,
    /// Digest of file name, length and the list of members.
    pub(crate) digest: String,
    len: u64,
    open: Option<Blob>,
}

/// One sample: where its members are.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: Box<str>,
    pub(crate) parts: Box<[(Arc<str>, Span)]>,
}

impl Tar {
    /// Reads the headers of the tar, which is the `number`-th of its set.
    pub(crate) fn open(
        url: &str,
        number: usize,
        truncated: Truncated,
        indexes: &Indexes,
    ) -> Result<Self> {
        let mut tar = Self::of_blob(Blob::open(url)?, truncated, indexes)?;
        // A command would have to be run again, and what a server without ranges gave whole would
        // have to come once more.
        let local =
            !url.starts_with("pipe:") && (!url.contains("://") || url.starts_with("file://"));
        if local && number >= STAY_OPEN {
            tar.open = None;
        }
        Ok(tar)
    }

    pub(crate) fn of_blob(blob: Blob, truncated: Truncated, indexes: &Indexes) -> Result<Self> {
        let (members, cut) = indexes.members(&blob)?;
        let mut suffixes = Suffixes::default();
        let mut grouper = Grouper::default();
        let mut rows = Vec::new();
        let mut without_picture = 0;
        let mut take = |sample: Sample<Span>| {
            let row = suffixes.row(sample);
            match row.picture() {
                Some(_) => rows.push(row),
                None => without_picture += 1,
            }
        };
        let mut listing = String::new();
        for member in &members {
            let _ = writeln!(listing, "{}\0{}\0{}", member.name, member.offset, member.len);
            let len = u32::try_from(member.len).unwrap_or(u32::MAX);
            if let Some(sample) = grouper.push(&member.name, Span { offset: member.offset, len }) {
                take(sample);
            }
        }
        let cut = match (cut, truncated) {
            (Some(error), Truncated::Refuse) => return Err(error),
            (Some(error), Truncated::KeepWhole) => Some(error.to_string()),
            (None, _) => {
                grouper.finish().into_iter().for_each(take);
                None
            }
        };
        let name = base_name(blob.name());
        let stem = name.strip_suffix(".tar").unwrap_or(name).to_owned();
        let digest = format!("{name}\0{}\0{:x}\n", blob.len(), Sha256::digest(listing));
        let (url, len) = (blob.name().to_owned(), blob.len());
        Ok(Self { url, stem, rows, without_picture, cut, digest, len, open: Some(blob) })
    }

    /// Whether each read is a request over a network; such tars stay open.
    pub(crate) fn is_remote(&self) -> bool {
        self.open.as_ref().is_some_and(Blob::is_remote)
    }

    /// Its bytes.
    pub(crate) fn blob(&self) -> Result<Blob> {
        if let Some(blob) = &self.open {
            return Ok(blob.clone());
        }
        let blob = Blob::open(&self.url)?;
        if blob.len() == self.len {
            return Ok(blob);
        }
        Err(Error::input(format!("{} bytes now, {} when it was indexed", blob.len(), self.len))
            .at(format!("shard {}", self.url))
            .hint("run again: the shard was replaced meanwhile"))
    }
}

impl Row {
    pub(crate) fn part(&self, suffix: &str) -> Option<Span> {
        self.parts.iter().find(|(s, _)| **s == *suffix).map(|(_, span)| *span)
    }

    pub(crate) fn picture(&self) -> Option<Span> {
        PICTURES.iter().find_map(|suffix| self.part(suffix))
    }

    /// Bytes of all members.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, span)| u64::from(span.len)).sum()
    }
}

/// Few suffixes serve thousands of members.
#[derive(Default)]
struct Suffixes(HashMap<String, Arc<str>>);

impl Suffixes {
    fn row(&mut self, sample: Sample<Span>) -> Row {
        let share = |(suffix, span): (String, Span)| {
            let shared = self.0.entry(suffix).or_insert_with_key(|suffix| suffix.as_str().into());
            (Arc::clone(shared), span)
        };
        let parts = sample.parts.into_iter().map(share).collect();
        Row { key: sample.key.into(), parts }
    }
}
