//! Files on web servers, and what servers may do wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use stage::Kind;
use store::{Blob, allow_private_host};

/// A file of 1,000 different bytes.
fn file() -> Vec<u8> {
    (0..1000_u32).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// A request: its path and its headers in lower case.
struct Asked {
    path: String,
    headers: Vec<String>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    /// First and last byte of the range.
    fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

type Answer = dyn Fn(&Asked, usize) -> Vec<u8> + Send + Sync;

/// Serves on loopback until the test ends; the second argument of `answer` counts requests. Gives
/// the address and the paths that were asked for.
fn serve(answer: impl Fn(&Asked, usize) -> Vec<u8> + Send + Sync + 'static) -> (String, Log) {
    allow_private_host("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let (answer, asked): (Arc<Answer>, Log) = (Arc::new(answer), Arc::clone(&log));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            std::thread::spawn(move || connection(stream.unwrap(), &*answer, &asked));
        }
    });
    (url, log)
}

type Log = Arc<Mutex<Vec<String>>>;

fn connection(mut stream: TcpStream, answer: &Answer, log: &Log) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let lines: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(first) = lines.first() else { return };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let headers = lines[1..].iter().map(|line| line.to_lowercase()).collect();
    let number = {
        let mut log = log.lock().unwrap();
        log.push(path.clone());
        log.len()
    };
    let _ = stream.write_all(&answer(&Asked { path, headers }, number));
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), b"\r\n", length.as_bytes(), body].concat()
}

/// What a server with ranges answers.
fn ranged(asked: &Asked, file: &[u8], tag: &str) -> Vec<u8> {
    let Some((first, last)) = asked.range() else {
        return response("HTTP/1.1 200 OK", file);
    };
    if asked.header("if-range").is_some_and(|wanted| wanted != tag) {
        return response("HTTP/1.1 200 OK", file);
    }
    let range = format!("Content-Range: bytes {first}-{last}/{}", file.len());
    response(
        &format!("HTTP/1.1 206 Partial Content\r\n{range}\r\nETag: {tag}"),
        &file[first..=last],
    )
}

#[test]
fn ranges_are_read_and_nothing_else_is_asked_for() {
    let (url, log) = serve(|asked, _| {
        assert_eq!(asked.header("accept-encoding"), Some("identity"));
        ranged(asked, &file(), "\"1\"")
    });
    let blob = Blob::open(&format!("{url}/a/0.tar")).unwrap();
    assert!(blob.is_remote());
    assert_eq!(blob.len(), 1000);
    assert_eq!(blob.read_at(10, 5).unwrap(), file()[10..15]);
    let mut buffer = [0; 3];
    blob.read_into(997, &mut buffer).unwrap();
    assert_eq!(buffer, file()[997..]);
    assert_eq!(blob.read_at(0, 0).unwrap(), "");
    assert_eq!(blob.read_at(999, 2).unwrap_err().kind(), Kind::Input);
    assert_eq!(log.lock().unwrap().len(), 3);
    assert_eq!(blob.read_all().unwrap(), file());
}

