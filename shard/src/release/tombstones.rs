//! `tombstones.json`: what was taken out of a release, as salted hashes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};
use store::Blob;

/// Its name in a release.
pub const TOMBSTONES: &str = "tombstones.json";

const FORMAT: &str = "clipmill-tombstones-1";
/// Largest list that is read, bytes.
const MAX_BYTES: u64 = 256 << 20;

/// What was taken out, of this version and all before.
///
/// Each hash is the hex sha256 of `<salt>:<kind>:<value>`, where kind is `uid`, `url`, `domain` or
/// `sha256`. The salt keeps lists of two releases from being joined and hashes from being looked up
/// in tables made beforehand; it stays the same over the versions of a release, and is public, so
/// that whoever holds a copy can find what was taken out. A name that can be guessed, such as a
/// domain, can be found by guessing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstones {
    /// `clipmill-tombstones-1`.
    pub format: String,
    /// Hex.
    pub salt: String,
    /// Pairs taken out.
    pub samples: u64,
    /// Uids of all pairs taken out.
    pub uid: BTreeSet<String>,
    /// URLs that were named.
    pub url: BTreeSet<String>,
    /// Domains that were named.
    pub domain: BTreeSet<String>,
    /// Hashes of pictures that were named.
    pub sha256: BTreeSet<String>,
}

impl Tombstones {
    /// An empty list. The salt is made of the Merkle root of the first version: no clock and no dice,
    /// so that a purge that was killed goes on with the same bytes.
    #[must_use]
    pub fn new(merkle_root: &str) -> Self {
        let salt = Sha256::digest(format!("clipmill tombstones of {merkle_root}"));
        Self {
            format: FORMAT.to_owned(),
            salt: format!("{salt:x}"),
            samples: 0,
            uid: BTreeSet::new(),
            url: BTreeSet::new(),
            domain: BTreeSet::new(),
            sha256: BTreeSet::new(),
        }
    }

    /// The hash under which a value stands here.
    #[must_use]
    pub fn hash(&self, kind: &str, value: &str) -> String {
        format!("{:x}", Sha256::digest(format!("{}:{kind}:{value}", self.salt)))
    }

    /// The hashes of this kind.
    pub(crate) fn of(&self, kind: &str) -> Option<&BTreeSet<String>> {
        match kind {
            "uid" => Some(&self.uid),
            "url" => Some(&self.url),
            "domain" => Some(&self.domain),
            "sha256" => Some(&self.sha256),
            _ => None,
        }
    }

    /// Hashes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uid.len() + self.url.len() + self.domain.len() + self.sha256.len()
    }

    /// Whether nothing was taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a list.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(blob: &Blob) -> Result<Self> {
        if blob.len() > MAX_BYTES {
            let message = format!("{} bytes are no list of tombstones", blob.len());
            return Err(Error::input(message).at(blob.name()));
        }
        let list: Self = serde_json::from_slice(&blob.read_all()?)
            .input("not a list of tombstones")
            .map_err(|e| e.at(blob.name()))?;
        if list.format != FORMAT {
            let message = format!("format `{}`, expected `{FORMAT}`", list.format);
            return Err(Error::input(message).at(blob.name()));
        }
        Ok(list)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).internal("cannot write tombstones")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_salt_kind_and_value() {
        let mut list = Tombstones::new("00");
        list.salt = "ab".to_owned();
        // printf 'ab:url:http://a.example/' | sha256sum
        let expected = "514721687c63c3aa157d9064da398561d7f9979a541bd79c504876366df35d47";
        assert_eq!(list.hash("url", "http://a.example/"), expected);
        assert_ne!(list.hash("uid", "http://a.example/"), expected);
    }

    #[test]
    fn two_releases_have_two_salts() {
        assert_ne!(Tombstones::new("00").salt, Tombstones::new("01").salt);
    }
}
