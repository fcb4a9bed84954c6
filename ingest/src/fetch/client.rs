//! The HTTP client, with everything off that follows, remembers or unpacks by itself.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder};
use stage::{Result, ResultExt};

use super::dns::Vetted;
use super::plan::seconds;
use super::{FetchPlan, Reason};

/// How long an idle connection is kept for the next request to the same host.
const IDLE: Duration = Duration::from_secs(5);

/// A client for one unit.
///
/// `idle` is how many connections to one host are kept for the next request.
pub(super) fn build(plan: &FetchPlan, idle: u32, resolver: &Arc<Vetted>) -> Result<Client> {
    // A default provider is a property of the process; where the program has chosen one, it stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _raced = rustls::crypto::ring::default_provider().install_default();
    }
    match builder(plan, idle, resolver).build() {
        Ok(client) => Ok(client),
        Err(error) => {
            // A machine without certificates can still fetch what needs none, such as a replay.
            tracing::warn!(%error, "no system certificates; https will fail");
            builder(plan, idle, resolver)
                .tls_certs_only([])
                .build()
                .internal("cannot build an HTTP client")
        }
    }
}

fn builder(plan: &FetchPlan, idle: u32, resolver: &Arc<Vetted>) -> ClientBuilder {
    let mut headers = HeaderMap::new();
    // Naming what we can decode keeps sites that negotiate from sending AVIF.
    headers.insert(
        ACCEPT,
        HeaderValue::from_static("image/jpeg, image/png, image/webp, image/gif, */*;q=0.1"),
    );
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Client::builder()
        .user_agent(plan.user_agent())
        .default_headers(headers)
        .dns_resolver(Arc::clone(resolver))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .http1_ignore_invalid_headers_in_responses(true)
        .connect_timeout(seconds(plan.connect_timeout))
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle as usize)
        .tcp_nodelay(true)
}

/// Says in our words what went wrong while asking.
pub(super) fn reason(error: &reqwest::Error) -> Reason {
    let mut tls = false;
    let mut closed = false;
    let https = error.url().is_some_and(|url| url.scheme() == "https");
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            let io = innermost(io);
            if let Some(reason) = shortage(io) {
                return reason;
            }
            match () {
                // Connected, and then lost before the request: in https, that was the handshake.
                () if error.is_connect() => tls |= https && lost(io.kind()),
                () if io.kind() == io::ErrorKind::UnexpectedEof => return Reason::ShortBody,
                () if io.get_ref().is_none() => return Reason::Reset, // from the system itself
                () => {}
            }
            tls |= matches!(io.get_ref(), Some(inner) if inner.is::<rustls::Error>());
        }
        tls |= cause.is::<rustls::Error>();
        // hyper's type is not ours to name; "connection closed before message completed".
        closed |= cause.to_string().contains("connection closed");
        source = cause.source();
    }
    match () {
        () if error.is_connect() && error.is_timeout() => Reason::TimeoutConnect,
        () if tls => Reason::Tls,
        () if error.is_connect() => Reason::Connect,
        () if error.is_timeout() => Reason::TimeoutRead,
        () if closed => Reason::Reset,
        () => Reason::BadResponse,
    }
}

/// What this machine has too little of, if that is what went wrong.
pub(super) fn shortage(error: &io::Error) -> Option<Reason> {
    match innermost(error).raw_os_error()? {
        23 | 24 => Some(Reason::OpenFiles),        // ENFILE, EMFILE
        12 | 99 | 105 => Some(Reason::LocalPorts), // ENOMEM, EADDRNOTAVAIL, ENOBUFS
        _ => None,
    }
}

/// An I/O error inside I/O errors: each layer of the connector wraps the one below.
fn innermost(error: &io::Error) -> &io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    inner.map_or(error, innermost)
}

fn lost(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
