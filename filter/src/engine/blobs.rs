//! Remote files as DataFusion reads them: an object store whose objects are `store`'s blobs.
//!
//! So whatever address the other rooms can open, a query can too, with the same credentials, and a
//! file is read in the state in which its footer was vetted. Local files do not come here: each
//! blob of theirs would hold a file descriptor, and a pool may have tens of thousands of files.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use store::Blob;
use url::Url;

/// Where DataFusion finds the store.
const ROOT: &str = "blob://files";

/// Blobs by number; a path is the number and, for messages, the last part of the name.
#[derive(Default, Clone)]
pub(super) struct Blobs(Arc<RwLock<Vec<Blob>>>);

impl Blobs {
    /// The URL under which the store is registered.
    pub(super) fn root() -> Option<Url> {
        Url::parse(ROOT).ok()
    }

    /// Takes a blob in; the address is its URL for DataFusion.
    pub(super) fn add(&self, blob: Blob) -> Option<Url> {
        let mut blobs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut url = Self::root()?;
        let name = blob.name().rsplit('/').next().unwrap_or_default().to_owned();
        url.path_segments_mut().ok()?.push(&blobs.len().to_string()).push(&name);
        blobs.push(blob);
        Some(url)
    }

    fn find(&self, path: &Path) -> Result<(Blob, ObjectMeta)> {
        let number = path.parts().next().and_then(|part| part.as_ref().parse::<usize>().ok());
        let blobs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let blob = number.and_then(|number| blobs.get(number)).cloned();
        let blob = blob.ok_or_else(|| Error::NotFound {
            path: path.to_string(),
            source: "no file of this query".into(),
        })?;
        let meta = ObjectMeta {
            location: path.clone(),
            // Epoch: no query looks at it, and a clock has no place here.
            last_modified: std::time::UNIX_EPOCH.into(),
            size: blob.len(),
            e_tag: None,
            version: None,
        };
        Ok((blob, meta))
    }

    async fn get(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let (blob, meta) = self.find(path)?;
        let wanted = options.range.unwrap_or(GetRange::Offset(0));
        let range =
            if meta.size == 0 { 0..0 } else { wanted.as_range(meta.size).map_err(other)? };
        let bytes = if options.head {
            bytes::Bytes::new()
        } else {
            let range = range.clone();
            let read = tokio::task::spawn_blocking(move || read(&blob, range)).await;
            read.map_err(|source| Error::JoinError { source })??
        };
        let payload = GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }
}

fn read(blob: &Blob, range: Range<u64>) -> Result<bytes::Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(other)?;
    blob.read_at(range.start, length).map_err(other)
}

fn other(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "input", source: source.into() }
}

/// Queries only read.
fn refuse<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented { operation: operation.to_owned(), implementer: "Blobs".to_owned() })
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blobs")
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blobs")
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The trait is declared with `#[async_trait]`; these are the signatures that the macro writes.
impl ObjectStore for Blobs {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        _: &'b Path,
        _: PutPayload,
        _: PutOptions,
    ) -> Answer<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async { refuse("put") })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        _: &'b Path,
        _: PutMultipartOptions,
    ) -> Answer<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async { refuse("put in parts") })
    }

    fn get_opts<'a, 'b, 'c>(&'a self, path: &'b Path, options: GetOptions) -> Answer<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.get(path, options))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        stream::iter([refuse("delete")]).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([refuse("list")]).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, _: Option<&'b Path>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async { refuse("list") })
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        _: &'b Path,
        _: &'d Path,
        _: CopyOptions,
    ) -> Answer<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        Box::pin(async { refuse("copy") })
    }
}
