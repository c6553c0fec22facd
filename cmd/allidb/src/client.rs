//! The connection to a daemon.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    time::Duration,
};

use allidb_api::v1::{
    Consistency, cluster_client::ClusterClient, collections_client::CollectionsClient,
    entities_client::EntitiesClient, graph_client::GraphClient, keys_client::KeysClient,
    maintenance_client::MaintenanceClient, quotas_client::QuotasClient, search_client::SearchClient,
    snapshots_client::SnapshotsClient,
};
use anyhow::{Context, Result};
use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::failure::Failure;

/// A page of entities with their vectors may be large; the server has limits of its own.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The variable that may hold a key: it is not to be seen among the arguments of a process.
const KEY: &str = "ALLIDB_KEY";
/// The variable that names the trace which a command belongs to.
const TRACE: &str = "TRACEPARENT";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which daemon is asked, and how it and the caller know each other.
#[derive(Debug, Default, Args)]
pub(crate) struct Server {
    /// Where the daemon listens; https:// where it shows a certificate.
    #[arg(
        long,
        global = true,
        env = "ALLIDB_ENDPOINT",
        default_value = "http://127.0.0.1:7000",
        value_name = "URL"
    )]
    pub(crate) endpoint: String,
    /// A PEM file with the certificate of the authority that has signed the daemon's; without, those that browsers trust are trusted.
    #[arg(long, global = true, env = "ALLIDB_AUTHORITY", value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
    /// A PEM file with the certificate to show the daemon.
    #[arg(
        long,
        global = true,
        env = "ALLIDB_CERTIFICATE",
        value_name = "FILE",
        requires = "certificate_key"
    )]
    pub(crate) certificate: Option<PathBuf>,
    /// A PEM file with its key.
    #[arg(
        long,
        global = true,
        env = "ALLIDB_CERTIFICATE_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub(crate) certificate_key: Option<PathBuf>,
    /// A file with the key to show the daemon; the variable ALLIDB_KEY may hold the key itself.
    #[arg(long, global = true, env = "ALLIDB_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Have the daemon trace what it does, if it exports traces, and print the id of the trace; the variable TRACEPARENT (W3C Trace Context)
    /// names one that is under way.
    #[arg(long, global = true)]
    trace: bool,
}

