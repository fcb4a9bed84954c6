//! Telephone and card numbers in a text.

use std::ops::Range;

use super::Finding;
use super::PiiKind::{self, Card, Phone};
use super::gap::{BLANK, Gap, gap};

/// Digits in groups.
struct Number<'a> {
    text: &'a [u8],
    plus: bool,
    /// Whether a letter follows at once.
    before_letter: bool,
    /// Where the groups stand; never empty.
    groups: Vec<Range<usize>>,
    /// What stands behind each group but the last.
    gaps: Vec<Gap>,
}

/// The telephone and card numbers of a text, in order, besides those in these places, which are in
/// order too.
pub(super) fn find(text: &str, taken: &[Range<usize>]) -> Vec<Finding> {
    numbers(text.as_bytes(), taken).iter().flat_map(Number::findings).collect()
}

/// The numbers of a text that stand apart from letters before them.
fn numbers<'a>(bytes: &'a [u8], taken: &[Range<usize>]) -> Vec<Number<'a>> {
    let byte = |i: usize| bytes.get(i).copied().unwrap_or(b' ');
    let mut taken = taken.iter().peekable();
    let (mut found, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        while let Some(place) = taken.next_if(|place| place.start <= i) {
            i = i.max(place.end);
        }
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
        let (mut groups, mut gaps) = (Vec::new(), Vec::new());
        loop {
            let start = i;
            while byte(i).is_ascii_digit() {
                i += 1;
            }
            groups.push(start..i);
            match gap(bytes, i).filter(|(_, next)| byte(*next).is_ascii_digit()) {
                Some((gap, next)) => {
                    gaps.push(gap);
                    i = next;
                }
                None => break,
            }
        }
        let before_letter = byte(i).is_ascii_alphabetic();
        found.push(Number { text: bytes, plus, before_letter, groups, gaps });
    }
    found
}

