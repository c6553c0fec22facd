//! Where snapshots are kept: a directory, or a bucket of an object store.

use std::{
    error, fs, io,
    path::{self, PathBuf},
    sync::Arc,
};

use allidb_index::{Error, Result};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, local::LocalFileSystem, path::Path};
use tokio::task::spawn_blocking;

use super::credentials::CredentialsFile;

/// A place that holds snapshots. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotPlace {
    store: Arc<dyn ObjectStore>,
    /// What all names in it begin with.
    prefix: Path,
    /// Its directory, if it is one: what is written there is to survive a crash of the machine.
    dir: Option<PathBuf>,
    location: String,
}

/// Why something is no place for snapshots.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotPlaceError {
    /// The directory cannot be made or read.
    #[error("the directory {0}: {1}")]
    Directory(String, io::Error),
    /// The object store's address or credentials are wrong.
    #[error("{0}: {1}")]
    Store(String, object_store::Error),
    /// The file of credentials cannot be read, or holds none.
    #[error("the credentials in {}: {}", .0.display(), .1)]
    Credentials(PathBuf, io::Error),
    /// It is of a kind that is not known.
    #[error("{0} is neither an absolute path nor s3://BUCKET/PREFIX")]
    Unknown(String),
}

/// Whether somebody has to do something about an error before it is worth trying again.
fn lasts(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

impl SnapshotPlace {
    /// A directory, which is made if it is not there, or `s3://bucket/prefix`: what is said of such a store in the environment (`AWS_ENDPOINT_URL`,
    /// `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and what else its own tools take) counts, but for credentials if there is a file of them.
    ///
    /// # Errors
    /// If it can be none. Nobody is asked yet whether a bucket is there.
    pub fn open(
        location: &str,
        credentials: Option<&path::Path>,
    ) -> std::result::Result<Self, SnapshotPlaceError> {
        let of = |error| SnapshotPlaceError::Store(location.to_owned(), error);
        let place = |store, prefix, dir| Self { store, prefix, dir, location: location.to_owned() };
        if let Some(rest) = location.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            // Without encryption only where the environment says so itself (`AWS_ALLOW_HTTP`).
            let mut store = AmazonS3Builder::from_env().with_bucket_name(bucket);
            if let Some(path) = credentials {
                let unreadable = |error| SnapshotPlaceError::Credentials(path.to_owned(), error);
                let credentials = CredentialsFile::open(path).map_err(unreadable)?;
                store = store.with_credentials(Arc::new(credentials));
            }
            return Ok(place(Arc::new(store.build().map_err(of)?), Path::from(prefix), None));
        }
        if !location.starts_with('/') {
            return Err(SnapshotPlaceError::Unknown(location.to_owned()));
        }
        let no_directory = |error| SnapshotPlaceError::Directory(location.to_owned(), error);
        fs::create_dir_all(location).map_err(no_directory)?;
        let store = LocalFileSystem::new_with_prefix(location).map_err(of)?;
        Ok(place(Arc::new(store), Path::default(), Some(PathBuf::from(location))))
    }

    /// One in memory.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        let (store, location) = (Arc::new(object_store::memory::InMemory::new()), "memory".to_owned());
        Self { store, prefix: Path::default(), dir: None, location }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// What would fail in the same way again is told so.
    fn failed(&self, name: &str, error: &(dyn error::Error + 'static)) -> Error {
        let why = format!("{name} at {}: {error}", self.location);
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        match causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(lasts)) {
            true => Error::FailedPrecondition(why),
            false => Error::Unavailable(why),
        }
    }

    /// What is kept under a name; `None` if nothing is.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let got = match self.store.get(&self.path(name)).await {
            Ok(got) => got.bytes().await,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        got.map(Some).map_err(|error| self.failed(name, &error))
    }

    /// How long that is.
    pub(super) async fn len(&self, name: &str) -> Result<Option<u64>> {
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    /// Keeps something, durably.
    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(name);
        self.store.put(&path, bytes.into()).await.map_err(|error| self.failed(name, &error))?;
        let Some(dir) = self.dir.clone() else { return Ok(()) };
        // As it is called there: some characters are encoded.
        let file = dir.join(AsRef::<str>::as_ref(&path));
        let synced = spawn_blocking(move || -> io::Result<()> {
            fs::File::open(&file)?.sync_all()?;
            let mut above = file.as_path();
            while let Some(parent) = above.parent().filter(|parent| parent.starts_with(&dir)) {
                fs::File::open(parent)?.sync_all()?;
                above = parent;
            }
            Ok(())
        });
        let synced = synced.await.map_err(|error| Error::Internal(format!("a write broke off: {error}")))?;
        synced.map_err(|error| self.failed(name, &error))
    }

    /// Keeps nothing more under a name.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    /// The names of what is kept in a folder, without the folder's, in their order.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.path(folder);
        let metas: Vec<_> =
            self.store.list(Some(&path)).try_collect().await.map_err(|error| self.failed(folder, &error))?;
        let mut names: Vec<String> =
            metas.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_kept_as_they_are_encoded() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let place = SnapshotPlace::open(dir.path().to_str().expect("a text"), None).expect("a directory");
        for name in ["folder/name", "folder/100%", "folder/a#b"] {
            place.put(name, Bytes::from_static(b"bytes")).await.expect("written, and synced");
            assert_eq!(place.get(name).await.expect("read"), Some(Bytes::from_static(b"bytes")), "{name}");
        }
    }
}
