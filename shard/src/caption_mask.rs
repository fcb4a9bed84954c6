//! Personal data in the captions of a sample, masked where they stand: every other byte of a member
//! stays as it is.

use std::ops::Range;

use stage::pii::{PiiKind, find_apart};

/// How many tokens were written for each kind of [`PiiKind::ALL`].
pub(crate) type Masked = [u64; 5];

/// A `txt` member with tokens; nothing where nothing is found. Bytes that are no UTF-8 stay, and
/// part what stands before them from what stands behind.
pub(crate) fn mask_text(member: &[u8], kinds: &[PiiKind], masked: &mut Masked) -> Option<Vec<u8>> {
    let (mut found, mut at) = (Vec::new(), 0);
    for chunk in member.utf8_chunks() {
        for finding in find_apart(chunk.valid(), kinds) {
            found.push((at + finding.range.start..at + finding.range.end, finding.kind));
        }
        at += chunk.valid().len() + chunk.invalid().len();
    }
    replaced(member, &found, masked)
}

/// A `json` member with tokens in the string of its field `caption` (of each, where several have
/// the name); nothing where nothing is found. The json need not be sound: what looks like the field
/// of the outermost object is taken for it.
pub(crate) fn mask_json(member: &[u8], kinds: &[PiiKind], masked: &mut Masked) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    for string in captions(member) {
        let (text, places) = unescaped(&member[string.clone()]);
        let place = |at: usize| string.start + places.get(at).copied().unwrap_or(string.len());
        for finding in find_apart(&text, kinds) {
            found.push((place(finding.range.start)..place(finding.range.end), finding.kind));
        }
    }
    replaced(member, &found, masked)
}

fn replaced(
    member: &[u8],
    found: &[(Range<usize>, PiiKind)],
    masked: &mut Masked,
) -> Option<Vec<u8>> {
    if found.is_empty() {
        return None;
    }
    let (mut out, mut after) = (Vec::with_capacity(member.len()), 0);
    for (range, kind) in found {
        out.extend_from_slice(&member[after..range.start]);
        out.extend_from_slice(kind.token().as_bytes());
        masked[*kind as usize] += 1;
        after = range.end;
    }
    out.extend_from_slice(&member[after..]);
    Some(out)
}

/// Where the strings of `caption` lie in the outermost object, without their quotes.
fn captions(json: &[u8]) -> Vec<Range<usize>> {
    let byte = |i: usize| json.get(i).copied();
    let after_blanks = |mut i: usize| {
        while byte(i).is_some_and(|b| b.is_ascii_whitespace()) {
            i += 1;
        }
        i
    };
    // From the byte behind an opening quote to the closing one.
    let string = |start: usize| {
        let mut i = start;
        loop {
            match byte(i) {
                None => return start..json.len(),
                Some(b'"') => return start..i,
                Some(b'\\') => i += 2,
                Some(_) => i += 1,
            }
        }
    };
    let (mut found, mut depth, mut i) = (Vec::new(), 0_u64, 0);
    while let Some(b) = byte(i) {
        i += 1;
        match b {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let key = string(i);
                i = key.end + 1;
                let colon = after_blanks(i);
                let value = after_blanks(colon + 1);
                if depth == 1
                    && byte(colon) == Some(b':')
                    && byte(value) == Some(b'"')
                    && unescaped(&json[key]).0 == "caption"
                {
                    let value = string(value + 1);
                    i = value.end + 1;
                    found.push(value);
                }
            }
            _ => {}
        }
    }
    found
}

/// What the inside of a JSON string says, and where in it each byte of that begins; the length at
/// the end. What is no UTF-8 and half of a surrogate pair become U+FFFD.
fn unescaped(raw: &[u8]) -> (String, Vec<usize>) {
    let (mut text, mut places, mut i) = (String::with_capacity(raw.len()), Vec::new(), 0);
    while i < raw.len() {
        let (c, len) = if raw[i] == b'\\' { escape(&raw[i..]) } else { character(&raw[i..]) };
        text.push(c);
        places.resize(text.len(), i);
        i += len;
    }
    places.push(raw.len());
    (text, places)
}

/// The first character of these bytes and its length.
fn character(bytes: &[u8]) -> (char, usize) {
    let of_len = |n: usize| std::str::from_utf8(bytes.get(..n)?).ok()?.chars().next();
    (1..=4).find_map(|n| Some((of_len(n)?, n))).unwrap_or((char::REPLACEMENT_CHARACTER, 1))
}

