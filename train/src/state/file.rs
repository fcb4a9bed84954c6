//! The bytes of a state: one safetensors file with the cursor in its metadata, and its manifest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};

use super::{Cursor, Numbers, Saved, file_name, key};
use crate::slices;
use crate::trainer::Trainer;

const METADATA: &str = "clipmill_training_state";

/// What the manifest beside a state says of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Writes all numbers as one safetensors file, hashing on the way.
pub(super) fn write_tensors(
    path: &Path,
    trainer: &Trainer,
    cursor: &Cursor,
) -> Result<(u64, String)> {
    let params = trainer.clip.params();
    let slots = trainer.optimizer.slots();
    let mut header = Map::new();
    let cursor = serde_json::to_string(cursor).internal("state cursor")?;
    header.insert("__metadata__".to_owned(), json!({ METADATA: cursor }));
    let mut offset = 0;
    let mut announce = |name: String, shape: &[usize]| {
        let end = offset + shape.iter().product::<usize>() * 4;
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    };
    for (name, var) in params.vars() {
        announce(key("weight", name), var.dims());
    }
    for (name, var) in params.buffers() {
        announce(key("buffer", name), var.dims());
    }
    for (name, slot) in slots {
        announce(key("first", name), &[slot.len()]);
        announce(key("second", name), &[slot.len()]);
    }
    let mut header = serde_json::to_vec(&header).internal("state header")?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut hashed = (0, Sha256::new());
    write_whole(path, |file| {
        let mut out = Hashing { file, bytes: 0, sha256: Sha256::new() };
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for var in params.vars().values().chain(params.buffers().values()) {
            slices::with(var.as_tensor(), |values| write_floats(&mut out, values))
                .map_err(std::io::Error::other)??;
        }
        for slot in slots.values() {
            for moment in slot.numbers().map_err(std::io::Error::other)? {
                write_floats(&mut out, &moment)?;
            }
        }
        hashed = (out.bytes, out.sha256);
        Ok(())
    })?;
    Ok((hashed.0, hex(hashed.1)))
}

/// Reads a state that its manifest vouches for.
pub(super) fn read(manifest: &Path) -> Result<Saved> {
    let text = fs::read(manifest).input("cannot read the manifest")?;
    let Manifest { bytes, sha256, file } =
        serde_json::from_slice(&text).input("the manifest is broken")?;
    let path = manifest.with_extension("safetensors");
    if file != file_name(&path) {
        return Err(Error::input(format!("the manifest names {file}")));
    }
    let mut input = File::open(&path).input("cannot open the tensors")?;
    let length = input.metadata().input("cannot read the tensors")?.len();
    if length != bytes {
        return Err(Error::input(format!("{length} bytes, the manifest says {bytes}")));
    }
    let mut content = Vec::with_capacity(length as usize);
    input.read_to_end(&mut content).input("cannot read the tensors")?;
    if hex(Sha256::new().chain_update(&content)) != sha256 {
        return Err(Error::input("sha256 differs from the manifest's"));
    }
    parse(&content)
}

pub(super) fn parse(content: &[u8]) -> Result<Saved> {
    let broken = |what: &str| Error::input(format!("broken state: {what}"));
    let (length, rest) = content.split_first_chunk::<8>().ok_or_else(|| broken("no header"))?;
    let length =
        usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken("header length"))?;
    let (header, body) = rest.split_at_checked(length).ok_or_else(|| broken("header length"))?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).input("broken state")?;
    let metadata = header.remove("__metadata__").ok_or_else(|| broken("no metadata"))?;
    let cursor = metadata[METADATA].as_str().ok_or_else(|| broken("no cursor"))?;
    let cursor = serde_json::from_str(cursor).input("broken state: cursor")?;
    let mut tensors: BTreeMap<String, Numbers> = BTreeMap::new();
    for (name, entry) in header {
        let offsets: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone())
            .input(format!("broken state: {name}"))?;
        let bytes = body.get(offsets[0]..offsets[1]).ok_or_else(|| broken(&name))?;
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone())
            .input(format!("broken state: {name}"))?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        let count = shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
        if !rest.is_empty() || count != Some(numbers.len()) {
            return Err(broken(&name));
        }
        let values = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensors.insert(name, Numbers { shape, values });
    }
    Ok(Saved { cursor, tensors })
}

/// Writes a file under a temporary name, syncs it, and gives it its name.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let temporary = path.with_extension("partial");
    let write = || {
        let mut file = File::create(&temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().store(format!("cannot write {}", path.display()))
}

/// Counts and hashes what passes into the file.
struct Hashing<'a> {
    file: &'a mut File,
    bytes: u64,
    sha256: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn write_floats(out: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(1 << 16);
    for chunk in values.chunks(1 << 14) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&buffer)?;
    }
    Ok(())
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
