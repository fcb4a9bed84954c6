//! The header of a safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use safetensors::tensor::{Metadata, TensorInfo};
use stage::{Error, Result, ResultExt};

use super::bytes::{Bytes, read_at};
use super::{Dtype, Entry, MOST_TENSORS, Read};

/// Largest header, bytes; as the safetensors crate has it.
const MOST_HEADER: u64 = 100_000_000;

/// What stands in a file of `length` bytes: the header is held against it before anything is
/// allocated, and every tensor's place against its shape and dtype, without gaps or overlaps.
pub(super) fn read(file: &File, length: u64) -> Result<Read> {
    let whole = |e: Error| e.hint("fetch or convert the file again; it is cut off or damaged");
    let wrong = |what: String| whole(Error::model(format!("not a whole safetensors file: {what}")));
    if length < 8 {
        return Err(wrong(format!("{length} bytes")));
    }
    let header = Bytes::new(&read_at(file, 0, 8)?).u64()?;
    if header > MOST_HEADER || header > length - 8 {
        return Err(wrong(format!("a header of {header} bytes in a file of {length}")));
    }
    let text = read_at(file, 8, header)?;
    let metadata: Metadata = serde_json::from_slice(&text)
        .model("not a whole safetensors file: its header")
        .map_err(whole)?;
    let mut infos: Vec<(String, &TensorInfo)> = metadata.tensors().into_iter().collect();
    if infos.len() > MOST_TENSORS {
        return Err(wrong(format!("{} tensors, more than {MOST_TENSORS}", infos.len())));
    }
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut entries = BTreeMap::new();
    let mut end = 0;
    for (name, info) in infos {
        let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let bits = info.dtype.bitsize() as u64;
        let count = info.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
        let bytes = count.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
        if from != end || bytes.and_then(|bytes| from.checked_add(bytes)) != Some(to) {
            return Err(wrong(format!(
                "tensor `{name}` of shape {:?} and dtype {:?} is placed in bytes {from}..{to}, \
                 expected {} bytes from {end}",
                info.shape,
                info.dtype,
                bytes.map_or("fewer than 2^64".to_owned(), |bytes| bytes.to_string())
            )));
        }
        end = to;
        let entry = Entry {
            file: 0,
            start: 8 + header + from,
            count: count.unwrap_or(0),
            offset: 0,
            strides: Entry::packed(&info.shape),
            dims: info.shape.clone(),
            dtype: Dtype::from(info.dtype),
        };
        entries.insert(name, entry);
    }
    if end != length - 8 - header {
        return Err(wrong(format!(
            "the header places {end} bytes of tensors, the file holds {}",
            length - 8 - header
        )));
    }
    Ok(Read { format: "safetensors", entries, left_out: BTreeSet::new() })
}

impl From<safetensors::Dtype> for Dtype {
    fn from(dtype: safetensors::Dtype) -> Self {
        match dtype {
            safetensors::Dtype::F16 => Self::F16,
            safetensors::Dtype::BF16 => Self::BF16,
            safetensors::Dtype::F32 => Self::F32,
            safetensors::Dtype::F64 => Self::F64,
            safetensors::Dtype::I64 => Self::Other("I64", 8),
            safetensors::Dtype::I32 => Self::Other("I32", 4),
            safetensors::Dtype::U8 => Self::Other("U8", 1),
            safetensors::Dtype::BOOL => Self::Other("BOOL", 1),
            _ => Self::Other("of another kind", 1),
        }
    }
}
