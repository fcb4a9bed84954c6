//! The loopback server: what it answers, well and badly, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ingest::serve::{Request, Response, Server};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Everything that comes until the server closes.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
}

fn always(response: Response) -> Server {
    Server::start(move |_| response.clone()).unwrap()
}

#[test]
fn hosts_are_told_apart_by_name() {
    let server =
        Server::start(|request: &Request| Response::ok("text/plain", request.host.clone()))
            .unwrap();
    for host in ["a.example", "b.example"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}:99\r\nConnection: close\r\n\r\n");
        let answer = ask(server.address(), &request);
        assert!(answer.ends_with(&format!("\r\n\r\n{host}")), "{answer}");
    }
    assert_eq!(server.requests(), 2);
    assert_eq!(server.dial_map().lookup("any.example"), Some(server.address()));
}

#[test]
fn a_connection_serves_several_requests_pipelined_or_not() {
    let server = Server::start(|request| Response::ok("text/plain", request.path.clone())).unwrap();
    let first = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let answer = ask(server.address(), &format!("{first}{}", get("/2")));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(answer.contains("\r\n\r\n/1HTTP/1.1") && answer.ends_with("\r\n\r\n/2"), "{answer}");
}

#[test]
fn head_gets_the_length_and_no_body_and_304_neither() {
    let server = always(Response::ok("text/plain", "four"));
    let answer = ask(server.address(), &get("/").replace("GET", "HEAD"));
    assert!(answer.contains("Content-Length: 4\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let server = always(Response::status(304));
    let answer = ask(server.address(), &get("/"));
    assert!(!answer.contains("Content-Length"), "{answer}");
}

#[test]
fn a_redirect_names_its_target() {
    let server = always(Response::redirect(302, "https://b.example/x"));
    let answer = ask(server.address(), &get("/"));
    assert!(
        answer.starts_with("HTTP/1.1 302 Found\r\nLocation: https://b.example/x\r\n"),
        "{answer}"
    );
}

#[test]
fn a_header_value_cannot_add_headers() {
    let server = always(Response::status(200).with("A", "b\r\nSet-Cookie: x"));
    assert!(ask(server.address(), &get("/")).contains("A: bSet-Cookie: x\r\n"));
}

#[test]
fn a_body_is_thrown_away_and_a_request_that_is_none_refused() {
    let server = Server::start(|request| Response::ok("text/plain", request.path.clone())).unwrap();
    let post = "POST /1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nGET /";
    let answer = ask(server.address(), &format!("{post}{}", get("/2")));
    assert!(answer.contains("\r\n\r\n/1HTTP/1.1") && answer.ends_with("\r\n\r\n/2"), "{answer}");
    assert!(ask(server.address(), "hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let endless = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n";
    assert!(ask(server.address(), endless).starts_with("HTTP/1.1 413 "));
}

#[test]
fn a_head_that_never_ends_is_refused() {
    let server = always(Response::status(200));
    let mut stream = connect(server.address());
    // The server may hang up before all is written.
    let _reset = stream.write_all(&vec![b'x'; 70_000]);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[test]
fn raw_bytes_are_sent_as_they_are() {
    let server = always(Response::Raw("SSH-2.0-x\r\n".into()));
    assert_eq!(ask(server.address(), &get("/")), "SSH-2.0-x\r\n");
}

#[test]
fn closing_early_sends_less_than_was_announced() {
    let server = always(Response::CloseEarly {
        content_type: "image/jpeg".to_owned(),
        body: "0123456789".into(),
        sent: 3,
    });
    let answer = ask(server.address(), &get("/"));
    assert!(
        answer.contains("Content-Length: 10\r\n") && answer.ends_with("\r\n\r\n012"),
        "{answer}"
    );
}

#[test]
fn a_drip_takes_its_time_and_is_whole() {
    let pause = Duration::from_millis(20);
    let server = always(Response::Drip {
        content_type: "image/jpeg".to_owned(),
        body: "0123456789".into(),
        chunk: 3,
        pause,
    });
    let start = Instant::now();
    assert!(ask(server.address(), &get("/")).ends_with("\r\n\r\n0123456789"));
    assert!(start.elapsed() >= pause * 3);
}

#[test]
fn silence_lasts_until_the_client_goes_and_does_not_keep_the_server() {
    let server = always(Response::Silent);
    let mut stream = connect(server.address());
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.write_all(get("/").as_bytes()).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    let start = Instant::now();
    drop(server);
    assert!(start.elapsed() < Duration::from_secs(5));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn an_endless_body_is_chunked_and_ends_with_the_client() {
    let server = always(Response::Endless {
        content_type: "image/jpeg".to_owned(),
        chunk: vec![b'x'; 1000].into(),
    });
    let mut stream = connect(server.address());
    stream.write_all(get("/").as_bytes()).unwrap();
    let mut answer = vec![0; 100_000];
    stream.read_exact(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    assert!(text.contains("Transfer-Encoding: chunked\r\n") && !text.contains("Content-Length"));
    assert!(text.contains("\r\n\r\n3e8\r\nxxx"));
    drop(stream);
    drop(server);
}

#[test]
fn a_handler_that_panics_costs_its_connection_only() {
    let server = Server::start(|request| {
        assert_ne!(request.path, "/panic");
        Response::ok("text/plain", "alive")
    })
    .unwrap();
    assert_eq!(ask(server.address(), &get("/panic")), "");
    assert!(ask(server.address(), &get("/")).ends_with("alive"));
}

#[test]
fn a_taken_port_is_an_error_with_its_address() {
    let server = always(Response::status(200));
    let port = server.address().port();
    let error = Server::start_at(port, |_| Response::status(200)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{port}: cannot listen")), "{error}");
}

#[test]
fn a_server_can_be_started_and_dropped_inside_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let answer = runtime.block_on(async {
        let address = tokio::task::spawn_blocking(|| {
            let server = always(Response::ok("text/plain", "inside"));
            ask(server.address(), &get("/"))
        });
        address.await.unwrap()
    });
    assert!(answer.ends_with("inside"));
}
