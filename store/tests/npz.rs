//! Archives as `numpy.savez` and `numpy.savez_compressed` write them, and damaged ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use store::{Blob, npy, npz};

/// A member of an archive: name, method, bytes as they lie, bytes when unpacked.
type Member<'a> = (&'a str, u16, Vec<u8>, usize);

fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, method, data, size) in members {
        let start = u32::try_from(file.len()).unwrap();
        let mut fields = method.to_le_bytes().to_vec();
        fields.extend([0; 8]);
        fields.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        fields.extend(u32::try_from(*size).unwrap().to_le_bytes());
        fields.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        fields.extend([0, 0]);
        file.extend([b"PK\x03\x04\x14\0\0\0", &fields[..], name.as_bytes(), data].concat());
        let entry = [b"PK\x01\x02\x14\0\x14\0\0\0", &fields[..], &[0; 10]].concat();
        directory.extend([&entry[..], &start.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count].concat();
    let length = u32::try_from(directory.len()).unwrap().to_le_bytes();
    let start = u32::try_from(file.len()).unwrap().to_le_bytes();
    [&file[..], &directory, &end, &length, &start, &[0, 0]].concat()
}

fn array() -> Vec<u8> {
    let mut bytes = Vec::new();
    npy::write(&mut bytes, &[3, 2], &[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    bytes
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn open(bytes: Vec<u8>) -> stage::Result<npz::File> {
    npz::File::open(&Blob::from_bytes("a.npz", bytes.into()))
}

#[test]
fn stored_and_deflated_members_are_read_by_name() {
    let (plain, packed) = (array(), deflated(&array()));
    let length = plain.len();
    let file = open(zip(&[("a.npy", 0, plain, length), ("b.npy", 8, packed, length)])).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    for name in ["a", "b"] {
        let array = file.array(name).unwrap();
        assert_eq!((array.len(), array.row_len()), (3, 2));
        assert_eq!(array.rows::<f32>(1..3).unwrap(), [2.0, 3.0, 4.0, 5.0]);
    }
    let message = file.array("c").unwrap_err().to_string();
    assert_eq!(message, "a.npz: no array `c`; there are a, b");
}

#[test]
fn a_member_that_inflates_to_another_length_or_is_packed_otherwise_is_refused() {
    let (plain, packed) = (array(), deflated(&array()));
    let length = plain.len();
    let refuse = |method, data: &Vec<u8>, size| {
        open(zip(&[("a.npy", method, data.clone(), size)]))
            .unwrap()
            .array("a")
            .unwrap_err()
            .to_string()
    };
    let more = format!("a.npz: a: more bytes than the {} of the directory", length - 1);
    assert_eq!(refuse(8, &packed, length - 1), more);
    let fewer = format!("a.npz: a: fewer bytes than the {} of the directory", length + 1);
    assert_eq!(refuse(8, &packed, length + 1), fewer);
    let unknown = "a.npz: a: packed by method 12; stored and deflated are read";
    assert_eq!(refuse(12, &packed, length), unknown);
}

#[test]
fn every_cut_and_every_changed_byte_is_an_error_or_another_archive() {
    let length = array().len();
    let whole = zip(&[("a.npy", 0, array(), length), ("b.npy", 8, deflated(&array()), length)]);
    for end in 0..whole.len() {
        assert!(open(whole[..end].to_vec()).is_err(), "{end} bytes");
    }
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            if let Ok(file) = open(damaged) {
                for name in ["a", "b"] {
                    let _ = file.array(name).and_then(|array| array.rows::<f32>(0..array.len()));
                }
            }
        }
    }
}
