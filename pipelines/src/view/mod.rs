//! `clipmill view`: a pool, a judged stage or a release in a browser on this machine.
//!
//! The page is served on loopback and asks nothing of anybody else. Nothing of the pairs is held in
//! memory but one page of rows, the members of a few tars, and, where there are embeddings, the uids
//! of their rows (16 bytes each): every search reads the parquet files from start to end.

mod http;
mod pictures;
mod rows;
mod search;
mod similar;
mod source;
mod survey;

use std::net::SocketAddr;
use std::sync::OnceLock;

use serde_json::{Value, json};
use stage::{Error, Result};

pub(crate) use self::http::Server;
use self::http::{Answer, Request};
use self::pictures::Pictures;
use self::search::Search;
use self::similar::Similar;
use self::source::Source;
use self::survey::Survey;

/// Pairs on a page.
const PAGE: usize = 60;

/// What is looked at, open.
pub(crate) struct View {
    source: Source,
    pictures: Pictures,
    similar: Option<Similar>,
    survey: OnceLock<Survey>,
}

impl View {
    /// Opens a folder: that of a release, of a `fetch`, `reshard` or `judge` stage, or any folder of
    /// shards with parquet files. Embeddings are taken from `embeddings`, the folder of an `embed`
    /// stage, or from one beside it.
    ///
    /// # Errors
    /// When it is none of these.
    pub(crate) fn open(folder: &str, embeddings: Option<&str>) -> Result<Self> {
        let source = Source::open(folder)?;
        let similar = match embeddings {
            Some(folder) => Some(Similar::open(std::path::Path::new(folder))?),
            None => source.embeddings().map(|folder| Similar::open(&folder)).transpose()?,
        };
        let pictures = Pictures::new(source.tars().clone());
        Ok(Self { source, pictures, similar, survey: OnceLock::new() })
    }

    /// What is served, in one line.
    pub(crate) fn about(&self) -> String {
        format!(
            "{} ({}), {} files of rows, {} shards{}",
            self.source.title(),
            self.source.kind(),
            self.source.tables().len(),
            self.source.tars().len(),
            if self.similar.is_some() { ", with embeddings" } else { "" }
        )
    }

    /// Serves on this port of loopback, 0 for a free one, until the server is dropped.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn serve(self, port: u16) -> Result<Server> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Server::start(address, move |request| self.answer(request))
    }

    fn answer(&self, request: &Request) -> Answer {
        let answered = match request.path.as_str() {
            "/" => return Answer::page(report::viewer::HTML),
            "/view.css" => return Answer::text("text/css", report::viewer::CSS),
            "/view.js" => return Answer::text("text/javascript", report::viewer::JS),
            "/api/info" => self.info(),
            "/api/rows" => self.rows(request),
            "/api/similar" => self.similar(request),
            "/picture" => return self.picture(request),
            _ => return Answer::missing(),
        };
        match answered {
            Ok(json) => Answer::json(&json),
            Err(error) => Answer::failed(&error),
        }
    }

    fn survey(&self) -> Result<&Survey> {
        if let Some(survey) = self.survey.get() {
            return Ok(survey);
        }
        let made = Survey::of(self.source.tables())?;
        Ok(self.survey.get_or_init(|| made))
    }

    fn info(&self) -> Result<Value> {
        let survey = self.survey()?;
        Ok(json!({
            "title": self.source.title(),
            "kind": self.source.kind(),
            "about": self.source.about(),
            "rows": survey.rows,
            "kept": survey.kept,
            "page": PAGE,
            "reasons": survey.reasons.iter().map(|(why, n)| json!({"reason": why, "count": n})).collect::<Vec<_>>(),
            "scores": survey.scores.iter().map(survey::Score::to_json).collect::<Vec<_>>(),
            "pictures": !self.source.tars().is_empty(),
            "similar": self.similar.is_some(),
        }))
    }

    fn rows(&self, request: &Request) -> Result<Value> {
        let search = Search::of(request)?;
        let page = request.number("page").unwrap_or(0.0).max(0.0) as usize;
        let first = page.saturating_mul(PAGE);
        let (total, rows) = search.run(self.source.tables(), first, PAGE)?;
        Ok(
            json!({"total": total, "page": page, "pages": total.div_ceil(PAGE as u64), "rows": rows}),
        )
    }

    fn similar(&self, request: &Request) -> Result<Value> {
        let similar = self.similar.as_ref().ok_or_else(|| {
            Error::input("there are no embeddings").hint("run an `embed` stage over these shards")
        })?;
        let uid = request.text("uid").unwrap_or_default();
        let near = similar.near(uid, PAGE)?;
        let mut rows = search::of_uids(self.source.tables(), &near)?;
        rows.truncate(PAGE);
        Ok(json!({"total": rows.len(), "page": 0, "pages": 1, "rows": rows}))
    }

    fn picture(&self, request: &Request) -> Answer {
        let (Some(shard), Some(key)) = (request.text("shard"), request.text("key")) else {
            return Answer::missing();
        };
        match self.pictures.find(shard, key) {
            Ok(Some(bytes)) => Answer::picture(&bytes),
            Ok(None) => Answer::missing(),
            Err(error) => Answer::failed(&error),
        }
    }
}
