//! The polite and safe fetcher: links to pictures.
//!
//! ```no_run
//! use ingest::DialMap;
//! use ingest::fetch::{FetchPlan, Fetcher};
//! use stage::{Context, Links};
//!
//! # fn main() -> stage::Result<()> {
//! # let links: Vec<Links> = Vec::new();
//! let plan = FetchPlan { image_size: 512, ..FetchPlan::default() };
//! let fetcher = Fetcher::new(&plan, &DialMap::default(), &Context::default())?;
//! let counts = fetcher.run_unit(&links, 0, &mut |pairs| {
//!     println!("{} pairs", pairs.len());
//!     Ok(())
//! })?;
//! assert_eq!(counts.entered, counts.kept + counts.dropped_total() + counts.failed_total());
//! # Ok(())
//! # }
//! ```
//!
//! Of each URL, in this order and anew for every redirect: the URL's own rules (`policy`), the
//! opt-out lists (`opt_out`), the site's robots.txt (`robots`), the vetted address
//! (`store::is_public`, `dns`), the request (`get`, `client`), X-Robots-Tag (`robots_tag`), the body with its caps
//! (`body`); then the digest (`digest`), the header, the size rules, the user's program (`hook`),
//! decoding, resizing, blurring (`pixels::blur`) and encoding (`picture`).
//!
//! `dispatch` decides which request goes next: `queue` says whose turn it is; `turns` keeps the rhythm that a site asks for and counts requests
//! to one address; `in_flight` lowers the number of requests when the machine runs short; `alarm`
//! ends a run that only fails; `meter` says what holds things up. `links_say` reads what links say beside their URL, `unit` runs it
//! all, `desk` bounds what is finished and not yet handed on, `rows` puts it in order, and `again` tells what a later fetch may try again.
//!
//! [`decode`] is where pictures are made in processes of their own.
//!
//! Opt-outs that are honoured: lists of one's own, robots.txt, and of the picture's own answer
//! X-Robots-Tag and tdm-reservation. What the page around a picture says (`meta robots`,
//! `tdm-reservation` as a meta tag) is not: pages are not fetched, and the links of cc2dataset's
//! form do not carry it. Of img2dataset's flags there are not: lossy webp,
//! `disable_all_reencoding`, `ignore_ssl_certificate`, the choice of interpolation, and output
//! formats other than webdataset.
//!
//! # Reasons
//!
//! A link without a picture has one word in `error_message` and in the counts: under `dropped`
//! where a rule turned it away, under `failed` where something broke.
//!
//! | word | counted as | status | meaning |
//! | --- | --- | --- | --- |
//! | `bad_url` | failed | download | not a URL, longer than 2083 bytes, or with control characters |
//! | `scheme` | dropped | download | neither http nor https |
//! | `userinfo` | dropped | download | a name or password before the host |
//! | `port` | dropped | download | a port that `ports` does not list |
//! | `private_address` | dropped | download | only private, local or reserved addresses |
//! | `robots` | dropped | download | robots.txt forbids it |
//! | `crawl_delay` | failed | download | its turn after robots.txt's crawl-delay would come after `max_host_wait` |
//! | `robots_unreachable` | failed | download | the site answers, but gives no robots.txt (5xx, 429, too slow) |
//! | `noai` | dropped | download | X-Robots-Tag forbids it |
//! | `tdm_reserved` | dropped | download | its owner reserves the right to mine it (tdm-reservation) |
//! | `opt_out` | dropped | download | on a list of `opt_out`: the URL, a redirect's place, or the bytes |
//! | `dns` | failed | download | no address, or none in time |
//! | `connect` | failed | download | connection refused or impossible |
//! | `tls` | failed | download | no TLS handshake |
//! | `timeout_connect` | failed | download | no connection within `connect_timeout` |
//! | `timeout_first_byte` | failed | download | no head within `first_byte_timeout` |
//! | `timeout_read` | failed | download | silence in a body for `timeout` |
//! | `timeout_total` | failed | download | not done within `total_timeout` |
//! | `too_slow` | failed | download | slower than `min_rate` |
//! | `too_large` | failed | download | larger than `max_bytes` |
//! | `short_body` | failed | download | ended before its announced length, or within a chunk |
//! | `reset` | failed | download | the connection was lost |
//! | `bad_response` | failed | download | not HTTP |
//! | `content_encoding` | failed | download | packed, which nobody asked for |
//! | `http_404` and the like | failed | download | a status other than 200 |
//! | `bad_redirect` | failed | download | a redirect without a place to go to |
//! | `redirect_loop` | failed | download | a redirect to where the chain has been |
//! | `too_many_redirects` | failed | download | more than `max_redirects` |
//! | `open_files` | failed | download | no file descriptor left on this machine |
//! | `local_ports` | failed | download | no port or memory for another connection on this machine |
//! | `hash_mismatch` | failed | download | not the digest that `verify_hash` expects, or none is expected |
//! | `bad_boxes` | failed | resize | `bbox_col` holds no list of boxes: nothing is kept that might show a face |
//! | `hook_drop`, `hook_hash_only` | dropped | download | `hooks.before_store` said so |
//! | `hook_failed` | failed | download | `hooks.before_store` gave no answer |
//! | `image_too_small` | dropped | resize | a side under `min_image_size` |
//! | `image_too_large` | dropped | resize | an area over `max_image_area` |
//! | `aspect_ratio` | dropped | resize | a shape over `max_aspect_ratio` |
//! | `not_an_image` | failed | resize | a web page or the like, whatever its name and type say |
//! | `decoder_panic` | failed | resize | a bug in a decoder, held back |
//! | `decoder_crashed` | failed | resize | its worker process died (`decode.isolation`) |
//! | `decoder_timeout` | failed | resize | its worker process took longer than `decode.timeout` |
//! | `side_too_large`, `too_many_pixels`, `aspect_too_large`, `output_too_large` | dropped | resize | the decoder's caps on size |
//! | the other words of [`pixels::Refused`] | failed | resize | `truncated`, `broken`, `unsupported_format`, ... |

mod again;
mod alarm;
mod body;
mod budget;
mod client;
pub mod decode;
mod desk;
mod digest;
mod dispatch;
mod dns;
mod exif;
mod get;
mod hook;
mod http_date;
mod in_flight;
mod key;
mod links_say;
mod meter;
mod opt_out;
mod picture;
mod plan;
mod policy;
mod queue;
mod reason;
mod robots;
mod robots_tag;
mod rows;
mod turns;
mod unit;

pub use again::{failed_before, of_rows};
pub use decode::{Decode, Isolation};
pub use digest::Digest;
pub use dns::{Answer, Found, Lookup, OwnDns, SystemDns};
pub use hook::Hooks;
pub use opt_out::OptOut;
pub use plan::{EncodeFormat, FetchPlan, ResizeMode, Resolver};
pub use policy::check_url;
pub use reason::{Class, Reason};
pub use unit::Fetcher;
