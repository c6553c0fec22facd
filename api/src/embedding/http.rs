//! Embedding services over HTTP: those that speak as OpenAI's does (`POST …/embeddings`), and Ollama (`POST …/api/embed`).

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::EmbedError;

/// How long the first retry waits; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No retry waits longer, whatever the service asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// So much of what a service says about a failure is passed on.
const MAX_REASON: usize = 300;

/// An embedding service.
#[derive(Clone, PartialEq)]
pub struct HttpProvider {
    /// The address of the call, such as `https://api.openai.com/v1/embeddings` or `http://localhost:11434/api/embed`; one that ends in
    /// `/api/embed` is spoken to as Ollama is.
    pub url: String,
    /// The model's name.
    pub model: String,
    /// Sent as `Authorization: Bearer …`.
    pub key: Option<String>,
    /// Texts in one call.
    pub batch: usize,
    /// How often a call is tried again that failed for want of a connection, with 408, 429 or 5xx.
    pub retries: u32,
    /// How long one try may take.
    pub timeout: Duration,
}

/// Keys are nobody's business.
impl std::fmt::Debug for HttpProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, model, batch, retries, timeout, .. } = self;
        write!(f, "HttpProvider {{ {url} {model} {batch} {retries} {timeout:?} }}")
    }
}

pub(super) struct Service {
    provider: HttpProvider,
    agent: ureq::Agent,
}

/// Why a try failed, and how long the service asks to be left alone.
struct Failed {
    why: EmbedError,
    pause: Option<Duration>,
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<f32>>,
}

impl Service {
    pub(super) fn new(provider: HttpProvider) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        Self { provider, agent }
    }

    /// Call by call; one that fails for good fails all.
    pub(super) fn embed(&self, texts: &[String], until: Instant) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(self.provider.batch.max(1)) {
            vectors.extend(self.embed_batch(texts, until)?);
        }
        Ok(vectors)
    }

    fn embed_batch(&self, texts: &[String], until: Instant) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut pause = FIRST_PAUSE;
        let mut tried = 0;
        loop {
            let Failed { why, pause: asked } = match self.try_batch(texts, until) {
                Ok(vectors) => return Ok(vectors),
                Err(failed) => failed,
            };
            let wait = asked.unwrap_or(pause).min(LONGEST_PAUSE);
            let is_over = Instant::now() + wait >= until;
            if !matches!(why, EmbedError::Unavailable(_)) || tried == self.provider.retries || is_over {
                return Err(why);
            }
            tracing::debug!(error = %why, tried, ?wait, "an embedding call is tried again");
            std::thread::sleep(wait);
            tried += 1;
            pause *= 2;
        }
    }

    fn try_batch(&self, texts: &[String], until: Instant) -> Result<Vec<Vec<f32>>, Failed> {
        let HttpProvider { url, model, key, timeout, .. } = &self.provider;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failed { why: EmbedError::TooLate, pause: None });
        }
        let unavailable = |error: ureq::Error| Failed {
            why: EmbedError::Unavailable(format!("at {url}: {error}")),
            pause: None,
        };
        let mut request = self.agent.post(url).config().timeout_global(Some(left.min(*timeout))).build();
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut answer = request.send_json(json!({ "model": model, "input": texts })).map_err(unavailable)?;
        let status = answer.status();
        let pause = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body =
            answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map_err(unavailable)?;
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(MAX_REASON).collect();
            let why = format!("at {url} answers {status}: {}", said.trim());
            let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let why = if is_passing { EmbedError::Unavailable(why) } else { EmbedError::Refused(why) };
            return Err(Failed { why, pause: pause.map(Duration::from_secs) });
        }
        let mut indexes_are_right = true;
        let refused =
            |why: String| Failed { why: EmbedError::Refused(format!("at {url} {why}")), pause: None };
        let vectors = if url.trim_end_matches('/').ends_with("/api/embed") {
            serde_json::from_slice(&body).map(|OllamaAnswer { embeddings }| embeddings)
        } else {
            serde_json::from_slice(&body).map(|OpenAiAnswer { mut data }| {
                data.sort_by_key(|vector| vector.index);
                // Otherwise a text would get another one's vector.
                indexes_are_right = data.iter().enumerate().all(|(at, vector)| vector.index == at);
                data.into_iter().map(|vector| vector.embedding).collect()
            })
        };
        let unread = |error| refused(format!("gives an answer that cannot be read: {error}"));
        let vectors: Vec<Vec<f32>> = vectors.map_err(unread)?;
        if vectors.len() != texts.len() {
            return Err(refused(format!("gave {} vectors for {} texts", vectors.len(), texts.len())));
        }
        if !indexes_are_right {
            return Err(refused(
                "does not say which vector is of which text: each index from 0 on must come once".into(),
            ));
        }
        Ok(vectors)
    }
}
