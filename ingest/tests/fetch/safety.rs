//! Addresses: nothing private is reached unless the plan names it.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;

use ingest::DialMap;
use ingest::fetch::{Answer, FetchPlan, Fetcher, Lookup};
use stage::Context;

use crate::server::{Server, ok, redirect};
use crate::{impatient, jpeg, links, run};

/// Knows every name: `inside*` is loopback, `gone*` has no address, the rest is public.
struct Names;

impl Lookup for Names {
    fn lookup(&self, host: &str) -> Answer {
        let answer = match host {
            h if h.starts_with("gone") => Err(io::Error::other("no such name")),
            h if h.starts_with("inside") => Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)].into()),
            h if h.starts_with("metadata") => {
                Ok(vec!["169.254.169.254".parse::<IpAddr>().unwrap()].into())
            }
            _ => Ok(vec!["198.51.100.1".parse::<IpAddr>().unwrap()].into()),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn words(plan: &FetchPlan, urls: &[String]) -> Vec<String> {
    let cx = Context { threads: 1, ..Context::default() };
    let fetcher =
        Fetcher::new(plan, &DialMap::default(), &cx).unwrap().with_lookup(Arc::new(Names));
    run(&fetcher, &[links(urls)]).words()
}

/// A plan that may dial the server's port.
fn plan(server: &Server) -> FetchPlan {
    FetchPlan { ports: vec![80, 443, server.addr.port()], ..impatient() }
}

#[test]
fn loopback_is_reached_only_by_a_name_that_the_plan_gives() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let port = server.addr.port();
    let urls = [
        format!("http://127.0.0.1:{port}/1.jpg"),
        format!("http://inside.example:{port}/1.jpg"),
        format!("http://inside2.example:{port}/1.jpg"),
        format!("http://metadata.example:{port}/1.jpg"),
        format!("http://public.example:{port}/1.jpg"),
        format!("http://gone.example:{port}/1.jpg"),
    ];
    let refused = "private_address";
    // 198.51.100.1 is for documentation: refused like any other special range.
    let expected = [refused, refused, refused, refused, refused, "dns"];
    assert_eq!(words(&plan(&server), &urls), expected);
    assert!(server.log().is_empty());

    let named = FetchPlan {
        allow_loopback: vec!["127.0.0.1".into(), "Inside.example".into()],
        ..plan(&server)
    };
    let expected = ["success", "success", refused, refused, refused, "dns"];
    assert_eq!(words(&named, &urls), expected);
    assert_eq!(server.log().len(), 2);
}

#[test]
fn a_host_on_loopback_opens_no_door_to_others() {
    let server = Server::start(|request, stream| {
        let port = request.host.rsplit(':').next().unwrap().to_owned();
        redirect(stream, &format!("http://127.0.0.1:{port}/1.jpg"))
    });
    let named = FetchPlan { allow_loopback: vec!["inside.example".into()], ..plan(&server) };
    let url = format!("http://inside.example:{}/0.jpg", server.addr.port());
    assert_eq!(words(&named, &[url]), ["private_address"]);
}

#[test]
fn a_closed_port_and_a_server_without_tls_have_their_words() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    // What a web server without TLS says to a handshake.
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        let _client_left = io::copy(&mut stream, &mut io::sink());
    });
    let named = FetchPlan {
        ports: vec![port, closed],
        allow_loopback: vec!["127.0.0.1".into()],
        ..impatient()
    };
    let urls = [format!("http://127.0.0.1:{closed}/"), format!("https://127.0.0.1:{port}/")];
    let named = FetchPlan { robots: false, ..named };
    assert_eq!(words(&named, &urls), ["connect", "tls"]);
    answering.join().unwrap();
    let other = FetchPlan { ports: vec![port], ..named };
    assert_eq!(words(&other, &urls[..1]), ["port"]);
}

#[test]
fn a_dial_map_does_not_make_a_bad_url_good() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let urls = [
        "http://127.0.0.1/1.jpg",
        "http://0x7f.1/1.jpg",
        "http://[::1]/1.jpg",
        "http://good.example@10.0.0.1/",
        "file:///etc/passwd",
        "http://a.example:25/",
        "not a url",
        "http://8.8.8.8/1.jpg",
        "https://a.example:8443/1.jpg",
    ];
    let fetched = crate::fetch(&impatient(), &server, &urls);
    let refused = "private_address";
    let expected =
        [refused, refused, refused, "userinfo", "scheme", "port", "bad_url", "success", "success"];
    assert_eq!(fetched.words(), expected);
    assert_eq!(fetched.counts.dropped[refused], 3);
    assert_eq!(fetched.counts.failed["bad_url"], 1);
    let hosts: Vec<String> = server.log().into_iter().map(|request| request.host).collect();
    assert!(hosts.contains(&"8.8.8.8".to_owned()) && hosts.contains(&"a.example:8443".to_owned()));
}

#[test]
fn no_dialled_address_enters_the_output() {
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/moved.jpg" => redirect(stream, "/1.jpg"),
        _ => ok(stream, &jpeg(1)),
    });
    let plan = FetchPlan { save_additional_columns: vec!["page_url".into()], ..impatient() };
    let urls = ["https://a.example/moved.jpg", "https://a.example/1.jpg", "https://b.example/x"];
    let fetched = crate::fetch(&plan, &server, &urls);
    let text = format!("{:?}", fetched.batches[0].batch());
    assert!(text.contains("https://a.example/moved.jpg") && text.contains("page of"), "{text}");
    assert!(
        !text.contains(&server.addr.port().to_string()) && !text.contains("127.0.0.1"),
        "{text}"
    );
    assert!(!text.contains("dial.invalid"), "{text}");
}
