//! A prefix of an object store, driven from blocking code.
//!
//! Every put is retried by object_store itself (10 tries, 180 s). What it cannot know is whether a
//! put whose answer was lost took effect, nor whether one that was answered did: [`Bucket::create`]
//! reads the object back and compares bytes, which differ between writers because each record
//! carries a nonce.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{
    Error as StoreError, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};
use stage::{Error, Kind, Result, ResultExt};
use url::Url;

use crate::runtime::wait;
use crate::space::{Entry, MAX_SMALL, Space};
use crate::trouble::{bucket_error, disk_error};
use crate::{Blob, fail};

/// Files above this many bytes are uploaded in parts of it. S3 allows 10,000 parts.
const PART: usize = 16 << 20;
/// Parts in flight, each in memory.
const PARTS: usize = 4;
/// Requests in flight where one call makes many.
const PARALLEL: usize = 32;

pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    url: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.url).finish()
    }
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Key, url: &str) -> Self {
        Self { store, prefix, url: url.trim_end_matches('/').to_owned() }
    }

    fn key(&self, name: &str) -> Key {
        let parts = name.split('/').filter(|part| !part.is_empty());
        self.prefix.parts().chain(parts.map(Into::into)).collect()
    }

    fn list(&self, folder: &str) -> Result<Vec<object_store::ObjectMeta>> {
        self.fail_point("bucket.before_list", folder)?;
        let (store, key) = (Arc::clone(&self.store), self.key(folder));
        wait(async move { store.list(Some(&key)).try_collect().await })?
            .map_err(|error| self.error(folder, "cannot list", error))
    }

    fn list_here(&self, folder: &str) -> Result<object_store::ListResult> {
        self.fail_point("bucket.before_list", folder)?;
        let (store, key) = (Arc::clone(&self.store), self.key(folder));
        wait(async move { store.list_with_delimiter(Some(&key)).await })?
            .map_err(|error| self.error(folder, "cannot list", error))
    }

    fn error(&self, name: &str, doing: &str, error: StoreError) -> Error {
        bucket_error(Kind::Store, self.locate(name), doing, error)
    }

    fn fail_point(&self, point: &'static str, name: &str) -> Result<()> {
        fail::point(point).map_err(|error| disk_error(self.locate(name), "cannot go on", error))
    }
}

/// The store and key behind a URL of another scheme than `file`.
pub(crate) fn open(url: &Url) -> Result<(Arc<dyn ObjectStore>, Key)> {
    let host = url.host_str().unwrap_or_default();
    let known = format!("{}://{host}", url.scheme());
    let key = Key::from_url_path(url.path())
        .map_err(|error| Error::recipe("not a path of an object store").at(url).because(error))?;
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = clients.get(&known).and_then(Client::get) {
        return Ok((store, key));
    }
    match url.scheme() {
        "s3" | "s3a" => {
            let store = AmazonS3Builder::from_env().with_bucket_name(host).build();
            let store: Arc<dyn ObjectStore> = Arc::new(store.map_err(|error| {
                bucket_error(Kind::Recipe, url, "cannot open the bucket", error)
            })?);
            clients.insert(known, Client::Kept(Arc::clone(&store)));
            Ok((store, key))
        }
        "memory" => Err(Error::input("this in-memory store is gone").at(url)),
        scheme => Err(Error::recipe(format!("cannot open `{scheme}://` addresses"))
            .at(url)
            .hint("use a path, `file://`, `s3://` or, to read, `https://`")),
    }
}

/// Makes a store reachable under a `memory://` URL, for as long as somebody else holds it.
pub(crate) fn name_store(store: &Arc<dyn ObjectStore>) -> String {
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    clients.retain(|_, client| client.get().is_some());
    let number = (0..=clients.len()).find(|n| !clients.contains_key(&format!("memory://{n}")));
    let url = format!("memory://{}", number.unwrap_or_default());
    clients.insert(url.clone(), Client::Borrowed(Arc::downgrade(store)));
    url
}

/// Clients by scheme and bucket. They are shared over the process because each holds a connection
/// pool and credentials, and blobs of one bucket are opened by the thousand.
static CLIENTS: Mutex<BTreeMap<String, Client>> = Mutex::new(BTreeMap::new());

enum Client {
    Kept(Arc<dyn ObjectStore>),
    Borrowed(Weak<dyn ObjectStore>),
}

impl Client {
    fn get(&self) -> Option<Arc<dyn ObjectStore>> {
        match self {
            Self::Kept(store) => Some(Arc::clone(store)),
            Self::Borrowed(store) => store.upgrade(),
        }
    }
}

