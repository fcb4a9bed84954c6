//! What stands between two groups of digits of one number.

/// The signs between two groups, each as its kin in ASCII, with zeros behind.
pub(super) type Gap = [u8; 5];

/// The gap of one blank.
pub(super) const BLANK: Gap = [b' ', 0, 0, 0, 0];

/// The sign that begins here and its bytes: blanks (also U+00A0, U+2007, U+2009 and U+202F),
/// hyphens and dashes (U+2010 to U+2015, and the minus U+2212), points, slashes and brackets.
fn sign(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    match bytes.get(at..)? {
        [sign @ (b' ' | b'.' | b'-' | b'(' | b')' | b'/'), ..] => Some((*sign, 1)),
        [0xc2, 0xa0, ..] => Some((b' ', 2)),
        [0xe2, 0x80, 0x87 | 0x89 | 0xaf, ..] => Some((b' ', 3)),
        [0xe2, 0x80, 0x90..=0x95, ..] | [0xe2, 0x88, 0x92, ..] => Some((b'-', 3)),
        _ => None,
    }
}

/// The gap that begins here, and where it ends: one or two signs, or a hyphen or slash between
/// blanks, and a bracket that closes before them or opens behind them.
pub(super) fn gap(bytes: &[u8], at: usize) -> Option<(Gap, usize)> {
    let (mut signs, mut len, mut end) = (Gap::default(), 0, at);
    while let Some((sign, bytes)) = sign(bytes, end) {
        *signs.get_mut(len)? = sign;
        len += 1;
        end += bytes;
    }
    let inner = &signs[..len];
    let inner = inner.strip_prefix(b")").unwrap_or(inner);
    let inner = inner.strip_suffix(b"(").unwrap_or(inner);
    let sound = inner.len() <= 2 || matches!(inner, b" - " | b" / ");
    (len > 0 && sound).then_some((signs, end))
}
