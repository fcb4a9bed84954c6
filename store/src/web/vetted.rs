//! The client, which dials vetted addresses alone.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use stage::{Error, Result};
use url::{Host, Url};

use crate::is_public;

/// Hosts that may have addresses that are not public, by comma.
const VARIABLE: &str = "CLIPMILL_PRIVATE_HOSTS";

static ALLOWED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Lets this host be read from wherever it is: a server of one's own network, or a test's. What
/// `CLIPMILL_PRIVATE_HOSTS` names (by comma) needs no call.
pub fn allow_private_host(host: &str) {
    let mut allowed = ALLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    allowed.insert(host.to_ascii_lowercase());
}

fn is_allowed(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let named = std::env::var(VARIABLE).unwrap_or_default();
    named.split(',').any(|name| name.trim().eq_ignore_ascii_case(&host))
        || ALLOWED.lock().unwrap_or_else(PoisonError::into_inner).contains(&host)
}

/// Checks what a URL says by itself; addresses that are written into it pass the resolver by.
pub(super) fn check(url: &Url) -> Result<()> {
    let refuse = |why: &str| Err(Error::input(why).at(url.host_str().unwrap_or("a URL")));
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("neither http nor https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("a name or password in the URL");
    }
    let address = match url.host() {
        None => return refuse("no host"),
        Some(Host::Domain(_)) => return Ok(()),
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
    };
    if is_public(address) || is_allowed(&address.to_string()) {
        return Ok(());
    }
    Err(NoPublicAddress(address.to_string()).error())
}

/// A host that has only addresses that nobody outside could reach.
#[derive(Debug)]
pub(super) struct NoPublicAddress(String);

impl NoPublicAddress {
    pub(super) fn error(&self) -> Error {
        Error::input(self.to_string())
            .hint(format!("name the host in {VARIABLE} if it is one of your own"))
    }
}

impl fmt::Display for NoPublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no public address", self.0)
    }
}

impl std::error::Error for NoPublicAddress {}

/// What is wrong with a certificate, if that is the cause.
pub(super) fn untrusted(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    use rustls::Error as Tls;
    let tls = match cause.downcast_ref::<std::io::Error>() {
        Some(io) => innermost(io).get_ref()?.downcast_ref::<Tls>(),
        None => cause.downcast_ref::<Tls>(),
    };
    match tls? {
        Tls::InvalidCertificate(why) => Some(why.to_string()),
        Tls::NoCertificatesPresented => Some("it presented none".to_owned()),
        _ => None,
    }
}

/// An I/O error inside I/O errors: each layer of the connector wraps the one below.
fn innermost(error: &std::io::Error) -> &std::io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>());
    inner.map_or(error, innermost)
}

/// Answers with public addresses alone, so that what was vetted is what is dialled.
struct Vetted;

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let may = |address: &SocketAddr| is_public(address.ip()) || is_allowed(&host);
            let vetted: Vec<SocketAddr> = found.filter(may).collect();
            if vetted.is_empty() {
                return Err(NoPublicAddress(host).into());
            }
            Ok(Box::new(vetted.into_iter()) as Addrs)
        })
    }
}

/// The one client of the process.
pub(super) fn client() -> Result<Client> {
    static CLIENT: OnceLock<std::result::Result<Client, String>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        // A default provider is a property of the process; where the program has one, it stays.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _raced = rustls::crypto::ring::default_provider().install_default();
        }
        let builder = || {
            Client::builder()
                .user_agent(concat!("clipmill/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(Vetted))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .referer(false)
                .http1_only()
                .connect_timeout(Duration::from_secs(10))
                .tcp_nodelay(true)
        };
        // A machine without certificates can still read from plain http.
        let built = builder().build().or_else(|_| builder().tls_certs_only([]).build());
        built.map_err(|error| error.to_string())
    });
    client.clone().map_err(|why| Error::internal("cannot build an HTTP client").because(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says_by_itself_is_vetted() {
        let refused = |url: &str| check(&Url::parse(url).unwrap()).unwrap_err().to_string();
        for url in [
            "http://127.0.0.1/0.tar",
            "https://[::1]/0.tar",
            "http://169.254.169.254/latest/",
            "http://0x7f.1/",
            "http://10.1.2.3/",
        ] {
            assert!(refused(url).contains("no public address"), "{url}");
        }
        assert!(refused("https://me:secret@a.example/0.tar").contains("password"));
        assert!(!refused("https://me:secret@a.example/0.tar").contains("secret"));
        assert!(refused("ftp://a.example/0.tar").contains("neither http"));
        check(&Url::parse("https://a.example/0.tar?signed=1").unwrap()).unwrap();
        check(&Url::parse("https://93.184.215.14/0.tar").unwrap()).unwrap();
    }
}
