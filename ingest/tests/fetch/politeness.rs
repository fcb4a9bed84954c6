//! What sites ask for: robots.txt, X-Robots-Tag, and not to be overrun.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ingest::DialMap;
use ingest::fetch::{Answer, FetchPlan, Fetcher, Hooks, Lookup, OptOut};
use sha2::Digest as _;
use stage::Context;

use crate::server::{Server, head, ok, redirect, respond};
use crate::{fetch, impatient, jpeg, links, run, word};

#[test]
fn robots_txt_is_asked_once_an_origin_and_obeyed() {
    let server = Server::with_robots(|request, stream| match request.path.as_str() {
        "/robots.txt" => ok(stream, b"User-agent: *\nDisallow: /private/\n"),
        _ => ok(stream, &jpeg(1)),
    });
    let urls: Vec<String> = (0..20)
        .map(|i| {
            format!("http://a.example/{}/{i}.jpg", if i % 2 == 0 { "open" } else { "private" })
        })
        .collect();
    let fetched = fetch(&impatient(), &server, &urls);
    assert_eq!((fetched.counts.kept, fetched.counts.dropped["robots"]), (10, 10));
    assert_eq!(server.hits("a.example/robots.txt"), 1);
    assert_eq!(server.log().len(), 10);

    let without = FetchPlan { robots: false, ..impatient() };
    assert_eq!(word(&without, &server, "http://b.example/private/1.jpg"), "success");
    assert_eq!(server.hits("b.example/robots.txt"), 0);
}

#[test]
fn a_missing_robots_txt_allows_and_an_unreachable_one_forbids() {
    let server = Server::with_robots(|request, stream| {
        if request.path != "/robots.txt" {
            return ok(stream, &jpeg(1));
        }
        match request.host.as_str() {
            "missing.example" => respond(stream, "404 Not Found", "", b"Disallow: /"),
            "forbidden.example" => respond(stream, "403 Forbidden", "", b""),
            "page.example" => ok(stream, b"<html>User-agent? Disallow? Not here.</html>"),
            "broken.example" => respond(stream, "500 Internal Server Error", "", b""),
            "busy.example" => respond(stream, "429 Too Many Requests", "", b""),
            "silent.example" => {
                std::thread::sleep(Duration::from_millis(900));
                Ok(())
            }
            "moved.example" => redirect(stream, "http://rules.example/robots.txt"),
            "rules.example" => ok(stream, b"User-agent: *\nDisallow: /1.jpg\n"),
            "circle.example" => redirect(stream, "/robots.txt"),
            "inside.example" => redirect(stream, "http://10.0.0.1/robots.txt"),
            "huge.example" => {
                let rules = "Disallow: /*a*b*c*d*e*f*g*h*i*j*k\n".repeat(180_000);
                let text = format!("User-agent: *\n{rules}");
                ok(stream, text.as_bytes())
            }
            "endless.example" => {
                head(stream, "")?;
                loop {
                    std::io::Write::write_all(stream, &[b'#'; 4096])?;
                }
            }
            other => panic!("{other}"),
        }
    });
    let table = [
        ("missing", "success"),
        ("forbidden", "success"),
        ("page", "success"),
        ("broken", "robots_unreachable"),
        ("busy", "robots_unreachable"),
        ("silent", "robots_unreachable"),
        ("moved", "robots"),
        ("circle", "success"),
        ("inside", "private_address"),
        ("huge", "success"),
        ("endless", "success"),
    ];
    let urls = table.map(|(host, _)| format!("http://{host}.example/1.jpg"));
    let fetched = fetch(&impatient(), &server, &urls);
    for ((host, expected), word) in table.iter().zip(fetched.words()) {
        assert_eq!(word, *expected, "{host}");
    }
}

