//! One WAT record: the image links of one page.
//!
//! Rules: cc2dataset 1.5.0, `cc2dataset/main.py`, `extract_documents_from_wat` with
//! `document_type="image"`. A link is taken when its `path` is `IMG@/src` exactly and its `alt` is
//! not empty; its `url` is joined to the page's address (and `<base>`) unless it is absolute; what
//! is not http(s) after that is dropped. Nothing is normalised.
//!
//! Only the fields named there are kept while the JSON is read; everything else is checked and
//! passed over, as strictly as what is kept: a lone surrogate or a number beyond f64 makes the
//! record broken wherever it stands, as it does for the peer. Of equal keys in one object the last
//! counts, as in Python.

use md5::{Digest, Md5};

use super::LinksReport;
use super::cursor::{Cursor, Fault, Loose, Span, unescape};
use super::quotes::Places;
use super::urljoin::Joiner;

/// A link that is a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// md5 of `alt` then `url`.
    pub(crate) uid: [u8; 16],
    pub(crate) url: &'a str,
    pub(crate) alt: &'a str,
}

/// Where a page's links come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// `Container.Filename`, the archive that holds the page.
    pub(crate) cc_filename: &'a str,
    /// The page's own address.
    pub(crate) page_url: &'a str,
}

/// Reads records, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct PageReader {
    places: Places,
    links: Vec<ImageLink>,
    /// For strings with escapes: the archive, the page's address, a link's address, its alt text.
    texts: [String; 4],
    joiner: Joiner,
}

/// What matters of a page, as places in the record.
#[derive(Debug, Default)]
struct Page {
    filename: Option<Span>,
    envelope: Option<Envelope>,
}

#[derive(Debug, Default)]
struct Envelope {
    target: Option<Span>,
    payload: Option<Payload>,
}

#[derive(Debug, Default)]
struct Payload {
    html: Option<Html>,
}

#[derive(Debug, Default)]
struct Html {
    base: Option<Span>,
    has_links: bool,
}

/// An `IMG@/src` link.
#[derive(Debug, Clone, Copy)]
struct ImageLink {
    url: Option<Loose>,
    alt: Option<Loose>,
}

/// Links for which memory is kept from record to record.
const LINKS_KEPT: usize = 1 << 16;

impl PageReader {
    /// Reads one record; gives each row to `row`, and counts everything in `report`.
    pub(crate) fn read(
        &mut self,
        json: &[u8],
        report: &mut LinksReport,
        mut row: impl FnMut(Place<'_>, Found<'_>),
    ) {
        self.links.clear();
        self.links.shrink_to(LINKS_KEPT);
        if json.len() >= u32::MAX as usize {
            return report.fail("record_too_long");
        }
        let mut reading = Reading {
            text: json,
            cursor: Cursor::new(json, &mut self.places),
            links: &mut self.links,
        };
        let page = reading.document();
        let seen = reading.cursor.seen();
        // Text that is no UTF-8 is that before all, wherever its first fault is.
        if (page.is_err() || seen.beyond_ascii) && simdutf8::basic::from_utf8(json).is_err() {
            return report.fail("json_not_utf8");
        }
        let page = match page {
            Ok(page) => page,
            Err(Fault::Shape) => return report.fail("json_shape"),
            Err(Fault::Syntax) => return report.fail("json_syntax"),
        };
        let Some(Envelope { target, payload: Some(payload) }) = page.envelope else {
            return report.fail("no_envelope");
        };
        let Some(html) = payload.html else { return };
        report.pages += 1;
        if !html.has_links {
            return;
        }
        let links = &self.links;
        report.image_links += links.len() as u64;
        let Some(cc_filename) = page.filename else {
            return report.fail_links("no_filename", links.len());
        };
        let Some(page_url) = target else {
            return report.fail_links("no_target_uri", links.len());
        };
        let [filename_text, page_text, url_text, alt_text] = &mut self.texts;
        let text = |span: Span| span.of(json);
        let cc_filename = resolved(text(cc_filename), filename_text);
        let page_url = resolved(text(page_url), page_text);
        let place = Place { cc_filename, page_url };
        let own = html.base.map(|base| resolved(text(base), url_text));
        self.joiner.start(page_url, own);
        for link in links {
            match link_row(*link, json, &mut self.joiner, url_text, alt_text) {
                Ok(found) => {
                    report.rows += 1;
                    row(place, found);
                }
                Err(Lost::Dropped(reason)) => report.drop(reason),
                Err(Lost::Failed(reason)) => report.fail_links(reason, 1),
            }
        }
    }
}

enum Lost {
    Dropped(&'static str),
    Failed(&'static str),
}

fn link_row<'a>(
    link: ImageLink,
    json: &'a [u8],
    joiner: &'a mut Joiner,
    url_text: &'a mut String,
    alt_text: &'a mut String,
) -> Result<Found<'a>, Lost> {
    let alt = match link.alt {
        None => return Err(Lost::Dropped("no_alt")),
        Some(Loose::Text(alt)) if alt.start == alt.end => return Err(Lost::Dropped("no_alt")),
        Some(Loose::Text(alt)) => resolved(alt.of(json), alt_text),
        Some(Loose::Other) => return Err(Lost::Failed("alt_not_text")),
    };
    let url = match link.url {
        None => return Err(Lost::Failed("no_url")),
        Some(Loose::Text(url)) => url.of(json),
        Some(Loose::Other) => return Err(Lost::Failed("url_not_text")),
    };
    let url = resolved(url, url_text);
    let url = if is_http(url) { url } else { joiner.join(url) };
    if !is_http(url) {
        return Err(Lost::Dropped("not_http"));
    }
    let uid = Md5::new().chain_update(alt).chain_update(url.as_bytes()).finalize().into();
    Ok(Found { uid, url, alt })
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// The text of a checked string: borrowed, unless it holds escapes and `memory` is needed.
fn resolved<'a>(string: &'a [u8], memory: &'a mut String) -> &'a str {
    // The record was checked to be UTF-8, and quotes do not stand inside a character.
    let text = std::str::from_utf8(string).unwrap_or_default();
    if memchr::memchr(b'\\', string).is_none() {
        return text;
    }
    memory.clear();
    unescape(text, memory);
    memory
}

/// The reading of one record, an object a function; `DEPTH` containers are open around its values.
struct Reading<'a> {
    text: &'a [u8],
    cursor: Cursor<'a>,
    links: &'a mut Vec<ImageLink>,
}

