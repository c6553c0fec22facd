//! A key that stands in a file, or is given, for the node that reads it: whoever may read it may do everything. The first keys are made with it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time::sleep};
use zeroize::Zeroizing;

use super::secret::{self, Secret};

/// How often the file is read.
const READS_EVERY: Duration = Duration::from_secs(1);

/// How keys are written.
const WRITTEN: &str = "it is to be adb_, 12 lower-case letters and digits, _ and 64 hexadecimal digits";

/// Why there is no such key.
#[derive(Debug, thiserror::Error)]
pub enum AdminKeyError {
    /// The file cannot be read, or not be made.
    #[error("cannot read or make the admin key {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents are no key.
    #[error("{} holds no key: {written}", path.display(), written = WRITTEN)]
    Garbled {
        /// Which file.
        path: PathBuf,
    },
    /// What is given is no key.
    #[error("it is no key: {written}", written = WRITTEN)]
    NoKey,
}

/// The key that was given, or that in the file, as it was read last; wiped from memory when another one takes its place. Cheap to clone; the file is read as long as there is one.
#[derive(Clone)]
pub struct AdminKey {
    now: watch::Receiver<Zeroizing<String>>,
    /// Nothing, if it was given.
    _reading: Arc<JoinSet<()>>,
}

/// The key is nobody's business.
impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminKey").finish_non_exhaustive()
    }
}

impl AdminKey {
    /// Reads the file, and again each second: what is no key then is said in the log, and the one from before stays good. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// If it cannot be read, or holds no key.
    pub fn read(path: &Path) -> Result<Self, AdminKeyError> {
        let (told, now) = watch::channel(read(path)?);
        let mut reading = JoinSet::new();
        reading.spawn(keep_reading(path.to_owned(), told));
        Ok(Self { now, _reading: Arc::new(reading) })
    }

    /// The same, of a file that is made if it is not there. Only its owner may read it.
    ///
    /// # Errors
    /// If it cannot be made or read, or holds no key.
    pub fn read_or_make(path: &Path) -> Result<Self, AdminKeyError> {
        let failed = |source| AdminKeyError::File { path: path.to_owned(), source };
        if !path.exists() {
            let (key, ..) = secret::draw().map_err(|error| failed(io::Error::other(error)))?;
            make(path, &key).map_err(failed)?;
            tracing::warn!(file = %path.display(), "made a key that may do everything: keep the file from others");
        }
        Self::read(path)
    }

    /// This one, as long as the node runs.
    ///
    /// # Errors
    /// If it is no key.
    pub fn given(key: String) -> Result<Self, AdminKeyError> {
        Secret::parse(&key).ok_or(AdminKeyError::NoKey)?;
        Ok(Self { now: watch::channel(Zeroizing::new(key)).1, _reading: Arc::default() })
    }

    /// Whether this is the one.
    pub(crate) fn is(&self, shown: &Secret<'_>) -> bool {
        let now = self.now.borrow();
        let Some(own) = Secret::parse(&now) else { return false };
        own.id == shown.id && own.is_same(shown)
    }
}

/// Whole, or not at all.
fn make(path: &Path, key: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    // One that was left behind may be open to others.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

fn read(path: &Path) -> Result<Zeroizing<String>, AdminKeyError> {
    let failed = |source| AdminKeyError::File { path: path.to_owned(), source };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    match Secret::parse(text.trim()) {
        Some(_) => Ok(Zeroizing::new(text.trim().to_owned())),
        None => Err(AdminKeyError::Garbled { path: path.to_owned() }),
    }
}

async fn keep_reading(path: PathBuf, told: watch::Sender<Zeroizing<String>>) {
    let mut said = String::new();
    loop {
        sleep(READS_EVERY).await;
        let path = path.clone();
        match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(key)) => {
                said.clear();
                if told.send_if_modified(|before| std::mem::replace(before, key.clone()) != key) {
                    tracing::warn!("the admin key was changed");
                }
            }
            Ok(Err(error)) => {
                let why = error.to_string();
                if why != said {
                    tracing::error!(%error, "the admin key from before stays good");
                    said = why;
                }
            }
            Err(error) => tracing::error!(%error, "reading the admin key broke off"),
        }
    }
}
