//! The WARC reader on sound and broken files.

mod support;

use ingest::warc::{Damage, Limits, Reader};
use proptest::prelude::*;
use support::{claiming, member, record};

/// The bodies of all sound records, and the damage.
fn read(file: &[u8]) -> (Vec<String>, Damage) {
    read_with(file, Limits::default())
}

fn read_with(file: &[u8], limits: Limits) -> (Vec<String>, Damage) {
    let mut reader = Reader::with_limits("test", file, limits);
    let mut bodies = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        bodies.push(String::from_utf8_lossy(record.body).into_owned());
    }
    (bodies, reader.damage().clone())
}

fn one(body: &str) -> Vec<u8> {
    record("metadata", "http://a.example/", body.as_bytes())
}

#[track_caller]
fn check(file: &[u8], bodies: &[&str], damage: &[(&str, u64)]) {
    let (found, found_damage) = read(file);
    assert_eq!(found, bodies, "damage: {:?}", found_damage.places());
    let counts: Vec<_> = found_damage.counts().iter().map(|(k, v)| (*k, *v)).collect();
    assert_eq!(counts, damage, "{:?}", found_damage.places());
}

#[test]
fn plain_members_of_one_record_and_one_member_of_all_read_the_same() {
    let records: Vec<Vec<u8>> = ["one", "", "three"].iter().map(|b| one(b)).collect();
    let members: Vec<u8> = records.iter().flat_map(|r| member(r)).collect();
    let bodies = ["one", "", "three"];
    check(&records.concat(), &bodies, &[]);
    check(&members, &bodies, &[]);
    check(&member(&records.concat()), &bodies, &[]);
}

#[test]
fn members_may_be_cut_anywhere() {
    let plain = [one("first body"), one("second body")].concat();
    for cut in 1..plain.len() {
        let file = [member(&plain[..cut]), member(&plain[cut..])].concat();
        check(&file, &["first body", "second body"], &[]);
    }
}

#[test]
fn an_empty_file_holds_no_record() {
    check(b"", &[], &[]);
    check(&member(b""), &[], &[]);
    check(b"\r\n\r\n", &[], &[]);
}

#[test]
fn headers_are_found_in_any_case_and_bodies_may_hold_anything() {
    let file = record("response", "http://a.example/x", b"a\r\n\r\nWARC\x00\xff");
    let mut reader = Reader::new("test", &file[..]);
    let record = reader.next_record().unwrap().unwrap();
    assert!(record.is("response"));
    assert_eq!(record.header("warc-target-uri"), Some(&b"http://a.example/x"[..]));
    assert_eq!(record.body, b"a\r\n\r\nWARC\x00\xff");
    assert_eq!(record.headers().count(), 3);
}

#[test]
fn a_record_is_found_again_at_its_offset() {
    let first = member(&one("zero"));
    let second = member(&[one("one"), one("two")].concat());
    for file in [[first, second].concat(), [one("zero"), one("one"), one("two")].concat()] {
        let mut reader = Reader::new("test", &file[..]);
        let mut places = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            places.push((record.offset, record.nth, record.body.to_vec()));
        }
        assert_eq!(places.len(), 3);
        for (offset, nth, body) in places {
            let mut again = Reader::new("test", &file[offset as usize..]);
            for _ in 0..nth {
                again.next_record().unwrap();
            }
            assert_eq!(again.next_record().unwrap().unwrap().body, body);
        }
    }
}

#[test]
fn a_file_cut_inside_its_last_member_keeps_the_records_before() {
    let (first, second) = (member(&one("one")), member(&one(&"two".repeat(1000))));
    for lost in [1, 8, second.len() / 2, second.len() - 2] {
        let file = [&first[..], &second[..second.len() - lost]].concat();
        let (bodies, damage) = read(&file);
        assert_eq!(bodies[0], "one");
        assert_eq!(damage.count("gzip_truncated"), 1, "lost {lost}");
        let place = format!("gzip_truncated at byte {}", first.len());
        assert!(damage.places().contains(&place), "{:?}", damage.places());
        // Without its trailer the record is whole all the same.
        assert_eq!(bodies.len(), if lost <= 8 { 2 } else { 1 }, "lost {lost}");
    }
}

