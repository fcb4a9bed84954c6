//! The rows of one WAT file in memory, sorted and without equal uids.

use super::page::{Found, Place};

/// One row, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) uid: [u8; 16],
    pub(super) url: &'a str,
    pub(super) alt: &'a str,
    pub(super) cc_filename: &'a str,
    pub(super) page_url: &'a str,
    /// Number of the record in its WAT file.
    pub(super) record: u64,
}

impl<'a> Row<'a> {
    /// Of rows with equal uids the one with the smallest rank stays. The page's address only
    /// decides between files that claim the same archive.
    pub(super) fn rank(&self) -> (&'a str, u64, &'a str) {
        (self.cc_filename, self.record, self.page_url)
    }
}

/// Rows of one WAT file. Texts lie in one string, so that a row costs 40 bytes and its text.
#[derive(Debug, Default)]
pub(super) struct Rows {
    text: String,
    pages: Vec<Page>,
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Page {
    record: u64,
    /// `cc_filename`, then `page_url`, from here.
    at: usize,
    filename_len: u32,
    url_len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    uid: [u8; 16],
    /// `url`, then `alt`, from here.
    at: usize,
    url_len: u32,
    alt_len: u32,
    page: u32,
}

impl Rows {
    /// Adds a row; records come in order. Lengths fit, since a record has at most 64 MiB.
    pub(super) fn push(&mut self, record: u64, place: Place<'_>, found: &Found<'_>) {
        if self.pages.last().is_none_or(|page| page.record != record) {
            let at = self.text.len();
            self.text.push_str(place.cc_filename);
            self.text.push_str(place.page_url);
            self.pages.push(Page {
                record,
                at,
                filename_len: place.cc_filename.len() as u32,
                url_len: place.page_url.len() as u32,
            });
        }
        let at = self.text.len();
        self.text.push_str(found.url);
        self.text.push_str(found.alt);
        self.links.push(Link {
            uid: found.uid,
            at,
            url_len: found.url.len() as u32,
            alt_len: found.alt.len() as u32,
            page: (self.pages.len() - 1) as u32,
        });
    }

    /// Sorts by uid; of equal uids the row with the smallest rank stays.
    pub(super) fn sort(&mut self) {
        let mut links = std::mem::take(&mut self.links);
        // Within a file a smaller page number is a smaller record number.
        links.sort_by(|a, b| {
            let by_name = || self.filename(a).cmp(self.filename(b));
            a.uid.cmp(&b.uid).then_with(by_name).then(a.page.cmp(&b.page))
        });
        links.dedup_by_key(|link| link.uid);
        self.links = links;
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        let links = self.links.capacity() * size_of::<Link>();
        let pages = self.pages.capacity() * size_of::<Page>();
        (self.text.capacity() + links + pages) as u64
    }

    pub(super) fn row(&self, i: usize) -> Row<'_> {
        let link = &self.links[i];
        let page = &self.pages[link.page as usize];
        let cut = |at: usize, len: u32| &self.text[at..at + len as usize];
        Row {
            uid: link.uid,
            url: cut(link.at, link.url_len),
            alt: cut(link.at + link.url_len as usize, link.alt_len),
            cc_filename: self.filename(link),
            page_url: cut(page.at + page.filename_len as usize, page.url_len),
            record: page.record,
        }
    }

    fn filename(&self, link: &Link) -> &str {
        let page = &self.pages[link.page as usize];
        &self.text[page.at..page.at + page.filename_len as usize]
    }
}
