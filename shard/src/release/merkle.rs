//! One hash for many files.

use sha2::{Digest, Sha256};

use super::ReleaseFile;

/// The Merkle root of these files, hex: the tree hash of RFC 6962 §2.1 (sha256; a leaf is hashed
/// behind a zero byte, an inner node behind a one byte, and the left part of `n` leaves is the
/// largest power of two below `n`) over the lines `<sha256>  <bytes>  <path>\n`, sorted by the bytes
/// of the path. No file gives the hash of nothing.
#[must_use]
pub fn merkle_root(files: &[ReleaseFile]) -> String {
    let mut sorted: Vec<&ReleaseFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let leaves: Vec<[u8; 32]> = sorted
        .into_iter()
        .map(|file| {
            let line = format!("{}  {}  {}\n", file.sha256, file.bytes, file.path);
            Sha256::new().chain_update([0]).chain_update(line).finalize().into()
        })
        .collect();
    tree(&leaves).map(|byte| format!("{byte:02x}")).concat()
}

fn tree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let half = many.len().next_power_of_two() / 2;
            let (left, right) = many.split_at(half);
            let both = Sha256::new().chain_update([1]).chain_update(tree(left));
            both.chain_update(tree(right)).finalize().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ReleaseFile {
        ReleaseFile { path: path.into(), bytes: 1, sha256: "ab".into(), samples: None }
    }

    #[test]
    fn the_root_of_nothing_is_the_hash_of_nothing() {
        // printf '' | sha256sum
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(merkle_root(&[]), empty);
    }

    #[test]
    fn a_leaf_stands_behind_a_zero_byte_and_a_node_behind_a_one() {
        // printf '\0ab  1  a\n' | sha256sum; three leaves with Python's hashlib
        let one = "2785576f49fafb438d3b927a1518b80f31e6d4df1e361b2a3bb840443c5deed5";
        let three = "cc0a7ee945eba698df50a9798b9600cf924721ac535d97de38b02a54e81ddb04";
        assert_eq!(merkle_root(&[file("a")]), one);
        assert_eq!(merkle_root(&[file("c"), file("a"), file("b")]), three);
    }
}
