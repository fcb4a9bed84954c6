//! Names to addresses: looked up once in a while, vetted, and dialled as vetted.
//!
//! A client that looks a name up again when it connects can be given a public address for the
//! check and a private one for the connection. Here the HTTP client never asks the network: its
//! resolver only repeats what was vetted. Addresses that are written into the URL pass it by
//! (hyper dials them at once), so [`super::policy`] vets those.
//!
//! Who is asked is the operating system, 64 names at a time; answers are kept for five minutes, the
//! lack of one for a minute, from unit to unit. A resolver of our own (hickory-resolver 0.26 was
//! weighed: ten crates more, all of Rust) would know how long an answer holds and ask thousands of
//! names at a time; it is not here yet. A machine that runs a caching resolver loses little by
//! that. [`Lookup`] lets a program bring any other.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

use super::policy::{Target, may_dial};
use super::{FetchPlan, Reason, client};

/// Answers of [`Lookup::lookup`].
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Something that knows the addresses of names.
pub trait Lookup: Send + Sync {
    /// All addresses of `host`, in the order in which to try them.
    fn lookup(&self, host: &str) -> Answer;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemDns;

impl Lookup for SystemDns {
    fn lookup(&self, host: &str) -> Answer {
        let host = host.to_owned();
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// The first address of a name that may be dialled; set once.
type Verdict = Arc<OnceCell<Result<IpAddr, Reason>>>;

/// How long an answer holds. The operating system does not say how long its answers do; five
/// minutes are what most names of content networks and pools live at least.
const FRESH: Duration = Duration::from_mins(5);
/// How long the lack of an answer holds.
const MISSING: Duration = Duration::from_mins(1);
/// Names after which those that are no longer fresh are forgotten.
const TIDY: usize = 1 << 17;

/// A name that was looked up.
struct Known {
    born: Clock,
    verdict: Verdict,
}

impl Known {
    fn is_fresh(&self) -> bool {
        let limit = match self.verdict.get() {
            Some(Err(reason)) if reason.is_own_shortage() => Duration::ZERO,
            Some(Err(_)) => MISSING,
            _ => FRESH,
        };
        self.born.elapsed() < limit
    }
}

/// Lookups at a time: a resolver that is asked thousands of names at once drops most.
const LOOKUPS: usize = 64;

/// The names that a fetcher has met.
pub(super) struct Addresses {
    lookup: Arc<dyn Lookup>,
    plan: Arc<FetchPlan>,
    patience: Duration,
    turn: Semaphore,
    known: Mutex<HashMap<String, Known>>,
    vetted: Arc<Vetted>,
}

impl Addresses {
    pub(super) fn new(lookup: Arc<dyn Lookup>, plan: Arc<FetchPlan>) -> Self {
        Self {
            lookup,
            patience: super::plan::seconds(plan.connect_timeout),
            plan,
            turn: Semaphore::new(LOOKUPS),
            known: Mutex::default(),
            vetted: Arc::default(),
        }
    }

    /// What the HTTP client is given as its resolver.
    pub(super) fn resolver(&self) -> Arc<Vetted> {
        Arc::clone(&self.vetted)
    }

    /// Makes sure that the target may be dialled, and gives the URL to ask the client for and the
    /// address that is dialled first, if the DNS or the URL says it.
    pub(super) async fn admit(
        &self,
        target: &Target,
        dial: Option<SocketAddr>,
    ) -> Result<(Url, Option<IpAddr>), Reason> {
        if let Some(address) = dial {
            return Ok((self.admit_dialled(target, address)?, None));
        }
        let address = match target.literal {
            Some(address) => address,
            None => {
                let verdict = self.verdict(&target.host);
                (*verdict.get_or_init(|| self.resolve(&target.host)).await)?
            }
        };
        Ok((target.url.clone(), Some(address)))
    }

    fn verdict(&self, host: &str) -> Verdict {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(host).filter(|known| known.is_fresh()) {
            return Arc::clone(&known.verdict);
        }
        if known.len() >= TIDY {
            known.retain(|_, known| known.is_fresh());
            self.vetted.retain(|host| known.contains_key(host));
        }
        let verdict = Verdict::default();
        known.insert(host.to_owned(), Known { born: Clock::now(), verdict: Arc::clone(&verdict) });
        verdict
    }

    /// A name of our own for the address, in plain http. hyper would dial a literal address or an
    /// explicit port of the URL, whatever the resolver says; and with one name an address, hosts
    /// share connections.
    fn admit_dialled(&self, target: &Target, address: SocketAddr) -> Result<Url, Reason> {
        let name = address.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let name = format!("d{name}.dial.invalid");
        let mut url = target.url.clone();
        let changed = url.set_scheme("http").is_ok()
            && url.set_port(None).is_ok()
            && url.set_host(Some(&name)).is_ok();
        self.vetted.put(&name, vec![address]);
        if changed { Ok(url) } else { Err(Reason::BadUrl) }
    }

    async fn resolve(&self, host: &str) -> Result<IpAddr, Reason> {
        let Ok(_turn) = self.turn.acquire().await else { return Err(Reason::Dns) };
        let answer = tokio::time::timeout(self.patience, self.lookup.lookup(host)).await;
        let addresses = match answer {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(client::shortage(&error).unwrap_or(Reason::Dns)),
            Err(_) => return Err(Reason::Dns),
        };
        if addresses.is_empty() {
            return Err(Reason::Dns);
        }
        let good: Vec<SocketAddr> = addresses
            .into_iter()
            .filter(|address| may_dial(host, *address, &self.plan))
            // Port 0: the client puts the URL's.
            .map(|address| SocketAddr::new(address, 0))
            .collect();
        let Some(first) = good.first().map(SocketAddr::ip) else {
            return Err(Reason::PrivateAddress);
        };
        self.vetted.put(host, good);
        Ok(first)
    }
}

/// The resolver of the HTTP client: repeats vetted addresses and knows nothing else.
#[derive(Debug, Default)]
pub(super) struct Vetted(Mutex<HashMap<String, Vec<SocketAddr>>>);

impl Vetted {
    fn put(&self, host: &str, addresses: Vec<SocketAddr>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(host.to_owned(), addresses);
    }

    fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|host, _| host.ends_with(".invalid") || keep(host));
    }
}

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match table.get(&host) {
            Some(addresses) => Ok(Box::new(addresses.clone().into_iter()) as Addrs),
            None => Err(format!("{host} was not vetted").into()),
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one answer after the other, then the last for ever.
    struct Changing(Mutex<Vec<Vec<&'static str>>>);

    impl Lookup for Changing {
        fn lookup(&self, _host: &str) -> Answer {
            let mut answers = self.0.lock().unwrap();
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            let addresses = answer.iter().map(|a| a.parse().unwrap()).collect();
            Box::pin(std::future::ready(Ok(addresses)))
        }
    }

    fn run(answers: &[&[&'static str]]) -> (Result<Url, Reason>, Vec<String>) {
        let lookup = Changing(Mutex::new(answers.iter().map(|a| a.to_vec()).collect()));
        let plan = Arc::new(FetchPlan::default());
        let addresses = Addresses::new(Arc::new(lookup), Arc::clone(&plan));
        let target = Target::parse("https://a.example:8443/x", &plan).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = addresses.admit(&target, None).await.map(|(url, _)| url);
            let _second = addresses.admit(&target, None).await;
            let dialled = addresses.resolver().resolve("A.Example.".parse().unwrap()).await;
            (first, dialled.map(|a| a.map(|a| a.to_string()).collect()).unwrap_or_default())
        })
    }

    #[test]
    fn of_mixed_answers_only_the_public_addresses_are_dialled() {
        let (url, dialled) = run(&[&["10.0.0.1", "8.8.8.8", "169.254.169.254"]]);
        assert_eq!(url.unwrap().as_str(), "https://a.example:8443/x");
        assert_eq!(dialled, ["8.8.8.8:0"]);
    }

    #[test]
    fn a_name_with_private_addresses_only_is_refused_and_never_dialled() {
        let (url, dialled) = run(&[&["127.0.0.1", "::1"]]);
        assert_eq!(url.unwrap_err(), Reason::PrivateAddress);
        assert!(dialled.is_empty());
    }

    #[test]
    fn a_second_answer_cannot_replace_the_vetted_one() {
        let (url, dialled) = run(&[&["8.8.8.8"], &["127.0.0.1"]]);
        assert!(url.is_ok());
        assert_eq!(dialled, ["8.8.8.8:0"]);
    }

    #[test]
    fn a_name_without_an_address_is_a_dns_failure() {
        assert_eq!(run(&[&[]]).0.unwrap_err(), Reason::Dns);
    }

    #[test]
    fn a_dialled_host_is_asked_in_plain_http_by_a_name_of_our_own() {
        let plan = Arc::new(FetchPlan::default());
        let addresses = Addresses::new(Arc::new(SystemDns), Arc::clone(&plan));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for url in ["https://a.example:8443/x?y", "http://8.8.8.8/x?y", "http://[2606::1]/x?y"] {
            let target = Target::parse(url, &plan).unwrap();
            let address = "127.0.0.1:4000".parse().unwrap();
            let asked = runtime.block_on(addresses.admit(&target, Some(address))).unwrap();
            assert_eq!(asked.1, None);
            assert_eq!(asked.0.as_str(), "http://d127-0-0-1-4000.dial.invalid/x?y");
        }
    }

    #[test]
    fn an_answer_is_asked_for_again_when_it_is_no_longer_fresh() {
        let known = |result: Result<IpAddr, Reason>, age: Duration| {
            let verdict = Verdict::default();
            verdict.set(result).unwrap();
            Known { born: Clock::now().checked_sub(age).unwrap(), verdict }.is_fresh()
        };
        let minutes = Duration::from_mins;
        let good = Ok("8.8.8.8".parse().unwrap());
        assert!(known(good, minutes(4)) && !known(good, minutes(6)));
        assert!(known(Err(Reason::Dns), Duration::ZERO) && !known(Err(Reason::Dns), minutes(2)));
        assert!(!known(Err(Reason::OpenFiles), Duration::ZERO));
    }

    #[test]
    fn localhost_of_the_operating_system_is_refused() {
        let plan = Arc::new(FetchPlan::default());
        let addresses = Addresses::new(Arc::new(SystemDns), Arc::clone(&plan));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for url in ["http://localhost/1.jpg", "http://LocalHost.:8080/1.jpg"] {
            let target = Target::parse(url, &plan).unwrap();
            let refused = runtime.block_on(addresses.admit(&target, None)).unwrap_err();
            assert_eq!(refused, Reason::PrivateAddress, "{url}");
        }
    }
}
