//! Names to addresses: looked up once in a while, vetted, and dialled as vetted.
//!
//! A client that looks a name up again when it connects can be given a public address for the
//! check and a private one for the connection. Here the HTTP client never asks the network: its
//! resolver only repeats what was vetted. Addresses that are written into the URL pass it by
//! (hyper dials them at once), so [`super::policy`] vets those.
//!
//! Who is asked is `stub`, a resolver of our own, or the operating system; [`Lookup`] lets a program
//! bring any other. Answers are kept from unit to unit for as long as they hold, but not for less
//! than half a minute (a crawl would ask for nothing else) nor for more than an hour, and for five
//! minutes where nobody says how long; the lack of one for ten seconds to five minutes. A name that
//! is looked up twice at once is asked for once.

mod message;
mod stub;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

use super::policy::{Target, may_dial};
use super::{FetchPlan, Reason, Resolver, client};

pub use stub::OwnDns;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order in which to try them; none where the name has none.
    pub addresses: Vec<IpAddr>,
    /// How long that holds, where somebody said it.
    pub holds: Option<Duration>,
}

impl From<Vec<IpAddr>> for Found {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, holds: None }
    }
}

/// Answers of [`Lookup::lookup`]: an error says that nobody could tell.
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Found>> + Send>>;

/// Something that knows the addresses of names.
pub trait Lookup: Send + Sync {
    /// All addresses of `host`.
    fn lookup(&self, host: &str) -> Answer;

    /// How many lookups it bears at a time. The operating system has a thread for each, and drops
    /// most of a thousand.
    fn at_once(&self) -> usize {
        64
    }
}

/// Who a plan wants to be asked. Where this machine names no server, the operating system is.
pub(super) fn lookup_of(plan: &FetchPlan) -> Arc<dyn Lookup> {
    match plan.resolver {
        Resolver::System => Arc::new(SystemDns),
        Resolver::Own => match OwnDns::of_system() {
            Some(own) => Arc::new(own),
            None => {
                tracing::info!("resolv.conf names no server: the system's resolver is asked");
                Arc::new(SystemDns)
            }
        },
    }
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemDns;

impl Lookup for SystemDns {
    fn lookup(&self, host: &str) -> Answer {
        let host = host.to_owned();
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(Found { addresses: addresses.map(|address| address.ip()).collect(), holds: None })
        })
    }
}

/// The first address of a name that may be dialled, and how long that holds; set once.
type Verdict = Arc<OnceCell<(Result<IpAddr, Reason>, Duration)>>;

/// How long an answer holds where nobody says it: five minutes are what most names of content
/// networks and pools live at least.
const FRESH: Duration = Duration::from_mins(5);
/// How long it holds at least and at most, whatever it says.
const CLAMP: [Duration; 2] = [Duration::from_secs(30), Duration::from_hours(1)];
/// The same for a name without addresses, and for one of which nobody could tell.
const MISSING: Duration = Duration::from_mins(1);
const MISSING_CLAMP: [Duration; 2] = [Duration::from_secs(10), Duration::from_mins(5)];
/// Names after which some are forgotten.
const TIDY: usize = 1 << 17;

/// A name that was looked up.
struct Known {
    born: Clock,
    verdict: Verdict,
}

impl Known {
    fn is_fresh(&self) -> bool {
        // While it is being looked up it is as fresh as can be.
        self.verdict.get().is_none_or(|(_, holds)| self.born.elapsed() < *holds)
    }
}

/// Forgets the names that are no longer fresh, and where most are, all but those of the last
/// moments; says how many names there may be before the next time, so that a crawl of many sites
/// does not look through all of them for each.
fn forget(known: &mut HashMap<String, Known>) -> usize {
    known.retain(|_, known| known.is_fresh());
    if known.len() > TIDY / 2 {
        known.retain(|_, known| known.born.elapsed() < CLAMP[0]);
    }
    TIDY.max(2 * known.len())
}

/// The names that a fetcher has met.
pub(super) struct Addresses {
    lookup: Arc<dyn Lookup>,
    plan: Arc<FetchPlan>,
    patience: Duration,
    turn: Semaphore,
    known: Mutex<HashMap<String, Known>>,
    /// How many names there may be before some are forgotten.
    most: AtomicUsize,
    vetted: Arc<Vetted>,
}