/// Whether the store said that somebody else's object is there or on its way.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
}

fn missing_is_none<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(store: Arc<dyn ObjectStore>, key: Key) -> Result<Option<Bytes>, StoreError> {
    match missing_is_none(store.get(&key).await)? {
        Some(found) if found.meta.size > MAX_SMALL => Err(StoreError::NotSupported {
            source: format!("{} bytes are no small file", found.meta.size).into(),
        }),
        Some(found) => found.bytes().await.map(Some),
        None => Ok(None),
    }
}

impl Space for Bucket {
    fn url(&self) -> &str {
        &self.url
    }

    fn locate(&self, name: &str) -> String {
        if name.is_empty() { self.url.clone() } else { format!("{}/{name}", self.url) }
    }

    fn local_root(&self) -> Option<&Path> {
        None
    }

    fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.fail_point("bucket.before_read", name)?;
        wait(read(Arc::clone(&self.store), self.key(name)))?
            .map_err(|error| self.error(name, "cannot read", error))
    }

    fn read_many(&self, names: Vec<String>) -> Result<Vec<Option<Bytes>>> {
        self.fail_point("bucket.before_read", "")?;
        let store = Arc::clone(&self.store);
        let keys: Vec<Key> = names.iter().map(|name| self.key(name)).collect();
        wait(async move {
            futures::stream::iter(keys)
                .map(|key| read(Arc::clone(&store), key))
                .buffered(PARALLEL)
                .try_collect()
                .await
        })?
        .map_err(|error| self.error("", "cannot read", error))
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        self.fail_point("bucket.before_look", name)?;
        let (store, key) = (Arc::clone(&self.store), self.key(name));
        wait(async move { missing_is_none(store.head(&key).await) })?
            .map(|meta| meta.map(|meta| meta.size))
            .map_err(|error| self.error(name, "cannot look at", error))
    }

    fn sizes(&self, folder: &str, names: &BTreeSet<String>) -> Result<BTreeMap<String, u64>> {
        if names.len() <= PARALLEL {
            // The files of one unit; a listing would go through all units.
            let mut sizes = BTreeMap::new();
            for name in names {
                if let Some(size) = self.size(&format!("{folder}/{name}"))? {
                    sizes.insert(name.clone(), size);
                }
            }
            return Ok(sizes);
        }
        let mut by_key: BTreeMap<Key, &String> =
            names.iter().map(|name| (self.key(&format!("{folder}/{name}")), name)).collect();
        let sizes = self
            .list(folder)?
            .into_iter()
            .filter_map(|meta| by_key.remove(&meta.location).map(|name| (name.clone(), meta.size)));
        Ok(sizes.collect())
    }

    fn files(&self, folder: &str) -> Result<Vec<Entry>> {
        let found = self.list_here(folder)?.objects.into_iter();
        let mut entries: Vec<Entry> = found
            .map(|meta| Entry {
                name: meta.location.filename().unwrap_or_default().to_owned(),
                modified: meta.last_modified.into(),
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let found = self.list_here(folder)?.common_prefixes;
        let mut names: Vec<String> =
            found.iter().filter_map(|key| key.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    fn has_folder(&self, folder: &str) -> Result<bool> {
        let found = self.list_here(folder)?;
        Ok(!found.objects.is_empty() || !found.common_prefixes.is_empty())
    }

    fn newest(&self, folder: &str) -> Result<Option<SystemTime>> {
        Ok(self.list(folder)?.into_iter().map(|meta| meta.last_modified.into()).max())
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        // A store may answer "conflict" while another put is still on its way, and then hold
        // neither: hence more than one round.
        let mut rounds = 0;
        loop {
            rounds += 1;
            self.fail_point("bucket.before_create", name)?;
            let (store, key) = (Arc::clone(&self.store), self.key(name));
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let payload = PutPayload::from(bytes.clone());
            let put = wait(async move { store.put_opts(&key, payload, options).await })?;
            self.fail_point("bucket.after_create", name)?;
            // Whatever the answer was: what lies there decides.
            match (put, wait(read(Arc::clone(&self.store), self.key(name)))?) {
                (_, Ok(Some(found))) => return Ok(found == bytes),
                (Err(error), Ok(None)) if rounds < 4 && is_refusal(&error) => {}
                (Err(error), _) => return Err(self.error(name, "cannot write", error)),
                (Ok(_), Err(error)) => return Err(self.error(name, "cannot read back", error)),
                (Ok(_), Ok(None)) => {
                    return Err(Error::store("the store took this object and does not have it")
                        .at(self.locate(name))
                        .hint("run the same command again to go on; if it recurs, choose another store"));
                }
            }
        }
    }

    fn replace(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.fail_point("bucket.before_replace", name)?;
        let (store, key) = (Arc::clone(&self.store), self.key(name));
        wait(async move { store.put(&key, PutPayload::from(bytes)).await })?
            .map_err(|error| self.error(name, "cannot write", error))?;
        self.fail_point("bucket.after_replace", name)
    }

    fn upload(&self, name: &str, path: &Path) -> Result<()> {
        self.fail_point("bucket.before_upload", name)?;
        let unreadable = |error| disk_error(path.display(), "cannot read", error);
        let mut file = File::open(path).map_err(unreadable)?;
        let mut next = || -> Result<Bytes> {
            self.fail_point("bucket.before_part", name)?;
            let mut part = Vec::new();
            file.by_ref().take(PART as u64).read_to_end(&mut part).map_err(unreadable)?;
            Ok(part.into())
        };
        let first = next()?;
        if first.len() < PART {
            let (store, key) = (Arc::clone(&self.store), self.key(name));
            return wait(async move { store.put(&key, first.into()).await })?
                .map(|_| ())
                .map_err(|error| self.error(name, "cannot upload", error));
        }
        let (store, key) = (Arc::clone(&self.store), self.key(name));
        let mut upload = wait(async move { store.put_multipart(&key).await })?
            .map_err(|error| self.error(name, "cannot upload", error))?;
        let send = || -> Result<()> {
            let mut parts = vec![upload.put_part(first.into())];
            loop {
                let part = next()?;
                let last = part.is_empty();
                if !last {
                    parts.push(upload.put_part(part.into()));
                }
                if last || parts.len() == PARTS {
                    let sent = futures::future::try_join_all(std::mem::take(&mut parts));
                    wait(sent)?.map_err(|error| self.error(name, "cannot upload", error))?;
                }
                if last {
                    return Ok(());
                }
            }
        };
        let sent = send().and_then(|()| self.fail_point("bucket.before_complete", name));
        if let Err(error) = sent {
            abort(upload);
            return Err(error);
        }
        let (outcome, upload) = wait(async move { (upload.complete().await, upload) })?;
        outcome.map(|_| ()).map_err(|error| {
            abort(upload);
            self.error(name, "cannot finish the upload", error)
        })
    }

    fn publish(&self, from: &str, to: &str) -> Result<bool> {
        let (store, source, target) = (Arc::clone(&self.store), self.key(from), self.key(to));
        self.fail_point("bucket.before_copy", to)?;
        let copied = wait(async move { missing_is_none(store.copy(&source, &target).await) })?;
        if copied.map_err(|error| self.error(to, "cannot publish", error))?.is_none() {
            return Ok(false);
        }
        self.fail_point("bucket.before_delete", from)?;
        let (store, source) = (Arc::clone(&self.store), self.key(from));
        wait(async move { missing_is_none(store.delete(&source).await) })?
            .map(|_| true)
            .map_err(|error| self.error(from, "cannot remove", error))
    }

    fn settle(&self, _folder: &str) -> Result<()> {
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.fail_point("bucket.before_remove", name)?;
        let (store, key) = (Arc::clone(&self.store), self.key(name));
        wait(async move { missing_is_none(store.delete(&key).await) })?
            .map(|_| ())
            .map_err(|error| self.error(name, "cannot remove", error))
    }

    fn remove_tree(&self, folder: &str) -> Result<()> {
        self.fail_point("bucket.before_remove_folder", folder)?;
        let (store, key) = (Arc::clone(&self.store), self.key(folder));
        wait(async move {
            let found: Vec<Key> =
                store.list(Some(&key)).map_ok(|meta| meta.location).try_collect().await?;
            let found = futures::stream::iter(found.into_iter().map(Ok)).boxed();
            let removed = store.delete_stream(found).map(missing_is_none);
            removed.try_for_each(|_| async { Ok(()) }).await
        })?
        .map_err(|error| self.error(folder, "cannot remove", error))
    }

    fn blob(&self, name: &str) -> Result<Blob> {
        Blob::open_object(Arc::clone(&self.store), self.key(name), self.locate(name))
    }
}

/// Gives up an upload, so that its parts cost nothing more. Best effort.
fn abort(mut upload: Box<dyn MultipartUpload>) {
    let aborted = wait(async move { upload.abort().await }).and_then(|done| done.store("abort"));
    if let Err(error) = aborted {
        tracing::warn!(%error, "an unfinished multipart upload stays in the store");
    }
}