#[test]
fn a_group_for_our_token_is_found_whatever_its_case() {
    let server = Server::with_robots(|request, stream| match request.path.as_str() {
        "/robots.txt" => {
            ok(stream, b"User-agent: *\nDisallow:\n\nUser-agent: MillBot\nDisallow: /\n")
        }
        _ => ok(stream, &jpeg(1)),
    });
    let token = FetchPlan { user_agent_token: Some("millbot".into()), ..impatient() };
    assert_eq!(word(&token, &server, "http://a.example/1.jpg"), "robots");
    assert_eq!(word(&impatient(), &server, "http://a.example/1.jpg"), "success");
}

#[test]
fn any_of_three_x_robots_tag_headers_opts_out() {
    let server = Server::start(|request, stream| {
        let headers = match request.path.as_str() {
            "/three.jpg" => {
                "X-Robots-Tag: nofollow\r\nx-robots-tag: otherbot: noindex\r\nX-ROBOTS-TAG: NoAI\r\n"
            }
            "/token.jpg" => "X-Robots-Tag: MILLBOT: noimageai\r\n",
            _ => "X-Robots-Tag: otherbot: noai\r\nX-Robots-Tag: nofollow, nosnippet\r\n",
        };
        respond(stream, "200 OK", headers, &jpeg(1))
    });
    let plan = FetchPlan { user_agent_token: Some("millbot".into()), ..impatient() };
    let urls = ["/three.jpg", "/token.jpg", "/other.jpg"].map(|p| format!("http://a.example{p}"));
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!(fetched.words(), ["noai", "noai", "success"]);
    assert_eq!(fetched.counts.dropped["noai"], 2);
    let deaf = FetchPlan { disallowed_header_directives: Vec::new(), ..plan };
    assert_eq!(word(&deaf, &server, "http://a.example/three.jpg"), "success");
}

#[test]
fn two_hundred_urls_of_a_slow_host_do_not_starve_the_others() {
    let server = Server::start(|request, stream| {
        if request.host.ends_with("slow.example") {
            std::thread::sleep(Duration::from_millis(25));
        }
        ok(stream, &jpeg(1))
    });
    let mut urls: Vec<String> =
        (0..200).map(|i| format!("http://cdn{}.slow.example/{i}.jpg", i % 3)).collect();
    urls.extend((0..50).map(|i| format!("http://h{i}.example/1.jpg")));
    let plan = FetchPlan { thread_count: 16, ..FetchPlan::default() };
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!(fetched.counts.kept, 250);
    let log = server.log();
    let last_other = log.iter().rposition(|r| !r.host.ends_with("slow.example")).unwrap();
    let slow_before = log[..last_other].iter().filter(|r| r.host.ends_with("slow.example")).count();
    assert!(
        slow_before < 100,
        "{slow_before} of 200 slow requests came before the last other host"
    );
}

#[test]
fn a_domain_never_has_more_requests_than_its_limit() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Server::start(move |_, stream| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            ok(stream, &jpeg(1))
        })
    };
    let urls: Vec<String> = (0..60).map(|i| format!("http://h{i}.one.example/1.jpg")).collect();
    let plan = FetchPlan { max_per_host: 3, ..FetchPlan::default() };
    assert_eq!(fetch(&plan, &server, &urls).counts.kept, 60);
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
}

/// A list with these lines, in a folder that must outlive it.
fn list(folder: &tempfile::TempDir, name: &str, lines: &str) -> Vec<String> {
    let path = folder.path().join(name);
    std::fs::write(&path, lines).unwrap();
    vec![path.to_str().unwrap().to_owned()]
}