/// The character that an escape stands for, and the escape's length, at most that of the bytes.
fn escape(bytes: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match bytes.get(1) {
        None => ('\\', 1),
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => match (unit(0), unit(6)) {
            (None, _) => ('u', 2),
            (Some(first), second) => {
                let alone = char::decode_utf16([first]).next().and_then(Result::ok);
                let pair = second
                    .and_then(|second| char::decode_utf16([first, second]).next()?.ok())
                    .filter(|_| alone.is_none());
                match (alone, pair) {
                    (Some(c), _) => (c, 6),
                    (None, Some(c)) => (c, 12),
                    (None, None) => (char::REPLACEMENT_CHARACTER, 6),
                }
            }
        },
        // A quote, a slash, a backslash; of what is no escape, its first byte.
        Some(_) => {
            let (c, len) = character(&bytes[1..]);
            (c, 1 + len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(member: &[u8]) -> Option<Vec<u8>> {
        mask_text(member, &PiiKind::ALL, &mut Masked::default())
    }

    fn json(member: &str) -> Option<String> {
        let masked = mask_json(member.as_bytes(), &PiiKind::ALL, &mut Masked::default())?;
        Some(String::from_utf8(masked).unwrap())
    }

    #[test]
    fn tokens_take_the_place_of_findings_and_are_counted_by_kind() {
        let mut masked = Masked::default();
        let member = b"mail me@site.example or you@site.example from 10.0.0.1\n";
        let out = mask_text(member, &PiiKind::ALL, &mut masked).unwrap();
        assert_eq!(out, b"mail [EMAIL] or [EMAIL] from [IP]\n");
        assert_eq!(masked, [2, 0, 0, 0, 1]);
        assert_eq!(text(b"a red car, 1967"), None);
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        assert_eq!(text(b"\xffme@site.example\xfe").unwrap(), b"\xff[EMAIL]\xfe");
        assert_eq!(text(b"\xff\xfe"), None);
    }

    #[test]
    fn the_field_caption_alone_is_masked_and_all_else_keeps_its_bytes() {
        let member = "{\n  \"url\": \"http://me@site.example/\", \"caption\" :\t\"ask \\u00e9 me@site.example\\n\",\n \
                      \"deep\": {\"caption\": \"me@site.example\"}, \"x\": [1e9, NaN]}";
        let expected = member.replacen("ask \\u00e9 me@site.example", "ask \\u00e9 [EMAIL]", 1);
        assert_eq!(json(member).unwrap(), expected);
    }

    #[test]
    fn escapes_are_read_through() {
        for (member, expected) in [
            (r#"{"caption": "\u006de\u0040site.example"}"#, r#"{"caption": "[EMAIL]"}"#),
            (r#"{"c\u0061ption": "me@site.example"}"#, r#"{"c\u0061ption": "[EMAIL]"}"#),
            (
                r#"{"caption": "\ud83d\ude00me@site.example"}"#,
                r#"{"caption": "\ud83d\ude00[EMAIL]"}"#,
            ),
            (r#"{"caption": "\ud83dme@site.example"}"#, r#"{"caption": "\ud83d[EMAIL]"}"#),
            (r#"{"caption": "\"10.0.0.1\""}"#, r#"{"caption": "\"[IP]\""}"#),
            (
                r#"{"caption": "10.0.0.1", "caption": "10.0.0.2"}"#,
                r#"{"caption": "[IP]", "caption": "[IP]"}"#,
            ),
            (r#"{"a": "\\", "caption": "10.0.0.1"}"#, r#"{"a": "\\", "caption": "[IP]"}"#),
        ] {
            assert_eq!(json(member).unwrap(), expected);
        }
    }

    #[test]
    fn json_that_is_broken_is_masked_as_far_as_it_goes() {
        assert_eq!(json(r#"{"caption": "10.0.0.1"#).unwrap(), r#"{"caption": "[IP]"#);
        assert_eq!(json(r#"{"caption": "10.0.0.1", x"#).unwrap(), r#"{"caption": "[IP]", x"#);
        for nothing in ["", "{", "\"", "{\"caption", "{\"caption\":", "{\"caption\": \"\\", "]]]"] {
            assert_eq!(json(nothing), None, "{nothing}");
        }
        assert_eq!(json(r#"{"caption": ["10.0.0.1"]}"#), None);
    }
}
