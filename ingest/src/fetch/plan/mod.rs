//! What a recipe can say about `fetch`: img2dataset's names and defaults where it has one.

mod check;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Decode, Digest, Hooks, OptOut};
use crate::DialMap;

/// How links become pictures.
///
/// Names and defaults are img2dataset's (1.47, `main.py`) down to
/// `disallowed_header_directives`; what follows has no counterpart there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchPlan {
    /// Side that `resize_mode` speaks of, pixels, 1 to 8192. Default 256.
    pub image_size: u32,
    /// What happens to a picture of another size. Default `border`.
    pub resize_mode: ResizeMode,
    /// Leaves pictures alone that are not larger than `image_size`. Default false.
    pub resize_only_if_bigger: bool,
    /// Container of the pictures that are written. Default `jpg`.
    pub encode_format: EncodeFormat,
    /// `jpg`: quality, 1 to 100. `png`: compression, 0 to 9. `webp`: 101, which means lossless;
    /// lossy webp cannot be written. Default 95.
    pub encode_quality: u8,
    /// Keeps the downloaded bytes, metadata included, where the picture needed no change and has
    /// the right container already. Default false.
    pub skip_reencode: bool,
    /// Longest silence in the middle of a body, seconds, above 0. Default 10.
    pub timeout: f64,
    /// How often a URL is tried again after a broken connection, 408, 429 or 5xx, 0 to 10.
    /// Default 0.
    pub retries: u32,
    /// Requests in flight, 1 to 10000. Default 256.
    pub thread_count: u32,
    /// Links a unit, and so rows a shard, 1 to 1000000. Default 10000.
    pub number_sample_per_shard: u32,
    /// Digits of a shard's number, 1 to 9. Default 5; DataComp has 8.
    pub oom_shard_count: u32,
    /// Smallest side that is kept, pixels. Default 0.
    pub min_image_size: u32,
    /// Largest area that is kept, pixels; null for any. Default null.
    pub max_image_area: Option<u64>,
    /// Largest long side over short side that is kept, at least 1; null for any that the decoder's
    /// guard (20) lets pass. Default null.
    pub max_aspect_ratio: Option<f64>,
    /// Digest of the downloaded bytes, a column of this name: `md5`, `sha256`, `sha512`; null for
    /// none. Default `sha256`.
    pub compute_hash: Option<Digest>,
    /// Column of the links with the digest that the downloaded bytes must have, and its kind:
    /// `[sha256, sha256]`. Null for none. Default null.
    pub verify_hash: Option<(String, Digest)>,
    /// Writes the EXIF tags, without places, as a JSON object into a column `exif`. Default false;
    /// img2dataset's is true, but tags name people and serial numbers.
    pub extract_exif: bool,
    /// Column of the links with boxes of faces to blur: lists of `[x_min, y_min, x_max, y_max]` as
    /// shares of the stored picture's width and height, or the same as JSON text. Null for none.
    /// Default null.
    pub bbox_col: Option<String>,
    /// Link columns that are carried to the output beside `uid`. Default none.
    pub save_additional_columns: Vec<String>,
    /// Name under which sites address this crawl in robots.txt and X-Robots-Tag; letters, digits,
    /// `-` and `_`. Default null: `clipmill`.
    pub user_agent_token: Option<String>,
    /// X-Robots-Tag directives that forbid the use of a picture. Default `noai, noimageai,
    /// noindex, noimageindex`.
    pub disallowed_header_directives: Vec<String>,

    /// Drops a picture whose answer says `tdm-reservation: 1`. Default true.
    pub tdm_reservation: bool,
    /// Longest wait for a connection: the name, the socket and TLS, seconds, above 0. Default 5.
    pub connect_timeout: f64,
    /// Longest wait for the head of an answer, connecting included, seconds, at least
    /// `connect_timeout`. Default 10.
    pub first_byte_timeout: f64,
    /// Longest time for one URL with its redirects and retries, seconds, at least
    /// `first_byte_timeout`. Default 30.
    pub total_timeout: f64,
    /// Decodes JPEGs of a megapixel and more at a half, a quarter or an eighth of their size where at
    /// least 3 such pixels then fall on each pixel of the output along both axes: within 40 dB of
    /// the same file decoded whole, faster. False decodes every pixel, as img2dataset does. Default
    /// true.
    pub scaled_decode: bool,
    /// Largest body, bytes, 1 to 1073741824. Default 20971520 (20 MiB).
    pub max_bytes: u64,
    /// Slowest body, bytes a second, measured over `min_rate_window`; 0 for none. Default 1024.
    pub min_rate: u64,
    /// Time over which `min_rate` is measured, seconds, above 0. Default 5.
    pub min_rate_window: f64,
    /// Redirects followed for one URL, 0 to 20. Default 5.
    pub max_redirects: u32,
    /// Longest wait before a retry, whatever `Retry-After` says, seconds. Default 10.
    pub max_retry_wait: f64,
    /// Lists of domains, URLs, beginnings of URLs and digests that are neither asked for nor kept.
    /// Default none.
    pub opt_out: OptOut,
    /// Fetches again what failed for a passing reason (`Reason::is_worth_retrying` lists them) in
    /// the fetch stages that it is `from`, instead of links. Writes patch shards: their numbers go
    /// on after those of that stage, so that both can lie in one folder. Default false.
    pub retry_failed: bool,
    /// Programs of yours that decide about pictures. Default none.
    pub hooks: Hooks,
    /// Asks each site's robots.txt and obeys it. Default true.
    pub robots: bool,
    /// Requests in flight to one registrable domain, 1 to 1000. Default 8.
    pub max_per_host: u32,
    /// Requests in flight to one address, whatever the domain, 1 to 10000. Default 64.
    pub max_per_ip: u32,
    /// Longest crawl-delay of a robots.txt that is kept, seconds, 0 to 300; longer ones count as
    /// this. 0 ignores them. Default 30.
    pub max_crawl_delay: f64,
    /// Longest time for which the URLs of one site wait in a unit because of its crawl-delay,
    /// seconds; what is left then fails as `crawl_delay`. Default 600.
    pub max_host_wait: f64,
    /// Share of the last `alarm_window` URLs that must have given a picture, 0 to 1; below it the
    /// run ends with exit code 6 and the unit is not committed. 0 for never. Default 0.05.
    pub min_success_rate: f64,
    /// URLs over which `min_success_rate` is measured, 10 to 1000000; those that a rule dropped do
    /// not count. Default 1000.
    pub alarm_window: u32,
    /// Where pictures are decoded, and how far a decoder may go. Default in this process.
    pub decode: Decode,
    /// Who is asked for the addresses of names. Default `own`.
    pub resolver: Resolver,
    /// Ports that may be dialled. Default 80, 443, 8080, 8443.
    pub ports: Vec<u16>,
    /// Hosts, by name or literal address, that may lie on this machine's loopback. Default none.
    pub allow_loopback: Vec<String>,
    /// Hosts (`*` for all) that are asked, in plain http, at this address instead of where the DNS
    /// says: for replays and demos. Default none.
    pub dial: DialMap,
}

