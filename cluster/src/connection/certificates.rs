//! The certificate that is shown, its key, and the authority whose certificates are trusted.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, DEFAULT_VERSIONS, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// How often it is looked whether the files have changed.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Where certificates lie, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate that is shown, followed by those that lead to its authority's.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that has signed the certificates of others; `None`: none of theirs is trusted.
    pub authority: Option<PathBuf>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    Unreadable {
        /// What it is to hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it is to.
    #[error("{} holds no {what}: {why}", path.display())]
    Garbled {
        /// What it is to hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("the certificate {} and its key {} cannot be used: {why}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// Why.
        why: String,
    },
}

/// Whether others have to show certificates, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// They are not asked to.
    NoMatter,
    /// They may, but none of another authority.
    MayBe,
    /// They must.
    Must,
}

/// What the files held when they were read last. Cheap to clone; they are looked at as long as there is one.
#[derive(Clone)]
pub struct Certificates {
    now: watch::Receiver<Arc<Material>>,
    _looking: Arc<JoinSet<()>>,
}

/// The key is nobody's business.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.now.borrow().files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files, and again whenever they change: what cannot be used then is said in the log, and what was read before goes on to be
    /// used. To be called within a runtime.
    ///
    /// # Errors
    /// If they cannot be read, or do not belong together.
    pub fn read(files: CertificateFiles) -> Result<Self, CertificateError> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = Stamps::of(&files);
        let (told, now) = watch::channel(Arc::new(Material::read(files)?));
        let mut looking = JoinSet::new();
        looking.spawn(look(told, stamps));
        Ok(Self { now, _looking: Arc::new(looking) })
    }

    /// What they held last.
    pub(crate) fn now(&self) -> Arc<Material> {
        Arc::clone(&self.now.borrow())
    }
}

/// Reads the files again when they have changed.
async fn look(told: watch::Sender<Arc<Material>>, mut known: Stamps) {
    let files = told.borrow().files.clone();
    let mut said = String::new();
    loop {
        sleep(LOOKS_EVERY).await;
        let files = files.clone();
        let before = known.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let stamps = Stamps::of(&files);
            (stamps != before).then(|| (stamps, Material::read(files)))
        });
        match looked.await {
            Ok(None) => {}
            Ok(Some((stamps, Ok(material)))) => {
                known = stamps;
                said.clear();
                tracing::info!(certificate = %material.files.certificate.display(), "certificates were read again");
                told.send_replace(Arc::new(material));
            }
            // One file may be written after the other: they are read until they fit.
            Ok(Some((_, Err(error)))) => {
                let why = error.to_string();
                if why != said {
                    tracing::error!(%error, "changed certificates cannot be used; those from before still are");
                    said = why;
                }
            }
            Err(error) => tracing::error!(%error, "looking at certificates broke off"),
        }
    }
}

/// What tells that files have changed, without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamps(Vec<Option<(u64, SystemTime, u64)>>);

impl Stamps {
    fn of(files: &CertificateFiles) -> Self {
        use std::os::unix::fs::MetadataExt;

        let paths = [Some(&files.certificate), Some(&files.key), files.authority.as_ref()];
        let stamp = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.modified().ok()?, found.len()))
        };
        Self(paths.into_iter().flatten().map(stamp).collect())
    }
}

/// What the files held at one time.
pub(crate) struct Material {
    files: CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    trusted: Option<Arc<RootCertStore>>,
}

impl Material {
    fn read(files: CertificateFiles) -> Result<Self, CertificateError> {
        let chain = certificates("certificate", &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents("key", &files.key)?)
            .map_err(|error| garbled("key", &files.key, &error))?;
        let trusted = match &files.authority {
            None => None,
            Some(path) => {
                const WHAT: &str = "certificate of an authority";
                let mut trusted = RootCertStore::empty();
                for certificate in certificates(WHAT, path)? {
                    trusted.add(certificate).map_err(|error| garbled(WHAT, path, &error))?;
                }
                Some(Arc::new(trusted))
            }
        };
        let material = Self { files, chain, key, trusted };
        let shown = if material.trusted.is_some() { Shown::Must } else { Shown::NoMatter };
        material.server(shown)?;
        Ok(material)
    }

    /// How connections are taken.
    ///
    /// # Errors
    /// If what others show is to be looked at, and no authority is known.
    pub(crate) fn server(&self, shown: Shown) -> Result<ServerConfig, CertificateError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| self.unusable(error))?;
        let builder = if shown == Shown::NoMatter {
            builder.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.trusted()?, provider());
            let verifier = if shown == Shown::MayBe { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| self.unusable(error))?)
        };
        builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))
    }

    /// How connections are opened, to whoever shows a certificate of the same authority.
    ///
    /// # Errors
    /// If no authority is known.
    pub(crate) fn client(&self) -> Result<ClientConfig, CertificateError> {
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| self.unusable(error))?
            .with_root_certificates(self.trusted()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))
    }

    fn trusted(&self) -> Result<Arc<RootCertStore>, CertificateError> {
        self.trusted.clone().ok_or_else(|| self.unusable("no authority is named that others are trusted by"))
    }

    fn unusable(&self, why: impl fmt::Display) -> CertificateError {
        let CertificateFiles { certificate, key, .. } = self.files.clone();
        CertificateError::Unusable { certificate, key, why: why.to_string() }
    }
}

/// The one that this program has.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn contents(what: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { what, path: path.to_owned(), source };
    fs::read(path).map_err(unreadable)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let contents = contents(what, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents).collect();
    let read = read.map_err(|error| garbled(what, path, &error))?;
    if read.is_empty() {
        return Err(garbled(what, path, &"there is none in it"));
    }
    Ok(read)
}

fn garbled(what: &'static str, path: &Path, why: &dyn fmt::Display) -> CertificateError {
    CertificateError::Garbled { what, path: path.to_owned(), why: why.to_string() }
}
