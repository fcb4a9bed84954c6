//! Telephone and card numbers in a text.

use std::ops::Range;

use super::Finding;
use super::PiiKind::{self, Card, Phone};

/// Digits with one or two separators between them.
struct Number<'a> {
    text: &'a [u8],
    plus: bool,
    /// Where the groups between separators stand; never empty.
    groups: Vec<Range<usize>>,
}

/// The telephone and card numbers of a text, in order.
pub(super) fn find(text: &str) -> Vec<Finding> {
    numbers(text.as_bytes()).iter().flat_map(Number::findings).collect()
}

/// The numbers of a text that stand apart from letters.
fn numbers(bytes: &[u8]) -> Vec<Number<'_>> {
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
        let bracket = i > 0 && byte(i - 1) == b'(';
        let plus = i > 0 && byte(i - 1) == b'+' || bracket && i > 1 && byte(i - 2) == b'+';
        let mut groups = Vec::new();
        loop {
            let start = i;
            while byte(i).is_ascii_digit() {
                i += 1;
            }
            groups.push(start..i);
            // At most two signs between groups: `) ` or ` (`.
            let gap = (0..3).find(|&gap| !b" .-()/".contains(&byte(i + gap))).unwrap_or(3);
            if gap == 0 || gap == 3 || i + gap >= bytes.len() || !byte(i + gap).is_ascii_digit() {
                break;
            }
            i += gap;
        }
        // Digits with a letter behind them are part of a word, and the groups before are not.
        if byte(i).is_ascii_alphabetic() {
            groups.pop();
        }
        if !groups.is_empty() {
            found.push(Number { text: bytes, plus, groups });
        }
    }
    found
}

impl Number<'_> {
    /// The whole, or else numbers that stand beside others, from the left.
    fn findings(&self) -> Vec<Finding> {
        if let Some(kind) = self.kind() {
            return vec![self.finding(kind)];
        }
        let (mut found, mut start) = (Vec::new(), 0);
        while start < self.groups.len() {
            let most = self.groups.len().min(start + 4);
            let card = (start + 1..=most).rev().find(|end| self.is_card_beside(start..*end));
            let phone = || (start + 3..=most).rev().find(|end| self.is_phone_beside(start..*end));
            let ended = card.map(|end| (Card, end)).or_else(|| phone().map(|end| (Phone, end)));
            start = match ended {
                Some((kind, end)) => {
                    found.push(self.part(start..end).finding(kind));
                    end
                }
                None => start + 1,
            };
        }
        found
    }

    fn kind(&self) -> Option<PiiKind> {
        if self.is_card() {
            return Some(Card);
        }
        self.is_phone().then_some(Phone)
    }

    /// Its place, with the plus sign and an opening bracket that is closed within.
    fn finding(&self, kind: PiiKind) -> Finding {
        let end = self.groups.last().map_or(0, |group| group.end);
        let mut start = self.groups.first().map_or(end, |group| group.start);
        let closed = self.text[start..end].contains(&b')');
        while start > 0 && (self.text[start - 1] == b'+' || closed && self.text[start - 1] == b'(')
        {
            start -= 1;
        }
        Finding { kind, range: start..end }
    }

    /// These groups alone.
    fn part(&self, groups: Range<usize>) -> Self {
        Self {
            text: self.text,
            plus: self.plus && groups.start == 0,
            groups: self.groups[groups].to_vec(),
        }
    }

    fn digits(&self) -> Vec<u8> {
        let all = self.groups.iter().flat_map(|group| &self.text[group.clone()]);
        all.map(|digit| digit - b'0').collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.groups.iter().map(Range::len).collect()
    }

    /// What stands between the i-th group and the next.
    fn gap(&self, i: usize) -> Option<&[u8]> {
        Some(&self.text[self.groups.get(i)?.end..self.groups.get(i + 1)?.start])
    }

    /// A card in the groups that cards are printed in: with one number in ten the check digit is
    /// right by chance.
    fn is_card_beside(&self, groups: Range<usize>) -> bool {
        let part = self.part(groups);
        (matches!(part.lengths()[..], [_] | [4, 4, 4, 4] | [4, 6, 5])) && part.is_card()
    }

    /// 3-3-4 digits, perhaps with a 1 before, that other signs join than those beside them: what one
    /// sign joins throughout is a longer number, such as an ISBN.
    fn is_phone_beside(&self, groups: Range<usize>) -> bool {
        let part = self.part(groups.clone());
        let other = |beside: Option<&[u8]>, inside: Option<&[u8]>| {
            beside.is_none_or(|beside| inside.is_some_and(|inside| inside != beside))
        };
        let before = groups.start.checked_sub(1).and_then(|i| self.gap(i));
        let last = part.groups.len().checked_sub(2).and_then(|i| part.gap(i));
        part.is_national() && other(before, part.gap(0)) && other(self.gap(groups.end - 1), last)
    }

    /// The North American plan's digits.
    fn is_national(&self) -> bool {
        let one = self.digits().first() == Some(&1);
        match self.lengths().as_slice() {
            [1, rest @ ..] if one => rest == [3, 3, 4],
            all => all == [3, 3, 4],
        }
    }

    fn is_phone(&self) -> bool {
        let (digits, lengths) = (self.digits(), self.lengths());
        let long_distance = digits.first() == Some(&0)
            && (2..=5).contains(&lengths.len())
            && (9..=11).contains(&digits.len())
            && lengths.iter().all(|&length| length >= 2);
        self.plus && (8..=15).contains(&digits.len()) || self.is_national() || long_distance
    }

    fn is_card(&self) -> bool {
        let (digits, lengths) = (self.digits(), self.lengths());
        let whole = lengths.len() == 1 || lengths.iter().all(|n| (3..=7).contains(n));
        let issuer = digits.first().is_some_and(|first| (2..=6).contains(first));
        let same = digits.windows(2).all(|pair| pair[0] == pair[1]);
        whole && issuer && !same && !self.plus && (13..=19).contains(&digits.len()) && luhn(&digits)
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
