//! A fetcher that runs for long: memory, file handles and threads stay what they are.
//!
//! Twenty seconds in the tests; `bench/soak.sh` runs it for an hour (`CLIPMILL_SOAK_SECONDS`).

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ingest::DialMap;
use ingest::fetch::{FetchPlan, Fetcher};
use stage::{Context, Counts};

use crate::server::{Request, Server, chunk, head, ok, redirect, respond};
use crate::{impatient, jpeg, links};

/// URLs a unit.
const UNIT: usize = 1000;
/// Hosts of which every unit asks some; one in fifty URLs is of a host that was never met before.
const HOSTS: usize = 400;

/// Two thirds pictures, and everything wrong that a server can do without taking long.
fn hostile(request: &Request, stream: &mut TcpStream, picture: &[u8]) -> std::io::Result<()> {
    let number: usize = request.path[1..].parse().unwrap_or(0);
    match number % 36 {
        0 => respond(stream, "404 Not Found", "", b"no"),
        1 => respond(stream, "503 Service Unavailable", "Retry-After: 0\r\n", b""),
        2 => {
            head(stream, "Content-Length: 20000\r\n")?; // and half of it
            stream.write_all(&[0xff; 10_000])
        }
        3 => {
            head(stream, "Transfer-Encoding: chunked\r\n")?; // without end
            while chunk(stream, &[7; 8192]).is_ok() {}
            Ok(())
        }
        4 => redirect(stream, &request.path),
        5 => ok(stream, b"<!doctype html><title>not here</title>"),
        6 => ok(stream, &picture[..picture.len() / 2]),
        7 => {
            std::thread::sleep(Duration::from_millis(600)); // longer than anybody waits
            Ok(())
        }
        8 => respond(stream, "200 OK", "Content-Encoding: gzip\r\n", b"\x1f\x8b"),
        9 => stream.write_all(b"220 smtp.example ESMTP\r\n"),
        10 => respond(stream, "200 OK", &"X: y\r\n".repeat(150), picture),
        11 => respond(stream, "200 OK", "X-Robots-Tag: noai\r\n", picture),
        _ => ok(stream, picture),
    }
}

/// Resident bytes, open files and threads of this process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    resident: u64,
    files: usize,
    threads: usize,
}

impl Usage {
    fn now() -> Self {
        let count = |folder| std::fs::read_dir(folder).unwrap().count();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            resident: pages * 4096,
            files: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_and_file_handles_stay_the_same_over_many_thousands_of_hostile_urls() {
    let long = std::env::var("CLIPMILL_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(long.unwrap_or(20));
    let picture = jpeg(90);
    let server = Server::without_log(move |request, stream| hostile(request, stream, &picture));
    let plan = FetchPlan { thread_count: 128, min_success_rate: 0.0, ..impatient() };
    let dial = DialMap::everything_at(server.addr);
    let context = Context { threads: 2, ..Context::default() };
    let fetcher = Fetcher::new(&plan, &dial, &context).unwrap();
    let (began, mut all, mut seen) = (Instant::now(), Counts::default(), Vec::new());
    let mut said = Instant::now();
    for unit in 0.. {
        let urls: Vec<String> = (0..UNIT)
            .map(|i| match i % 50 {
                0 => format!("http://new-{unit}-{i}.example/{i}"),
                _ => format!("http://host-{}.example/{i}", (unit * 7 + i) % HOSTS),
            })
            .collect();
        let counts = fetcher.run_unit(&[links(&urls)], unit as u32, &mut |_| Ok(())).unwrap();
        counts.check().unwrap();
        all.merge(&counts);
        // The server's threads, not the fetcher's; long, for it may run beside everything else.
        let closed = server.closed_within(Duration::from_mins(2));
        assert!(closed, "connections outlive their unit");
        seen.push(Usage::now());
        if long.is_some() && said.elapsed() > Duration::from_mins(1) {
            said = Instant::now();
            let usage = Usage::now();
            eprintln!(
                "{:>5} s {:>9} URLs {:>6.1} MB {:>4} files {:>4} threads",
                began.elapsed().as_secs(),
                all.entered,
                usage.resident as f64 / 1e6,
                usage.files,
                usage.threads
            );
        }
        if began.elapsed() >= time {
            break;
        }
    }
    assert!(seen.len() >= 6, "only {} units in {time:?}", seen.len());
    for reason in ["http_404", "http_503", "short_body", "too_large", "redirect_loop"]
        .into_iter()
        .chain(["not_an_image", "truncated", "timeout_first_byte", "content_encoding"])
        .chain(["bad_response"])
    {
        assert!(all.failed.contains_key(reason), "{reason} did not happen: {all:?}");
    }
    assert!(all.kept * 10 > all.entered * 6, "{all:?}");
    // The first third fills pools and caches.
    let (warm, last) = (seen[seen.len() / 3], seen[seen.len() - 1]);
    eprintln!("{} URLs; a third: {warm:?}; the end: {last:?}", all.entered);
    assert!(last.files <= warm.files + 8, "{warm:?} {last:?}");
    assert!(last.threads <= warm.threads + 4, "{warm:?} {last:?}");
    assert!(last.resident <= warm.resident + (32 << 20), "{warm:?} {last:?}");
}
