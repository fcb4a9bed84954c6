//! A resolver of our own: asks the machine's name servers, hundreds of names at a time, and knows
//! how long an answer holds.
//!
//! It speaks with the recursive servers of `/etc/resolv.conf` as the C library would, over UDP from
//! a port and with a number of its own for each question, over TCP where an answer is too long.
//! Names of `/etc/hosts` are taken from there. What else `nsswitch.conf` may name (mDNS, LDAP) is
//! not asked, and `search` domains are not tried: the names of a crawl are whole. Where that is
//! wanted, `resolver: system` asks the operating system instead, as do machines without name
//! servers in that file.
//!
//! The crate hickory-resolver was weighed. It is ten more crates, and turns on a feature of
//! once_cell under which arrow, DataFusion and candle are built a second way; of what it can do, a
//! crawler behind a recursive server needs this much.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Socket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Family, PAYLOAD, Says, answer, question};
use super::{Answer, Found, Lookup};

/// How long one server may take for one answer, where `resolv.conf` does not say.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often every server is asked, where it does not say.
const ROUNDS: usize = 2;
/// Name servers that are read, as in the C library.
const SERVERS: usize = 3;
/// Largest answer over TCP that is read: a thousand addresses. Of more than a few nothing is used.
const LONGEST: u16 = 16 << 10;
/// Bytes of a file of settings, at most.
const FILE: u64 = 8 << 20;

/// Asks name servers.
#[derive(Debug, Clone)]
pub struct OwnDns(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    servers: Vec<SocketAddr>,
    patience: Duration,
    rounds: usize,
    hosts: HashMap<String, Vec<IpAddr>>,
    families: Vec<Family>,
    /// Makes the numbers of questions.
    random: RandomState,
}

impl OwnDns {
    /// With what `/etc/resolv.conf` and `/etc/hosts` say; none where no name server is named there.
    #[must_use]
    pub fn of_system() -> Option<Self> {
        let read = |path: &str| -> Option<String> {
            let file = std::fs::File::open(path).ok()?;
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, FILE), &mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let resolv = Resolv::parse(&read("/etc/resolv.conf")?);
        let hosts = hosts(&read("/etc/hosts").unwrap_or_default());
        (!resolv.servers.is_empty()).then(|| Self::new(resolv, hosts, families()))
    }

    /// Asks these servers and nobody else; for tests and for machines with servers of their own.
    #[must_use]
    pub fn of_servers(servers: &[SocketAddr]) -> Self {
        let resolv = Resolv { servers: servers.to_vec(), ..Resolv::default() };
        Self::new(resolv, HashMap::new(), vec![Family::V4, Family::V6])
    }

    fn new(resolv: Resolv, hosts: HashMap<String, Vec<IpAddr>>, families: Vec<Family>) -> Self {
        let Resolv { servers, patience, rounds } = resolv;
        let random = RandomState::new();
        Self(Arc::new(Settings { servers, patience, rounds, hosts, families, random }))
    }
}

impl Lookup for OwnDns {
    fn lookup(&self, host: &str) -> Answer {
        let (host, settings) = (host.to_ascii_lowercase(), Arc::clone(&self.0));
        Box::pin(async move { settings.lookup(&host).await })
    }

    /// Each has a socket, and nothing else.
    fn at_once(&self) -> usize {
        256
    }
}

impl Settings {
    async fn lookup(&self, host: &str) -> io::Result<Found> {
        let name = host.trim_end_matches('.');
        if let Some(addresses) = self.hosts.get(name) {
            return Ok(Found { addresses: addresses.clone(), holds: None });
        }
        // RFC 6761: never a question for a server.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(Found { addresses: vec![Ipv4Addr::LOCALHOST.into()], holds: None });
        }
        let asks = self.families.iter().map(|family| self.ask(name, *family));
        let answers = futures::future::join_all(asks).await;
        let mut found = Found { addresses: Vec::new(), holds: None };
        let (mut negative, mut trouble, mut answered) = (None, None, false);
        for answer in answers {
            match answer {
                Ok(Says::Addresses(addresses, holds)) => {
                    found.addresses.extend(addresses);
                    found.holds = Some(found.holds.map_or(holds, |so_far| so_far.min(holds)));
                    answered = true;
                }
                Ok(Says::Nothing(holds)) => {
                    negative = holds;
                    answered = true;
                }
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            // Of two families one may be out of reach for a server's bug.
            Some(error) if found.addresses.is_empty() => return Err(error),
            _ if !answered => return Err(io::Error::other("no name server gave an answer")),
            _ => {}
        }
        if found.addresses.is_empty() {
            found.holds = negative;
        }
        Ok(found)
    }