#[test]
fn a_whole_archive_in_one_cut_member_keeps_the_records_before_the_cut() {
    let records: Vec<u8> = (0..1000).flat_map(|i| one(&format!("record {i}"))).collect();
    let file = member(&records);
    let (bodies, damage) = read(&file[..file.len() / 2]);
    assert!((300..700).contains(&bodies.len()), "{}", bodies.len());
    assert_eq!(bodies[299], "record 299");
    assert_eq!(damage.count("gzip_truncated"), 1);
    assert_eq!(damage.count("record_truncated"), 1);
}

#[test]
fn zeros_between_and_after_members_are_padding() {
    let file = [member(&one("one")), vec![0; 700], member(&one("two")), vec![0; 512]].concat();
    check(&file, &["one", "two"], &[]);
}

#[test]
fn junk_between_and_after_members_is_counted_and_passed_over() {
    let junk = b"<html>503</html>".to_vec();
    let file = [member(&one("one")), junk.clone(), member(&one("two")), junk].concat();
    check(&file, &["one", "two"], &[("gzip_junk", 2)]);
}

#[test]
fn a_flipped_bit_costs_its_member_only() {
    let members: Vec<Vec<u8>> =
        (0..5).map(|i| member(&one(&format!("record {i} {}", "x y z ".repeat(50))))).collect();
    let start = members[0].len() + members[1].len();
    // Every bit of the member in the middle: its magic, flags, data, checksum and length.
    for byte in 0..members[2].len() {
        for bit in 0..8 {
            let mut file = members.concat();
            file[start + byte] ^= 1 << bit;
            let (bodies, damage) = read(&file);
            let whole = |i: usize| bodies.iter().any(|b| b.starts_with(&format!("record {i} ")));
            assert!(whole(0) && whole(1) && whole(3) && whole(4), "byte {byte} bit {bit}");
            // Time, extra flags and system may differ, the text flag too; the rest is damage.
            let harmless = (4..10).contains(&byte) || (byte == 3 && bit == 0);
            assert_eq!(damage.is_empty(), harmless, "byte {byte} bit {bit}: {damage:?}");
            assert_eq!(bodies.len(), if harmless { 5 } else { 4 }, "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn a_member_that_unpacks_beyond_the_ratio_is_left() {
    let bomb =
        member(&claiming("metadata", "http://a.example/", 50_000_000, &vec![b' '; 50_000_000]));
    assert!(bomb.len() < 60_000);
    let file = [member(&one("one")), bomb, member(&one("two"))].concat();
    check(&file, &["one", "two"], &[("gzip_bomb", 1), ("record_truncated", 1)]);
}

#[test]
fn a_member_beyond_the_absolute_limit_is_left() {
    let limits = Limits { member_bytes: 1000, ..Limits::default() };
    let long: String = (0..20_000).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    let file = [member(&one(&long)), member(&one("two"))].concat();
    let (bodies, damage) = read_with(&file, limits);
    // Unpacked in one go, it is seen as too long only when it has ended.
    assert_eq!(bodies.last().unwrap(), "two");
    let big: Vec<u8> = (0..40).flat_map(|_| one(&long)).collect();
    let (bodies, damage_of_big) = read_with(&[member(&big), member(&one("two"))].concat(), limits);
    assert_eq!(damage_of_big.count("gzip_bomb"), 1, "{damage:?}");
    assert_eq!(bodies.last().unwrap(), "two");
    assert!(bodies.len() < 40);
}

#[test]
fn a_length_too_long_or_too_short_costs_its_record_only() {
    // 8 to 11 take in line ends behind the body, which is no harm.
    for length in [0, 2, 6, 12, 16, 100, 10_000, 1 << 30] {
        let wrong = claiming("metadata", "http://a.example/", length, b"wrong!!");
        let records = [one("one"), wrong, one("two")];
        let packed: Vec<u8> = records.iter().flat_map(|r| member(r)).collect();
        let (bodies, damage) = read(&packed);
        assert_eq!(bodies, ["one", "two"], "length {length}: {damage:?}");
        assert!(!damage.is_empty());
        if length < 1 << 26 {
            check(&records.concat(), &["one", "two"], &[("content_length", 1)]);
        }
    }
}

#[test]
fn a_record_beyond_the_limit_is_passed_over() {
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let file = [one("one"), one(&"x".repeat(1_000_000)), one("two")].concat();
    for file in [file.clone(), member(&file)] {
        let (bodies, damage) = read_with(&file, limits);
        assert_eq!(bodies, ["one", "two"]);
        assert_eq!(damage.count("record_too_long"), 1);
    }
}

#[test]
fn a_header_of_a_mebibyte_costs_its_record_only() {
    let long =
        format!("WARC/1.0\r\nX: {}\r\nContent-Length: 3\r\n\r\nabc\r\n\r\n", "y".repeat(1 << 20));
    let records = [one("one"), long.into_bytes(), one("two")];
    check(&records.concat(), &["one", "two"], &[("header_too_long", 1)]);
    let packed: Vec<u8> = records.iter().flat_map(|r| member(r)).collect();
    check(&packed, &["one", "two"], &[("header_too_long", 1)]);
}

#[test]
fn a_record_without_a_length_and_text_that_is_no_record_are_passed_over() {
    let no_length = b"WARC/1.0\r\nWARC-Type: metadata\r\n\r\nabc\r\n\r\n".to_vec();
    let negative = b"WARC/1.0\r\nContent-Length: -3\r\n\r\nabc\r\n\r\n".to_vec();
    let file = [no_length, one("one"), negative, b"hello\r\n".to_vec(), one("two")].concat();
    check(&file, &["one", "two"], &[("no_content_length", 2)]);
    check(&[b"hello\r\n".to_vec(), one("two")].concat(), &["two"], &[("not_a_record", 1)]);
    check(b"<html>not found</html>", &[], &[("not_a_record", 1)]);
}

#[test]
fn a_source_that_fails_is_an_error_with_its_name_and_byte() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("wire cut"))
        }
    }
    let error = Reader::new("a.warc.gz", Failing).next_record().unwrap_err();
    assert_eq!(error.to_string(), "a.warc.gz: byte 0: cannot read: wire cut");
}