#[test]
fn a_server_without_ranges_gives_the_file_once() {
    let (url, log) = serve(|_, _| response("HTTP/1.1 200 OK", &file()));
    let blob = Blob::open(&format!("{url}/0.tar")).unwrap();
    assert!(!blob.is_remote());
    assert_eq!((blob.len(), blob.read_at(10, 5).unwrap()), (1000, file()[10..15].to_vec().into()));
    assert_eq!(blob.read_all().unwrap(), file());
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn a_file_that_changes_is_never_mixed() {
    let (url, _) =
        serve(|asked, number| ranged(asked, &file(), if number < 3 { "\"1\"" } else { "\"2\"" }));
    let blob = Blob::open(&format!("{url}/0.tar")).unwrap();
    blob.read_at(0, 5).unwrap();
    let error = blob.read_at(5, 5).unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[test]
fn redirects_are_followed_and_each_is_vetted() {
    let (url, log) = serve(|asked, _| match asked.path.as_str() {
        "/a.tar" => response("HTTP/1.1 302 Found\r\nLocation: /b.tar", b""),
        "/out" => response("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest", b""),
        "/file" => response("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd", b""),
        "/round" => response("HTTP/1.1 302 Found\r\nLocation: /round", b""),
        _ => ranged(asked, &file(), "\"1\""),
    });
    let open = |path: &str| Blob::open(&format!("{url}{path}"));
    assert_eq!(open("/a.tar").unwrap().read_at(3, 2).unwrap(), file()[3..5]);
    let refused = |path: &str| open(path).unwrap_err().to_string();
    assert!(refused("/out").contains("no public address"), "{}", refused("/out"));
    assert!(refused("/file").contains("neither http nor https"));
    log.lock().unwrap().clear();
    assert!(refused("/round").contains("more than 5 redirects"));
    assert_eq!(log.lock().unwrap().len(), 6);
}

#[test]
fn a_private_server_that_nobody_named_is_refused_and_so_is_a_name_that_leads_there() {
    for url in ["http://127.0.0.2/0.tar", "http://[::1]:9/0.tar", "http://localhost:9/0.tar"] {
        let error = Blob::open(url).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
        assert!(error.to_string().contains("has no public address"), "{error}");
        assert!(error.hint_text().unwrap().contains("CLIPMILL_PRIVATE_HOSTS"));
    }
}

#[test]
fn a_server_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let (url, log) = serve(|asked, number| match (asked.path.as_str(), number) {
        ("/0.tar", 1) => response("HTTP/1.1 503 Slow Down", b""),
        // Fewer bytes than announced, once the file is open.
        ("/0.tar", 3) => {
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/1000\r\n";
            format!("{head}Content-Length: 9\r\nConnection: close\r\n\r\n").into_bytes()
        }
        ("/0.tar", _) => ranged(asked, &file(), "\"1\""),
        _ => response("HTTP/1.1 404 Not Found", b""),
    });
    let blob = Blob::open(&format!("{url}/0.tar")).unwrap();
    assert_eq!(blob.read_at(0, 1).unwrap(), file()[..1]);
    assert_eq!(log.lock().unwrap().len(), 4);
    log.lock().unwrap().clear();
    let error = Blob::open(&format!("{url}/none.tar?signature=secret")).unwrap_err();
    assert!(error.to_string().contains("404") && !error.to_string().contains("secret"), "{error}");
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_refused() {
    let partial = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes";
    let answers: [(&str, Vec<u8>); 4] = [
        ("/packed", response(&format!("{partial} 0-0/9\r\nContent-Encoding: gzip"), b"x")),
        ("/no-range", response("HTTP/1.1 206 Partial Content", b"x")),
        ("/teapot", response("HTTP/1.1 418 Teapot", b"")),
        ("/unknown-length", response(&format!("{partial} 0-0/*"), b"x")),
    ];
    let (url, _) = serve({
        let answers = answers.clone();
        move |asked, _| answers.iter().find(|(path, _)| *path == asked.path).unwrap().1.clone()
    });
    for (path, _) in answers {
        let error = Blob::open(&format!("{url}{path}")).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{path}: {error}");
    }
    let (url, _) = serve(move |asked, number| match number {
        1 => ranged(asked, &file(), "\"1\""),
        2 => response(&format!("{partial} 7-9/1000"), &file()[7..10]),
        _ => response(&format!("{partial} 0-2/1000"), &file()[0..5]),
    });
    let blob = Blob::open(&format!("{url}/0.tar")).unwrap();
    assert!(blob.read_at(0, 3).unwrap_err().to_string().contains("another range"));
    let error = blob.read_at(0, 3).unwrap_err().to_string();
    assert!(error.contains("more bytes came") || error.contains("connection failed"), "{error}");
}
