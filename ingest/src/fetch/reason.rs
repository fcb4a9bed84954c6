//! Why a link gave no picture: one stable word each.

use std::borrow::Cow;

use stage::Status;

/// Why a link gave no picture. [`Reason::word`] is what stands in `error_message` and in the
/// counts; the table is in the documentation of [`crate::fetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not a URL, longer than 2083 bytes, or with control characters.
    BadUrl,
    /// Neither http nor https.
    Scheme,
    /// A name or password before the host.
    Userinfo,
    /// A port that the plan does not list.
    Port,
    /// The host's addresses are all private, local or reserved.
    PrivateAddress,
    /// robots.txt forbids it.
    Robots,
    /// robots.txt asks for so long a delay that `max_host_wait` was over before its turn.
    CrawlDelay,
    /// robots.txt could not be had from a site that answers (5xx, 429, too slow).
    RobotsUnreachable,
    /// X-Robots-Tag forbids it.
    Noai,
    /// tdm-reservation says that its owner reserves the right to mine it.
    TdmReserved,
    /// On a list of `opt_out`: the URL, a place it redirects to, or the downloaded bytes.
    OptOut,
    /// The name has no address, or none within the time for connecting.
    Dns,
    /// The connection was refused or could not be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// No connection within `connect_timeout`.
    TimeoutConnect,
    /// No head of an answer within `first_byte_timeout`.
    TimeoutFirstByte,
    /// Silence in a body for `timeout`.
    TimeoutRead,
    /// Not done within `total_timeout`.
    TimeoutTotal,
    /// Slower than `min_rate`.
    TooSlow,
    /// Larger than `max_bytes`.
    TooLarge,
    /// The body ended before its announced length, or in the middle of a chunk.
    ShortBody,
    /// The connection was lost.
    Reset,
    /// An answer that is not HTTP.
    BadResponse,
    /// A Content-Encoding that nobody asked for.
    ContentEncoding,
    /// A status other than 200.
    Http(u16),
    /// A redirect without a place to go to.
    BadRedirect,
    /// A redirect to where the chain has been.
    RedirectLoop,
    /// More than `max_redirects`.
    TooManyRedirects,
    /// This machine has no file descriptor left.
    OpenFiles,
    /// This machine has no port or memory left for another connection.
    LocalPorts,
    /// The bytes have not the digest that the link's column of `verify_hash` says.
    HashMismatch,
    /// The link's `bbox_col` cannot be read, so that its faces cannot be blurred.
    BadBoxes,
    /// `hooks.before_store` wants nothing of it kept.
    HookDrop,
    /// `hooks.before_store` wants its digest kept and nothing else.
    HookHashOnly,
    /// `hooks.before_store` gave no answer.
    HookFailed,
    /// A side under `min_image_size`.
    ImageTooSmall,
    /// An area over `max_image_area`.
    ImageTooLarge,
    /// A shape over `max_aspect_ratio`.
    AspectRatio,
    /// The first bytes are those of no picture: mostly a web page that says 200.
    NotAnImage,
    /// The decoder panicked; a bug, counted instead of stopping the run.
    DecoderPanic,
    /// The decoder's process died of it.
    DecoderCrashed,
    /// The decoder's process took longer than `decode.timeout`.
    DecoderTimeout,
    /// The decoder's guard refused it; the word is that of [`pixels::Refused`].
    Picture(&'static str),
}

/// Whether a rule turned a link away or something broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A rule: counted as dropped.
    Dropped,
    /// A breakage: counted as failed.
    Failed,
}

