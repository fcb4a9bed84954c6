//! Personal data in a text: where it stands, and the text without it.
//!
//! Mail addresses, telephone numbers, payment cards, bank accounts, internet addresses. Rules, not
//! a model: names and street addresses are not found. Sources: Luhn's check digit (ISO/IEC 7812-1
//! annex B), IBAN's remainder of 97 (ISO 13616-1), E.164 for numbers with a plus sign, the North
//! American plan's 3-3-4 digits.
//!
//! It lies here because two rooms need it: `filter` counts, `shard` masks what is written out.

mod numbers;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of personal data.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PiiKind {
    /// A mail address.
    Email,
    /// A telephone number: with a plus sign and 8 to 15 digits, as 3-3-4 digits with separators,
    /// or with a leading 0, separators and 9 to 11 digits.
    Phone,
    /// 13 to 19 digits of a payment card with Luhn's check digit.
    Card,
    /// An international bank account number with its check digits.
    Iban,
    /// An IPv4 or IPv6 address.
    Ip,
}

use PiiKind::{Card, Email, Iban, Ip, Phone};

impl PiiKind {
    /// All kinds, in the order of the counts.
    pub const ALL: [Self; 5] = [Email, Phone, Card, Iban, Ip];

    /// As a recipe writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Email => "email",
            Phone => "phone",
            Card => "card",
            Iban => "iban",
            Ip => "ip",
        }
    }

    /// What stands in its place in a masked text.
    #[must_use]
    pub fn token(self) -> &'static str {
        match self {
            Email => "[EMAIL]",
            Phone => "[PHONE]",
            Card => "[CARD]",
            Iban => "[IBAN]",
            Ip => "[IP]",
        }
    }
}

/// Where personal data stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: PiiKind,
    /// Its bytes in the text.
    pub range: Range<usize>,
}

/// All that is found, kind by kind in the order of [`PiiKind::ALL`]; ranges of different findings
/// may overlap.
#[must_use]
pub fn find(text: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> = text
        .match_indices('@')
        .filter_map(|(at, _)| email(text, at))
        .map(|range| Finding { kind: Email, range })
        .collect();
    let numbers = numbers::find(text);
    for wanted in [Phone, Card] {
        found.extend(numbers.iter().filter(|finding| finding.kind == wanted).cloned());
    }
    found.extend(ibans(text).into_iter().map(|range| Finding { kind: Iban, range }));
    let ips = text.split(char::is_whitespace).map(host).filter(|word| is_ip(word));
    found.extend(ips.map(|word| Finding { kind: Ip, range: within(text, word) }));
    found
}

/// How many there are of each kind of [`PiiKind::ALL`].
#[must_use]
pub fn count(text: &str) -> [u32; 5] {
    let mut counts = [0_u32; 5];
    for finding in find(text) {
        let count = &mut counts[finding.kind as usize];
        *count = count.saturating_add(1);
    }
    counts
}

/// What of these kinds is to be masked: in order, and without overlaps.
///
/// What overlaps becomes one finding, of the kind that begins first, of two that begin together the
/// earlier in [`PiiKind::ALL`].
#[must_use]
pub fn find_apart(text: &str, kinds: &[PiiKind]) -> Vec<Finding> {
    let mut found = find(text);
    found.retain(|finding| kinds.contains(&finding.kind));
    found.sort_by_key(|finding| (finding.range.start, finding.kind));
    let mut apart: Vec<Finding> = Vec::with_capacity(found.len());
    for finding in found {
        match apart.last_mut() {
            Some(last) if finding.range.start < last.range.end => {
                last.range.end = last.range.end.max(finding.range.end);
            }
            _ => apart.push(finding),
        }
    }
    apart
}

/// The text with [`PiiKind::token`] in the place of all of [`find_apart`].
#[must_use]
pub fn mask(text: &str, kinds: &[PiiKind]) -> String {
    let (mut masked, mut after) = (String::with_capacity(text.len()), 0);
    for Finding { kind, range } in find_apart(text, kinds) {
        masked.push_str(&text[after..range.start]);
        masked.push_str(kind.token());
        after = range.end;
    }
    masked.push_str(&text[after..]);
    masked
}

/// The mail address whose sign stands here: a local part before it, behind it a host name whose
/// last label is of letters.
fn email(text: &str, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let (before, after) = (&bytes[..at], &bytes[at + 1..]);
    let of_local = |b: &u8| b.is_ascii_alphanumeric() || b"_%+-.".contains(b);
    if before.last().is_none_or(|b| *b == b'.' || !of_local(b)) {
        return None;
    }
    let end = after.iter().position(|b| !(b.is_ascii_alphanumeric() || b".-".contains(b)));
    let host = &after[..end.unwrap_or(after.len())];
    let mut labels = host.split(|&b| b == b'.').filter(|label| !label.is_empty()).rev();
    let ending =
        labels.next().is_some_and(|l| l.len() >= 2 && l.iter().all(u8::is_ascii_alphabetic));
    if !ending || labels.next().is_none() {
        return None;
    }
    let start = at - before.iter().rev().take_while(|b| of_local(b)).count();
    let dots = host.iter().rev().take_while(|b| **b == b'.').count();
    Some(start..at + 1 + host.len() - dots)
}

