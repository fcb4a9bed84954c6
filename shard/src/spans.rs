//! Many small reads of several tars as few large ones.

use std::ops::Range;

use bytes::Bytes;
use stage::{Error, Result};
use store::Blob;

/// Bytes between two wanted spans that are read along rather than cost a second request.
const GAP: u64 = 16 << 10;
/// Longest single read, unless one span alone is longer.
const RUN: u64 = 8 << 20;

/// Where the data of a member are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    /// At most [`crate::MAX_MEMBER`].
    pub(crate) len: u32,
}

impl Span {
    fn end(self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// The bytes of each wanted `(tar, span)`, in the order in which they were asked for.
/// Each tar is opened once.
pub(crate) fn gather(
    open: impl Fn(usize) -> Result<Blob>,
    wanted: &[(usize, Span)],
) -> Result<Vec<Bytes>> {
    let mut held: Option<(usize, Blob)> = None;
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&i| (wanted[i].0, wanted[i].1.offset));
    let mut found = vec![Bytes::new(); wanted.len()];
    let mut rest = &order[..];
    while let Some(&first) = rest.first() {
        let (tar, start) = (wanted[first].0, wanted[first].1.offset);
        let mut end = wanted[first].1.end();
        let joined = rest.iter().skip(1).take_while(|&&i| {
            let (other, span) = wanted[i];
            let near = other == tar && span.offset <= end.saturating_add(GAP);
            let joins = near && span.end().max(end) - start <= RUN;
            if joins {
                end = end.max(span.end());
            }
            joins
        });
        let (run, after) = rest.split_at(1 + joined.count());
        let blob = match held.take() {
            Some((number, blob)) if number == tar => blob,
            _ => open(tar)?,
        };
        let bytes = read(&blob, start..end)?;
        held = Some((tar, blob));
        for &i in run {
            let from = (wanted[i].1.offset - start) as usize;
            found[i] = bytes.slice(from..from + wanted[i].1.len as usize);
        }
        rest = after;
    }
    Ok(found)
}

fn read(tar: &Blob, range: Range<u64>) -> Result<Bytes> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let bytes = tar.read_at(range.start, len).map_err(|e| e.at(format!("shard {}", tar.name())))?;
    if bytes.len() == len {
        return Ok(bytes);
    }
    Err(Error::input(format!("{} bytes instead of {len}", bytes.len()))
        .at(format!("shard {}: offset {}", tar.name(), range.start))
        .hint("run again: the shard was changed while it was read"))
}
