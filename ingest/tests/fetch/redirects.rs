//! Redirects are followed by hand, and each hop passes all rules.

use std::io::Write;

use crate::server::{Server, ok, redirect, respond};
use crate::{impatient, jpeg, word};

fn server() -> Server {
    Server::with_robots(|request, stream| {
        let path = request.path.as_str();
        if path == "/robots.txt" {
            let text: &[u8] = match request.host.as_str() {
                "closed.example" => b"User-agent: *\nDisallow: /\n",
                _ => b"",
            };
            return ok(stream, text);
        }
        if let Some(left) = path.strip_prefix("/hops/") {
            let left: u32 = left.parse().unwrap();
            return match left {
                0 => ok(stream, &jpeg(3)),
                left => redirect(stream, &format!("/hops/{}", left - 1)),
            };
        }
        if let Some(place) = path.strip_prefix("/to?") {
            return redirect(stream, place);
        }
        match path {
            "/loop" => redirect(stream, "http://a.example/loop2"),
            "/loop2" => redirect(stream, "/loop"),
            "/nowhere" => respond(stream, "301 Moved Permanently", "", b""),
            "/binary" => stream.write_all(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\xff\xfe\r\n\r\n",
            ),
            _ => ok(stream, &jpeg(3)),
        }
    })
}

#[test]
fn a_redirect_cannot_lead_where_a_link_cannot() {
    let server = server();
    let check = |path: &str, expected: &str| {
        let url = format!("http://a.example{path}");
        assert_eq!(word(&impatient(), &server, &url), expected, "{url}");
    };
    check("/to?http://169.254.169.254/latest/meta-data/", "private_address");
    check("/to?http://[::ffff:169.254.169.254]/", "private_address");
    check("/to?//2130706433/", "private_address");
    check("/to?file:///etc/passwd", "scheme");
    check("/to?ftp://b.example/1.jpg", "scheme");
    check("/to?data:image/png;base64,AAAA", "scheme");
    check("/to?http://b.example@127.0.0.1/", "userinfo");
    check("/to?http://b.example:22/", "port");
    check("/to?http://closed.example/1.jpg", "robots");
    check("/nowhere", "bad_redirect");
    check("/binary", "bad_redirect");
    check("/to?http://[nonsense/", "bad_redirect");
    assert_eq!(server.hits("closed.example/1.jpg"), 0);
}

#[test]
fn five_redirects_are_followed_and_six_are_not() {
    let server = server();
    assert_eq!(word(&impatient(), &server, "http://a.example/hops/5"), "success");
    assert_eq!(word(&impatient(), &server, "http://b.example/hops/6"), "too_many_redirects");
    assert_eq!(word(&impatient(), &server, "http://a.example/loop"), "redirect_loop");
    assert_eq!(
        word(&impatient(), &server, "http://a.example/to?https://c.example/1.jpg"),
        "success"
    );
}

#[test]
fn a_request_says_who_asks_and_carries_nothing_from_one_hop_to_the_next() {
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/first" => {
            let headers = "Location: https://b.example:8443/second\r\nSet-Cookie: id=1\r\n";
            respond(stream, "302 Found", headers, b"")
        }
        _ => ok(stream, &jpeg(3)),
    });
    assert_eq!(word(&impatient(), &server, "https://a.example/first"), "success");
    let log = server.log();
    assert_eq!(log[0].host, "a.example");
    assert_eq!(log[1].host, "b.example:8443");
    assert!(log[1].headers["user-agent"].starts_with("clipmill/"));
    assert_eq!(log[1].headers["accept-encoding"], "identity");
    for absent in ["cookie", "referer", "authorization", "proxy-authorization", "range"] {
        assert!(!log[1].headers.contains_key(absent), "{absent}");
    }
}
