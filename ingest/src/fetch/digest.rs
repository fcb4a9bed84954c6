//! Digests of downloaded bytes, for `compute_hash` and `verify_hash`.

use std::fmt::Write as _;

use md5::Md5;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest of the downloaded bytes, in lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// MD5, 32 digits.
    Md5,
    /// SHA-256, 64 digits.
    Sha256,
    /// SHA-512, 128 digits.
    Sha512,
}

impl Digest {
    /// The word in plans, and the name of the column.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of these bytes.
    pub(super) fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(bytes)),
            Self::Sha256 => hex(&Sha256::digest(bytes)),
            Self::Sha512 => hex(&Sha512::digest(bytes)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digests_of_abc_are_those_of_the_standards() {
        // RFC 1321, A.5; FIPS 180-2, B.1 and C.1.
        assert_eq!(Digest::Md5.of(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            Digest::Sha256.of(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(Digest::Sha512.of(b"abc").starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
