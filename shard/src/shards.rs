//! A set of shards as a source of pairs: random access by index, or streamed in order.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow_array::builder::BinaryBuilder;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use stage::{Error, PairSource, Pairs, Result, in_parallel};
use store::Blob;
use store::subset::Uid;

use crate::member_index::Indexes;
use crate::sample::Sample;
use crate::sample_pairs::PairsOfSamples;
use crate::shard_index::{Row, Tar, Truncated};
use crate::spans::{Span, gather};
use crate::tar_name::is_tar;
use crate::uids;

/// Most bytes of members in one batch; Arrow's 32-bit offsets end at 2 GiB.
const MAX_BATCH_BYTES: u64 = i32::MAX as u64;
/// Bytes of members at which a streamed batch ends early.
const STREAM_BATCH_BYTES: u64 = 256 << 20;

/// All samples with a picture in a list of tars.
///
/// Opening reads the headers of each tar and nothing else; over a network, the index beside it where
/// there is one ([`crate::Indexes`]). Samples are numbered from 0 in the order
/// of the tars and, within a tar, of their members.
///
/// What a pair gets from its members:
///
/// | column | source |
/// | --- | --- |
/// | `image` | the member `jpg`, `png`, `jpeg` or `webp`, the first of these that is there |
/// | `caption` | the member `txt`, else the json's `caption`, else empty; broken UTF-8 is replaced |
/// | `uid` | the json's `uid`; else a resharded key; else md5 of caption and url; else md5 of `<shard>/<key>` |
/// | `url`, `sha256` | the json's; else empty, null |
/// | `width`, `height` | the json's, else the picture's header; null when that cannot be read |
/// | `original_width`, `original_height` | the json's, else as `width`, `height` |
/// | `status` | `success` |
#[derive(Debug)]
pub struct Shards {
    tars: Vec<Tar>,
    /// Number of the first sample of each tar.
    starts: Vec<usize>,
    len: usize,
    fingerprint: String,
    json_columns: Vec<String>,
    member_columns: Vec<String>,
    uids: OnceLock<Vec<Uid>>,
}

impl Shards {
    /// Opens these tars; each entry may be a path, a URL, a folder (its `.tar` files), a brace range
    /// or a list joined by `::`.
    ///
    /// # Errors
    /// When there is no tar, or one cannot be read whole.
    pub fn open(urls: &[String]) -> Result<Self> {
        Self::open_with(urls, Truncated::Refuse)
    }

    /// As [`Self::open`], with a choice about truncated tars.
    pub fn open_with(urls: &[String], truncated: Truncated) -> Result<Self> {
        let mut tars = Vec::new();
        for pattern in urls {
            let files = store::expand(pattern)?;
            let named = files.len() == 1 && files[0] == *pattern;
            tars.extend(files.into_iter().filter(|f| named || is_tar(f)));
        }
        if tars.is_empty() {
            return Err(Error::input("no tar found").at(urls.join(", ")).hint(
                "name tars, a folder that holds tars, or a range such as {00000..00012}.tar",
            ));
        }
        let indexes = Indexes::default();
        let open = |i: usize| Tar::open(&tars[i], i, truncated, &indexes);
        in_parallel(cores(), tars.len(), open).map(Self::of_tars)
    }

    /// As [`Self::open_with`] for tars that are open already.
    pub fn from_blobs(blobs: &[Blob], truncated: Truncated) -> Result<Self> {
        let indexes = Indexes::default();
        let open = |i: usize| Tar::of_blob(blobs[i].clone(), truncated, &indexes);
        in_parallel(cores(), blobs.len(), open).map(Self::of_tars)
    }