impl Reason {
    /// The stable word.
    #[must_use]
    pub fn word(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::BadUrl => "bad_url",
            Self::Scheme => "scheme",
            Self::Userinfo => "userinfo",
            Self::Port => "port",
            Self::PrivateAddress => "private_address",
            Self::Robots => "robots",
            Self::CrawlDelay => "crawl_delay",
            Self::RobotsUnreachable => "robots_unreachable",
            Self::Noai => "noai",
            Self::TdmReserved => "tdm_reserved",
            Self::OptOut => "opt_out",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::TimeoutConnect => "timeout_connect",
            Self::TimeoutFirstByte => "timeout_first_byte",
            Self::TimeoutRead => "timeout_read",
            Self::TimeoutTotal => "timeout_total",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::ShortBody => "short_body",
            Self::Reset => "reset",
            Self::BadResponse => "bad_response",
            Self::ContentEncoding => "content_encoding",
            Self::Http(status) => return Cow::Owned(format!("http_{status}")),
            Self::BadRedirect => "bad_redirect",
            Self::RedirectLoop => "redirect_loop",
            Self::TooManyRedirects => "too_many_redirects",
            Self::OpenFiles => "open_files",
            Self::LocalPorts => "local_ports",
            Self::HashMismatch => "hash_mismatch",
            Self::BadBoxes => "bad_boxes",
            Self::HookDrop => "hook_drop",
            Self::HookHashOnly => "hook_hash_only",
            Self::HookFailed => "hook_failed",
            Self::ImageTooSmall => "image_too_small",
            Self::ImageTooLarge => "image_too_large",
            Self::AspectRatio => "aspect_ratio",
            Self::NotAnImage => "not_an_image",
            Self::DecoderPanic => "decoder_panic",
            Self::DecoderCrashed => "decoder_crashed",
            Self::DecoderTimeout => "decoder_timeout",
            Self::Picture(word) => word,
        })
    }

    /// Whether a rule turned the link away or something broke.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Scheme
            | Self::Userinfo
            | Self::Port
            | Self::PrivateAddress
            | Self::Robots
            | Self::Noai
            | Self::TdmReserved
            | Self::OptOut
            | Self::HookDrop
            | Self::HookHashOnly
            | Self::ImageTooSmall
            | Self::ImageTooLarge
            | Self::AspectRatio
            // The decoder's caps on size are rules too: nothing is wrong with such a picture.
            | Self::Picture(
                "side_too_large" | "too_many_pixels" | "aspect_too_large" | "output_too_large",
            ) => Class::Dropped,
            _ => Class::Failed,
        }
    }

    /// img2dataset's word for how far it came.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::BadBoxes
            | Self::ImageTooSmall
            | Self::ImageTooLarge
            | Self::AspectRatio
            | Self::NotAnImage
            | Self::DecoderPanic
            | Self::DecoderCrashed
            | Self::DecoderTimeout
            | Self::Picture(_) => Status::FailedToResize,
            _ => Status::FailedToDownload,
        }
    }

    /// Whether a link that failed for the reason of this word may well be had another day: what
    /// `retry_failed` fetches again.
    ///
    /// These are: `dns`, `connect`, `reset`, `short_body`, `too_slow`, every `timeout_...`,
    /// `robots_unreachable`, `crawl_delay`, `open_files`, `local_ports`, `hook_failed`, and the
    /// statuses 408, 425, 429 and 5xx. Not `tls` (a wrong certificate stays wrong), nor 404 and
    /// its like, nor whatever a rule dropped, nor what came and was no picture.
    #[must_use]
    pub fn is_worth_retrying(word: &str) -> bool {
        if let Some(status) = word.strip_prefix("http_") {
            let status: u16 = status.parse().unwrap_or(0);
            return matches!(status, 408 | 425 | 429 | 500..=599);
        }
        let words = [
            Self::Dns,
            Self::Connect,
            Self::Reset,
            Self::ShortBody,
            Self::TooSlow,
            Self::TimeoutConnect,
            Self::TimeoutFirstByte,
            Self::TimeoutRead,
            Self::TimeoutTotal,
            Self::RobotsUnreachable,
            Self::CrawlDelay,
            Self::OpenFiles,
            Self::LocalPorts,
            Self::HookFailed,
        ];
        words.iter().any(|reason| reason.word() == word)
    }

    /// Whether this machine lacks something, for which no URL is to blame.
    pub(super) fn is_own_shortage(self) -> bool {
        matches!(self, Self::OpenFiles | Self::LocalPorts)
    }

    /// Whether another try may end otherwise: the connection broke or the server is busy.
    pub(super) fn is_transient(self) -> bool {
        match self {
            Self::Connect
            | Self::TimeoutConnect
            | Self::Reset
            | Self::ShortBody
            | Self::OpenFiles
            | Self::LocalPorts => true,
            Self::Http(status) => status == 408 || status == 429 || (500..=599).contains(&status),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_in_the_table_of_the_module() {
        let table = include_str!("mod.rs");
        let source = include_str!("reason.rs");
        let words = source
            .lines()
            .filter(|line| line.contains("Self::") && line.contains("=> \""))
            .filter_map(|line| line.split('"').nth(1));
        let mut count = 0;
        for word in words {
            assert!(table.contains(&format!("`{word}`")), "`{word}` is not in the table");
            count += 1;
        }
        assert!(count >= 30, "only {count} words were found");
    }

    #[test]
    fn rules_are_dropped_and_breakages_failed() {
        assert_eq!(Reason::Robots.class(), Class::Dropped);
        assert_eq!(Reason::PrivateAddress.class(), Class::Dropped);
        assert_eq!(Reason::ImageTooSmall.class(), Class::Dropped);
        assert_eq!(Reason::Picture("too_many_pixels").class(), Class::Dropped);
        assert_eq!(Reason::Http(404).class(), Class::Failed);
        assert_eq!(Reason::Picture("truncated").class(), Class::Failed);
    }

    #[test]
    fn a_later_run_retries_what_may_pass_and_nothing_that_was_dropped() {
        for word in ["dns", "reset", "timeout_total", "http_503", "http_429", "robots_unreachable"]
        {
            assert!(Reason::is_worth_retrying(word), "{word}");
        }
        for word in ["http_404", "http_", "robots", "noai", "opt_out", "tls", "truncated", "", "x"]
        {
            assert!(!Reason::is_worth_retrying(word), "{word}");
        }
    }

    #[test]
    fn only_a_busy_server_or_a_broken_connection_is_tried_again() {
        assert!(Reason::Http(503).is_transient() && Reason::Http(429).is_transient());
        assert!(Reason::Reset.is_transient());
        assert!(!Reason::Http(404).is_transient() && !Reason::TooSlow.is_transient());
    }
}
