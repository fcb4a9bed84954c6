//! DNS messages (RFC 1035): a question for the addresses of a name, and what an answer says.
//!
//! An answer comes from outside: names are followed through at most so many pointers as a message
//! can hold, chains of CNAMEs through at most sixteen, and nothing is allocated by a count that the
//! answer gives.

use std::net::IpAddr;
use std::time::Duration;

/// The kinds of records that are asked for or followed.
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

/// Largest answer over UDP that is asked for: what passes every path unfragmented (the DNS flag
/// day of 2020).
pub(super) const PAYLOAD: usize = 1232;
/// Addresses of one family that are taken from an answer: whoever has more is no less reachable by
/// these, and an answer over TCP has room for four thousand.
pub(super) const MOST: usize = 16;
/// Aliases that are followed.
const CHAIN: usize = 16;

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn kind(self) -> u16 {
        match self {
            Self::V4 => A,
            Self::V6 => AAAA,
        }
    }
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    /// Addresses, and how long they hold.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none of this family, and how long that holds where the answer says it.
    Nothing(Option<Duration>),
    /// Too long for UDP.
    Truncated,
    /// The server does not understand the question: not the extension in it, perhaps.
    BadFormat,
    /// The server cannot or will not say.
    Trouble,
}

/// A question for `host`; none where it is no name that DNS can carry. `extended` announces
/// [`PAYLOAD`].
pub(super) fn question(id: u16, host: &str, family: Family, extended: bool) -> Option<Vec<u8>> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut message = Vec::with_capacity(host.len() + 32);
    // One question, recursion desired.
    for word in [id, 0x0100, 1, 0, 0, u16::from(extended)] {
        message.extend(word.to_be_bytes());
    }
    for label in host.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    if message.len() > 12 + 255 {
        return None;
    }
    for word in [family.kind(), INTERNET] {
        message.extend(word.to_be_bytes());
    }
    if extended {
        message.push(0); // the root
        for word in [OPT, PAYLOAD as u16, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
    }
    Some(message)
}

/// What a message says to the question for `host`; none where it is no answer to that question,
/// as something forged would be, and where it is broken.
pub(super) fn answer(message: &[u8], id: u16, host: &str, family: Family) -> Option<Says> {
    let mut at = Reader { message, at: 0 };
    let (its_id, flags) = (at.word()?, at.word()?);
    let counts = [at.word()?, at.word()?, at.word()?];
    let _additional = at.word()?;
    if its_id != id || flags & 0x8000 == 0 {
        return None;
    }
    let code = flags & 0xf;
    if code == 1 && counts[0] == 0 {
        return Some(Says::BadFormat); // old servers do not repeat the question
    }
    let wanted = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let asked = (counts[0] == 1).then(|| at.name())??;
    if asked != wanted || (at.word()?, at.word()?) != (family.kind(), INTERNET) {
        return None;
    }
    match code {
        _ if flags & 0x0200 != 0 => return Some(Says::Truncated),
        0 | 3 => {}
        1 => return Some(Says::BadFormat),
        _ => return Some(Says::Trouble),
    }
    let mut records = Vec::new();
    for _ in 0..counts[1] {
        records.push(at.record()?);
    }
    let mut negative = None;
    for _ in 0..counts[2] {
        let record = at.record()?;
        if record.kind == SOA {
            // RFC 2308: the smaller of the record's own life and its last field.
            let minimum = record.data.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
            negative = Some(seconds(record.life.min(minimum)));
        }
    }
    let (mut name, mut life) = (wanted, u32::MAX);
    for _ in 0..CHAIN {
        let mine = records.iter().filter(|record| record.name == name);
        let addresses: Vec<(IpAddr, u32)> = mine
            .clone()
            .filter(|record| record.kind == family.kind())
            .filter_map(|record| Some((address(record.data)?, record.life)))
            .take(MOST)
            .collect();
        if !addresses.is_empty() {
            let least = addresses.iter().map(|(_, life)| *life).min().unwrap_or(0);
            let addresses = addresses.into_iter().map(|(address, _)| address).collect();
            return Some(Says::Addresses(addresses, seconds(life.min(least))));
        }
        let Some(alias) = mine.clone().find(|record| record.kind == CNAME) else {
            return Some(Says::Nothing(negative));
        };
        life = life.min(alias.life);
        name = Reader { message, at: alias.starts }.name()?;
    }
    Some(Says::Trouble) // aliases in a circle
}