    fn of_tars(tars: Vec<Tar>) -> Self {
        let mut digest = Sha256::new();
        let mut starts = Vec::with_capacity(tars.len());
        let mut len = 0;
        for tar in &tars {
            digest.update(&tar.digest);
            starts.push(len);
            len += tar.rows.len();
        }
        let fingerprint = format!("{:x}", digest.finalize());
        let (json_columns, member_columns, uids) = (Vec::new(), Vec::new(), OnceLock::new());
        Self { tars, starts, len, fingerprint, json_columns, member_columns, uids }
    }

    /// Adds string columns to the pairs with these fields of the json: strings as they are, numbers
    /// and booleans as JSON text; null where the field is absent, null, a list or an object.
    ///
    /// # Errors
    /// When a name occurs twice or is a column that pairs have anyway.
    pub fn with_json_columns(mut self, names: &[&str]) -> Result<Self> {
        for &name in names {
            self.check_free(name)?;
            self.json_columns.push(name.to_owned());
        }
        Ok(self)
    }

    /// Adds binary columns to the pairs with the bytes of these members (`cls`, `npy`); null where a
    /// sample has no such member.
    ///
    /// # Errors
    /// When a name occurs twice or is a column that pairs have anyway.
    pub fn with_members(mut self, suffixes: &[&str]) -> Result<Self> {
        for &suffix in suffixes {
            self.check_free(suffix)?;
            self.member_columns.push(suffix.to_owned());
        }
        Ok(self)
    }

    fn check_free(&self, name: &str) -> Result<()> {
        let taken = Pairs::schema().column_with_name(name).is_some()
            || self.json_columns.iter().chain(&self.member_columns).any(|other| other == name);
        if taken {
            return Err(Error::recipe(format!("pairs already have a column `{name}`")));
        }
        Ok(())
    }

    /// Samples that were left out because they have no picture.
    #[must_use]
    pub fn without_picture(&self) -> u64 {
        self.tars.iter().map(|tar| tar.without_picture).sum()
    }

    /// Where truncated tars were cut: shard, member and offset.
    #[must_use]
    pub fn cuts(&self) -> Vec<&str> {
        self.tars.iter().filter_map(|tar| tar.cut.as_deref()).collect()
    }

    /// Bytes of all members of a sample.
    ///
    /// # Panics
    /// When `index` is not below `len`.
    #[must_use]
    pub fn sample_bytes(&self, index: usize) -> u64 {
        self.row(index).bytes()
    }

    /// The uid of every sample, read once: from the `uid` and `key` columns of the parquet beside a
    /// tar where there is one, else from the samples' json and txt, by the rule of the table above.
    pub fn uids(&self) -> Result<&[Uid]> {
        if let Some(uids) = self.uids.get() {
            return Ok(uids);
        }
        let uids = in_parallel(cores(), self.tars.len(), |i| uids::of_tar(&self.tars[i]))?.concat();
        Ok(self.uids.get_or_init(|| uids))
    }

    /// These samples with all their members, as they lie in the tars; in the order asked for.
    ///
    /// # Errors
    /// When an index is not below `len`, or a tar cannot be read.
    pub fn samples(&self, indices: &[usize]) -> Result<Vec<Sample<Bytes>>> {
        let mut wanted = Vec::with_capacity(indices.len() * 3);
        for &index in indices {
            if index >= self.len {
                return Err(Error::internal(format!("sample {index} of {}", self.len)));
            }
            let (tar, row) = self.place(index);
            wanted.extend(self.tars[tar].rows[row].parts.iter().map(|(_, span)| (tar, *span)));
        }
        let mut found = self.gather(&wanted)?.into_iter();
        let sample = |&index: &usize| {
            let row = self.row(index);
            let suffixes = row.parts.iter().map(|(suffix, _)| suffix.to_string());
            Sample { key: row.key.to_string(), parts: suffixes.zip(found.by_ref()).collect() }
        };
        Ok(indices.iter().map(sample).collect())
    }

