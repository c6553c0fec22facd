//! Where the keys that may sign are told: a file, or an address that is asked now and then. Those from before stay good while it fails.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    select,
    sync::{Notify, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::jwk::KeySet;

/// How often a file is read.
const READS_EVERY: Duration = Duration::from_secs(1);
/// How long an address may take to answer.
const ANSWERS_IN: Duration = Duration::from_secs(10);
/// How long it is waited after the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long at most a request waits for keys.
const WAITS: Duration = Duration::from_secs(5);
/// The largest set that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Where the keys are told.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySetPlace {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// An address, which is asked each `every`, and when a token names a key that is not known.
    Url {
        /// The address.
        url: String,
        /// How often it is asked.
        every: Duration,
    },
}

/// Why there are no keys from there.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address does not answer.
    #[error("{url} does not answer with keys: {why}")]
    Url {
        /// Which address.
        url: String,
        /// Why.
        why: String,
    },
    /// What stands there is no set of keys.
    #[error("{place} holds no JSON Web Key Set: {why}")]
    Garbled {
        /// Which file or address.
        place: String,
        /// What is wrong.
        why: String,
    },
}

/// The keys as they were read last. They are read as long as there is this.
pub(super) struct KeySource {
    now: watch::Receiver<Arc<KeySet>>,
    asked: Arc<Notify>,
    _reading: JoinSet<()>,
}

impl KeySource {
    pub(super) fn open(place: KeySetPlace) -> Result<Self, KeySetError> {
        let keys = match &place {
            KeySetPlace::File(_) => place.parse(&place.read()?)?,
            // Whoever tells them may come after this node.
            KeySetPlace::Url { .. } => KeySet::EMPTY,
        };
        let (told, now) = watch::channel(Arc::new(keys));
        let asked = Arc::new(Notify::new());
        let mut reading = JoinSet::new();
        reading.spawn(keep_reading(place, told, Arc::clone(&asked)));
        Ok(Self { now, asked, _reading: reading })
    }

    pub(super) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.now.borrow())
    }

    /// Has them read now, and waits until that is over, whatever comes of it.
    pub(super) async fn refresh(&self) {
        let mut now = self.now.clone();
        now.mark_unchanged();
        self.asked.notify_one();
        timeout(WAITS, now.changed()).await.ok();
    }
}

impl KeySetPlace {
    fn words(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url { url, .. } => url.clone(),
        }
    }

    /// What stands there. Blocks.
    fn read(&self) -> Result<Vec<u8>, KeySetError> {
        match self {
            Self::File(path) => {
                let failed = |source| KeySetError::File { path: path.clone(), source };
                let mut text = Vec::new();
                let file = File::open(path).map_err(failed)?;
                file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
                Ok(text)
            }
            Self::Url { url, .. } => {
                fetch(url).map_err(|why| KeySetError::Url { url: url.clone(), why: why.to_string() })
            }
        }
    }

    fn parse(&self, text: &[u8]) -> Result<KeySet, KeySetError> {
        let garbled = |why| KeySetError::Garbled { place: self.words(), why };
        if text.len() as u64 > MAX_BYTES {
            return Err(garbled(format!("it is longer than {MAX_BYTES} bytes")));
        }
        KeySet::parse(text).map_err(garbled)
    }

    fn reads_every(&self) -> Duration {
        match self {
            Self::File(_) => READS_EVERY,
            Self::Url { every, .. } => *every,
        }
    }
}

fn fetch(url: &str) -> Result<Vec<u8>, ureq::Error> {
    // Whoever is redirected to is not who the configuration names.
    let config = ureq::Agent::config_builder().max_redirects(0).timeout_global(Some(ANSWERS_IN)).build();
    let mut answer = ureq::Agent::from(config).get(url).header("accept", "application/json").call()?;
    if !answer.status().is_success() {
        return Err(ureq::Error::StatusCode(answer.status().as_u16()));
    }
    answer.body_mut().with_config().limit(MAX_BYTES).read_to_vec()
}

async fn keep_reading(place: KeySetPlace, told: watch::Sender<Arc<KeySet>>, asked: Arc<Notify>) {
    let (mut before, mut said, mut pause) = (Vec::new(), String::new(), FIRST_PAUSE);
    loop {
        let from = place.clone();
        let read = match spawn_blocking(move || from.read()).await {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "reading the keys of tokens broke off");
                return;
            }
        };
        let keys = match read {
            Ok(text) if text == before => Ok(None),
            Ok(text) => place.parse(&text).map(|keys| {
                tracing::info!(keys = keys.len(), left_out = keys.left_out, "read the keys of tokens");
                before = text;
                Some(Arc::new(keys))
            }),
            Err(error) => Err(error),
        };
        let wait = match &keys {
            Ok(_) => {
                said.clear();
                pause = FIRST_PAUSE;
                place.reads_every()
            }
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::error!(%error, "the keys of tokens cannot be read: those from before stay good, if there are any");
                    said = why;
                }
                let wait = pause.min(place.reads_every());
                pause = wait * 2;
                wait
            }
        };
        // Also when there are none: somebody may wait.
        told.send_modify(|now| {
            if let Ok(Some(keys)) = keys {
                *now = keys;
            }
        });
        select! {
            () = sleep(wait) => {}
            () = asked.notified() => {}
        }
    }
}
