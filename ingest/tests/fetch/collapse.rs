//! A network that is gone, and a machine that runs out of descriptors.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ingest::DialMap;
use ingest::fetch::{FetchPlan, Fetcher};
use stage::{Context, Kind};

use crate::server::{Server, ok, respond};
use crate::{impatient, jpeg, links, run};

#[test]
fn a_collapsed_success_rate_ends_the_unit_before_its_last_row() {
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/good" => ok(stream, &jpeg(1)),
        _ => respond(stream, "503 Service Unavailable", "", b""),
    });
    let plan = FetchPlan { alarm_window: 50, thread_count: 8, ..impatient() };
    let dial = DialMap::everything_at(server.addr);
    let fetcher = Fetcher::new(&plan, &dial, &Context::default()).unwrap();
    let mut urls: Vec<String> = (0..50).map(|i| format!("http://good{i}.example/good")).collect();
    assert_eq!(run(&fetcher, &[links(&urls)]).counts.kept, 50);
    urls.extend((0..500).map(|i| format!("http://bad{i}.example/bad")));
    let mut rows = 0;
    let error = fetcher
        .run_unit(&[links(&urls)], 0, &mut |pairs| {
            rows += pairs.len();
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    let text = error.to_string();
    assert!(text.starts_with("of the last 50 URLs only 2 gave a picture"), "{text}");
    assert!(text.contains("48 http_503"), "{text}");
    assert!(rows < 550, "{rows}");
    assert!(server.all_closed(), "a connection outlived the unit");
}

/// Address of the server for the test below, which runs in a process of its own.
const SERVER: &str = "CLIPMILL_TEST_FEW_FILES";

#[test]
fn no_descriptor_left_lowers_the_concurrency_and_fails_no_url() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(30));
        ok(stream, &jpeg(1))
    });
    let ended = Command::new("sh")
        .args(["-c", r#"ulimit -n 40 && exec "$0" --exact collapse::with_few_files --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .env(SERVER, server.addr.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && text.contains("200 kept"), "{text}");
    assert_eq!(server.log().len(), 200);
}

/// What [`no_descriptor_left_lowers_the_concurrency_and_fails_no_url`] runs; passes at once
/// without it.
#[test]
#[expect(clippy::print_stdout, reason = "read by the test that runs this one")]
fn with_few_files() {
    let Ok(server) = std::env::var(SERVER) else { return };
    let server: SocketAddr = server.parse().unwrap();
    let plan = FetchPlan { thread_count: 128, robots: false, ..FetchPlan::default() };
    let dial = DialMap::everything_at(server);
    let fetcher =
        Fetcher::new(&plan, &dial, &Context { threads: 1, ..Context::default() }).unwrap();
    let urls: Vec<String> = (0..200).map(|i| format!("http://h{i}.example/1.jpg")).collect();
    let fetched = run(&fetcher, &[links(&urls)]);
    assert!(fetched.counts.failed.is_empty(), "{:?}", fetched.counts);
    println!("{} kept", fetched.counts.kept);
}
