//! The samples of an output shard as blocks of its tar, read ahead of whoever writes them.

use std::sync::mpsc::{channel, sync_channel};

use bytes::Bytes;
use stage::{Context, Error, Result, in_parallel};
use store::Blob;
use store::subset::Uid;

use crate::reshard::Pick;
use crate::reshard_edit::{Change, Edited, Edits};
use crate::shard_index::Row;
use crate::shards::Shards;
use crate::spans::Span;
use crate::tar_header::{BLOCK, encode, padding};
use crate::tar_name::check_written;

/// Bytes of members in one block: from files, what stays in a core's cache between the read and
/// the write; over a network, what makes large requests of many small members.
const FROM_FILES: u64 = 1 << 20;
const FROM_NETWORK: u64 = 16 << 20;
/// Blocks that wait for the writer.
const AHEAD: usize = 2;

/// Whole samples as they stand in a tar.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    /// How many there are.
    pub(crate) samples: usize,
    /// Why samples are not here, one for each: their faces could not be blurred.
    pub(crate) dropped: Vec<&'static str>,
    /// What was changed in them.
    pub(crate) edited: Edited,
}

/// Gives the members of these picks to `write`, as whole blocks of a tar without its end, in order.
/// With more than one thread they are read by one of their own.
pub(crate) fn for_each_block(
    cx: &Context,
    sources: &Shards,
    edits: &Edits,
    picks: &[Pick],
    mut write: impl FnMut(&Block) -> Result<()>,
) -> Result<()> {
    let most = if sources.any_remote() { FROM_NETWORK } else { FROM_FILES };
    let uids = sources.uids()?;
    let mut blocks = Blocks { cx, sources, uids, edits, rest: picks, most, held: None };
    if cx.threads < 2 {
        let mut block = Block::default();
        while blocks.next(&mut block)? {
            cx.cancel.check()?;
            write(&block)?;
        }
        return Ok(());
    }
    let (filled, received) = sync_channel(AHEAD);
    let (written, spare) = channel::<Block>();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                let mut block = spare.try_recv().unwrap_or_default();
                let next = match blocks.next(&mut block) {
                    Ok(false) => return,
                    Ok(true) => Ok(block),
                    Err(error) => Err(error),
                };
                let last = next.is_err();
                // The writer may have gone with an error of its own.
                if filled.send(next).is_err() || last {
                    return;
                }
            }
        });
        for next in received {
            cx.cancel.check()?;
            let block = next?;
            write(&block)?;
            let _ = written.send(block);
        }
        reader.join().map_err(|_| Error::internal("the thread that reads ahead panicked"))
    })
}

struct Blocks<'a> {
    cx: &'a Context,
    sources: &'a Shards,
    uids: &'a [Uid],
    edits: &'a Edits,
    rest: &'a [Pick],
    /// Bytes of members in one block, unless one sample alone has more.
    most: u64,
    /// The tar that was read last: most samples follow one of the same.
    held: Option<(usize, Blob)>,
}