/// What happens to a picture of another size than `image_size`; img2dataset's five modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// Largest side to `image_size`, then white borders to a square.
    Border,
    /// Smallest side to `image_size`.
    KeepRatio,
    /// Largest side to `image_size`.
    KeepRatioLargest,
    /// Smallest side to `image_size`, then the square in the centre.
    CenterCrop,
    /// As it is.
    No,
}

/// Container of the pictures that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodeFormat {
    /// JPEG.
    Jpg,
    /// PNG.
    Png,
    /// Lossless WebP.
    Webp,
}

/// Who is asked for the addresses of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolver {
    /// The name servers of `/etc/resolv.conf`, hundreds of names at a time, and `/etc/hosts`.
    Own,
    /// The operating system, with everything that `nsswitch.conf` names, 64 names at a time.
    System,
}

impl Default for FetchPlan {
    fn default() -> Self {
        Self {
            image_size: 256,
            resize_mode: ResizeMode::Border,
            resize_only_if_bigger: false,
            encode_format: EncodeFormat::Jpg,
            encode_quality: 95,
            skip_reencode: false,
            timeout: 10.0,
            retries: 0,
            thread_count: 256,
            number_sample_per_shard: 10_000,
            oom_shard_count: 5,
            min_image_size: 0,
            max_image_area: None,
            max_aspect_ratio: None,
            compute_hash: Some(Digest::Sha256),
            verify_hash: None,
            extract_exif: false,
            bbox_col: None,
            save_additional_columns: Vec::new(),
            user_agent_token: None,
            disallowed_header_directives: ["noai", "noimageai", "noindex", "noimageindex"]
                .map(str::to_owned)
                .to_vec(),
            tdm_reservation: true,
            connect_timeout: 5.0,
            first_byte_timeout: 10.0,
            total_timeout: 30.0,
            scaled_decode: true,
            max_bytes: 20 << 20,
            min_rate: 1024,
            min_rate_window: 5.0,
            max_redirects: 5,
            max_retry_wait: 10.0,
            opt_out: OptOut::default(),
            retry_failed: false,
            hooks: Hooks::default(),
            robots: true,
            max_per_host: 8,
            max_per_ip: 64,
            max_crawl_delay: 30.0,
            max_host_wait: 600.0,
            min_success_rate: 0.05,
            alarm_window: 1000,
            decode: Decode::default(),
            resolver: Resolver::Own,
            ports: vec![80, 443, 8080, 8443],
            allow_loopback: Vec::new(),
            dial: DialMap::default(),
        }
    }
}

impl FetchPlan {
    /// The name under which sites address this crawl.
    #[must_use]
    pub fn agent(&self) -> &str {
        self.user_agent_token.as_deref().unwrap_or(AGENT)
    }

    /// What the `User-Agent` header says.
    #[must_use]
    pub fn user_agent(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match &self.user_agent_token {
            Some(token) => format!("{AGENT}/{version} (compatible; {token})"),
            None => format!("{AGENT}/{version}"),
        }
    }
}

/// The name of this crawler where a plan gives none.
pub(super) const AGENT: &str = "clipmill";

/// A checked number of seconds of the plan.
pub(super) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_img2datasets_and_valid() {
        let plan: FetchPlan = serde_json::from_str("{}").unwrap();
        plan.validate().unwrap();
        assert_eq!(plan.image_size, 256);
        assert_eq!(plan.resize_mode, ResizeMode::Border);
        assert_eq!((plan.encode_format, plan.encode_quality), (EncodeFormat::Jpg, 95));
        assert_eq!((plan.thread_count, plan.number_sample_per_shard), (256, 10_000));
        assert!((plan.timeout - 10.0).abs() < f64::EPSILON && plan.retries == 0);
    }

    #[test]
    fn datacomps_call_is_a_valid_plan() {
        let plan: FetchPlan = serde_json::from_str(
            r#"{"image_size": 512, "resize_mode": "keep_ratio_largest", "retries": 2,
                "resize_only_if_bigger": true, "thread_count": 128, "oom_shard_count": 8}"#,
        )
        .unwrap();
        plan.validate().unwrap();
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let message = serde_json::from_str::<FetchPlan>(r#"{"image_sise": 1}"#).unwrap_err();
        assert!(message.to_string().contains("unknown field `image_sise`"));
    }
}
