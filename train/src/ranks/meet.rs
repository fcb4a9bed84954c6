//! How ranks find each other: rank 0 listens, the others come and say who they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stage::{Cancel, Error, Result, ResultExt};

use super::door::{Door, Greeting};
use super::environment::Seat;
use super::frame::{self, Frame, broken};
use super::link::Link;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until all ranks have come.
    pub join: Duration,
    /// For a sign of life of another rank.
    pub silence: Duration,
}

impl Default for Patience {
    /// Ten minutes to come, a minute of silence.
    fn default() -> Self {
        Self { join: Duration::from_mins(10), silence: Duration::from_mins(1) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    magic: String,
    version: String,
    rank: usize,
    size: usize,
    job: String,
    process: u32,
}

const MAGIC: &str = "clipmill ranks 1";

impl Hello {
    fn of(seat: &Seat) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rank: seat.rank,
            size: seat.size,
            job: seat.job.clone(),
            process: std::process::id(),
        }
    }
}

/// Rank 0: waits for all others.
pub(super) fn listen(
    seat: &Seat,
    patience: Patience,
    until: Instant,
    cancel: &Cancel,
) -> Result<Vec<Link>> {
    let place = format!("{}:{}", seat.address, seat.port);
    let listener = bind(seat).map_err(|cause| {
        Error::network("rank 0 cannot listen")
            .because(cause)
            .at(&place)
            .hint("choose a free MASTER_PORT")
    })?;
    let mut door = Door::open(listener).kind(stage::Kind::Network, "cannot listen")?;
    let mut links: Vec<Option<Link>> = (1..seat.size).map(|_| None).collect();
    while links.iter().any(Option::is_none) {
        cancel.check()?;
        if Instant::now() > until {
            let error = missing(&links, seat, patience, door.strangers());
            for link in links.iter_mut().flatten() {
                link.end(Some(&error.to_string()));
            }
            return Err(error.at(&place).hint("look at what these ranks said"));
        }
        let greetings = door.look();
        if greetings.is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        for greeting in greetings {
            // A rank of another training gets an answer.
            match greet(greeting, seat, patience, &links) {
                Ok((rank, link)) => links[rank - 1] = Some(link),
                Err(why) => {
                    tracing::warn!("a greeting is refused: {why}");
                    door.note_stranger();
                }
            }
        }
    }
    if door.strangers() > 0 {
        tracing::warn!("{} connections to {place} were no ranks'", door.strangers());
    }
    let mut links: Vec<Link> = links.into_iter().flatten().collect();
    for link in &mut links {
        link.welcome();
    }
    Ok(links)
}

/// Who did not come, and how many came instead.
fn missing(links: &[Option<Link>], seat: &Seat, patience: Patience, strangers: usize) -> Error {
    let missing: Vec<String> = links
        .iter()
        .enumerate()
        .filter(|(_, link)| link.is_none())
        .map(|(i, _)| (i + 1).to_string())
        .collect();
    let instead = match strangers {
        0 => String::new(),
        count => format!("; {count} connections were refused that were no rank's of this training"),
    };
    Error::network(format!(
        "rank {} of {} did not come within {} s{instead}",
        missing.join(", "),
        seat.size,
        patience.join.as_secs()
    ))
}

/// With a loopback address written out nobody else can come. On any other all interfaces listen, as
/// torch's store, whatever the address stands for here: a machine's own name is often a loopback
/// address to itself (Debian's `127.0.1.1 name`) and to nobody else.
fn bind(seat: &Seat) -> io::Result<TcpListener> {
    let address = seat.address.trim_start_matches('[').trim_end_matches(']');
    let loopback = address.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    if loopback || address.eq_ignore_ascii_case("localhost") {
        return TcpListener::bind((address, seat.port));
    }
    // On the first the old addresses come in too, where there are any of the new ones.
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, seat.port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, seat.port)))
}

/// How long a machine may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

fn greet(
    greeting: Greeting,
    seat: &Seat,
    patience: Patience,
    links: &[Option<Link>],
) -> io::Result<(usize, Link)> {
    let Greeting { mut stream, from, content: hello } = greeting;
    let hello: Hello = serde_json::from_slice(&hello).map_err(|_| broken("no greeting"))?;
    let ours = Hello::of(seat);
    let refusal = if hello.magic != ours.magic || hello.version != ours.version {
        Some(format!("rank 0 is clipmill {}, this rank {}", ours.version, hello.version))
    } else if hello.job != ours.job {
        Some(format!("rank 0 belongs to the job `{}`, this rank to `{}`", ours.job, hello.job))
    } else if hello.size != ours.size || !(1..ours.size).contains(&hello.rank) {
        Some(format!(
            "rank 0 counts {} ranks, this is rank {} of {}",
            ours.size, hello.rank, hello.size
        ))
    } else if links[hello.rank - 1].is_some() {
        Some(format!("there is already a rank {}", hello.rank))
    } else {
        None
    };
    if let Some(text) = refusal {
        frame::write(&mut stream, Frame::Abort, text.as_bytes())?;
        return Err(broken(&text));
    }
    let name = format!("rank {} ({from}, process {})", hello.rank, hello.process);
    Ok((hello.rank, Link::new(name, stream, patience)?))
}

/// Another rank: comes to rank 0, which may not be there yet.
pub(super) fn join(
    seat: &Seat,
    patience: Patience,
    until: Instant,
    cancel: &Cancel,
) -> Result<Link> {
    let place = format!("{}:{}", seat.address, seat.port);
    let mut last;
    loop {
        cancel.check()?;
        match connect(seat) {
            Ok(mut stream) => {
                let hello = serde_json::to_vec(&Hello::of(seat)).internal("greeting")?;
                let sent = frame::write(&mut stream, Frame::Hello, &hello);
                let link =
                    sent.and_then(|()| Link::new(format!("rank 0 ({place})"), stream, patience));
                let mut link = link.kind(stage::Kind::Network, "cannot greet rank 0")?;
                match link.welcomed(until, cancel) {
                    Ok(()) => return Ok(link),
                    Err(cause) => match link.told() {
                        Some(text) => {
                            return Err(Error::network("rank 0 refuses").because(text).at(place));
                        }
                        // Not ours, or it died: it may come again.
                        None => last = cause,
                    },
                }
            }
            Err(cause) => last = cause,
        }
        if Instant::now() > until {
            let seconds = patience.join.as_secs();
            return Err(Error::network(format!("rank 0 did not answer within {seconds} s"))
                .because(last)
                .at(place)
                .hint("look at what rank 0 said; MASTER_ADDR and MASTER_PORT must be its own"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn connect(seat: &Seat) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (seat.address.as_str(), seat.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}