impl Addresses {
    pub(super) fn new(lookup: Arc<dyn Lookup>, plan: Arc<FetchPlan>) -> Self {
        Self {
            patience: super::plan::seconds(plan.connect_timeout),
            plan,
            turn: Semaphore::new(lookup.at_once()),
            lookup,
            known: Mutex::default(),
            most: AtomicUsize::new(TIDY),
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
                verdict.get_or_init(|| self.resolve(&target.host)).await.0?
            }
        };
        Ok((target.url.clone(), Some(address)))
    }

    fn verdict(&self, host: &str) -> Verdict {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(host).filter(|known| known.is_fresh()) {
            return Arc::clone(&known.verdict);
        }
        if known.len() >= self.most.load(Ordering::Relaxed) {
            self.most.store(forget(&mut known), Ordering::Relaxed);
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

    async fn resolve(&self, host: &str) -> (Result<IpAddr, Reason>, Duration) {
        let Ok(_turn) = self.turn.acquire().await else { return (Err(Reason::Dns), MISSING) };
        let answer = tokio::time::timeout(self.patience, self.lookup.lookup(host)).await;
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let shortage = client::shortage(&error).map(|reason| (Err(reason), Duration::ZERO));
                return shortage.unwrap_or((Err(Reason::Dns), MISSING));
            }
            Err(_) => return (Err(Reason::Dns), MISSING),
        };
        if found.addresses.is_empty() {
            let [least, most] = MISSING_CLAMP;
            return (Err(Reason::Dns), found.holds.unwrap_or(MISSING).clamp(least, most));
        }
        let [least, most] = CLAMP;
        let holds = found.holds.unwrap_or(FRESH).clamp(least, most);
        (self.vet(host, &found.addresses), holds)
    }

    /// Lets the client dial those addresses of a name that may be dialled, and gives the first.
    fn vet(&self, host: &str, addresses: &[IpAddr]) -> Result<IpAddr, Reason> {
        let good: Vec<SocketAddr> = addresses
            .iter()
            .copied()
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
            Box::pin(std::future::ready(Ok(Found { addresses, holds: None })))
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
        let known = |holds: Duration, age: Duration| {
            let verdict = Verdict::default();
            verdict.set((Err(Reason::Dns), holds)).unwrap();
            Known { born: Clock::now().checked_sub(age).unwrap(), verdict }.is_fresh()
        };
        let minutes = Duration::from_mins;
        assert!(known(minutes(5), minutes(4)) && !known(minutes(5), minutes(6)));
        assert!(!known(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn of_too_many_fresh_names_those_of_the_last_moments_are_kept() {
        let known = |count: usize, age: u64| -> HashMap<String, Known> {
            let born = Clock::now().checked_sub(Duration::from_secs(age)).unwrap();
            let one = |i: usize| {
                let verdict = Verdict::default();
                verdict.set((Err(Reason::Dns), Duration::from_mins(5))).unwrap();
                (format!("{i}.example"), Known { born, verdict })
            };
            (0..count).map(one).collect()
        };
        let after = |mut known: HashMap<String, Known>| (forget(&mut known), known.len());
        assert_eq!(after(known(10, 60)), (TIDY, 10));
        assert_eq!(after(known(10, 301)), (TIDY, 0));
        assert_eq!(after(known(TIDY, 60)), (TIDY, 0));
        assert_eq!(after(known(TIDY, 1)), (2 * TIDY, TIDY));
    }

    /// Says so many seconds, or fails.
    struct Holding(io::Result<(bool, Option<u64>)>);

    impl Lookup for Holding {
        fn lookup(&self, _host: &str) -> Answer {
            let found = self.0.as_ref().map(|(there, holds)| Found {
                addresses: there.then(|| "8.8.8.8".parse().unwrap()).into_iter().collect(),
                holds: holds.map(Duration::from_secs),
            });
            let error = |error: &io::Error| match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::from(error.kind()),
            };
            Box::pin(std::future::ready(found.map_err(error)))
        }
    }

    #[test]
    fn how_long_an_answer_holds_is_its_own_word_within_bounds() {
        let holds = |answer: io::Result<(bool, Option<u64>)>| {
            let addresses =
                Addresses::new(Arc::new(Holding(answer)), Arc::new(FetchPlan::default()));
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().unwrap();
            runtime.block_on(addresses.resolve("a.example")).1.as_secs()
        };
        let of = |there, said| holds(Ok((there, said)));
        assert_eq!([of(true, Some(0)), of(true, Some(90)), of(true, Some(86_400))], [30, 90, 3600]);
        assert_eq!(of(true, None), 300);
        assert_eq!([of(false, Some(1)), of(false, Some(90)), of(false, Some(900))], [10, 90, 300]);
        assert_eq!([of(false, None), holds(Err(io::ErrorKind::Other.into()))], [60, 60]);
        let emfile = io::Error::from_raw_os_error(24);
        assert_eq!(holds(Err(emfile)), 0);
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
