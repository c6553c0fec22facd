//! The certificates that this daemon shows: at its own ports, and to other nodes.

use allidb_cluster::{CertificateFiles, Certificates, PeerTls};
use anyhow::Context;

use crate::config::{Config, Listen, RingOptions};

/// Those that are in use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Own {
    /// Of the gRPC port and the HTTP port, if they have one.
    pub(crate) ports: Option<Certificates>,
    /// Of the port for other nodes, and of the connections to theirs, if they have one.
    pub(crate) ring: Option<PeerTls>,
}

impl Own {
    /// Reads what the options name.
    pub(crate) fn read(config: &Config) -> anyhow::Result<Self> {
        let ring = match config.ring.founders.is_empty() {
            true => None,
            false => of_ring(&config.ring)?,
        };
        Ok(Self { ports: of_ports(&config.listen)?, ring })
    }

    /// Until when what is shown at each port is good, in seconds since 1970.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let ring = self.ring.as_ref().map(|tls| &tls.certificates);
        [("grpc", self.ports.as_ref()), ("http", self.ports.as_ref()), ("ring", ring)]
            .into_iter()
            .filter_map(|(port, shown)| Some((port, shown?.good_until().unix_timestamp())))
    }
}

fn of_ports(options: &Listen) -> anyhow::Result<Option<Certificates>> {
    let (Some(certificate), Some(key)) = (options.certificate_file.clone(), options.key_file.clone()) else {
        return Ok(None);
    };
    let authority = options.client_authority_file.clone();
    // Which name they ask for is up to clients.
    Certificates::read(CertificateFiles { certificate, key, authority }, None)
        .context("the certificates of the ports (`listen`) cannot be used")
        .map(Some)
}

fn of_ring(options: &RingOptions) -> anyhow::Result<Option<PeerTls>> {
    let (Some(certificate), Some(key), Some(authority)) =
        (options.certificate_file.clone(), options.key_file.clone(), options.authority_file.clone())
    else {
        return Ok(None);
    };
    let name = options.certificate_name.clone();
    let name = name.try_into().with_context(|| {
        format!("`ring.certificate_name` is {:?}, which is no name", options.certificate_name)
    })?;
    let files = CertificateFiles { certificate, key, authority: Some(authority) };
    PeerTls::read(files, name).context("the certificates between nodes (`ring`) cannot be used").map(Some)
}
