//! One record: its header lines and its body.

use memchr::memchr;

/// One record, borrowed from the reader.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where the record is found again: the first byte of its gzip member, or of the record itself
    /// in a plain file.
    pub offset: u64,
    /// How many sound records precede it in the same member; 0 in a plain file.
    pub nth: u64,
    /// The header lines after the version line, each with its line end.
    pub(super) lines: &'a [u8],
    /// The body, as long as `Content-Length` says.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The value of this header, whatever the case of its name; the first, if there are several.
    /// White space around it is removed; a value folded over lines gives its first line.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        header(self.lines, name)
    }

    /// Whether `WARC-Type` is this word.
    #[must_use]
    pub fn is(&self, warc_type: &str) -> bool {
        self.header("WARC-Type").is_some_and(|v| v.eq_ignore_ascii_case(warc_type.as_bytes()))
    }

    /// All headers in order, as stored.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        headers(self.lines)
    }
}

/// The first value of this name among header lines.
pub(crate) fn header<'a>(lines: &'a [u8], name: &str) -> Option<&'a [u8]> {
    headers(lines)
        .find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value)
}

/// Names and values of header lines; lines without a colon are passed over.
pub(crate) fn headers(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines.split(|&b| b == b'\n').filter_map(|line| {
        let colon = memchr(b':', line)?;
        Some((line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii()))
    })
}

/// Length of the header block at the start of `data`, its empty line included: `None` when the
/// empty line is not in `data`.
pub(crate) fn header_block(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(b'\n', &data[at..])? + 1;
        match data.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_values_are_trimmed() {
        let lines = b"WARC-Type:  response \r\nContent-Length: 3\r\nwarc-type: request\r\n";
        assert_eq!(header(lines, "warc-type"), Some(&b"response"[..]));
        assert_eq!(header(lines, "CONTENT-LENGTH"), Some(&b"3"[..]));
        assert_eq!(header(lines, "X"), None);
    }

    #[test]
    fn a_header_block_ends_at_its_empty_line_with_or_without_carriage_returns() {
        assert_eq!(header_block(b"a: 1\r\n\r\nbody"), Some(8));
        assert_eq!(header_block(b"a: 1\n\nbody"), Some(6));
        assert_eq!(header_block(b"a: 1\r\nb: 2\r\n"), None);
    }
}