/// RFC 2181: a life with the highest bit set is none.
fn seconds(life: u32) -> Duration {
    Duration::from_secs(if life > i32::MAX as u32 { 0 } else { u64::from(life) })
}

fn address(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => Some(IpAddr::from(*data.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*data.first_chunk::<16>()?)),
        _ => None,
    }
}

struct Record<'a> {
    name: String,
    kind: u16,
    /// Seconds.
    life: u32,
    data: &'a [u8],
    /// Where its data stand in the message.
    starts: usize,
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.bytes(2)?.first_chunk()?))
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let name = self.name()?;
        let (kind, _class) = (self.word()?, self.word()?);
        let life = u32::from_be_bytes(*self.bytes(4)?.first_chunk()?);
        let length = usize::from(self.word()?);
        let starts = self.at;
        Some(Record { name, kind, life, data: self.bytes(length)?, starts })
    }

    /// A name in lower case. A pointer must point before itself, so that every name ends.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let (mut at, mut back) = (self.at, None);
        loop {
            let length = *self.message.get(at)?;
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + usize::from(length))?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    // What is no ASCII is the name of nothing that was asked for.
                    name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
                    at += 1 + usize::from(length);
                }
                0xc0.. => {
                    let low = *self.message.get(at + 1)?;
                    let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    back.get_or_insert(at + 2);
                    if to >= at {
                        return None;
                    }
                    at = to;
                }
                _ => return None,
            }
            if name.len() > 1024 {
                return None;
            }
        }
        self.at = back.unwrap_or(at + 1);
        Some(name)
    }
}

