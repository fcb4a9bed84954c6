//! Turns what the disk or an object store said into an error with a place and a way out.

use std::fmt;
use std::io;

use stage::{Error, Kind};

/// The error of a failed write to an output: [`Kind::Store`], with the path and what to do.
///
/// Understands what [`crate::AttemptFile`] returns from its `Write`, so that a room writes
/// `writer.write_all(..).map_err(store::write_error)?`.
#[must_use]
pub fn write_error(error: io::Error) -> Error {
    if !error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<AtPath>) {
        return disk_error("the output", "cannot write", error);
    }
    match error.into_inner().map(<dyn std::error::Error + Send + Sync>::downcast::<AtPath>) {
        Some(Ok(at)) => disk_error(at.path, "cannot write", at.source),
        Some(Err(other)) => Error::store("cannot write").because(other),
        None => Error::store("cannot write"),
    }
}

/// A local path that refused: [`Kind::Store`].
pub(crate) fn disk_error(place: impl fmt::Display, doing: &str, error: io::Error) -> Error {
    let hint = disk_hint(&error);
    let error = Error::store(doing).at(place).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// An input file that cannot be read: [`Kind::Input`].
pub(crate) fn read_error(place: impl fmt::Display, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::input("no such file").at(place).hint("check the path");
    }
    let hint = disk_hint(&error);
    let error = Error::input("cannot read").at(place).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// An object store that refused or could not be reached. `kind` is for refusals.
pub(crate) fn bucket_error(
    kind: Kind,
    place: impl fmt::Display,
    doing: &str,
    error: object_store::Error,
) -> Error {
    use object_store::Error as E;
    let (kind, hint) = match &error {
        E::NotFound { .. } => (kind, Some("check the URL")),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => (
            kind,
            Some("check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION)"),
        ),
        other if unreachable(other) => {
            (Kind::Network, Some("check the network and run the same command again to go on"))
        }
        _ => (kind, None),
    };
    let error = Error::new(kind, doing).at(place).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// An IO error that remembers its path on its way through `std::io::Write`.
pub(crate) fn at_path(path: String, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), AtPath { path, source })
}

#[derive(Debug)]
struct AtPath {
    path: String,
    source: io::Error,
}

impl fmt::Display for AtPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.source)?;
        match disk_hint(&self.source) {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AtPath {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn disk_hint(error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => {
            Some("free space there and run the same command again to go on")
        }
        K::FileTooLarge => {
            Some("raise the limit on file size (`ulimit -f`) and run again to go on")
        }
        K::PermissionDenied => Some("check who owns the folder and who may write there"),
        K::ReadOnlyFilesystem => Some("choose an output on a file system that can be written"),
        _ if error.raw_os_error() == Some(libc::EMFILE) => {
            Some("raise the limit on open files (`ulimit -n`) and run again to go on")
        }
        _ if error.raw_os_error() == Some(libc::EIO) => {
            Some("check the disk: it failed to keep what was written")
        }
        _ => None,
    }
}

/// Whether the store never answered, as opposed to refusing.
fn unreachable(error: &object_store::Error) -> bool {
    use object_store::client::{HttpError, HttpErrorKind as K};
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return matches!(http.kind(), K::Connect | K::Timeout | K::Interrupted | K::Request);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_store_error_with_path_and_way_out() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = write_error(at_path("out/shards/00000.tar".to_owned(), full));
        assert_eq!(error.kind(), Kind::Store);
        assert!(error.to_string().starts_with("out/shards/00000.tar: cannot write: No space left"));
        assert_eq!(
            error.hint_text(),
            Some("free space there and run the same command again to go on")
        );
    }

    #[test]
    fn the_hint_survives_a_room_that_only_wraps_the_io_error() {
        let full = at_path("out/a".to_owned(), io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(full.to_string().contains("free space there"), "{full}");
    }
}
