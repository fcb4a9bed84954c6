//! TensorBoard's event files, written by hand.
//!
//! A file is TFRecords (`tensorflow/core/lib/io/record_writer.cc`): the length as u64, the masked
//! CRC-32C of those eight bytes, the content, its masked CRC-32C, all little endian. The content is
//! an `Event` (`tensorflow/core/util/event.proto`) in protobuf's wire form:
//!
//! | message | field | number | wire type |
//! | --- | --- | --- | --- |
//! | Event | wall_time (seconds) | 1 | double |
//! | | step | 2 | varint |
//! | | file_version, `brain.Event:2`, in the first alone | 3 | bytes |
//! | | summary | 5 | message |
//! | | session_log | 7 | message |
//! | Summary | value | 1 | message, repeated |
//! | Value | tag | 1 | bytes |
//! | | simple_value | 2 | float |
//! | SessionLog | status, 1 = START | 1 | varint |
//!
//! A START at step s makes TensorBoard forget what earlier files say of steps from s on: that is how
//! a training that goes on from a saved state takes back the steps after it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use stage::{Result, ResultExt};

/// An event file that is being written.
pub struct Events {
    file: File,
}

impl Events {
    /// Starts a new event file in this folder, which is made; `now` is Unix time in seconds.
    /// A training that goes on says with `from` which step comes next.
    ///
    /// # Errors
    /// [`stage::Kind::Store`].
    pub fn create(dir: &Path, now: f64, from: Option<u64>) -> Result<Self> {
        let open = || -> io::Result<Self> {
            fs::create_dir_all(dir)?;
            // Two starts within a second get two names.
            let mut number = 0;
            let file = loop {
                let name = format!("events.out.tfevents.{:010}.clipmill.{number}", now as u64);
                match File::options().write(true).create_new(true).open(dir.join(name)) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                    other => break other?,
                }
            };
            let mut events = Self { file };
            events.append(&version(now))?;
            if let Some(step) = from {
                events.append(&restart(now, step))?;
            }
            Ok(events)
        };
        open().store(format!("cannot write events in {}", dir.display()))
    }

    /// Adds one point to each of these series.
    ///
    /// # Errors
    /// [`stage::Kind::Store`].
    pub fn scalars(&mut self, now: f64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.append(&scalars(now, step, values)).store("cannot append to the event file")
    }

    fn append(&mut self, event: &[u8]) -> io::Result<()> {
        self.file.write_all(&record(event))
    }
}

fn version(now: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, now);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

fn restart(now: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    number(&mut log, 1, 1);
    let mut event = Vec::new();
    double(&mut event, 1, now);
    number(&mut event, 2, step);
    bytes(&mut event, 7, &log);
    event
}

fn scalars(now: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, scalar) in values {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, 5);
        value.extend_from_slice(&(*scalar as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, now);
    number(&mut event, 2, step);
    bytes(&mut event, 5, &summary);
    event
}

/// One TFRecord.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    record.extend_from_slice(content);
    record.extend_from_slice(&masked(crc32c(content)).to_le_bytes());
    record
}

fn key(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    key(out, field, 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// The mask that keeps a checksum of data that holds checksums from being weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720 appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_rfc_3720s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_scalar_is_these_bytes() {
        let event = scalars(1.5, 300, &[("loss", 2.0)]);
        let expected = b"\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x40";
        assert_eq!(event, expected);
    }

    #[test]
    fn a_file_begins_with_its_version_and_a_restart_takes_back_steps() {
        assert_eq!(version(0.0), b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2");
        assert_eq!(restart(0.0, 5), b"\x09\0\0\0\0\0\0\0\0\x10\x05\x3a\x02\x08\x01");
    }

    #[test]
    fn a_record_is_framed_by_masked_checksums() {
        let record = record(b"123456789");
        assert_eq!(record[..8], 9_u64.to_le_bytes());
        assert_eq!(record[12..21], *b"123456789");
        // 0xe3069283 rotated right by 15, plus 0xa282ead8
        assert_eq!(record[21..], 0xc78a_b0e5_u32.to_le_bytes());
    }

    #[test]
    fn two_starts_in_one_second_are_two_files() {
        let dir = tempfile::tempdir().unwrap();
        Events::create(dir.path(), 7.0, None).unwrap().scalars(7.0, 0, &[("a", 1.0)]).unwrap();
        Events::create(dir.path(), 7.0, Some(1)).unwrap();
        let mut sizes: Vec<u64> = fs::read_dir(dir.path())
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [40 + 31, 40 + 39]);
    }
}
