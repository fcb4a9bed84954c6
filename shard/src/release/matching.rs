//! What of the selectors stands in a text: one rule for what a purge takes out and for what
//! `verify-purge` looks for.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use store::subset::Uid;

use super::Selectors;
use super::domain::{domains_of, host_of};
use super::scan_tokens::{Token, tokens};
use super::text_column::Value;
use super::tombstones::Tombstones;

/// What of the selectors was met so far, each as [`Selectors::names`] says it.
pub(crate) type Met = BTreeSet<String>;

impl Selectors {
    /// Shows what of a value is named: tokens in it, the whole of a text that is a URL (which may
    /// hold what would end one in a sentence), the hash of bytes, and a uid or hash that lies there
    /// as 16 or 32 raw bytes.
    pub(crate) fn find(&self, value: Value<'_>, mut show: impl FnMut(Token<'_>)) {
        let bytes = match value {
            Value::Text(text) => {
                if text.contains("://") && self.has_url(text) {
                    show(Token::Url(text));
                }
                text.as_bytes()
            }
            Value::Bytes(bytes) => {
                let hash = format!("{:x}", Sha256::digest(bytes));
                if self.has_sha256(&hash) {
                    show(Token::Hash(&hash));
                }
                if matches!(bytes.len(), 16 | 32) {
                    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
                    let hex: String =
                        bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect();
                    let raw = if bytes.len() == 16 { Token::Uid(&hex) } else { Token::Hash(&hex) };
                    if self.has(raw) {
                        show(raw);
                    }
                }
                bytes
            }
        };
        self.find_tokens(bytes, show);
    }

    /// As [`Selectors::find`], of bytes that are a part of something: tokens alone.
    pub(crate) fn find_tokens(&self, bytes: &[u8], mut show: impl FnMut(Token<'_>)) {
        tokens(bytes, |token| {
            if self.has(token) {
                show(token);
            }
        });
    }

    /// Whether a token is named.
    pub(crate) fn has(&self, token: Token<'_>) -> bool {
        match token {
            Token::Uid(hex) => Uid::parse(hex).is_some_and(|uid| self.has_uid(uid)),
            Token::Url(url) => self.has_url(url),
            Token::Hash(hex) => self.has_sha256(&hex.to_ascii_lowercase()),
        }
    }

    /// Whether this uid is named.
    pub(crate) fn has_uid(&self, uid: Uid) -> bool {
        self.uids.contains(&uid)
            || self.hashed.iter().any(|list| {
                !list.uid.is_empty() && list.uid.contains(&list.hash("uid", &uid.to_string()))
            })
    }

    /// Whether this URL, or its domain, is named.
    pub(crate) fn has_url(&self, url: &str) -> bool {
        if self.urls.contains(url) {
            return true;
        }
        let hashed =
            |list: &Tombstones| !list.url.is_empty() && list.url.contains(&list.hash("url", url));
        if self.hashed.iter().any(hashed) {
            return true;
        }
        let any_domain =
            !self.domains.is_empty() || self.hashed.iter().any(|list| !list.domain.is_empty());
        any_domain && host_of(url).is_some_and(|host| domains_of(&host).any(|d| self.has_domain(d)))
    }

    fn has_domain(&self, domain: &str) -> bool {
        self.domains.contains(domain)
            || self.hashed.iter().any(|list| {
                !list.domain.is_empty() && list.domain.contains(&list.hash("domain", domain))
            })
    }

    /// Whether a picture of this hash (hex, small letters) is named.
    pub(crate) fn has_sha256(&self, hash: &str) -> bool {
        self.sha256.contains(hash)
            || self.hashed.iter().any(|list| {
                !list.sha256.is_empty() && list.sha256.contains(&list.hash("sha256", hash))
            })
    }

    /// Notes every selector that a token meets.
    pub(crate) fn meet(&self, token: Token<'_>, met: &mut Met) {
        let mut note = |kind: &str, value: &str, named: bool| {
            if named {
                met.insert(format!("{kind}:{value}"));
            }
            for (number, list) in self.hashed.iter().enumerate() {
                let hash = list.hash(kind, value);
                if list.of(kind).is_some_and(|set| set.contains(&hash)) {
                    met.insert(hashed_name(number, kind, &hash));
                }
            }
        };
        match token {
            Token::Uid(hex) => {
                let Some(uid) = Uid::parse(hex) else { return };
                note("uid", &uid.to_string(), self.uids.contains(&uid));
            }
            Token::Hash(hex) => {
                let hash = hex.to_ascii_lowercase();
                note("sha256", &hash, self.sha256.contains(&hash));
            }
            Token::Url(url) => {
                note("url", url, self.urls.contains(url));
                for domain in host_of(url).iter().flat_map(|host| domains_of(host)) {
                    note("domain", domain, self.domains.contains(domain));
                }
            }
        }
    }

    /// What was named and never met: as `uid:…`, `url:…`, `domain:…`, `sha256:…`, and how many
    /// hashes of lists.
    pub(crate) fn unmet(&self, met: &Met) -> (Vec<String>, u64) {
        let unmet = |name: &String| !met.contains(name);
        let uids = self.uids.iter().map(|uid| format!("uid:{uid}"));
        let urls = self.urls.iter().map(|url| format!("url:{url}"));
        let domains = self.domains.iter().map(|domain| format!("domain:{domain}"));
        let hashes = self.sha256.iter().map(|hash| format!("sha256:{hash}"));
        let clear = uids.chain(urls).chain(domains).chain(hashes).filter(unmet).collect();
        let lists = self.hashed.iter().enumerate().flat_map(|(number, list)| {
            let sets = [
                ("uid", &list.uid),
                ("url", &list.url),
                ("domain", &list.domain),
                ("sha256", &list.sha256),
            ];
            sets.into_iter().flat_map(move |(kind, set)| {
                set.iter().map(move |hash| hashed_name(number, kind, hash))
            })
        });
        (clear, lists.filter(unmet).count() as u64)
    }
}

