//! Turns away captions with personal data: mail addresses, telephone numbers, payment cards,
//! bank accounts, internet addresses.
//!
//! Rules, not a model: names and street addresses are not found. Sources: Luhn's check digit
//! (ISO/IEC 7812-1 annex B), IBAN's remainder of 97 (ISO 13616-1), E.164 for numbers with a plus
//! sign, the North American plan's 3-3-4 digits.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};

/// Personal data in the caption. Scores: how many there are of each kind, `pii_emails`,
/// `pii_phones`, `pii_cards`, `pii_ibans`, `pii_ips`. Nothing is masked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pii {
    /// Kinds for which a caption is turned away; default all, empty only scores. Reasons:
    /// `pii_email`, `pii_phone`, `pii_card`, `pii_iban`, `pii_ip`.
    pub drop: Vec<PiiKind>,
}

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

const KINDS: [PiiKind; 5] = [Email, Phone, Card, Iban, Ip];

impl Default for Pii {
    fn default() -> Self {
        Self { drop: KINDS.to_vec() }
    }
}

impl PiiKind {
    fn column(self) -> &'static str {
        match self {
            Email => "pii_emails",
            Phone => "pii_phones",
            Card => "pii_cards",
            Iban => "pii_ibans",
            Ip => "pii_ips",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Email => "pii_email",
            Phone => "pii_phone",
            Card => "pii_card",
            Iban => "pii_iban",
            Ip => "pii_ip",
        }
    }
}

impl JudgePlan for Pii {
    fn name(&self) -> &'static str {
        "pii"
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        KINDS.map(|kind| Field::new(kind.column(), DataType::UInt32, true)).to_vec()
    }

    fn scoring(&self) -> Value {
        Value::Null
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let columns: Vec<&UInt32Array> =
            scores.iter().map(AsArray::as_primitive::<UInt32Type>).collect();
        let rows = scores.first().map_or(0, Array::len);
        let found = |i: usize| {
            let kinds = KINDS.iter().zip(&columns).filter(|(kind, _)| self.drop.contains(kind));
            let mut found = kinds.filter(|(_, column)| column.is_valid(i) && column.value(i) > 0);
            found.next().map(|(kind, _)| kind.reason())
        };
        (0..rows).map(found).collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(Finder))
    }
}

struct Finder;

impl Judge for Finder {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let captions = pairs.captions();
        let mut counts = vec![vec![None; pairs.len()]; KINDS.len()];
        for i in (0..pairs.len()).filter(|&i| is_success(pairs, i)) {
            for (column, count) in counts.iter_mut().zip(count(captions.value(i))) {
                column[i] = Some(count);
            }
        }
        let columns = counts.into_iter().map(|c| Arc::new(UInt32Array::from(c)) as ArrayRef);
        Ok(Scored::of(columns.collect()))
    }
}

