//! Where hosts are dialled instead of where the DNS says: for replays, demos and tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Host name to address, plain data in a recipe: `{"*": "127.0.0.1:8080"}`.
///
/// `*` stands for every host that is not named. A mapped host is asked in plain http, for https
/// URLs too; the request's `Host` header keeps the name, so that one address can serve many. The
/// address appears nowhere else: never in a URL, a uid or a parquet column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DialMap(BTreeMap<String, SocketAddr>);

impl DialMap {
    /// Every host at this address.
    #[must_use]
    pub fn everything_at(addr: SocketAddr) -> Self {
        Self(BTreeMap::from([("*".to_owned(), addr)]))
    }

    /// Adds one host, lower case and without a port, or `*`.
    #[must_use]
    pub fn with(mut self, host: &str, addr: SocketAddr) -> Self {
        self.0.insert(host.to_owned(), addr);
        self
    }

    /// The address of this host (lower case, without a port): its own, else that of `*`.
    #[must_use]
    pub fn lookup(&self, host: &str) -> Option<SocketAddr> {
        self.0.get(host).or_else(|| self.0.get("*")).copied()
    }

    /// Whether no host is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All mappings, by host.
    pub fn iter(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.0.iter().map(|(host, addr)| (host.as_str(), *addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_host_comes_before_the_star() {
        let map: DialMap =
            serde_json::from_str(r#"{"*": "127.0.0.1:80", "a.example": "127.0.0.1:81"}"#).unwrap();
        assert_eq!(map.lookup("a.example").unwrap().port(), 81);
        assert_eq!(map.lookup("b.example").unwrap().port(), 80);
    }

    #[test]
    fn without_a_star_other_hosts_are_not_mapped() {
        let map = DialMap::default().with("a.example", "127.0.0.1:81".parse().unwrap());
        assert_eq!(map.lookup("b.example"), None);
    }
}