    /// All pairs in order, `batch_size` at a time; a batch ends early at 256 MiB of members.
    pub fn pairs(&self, batch_size: usize) -> impl Iterator<Item = Result<Pairs>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = next;
            let mut bytes = 0;
            while next < self.len && (next - start) < batch_size.max(1) {
                bytes += self.sample_bytes(next);
                if bytes > STREAM_BATCH_BYTES && next > start {
                    break;
                }
                next += 1;
            }
            let batch: Vec<usize> = (start..next).collect();
            (!batch.is_empty()).then(|| self.read(&batch))
        })
    }

    pub(crate) fn tar_count(&self) -> usize {
        self.tars.len()
    }

    /// The samples of a tar.
    pub(crate) fn tar_range(&self, tar: usize) -> Range<usize> {
        let start = self.starts[tar];
        start..start + self.tars[tar].rows.len()
    }

    /// The tar and the row in it of a sample.
    pub(crate) fn place(&self, index: usize) -> (usize, usize) {
        // Empty tars share their start with the next one: the last of equal starts holds the sample.
        let tar = self.starts.partition_point(|&start| start <= index) - 1;
        (tar, index - self.starts[tar])
    }

    pub(crate) fn row(&self, index: usize) -> &Row {
        let (tar, row) = self.place(index);
        &self.tars[tar].rows[row]
    }

    pub(crate) fn blob(&self, tar: usize) -> Result<Blob> {
        self.tars[tar].blob()
    }

    /// Whether some tar is read over a network.
    pub(crate) fn any_remote(&self) -> bool {
        self.tars.iter().any(Tar::is_remote)
    }

    pub(crate) fn gather(&self, wanted: &[(usize, Span)]) -> Result<Vec<Bytes>> {
        gather(|tar| self.tars[tar].blob(), wanted)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl PairSource for Shards {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, indices: &[usize]) -> Result<Pairs> {
        let mut wanted = Vec::with_capacity(indices.len() * 3);
        let mut bytes = 0;
        for &index in indices {
            if index >= self.len {
                let message = format!("sample {index} of {}", self.len);
                return Err(Error::internal(message).at("shards"));
            }
            let (tar, row) = self.place(index);
            let row = &self.tars[tar].rows[row];
            let own = [row.picture(), row.part("txt"), row.part("json")];
            let asked = self.member_columns.iter().map(|suffix| row.part(suffix));
            for span in own.into_iter().chain(asked).flatten() {
                bytes += u64::from(span.len);
                wanted.push((tar, span));
            }
        }
        if bytes > MAX_BATCH_BYTES {
            let message = format!("{bytes} bytes in one batch, at most {MAX_BATCH_BYTES} fit");
            return Err(Error::recipe(message).hint("read fewer samples at a time"));
        }
        let mut found = self.gather(&wanted)?.into_iter();
        let mut pairs = PairsOfSamples::new(&self.json_columns);
        let mut members: Vec<BinaryBuilder> =
            self.member_columns.iter().map(|_| BinaryBuilder::new()).collect();
        for &index in indices {
            let (tar, row) = self.place(index);
            let Tar { stem, rows, .. } = &self.tars[tar];
            let row = &rows[row];
            let mut next = |wanted: bool| if wanted { found.next() } else { None };
            let picture = next(true).unwrap_or_default();
            let text = next(row.part("txt").is_some());
            let json = next(row.part("json").is_some());
            pairs.push(stem, &row.key, &picture, text.as_deref(), json.as_deref());
            for (suffix, column) in self.member_columns.iter().zip(&mut members) {
                column.append_option(next(row.part(suffix).is_some()));
            }
        }
        let mut pairs = pairs.finish()?;
        for (suffix, mut column) in self.member_columns.iter().zip(members) {
            pairs = pairs.with_column(suffix, Arc::new(column.finish()))?;
        }
        Ok(pairs)
    }

    /// Digest of each tar's file name, length, and list of members with offsets and lengths. It does
    /// not read the members: an edit in place that keeps every length goes unseen.
    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