#[test]
fn what_is_on_an_opt_out_list_is_never_asked_for() {
    let server = Server::with_robots(|request, stream| match request.path.as_str() {
        "/to-domain" => redirect(stream, "http://img.out.example/1.jpg"),
        "/to-url" => redirect(stream, "https://b.example/2.jpg?x"),
        "/to-prefix" => redirect(stream, "/people/3.jpg"),
        "/robots.txt" if request.host == "moved.example" => {
            redirect(stream, "http://out.example/robots.txt")
        }
        "/robots.txt" => respond(stream, "404 Not Found", "", b""),
        _ => ok(stream, &jpeg(1)),
    });
    let folder = tempfile::tempdir().unwrap();
    let opt_out = OptOut {
        domains: list(&folder, "domains", "out.example\n"),
        urls: list(&folder, "urls", "http://b.example/2.jpg?x\n"),
        prefixes: list(&folder, "prefixes", "https://a.example/people/\n"),
        ..OptOut::default()
    };
    let plan = FetchPlan { opt_out, ..impatient() };
    let urls = [
        "http://out.example/1.jpg",
        "https://www.out.example/1.jpg",
        "http://b.example/2.jpg?x#y",
        "http://a.example/people/1.jpg",
        "http://a.example/to-domain",
        "http://a.example/to-url",
        "http://a.example/to-prefix",
        "http://moved.example/1.jpg",
        "http://b.example/2.jpg",
    ];
    let fetched = fetch(&plan, &server, &urls);
    let mut expected = ["opt_out"; 9];
    expected[7] = "robots_unreachable";
    expected[8] = "success";
    assert_eq!(fetched.words(), expected);
    assert_eq!(fetched.counts.dropped["opt_out"], 7);
    let asked: Vec<String> = server.log().iter().map(|r| format!("{}{}", r.host, r.path)).collect();
    assert!(asked.iter().all(|a| a.starts_with("a.example/to-") || a == "b.example/2.jpg"));
    assert_eq!(server.hits("out.example/robots.txt"), 0);
}

#[test]
fn a_picture_whose_digest_is_on_an_opt_out_list_is_not_kept() {
    let server = Server::start(|request, stream| {
        ok(stream, &jpeg(if request.path == "/1.jpg" { 1 } else { 2 }))
    });
    let folder = tempfile::tempdir().unwrap();
    let digest = format!("{:x}", sha2::Sha256::digest(jpeg(1)));
    let opt_out =
        OptOut { sha256: list(&folder, "digests", &format!("{digest}\n")), ..OptOut::default() };
    let urls = ["http://a.example/1.jpg", "http://b.example/1.jpg", "http://a.example/2.jpg"];
    for compute_hash in [None, FetchPlan::default().compute_hash] {
        let plan = FetchPlan { opt_out: opt_out.clone(), compute_hash, ..impatient() };
        let fetched = fetch(&plan, &server, &urls);
        assert_eq!(fetched.words(), ["opt_out", "opt_out", "success"]);
        assert!(fetched.batches[0].image(0).is_none());
    }
}

#[test]
fn a_crawl_delay_is_kept_between_all_requests_to_a_domain_and_holds_up_no_other() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let times = Arc::clone(&times);
        Server::with_robots(move |request, stream| {
            if request.path == "/robots.txt" {
                let slow = request.host.ends_with("slow.example");
                return ok(stream, if slow { b"User-agent: *\nCrawl-delay: 0.2" } else { b"" });
            }
            if request.host.ends_with("slow.example") {
                times.lock().unwrap().push(Instant::now());
            }
            match request.path.as_str() {
                "/0" => redirect(stream, "/there"),
                _ => ok(stream, &jpeg(1)),
            }
        })
    };
    let mut urls: Vec<String> =
        (0..4).map(|i| format!("http://h{}.slow.example/{i}", i % 2)).collect();
    urls.extend((0..20).map(|i| format!("http://h{i}.example/1.jpg")));
    let plan = FetchPlan { thread_count: 4, ..impatient() };
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!(fetched.counts.kept, 24);
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 5, "four URLs and a redirect");
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] > Duration::from_millis(120), "{:?}", pair[1] - pair[0]);
    }
}

#[test]
fn what_would_wait_too_long_for_a_crawl_delay_fails_and_the_unit_ends() {
    let server = Server::with_robots(|request, stream| match request.path.as_str() {
        "/robots.txt" => ok(stream, b"User-agent: *\nCrawl-delay: 100000"),
        _ => ok(stream, &jpeg(1)),
    });
    let urls: Vec<String> = (0..6).map(|i| format!("http://a.example/{i}")).collect();
    let plan = FetchPlan { max_crawl_delay: 0.3, max_host_wait: 0.5, ..impatient() };
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!((fetched.counts.kept, fetched.counts.failed["crawl_delay"]), (2, 4));
    assert_eq!(server.log().len(), 2);
}

