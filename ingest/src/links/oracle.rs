//! The reading of a record by serde_json, against which the cursor is tested: the same rules, one
//! type an object.

use std::borrow::Cow;
use std::fmt;

use md5::{Digest, Md5};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::LinksReport;
use super::page::{Found, Place};
use super::urljoin::urljoin;

/// Reads one record; gives each row to `row`, and counts everything in `report`.
pub(super) fn read_page(
    json: &[u8],
    report: &mut LinksReport,
    mut row: impl FnMut(Place<'_>, Found<'_>),
) {
    // In place of the strings one by one: the check of a whole record is quicker.
    let Ok(json) = std::str::from_utf8(json) else { return report.fail("json_not_utf8") };
    let document: Document = match serde_json::from_str(json) {
        Ok(document) => document,
        Err(error) => {
            return report.fail(match error.classify() {
                Category::Data => "json_shape",
                _ => "json_syntax",
            });
        }
    };
    let Some(envelope) = document.envelope else { return report.fail("no_envelope") };
    let Some(payload) = envelope.payload else { return report.fail("no_envelope") };
    let Some(html) = payload.http.and_then(|http| http.html) else { return };
    report.pages += 1;
    let Some(links) = html.links else { return };
    report.image_links += links.found.len() as u64;
    let Some(cc_filename) = document.container.and_then(|container| container.filename) else {
        return report.fail_links("no_filename", links.found.len());
    };
    let Some(page_url) = envelope.warc_header.and_then(|header| header.target) else {
        return report.fail_links("no_target_uri", links.found.len());
    };
    let page_url = page_url.0.as_ref();
    let own = html.head.and_then(|head| head.base);
    let joined = own.as_ref().and_then(|base| urljoin(page_url, &base.0));
    let base = joined.as_deref().unwrap_or(page_url);
    let place = Place { cc_filename: &cc_filename.0, page_url };
    for link in &links.found {
        match link_row(link, base) {
            Ok((uid, url, alt)) => {
                report.rows += 1;
                row(place, Found { uid, url: &url, alt });
            }
            Err(Lost::Dropped(reason)) => report.drop(reason),
            Err(Lost::Failed(reason)) => report.fail_links(reason, 1),
        }
    }
}

enum Lost {
    Dropped(&'static str),
    Failed(&'static str),
}

/// `uid`, `url` and `alt`.
type Taken<'a> = ([u8; 16], Cow<'a, str>, &'a str);

fn link_row<'a>(link: &'a ImageLink<'_>, base: &'a str) -> Result<Taken<'a>, Lost> {
    let alt = match &link.alt {
        None => return Err(Lost::Dropped("no_alt")),
        Some(Loose::Text(alt)) if alt.is_empty() => return Err(Lost::Dropped("no_alt")),
        Some(Loose::Text(alt)) => alt.as_ref(),
        Some(Loose::Other) => return Err(Lost::Failed("alt_not_text")),
    };
    let url = match &link.url {
        None => return Err(Lost::Failed("no_url")),
        Some(Loose::Text(url)) => url.as_ref(),
        Some(Loose::Other) => return Err(Lost::Failed("url_not_text")),
    };
    let url = if is_http(url) {
        Cow::Borrowed(url)
    } else {
        urljoin(base, url).unwrap_or(Cow::Borrowed(url))
    };
    if !is_http(&url) {
        return Err(Lost::Dropped("not_http"));
    }
    let uid = Md5::new().chain_update(alt).chain_update(url.as_bytes()).finalize().into();
    Ok((uid, url, alt))
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// A JSON string, borrowed from the record unless it holds escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Texts)
    }
}

/// A string, or something that should have been one.
enum Loose<'a> {
    Text(Cow<'a, str>),
    Other,
}

/// Any value, checked as strictly as one that is kept: a lone surrogate or a number beyond f64
/// makes the record broken wherever it stands, as it does for the peer.
struct Skip;

macro_rules! visit_scalars {
    ($other:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while let Some(Skip) = seq.next_element()? {}
            Ok($other)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while let Some((Skip, Skip)) = map.next_entry()? {}
            Ok($other)
        }
    };
}

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Skip;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, _: &str) -> Result<Skip, E> {
                Ok(Skip)
            }

            visit_scalars!(Skip);
        }
        deserializer.deserialize_any(Anything)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Looses;
        impl<'de> Visitor<'de> for Looses {
            type Value = Loose<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Loose::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Loose::Text(Cow::Owned(text.to_owned())))
            }

            visit_scalars!(Loose::Other);
        }
        deserializer.deserialize_any(Looses)
    }
}

/// A JSON object of which a few keys matter; the last of equal keys counts.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($key:literal => $field:ident: $type:ty),+ }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name<'a> {
            $($field: Option<$type>),+
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Objects<'a>(std::marker::PhantomData<&'a ()>);
                impl<'de: 'a, 'a> Visitor<'de> for Objects<'a> {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<Self::Value, A::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<Text<'de>>()? {
                            match key.0.as_ref() {
                                $($key => object.$field = Some(map.next_value()?),)+
                                _ => {
                                    let Skip = map.next_value()?;
                                }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Objects(std::marker::PhantomData))
            }
        }
    };
}

object!(Document { "Container" => container: Container<'a>, "Envelope" => envelope: Envelope<'a> });
object!(Container { "Filename" => filename: Text<'a> });
object!(Envelope {
    "Payload-Metadata" => payload: Payload<'a>,
    "WARC-Header-Metadata" => warc_header: WarcHeader<'a>
});
object!(WarcHeader { "WARC-Target-URI" => target: Text<'a> });
object!(Payload { "HTTP-Response-Metadata" => http: Http<'a> });
object!(Http { "HTML-Metadata" => html: Html<'a> });
object!(Html { "Head" => head: Head<'a>, "Links" => links: Links<'a> });
object!(Head { "Base" => base: Text<'a> });
object!(
    /// A link of any kind.
    AnyLink { "path" => path: Loose<'a>, "url" => url: Loose<'a>, "alt" => alt: Loose<'a> }
);

/// The `IMG@/src` links among a page's links.
struct Links<'a> {
    found: Vec<ImageLink<'a>>,
}

struct ImageLink<'a> {
    url: Option<Loose<'a>>,
    alt: Option<Loose<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Links<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Arrays;
        impl<'de> Visitor<'de> for Arrays {
            type Value = Links<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of links")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(AnyLink { path, url, alt }) = seq.next_element()? {
                    if matches!(path, Some(Loose::Text(path)) if path == "IMG@/src") {
                        found.push(ImageLink { url, alt });
                    }
                }
                Ok(Links { found })
            }
        }
        deserializer.deserialize_seq(Arrays)
    }
}
