//! A run's figures for Prometheus: on a port, in a file, or both.
//!
//! The format is three kinds of line (version 0.0.4 of the text exposition format). The crates for
//! it were weighed: metrics and metrics-exporter-prometheus would bring twelve more, among them
//! two lock-free maps and a sketch for quantiles that nothing here uses, and hyper's server side,
//! for a page that [`text`] writes in a hundred lines. Figures are read when somebody looks, so
//! that nothing is counted twice.

mod file;
mod serve;
mod text;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stage::{Error, Figure, Result};

use crate::watch::{Board, OnBoard};

/// What a run exposes while this lives.
pub(crate) struct Metrics {
    server: Option<serve::Server>,
    _file: Option<file::Textfile>,
}

impl Metrics {
    /// Serves the board's figures at `address` and writes them into `file`.
    ///
    /// # Errors
    /// When the port is taken or the file cannot be written.
    pub(crate) fn start(
        board: &Arc<Board>,
        address: Option<SocketAddr>,
        file: Option<PathBuf>,
    ) -> Result<Self> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let page = |board: &Arc<Board>| {
            let board = Arc::clone(board);
            move || text::page(&figures(&board.stages(), began))
        };
        let server = address.map(|address| serve::Server::start(address, page(board)));
        let file = file.map(|path| file::Textfile::start(path, page(board)));
        Ok(Self { server: server.transpose()?, _file: file.transpose()? })
    }

    /// Where the figures are served.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(serve::Server::address)
    }
}

/// `9400` or `127.0.0.1:9400`; a port alone is on loopback.
pub(crate) fn address(text: &str) -> Result<SocketAddr> {
    let port = text.parse::<u16>().ok().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    port.or_else(|| text.parse().ok()).ok_or_else(|| {
        Error::recipe(format!("--metrics: `{text}` is no port and no address")).hint(
            "write `9400` for this machine alone, or an address with its port: `0.0.0.0:9400`",
        )
    })
}

/// Everything there is to say; figures of one name stand together.
fn figures(stages: &[OnBoard], began: f64) -> Vec<Figure> {
    let mut all = vec![
        Figure::new("clipmill_build_info", "The version that runs.", 1.0)
            .with("version", env!("CARGO_PKG_VERSION")),
        Figure::new("clipmill_start_time_seconds", "When the run began, since 1970.", began),
    ];
    all.extend(process());
    let each = |name: &'static str, help: &'static str, value: &dyn Fn(&OnBoard) -> f64| {
        stages
            .iter()
            .map(|stage| {
                Figure::new(name, help, value(stage))
                    .with("stage", stage.id.clone())
                    .with("kind", stage.kind.clone())
            })
            .collect::<Vec<_>>()
    };
    all.extend(each("clipmill_stage_running", "1 while a stage runs.", &|stage| {
        f64::from(u8::from(stage.running))
    }));
    all.extend(each("clipmill_stage_units", "Units of a stage; 0 before it begins.", &|stage| {
        stage.units as f64
    }));
    all.extend(each(
        "clipmill_stage_units_done",
        "Committed units of a stage, those of earlier runs included.",
        &|stage| stage.done as f64,
    ));
    all.extend(each("clipmill_stage_seconds", "How long a stage has run.", &|stage| {
        let now = if stage.running { stage.began.elapsed().as_secs_f64() } else { 0.0 };
        stage.seconds.unwrap_or(now)
    }));
    all.extend(each(
        "clipmill_unit_progress_ratio",
        "How far the present unit of a stage is.",
        &|stage| match stage.within {
            (_, 0) => 0.0,
            (done, total) => done as f64 / total as f64,
        },
    ));
    for stage in stages {
        let row = |verdict: &str, reason: &str, count: u64| {
            let help = "Rows of the units that this run committed, by verdict and reason.";
            Figure::new("clipmill_rows_total", help, count as f64)
                .with("stage", stage.id.clone())
                .with("verdict", verdict)
                .with("reason", reason)
        };
        if stage.rows.entered > 0 {
            all.push(row("kept", "", stage.rows.kept));
        }
        all.extend(stage.rows.dropped.iter().map(|(why, count)| row("dropped", why, *count)));
        all.extend(stage.rows.failed.iter().map(|(why, count)| row("failed", why, *count)));
    }
    for stage in stages {
        for mut figure in stage.figures.iter().flat_map(|figures| figures.figures()) {
            figure.labels.insert(0, ("stage", stage.id.clone()));
            all.push(figure);
        }
    }
    // Two stages of one kind have figures of the same names.
    let mut names: Vec<&str> = Vec::new();
    all.iter().for_each(|figure| {
        if !names.contains(&figure.name) {
            names.push(figure.name);
        }
    });
    let place = |figure: &Figure| names.iter().position(|name| *name == figure.name);
    let mut placed: Vec<(Option<usize>, Figure)> =
        all.iter().map(|figure| (place(figure), figure.clone())).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, figure)| figure).collect()
}

