//! Texts in place of vectors: who turns them into numbers, and where requests hold them.
//!
//! # Map
//!
//! | module | concept |
//! |---|---|
//! | `http` | OpenAI-compatible and Ollama services |
//! | `local` | a static model (Model2Vec) from a folder |
//! | `request` | the texts of a request, and the vectors in their places |

mod http;
mod local;
mod request;

use std::{path::PathBuf, sync::Arc, time::Duration};

use allidb_cluster::Deadline;
use tokio::sync::Semaphore;

pub use self::http::{HttpProvider, ServiceKey};
pub(crate) use self::request::Texts;

/// Who turns texts into vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    /// A service.
    Http(HttpProvider),
    /// The static model in this folder: `tokenizer.json`, `model.safetensors`, `config.json`.
    Local(PathBuf),
}

/// Why texts have no vectors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// It may be better later.
    #[error("the embedding service {0}")]
    Unavailable(String),
    /// It will not be.
    #[error("the embedding service {0}")]
    Refused(String),
    /// The caller waits no longer.
    #[error("the time was over before the texts had vectors")]
    TooLate,
    /// The model cannot be used.
    #[error("the model in {folder} cannot be read: {why}")]
    Model {
        /// Where it is.
        folder: String,
        /// What is wrong.
        why: String,
    },
}

/// Calls of a provider at a time; others wait.
const CALLS: usize = 8;

/// Turns texts into vectors. Cheap to clone.
#[derive(Clone)]
pub struct Embedder {
    engine: Arc<Engine>,
    calls: Arc<Semaphore>,
    /// How long all of it may take, whatever the caller's deadline.
    timeout: Duration,
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

enum Engine {
    Http(Box<http::Service>),
    Local(local::Model),
}

impl Embedder {
    /// # Errors
    /// If the model cannot be read.
    pub fn new(provider: Provider, timeout: Duration) -> Result<Self, EmbedError> {
        let engine = match provider {
            Provider::Http(provider) => Engine::Http(Box::new(http::Service::new(provider))),
            Provider::Local(folder) => Engine::Local(local::Model::open(&folder)?),
        };
        Ok(Self { engine: Arc::new(engine), calls: Arc::new(Semaphore::new(CALLS)), timeout })
    }

    /// A vector for each text, in order, all of one dimension and finite.
    ///
    /// # Errors
    /// As [`EmbedError`] says; no text has a vector then.
    pub async fn embed(&self, texts: Vec<String>, deadline: Deadline) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let until = deadline.0.min(std::time::Instant::now() + self.timeout);
        let count = texts.len();
        let work = async {
            // The semaphore is never closed.
            let slot = self.calls.clone().acquire_owned().await;
            let engine = Arc::clone(&self.engine);
            // Both block: one on sockets, with timeouts of its own, the other on arithmetic.
            let call = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                match &*engine {
                    Engine::Http(service) => service.embed(&texts, until),
                    Engine::Local(model) => Ok(model.embed(&texts)),
                }
            });
            call.await.map_err(|error| EmbedError::Unavailable(format!("broke off: {error}")))?
        };
        let vectors =
            tokio::time::timeout_at(until.into(), work).await.map_err(|_| EmbedError::TooLate)??;
        check(&vectors, count)?;
        Ok(vectors)
    }
}

/// What came must be usable as vectors of one space.
fn check(vectors: &[Vec<f32>], count: usize) -> Result<(), EmbedError> {
    if vectors.len() != count {
        return Err(EmbedError::Refused(format!("gave {} vectors for {count} texts", vectors.len())));
    }
    let dimension = vectors.first().map_or(0, Vec::len);
    if dimension == 0 || vectors.iter().any(|vector| vector.len() != dimension) {
        return Err(EmbedError::Refused("gave vectors of several dimensions, or empty ones".to_owned()));
    }
    if vectors.iter().flatten().any(|number| !number.is_finite()) {
        return Err(EmbedError::Refused("gave a number that is not finite".to_owned()));
    }
    Ok(())
}
