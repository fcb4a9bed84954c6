//! Pictures of shards by key; the members of a few tars stay known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use stage::Result;
use store::Blob;

use super::source::Tars;

/// Tars whose members stay known: some 1 MB each of 10,000 samples.
const KNOWN: usize = 16;
/// Largest picture that is handed out, bytes.
const LARGEST: u64 = 32 << 20;

pub(super) struct Pictures {
    tars: Tars,
    known: Mutex<Vec<(String, Arc<Tar>)>>,
}

struct Tar {
    blob: Blob,
    places: HashMap<String, (u64, u64)>,
}

impl Pictures {
    pub(super) fn new(tars: Tars) -> Self {
        Self { tars, known: Mutex::default() }
    }

    /// The picture of this sample, if there is one.
    pub(super) fn find(&self, shard: &str, key: &str) -> Result<Option<Bytes>> {
        let Some(url) = self.tars.get(shard) else { return Ok(None) };
        let tar = self.tar(shard, url)?;
        let Some(&(offset, len)) = tar.places.get(key).filter(|place| place.1 <= LARGEST) else {
            return Ok(None);
        };
        tar.blob.read_at(offset, len as usize).map(Some)
    }

    fn tar(&self, shard: &str, url: &str) -> Result<Arc<Tar>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(name, _)| name == shard) {
            let entry = known.remove(at);
            let tar = Arc::clone(&entry.1);
            known.push(entry);
            return Ok(tar);
        }
        let blob = Blob::open(url)?;
        let mut places = HashMap::new();
        for member in shard::index(&blob)? {
            if let Some((key, suffix)) = shard::split_name(&member.name)
                && matches!(suffix.as_str(), "jpg" | "jpeg" | "png" | "webp")
            {
                places.insert(key.to_owned(), (member.offset, member.len));
            }
        }
        let tar = Arc::new(Tar { blob, places });
        if known.len() >= KNOWN {
            known.remove(0);
        }
        known.push((shard.to_owned(), Arc::clone(&tar)));
        Ok(tar)
    }
}
