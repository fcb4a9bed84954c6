//! A run that is looked at while it runs, and one whose pictures are made in other processes: the
//! same bytes.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use common::{World, clipmill, published, run_well};

/// A fetch of the world's pages with these fields more.
fn recipe(world: &World, name: &str, more: &str) -> std::path::PathBuf {
    let wat = world.path("crawl.warc.wat");
    let stages = format!(
        "  - links: {{wat: [{}]}}\n  - fetch: {{image_size: 32, number_sample_per_shard: 10, \
         thread_count: 4{more}}}\n",
        wat.display()
    );
    world.recipe(name, &stages)
}

#[test]
fn pictures_made_in_processes_are_the_same_bytes() {
    let world = World::new(Duration::ZERO);
    let run = |name: &str, more: &str| {
        let out = world.path(name);
        run_well(&recipe(&world, "isolated", more), &["--output", out.to_str().unwrap()]);
        published(&out, &["fetch"])
    };
    let inside = run("inside", "");
    assert!(inside.keys().filter(|name| name.ends_with(".tar")).count() > 2);
    assert_eq!(inside, run("outside", ", decode: {isolation: process, timeout: 60}"));
}

/// One frame of what a run and its decoding processes say to each other.
fn put(to: &mut impl Write, bytes: &[u8]) {
    to.write_all(&(bytes.len() as u64).to_le_bytes()).unwrap();
    to.write_all(bytes).unwrap();
    to.flush().unwrap();
}

fn take(from: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 8];
    from.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap()];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_signal_to_the_group_does_not_end_a_decoding_process_before_its_run() {
    let mut worker = clipmill()
        .args(["__decode-worker", "1073741824"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (worker.stdin.take().unwrap(), worker.stdout.take().unwrap());
    put(&mut to, b"{}");
    assert_eq!(take(&mut from), b"ready");
    for signal in ["-INT", "-TERM"] {
        let pid = worker.id().to_string();
        let sent = std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        put(&mut to, b"");
        put(&mut to, b"no picture");
        assert_eq!(take(&mut from), b"not_an_image", "{signal}");
    }
    drop(to);
    assert!(worker.wait().unwrap().success());
}

#[test]
fn metrics_are_there_while_it_runs_and_change_nothing() {
    let world = World::new(Duration::from_millis(150));
    let recipe = recipe(&world, "watched", "");
    let plain = world.path("plain");
    run_well(&recipe, &["--output", plain.to_str().unwrap()]);

    let (watched, file) = (world.path("watched"), world.path("clipmill.prom"));
    let mut child = clipmill()
        .arg("run")
        .arg(&recipe)
        .args(["--output", watched.to_str().unwrap(), "--metrics", "127.0.0.1:0"])
        .args(["--metrics_file", file.to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.next().unwrap();
    let address = line.strip_prefix("metrics: http://").unwrap().strip_suffix("/metrics").unwrap();
    let scrape = || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let mut last = String::new();
    while let Some(page) = scrape() {
        let runs = page.contains("clipmill_stage_running{stage=\"fetch\",kind=\"fetch\"} 1\n");
        if runs && page.contains("clipmill_fetch_urls_total") {
            last = page;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let said: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    for part in [
        "clipmill_stage_units{stage=\"fetch\",kind=\"fetch\"} 4\n",
        "clipmill_fetch_step_seconds_total{stage=\"fetch\",step=\"network\"} ",
        "clipmill_fetch_bottleneck{stage=\"fetch\",step=\"network\"} 1\n",
    ] {
        assert!(last.contains(part), "{part} is missing in:\n{last}");
    }
    let end = std::fs::read_to_string(&file).unwrap();
    for part in [
        "clipmill_stage_units_done{stage=\"fetch\",kind=\"fetch\"} 4\n",
        "clipmill_stage_running{stage=\"fetch\",kind=\"fetch\"} 0\n",
        "clipmill_rows_total{stage=\"fetch\",verdict=\"kept\",reason=\"\"} 34\n",
        "clipmill_rows_total{stage=\"fetch\",verdict=\"failed\",reason=\"http_404\"} 6\n",
        "clipmill_fetch_urls_total{stage=\"fetch\",verdict=\"kept\",reason=\"\"} 34\n",
        "clipmill_fetch_in_flight{stage=\"fetch\"} 0\n",
    ] {
        assert!(end.contains(part), "{part} is missing in:\n{end}");
    }
    assert_eq!(published(&plain, &["links", "fetch"]), published(&watched, &["links", "fetch"]));
}
