//! Which pairs a purge takes out.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use stage::{Error, Result};
use store::Blob;
use store::subset::Uid;

use super::domain::host_of;
use super::tombstones::Tombstones;

/// Largest list that is read, bytes.
const MAX_LIST: u64 = 256 << 20;

/// What pairs are named by: any that fits takes a pair out.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    pub(super) uids: BTreeSet<Uid>,
    pub(super) urls: BTreeSet<String>,
    pub(super) domains: BTreeSet<String>,
    pub(super) sha256: BTreeSet<String>,
    pub(super) hashed: Vec<Tombstones>,
}

impl Selectors {
    /// Names a pair.
    ///
    /// # Errors
    /// When it is not 32 hex digits.
    pub fn uid(&mut self, text: &str) -> Result<()> {
        let uid = Uid::parse(text).ok_or_else(|| {
            Error::recipe(format!("{text:?} is no uid")).hint("a uid has 32 hex digits")
        })?;
        self.uids.insert(uid);
        Ok(())
    }

    /// Names all pairs whose URL is exactly this one.
    ///
    /// # Errors
    /// When it is no URL.
    pub fn url(&mut self, text: &str) -> Result<()> {
        if host_of(text).is_none() {
            return Err(Error::recipe(format!("{text:?} is no URL"))
                .hint("write it as it stands in the metadata, with http:// or https://"));
        }
        self.urls.insert(text.to_owned());
        Ok(())
    }

    /// Names all pairs whose URL's host is this domain or below it; `*.` before it changes nothing.
    ///
    /// # Errors
    /// When it cannot be a domain.
    pub fn domain(&mut self, text: &str) -> Result<()> {
        let name = text.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/:@?#".contains(c);
        if name.is_empty() || name.len() > 253 || name.chars().any(odd) {
            return Err(Error::recipe(format!("{text:?} is no domain"))
                .hint("write it without scheme and path: example.org"));
        }
        self.domains.insert(name);
        Ok(())
    }

