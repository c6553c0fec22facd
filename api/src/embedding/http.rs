//! Embedding services over HTTP: those that speak as OpenAI's does (`POST …/embeddings`), and Ollama (`POST …/api/embed`).

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use allidb_cluster::Pace;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::EmbedError;

/// How long the first retry waits; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No retry waits longer, whatever the service asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// So much of what a service says about a failure is noted.
const MAX_REASON: usize = 300;
/// How often at most it is noted that a call failed.
const TELLS_EVERY: Duration = Duration::from_secs(1);

/// An embedding service.
#[derive(Clone, PartialEq)]
pub struct HttpProvider {
    /// The address of the call, such as `https://api.openai.com/v1/embeddings` or `http://localhost:11434/api/embed`; one that ends in
    /// `/api/embed` is spoken to as Ollama is.
    pub url: String,
    /// The model's name.
    pub model: String,
    /// Sent as `Authorization: Bearer …`.
    pub key: Option<ServiceKey>,
    /// Texts in one call.
    pub batch: usize,
    /// How often a call is tried again that failed for want of a connection, with 408, 429 or 5xx.
    pub retries: u32,
    /// How long one try may take.
    pub timeout: Duration,
}

/// The key that a service asks for.
#[derive(Clone, PartialEq)]
pub enum ServiceKey {
    /// This one.
    Given(String),
    /// The one in this file, which is read with each call: whoever replaces it restarts nothing.
    File(PathBuf),
}

/// Keys are nobody's business.
impl std::fmt::Debug for HttpProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, batch, retries, timeout, .. } = self;
        let url = shown(&self.url);
        write!(f, "HttpProvider {{ {url} {model} {batch} {retries} {timeout:?} }}")
    }
}

pub(super) struct Service {
    provider: HttpProvider,
    agent: ureq::Agent,
    /// Its address as the log names it.
    shown: String,
    /// The key as it was read last.
    key: Mutex<Option<Zeroizing<String>>>,
    telling: Pace,
}

/// Why a try failed.
struct Failed {
    /// What callers are told: neither the service's address nor its words, which may be about whose account it is.
    why: EmbedError,
    /// What only the log says.
    noted: String,
    /// How long the service asks to be left alone.
    pause: Option<Duration>,
}

impl From<EmbedError> for Failed {
    fn from(why: EmbedError) -> Self {
        Self { why, noted: String::new(), pause: None }
    }
}

/// An address without what may be secret in it: who calls, and with which parameters.
fn shown(url: &str) -> String {
    let Ok(uri) = url.parse::<http::Uri>() else { return "an address that cannot be read".to_owned() };
    let port = uri.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}{}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default(), uri.path())
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
        let shown = shown(&provider.url);
        let service = Self { provider, agent, shown, key: Mutex::default(), telling: Pace::of(TELLS_EVERY) };
        service.key();
        service
    }

    /// The key of this call: of a file that cannot be read, the one from before.
    fn key(&self) -> Option<Zeroizing<String>> {
        let path = match self.provider.key.as_ref()? {
            ServiceKey::Given(key) => return Some(Zeroizing::new(key.clone())),
            ServiceKey::File(path) => path,
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                *self.key.lock() = Some(Zeroizing::new(text.trim().to_owned()));
            }
            Err(error) if self.telling.is_due() => {
                tracing::warn!(file = %path.display(), %error, "the embedding service's key cannot be read; the one from before is shown");
            }
            Err(_) => {}
        }
        self.key.lock().clone()
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
            let Failed { why, noted, pause: asked } = match self.try_batch(texts, until) {
                Ok(vectors) => return Ok(vectors),
                Err(failed) => failed,
            };
            let wait = asked.unwrap_or(pause).min(LONGEST_PAUSE);
            let is_over = Instant::now() + wait >= until;
            if !matches!(why, EmbedError::Unavailable(_)) || tried == self.provider.retries || is_over {
                if self.telling.is_due() {
                    let service = &self.shown;
                    tracing::warn!(service, error = %why, said = noted, "texts have no vectors");
                }
                return Err(why);
            }
            tracing::debug!(error = %why, said = noted, tried, ?wait, "an embedding call is tried again");
            std::thread::sleep(wait);
            tried += 1;
            pause *= 2;
        }
    }

    fn try_batch(&self, texts: &[String], until: Instant) -> Result<Vec<Vec<f32>>, Failed> {
        let HttpProvider { url, model, timeout, .. } = &self.provider;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(EmbedError::TooLate.into());
        }
        let unavailable = |error: ureq::Error| Failed {
            noted: error.to_string(),
            ..EmbedError::Unavailable("does not answer".to_owned()).into()
        };
        let mut request = self.agent.post(url).config().timeout_global(Some(left.min(*timeout))).build();
        if let Some(key) = self.key() {
            request = request.header("authorization", format!("Bearer {}", *key));
        }
        let mut answer = request.send_json(json!({ "model": model, "input": texts })).map_err(unavailable)?;
        let status = answer.status();
        let pause = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body =
            answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map_err(unavailable)?;
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(MAX_REASON).collect();
            let why = format!("answers {status}");
            let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let why = if is_passing { EmbedError::Unavailable(why) } else { EmbedError::Refused(why) };
            return Err(Failed { noted: said.trim().to_owned(), pause: pause.map(Duration::from_secs), why });
        }
        let mut indexes_are_right = true;
        let refused = |why: String| Failed::from(EmbedError::Refused(why));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_an_address_is_not_shown() {
        let shown_as = [
            (
                "https://me:secret@embed.example:8443/v1/embeddings?key=secret",
                "https://embed.example:8443/v1/embeddings",
            ),
            ("http://localhost:11434/api/embed", "http://localhost:11434/api/embed"),
        ];
        for (url, expected) in shown_as {
            assert_eq!(shown(url), expected);
        }
        assert!(!shown("secret of no kind: \n").contains("secret of"));
    }
}
