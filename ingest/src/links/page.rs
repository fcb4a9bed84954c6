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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::oracle;
    use super::*;

    /// The counts and rows of one record, by the cursor and by serde_json.
    fn both(reader: &mut PageReader, json: &[u8]) -> [(LinksReport, Vec<[String; 5]>); 2] {
        let row = |place: Place<'_>, found: &Found<'_>| {
            let uid = found.uid.iter().map(|byte| format!("{byte:02x}")).collect();
            let [cc_filename, page_url] = [place.cc_filename, place.page_url].map(str::to_owned);
            [uid, found.url.to_owned(), found.alt.to_owned(), cc_filename, page_url]
        };
        let [mut ours, mut theirs] = <[(LinksReport, Vec<_>); 2]>::default();
        reader.read(json, &mut ours.0, |place, found| ours.1.push(row(place, &found)));
        oracle::read_page(json, &mut theirs.0, |place, found| theirs.1.push(row(place, &found)));
        [ours, theirs]
    }

    #[track_caller]
    fn check(reader: &mut PageReader, json: &[u8]) -> (LinksReport, Vec<[String; 5]>) {
        let [ours, theirs] = both(reader, json);
        assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(json));
        ours
    }

    fn page(links: &str) -> String {
        format!(
            r#"{{"Container":{{"Filename":"a.warc.gz"}},"Envelope":{{"WARC-Header-Metadata":{{
            "WARC-Target-URI":"http://a.example/"}},"Payload-Metadata":{{"HTTP-Response-Metadata":
            {{"HTML-Metadata":{{"Head":{{"Base":"b/"}},"Links":{links}}}}}}}}}}}"#
        )
    }

    #[test]
    fn a_record_is_read_as_serde_json_reads_it_whatever_its_faults() {
        let reader = &mut PageReader::default();
        let link = r#"{"path":"IMG@/src","url":"c.jpg","alt":"a cat"}"#;
        assert_eq!(check(reader, page(&format!("[{link}]")).as_bytes()).0.rows, 1);
        // Values of a link, of a key that matters and of one that does not.
        let values = [
            "",
            "null",
            "nul",
            "nullx",
            "true",
            "falsey",
            "0",
            "-0",
            "00",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1.5",
            "1.e5",
            "1e5",
            "1E+5",
            "1e-5",
            "1e",
            "1e+",
            "1e308",
            "1e309",
            "-1e309",
            "0e999",
            "1.7976931348623157e308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
            "1e-999",
            "1e99999999999",
            "0e99999999999",
            "1e-99999999999",
            "18446744073709551616",
            "1 2",
            "\"",
            "\"x",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u00e9\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\\ud83d\\ud83d\\ude00\"",
            "\"\\ud83d\\u0041\"",
            "\"a\tb\"",
            "\"a\u{7f}b\"",
            "\"\u{0}\"",
            "[",
            "[]",
            "[ ]",
            "[,]",
            "[1,]",
            "[1,2]",
            "[1 2]",
            "[1}",
            "{",
            "{}",
            "{ }",
            "{,}",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1]",
            "{\"a\":[{\"b\":[]},{}]}",
            "//",
            "'x'",
            "\u{a0}1",
            "\u{feff}1",
            "\\\"",
            "\\u0022x\\u0022",
        ];
        let long = ["9".repeat(308), "9".repeat(309), format!("0.{}1", "0".repeat(400))];
        for value in values.into_iter().chain(long.iter().map(String::as_str)) {
            for key in ["path", "url", "alt", "text", "\\u0061lt", "p\\u0061th", "x"] {
                for link in [
                    format!(r#"[{{"path":"IMG@/src","url":"u","alt":"a","{key}":{value}}}]"#),
                    format!(r#"[{{"{key}" : {value},"path":"IMG@/src" ,"alt":"a", "url":"u" }}]"#),
                ] {
                    check(reader, page(&link).as_bytes());
                }
            }
            check(reader, page(value).as_bytes());
            check(reader, page(&format!("[{value}]")).as_bytes());
            check(reader, value.as_bytes());
            check(reader, format!("{} {value}", page("[]")).as_bytes());
            for name in [
                "Container",
                "Filename",
                "Envelope",
                "WARC-Header-Metadata",
                "WARC-Target-URI",
                "Payload-Metadata",
                "HTTP-Response-Metadata",
                "HTML-Metadata",
                "Head",
                "Base",
                "Links",
            ] {
                let whole = page(&format!("[{link}]"));
                let at = whole.find(&format!("\"{name}\":")).unwrap();
                // Before the true value, and so not counting, or failing first.
                let before = format!("{}\"{name}\":{value},{}", &whole[..at], &whole[at..]);
                check(reader, before.as_bytes());
                check(
                    reader,
                    whole.replace(&format!("\"{name}\""), &format!("\"{name}2\"")).as_bytes(),
                );
            }
        }
    }

    #[test]
    fn of_equal_objects_the_last_counts_with_nothing_of_the_first() {
        let reader = &mut PageReader::default();
        let whole = page(r#"[{"path":"IMG@/src","url":"c.jpg","alt":"a cat"}]"#);
        for name in ["Container", "Envelope", "Payload-Metadata", "HTML-Metadata", "Head"] {
            let at = whole.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
            // The value's end: the bracket that closes it.
            let mut depth = 0;
            let end = whole[at..].find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0 && c == '}'
            });
            let end = at + end.unwrap() + 1;
            let json = format!("{},\"{name}\":{{}}{}", &whole[..end], &whole[end..]);
            check(reader, json.as_bytes());
        }
        let twice = whole.replace("\"Links\"", "\"Links\":[{}],\"Links\"");
        assert_eq!(check(reader, twice.as_bytes()).0.rows, 1);
    }

    #[test]
    fn depth_ends_where_serde_jsons_does() {
        let reader = &mut PageReader::default();
        for depth in 110..135 {
            for (open, close) in [("[", "]"), (r#"{"x":"#, "}"), (r#"[{"x":"#, "}]")] {
                let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                check(reader, page(&format!(r#"[{{"x":{value}}}]"#)).as_bytes());
                check(reader, page(&value).replace("Links", "Other").as_bytes());
                check(reader, format!(r#"{{"x":{value}}}"#).as_bytes());
                let value = open.repeat(depth / 2);
                check(reader, format!(r#"{{"x":{value}}}"#).as_bytes());
            }
        }
        assert_eq!(check(reader, "[".repeat(1 << 20).as_bytes()).0.failed["json_shape"], 1);
        let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
        assert_eq!(check(reader, deep.as_bytes()).0.failed["json_syntax"], 1);
    }

    #[test]
    fn a_text_that_is_no_utf8_is_that_before_all() {
        let reader = &mut PageReader::default();
        for json in
            [&b"{\"a\":\"\xff\"}"[..], b"[\"\xff\"]", b"{]\xff", b"{\"\xf0\x9f\x98\"", b"{}\xff"]
        {
            assert_eq!(check(reader, json).0.failed["json_not_utf8"], 1);
        }
    }

    /// JSON values, now and then with faults in strings and numbers, with the keys that matter.
    fn value() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            4 => string(),
            1 => "(null|true|false|-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?)",
            1 => "[-+0-9.eEnulxtr]{1,6}",
        ];
        scalar.prop_recursive(8, 64, 5, |inner| {
            let pair = (blank(), key(), blank(), inner.clone())
                .prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
            let list = prop::collection::vec((blank(), inner, blank()), 0..5).prop_map(|values| {
                let values: Vec<_> = values.into_iter().map(|(a, v, b)| a + &v + &b).collect();
                format!("[{}]", values.join(","))
            });
            let object = prop::collection::vec(pair, 0..5)
                .prop_map(|pairs| format!("{{{}}}", pairs.join(",")));
            prop_oneof![list, object]
        })
    }

    fn blank() -> impl Strategy<Value = String> {
        prop_oneof![9 => Just(String::new()), 1 => "[ \\t\\r\\n]{1,70}"]
    }

    fn string() -> impl Strategy<Value = String> {
        let plain = "[ -!#-\\[\\]-~é😀\u{7f}]{0,70}".prop_map(|text| format!("\"{text}\""));
        let words =
            prop::sample::select(vec!["IMG@/src", "http://b.example/1.jpg", "a cat", "2.jpg"]);
        let escape = "(\\\\[\"\\\\/bfnrt]|\\\\u00[0-9a-fA-F]{2}|\\\\ud83d\\\\ude0[0-9])";
        let fault = "(\\\\.|\\\\u[0-9a-g]{2,4}|\\\\u[dD][89a-fA-F]00|[\\x00-\\x1f]|\\\\)";
        let faulty = ("[a-z]{0,3}", prop_oneof![6 => escape, 1 => fault], "[a-z]{0,3}");
        let faulty = prop::collection::vec(faulty, 1..20).prop_map(|parts| {
            format!("\"{}\"", parts.into_iter().map(|(a, b, c)| a + &b + &c).collect::<String>())
        });
        prop_oneof![3 => plain, 3 => words.prop_map(|word| format!("\"{word}\"")), 1 => faulty]
    }

    fn key() -> impl Strategy<Value = String> {
        let names = vec![
            "path",
            "url",
            "alt",
            "text",
            "path",
            "url",
            "alt",
            "Links",
            "Head",
            "Base",
            "p\\u0061th",
        ];
        let names = prop::sample::select(names).prop_map(|name| format!("\"{name}\""));
        prop_oneof![9 => names, 1 => string()]
    }

    fn links() -> impl Strategy<Value = String> {
        let field = (key(), prop_oneof![8 => string(), 1 => value()])
            .prop_map(|(key, value)| format!("{key}:{value}"));
        let fields = prop::collection::vec(field, 0..4);
        let link = fields.prop_map(|fields| {
            let fields: String = fields.into_iter().map(|field| ",".to_owned() + &field).collect();
            format!("{{\"path\":\"IMG@/src\"{fields}}}")
        });
        prop::collection::vec(prop_oneof![8 => link, 1 => value()], 0..12)
            .prop_map(|links| format!("[{}]", links.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_record_is_read_as_serde_json_reads_it(
            links in prop_oneof![6 => links(), 1 => value()],
            other in value(),
            head in prop_oneof![value(), Just("{}".to_owned())],
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..4),
        ) {
            let reader = &mut PageReader::default();
            let json = page(&links)
                .replacen("\"Head\"", &format!("\"Head\":{head},\"Head\""), 1)
                .replacen("{\"WARC-H", &format!("{{\"x\":{other},\"WARC-H"), 1);
            check(reader, json.as_bytes());
            let mut bytes = json.into_bytes();
            for (at, how, byte) in edits {
                let at = at.index(bytes.len());
                const OFTEN: &[u8] = b"\"\\{}[]:, u";
                let byte = OFTEN.get(usize::from(byte) % 16).copied().unwrap_or(byte);
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
                check(reader, &bytes);
            }
        }

        #[test]
        fn any_value_at_all_is_read_as_serde_json_reads_it(json in value()) {
            check(&mut PageReader::default(), json.as_bytes());
        }
    }
}