/// How many there are of each kind.
fn count(caption: &str) -> [u32; 5] {
    let emails = caption.match_indices('@').filter(|(at, _)| is_email(caption, *at)).count();
    let (mut phones, mut cards) = (0, 0);
    for number in numbers(caption) {
        let (more_phones, more_cards) = number.count();
        (phones, cards) = (phones + more_phones, cards + more_cards);
    }
    let ips = caption.split(char::is_whitespace).filter(|word| is_ip(host(word))).count();
    [emails, phones, cards, ibans(caption), ips].map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// Whether a mail address has its sign here: a local part before it, behind it a host name whose
/// last label is of letters.
fn is_email(caption: &str, at: usize) -> bool {
    let (before, after) = (&caption.as_bytes()[..at], &caption.as_bytes()[at + 1..]);
    let local = before.last().is_some_and(|b| b.is_ascii_alphanumeric() || b"_%+-".contains(b));
    let end = after.iter().position(|b| !(b.is_ascii_alphanumeric() || b".-".contains(b)));
    let host = &after[..end.unwrap_or(after.len())];
    let mut labels = host.split(|&b| b == b'.').filter(|label| !label.is_empty()).rev();
    let ending =
        labels.next().is_some_and(|l| l.len() >= 2 && l.iter().all(u8::is_ascii_alphabetic));
    local && ending && labels.next().is_some()
}

/// Digits with single separators between them.
struct Number {
    plus: bool,
    digits: Vec<u8>,
    /// Lengths of the groups between separators.
    groups: Vec<usize>,
    /// What stands between a group and the next.
    gaps: Vec<Vec<u8>>,
}

/// The numbers of a caption that stand apart from letters.
fn numbers(caption: &str) -> Vec<Number> {
    let bytes = caption.as_bytes();
    let byte = |i: usize| bytes.get(i).copied().unwrap_or(b' ');
    let (mut found, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        // A point behind a letter ends a word: `Tel.555-123-4567`.
        let after_word = i > 1 && byte(i - 1) == b'.' && byte(i - 2).is_ascii_alphabetic();
        let joined = |b: u8| b.is_ascii_alphanumeric() || b"_.@/".contains(&b);
        let apart = i == 0 || after_word || !joined(byte(i - 1));
        if !byte(i).is_ascii_digit() || !apart {
            i += 1;
            while i < bytes.len() && byte(i).is_ascii_digit() && byte(i - 1).is_ascii_digit() {
                i += 1;
            }
            continue;
        }
        let plus =
            i > 0 && byte(i - 1) == b'+' || i > 1 && byte(i - 1) == b'(' && byte(i - 2) == b'+';
        let mut number = Number { plus, digits: Vec::new(), groups: Vec::new(), gaps: Vec::new() };
        loop {
            let start = i;
            while byte(i).is_ascii_digit() {
                number.digits.push(byte(i) - b'0');
                i += 1;
            }
            number.groups.push(i - start);
            // At most two signs between groups: `) ` or ` (`.
            let gap = (0..3).find(|&gap| !b" .-()/".contains(&byte(i + gap))).unwrap_or(3);
            if gap == 0 || gap == 3 || i + gap >= bytes.len() || !byte(i + gap).is_ascii_digit() {
                break;
            }
            number.gaps.push(bytes[i..i + gap].to_vec());
            i += gap;
        }
        // Digits with a letter behind them are part of a word, and the groups before are not.
        if byte(i).is_ascii_alphabetic() {
            let last = number.groups.pop().unwrap_or_default();
            number.digits.truncate(number.digits.len() - last);
            number.gaps.pop();
        }
        if !number.groups.is_empty() {
            found.push(number);
        }
    }
    found
}

impl Number {
    /// Telephones and cards: the whole, or else numbers that stand beside others, from the left.
    fn count(&self) -> (usize, usize) {
        if self.is_card() {
            return (0, 1);
        }
        if self.is_phone() {
            return (1, 0);
        }
        let (mut phones, mut cards, mut start) = (0, 0, 0);
        while start < self.groups.len() {
            let found = |end: &usize| self.is_card_beside(start..*end);
            let card = (start + 1..=self.groups.len().min(start + 4)).rev().find(found);
            let found = |end: &usize| self.is_phone_beside(start..*end);
            let phone = (start + 3..=self.groups.len().min(start + 4)).rev().find(found);
            cards += usize::from(card.is_some());
            phones += usize::from(card.is_none() && phone.is_some());
            start = card.or(phone).unwrap_or(start + 1);
        }
        (phones, cards)
    }

    /// These groups alone.
    fn part(&self, groups: std::ops::Range<usize>) -> Self {
        let before: usize = self.groups[..groups.start].iter().sum();
        let length: usize = self.groups[groups.clone()].iter().sum();
        Self {
            plus: self.plus && groups.start == 0,
            digits: self.digits[before..before + length].to_vec(),
            groups: self.groups[groups.clone()].to_vec(),
            gaps: self.gaps[groups.start..groups.end - 1].to_vec(),
        }
    }

    /// A card in the groups that cards are printed in: with one number in ten the check digit is
    /// right by chance.
    fn is_card_beside(&self, groups: std::ops::Range<usize>) -> bool {
        let part = self.part(groups);
        (matches!(part.groups[..], [4, 4, 4, 4] | [4, 6, 5]) || part.groups.len() == 1)
            && part.is_card()
    }

    /// 3-3-4 digits, perhaps with a 1 before, that other signs join than those beside them: what one
    /// sign joins throughout is a longer number, such as an ISBN.
    fn is_phone_beside(&self, groups: std::ops::Range<usize>) -> bool {
        let part = self.part(groups.clone());
        let national = part.is_national();
        let gap = |i: usize| self.gaps.get(i);
        let before = groups.start.checked_sub(1).and_then(gap);
        let behind = gap(groups.end - 1);
        let other = |beside: Option<&Vec<u8>>, inside: Option<&Vec<u8>>| {
            beside.is_none_or(|beside| inside.is_some_and(|inside| inside != beside))
        };
        national && other(before, part.gaps.first()) && other(behind, part.gaps.last())
    }

    /// The North American plan's digits.
    fn is_national(&self) -> bool {
        let national = match self.groups.as_slice() {
            [1, rest @ ..] if self.digits.first() == Some(&1) => rest,
            all => all,
        };
        national == [3, 3, 4]
    }

    fn is_phone(&self) -> bool {
        let (digits, groups) = (self.digits.len(), self.groups.as_slice());
        let long_distance = self.digits.first() == Some(&0)
            && (2..=5).contains(&groups.len())
            && (9..=11).contains(&digits)
            && groups.iter().all(|&length| length >= 2);
        self.plus && (8..=15).contains(&digits) || self.is_national() || long_distance
    }

    fn is_card(&self) -> bool {
        let whole = self.groups.len() == 1 || self.groups.iter().all(|n| (3..=7).contains(n));
        let issuer = self.digits.first().is_some_and(|first| (2..=6).contains(first));
        let same = self.digits.windows(2).all(|pair| pair[0] == pair[1]);
        whole
            && issuer
            && !same
            && !self.plus
            && (13..=19).contains(&self.digits.len())
            && luhn(&self.digits)
    }
}

/// Luhn: from the right every second digit doubled, digits of the results added up.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &digit)| match (i % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Account numbers written in one, or in groups of four.
fn ibans(caption: &str) -> usize {
    let words: Vec<&str> = caption
        .split(char::is_whitespace)
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    let starts = |word: &str| {
        let head = word.as_bytes();
        head.len() >= 4
            && head[..2].iter().all(u8::is_ascii_uppercase)
            && head[2..4].iter().all(u8::is_ascii_digit)
    };
    let (mut count, mut i) = (0, 0);
    while i < words.len() {
        let mut taken = 1;
        if starts(words[i]) {
            let mut account = String::new();
            for (n, word) in words[i..].iter().enumerate().take(9) {
                account.push_str(word);
                if is_iban(&account) {
                    count += 1;
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
    count
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
    use crate::judge::tests::{check, failed_row, row};

    #[test]
    fn each_kind_is_counted_and_gives_its_reason() {
        // A card number of the issuers' own test pages, the IBAN of the standard's example.
        let rows = [
            row("write to ann.lee+x@mail.example.org today", None),
            row("call (555) 123-4567 now", None),
            row("card 4111 1111 1111 1111", None),
            row("IBAN GB82 WEST 1234 5698 7654 32", None),
            row("router at 192.168.0.1.", None),
            row("a red car, 1967", None),
            failed_row(),
        ];
        let (scores, reasons) = check(&Pii::default(), &rows);
        let expected = [
            Some("pii_email"),
            Some("pii_phone"),
            Some("pii_card"),
            Some("pii_iban"),
            Some("pii_ip"),
            None,
            None,
        ];
        assert_eq!(reasons, expected);
        assert!(scores.iter().all(|column| column.is_null(6)));
    }

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
    fn without_kinds_nothing_is_dropped_and_all_is_scored() {
        let plan: Pii = serde_json::from_str(r#"{"drop": []}"#).unwrap();
        let (scores, reasons) = check(&plan, &[row("a@b.example", None)]);
        assert_eq!(reasons, [None]);
        assert_eq!(scores[0].as_primitive::<UInt32Type>().value(0), 1);
        let only: Pii = serde_json::from_str(r#"{"drop": ["card"]}"#).unwrap();
        assert_eq!(check(&only, &[row("a@b.example", None)]).1, [None]);
    }
}
