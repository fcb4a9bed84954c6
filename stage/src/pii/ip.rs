//! Internet addresses in a text.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// The addresses of a text, in order and apart.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let six = runs(text, |b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    let mut found: Vec<Range<usize>> = six.filter_map(|run| version_6(text, run)).collect();
    let mut six = found.clone().into_iter().peekable();
    let four = runs(text, |b| b.is_ascii_digit() || b == b'.');
    let four: Vec<Range<usize>> = four.filter_map(|run| version_4(text, run)).collect();
    found.extend(four.into_iter().filter(|four| {
        while six.next_if(|six| six.end <= four.start).is_some() {}
        six.peek().is_none_or(|six| four.end <= six.start)
    }));
    found.sort_by_key(|place| place.start);
    // A path of an address may look like one; a list of them joined by a slash does not.
    let mut before = 0;
    found.retain(|place| {
        let joined = before == place.start.saturating_sub(1) && before > 0;
        let kept = joined || !in_path(text.as_bytes(), place.start);
        before = if kept { place.end } else { before };
        kept
    });
    found
}

/// The runs of these bytes, all of ASCII, as long as they are.
fn runs(text: &str, of: impl Fn(u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + bytes.get(at..)?.iter().position(|b| of(*b))?;
        let len = bytes[start..].iter().position(|b| !of(*b)).unwrap_or(bytes.len() - start);
        at = start + len;
        Some(start..at)
    })
}

/// Whether a word goes on over this edge.
fn word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Whether one slash stands before, and something before that: not `http://`, not `/ 10.0.0.1`.
fn in_path(bytes: &[u8], start: usize) -> bool {
    let slash = start > 0 && bytes[start - 1] == b'/';
    slash && start > 1 && bytes[start - 2] != b'/' && !bytes[start - 2].is_ascii_whitespace()
}

/// Four numbers, without points around them.
fn version_4(text: &str, run: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let inner = trimmed(text, run, ".");
    let before = inner.start.checked_sub(1).and_then(|i| bytes.get(i));
    let apart = !word(before) && !word(bytes.get(inner.end));
    (apart && inner.len() <= 15 && text[inner.clone()].parse::<Ipv4Addr>().is_ok()).then_some(inner)
}

/// At least three groups, or a version 4 address behind colons.
fn version_6(text: &str, run: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut inner = trimmed(text, run, ".");
    // A colon that is not one of two is the text's: `IP:2001:db8::1`, `2001:db8::1: up`.
    if text[inner.clone()].starts_with(':') && !text[inner.clone()].starts_with("::") {
        inner.start += 1;
    }
    if text[inner.clone()].ends_with(':') && !text[inner.clone()].ends_with("::") {
        inner.end -= 1;
    }
    let before = inner.start.checked_sub(1).and_then(|i| bytes.get(i));
    if inner.len() > 45 || word(before) || word(bytes.get(inner.end)) {
        return None;
    }
    let address = &text[inner.clone()];
    let groups = address.split(':').filter(|group| !group.is_empty()).count();
    let enough = groups >= 3 || groups == 2 && address.contains('.');
    (enough && address.parse::<Ipv6Addr>().is_ok()).then_some(inner)
}

/// Without these signs at its ends.
fn trimmed(text: &str, run: Range<usize>, signs: &str) -> Range<usize> {
    let of = |c: char| signs.contains(c);
    let inner = text[run.clone()].trim_end_matches(of);
    let end = run.start + inner.len();
    end - inner.trim_start_matches(of).len()..end
}