/// The words between white space, each without what `trimmed` takes off its ends, and where they
/// stand.
fn words(text: &str, trimmed: impl Fn(char) -> bool + Copy) -> impl Iterator<Item = (usize, &str)> {
    text.split(char::is_whitespace).map(move |word| {
        let word = word.trim_start_matches(trimmed).trim_end_matches(trimmed);
        (within(text, word).start, word)
    })
}

/// Where a part of a text stands in it.
fn within(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// Account numbers written in one, or in groups of four.
fn ibans(text: &str) -> Vec<Range<usize>> {
    let words: Vec<(usize, &str)> = words(text, |c: char| !c.is_ascii_alphanumeric()).collect();
    let starts = |word: &str| {
        let head = word.as_bytes();
        head.len() >= 4
            && head[..2].iter().all(u8::is_ascii_uppercase)
            && head[2..4].iter().all(u8::is_ascii_digit)
    };
    let (mut found, mut i) = (Vec::new(), 0);
    while let Some(&(start, first)) = words.get(i) {
        let mut taken = 1;
        if starts(first) {
            let mut account = String::new();
            for (n, (at, word)) in words[i..].iter().enumerate().take(9) {
                account.push_str(word);
                if is_iban(&account) {
                    found.push(start..at + word.len());
                    taken = n + 1;
                    break;
                }
                if word.len() != 4 {
                    break;
                }
            }
        }
        i += taken;
    }
    found
}

/// 15 to 34 letters and digits whose number, head behind the rest and letters as 10..=35, leaves 1
/// when divided by 97.
fn is_iban(account: &str) -> bool {
    let sound = account.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if !sound || !(15..=34).contains(&account.len()) {
        return false;
    }
    let (head, rest) = account.split_at(4);
    let remainder = rest.chars().chain(head.chars()).fold(0, |remainder, c| {
        let value = c.to_digit(36).unwrap_or(0);
        (remainder * if value > 9 { 100 } else { 10 } + value) % 97
    });
    remainder == 1
}

/// What may be an address in a word: without signs around it, scheme, user, path and port.
fn host(word: &str) -> &str {
    let trimmed = |c: char| !c.is_ascii_alphanumeric() && c != ':';
    let word = word.trim_matches(trimmed);
    let word = word.split_once("://").map_or(word, |(_, rest)| rest);
    let word = word.split(['/', '?', '#']).next().unwrap_or(word);
    let word = word.rsplit_once('@').map_or(word, |(_, rest)| rest);
    let word = word.strip_prefix('[').unwrap_or(word);
    let word = word.split_once(']').map_or(word, |(address, _)| address);
    match word.split_once(':') {
        Some((address, port)) if port.bytes().all(|b| b.is_ascii_digit()) => address,
        _ => word,
    }
    .trim_matches(trimmed)
}

/// `192.0.2.7` or at least three groups of `2001:db8::1`.
fn is_ip(word: &str) -> bool {
    let groups = word.split(':').filter(|group| !group.is_empty()).count();
    word.parse::<Ipv4Addr>().is_ok() || groups >= 3 && word.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_telephones() {
        for caption in [
            "summer 2010-2011-2012",
            "size 1920 x 1080, 24.5 MP",
            "born 1999-12-31 at 10.30",
            "ISBN 978-3-16-148410-0",
            "part 0042",
            "order a1234567890123456",
            "img.host/555-123-4567",
        ] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
        for caption in ["+49 30 901820", "+1 (555) 123-4567", "1-555-123-4567", "030 12 34 56 78"] {
            assert_eq!(count(caption), [0, 1, 0, 0, 0], "{caption}");
        }
    }

    #[test]
    fn a_number_beside_another_is_found() {
        for (caption, phones, cards) in [
            ("4111 1111 1111 1111 12/27", 0, 1),
            ("no. 12 4111-1111-1111-1111", 0, 1),
            ("3782 822463 10005 09/26", 0, 1),
            ("Call 555-123-4567 2 bedrooms", 1, 0),
            ("Call 555-123-4567 2bedrooms", 1, 0),
            ("555-123-4567/555-123-4568", 2, 0),
            ("5 (555) 123-4567", 1, 0),
            ("Tel.555-123-4567", 1, 0),
        ] {
            let found = count(caption);
            assert_eq!((found[1], found[2]), (phones, cards), "{caption}");
        }
        for caption in [
            "ISBN 978-612-4516-27-2",
            "01/02/2003-05/06/2007 and 2010-01-02 2010-01-03",
            "1920x1080 2560x1440, 120 x 130 x 1400 mm",
            "4111 1111 1111 1112 12/27",
            "3.5 555-123-4567-8",
        ] {
            assert_eq!(count(caption), [0; 5], "{caption}");
        }
    }

    #[test]
    fn an_internet_address_is_found_in_an_address_of_the_web_and_before_a_port() {
        for caption in [
            "192.168.0.1:8080",
            "http://192.168.0.1/x",
            "(http://user@192.168.0.1:80/a/b?c=10:30)",
            "http://[2001:db8::1]:8080/",
            "10.0.0.0/8",
        ] {
            assert_eq!(count(caption)[4], 1, "{caption}");
        }
        for caption in ["http://a.example/192.168.0.1", "at 10:30", "1.2.3:80", "16:9 4:3"] {
            assert_eq!(count(caption)[4], 0, "{caption}");
        }
    }

    #[test]
    fn a_wrong_check_digit_is_no_card_and_no_account() {
        assert_eq!(count("4111 1111 1111 1112")[2], 0);
        assert_eq!(count("0000 0000 0000 0000")[2], 0);
        assert_eq!(count("GB83 WEST 1234 5698 7654 32")[3], 0);
        assert_eq!(count("DE89370400440532013000, and DE89 3704 0044 0532 0130 00.")[3], 2);
    }

    #[test]
    fn addresses_need_a_host_and_versions_of_four_numbers_are_taken_for_one() {
        assert_eq!(count("@home, me@work, a@b.c, x@y.example")[0], 1);
        assert_eq!(count("2001:db8::1 at 10:30:45 or fe80::1:2")[4], 2);
        assert_eq!(count("version 1.2.3.4 and 1.2.3 and 256.1.1.1")[4], 1);
    }

    #[test]
    fn a_token_takes_the_place_of_the_whole_of_it_and_of_nothing_else() {
        for (text, expected) in [
            ("write to ann.lee+x@mail.example.org today", "write to [EMAIL] today"),
            ("<me@site.example>, or ü@site.example.", "<[EMAIL]>, or ü@site.example."),
            ("at me@site.example...", "at [EMAIL]..."),
            ("call (555) 123-4567 now", "call [PHONE] now"),
            ("call +1 (555) 123-4567 now", "call [PHONE] now"),
            ("(+49 30 901820)", "([PHONE])"),
            ("tel:(+49) 30 901820", "tel:[PHONE]"),
            ("+(49) 30 901820", "[PHONE]"),
            ("(call 030 12 34 56 78)", "(call [PHONE])"),
            ("card 4111 1111 1111 1111, 2027", "card [CARD], 2027"),
            ("IBAN GB82 WEST 1234 5698 7654 32.", "IBAN [IBAN]."),
            ("é 192.168.0.1, fe80::1:2", "é [IP], [IP]"),
            ("see http://user@192.168.0.1:80/a", "see http://user@[IP]:80/a"),
            ("4111 1111 1111 1111 12/27", "[CARD] 12/27"),
            ("5 (555) 123-4567", "5 [PHONE]"),
            ("555-123-4567/555-123-4568", "[PHONE]/[PHONE]"),
            ("Call 555-123-4567 2 bedrooms", "Call [PHONE] 2 bedrooms"),
            ("a red car, 1967", "a red car, 1967"),
        ] {
            assert_eq!(mask(text, &PiiKind::ALL), expected);
            assert_eq!(count(expected), [0; 5], "nothing is left to mask");
        }
    }

    #[test]
    fn kinds_that_are_not_asked_for_stay() {
        let text = "a@b.example and c@d.example or 555-123-4567 from 10.0.0.1";
        let masked = mask(text, &[PiiKind::Email, PiiKind::Ip]);
        assert_eq!(masked, "[EMAIL] and [EMAIL] or 555-123-4567 from [IP]");
        assert_eq!(mask(text, &[PiiKind::Card]), text);
    }

    #[test]
    fn what_overlaps_becomes_one_token() {
        assert_eq!(count("a@b.example@c.example")[0], 2);
        assert_eq!(mask("a@b.example@c.example", &PiiKind::ALL), "[EMAIL]");
    }

    #[test]
    fn any_text_is_masked_at_its_own_boundaries() {
        // Every text of six of these signs.
        let signs = ["@", "a", ".", "1", "ü", " ", "(", "+"];
        for mut number in 0..signs.len().pow(6) {
            let mut text = String::new();
            for _ in 0..6 {
                text.push_str(signs[number % signs.len()]);
                number /= signs.len();
            }
            for finding in find(&text) {
                assert!(text.get(finding.range.clone()).is_some(), "{text}: {finding:?}");
            }
        }
    }
}
