//! Tars that were made to harm, or broke on the way: each refused with its place, or read as far as
//! it is whole.

use shard::{Samples, TarReader, TarWriter, index, index_whole};
use store::Blob;

/// A header as an attacker writes it: any type and name, valid checksum.
fn header(kind: u8, name: &str, size: &str) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn member(kind: u8, name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, &format!("{:011o}", data.len()));
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Both readers, random access and stream, refuse it with a message that has all of these.
fn check_refused(bytes: &[u8], expected: &[&str]) {
    let blob = Blob::from_bytes("00042.tar", bytes.to_vec().into());
    let by_index = index(&blob).unwrap_err();
    let by_stream = TarReader::new("00042.tar", bytes).find_map(Result::err).unwrap();
    for error in [by_index, by_stream] {
        assert_eq!(error.kind(), stage::Kind::Input);
        let message = error.to_string();
        for part in [&["shard 00042.tar", "offset "], expected].concat() {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }
}

#[test]
fn names_that_climb_out_are_refused() {
    let good = member(b'0', "0.jpg", b"x");
    for name in ["../../etc/cron.d/x.jpg", "/etc/passwd.jpg", "a\\..\\b.jpg", "a/../b.jpg"] {
        check_refused(
            &archive(&[good.clone(), member(b'0', name, b"x")]),
            &["offset 1024", "name"],
        );
    }
}

#[test]
fn a_climbing_name_in_a_pax_or_gnu_header_is_refused() {
    let file = member(b'0', "0.jpg", b"x");
    let pax = member(b'x', "pax", b"17 path=../x.jpg\n");
    check_refused(&archive(&[pax, file.clone()]), &["climbs out"]);
    let nul = member(b'x', "pax", b"15 path=a\0.jpg\n");
    check_refused(&archive(&[nul, file.clone()]), &["NUL"]);
    let gnu = member(b'L', "././@LongLink", b"/etc/x.jpg\0");
    check_refused(&archive(&[gnu, file]), &["absolute"]);
}

#[test]
fn links_devices_and_sparse_files_are_refused() {
    for (kind, what) in [
        (b'1', "hard link"),
        (b'2', "symbolic link"),
        (b'3', "character device"),
        (b'4', "block device"),
        (b'6', "named pipe"),
        (b'S', "sparse"),
        (b'Z', "unknown type"),
    ] {
        check_refused(&archive(&[member(kind, "0.jpg", b"")]), &["member 0.jpg", what]);
    }
    let sparse = member(b'x', "pax", b"22 GNU.sparse.major=1\n");
    check_refused(&archive(&[sparse, member(b'0', "0.jpg", b"x")]), &["sparse"]);
}

#[test]
fn two_sizes_for_one_member_are_refused() {
    let pax = member(b'x', "pax", b"12 size=512\n");
    check_refused(&archive(&[pax, member(b'0', "0.jpg", &[7; 1024])]), &["1024", "512 in PAX"]);
}

#[test]
fn a_pax_size_alone_counts() {
    let mut bytes = member(b'x', "pax", b"10 size=3\n");
    bytes.extend(header(b'0', "0.txt", "00000000000"));
    bytes.extend(b"cat");
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    let blob = Blob::from_bytes("a.tar", bytes.clone().into());
    assert_eq!(index(&blob).unwrap()[0].len, 3);
    let (_, data) = TarReader::new("a.tar", &bytes[..]).next().unwrap().unwrap();
    assert_eq!(&data[..], b"cat");
}

#[test]
fn sizes_are_capped_before_anything_is_allocated() {
    let lie = [header(b'0', "0.jpg", "77777777777"), vec![0; 1024]].concat();
    check_refused(&lie, &["member 0.jpg", "at most 67108864"]);
    let long = [header(b'L', "././@LongLink", "00000200001"), vec![0; 1024]].concat();
    check_refused(&long, &["at most 65536"]);
    let base256 = {
        let mut block = header(b'0', "0.jpg", "00000000000");
        block[124..136].fill(0xff);
        block[124] = 0x80;
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        [block, vec![0; 1024]].concat()
    };
    check_refused(&base256, &["64 bits"]);
}

#[test]
fn a_broken_checksum_is_named_with_its_offset() {
    let mut bytes = archive(&[member(b'0', "0.jpg", b"x"), member(b'0', "1.jpg", b"y")]);
    bytes[1024 + 3] ^= 1;
    check_refused(&bytes, &["offset 1024", "checksum"]);
}

#[test]
fn a_second_archive_behind_the_first_is_not_lost_silently() {
    let one = archive(&[member(b'0', "0.jpg", b"x")]);
    let two = archive(&[member(b'0', "1.jpg", b"x")]);
    check_refused(&[one, two].concat(), &["member 1.jpg", "follows the end"]);
}

#[test]
fn a_directory_is_passed_over_unless_it_has_data() {
    let bytes = archive(&[member(b'5', "d/", b""), member(b'0', "d/0.jpg", b"x")]);
    let blob = Blob::from_bytes("a.tar", bytes.into());
    assert_eq!(index(&blob).unwrap()[0].name, "d/0.jpg");
    check_refused(&archive(&[member(b'5', "d/", b"x")]), &["a directory with data"]);
}

/// A sample of three members and the first two of a second one, cut at every length.
#[test]
fn a_truncated_archive_names_its_place_and_keeps_what_was_whole() {
    let mut tar = TarWriter::new(Vec::new());
    for name in ["0.jpg", "0.json", "0.txt", "1.jpg", "1.json"] {
        tar.append(name, &[b'x'; 700]).unwrap();
    }
    let bytes = tar.finish().unwrap();
    // Member k: header at 1536 k, data from 1536 k + 512, 700 bytes.
    assert_eq!(bytes.len(), 5 * 1536 + 1024);
    for len in (0..=5 * 1536).step_by(100).chain([511, 512, 1211, 1212, 1536, 5 * 1536]) {
        let cut = &bytes[..len];
        check_refused(cut, &["truncated"]);
        // Whole members: header and data, padding or not.
        let whole = (0..5).filter(|k| 1536 * k + 1212 <= len).count();
        let blob = Blob::from_bytes("a.tar", cut.to_vec().into());
        let (members, error) = index_whole(&blob).unwrap();
        assert_eq!(members.len(), whole, "{len}");
        let hint = error.unwrap().hint_text().unwrap_or_default().to_owned();
        assert!(hint.contains("copy or make the shard again"), "{hint}");
        let mut reader = TarReader::new("a.tar", cut).keep_whole();
        assert_eq!(reader.by_ref().map(Result::unwrap).count(), whole);
        assert!(reader.cut().is_some());
        // The last sample may lack members, so it is not given.
        let samples = Samples::new(TarReader::new("a.tar", cut).keep_whole());
        assert_eq!(samples.map(Result::unwrap).count(), usize::from(whole > 3));
    }
}

#[test]
fn a_cut_member_is_named() {
    let bytes = [member(b'0', "0.jpg", b"x"), header(b'0', "1.jpg", "00000001000")].concat();
    check_refused(&bytes, &["offset 1536", "member 1.jpg", "512 bytes, 0 left"]);
}

#[test]
fn one_zero_block_is_an_end() {
    let mut bytes = member(b'0', "0.jpg", b"x");
    bytes.resize(bytes.len() + 512, 0);
    assert_eq!(index(&Blob::from_bytes("a.tar", bytes.into())).unwrap().len(), 1);
}

/// Any bytes: an answer or an error, never a panic, and both readers agree.
#[test]
fn both_readers_agree_on_mutated_archives() {
    let pax = member(b'x', "pax", b"27 path=long/0000000001.jpg\n");
    let original = archive(&[
        member(b'0', "0.jpg", b"abc"),
        pax,
        member(b'0', "1.jpg", &[9; 600]),
        member(b'L', "././@LongLink", b"name/2.txt\0"),
        member(b'0', "2", b"cat"),
    ]);
    for position in 0..original.len() {
        for flip in [1_u8, 0x80, 0xff] {
            let mut bytes = original.clone();
            bytes[position] ^= flip;
            let indexed = index(&Blob::from_bytes("a.tar", bytes.clone().into()));
            let streamed: Result<Vec<_>, _> =
                TarReader::new("a.tar", &bytes[..]).map(|e| e.map(|(m, _)| m)).collect();
            match (indexed, streamed) {
                (Ok(a), Ok(b)) => assert_eq!(a, b),
                (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
                (a, b) => panic!("byte {position} ^ {flip}: {a:?} but {b:?}"),
            }
        }
    }
}
