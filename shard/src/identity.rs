//! Who a sample is: its uid, whichever tool wrote the shard.

use md5::{Digest, Md5};
use store::subset::Uid;

use crate::sample_json::SampleJson;

/// The uid of a sample, from the first of these that says one:
///
/// 1. the json's `uid`, if it is 32 hex characters (DataComp's shards, ours);
/// 2. a key of the form `<32 hex>` or `<32 hex>-<number>` (resharded shards);
/// 3. the md5 of caption and url, if the json has a url (cc2dataset's rule);
/// 4. the md5 of `<shard>/<key>`, the shard's file name without `.tar`: shards that number their
///    samples from 0 each must not share uids. Renaming such a shard gives its samples new uids.
pub(crate) fn uid_of(json: &SampleJson, caption: &str, key: &str, shard: &str) -> Uid {
    if let Some(uid) = json.text("uid").and_then(Uid::parse) {
        return uid;
    }
    if let Some(uid) = from_key(key) {
        return uid;
    }
    match json.text("url").filter(|url| !url.is_empty()) {
        Some(url) => digest(&[caption, url]),
        None => digest(&[shard, "/", key]),
    }
}

/// The uid that a key of the second kind says.
pub(crate) fn from_key(key: &str) -> Option<Uid> {
    let base = key.rsplit('/').next().unwrap_or(key);
    match base.split_once('-') {
        None => Uid::parse(base),
        Some((uid, copy)) if !copy.is_empty() && copy.bytes().all(|b| b.is_ascii_digit()) => {
            Uid::parse(uid)
        }
        Some(_) => None,
    }
}

fn digest(parts: &[&str]) -> Uid {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part.as_bytes());
    }
    let value = u128::from_be_bytes(md5.finalize().into());
    Uid((value >> 64) as u64, value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "139e4a9b22a614771f06c700a8ebe150";

    fn check(json: &str, key: &str, expected: &str) {
        let uid = uid_of(&SampleJson::parse(json.as_bytes()), "a cat", key, "00000");
        assert_eq!(uid.to_string(), expected);
    }

    #[test]
    fn the_uid_comes_from_json_then_key_then_caption_and_url_then_place() {
        check(&format!(r#"{{"uid": "{UID}"}}"#), "000000000", UID);
        check("{}", &format!("{UID}-12"), UID);
        check("{}", UID, UID);
        // echo -n 'a cathttp://a.example/1.jpg' | md5sum
        let url = r#"{"url": "http://a.example/1.jpg", "uid": "no hex"}"#;
        check(url, "000000000", "21e33f4ccce6ec738ca31be489349657");
        // echo -n '00000/0001' | md5sum
        check("{}", "0001", "bff32506086ef53f253eb850ca949c68");
    }
}