    /// Asks one server after the other, round by round, until one knows.
    async fn ask(&self, host: &str, family: Family) -> io::Result<Says> {
        let mut trouble = None;
        for _ in 0..self.rounds {
            for server in &self.servers {
                match timeout(self.patience, self.ask_one(*server, host, family)).await {
                    Ok(Ok(says @ (Says::Addresses(..) | Says::Nothing(_)))) => return Ok(says),
                    Ok(Ok(_)) | Err(_) => {}
                    Ok(Err(error)) => trouble = Some(error),
                }
            }
        }
        Err(trouble.unwrap_or_else(|| io::Error::other("no name server gave an answer")))
    }

    async fn ask_one(&self, server: SocketAddr, host: &str, family: Family) -> io::Result<Says> {
        let mut says = self.over_udp(server, host, family, true).await?;
        if says == Says::BadFormat {
            says = self.over_udp(server, host, family, false).await?;
        }
        if says == Says::Truncated {
            says = self.over_tcp(server, host, family).await?;
        }
        Ok(says)
    }

    async fn over_udp(
        &self,
        server: SocketAddr,
        host: &str,
        family: Family,
        extended: bool,
    ) -> io::Result<Says> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A port of its own, which the kernel draws; connected, so that it lets nobody else answer.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        let id = self.number(socket.local_addr()?.port(), host);
        let asked = question(id, host, family, extended).ok_or_else(no_name)?;
        socket.send(&asked).await?;
        let mut bytes = [0; PAYLOAD];
        loop {
            let length = socket.recv(&mut bytes).await?;
            // What is no answer to this question is forged or late; the true one may follow.
            if let Some(says) = answer(&bytes[..length], id, host, family) {
                return Ok(says);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, host: &str, family: Family) -> io::Result<Says> {
        let mut stream = TcpStream::connect(server).await?;
        let id = self.number(stream.local_addr()?.port(), host);
        let asked = question(id, host, family, false).ok_or_else(no_name)?;
        let length = u16::try_from(asked.len()).map_err(|_| no_name())?;
        stream.write_all(&[&length.to_be_bytes()[..], &asked].concat()).await?;
        let length = stream.read_u16().await?;
        if length > LONGEST {
            return Err(io::Error::other(format!("a name server's answer has {length} bytes")));
        }
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await?;
        let says = answer(&bytes, id, host, family).filter(|says| *says != Says::Truncated);
        says.ok_or_else(|| io::Error::other("a name server's answer cannot be read"))
    }

    /// Sixteen bits that nobody else can know: SipHash under a key that the process drew.
    fn number(&self, port: u16, host: &str) -> u16 {
        self.random.hash_one((port, host, std::time::Instant::now())) as u16
    }
}

fn no_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no name that the DNS can carry")
}

/// The families that this machine has a way out for: nothing is sent to find out.
fn families() -> Vec<Family> {
    let reaches = |from: IpAddr, to: IpAddr| {
        Socket::bind((from, 0)).and_then(|socket| socket.connect((to, 53))).is_ok()
    };
    let google = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
    let v4 = reaches(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(8, 8, 8, 8).into());
    let v6 = reaches(Ipv6Addr::UNSPECIFIED.into(), google.into());
    match (v4, v6) {
        (true, false) => vec![Family::V4],
        (false, true) => vec![Family::V6],
        _ => vec![Family::V4, Family::V6],
    }
}

/// What of resolv.conf(5) is obeyed.
#[derive(Debug, PartialEq)]
struct Resolv {
    servers: Vec<SocketAddr>,
    patience: Duration,
    rounds: usize,
}

