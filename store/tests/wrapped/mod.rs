//! An object store in memory whose calls may go wrong, as a test says of each.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A call to the store.
pub(crate) enum Call<'a> {
    /// A whole object; its options may be changed.
    Put(&'a mut PutOptions),
    /// A listing as a stream, or the removal of a stream of objects.
    Stream,
    /// Anything else.
    Other,
}

/// What goes wrong with a call.
#[allow(dead_code, reason = "each test file uses some of it")]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It does nothing and gives this.
    Refuse(Error),
    /// It is done and gives this.
    Late(Error),
    /// It is done after a while.
    Slow,
    /// A put does nothing and says that it did.
    Forget,
}

/// Says of each call what goes wrong with it.
pub(crate) trait Faults: fmt::Debug + Send + Sync + 'static {
    fn fault(&self, call: Call<'_>) -> Fault;
}

/// The store.
#[derive(Debug)]
pub(crate) struct Wrapped<F> {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) faults: F,
}

impl<F: Faults> Wrapped<F> {
    pub(crate) fn new(inner: Arc<InMemory>, faults: F) -> Arc<Self> {
        Arc::new(Self { inner, faults })
    }

    async fn pass<T>(&self, fault: Fault, call: impl Future<Output = Result<T>>) -> Result<T> {
        match fault {
            Fault::Refuse(error) => Err(error),
            Fault::Late(error) => call.await.and(Err(error)),
            Fault::Slow => {
                std::thread::sleep(Duration::from_millis(1));
                call.await
            }
            Fault::None | Fault::Forget => call.await,
        }
    }
}

pub(crate) fn timeout() -> Error {
    Error::Generic { store: "Wrapped", source: "timed out".into() }
}

impl<F> fmt::Display for Wrapped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped")
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl<F: Faults> ObjectStore for Wrapped<F> {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Answer<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move {
            let fault = self.faults.fault(Call::Put(&mut options));
            if matches!(fault, Fault::Forget) {
                return Ok(PutResult { e_tag: None, version: None });
            }
            self.pass(fault, self.inner.put_opts(location, payload, options)).await
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: PutMultipartOptions,
    ) -> Answer<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
    {
        let call = self.inner.put_multipart_opts(location, options);
        Box::pin(async move { self.pass(self.faults.fault(Call::Other), call).await })
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: GetOptions,
    ) -> Answer<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
    {
        let call = self.inner.get_opts(location, options);
        Box::pin(async move { self.pass(self.faults.fault(Call::Other), call).await })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.faults.fault(Call::Stream) {
            Fault::Refuse(_) => locations.map(|_| Err(timeout())).boxed(),
            Fault::Late(_) => self.inner.delete_stream(locations).map(|_| Err(timeout())).boxed(),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.fault(Call::Stream) {
            Fault::Refuse(error) | Fault::Late(error) => {
                futures::stream::once(async { Err(error) }).boxed()
            }
            _ => self.inner.list(prefix),
        }
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answer<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
    {
        let call = self.inner.list_with_delimiter(prefix);
        Box::pin(async move { self.pass(self.faults.fault(Call::Other), call).await })
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Path,
        to: &'d Path,
        options: CopyOptions,
    ) -> Answer<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
    {
        let call = self.inner.copy_opts(from, to, options);
        Box::pin(async move { self.pass(self.faults.fault(Call::Other), call).await })
    }
}
