//! Mail addresses in a text.

use std::ops::Range;

/// Signs of a local part beside letters and digits (RFC 5322, `atext`), and the point.
const ATOM: &str = "!#$%&'*+-/=?^_`{|}~.";

/// The mail addresses of a text, in order.
pub(super) fn find(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('@').filter_map(|(at, _)| mail(text, at))
}

/// The address whose sign stands here: a local part before it, a host behind it.
fn mail(text: &str, at: usize) -> Option<Range<usize>> {
    let start = local(&text[..at])?;
    let len = host(&text[at + 1..])?;
    Some(start..at + 1 + len)
}

/// Letters of scripts that put no blanks between words: what stands before an address in them need
/// not belong to it.
fn unspaced(c: char) -> bool {
    let spaced = matches!(c, '\u{ac00}'..='\u{d7a3}');
    (c >= '\u{2e80}' && !spaced || matches!(c, '\u{e00}'..='\u{eff}' | '\u{1780}'..='\u{17ff}'))
        && c.is_alphanumeric()
}

/// A letter or digit, or a mark upon one.
fn letter(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}')
}

/// Where the local part at the end of this begins.
fn local(before: &str) -> Option<usize> {
    if before.ends_with('.') {
        return None;
    }
    let mut spaced = false;
    let mut start = None;
    for (at, c) in before.char_indices().rev() {
        if !(letter(c) || ATOM.contains(c)) || spaced && unspaced(c) {
            break;
        }
        spaced |= !unspaced(c);
        // Signs at its beginning are those of the text, such as quotes.
        if letter(c) || c == '_' {
            start = Some(at);
        }
    }
    start
}

/// The length of the longest host at the beginning of this: two labels or more, the last of which
/// is of letters, or in punycode. Of a label with other signs in it the letters before them are
/// taken: `gmail.com-we`, `gmail.com2`.
fn host(after: &str) -> Option<usize> {
    let (mut longest, mut labels, mut start) = (None, 0, 0);
    loop {
        let (label, letters) = label(&after[start..]);
        let punycode = after[start..start + label].get(..4);
        let punycode = punycode.is_some_and(|head| head.eq_ignore_ascii_case("xn--"));
        let sound = if punycode {
            after[start..start + label].trim_end_matches('-').len()
        } else {
            letters
        };
        if labels > 0 && after[start..start + sound].chars().nth(1).is_some() {
            longest = Some(start + sound);
        }
        labels += usize::from(label > 0);
        start += label;
        if !after[start..].starts_with('.') {
            return longest;
        }
        start += 1;
    }
}

/// The length of the label at the beginning of this, and of the letters at its beginning.
fn label(text: &str) -> (usize, usize) {
    let (mut len, mut letters) = (0, None);
    let mut spaced = false;
    for (at, c) in text.char_indices() {
        if !(letter(c) || c == '-' || c == '_') || spaced && unspaced(c) {
            break;
        }
        spaced |= !unspaced(c);
        if letters.is_none() && (!letter(c) || c.is_numeric()) {
            letters = Some(at);
        }
        len = at + c.len_utf8();
    }
    (len, letters.unwrap_or(len))
}
