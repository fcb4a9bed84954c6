//! What makes two addresses one: in an archive, and to a client that asks for one.

use url::Url;

/// The key of an address: host in lower case without user and port, then path and query as they
/// are. Scheme and fragment do not count. `None` when it is not http(s).
pub(super) fn key(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let root = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{}{root}{path}", host.to_ascii_lowercase()))
}

/// The key of the address as a browser would ask for it: blanks and letters beyond ASCII encoded,
/// dot segments gone (WHATWG URL standard).
pub(super) fn browser_key(address: &str) -> Option<String> {
    key(Url::parse(address).ok()?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_port_user_and_fragment_do_not_count() {
        for address in [
            "http://A.example/x?y",
            "https://a.example/x?y",
            "http://a.example:8080/x?y#z",
            "http://u:p@a.example/x?y",
        ] {
            assert_eq!(key(address).unwrap(), "a.example/x?y", "{address}");
        }
        assert_eq!(key("http://a.example").unwrap(), "a.example/");
        assert_eq!(key("http://a.example?q").unwrap(), "a.example/?q");
        assert_eq!(key("dns:a.example"), None);
    }

    #[test]
    fn a_browser_encodes_blanks_and_resolves_dots() {
        assert_eq!(browser_key("http://a.example/b/../c d").unwrap(), "a.example/c%20d");
    }
}