    /// Names all pairs with a picture of this hash, as downloaded or as stored.
    ///
    /// # Errors
    /// When it is not 64 hex digits.
    pub fn sha256(&mut self, text: &str) -> Result<()> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(
                Error::recipe(format!("{text:?} is no sha256")).hint("a sha256 has 64 hex digits")
            );
        }
        self.sha256.insert(text.to_ascii_lowercase());
        Ok(())
    }

    /// Names what a file lists: `uid:…`, `url:…`, `domain:…`, `sha256:…` one a line, or without the
    /// word where the form says it (32 hex digits, 64, `://`, a domain with a dot); `#` begins a
    /// comment, at the beginning of a line or behind a space. A `tombstones.json`, of this release
    /// or another, is read too.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn list(&mut self, blob: &Blob) -> Result<()> {
        if blob.len() > MAX_LIST {
            let message = format!("{} bytes, at most {MAX_LIST} are read", blob.len());
            return Err(Error::input(message).at(blob.name()));
        }
        let bytes = blob.read_all()?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        if bytes.trim_ascii_start().starts_with(b"{") {
            self.hashed.push(Tombstones::parse(blob)?);
            return Ok(());
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::input("the list is not UTF-8").at(blob.name()))?;
        for (number, line) in text.lines().enumerate() {
            let line = without_comment(line);
            if line.is_empty() {
                continue;
            }
            self.line(line).map_err(|e| {
                let told =
                    Error::input(e.to_string()).at(format!("{}:{}", blob.name(), number + 1));
                match e.hint_text() {
                    Some(hint) => told.hint(hint),
                    None => told,
                }
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let hex = |len: usize| line.len() == len && line.bytes().all(|b| b.is_ascii_hexdigit());
        let (kind, value) = match line.split_once(':') {
            Some((kind @ ("uid" | "url" | "domain" | "sha256"), value)) => (kind, value.trim()),
            _ if hex(32) => ("uid", line),
            _ if hex(64) => ("sha256", line),
            _ if line.contains("://") => ("url", line),
            _ if line.contains('.') => ("domain", line),
            _ => {
                let digits = line.bytes().filter(u8::is_ascii_hexdigit).count();
                let others = line.bytes().any(|b| !b.is_ascii_hexdigit() && b != b'-');
                let hint = if others {
                    "uid, sha256, a URL, or a domain with a dot; else say the kind: `domain:name`"
                        .to_owned()
                } else {
                    format!(
                        "a uid has 32 hex digits and a sha256 64, this has {digits}; write them without dashes"
                    )
                };
                return Err(Error::recipe(format!("{line:?} names nothing")).hint(hint));
            }
        };
        match kind {
            "uid" => self.uid(value),
            "url" => self.url(value),
            "sha256" => self.sha256(value),
            _ => self.domain(value),
        }
    }

    /// Adds a list of hashes, such as a release's own tombstones.
    pub fn hashed(&mut self, list: Tombstones) {
        if !list.is_empty() {
            self.hashed.push(list);
        }
    }

    /// Things that are named.
    #[must_use]
    pub fn len(&self) -> usize {
        let hashed: usize = self.hashed.iter().map(Tombstones::len).sum();
        self.uids.len() + self.urls.len() + self.domains.len() + self.sha256.len() + hashed
    }

    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds what is named to a list; uids come from the pairs themselves. Hashes of another salt
    /// cannot be salted again: what they found stands there by its uid.
    pub(crate) fn bury(&self, list: &mut Tombstones) {
        for same in self.hashed.iter().filter(|other| other.salt == list.salt) {
            list.uid.extend(same.uid.iter().cloned());
            list.url.extend(same.url.iter().cloned());
            list.domain.extend(same.domain.iter().cloned());
            list.sha256.extend(same.sha256.iter().cloned());
        }
        let url: Vec<String> = self.urls.iter().map(|url| list.hash("url", url)).collect();
        let domain: Vec<String> = self.domains.iter().map(|d| list.hash("domain", d)).collect();
        let sha256: Vec<String> = self.sha256.iter().map(|h| list.hash("sha256", h)).collect();
        list.url.extend(url);
        list.domain.extend(domain);
        list.sha256.extend(sha256);
    }

    /// A digest of all that is named, salted: equal for equal selectors of one release.
    pub(crate) fn digest(&self, salt: &Tombstones) -> String {
        let mut digest = Sha256::new();
        for uid in &self.uids {
            digest.update(salt.hash("uid", &uid.to_string()));
        }
        for (kind, set) in
            [("url", &self.urls), ("domain", &self.domains), ("sha256", &self.sha256)]
        {
            set.iter().for_each(|value| digest.update(salt.hash(kind, value)));
        }
        for list in &self.hashed {
            digest.update(&list.salt);
            for set in [&list.uid, &list.url, &list.domain, &list.sha256] {
                digest.update([0]);
                set.iter().for_each(|hash| digest.update(hash));
            }
        }
        format!("{:x}", digest.finalize())
    }
}

/// A line up to its comment; a `#` inside a word belongs to a URL.
fn without_comment(line: &str) -> &str {
    let begins =
        |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let end = line.match_indices('#').find(begins).map_or(line.len(), |(at, _)| at);
    line[..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "139e4a9b22a614771f06c700a8ebe150";

    fn listed(text: &str) -> Result<Selectors> {
        let mut selectors = Selectors::default();
        let blob = Blob::from_bytes("list.txt", text.to_owned().into());
        selectors.list(&blob).map(|()| selectors)
    }

    #[test]
    fn a_list_names_pairs_by_form_or_by_word() {
        let hash = "ab".repeat(32);
        let text = format!(
            "# gone\n{UID}\n{hash}\nhttp://a.example/x\nb.example\nurl: http://c.example/\n"
        );
        let selectors = listed(&text).unwrap();
        assert_eq!(selectors.len(), 5);
        assert!(selectors.has_uid(Uid::parse(UID).unwrap()));
        assert!(selectors.has_sha256(&hash));
        for url in ["http://a.example/x", "https://img.b.example/y", "http://c.example/"] {
            assert!(selectors.has_url(url), "{url}");
        }
        for url in ["http://a.example/xy", "https://bb.example/y", "http://c.example/z"] {
            assert!(!selectors.has_url(url), "{url}");
        }
    }

    #[test]
    fn a_broken_line_is_named_with_its_number() {
        let error = listed("b.example\nuid: 12\n").unwrap_err();
        assert_eq!(error.to_string(), "list.txt:2: \"12\" is no uid");
        for line in [&UID[1..], "localhost", "sha1: 12", "139e4a9b-22a6-1477-1f06-c700a8ebe150"] {
            let error = listed(line).unwrap_err();
            assert!(error.hint_text().is_some(), "{error}");
            assert!(error.to_string().ends_with("names nothing"), "{error}");
        }
        assert!(listed("domain: localhost").unwrap().has_url("http://localhost/x"));
    }

    #[test]
    fn a_byte_order_mark_and_comments_are_no_part_of_a_name() {
        let text =
            format!("\u{feff}{UID} # asked on Monday\nhttp://a.example/#x\t# b\n  # c.example\n");
        let selectors = listed(&text).unwrap();
        assert_eq!(selectors.len(), 2);
        assert!(selectors.has_uid(Uid::parse(UID).unwrap()));
        assert!(selectors.has_url("http://a.example/#x"));
    }

    #[test]
    fn a_list_of_the_same_salt_is_buried_whole() {
        let mut asked = Tombstones::new("00");
        asked.domain.insert(asked.hash("domain", "a.example"));
        let (mut own, mut other) = (Tombstones::new("00"), Tombstones::new("01"));
        let mut selectors = Selectors::default();
        selectors.hashed(asked.clone());
        selectors.bury(&mut own);
        selectors.bury(&mut other);
        assert_eq!((own.domain, other.len()), (asked.domain, 0));
    }

    #[test]
    fn hashes_find_what_they_were_made_of() {
        let mut named = listed("b.example\nhttp://a.example/x\n").unwrap();
        named.uid(UID).unwrap();
        let mut list = Tombstones::new("00");
        named.bury(&mut list);
        list.uid.insert(list.hash("uid", UID));
        let mut hashed = Selectors::default();
        hashed.hashed(list);
        assert!(hashed.has_uid(Uid::parse(UID).unwrap()));
        assert!(hashed.has_url("http://a.example/x") && hashed.has_url("http://x.b.example/"));
        assert!(!hashed.has_url("http://a.example/y") && !hashed.has_sha256(&"ab".repeat(32)));
    }
}