impl Number<'_> {
    /// The whole, or what is left of it without digits that belong to a word behind it
    /// (`555 123 4567 2bedrooms`), or else numbers that stand beside others, from the left.
    fn findings(&self) -> Vec<Finding> {
        let count = self.groups.len();
        if let Some(kind) = self.kind(0..count) {
            return vec![self.finding(kind, 0..count)];
        }
        if let Some(kind) = self.before_letter.then(|| self.kind(0..count - 1)).flatten() {
            return vec![self.finding(kind, 0..count - 1)];
        }
        // `free`: no group stands before that belongs to no finding.
        let (mut found, mut start, mut free) = (Vec::new(), 0, true);
        while start < count {
            let card = self.card_from(start).map(|end| (Card, end));
            let ended = card.or_else(|| self.phone_from(start, free).map(|end| (Phone, end)));
            free = ended.is_some();
            start = match ended {
                Some((kind, end)) => {
                    found.push(self.finding(kind, start..end));
                    end
                }
                None => start + 1,
            };
        }
        found
    }

    fn kind(&self, run: Range<usize>) -> Option<PiiKind> {
        if self.is_card(&run) {
            return Some(Card);
        }
        let phone =
            self.is_international(&run) || self.is_national(&run) || self.is_long_distance(&run);
        phone.then_some(Phone)
    }

    /// Its place, with the plus sign and an opening bracket that is closed within.
    fn finding(&self, kind: PiiKind, run: Range<usize>) -> Finding {
        let groups = &self.groups[run];
        let end = groups.last().map_or(0, |group| group.end);
        let mut start = groups.first().map_or(end, |group| group.start);
        let closed = self.text[start..end].contains(&b')');
        while start > 0 && (self.text[start - 1] == b'+' || closed && self.text[start - 1] == b'(')
        {
            start -= 1;
        }
        Finding { kind, range: start..end }
    }

    fn digits(&self, run: &Range<usize>) -> impl DoubleEndedIterator<Item = u8> {
        let all = self.groups[run.clone()].iter().flat_map(|group| &self.text[group.clone()]);
        all.map(|digit| digit - b'0')
    }

    /// How many digits these groups have.
    fn size(&self, run: &Range<usize>) -> usize {
        self.groups[run.clone()].iter().map(Range::len).sum()
    }

    /// Whether each of these groups has so many digits.
    fn all_of(&self, run: &Range<usize>, size: usize) -> bool {
        self.groups[run.clone()].iter().all(|group| group.len() == size)
    }

    /// Whether these groups have these numbers of digits.
    fn shaped(&self, run: &Range<usize>, shape: &[usize]) -> bool {
        run.len() == shape.len()
            && self.groups[run.clone()].iter().map(Range::len).eq(shape.iter().copied())
    }

    /// What stands before these groups, first and last among them, and behind them.
    fn around(&self, run: &Range<usize>) -> [Option<Gap>; 4] {
        let before = run.start.checked_sub(1).and_then(|i| self.gaps.get(i));
        let inside = &self.gaps[run.start..run.end.saturating_sub(1).max(run.start)];
        let behind = self.gaps.get(run.end.saturating_sub(1));
        [before, inside.first(), inside.last(), behind].map(Option::<&Gap>::copied)
    }

    fn begins_with(&self, group: usize, digits: &[u8]) -> bool {
        let group = self.groups.get(group).and_then(|group| self.text.get(group.clone()));
        group.is_some_and(|group| group.starts_with(digits))
    }

    /// Whether the group behind these has four digits: a year or an extension.
    fn four_behind(&self, run: &Range<usize>) -> bool {
        self.groups.get(run.end).is_some_and(|group| group.len() == 4)
    }

    /// A card that begins here, in the groups that cards are printed in: with one number in ten the
    /// check digit is right by chance.
    fn card_from(&self, start: usize) -> Option<usize> {
        let printed = |run: &Range<usize>| {
            run.len() == 1
                || [&[4, 4, 4, 4, 3][..], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]]
                    .iter()
                    .any(|shape| self.shaped(run, shape))
        };
        let most = self.groups.len().min(start + 5);
        (start + 1..=most).rev().find(|&end| printed(&(start..end)) && self.is_card(&(start..end)))
    }

    /// A telephone number that begins here and stands beside others.
    fn phone_from(&self, start: usize, free: bool) -> Option<usize> {
        self.international_from(start, free)
            .or_else(|| self.national_from(start))
            .or_else(|| self.long_distance_from(start, free))
            .map(|end| self.cut(start, end))
    }

    /// Where another number begins with a 0 within these groups, and what stands before it is a
    /// number too.
    fn cut(&self, start: usize, end: usize) -> usize {
        let another = |at: usize| {
            self.begins_with(at, b"0")
                && self.kind(start..at) == Some(Phone)
                && (self.international_from(at, true).is_some()
                    || self.long_distance_from(at, true).is_some())
        };
        (start + 1..end).find(|at| another(*at)).unwrap_or(end)
    }

    /// As many groups as an international number can have.
    fn international_from(&self, start: usize, free: bool) -> Option<usize> {
        let plus = self.plus && start == 0;
        if !plus && !self.begins_with(start, b"00") {
            return None;
        }
        let (mut most, mut end, mut size) = (None, start, 0);
        while let Some(group) = self.groups.get(end) {
            size += group.len();
            if size > 17 {
                break;
            }
            end += 1;
            let run = start..end;
            let [before, first, last, behind] = self.around(&run);
            let apart = free || before == Some(BLANK) || before != first;
            let ends = behind.is_none() || behind == Some(BLANK) || behind != last;
            if self.is_international(&run) && (plus || apart && ends) {
                most = Some(end);
            }
        }
        most
    }

    /// 3-3-4 digits, perhaps with a 1 before, that other signs join than those beside them: what one
    /// sign joins throughout is a longer number, such as an ISBN. Blanks join all kinds of numbers,
    /// and four digits behind are a year.
    fn national_from(&self, start: usize) -> Option<usize> {
        let most = self.groups.len().min(start + 4);
        (start + 3..=most).rev().find(|&end| {
            let run = start..end;
            if !self.is_national(&run) {
                return false;
            }
            let [before, first, last, behind] = self.around(&run);
            let area = run.end - 3;
            let real = self.digits(&(area..run.end)).next().is_some_and(|digit| digit > 1);
            let blanks = |gap| real && gap == Some(BLANK) && !self.is_isbn();
            let other = |beside: Option<Gap>, inside| beside.is_none() || beside != inside;
            (other(before, first) || blanks(before))
                && (other(behind, last) || blanks(behind) || self.four_behind(&run))
        })
    }

    /// As many groups as a number with a leading 0 can have. Its groups are joined by one sign, but
    /// for the first, and it does not stand in the middle of what one sign joins, unless that is a
    /// blank.
    fn long_distance_from(&self, start: usize, free: bool) -> Option<usize> {
        let most = self.groups.len().min(start + 5);
        (start + 2..=most).rev().find(|&end| {
            let run = start..end;
            if !self.is_long_distance(&run) || self.begins_with(start, b"00") {
                return false;
            }
            let [before, first, last, behind] = self.around(&run);
            let even = self.gaps[start + 1..end - 1].windows(2).all(|pair| pair[0] == pair[1]);
            // Thousands, and pairs of digits such as hours, follow upon each other without an end.
            let (pairs, thousands) = (self.all_of(&run, 2), self.all_of(&run, 3));
            let apart = free || before != first || before == Some(BLANK) && !pairs && !thousands;
            let ends = behind.is_none()
                || behind != last
                || self.begins_with(end, b"0")
                || !pairs && (behind == Some(BLANK) || self.four_behind(&run) && !thousands);
            even && apart && ends
        })
    }

    /// An ISBN of 13 digits.
    fn is_isbn(&self) -> bool {
        let all = 0..self.groups.len();
        all.len() <= 13 && self.size(&all) == 13 && self.digits(&all).take(2).eq([9, 7])
    }

    /// A day written in numbers: its year is the first or the last of three groups, joined by one
    /// sign that is no blank.
    fn has_date(&self, run: &Range<usize>) -> bool {
        let year = |i| self.begins_with(i, b"19") || self.begins_with(i, b"20");
        (run.start..run.end.saturating_sub(2)).any(|i| {
            let day = i..i + 3;
            let joined = self.gaps[i] == self.gaps[i + 1] && self.gaps[i] != BLANK;
            let first = self.shaped(&day, &[4, 2, 2]) && year(i);
            let last = self.shaped(&day, &[2, 2, 4]) && year(i + 2);
            joined && (first || last)
        })
    }

    /// 8 to 15 digits behind a plus sign (E.164), or behind `00`: then the country's code has no
    /// leading 0, and without separators ten digits are the least.
    fn is_international(&self, run: &Range<usize>) -> bool {
        let size = self.size(run);
        if self.plus && run.start == 0 {
            return (8..=15).contains(&size);
        }
        let least = if run.len() > 1 { 8 } else { 10 };
        self.begins_with(run.start, b"00")
            && (least + 2..=17).contains(&size)
            && self.digits(run).nth(2).is_some_and(|digit| digit > 0)
            && !self.all_of(run, 2)
            && !self.has_date(run)
    }

    /// The North American plan's digits.
    fn is_national(&self, run: &Range<usize>) -> bool {
        let one = self.digits(run).next() == Some(1);
        self.shaped(run, &[3, 3, 4]) || one && self.shaped(run, &[1, 3, 3, 4])
    }

    fn is_long_distance(&self, run: &Range<usize>) -> bool {
        self.begins_with(run.start, b"0")
            && (2..=5).contains(&run.len())
            && (9..=11).contains(&self.size(run))
            && self.groups[run.clone()].iter().all(|group| group.len() >= 2)
            && !self.has_date(run)
    }

    fn is_card(&self, run: &Range<usize>) -> bool {
        let sized = (13..=19).contains(&self.size(run)) && !(self.plus && run.start == 0);
        let whole = run.len() == 1
            || self.groups[run.clone()].iter().all(|group| (3..=7).contains(&group.len()));
        // `555-123-4567-2024`: a telephone number and a year.
        if !sized || !whole || self.shaped(run, &[3, 3, 4, 4]) {
            return false;
        }
        let digits: Vec<u8> = self.digits(run).collect();
        // Of those with a 2 first, 2200 to 2720 are issued; 19.. and 20.. are years.
        let issuer = matches!(digits[..], [3..=6, ..] | [2, 2..=7, ..]);
        let same = digits.windows(2).all(|pair| pair[0] == pair[1]);
        issuer && !same && luhn(&digits)
    }
}

/// Luhn: from the right every second digit doubled, digits of the results added up.
pub(super) fn luhn(digits: &[u8]) -> bool {
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