/// Reads an object: the values of some keys as it is said, all others passed over.
macro_rules! object {
    ($self:ident, $depth:literal, { $($name:literal => $read:expr),+ }) => {
        let mut more = $self.cursor.object()?;
        while more {
            let key = $self.cursor.key()?;
            $(if $self.is(key, $name) {
                $read;
            } else)+ {
                $self.cursor.skip($depth)?;
            }
            more = $self.cursor.next_key()?;
        }
    };
}

impl Reading<'_> {
    fn document(&mut self) -> Result<Page, Fault> {
        let mut page = Page::default();
        object!(self, 1, {
            b"Container" => page.filename = self.container()?,
            b"Envelope" => page.envelope = Some(self.envelope()?)
        });
        self.cursor.end()?;
        Ok(page)
    }

    fn container(&mut self) -> Result<Option<Span>, Fault> {
        let mut filename = None;
        object!(self, 2, { b"Filename" => filename = Some(self.cursor.text()?) });
        Ok(filename)
    }

    fn envelope(&mut self) -> Result<Envelope, Fault> {
        let mut envelope = Envelope::default();
        object!(self, 2, {
            b"Payload-Metadata" => envelope.payload = Some(self.payload()?),
            b"WARC-Header-Metadata" => envelope.target = self.warc_header()?
        });
        Ok(envelope)
    }

    fn warc_header(&mut self) -> Result<Option<Span>, Fault> {
        let mut target = None;
        object!(self, 3, { b"WARC-Target-URI" => target = Some(self.cursor.text()?) });
        Ok(target)
    }

    fn payload(&mut self) -> Result<Payload, Fault> {
        let mut payload = Payload::default();
        object!(self, 3, { b"HTTP-Response-Metadata" => payload.html = self.http()? });
        Ok(payload)
    }

    fn http(&mut self) -> Result<Option<Html>, Fault> {
        let mut html = None;
        object!(self, 4, { b"HTML-Metadata" => html = Some(self.html()?) });
        Ok(html)
    }

    fn html(&mut self) -> Result<Html, Fault> {
        let mut html = Html::default();
        object!(self, 5, {
            b"Head" => html.base = self.head()?,
            b"Links" => {
                self.links()?;
                html.has_links = true;
            }
        });
        Ok(html)
    }

    fn head(&mut self) -> Result<Option<Span>, Fault> {
        let mut base = None;
        object!(self, 6, { b"Base" => base = Some(self.cursor.text()?) });
        Ok(base)
    }

    fn links(&mut self) -> Result<(), Fault> {
        self.links.clear();
        let mut more = self.cursor.array()?;
        while more {
            self.link()?;
            more = self.cursor.next_element()?;
        }
        Ok(())
    }

    fn link(&mut self) -> Result<(), Fault> {
        let (mut path, mut url, mut alt) = (None, None, None);
        let mut more = self.cursor.object()?;
        while more {
            // How most keys of most links are written: recognised at one look.
            let word = self.cursor.word().unwrap_or_default();
            if word == PATH {
                path = Some(Loose::Text(self.cursor.value_behind(8)?));
            } else if word & SEVEN == URL {
                url = Some(Loose::Text(self.cursor.value_behind(7)?));
            } else if word == TEXT {
                self.cursor.value_behind(8)?;
            } else if word & SEVEN == ALT {
                alt = Some(Loose::Text(self.cursor.value_behind(7)?));
            } else {
                let key = self.cursor.key()?;
                if self.is(key, b"path") {
                    path = Some(self.cursor.loose(7)?);
                } else if self.is(key, b"url") {
                    url = Some(self.cursor.loose(7)?);
                } else if self.is(key, b"alt") {
                    alt = Some(self.cursor.loose(7)?);
                } else {
                    self.cursor.skip(7)?;
                }
            }
            more = self.cursor.next_key()?;
        }
        if let Some(Loose::Text(path)) = path
            && self.is(path, b"IMG@/src")
        {
            self.links.push(ImageLink { url, alt });
        }
        Ok(())
    }

    /// Whether a string is this word, spelt with or without escapes.
    #[inline(always)]
    fn is(&self, string: Span, word: &[u8]) -> bool {
        let string = string.of(self.text);
        // Escapes only make a word longer.
        string == word
            || (string.len() > word.len() && self.cursor.seen().escapes && is_escaped(string, word))
    }
}

#[inline(never)]
fn is_escaped(string: &[u8], word: &[u8]) -> bool {
    let mut text = String::new();
    memchr::memchr(b'\\', string).is_some() && resolved(string, &mut text).as_bytes() == word
}

const PATH: u64 = u64::from_le_bytes(*b"\"path\":\"");
const TEXT: u64 = u64::from_le_bytes(*b"\"text\":\"");
const URL: u64 = u64::from_le_bytes(*b"\"url\":\"\0");
const ALT: u64 = u64::from_le_bytes(*b"\"alt\":\"\0");
/// The first seven bytes of a word.
const SEVEN: u64 = u64::MAX >> 8;