/// Every name is loopback.
struct Loopback;

impl Lookup for Loopback {
    fn lookup(&self, _host: &str) -> Answer {
        Box::pin(std::future::ready(Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()].into())))
    }
}

#[test]
fn an_address_never_has_more_requests_than_its_limit_whatever_the_domains() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Server::start(move |_, stream| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            ok(stream, &jpeg(1))
        })
    };
    let hosts: Vec<String> = (0..40).map(|i| format!("h{i}.example")).collect();
    let port = server.addr.port();
    let plan = FetchPlan {
        max_per_ip: 3,
        ports: vec![port],
        allow_loopback: (0..40).map(|i| format!("www.h{i}.example")).collect(),
        ..impatient()
    };
    let fetcher = Fetcher::new(&plan, &DialMap::default(), &Context::default()).unwrap();
    let urls: Vec<String> =
        hosts.iter().map(|host| format!("http://www.{host}:{port}/1.jpg")).collect();
    let fetched = run(&fetcher.with_lookup(Arc::new(Loopback)), &[links(&urls)]);
    assert_eq!(fetched.counts.kept, 40);
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
}

#[test]
fn ten_thousand_urls_of_one_host_do_not_starve_a_hundred_others() {
    let picture = jpeg(1);
    let server = Server::start(move |_, stream| ok(stream, &picture));
    let mut urls: Vec<String> = (0..10_000).map(|i| format!("http://crowd.example/{i}")).collect();
    urls.extend((0..100).map(|i| format!("http://h{i}.example/1.jpg")));
    let plan = FetchPlan {
        thread_count: 32,
        number_sample_per_shard: 20_000,
        robots: false,
        ..FetchPlan::default()
    };
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!(fetched.counts.entered, 10_100);
    let log = server.log();
    let last_other = log.iter().rposition(|r| r.host != "crowd.example").unwrap();
    let before = log[..last_other].iter().filter(|r| r.host == "crowd.example").count();
    assert!(before < 1000, "{before} of 10,000 came before the last other host");
}

#[test]
fn a_hook_decides_what_is_stored_and_what_of_it() {
    let server = Server::start(|request, stream| ok(stream, &jpeg(request.path.len() as u8)));
    let script = r#"while IFS= read -r head; do
        n=${head##*\"bytes\":}; n=${n%%,*}; dd bs=1 count="$n" of=/dev/null 2>/dev/null
        case $head in */keep\"*) echo keep;; */drop\"*) echo drop;; *) echo hash_only;; esac
        done"#;
    let hooks = Hooks {
        before_store: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Hooks::default()
    };
    let plan = FetchPlan { hooks, ..impatient() };
    let urls = ["keep", "drop", "other"].map(|path| format!("http://a.example/{path}"));
    let fetched = fetch(&plan, &server, &urls);
    assert_eq!(fetched.words(), ["success", "hook_drop", "hook_hash_only"]);
    assert_eq!(fetched.counts.dropped_total(), 2);
    let pairs = &fetched.batches[0];
    let has_digest: Vec<bool> = pairs.text("sha256").iter().map(|d| d.is_some()).collect();
    assert_eq!(has_digest, [true, false, true]);
    assert!(pairs.image(1).is_none() && pairs.image(2).is_none());
}

#[test]
fn a_hook_that_crashes_stores_nothing_and_ends_the_unit() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let hooks = Hooks { before_store: vec!["false".to_owned()], ..Hooks::default() };
    let plan = FetchPlan { hooks, ..impatient() };
    let fetcher =
        Fetcher::new(&plan, &DialMap::everything_at(server.addr), &Context::default()).unwrap();
    let urls: Vec<String> = (0..20).map(|i| format!("http://h{i}.example/1.jpg")).collect();
    let error = fetcher
        .run_unit(&[links(&urls)], 0, &mut |pairs| {
            assert!((0..pairs.len()).all(|row| pairs.image(row).is_none()));
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("`false` gave no answer 5 times in a row"), "{error}");
}
