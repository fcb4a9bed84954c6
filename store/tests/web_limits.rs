//! Web servers that are silent, that drip, and that never end. Apart from the other tests of web
//! servers, because the limits are of the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stage::Kind;
use store::{Blob, WebLimits, allow_private_host, set_web_limits};

const LIMITS: WebLimits = WebLimits {
    first_byte: Duration::from_millis(400),
    min_rate: 1000,
    window: Duration::from_millis(400),
    max_copy: 2000,
    tries: 2,
};

/// Lets `serve` write what it wants to each connection, under its number from 0; gives the address
/// and the count of connections.
fn server(
    serve: impl Fn(&mut TcpStream, usize) -> std::io::Result<()> + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    allow_private_host("127.0.0.1");
    set_web_limits(LIMITS);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/0.tar", listener.local_addr().unwrap());
    let (serve, count) = (Arc::new(serve), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, mut stream) = (Arc::clone(&serve), stream.unwrap());
            let number = counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
                // The client goes when it has had enough.
                let _gone = serve(&mut stream, number);
            });
        }
    });
    (url, count)
}

/// Waits until the client closes.
fn until_closed(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn drip(stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
    stream.write_all(head.as_bytes())?;
    loop {
        stream.write_all(b"x")?;
        std::thread::sleep(Duration::from_millis(30));
    }
}

const PART: &str = "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nConnection: close\r\n";

fn ranged(stream: &mut TcpStream) -> std::io::Result<()> {
    let head = format!("{PART}Content-Range: bytes 0-0/5000\r\nContent-Length: 1\r\n\r\nx");
    stream.write_all(head.as_bytes())
}

#[test]
fn a_server_that_never_answers_is_left_and_asked_once_more() {
    let (url, count) = server(|stream, _| until_closed(stream));
    let error = Blob::open(&url).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("no answer began within 0.4 s"), "{error}");
    assert!(error.hint_text().unwrap().contains("CLIPMILL_WEB_FIRST_BYTE"));
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn a_head_that_drips_is_no_answer_either() {
    let (url, _) = server(|stream, _| drip(stream, "HTTP/1.1 200 OK\r\nX-Long: "));
    let error = Blob::open(&url).unwrap_err();
    assert!(error.to_string().contains("no answer began"), "{error}");
}

#[test]
fn a_range_that_drips_is_too_slow_though_every_byte_comes_in_time() {
    let (url, count) = server(|stream, number| match number {
        0 => ranged(stream),
        _ => {
            let range = "Content-Range: bytes 0-999/5000\r\nContent-Length: 1000\r\n\r\n";
            drip(stream, &format!("{PART}{range}"))
        }
    });
    let blob = Blob::open(&url).unwrap();
    let error = blob.read_at(0, 1000).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("too slow: "), "{error}");
    assert!(error.to_string().contains("at least 1000 a second have to"), "{error}");
    assert!(error.hint_text().unwrap().contains("CLIPMILL_WEB_MIN_RATE"));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_range_that_stops_in_the_middle_is_asked_for_again() {
    let (url, _) = server(|stream, number| match number {
        0 => ranged(stream),
        _ => {
            let range = "Content-Range: bytes 0-3/5000\r\nContent-Length: 4\r\n\r\nab";
            stream.write_all(format!("{PART}{range}").as_bytes())?;
            if number == 1 { until_closed(stream) } else { stream.write_all(b"cd") }
        }
    });
    assert_eq!(Blob::open(&url).unwrap().read_at(0, 4).unwrap(), "abcd");
}

#[test]
fn a_file_without_ranges_is_copied_up_to_the_limit_and_no_further() {
    let whole = |length: usize| {
        server(move |stream, _| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat())
        })
    };
    assert_eq!(Blob::open(&whole(2000).0).unwrap().len(), 2000);
    let endless = server(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 512])?;
        }
    });
    for (url, count) in [whole(2001), endless] {
        let error = Blob::open(&url).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains("has more than 2000 bytes to copy here"), "{error}");
        assert!(error.hint_text().unwrap().contains("CLIPMILL_WEB_MAX_COPY"));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_file_without_ranges_that_drips_is_too_slow() {
    let (url, _) = server(|stream, _| drip(stream, "HTTP/1.1 200 OK\r\n\r\n"));
    let error = Blob::open(&url).unwrap_err();
    assert!(error.to_string().contains("too slow: "), "{error}");
}
