//! The HTTP port of a daemon, where its figures are read.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use tonic::codegen::http::Uri;
use ureq::{
    Agent,
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem},
};

use crate::{client::Server, failure::Failure, prometheus::Figures};

/// How long an answer may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Some hundred figures are a hundredth of that.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// The port of the daemon's defaults, for endpoints that name none.
const DEFAULT_PORT: u16 = 7001;

/// Where a daemon tells its figures, and who asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MetricsPort {
    agent: Agent,
    url: String,
    key: Option<String>,
}

impl MetricsPort {
    /// That of a daemon: `url`, or else the port after that of gRPC, which by default it is.
    pub(crate) fn of(server: &Server, url: Option<&str>) -> Result<Self> {
        let url = match url {
            Some(url) => url.to_owned(),
            None => beside(&server.url()?)?,
        };
        // A key is not sent there in the clear either.
        let key = server.key(&url)?.and_then(|key| key.to_str().ok().map(str::to_owned));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(TIMEOUT));
        if url.starts_with("https://") {
            config = config.tls_config(tls(server)?);
        }
        Ok(Self { agent: config.build().new_agent(), url, key })
    }

    /// All figures.
    pub(crate) async fn read(&self) -> Result<Figures> {
        let port = self.clone();
        tokio::task::spawn_blocking(move || port.ask()).await.context("reading the figures broke off")?
    }

    fn ask(&self) -> Result<Figures> {
        let mut request = self.agent.get(&self.url);
        if let Some(key) = &self.key {
            request = request.header("authorization", key);
        }
        let mut answer = request.call().with_context(|| format!("nothing answers at {}", self.url))?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = text.with_context(|| format!("the answer of {} broke off", self.url))?;
        if !status.is_success() {
            bail!("{} answers {}: {}", self.url, status.as_u16(), text.trim());
        }
        Figures::parse(&text).map_err(|why| anyhow::anyhow!("{} tells no figures: {why}", self.url))
    }
}

/// `http://127.0.0.1:7000` is answered beside `http://127.0.0.1:7001/metrics`.
fn beside(url: &str) -> Result<String> {
    let parts = url.parse::<Uri>().ok().and_then(|uri| {
        let port = match uri.port_u16() {
            Some(port) => port.checked_add(1)?,
            None => DEFAULT_PORT,
        };
        Some(format!("{}://{}:{port}/metrics", uri.scheme_str()?, uri.host()?))
    });
    parts.ok_or_else(|| Failure::usage(format!("{url} leads to no HTTP port: name it with --metrics-url")))
}

fn tls(server: &Server) -> Result<TlsConfig> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &server.authority {
        tls = tls.root_certs(RootCerts::new_with_certs(&pem(path)?.0));
    }
    if let (Some(certificate), Some(key_file)) = (&server.certificate, &server.certificate_key) {
        let key = pem(key_file)?.1.with_context(|| format!("{} holds no key", key_file.display()))?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&pem(certificate)?.0, key)));
    }
    Ok(tls.build())
}

/// Certificates of a file, and its key.
fn pem(path: &Path) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>)> {
    let unreadable = || format!("cannot read {}", path.display());
    let bytes = fs::read(path).with_context(unreadable)?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&bytes) {
        match item.with_context(unreadable)? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            PemItem::PrivateKey(private) => key = Some(private),
            _ => {}
        }
    }
    Ok((certificates, key))
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn figures_are_at_the_port_after() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:7000", "http://127.0.0.1:7001/metrics"),
            ("https://db.example:9000", "https://db.example:9001/metrics"),
            ("http://[::1]:7010", "http://[::1]:7011/metrics"),
            ("http://db.example", "http://db.example:7001/metrics"),
        ] {
            assert_eq!(beside(endpoint).expect(endpoint), expected);
        }
        assert!(beside("http://127.0.0.1:65535").is_err());
        assert!(beside("nonsense:").is_err());
    }
}