#[test]
fn a_source_that_gives_a_byte_at_a_time_reads_the_same() {
    struct Slow<'a>(&'a [u8]);
    impl std::io::Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = buffer.len().min(1).min(self.0.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }
    for file in
        [[one("one"), one("two")].concat(), [member(&one("one")), member(&one("two"))].concat()]
    {
        let mut reader = Reader::new("test", Slow(&file));
        let mut bodies = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            bodies.push(record.body.to_vec());
        }
        assert_eq!(bodies, [b"one".to_vec(), b"two".to_vec()]);
        assert!(reader.damage().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic_and_never_give_more_records(
        packed in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let records: Vec<Vec<u8>> =
            (0..6).map(|i| one(&format!("record {i} {}", "lorem ipsum ".repeat(i * 3)))).collect();
        let mut file: Vec<u8> =
            if packed { records.iter().flat_map(|r| member(r)).collect() } else { records.concat() };
        for (at, value) in &edits {
            let at = at.index(file.len());
            file[at] = *value;
        }
        if truncate {
            file.truncate(cut.index(file.len()));
        }
        let limits = Limits { header_bytes: 512, body_bytes: 4096, ..Limits::default() };
        let (bodies, _) = read_with(&file, limits);
        prop_assert!(bodies.len() <= 6);
    }

    #[test]
    fn any_bytes_after_a_sound_member_leave_it_sound(tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let file = [member(&one("one")), tail].concat();
        prop_assert_eq!(&read(&file).0[0], "one");
    }
}