impl Default for Resolv {
    fn default() -> Self {
        Self { servers: Vec::new(), patience: PATIENCE, rounds: ROUNDS }
    }
}

impl Resolv {
    /// `nameserver`, and of `options` `timeout` and `attempts`.
    fn parse(text: &str) -> Self {
        let mut resolv = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if resolv.servers.len() < SERVERS => {
                    // An address with a zone is of this link alone, and is passed over.
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolv.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("options") => words.for_each(|word| {
                    let number = |name| word.strip_prefix(name)?.parse::<u64>().ok();
                    if let Some(seconds) = number("timeout:") {
                        resolv.patience = Duration::from_secs(seconds.clamp(1, 30));
                    }
                    if let Some(rounds) = number("attempts:") {
                        resolv.rounds = rounds.clamp(1, 5) as usize;
                    }
                }),
                _ => {}
            }
        }
        resolv
    }
}

/// Names of hosts(5), in lower case.
fn hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            hosts.entry(name).or_default().push(address);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::super::message::tests::{name, reply};
    use super::*;

    /// A name server on loopback, over UDP and TCP on one port: `a.example` has an address,
    /// `long.example` one that only TCP tells, `old.example` none for who sends an extension,
    /// `sick.example` is trouble, `silent.example` gets no answer; others are not there.
    struct NameServer {
        address: SocketAddr,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl NameServer {
        fn start() -> Self {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = Socket::bind(address).unwrap();
            let asked = Arc::<Mutex<Vec<String>>>::default();
            let log = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut bytes = [0; 1500];
                while let Ok((length, from)) = udp.recv_from(&mut bytes) {
                    let host = Self::host(&bytes[..length]);
                    log.lock().unwrap().push(host.clone());
                    // Somebody else's guess comes first.
                    let mut forged = reply(&bytes[..length], 0x8180, &[], 0);
                    forged[0] ^= 1;
                    udp.send_to(&forged, from).unwrap();
                    if let Some(reply) = Self::reply(&host, &bytes[..length], true) {
                        udp.send_to(&reply, from).unwrap();
                    }
                }
            });
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().map_while(Result::ok) {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut bytes).unwrap();
                    let reply = Self::reply(&Self::host(&bytes), &bytes, false).unwrap();
                    stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                    stream.write_all(&reply).unwrap();
                }
            });
            Self { address, asked }
        }

        fn host(question: &[u8]) -> String {
            let (mut at, mut host) = (12, String::new());
            while question[at] != 0 {
                let end = at + 1 + usize::from(question[at]);
                host.push_str(&String::from_utf8_lossy(&question[at + 1..end]));
                host.push('.');
                at = end;
            }
            host
        }

        fn reply(host: &str, question: &[u8], udp: bool) -> Option<Vec<u8>> {
            let extended = question[11] == 1;
            let v6 = question[12 + name(host).len() + 1] == 28;
            let mut soa = [name("ns."), name("mail."), vec![0; 16]].concat();
            soa.extend(77_u32.to_be_bytes());
            let none = [("example", 6, 900, soa)];
            let v4 = |address: [u8; 4]| [(host, 1, 120, address.to_vec())];
            Some(match host {
                "silent.example." => return None,
                "sick.example." => reply(question, 0x8182, &[], 0),
                "old.example." if extended => reply(question, 0x8181, &[], 0),
                "long.example." | "crowd.example." | "flood.example." if udp => {
                    reply(question, 0x8380, &[], 0)
                }
                "crowd.example." | "flood.example." if v6 => reply(question, 0x8180, &none, 1),
                "crowd.example." | "flood.example." => {
                    let count = if host.starts_with('c') { 100 } else { 2000 };
                    let all: Vec<_> = (0..count)
                        .map(|i: u16| (host, 1, 120, vec![8, 8, (i >> 8) as u8, i as u8]))
                        .collect();
                    reply(question, 0x8180, &all, 0)
                }
                "a.example." | "old.example." | "long.example." if v6 => {
                    reply(question, 0x8180, &none, 1)
                }
                "a.example." => reply(question, 0x8180, &v4([8, 8, 8, 8]), 0),
                "old.example." => reply(question, 0x8180, &v4([8, 8, 8, 9]), 0),
                "long.example." => reply(question, 0x8180, &v4([8, 8, 4, 4]), 0),
                _ => reply(question, 0x8183, &none, 1),
            })
        }
    }

    fn ask(dns: &OwnDns, host: &str) -> io::Result<Found> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(dns.lookup(host))
    }

    fn quick(servers: Vec<SocketAddr>) -> OwnDns {
        let patience = Duration::from_millis(200);
        let resolv = Resolv { servers, patience, rounds: 2 };
        let hosts = hosts("10.1.2.3 box box.lan # here\n::1 box");
        OwnDns::new(resolv, hosts, vec![Family::V4, Family::V6])
    }

    #[test]
    fn an_answer_has_addresses_and_says_how_long_they_hold() {
        let server = NameServer::start();
        let dns = OwnDns::of_servers(&[server.address]);
        let found = ask(&dns, "A.example").unwrap();
        let addresses: Vec<IpAddr> = vec!["8.8.8.8".parse().unwrap()];
        assert_eq!(found, Found { addresses, holds: Some(Duration::from_mins(2)) });
        assert_eq!(*server.asked.lock().unwrap(), ["a.example.", "a.example."]);
    }

    #[test]
    fn long_answers_come_over_tcp_and_old_servers_are_asked_without_extension() {
        let dns = OwnDns::of_servers(&[NameServer::start().address]);
        assert_eq!(ask(&dns, "long.example").unwrap().addresses[0].to_string(), "8.8.4.4");
        assert_eq!(ask(&dns, "old.example").unwrap().addresses[0].to_string(), "8.8.8.9");
    }

    #[test]
    fn of_a_crowd_of_addresses_the_first_sixteen_are_taken_and_a_flood_is_refused() {
        let dns = OwnDns::of_servers(&[NameServer::start().address]);
        let addresses = ask(&dns, "crowd.example").unwrap().addresses;
        assert_eq!((addresses.len(), addresses[15].to_string()), (16, "8.8.0.15".to_owned()));
        let error = ask(&dns, "flood.example").unwrap_err().to_string();
        assert!(error.starts_with("a name server's answer has ") && error.len() < 60, "{error}");
    }

    #[test]
    fn a_name_that_is_not_there_is_known_not_to_be_for_as_long_as_its_zone_says() {
        let dns = OwnDns::of_servers(&[NameServer::start().address]);
        let found = ask(&dns, "nowhere.example").unwrap();
        assert_eq!(found, Found { addresses: Vec::new(), holds: Some(Duration::from_secs(77)) });
    }

    #[test]
    fn the_next_server_is_asked_where_one_is_silent_or_sick_and_an_error_is_none_for_ever() {
        let server = NameServer::start();
        let mute = Socket::bind("127.0.0.1:0").unwrap();
        let dns = quick(vec![mute.local_addr().unwrap(), server.address]);
        assert_eq!(ask(&dns, "a.example").unwrap().addresses.len(), 1);
        for host in ["sick.example", "silent.example"] {
            let began = std::time::Instant::now();
            assert!(ask(&dns, host).is_err(), "{host}");
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        assert!(ask(&quick(vec![]), "a.example").is_err());
    }

    #[test]
    fn names_of_the_hosts_file_and_localhost_are_no_question() {
        let server = NameServer::start();
        let dns = quick(vec![server.address]);
        assert_eq!(ask(&dns, "BOX.lan.").unwrap().addresses[0].to_string(), "10.1.2.3");
        assert_eq!(ask(&dns, "box").unwrap().addresses.len(), 2);
        assert!(ask(&dns, "x.localhost").unwrap().addresses[0].is_loopback());
        assert!(server.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn resolv_conf_names_servers_and_times() {
        let text = "# a comment\nsearch lan\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::53 ; the second\noptions ndots:5 timeout:2 attempts:99\n";
        let resolv = Resolv::parse(text);
        let servers: Vec<String> = resolv.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.53:53", "[2001:db8::53]:53"]);
        assert_eq!((resolv.patience, resolv.rounds), (Duration::from_secs(2), 5));
        assert_eq!(Resolv::parse(""), Resolv::default());
    }
}