/// The name in [`Met`] of a hash in the list of this number.
fn hashed_name(list: usize, kind: &str, hash: &str) -> String {
    format!("{list}:{kind}:{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "139e4a9b22a614771f06c700a8ebe150";

    fn named() -> Selectors {
        let mut selectors = Selectors::default();
        selectors.uid(UID).unwrap();
        selectors.url("http://a.example/p 1").unwrap();
        selectors.domain("b.example").unwrap();
        selectors
    }

    fn found(value: Value<'_>) -> Vec<String> {
        let mut found = Vec::new();
        named().find(value, |token| found.push(format!("{token:?}")));
        found
    }

    #[test]
    fn a_url_with_a_space_is_found_as_the_whole_of_a_text_and_a_uid_as_raw_bytes() {
        assert_eq!(found(Value::Text("http://a.example/p 1")), [r#"Url("http://a.example/p 1")"#]);
        assert_eq!(found(Value::Text("see http://a.example/p 1")), [""; 0]);
        let url = r#"Url("http://x.b.example/y")"#;
        assert_eq!(found(Value::Text("see http://x.b.example/y there")), [url]);
        let raw = 0x139e4a9b22a614771f06c700a8ebe150_u128.to_be_bytes();
        assert_eq!(found(Value::Bytes(&raw)), [format!("Uid({UID:?})")]);
    }

    #[test]
    fn what_is_never_met_is_named() {
        let mut selectors = named();
        let mut list = Tombstones::new("00");
        list.domain.extend([list.hash("domain", "b.example"), list.hash("domain", "c.example")]);
        selectors.hashed(list);
        let mut met = Met::new();
        selectors.meet(Token::Url("http://x.b.example/y"), &mut met);
        let expected = [format!("uid:{UID}"), "url:http://a.example/p 1".to_owned()];
        assert_eq!(selectors.unmet(&met), (expected.to_vec(), 1));
        selectors.meet(Token::Uid(UID), &mut met);
        assert_eq!(selectors.unmet(&met).0, expected[1..]);
    }
}
