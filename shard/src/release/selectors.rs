//! Which pairs a purge takes out.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use stage::{Error, Result};
use store::Blob;
use store::subset::Uid;

use super::domain::{domains_of, host_of};
use super::tombstones::Tombstones;

/// Largest list that is read, bytes.
const MAX_LIST: u64 = 256 << 20;

/// What pairs are named by: any that fits takes a pair out.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    uids: BTreeSet<Uid>,
    urls: BTreeSet<String>,
    domains: BTreeSet<String>,
    sha256: BTreeSet<String>,
    hashed: Vec<Tombstones>,
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

    /// Names all pairs whose URL's host is this domain or below it.
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
    /// word where the form says it (32 hex digits, 64, `://`, else a domain); `#` begins a comment.
    /// A `tombstones.json`, of this release or another, is read too.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn list(&mut self, blob: &Blob) -> Result<()> {
        if blob.len() > MAX_LIST {
            let message = format!("{} bytes, at most {MAX_LIST} are read", blob.len());
            return Err(Error::input(message).at(blob.name()));
        }
        let bytes = blob.read_all()?;
        if bytes.trim_ascii_start().starts_with(b"{") {
            self.hashed.push(Tombstones::parse(blob)?);
            return Ok(());
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::input("the list is not UTF-8").at(blob.name()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
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
            _ => ("domain", line),
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

    /// Adds what is named to a list; uids come from the pairs themselves. Hashes of other lists
    /// cannot be salted again: what they found stands there by its uid.
    pub(crate) fn bury(&self, list: &mut Tombstones) {
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
