//! International bank account numbers in a text.

use std::ops::Range;

use super::gap::gap;

/// Letters and digits of the countries' numbers (ISO 13616's registry).
const LENGTHS: [(&[u8; 2], usize); 89] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// The account numbers of a text, in order and apart.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 4 <= bytes.len() {
        let word = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        let head = bytes[at..at + 2].iter().all(u8::is_ascii_alphabetic)
            && bytes[at + 2..at + 4].iter().all(u8::is_ascii_digit);
        match (word && head).then(|| account(bytes, at)).flatten() {
            Some(end) => {
                found.push(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

/// Letters and digits from here on, over gaps without brackets and slashes.
struct Letters<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The account so far, in capitals.
    account: Vec<u8>,
    small: bool,
    /// Letters and digits since the last gap, and whether every group before has four.
    group: usize,
    fours: bool,
    groups: usize,
}

impl Letters<'_> {
    /// Takes the next one, if there is one.
    fn take(&mut self) -> Option<()> {
        let letter = |at: usize| self.bytes.get(at).copied().filter(u8::is_ascii_alphanumeric);
        let mut next = self.at;
        if letter(next).is_none() {
            let (signs, end) = gap(self.bytes, self.at)?;
            if signs.iter().any(|sign| b"()/".contains(sign)) {
                return None;
            }
            next = end;
            letter(next)?;
            self.fours &= self.group == 4;
            (self.group, self.groups) = (0, self.groups + 1);
        }
        let byte = letter(next)?;
        self.small |= byte.is_ascii_lowercase();
        self.account.push(byte.to_ascii_uppercase());
        self.group += 1;
        self.at = next + 1;
        Some(())
    }

    /// Whether the last one ends a word.
    fn ended(&self) -> bool {
        self.bytes.get(self.at).is_none_or(|b| !b.is_ascii_alphanumeric())
    }
}

/// Where the account number that begins here ends. It has its country's length, whatever its
/// groups; that of a country without one is in capitals, in one or in groups of four, and as long
/// as can be.
fn account(bytes: &[u8], at: usize) -> Option<usize> {
    let mut letters =
        Letters { bytes, at, account: Vec::new(), small: false, group: 0, fours: true, groups: 1 };
    let country = [bytes.get(at)?.to_ascii_uppercase(), bytes.get(at + 1)?.to_ascii_uppercase()];
    let known = LENGTHS.iter().find(|(name, _)| **name == country);
    if let Some((_, length)) = known {
        for _ in 0..*length {
            letters.take()?;
        }
        let digits = |account: &[u8]| account.iter().filter(|b| b.is_ascii_digit()).count();
        let count = digits(&letters.account);
        // A word may follow upon digits alone, as with telephone numbers.
        let numeric = count + 2 == *length;
        let ended = letters.ended()
            || numeric && bytes.get(letters.at).is_some_and(u8::is_ascii_alphabetic);
        // Words in small letters are everywhere: numbers have to be among them.
        let sound = !letters.small || count >= 7;
        return (ended && sound && is_sound(&letters.account)).then_some(letters.at);
    }
    let mut longest = None;
    while letters.account.len() < 34 && letters.take().is_some() {
        let grouped = letters.groups == 1 || letters.fours && letters.group <= 4;
        if letters.small || !grouped {
            break;
        }
        if letters.account.len() >= 15 && letters.ended() && is_sound(&letters.account) {
            longest = Some(letters.at);
        }
    }
    longest
}

/// Whether the number of these letters and digits, head behind the rest and letters as 10..=35,
/// leaves 1 when divided by 97.
pub(super) fn is_sound(account: &[u8]) -> bool {
    let (head, rest) = account.split_at(account.len().min(4));
    let remainder = rest.iter().chain(head).fold(0, |remainder, &b| {
        let value = char::from(b).to_digit(36).unwrap_or(0);
        (remainder * if value > 9 { 100 } else { 10 } + value) % 97
    });
    remainder == 1
}
