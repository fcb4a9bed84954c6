//! What in some bytes may be a uid, a hash or a URL.

/// Longest URL that is looked at, bytes; the overlap of two pieces of a file.
pub(crate) const LONGEST: usize = 4 << 10;
/// Longest run of hex digits of which every part is looked at: longer ones are data.
const HEX_RUN: usize = 256;

/// A place where something may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// 32 hex digits.
    Uid(&'a str),
    /// 64 hex digits.
    Hash(&'a str),
    /// `scheme://…`.
    Url(&'a str),
}

/// Shows every token of these bytes, some twice: a URL also without the signs at its end that may be
/// the sentence's.
pub(crate) fn tokens(bytes: &[u8], mut show: impl FnMut(Token<'_>)) {
    hex_runs(bytes, &mut show);
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], b"://").map(|at| from + at) {
        let scheme = bytes[..at].iter().rev().take_while(|b| scheme_byte(**b)).take(16).count();
        let end = bytes[at..].iter().take(LONGEST).position(|b| !url_byte(*b));
        let end = end.map_or(bytes.len().min(at + LONGEST), |len| at + len);
        from = at + 3;
        let Some(slice) = bytes.get(at - scheme..end) else { continue };
        let text = valid(slice);
        // What precedes may belong to a word before: `srchttp://` in compressed bytes.
        for word in ["http", "https", "ftp"] {
            let Some(start) = scheme.checked_sub(word.len()) else { continue };
            let Some(url) = text.get(start..).filter(|url| starts(url, word)) else { continue };
            let mut url = url;
            show(Token::Url(url));
            while let Some(shorter) = url.strip_suffix(|c: char| ").,;:!?'*_]".contains(c)) {
                show(Token::Url(shorter));
                url = shorter;
            }
        }
    }
}

/// What of the bytes is UTF-8, from their beginning.
fn valid(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes
            .get(..error.valid_up_to())
            .and_then(|b| str::from_utf8(b).ok())
            .unwrap_or_default(),
    }
}

fn starts(url: &str, word: &str) -> bool {
    url.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
        && url[word.len()..].starts_with("://")
}

fn hex_runs(bytes: &[u8], show: &mut impl FnMut(Token<'_>)) {
    let mut start = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_hexdigit() {
            start += 1;
            continue;
        }
        let run = bytes[start..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let text = std::str::from_utf8(&bytes[start..start + run]).unwrap_or_default();
        if (32..=HEX_RUN).contains(&run) {
            // A run of 64 is a hash, or two uids: what lies across its middle is neither.
            let step = if run == 64 { 32 } else { 1 };
            for at in (0..=run - 32).step_by(step) {
                show(Token::Uid(&text[at..at + 32]));
                if let Some(hash) = text.get(at..at + 64) {
                    show(Token::Hash(hash));
                }
            }
        }
        start += run;
    }
}

fn scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// Bytes that end no URL; those above 127 belong to names that were never escaped.
fn url_byte(byte: u8) -> bool {
    byte > 32 && byte != 127 && !b"\"<>\\^`{|}".contains(&byte)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        tokens(text.as_bytes(), |token| {
            found.push(match token {
                Token::Uid(t) => format!("uid {t}"),
                Token::Hash(t) => format!("hash {t}"),
                Token::Url(t) => format!("url {t}"),
            });
        });
        found
    }

    #[test]
    fn a_uid_is_found_inside_a_key_and_a_longer_run() {
        let uid = "139e4a9b22a614771f06c700a8ebe150";
        assert_eq!(of(&format!("x {uid}-0.jpg")), [format!("uid {uid}")]);
        assert!(of(&format!("0{uid}")).contains(&format!("uid {uid}")));
        assert_eq!(of(&uid[1..]), [""; 0]);
        let two = uid.repeat(2);
        assert_eq!(of(&two), [format!("uid {uid}"), format!("hash {two}"), format!("uid {uid}")]);
    }

    #[test]
    fn a_url_ends_at_a_quote_and_is_tried_without_the_sentences_signs() {
        assert_eq!(of(r#"{"url": "http://a.example/x?y"}"#), ["url http://a.example/x?y"]);
        let found = of("(see https://a.example/x).");
        let expected = ["https://a.example/x).", "https://a.example/x)", "https://a.example/x"];
        assert_eq!(found, expected.map(|url| format!("url {url}")));
    }

    #[test]
    fn a_url_before_broken_text_is_found() {
        let mut found = Vec::new();
        tokens(b"http://a.example/x\xff\xfe", |token| found.push(format!("{token:?}")));
        assert_eq!(found, [r#"Url("http://a.example/x")"#]);
    }

    proptest::proptest! {
        #[test]
        fn a_named_url_and_uid_are_found_in_any_bytes(
            before: Vec<u8>,
            after: Vec<u8>,
            number: u128,
        ) {
            let (url, uid) = (format!("http://h.example/{number}"), format!("{number:032x}"));
            let around = |what: &str| [&before[..], b" ", what.as_bytes(), b"\n", &after].concat();
            let (mut urls, mut uids) = (0, 0);
            tokens(&around(&url), |token| urls += u32::from(token == Token::Url(&url)));
            tokens(&around(&uid), |token| uids += u32::from(token == Token::Uid(&uid)));
            proptest::prop_assert!(urls > 0 && uids > 0);
        }
    }

    #[test]
    fn two_urls_in_a_row_are_two() {
        let found = of("http://a.example/ http://b.example/");
        assert_eq!(found, ["url http://a.example/", "url http://b.example/"]);
    }
}