/// Messages for tests: an answer to a question with these records (name, kind, life, data).
#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn name(text: &str) -> Vec<u8> {
        let labels = text.split('.').filter(|label| !label.is_empty());
        let mut bytes: Vec<u8> = labels
            .flat_map(|label| {
                std::iter::once(label.len() as u8).chain(label.bytes()).collect::<Vec<u8>>()
            })
            .collect();
        bytes.push(0);
        bytes
    }

    pub(in super::super) fn reply(
        question: &[u8],
        flags: u16,
        records: &[(&str, u16, u32, Vec<u8>)],
        authority: usize,
    ) -> Vec<u8> {
        let end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 5;
        let mut message = question[..2].to_vec();
        let answers = (records.len() - authority) as u16;
        for word in [flags, 1, answers, authority as u16, 0] {
            message.extend(word.to_be_bytes());
        }
        message.extend(&question[12..end]);
        for (owner, kind, life, data) in records {
            message.extend(name(owner));
            message.extend(kind.to_be_bytes());
            message.extend(INTERNET.to_be_bytes());
            message.extend(life.to_be_bytes());
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
        message
    }

    const OK: u16 = 0x8180;

    fn says(records: &[(&str, u16, u32, Vec<u8>)], authority: usize, flags: u16) -> Option<Says> {
        let question = question(7, "A.example.", Family::V4, true).unwrap();
        answer(&reply(&question, flags, records, authority), 7, "a.example", Family::V4)
    }

    fn soa(minimum: u32) -> Vec<u8> {
        let mut data = [name("ns.example"), name("mail.example"), vec![0; 16]].concat();
        data.extend(minimum.to_be_bytes());
        data
    }

    #[test]
    fn a_question_is_that_of_the_rfc() {
        let bytes = question(0x1234, "a.example.", Family::V6, false).unwrap();
        assert_eq!(bytes, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x1c\0\x01");
        for bad in ["", "a..b", &"x".repeat(64), &"abc.".repeat(70)] {
            assert_eq!(question(1, bad, Family::V4, true), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_found_through_aliases_and_live_as_long_as_the_shortest() {
        let records = [
            ("a.example", CNAME, 900, name("b.cdn.example")),
            ("b.cdn.example", CNAME, 60, name("c.cdn.example")),
            ("c.cdn.example", A, 300, vec![8, 8, 8, 8]),
            ("c.cdn.example", A, 200, vec![8, 8, 4, 4]),
            ("other.example", A, 300, vec![1, 1, 1, 1]),
        ];
        let addresses = vec!["8.8.8.8".parse().unwrap(), "8.8.4.4".parse().unwrap()];
        let expected = Says::Addresses(addresses, Duration::from_mins(1));
        assert_eq!(says(&records, 0, OK), Some(expected));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let records = [
            ("a.example", CNAME, 900, name("b.example")),
            ("b.example", CNAME, 900, name("a.example")),
        ];
        assert_eq!(says(&records, 0, OK), Some(Says::Trouble));
    }

    #[test]
    fn a_name_that_is_not_there_says_how_long_that_holds() {
        let there = [("example", SOA, 3600, soa(300))];
        let nothing = Says::Nothing(Some(Duration::from_mins(5)));
        assert_eq!(says(&there, 1, OK | 3), Some(nothing.clone()));
        assert_eq!(says(&there, 1, OK), Some(nothing));
        assert_eq!(says(&[], 0, OK), Some(Says::Nothing(None)));
    }

    #[test]
    fn other_answers_are_told_apart() {
        assert_eq!(says(&[], 0, OK | 2), Some(Says::Trouble));
        assert_eq!(says(&[], 0, OK | 5), Some(Says::Trouble));
        assert_eq!(says(&[], 0, OK | 1), Some(Says::BadFormat));
        assert_eq!(says(&[], 0, OK | 0x200), Some(Says::Truncated));
        assert_eq!(says(&[], 0, 0x0100), None, "a question is no answer");
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let asked = question(7, "a.example", Family::V4, true).unwrap();
        let records = [("a.example", A, 60, vec![8, 8, 8, 8])];
        let bytes = reply(&asked, OK, &records, 0);
        assert!(answer(&bytes, 7, "a.example", Family::V4).is_some());
        assert_eq!(answer(&bytes, 8, "a.example", Family::V4), None);
        assert_eq!(answer(&bytes, 7, "b.example", Family::V4), None);
        assert_eq!(answer(&bytes, 7, "a.example", Family::V6), None);
    }

    #[test]
    fn a_compressed_name_is_read_and_a_pointer_forward_is_refused() {
        let mut bytes = question(7, "a.example", Family::V4, false).unwrap();
        (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80, 1);
        let record = |pointer: u8| {
            let head = [0xc0, pointer, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 8, 8, 8, 8];
            [&bytes[..], &head].concat()
        };
        let good = answer(&record(12), 7, "a.example", Family::V4);
        let address = vec!["8.8.8.8".parse().unwrap()];
        assert_eq!(good, Some(Says::Addresses(address, Duration::from_secs(9))));
        assert_eq!(answer(&record(27), 7, "a.example", Family::V4), None);
        assert_eq!(answer(&record(200), 7, "a.example", Family::V4), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_loops(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() > 12 {
                bytes[..8].copy_from_slice(&[0, 7, 0x81, 0x80, 0, 1, 0, 9]);
                let question = [&name("a.example")[..], &[0, 1, 0, 1]].concat();
                if bytes.len() > 12 + question.len() {
                    bytes[12..12 + question.len()].copy_from_slice(&question);
                }
            }
            let _any = answer(&bytes, 7, "a.example", Family::V4);
        }
    }
}