/// Memory and open files of this process, under the names that every exporter uses; where the
/// system does not say, nothing.
fn process() -> Vec<Figure> {
    const PAGE: f64 = 4096.0;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    let files = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let memory = pages.map(|pages| {
        let help = "Resident memory of the process.";
        Figure::new("process_resident_memory_bytes", help, pages * PAGE)
    });
    let files =
        files.map(|files| Figure::new("process_open_fds", "Open file descriptors.", files as f64));
    memory.into_iter().chain(files).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use stage::Counts;

    use super::*;
    use crate::watch::Watch;

    fn board() -> Arc<Board> {
        let board = Board::default();
        board.begin(&[("pool", "fetch")], 12, 2);
        let mut counts = Counts::default();
        counts.keep();
        counts.fail("http_404");
        counts.fail("http_404");
        board.unit("pool", &counts);
        board.progress("pool").update(1, 4, "");
        board.begin(&[("second", "fetch")], 1, 0);
        Arc::new(board)
    }

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_scrape_over_loopback_gives_units_and_rows_by_verdict() {
        let board = board();
        let page = move || text::page(&figures(&board.stages(), 0.0));
        let server = serve::Server::start("127.0.0.1:0".parse().unwrap(), page).unwrap();
        let answer = get(server.address(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        text::check(body);
        for line in [
            "clipmill_stage_units{stage=\"pool\",kind=\"fetch\"} 12",
            "clipmill_stage_units_done{stage=\"pool\",kind=\"fetch\"} 3",
            "clipmill_stage_running{stage=\"second\",kind=\"fetch\"} 1",
            "clipmill_unit_progress_ratio{stage=\"pool\",kind=\"fetch\"} 0.25",
            "clipmill_rows_total{stage=\"pool\",verdict=\"kept\",reason=\"\"} 1",
            "clipmill_rows_total{stage=\"pool\",verdict=\"failed\",reason=\"http_404\"} 2",
        ] {
            assert!(body.lines().any(|l| l == line), "{line} is missing in:\n{body}");
        }
        let other = get(server.address(), "GET /secret HTTP/1.1\r\n\r\n");
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        let post = get(server.address(), "POST /metrics HTTP/1.1\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    }

    #[test]
    fn two_fetches_give_one_family_each() {
        struct Two;
        impl stage::Figures for Two {
            fn line(&self) -> String {
                String::new()
            }
            fn figures(&self) -> Vec<Figure> {
                vec![
                    Figure::new("clipmill_a_total", "A.", 1.0),
                    Figure::new("clipmill_b", "B.", 2.0).with("step", "dns"),
                ]
            }
        }
        let board = board();
        board.progress("pool").watch(Arc::new(Two));
        board.progress("second").watch(Arc::new(Two));
        let page = text::page(&figures(&board.stages(), 0.0));
        text::check(&page);
        assert!(page.contains("clipmill_b{stage=\"second\",step=\"dns\"} 2\n"), "{page}");
    }

    #[test]
    fn the_file_is_whole_at_every_moment_and_holds_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clipmill.prom");
        let board = board();
        let metrics = Metrics::start(&board, None, Some(path.clone())).unwrap();
        text::check(&std::fs::read_to_string(&path).unwrap());
        board.unit("pool", &Counts::default());
        drop(metrics);
        let last = std::fs::read_to_string(&path).unwrap();
        text::check(&last);
        assert!(last.contains("clipmill_stage_units_done{stage=\"pool\",kind=\"fetch\"} 4\n"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_port_that_is_taken_and_a_folder_that_is_not_there_are_told_before_the_run() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Metrics::start(&board(), Some(address), None).err().unwrap().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        let file = PathBuf::from("/no/such/folder/x.prom");
        let error = Metrics::start(&board(), None, Some(file)).err().unwrap().to_string();
        assert!(error.contains("/no/such/folder/x.prom"), "{error}");
    }

    #[test]
    fn a_port_alone_is_on_loopback() {
        assert_eq!(address("9400").unwrap().to_string(), "127.0.0.1:9400");
        assert_eq!(address("0.0.0.0:9400").unwrap().to_string(), "0.0.0.0:9400");
        assert!(address("localhost").unwrap_err().to_string().contains("`localhost`"));
    }
}