impl Blocks<'_> {
    /// Fills `block` with the next samples; says whether there were any.
    fn next(&mut self, block: &mut Block) -> Result<bool> {
        let mut bytes = 0;
        let fits = self.rest.iter().take_while(|pick| {
            bytes += self.sources.sample_bytes(pick.index());
            bytes <= self.most
        });
        let count = fits.count().max(1).min(self.rest.len());
        let (picks, rest) = self.rest.split_at(count);
        self.rest = rest;
        if picks.is_empty() {
            return Ok(false);
        }
        let rows = || picks.iter().map(|pick| self.sources.row(pick.index()));
        block.bytes.resize(rows().map(framed_len).sum(), 0);
        let mut gathered = if self.sources.any_remote() {
            let parts = |pick: &Pick| {
                let (tar, _) = self.sources.place(pick.index());
                in_order(self.sources.row(pick.index())).into_iter().map(move |part| (tar, part.1))
            };
            let wanted: Vec<_> = picks.iter().flat_map(parts).collect();
            Some(self.sources.gather(&wanted)?.into_iter())
        } else {
            None
        };
        let mut after = &mut block.bytes[..];
        for pick in picks {
            let row = self.sources.row(pick.index());
            let parts = in_order(row);
            let sample;
            (sample, after) = after.split_at_mut(framed_len(row));
            match &mut gathered {
                Some(members) => lay_out(&parts, members, sample),
                None => self.read(self.sources.place(pick.index()).0, &parts, sample)?,
            }
            self.frame(*pick, &parts, sample)?;
        }
        (block.samples, block.dropped, block.edited) = (count, Vec::new(), Edited::default());
        if self.edits.any()
            && let Some(edited) = self.edited(picks, block)?
        {
            *block = edited;
        }
        Ok(true)
    }

    /// The block with its samples changed as the edits ask; nothing where there is nothing to change.
    fn edited(&self, picks: &[Pick], block: &Block) -> Result<Option<Block>> {
        let mut rest = &block.bytes[..];
        let samples: Vec<(Vec<Part<'_>>, &[u8])> = picks
            .iter()
            .map(|pick| {
                let row = self.sources.row(pick.index());
                let sample;
                (sample, rest) = rest.split_at(framed_len(row));
                (in_order(row), sample)
            })
            .collect();
        let changes = in_parallel(self.cx.threads, picks.len(), |i| {
            self.cx.cancel.check()?;
            let (parts, sample) = &samples[i];
            let members: Vec<(&str, &[u8])> =
                places(parts).zip(parts).map(|(data, part)| (part.0, &sample[data])).collect();
            let mut edited = Edited::default();
            let change = self.edits.of(picks[i].index(), &members, &mut edited);
            Ok((change, edited))
        })?;
        if changes.iter().all(|(change, _)| matches!(change, Change::None)) {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(block.bytes.len());
        let (mut dropped, mut all) = (Vec::new(), Edited::default());
        for ((change, edited), (pick, (parts, sample))) in
            changes.iter().zip(picks.iter().zip(&samples))
        {
            all.merge(edited);
            match change {
                Change::None => bytes.extend_from_slice(sample),
                Change::Dropped(reason) => dropped.push(*reason),
                Change::Members(members) => {
                    for (part, member) in parts.iter().zip(members) {
                        let len = member.len() as u64;
                        bytes.extend_from_slice(&encode(&self.name(*pick, part.0)?, len));
                        bytes.extend_from_slice(member);
                        bytes.resize(bytes.len() + padding(len) as usize, 0);
                    }
                }
            }
        }
        let samples = block.samples - dropped.len();
        Ok(Some(Block { bytes, samples, dropped, edited: all }))
    }

    /// The name of a member.
    fn name(&self, pick: Pick, suffix: &str) -> Result<String> {
        let Some(uid) = self.uids.get(pick.index()) else {
            return Err(Error::internal(format!("no input sample {}", pick.sample)));
        };
        let name = format!("{uid}-{}.{suffix}", pick.copy);
        check_written(&name)?;
        Ok(name)
    }

    /// Reads members into their places. A sample whose members follow each other in its tar as they
    /// will here comes in one piece, headers between them included.
    fn read(&mut self, tar: usize, parts: &[Part<'_>], sample: &mut [u8]) -> Result<()> {
        let blob = match self.held.take() {
            Some((number, blob)) if number == tar => blob,
            _ => self.sources.blob(tar)?,
        };
        let at = |e: Error| e.at(format!("shard {}", blob.name()));
        let follows = |pair: &[Part<'_>]| pair[1].1.offset == end(pair[0].1) + BLOCK as u64;
        match (parts.first(), parts.last()) {
            (Some(first), Some(last)) if parts.windows(2).all(follows) => {
                let len = (last.1.offset - first.1.offset) as usize + last.1.len as usize;
                blob.read_into(first.1.offset, &mut sample[BLOCK..BLOCK + len]).map_err(at)?;
            }
            _ => {
                for (data, part) in places(parts).zip(parts) {
                    blob.read_into(part.1.offset, &mut sample[data]).map_err(at)?;
                }
            }
        }
        self.held = Some((tar, blob));
        Ok(())
    }

    /// Writes the headers, and zeros up to the next block: whatever the source had there.
    fn frame(&self, pick: Pick, parts: &[Part<'_>], sample: &mut [u8]) -> Result<()> {
        let Some(uid) = self.uids.get(pick.index()) else {
            return Err(Error::internal(format!("no input sample {}", pick.sample)));
        };
        let mut name = format!("{uid}-{}.", pick.copy);
        let stem = name.len();
        for (data, (suffix, span)) in places(parts).zip(parts) {
            name.truncate(stem);
            name.push_str(suffix);
            check_written(&name)?;
            let len = u64::from(span.len);
            sample[data.start - BLOCK..data.start].copy_from_slice(&encode(&name, len));
            sample[data.end..data.end + padding(len) as usize].fill(0);
        }
        Ok(())
    }
}

/// Suffix and place of a member.
type Part<'a> = (&'a str, Span);

/// The members in the order in which they are written: that of their suffixes.
fn in_order(row: &Row) -> Vec<Part<'_>> {
    let mut parts: Vec<_> = row.parts.iter().map(|(suffix, span)| (&**suffix, *span)).collect();
    parts.sort_unstable_by_key(|(suffix, _)| *suffix);
    parts
}

/// Where the data of each member lie within its sample.
fn places(parts: &[Part<'_>]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    parts.iter().map(move |(_, span)| {
        let start = at + BLOCK;
        at = start + padded(*span);
        start..start + span.len as usize
    })
}

fn lay_out(parts: &[Part<'_>], members: &mut impl Iterator<Item = Bytes>, sample: &mut [u8]) {
    for (data, bytes) in places(parts).zip(members) {
        sample[data].copy_from_slice(&bytes);
    }
}

/// Bytes of a sample with its headers and padding.
fn framed_len(row: &Row) -> usize {
    row.parts.iter().map(|(_, span)| BLOCK + padded(*span)).sum()
}

fn padded(span: Span) -> usize {
    span.len as usize + padding(u64::from(span.len)) as usize
}

/// Where the header after this member starts.
fn end(span: Span) -> u64 {
    span.offset + padded(span) as u64
}