/// Shows a key with each call, and says which trace it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Introduce {
    key: Option<MetadataValue<Ascii>>,
    trace: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Introduce {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in [("authorization", &self.key), ("traceparent", &self.trace)] {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// A connection over which a key is shown, and a trace is told, if there is one.
pub(crate) type Shown = InterceptedService<Channel, Introduce>;

impl Server {
    /// As a URL. What is to be encrypted is not sent in the clear by mistake.
    pub(crate) fn url(&self) -> Result<String> {
        let is_secret = self.authority.is_some() || self.certificate.is_some();
        match self.endpoint.split_once("://") {
            Some(("http", _)) if is_secret => Err(Failure::usage(format!(
                "certificates are given, but {} is not encrypted: write https://",
                self.endpoint
            ))),
            Some(_) => Ok(self.endpoint.clone()),
            None => Ok(format!("http{}://{}", if is_secret { "s" } else { "" }, self.endpoint)),
        }
    }

    /// What is shown at `url`, which must be safe from listeners, as the header `authorization` has it.
    pub(crate) fn key(&self, url: &str) -> Result<Option<MetadataValue<Ascii>>> {
        let key = match &self.key_file {
            Some(path) => {
                let key = fs::read_to_string(path);
                Some(key.with_context(|| format!("cannot read the key {}", path.display()))?)
            }
            None => std::env::var(KEY).ok(),
        };
        let Some(key) = key.as_deref().map(str::trim).filter(|key| !key.is_empty()) else {
            return Ok(None);
        };
        if !url.starts_with("https://") && !is_loopback(url) {
            return Err(Failure::usage(format!(
                "a key is given, but {url} is not encrypted: write https://"
            )));
        }
        bearer(key).map(Some)
    }

    /// The trace that all calls belong to.
    fn trace(&self) -> Option<MetadataValue<Ascii>> {
        let parent = match std::env::var(TRACE).ok().filter(|parent| !parent.is_empty()) {
            Some(parent) => parent,
            None if self.trace => {
                // Its keys are random.
                let random = RandomState::new();
                let [high, low, span] = [0, 1, 2].map(|at: u8| random.hash_one(at));
                format!("00-{high:016x}{low:016x}-{span:016x}-01")
            }
            None => return None,
        };
        if self.trace {
            eprintln!("trace {}", parent.split('-').nth(1).unwrap_or_default());
        }
        // Others may have set the variable to something else; the daemon takes no notice of that either.
        MetadataValue::try_from(parent).ok()
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let read = |what: &str, path: &Path| {
            fs::read(path).with_context(|| format!("cannot read the {what} {}", path.display()))
        };
        let mut tls = match &self.authority {
            Some(path) => {
                let authority = read("certificate of the authority", path)?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority))
            }
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.certificate_key) {
            let (certificate, key) = (read("certificate", certificate)?, read("key", key)?);
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(tls)
    }
}

/// A key as the header `authorization` has it.
fn bearer(key: &str) -> Result<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(format!("Bearer {key}"))
        .map_err(|_| Failure::usage("the key holds what no key does"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether nobody else is on the way there.
fn is_loopback(url: &str) -> bool {
    let Ok(uri) = url.parse::<tonic::codegen::http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One connection, shared by the clients of all services. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    introduce: Introduce,
    /// As requests say it; 0: as the server likes.
    consistency: i32,
}

impl Client {
    /// Connects to `endpoint`: a URL, or only `host:port`.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        Self::reach(&Server { endpoint: endpoint.to_owned(), ..Server::default() }).await
    }

    /// Connects to a daemon.
    pub(crate) async fn reach(server: &Server) -> Result<Self> {
        let url = server.url()?;
        let key = server.key(&url)?;
        let mut address = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::usage(format!("`{url}` is not an endpoint: {error}")))?;
        if url.starts_with("https://") {
            address = address.tls_config(server.tls()?).map_err(|error| {
                Failure::usage(format!("the certificates cannot be used: {}", innermost(&error)))
            })?;
        }
        let channel =
            address.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await.map_err(|error| {
                let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), innermost);
                anyhow::Error::new(Failure::Unreachable(format!(
                    "nothing answers at {url}: {cause}\n  is the daemon running? `allidb serve` starts one"
                )))
            })?;
        let introduce = Introduce { key, trace: server.trace() };
        Ok(Self { channel, introduce, consistency: 0 })
    }

    /// The same, for reads and writes of this consistency.
    pub(crate) fn at(self, consistency: Option<Consistency>) -> Self {
        Self { consistency: consistency.unwrap_or_default().into(), ..self }
    }

    /// The same, showing another key.
    pub(crate) fn with_key(&self, key: &str) -> Result<Self> {
        let introduce = Introduce { key: Some(bearer(key)?), ..self.introduce.clone() };
        Ok(Self { introduce, ..self.clone() })
    }

    /// How many replicas must agree on what is read, and have what is written.
    pub(crate) fn consistency(&self) -> i32 {
        self.consistency
    }

    fn shown(&self) -> Shown {
        InterceptedService::new(self.channel.clone(), self.introduce.clone())
    }

    pub(crate) fn keys(&self) -> KeysClient<Shown> {
        KeysClient::new(self.shown())
    }

    pub(crate) fn entities(&self) -> EntitiesClient<Shown> {
        EntitiesClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn graph(&self) -> GraphClient<Shown> {
        GraphClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn search(&self) -> SearchClient<Shown> {
        SearchClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Shown> {
        MaintenanceClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn quotas(&self) -> QuotasClient<Shown> {
        QuotasClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Shown> {
        SnapshotsClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Shown> {
        ClusterClient::new(self.shown())
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Shown> {
        CollectionsClient::new(self.shown()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// The cause at the bottom of a chain: "connection refused" says more than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_as_the_contract_of_traces_has_it() {
        let server = Server { trace: true, ..Server::default() };
        let told = server.trace().expect("a trace");
        let told = told.to_str().expect("text");
        let parts: Vec<&str> = told.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{told}");
        assert!(parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit())), "{told}");
    }
}
