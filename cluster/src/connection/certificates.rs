//! The certificate that is shown, its key, and the authority whose certificates are trusted.

use std::{
    fmt, fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, DEFAULT_VERSIONS, RootCertStore, ServerConfig,
    client::{Resumption, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use x509_parser::prelude::{FromDer, X509Certificate};

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
    /// They do not belong together, are of a kind that is not known, or nobody would accept them.
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
    /// used. If there is a `name` that others ask for, the certificate must be for it. One that is not good yet, or no longer, is said in the
    /// log alone: what does not depend on it is served, and another one is taken once it is there. To be called within a runtime.
    ///
    /// # Errors
    /// If they cannot be read, do not belong together, or the certificate is for another name.
    pub fn read(
        files: CertificateFiles,
        name: Option<ServerName<'static>>,
    ) -> Result<Self, CertificateError> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = Stamps::of(&files);
        let material = Material::read(files, name)?;
        if let Err(error) = material.check_term(OffsetDateTime::now_utc()) {
            tracing::error!(%error, "others will refuse this certificate; another one is read as soon as it is there");
        }
        let (told, now) = watch::channel(Arc::new(material));
        let mut looking = JoinSet::new();
        looking.spawn(look(told, stamps));
        Ok(Self { now, _looking: Arc::new(looking) })
    }

    /// Until when the certificate is good that is shown now.
    pub fn good_until(&self) -> OffsetDateTime {
        *self.now().good.end()
    }

    /// What they held last.
    pub(crate) fn now(&self) -> Arc<Material> {
        Arc::clone(&self.now.borrow())
    }
}

/// Reads the files again when they have changed.
async fn look(told: watch::Sender<Arc<Material>>, mut known: Stamps) {
    let mut said = String::new();
    loop {
        sleep(LOOKS_EVERY).await;
        let material = Arc::clone(&told.borrow());
        let before = known.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let stamps = Stamps::of(&material.files);
            (stamps != before).then(|| (stamps, material.renewed(OffsetDateTime::now_utc())))
        });
        match looked.await {
            Ok(None) => {}
            Ok(Some((stamps, Ok(material)))) => {
                known = stamps;
                said.clear();
                tracing::info!(certificate = %material.files.certificate.display(), "certificates were read again");
                told.send_replace(Arc::new(material));
            }
            // One file may be written after the other, and a certificate before it is good: they are read until they can be used.
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
    name: Option<ServerName<'static>>,
    chain: Vec<CertificateDer<'static>>,
    /// When the first of the chain is good: the others are other people's.
    good: RangeInclusive<OffsetDateTime>,
    key: PrivateKeyDer<'static>,
    trusted: Option<Arc<RootCertStore>>,
}

impl Material {
    fn read(files: CertificateFiles, name: Option<ServerName<'static>>) -> Result<Self, CertificateError> {
        let chain = certificates("certificate", &files.certificate)?;
        let good = match chain.first() {
            Some(own) => term(own).map_err(|why| garbled("certificate", &files.certificate, &why))?,
            None => return Err(garbled("certificate", &files.certificate, &"it holds none")),
        };
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
        let material = Self { files, name, chain, good, key, trusted };
        let shown = if material.trusted.is_some() { Shown::Must } else { Shown::NoMatter };
        material.server(shown)?;
        material.check_name()?;
        Ok(material)
    }

    /// What the files hold by now, unless others would refuse it.
    fn renewed(&self, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let material = Self::read(self.files.clone(), self.name.clone())?;
        // The same may have ended meanwhile. That must not keep what else has changed, such as who is trusted, from being used.
        if material.chain != self.chain {
            material.check_term(now)?;
        }
        Ok(material)
    }

    fn check_name(&self) -> Result<(), CertificateError> {
        // One that is none was not read.
        let (Some(name), Some(own)) = (&self.name, self.chain.first()) else { return Ok(()) };
        ParsedCertificate::try_from(own)
            .and_then(|shown| verify_server_name(&shown, name))
            .map_err(|error| self.unusable(format!("it must be for the name {:?}: {error}", name.to_str())))
    }

    fn check_term(&self, now: OffsetDateTime) -> Result<(), CertificateError> {
        let (from, until) = (self.good.start(), self.good.end());
        if now < *from {
            return Err(self.unusable(format!("it is good from {from} on, and not yet")));
        }
        if now > *until {
            return Err(self.unusable(format!("it was good until {until}")));
        }
        Ok(())
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
        let config = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|error| self.unusable(error))?;
        if shown != Shown::NoMatter {
            // Nobody looks at the certificate of a session that is taken up again, though it has ended by then.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }

    /// How connections are opened, to whoever shows a certificate of the same authority.
    ///
    /// # Errors
    /// If no authority is known.
    pub(crate) fn client(&self) -> Result<ClientConfig, CertificateError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|error| self.unusable(error))?
            .with_root_certificates(self.trusted()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|error| self.unusable(error))?;
        // As servers do: each connection is looked at.
        config.resumption = Resumption::disabled();
        Ok(config)
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

/// When a certificate is good.
fn term(certificate: &CertificateDer<'_>) -> Result<RangeInclusive<OffsetDateTime>, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let validity = certificate.validity();
    Ok(validity.not_before.to_datetime()..=validity.not_after.to_datetime())
}

fn garbled(what: &'static str, path: &Path, why: &dyn fmt::Display) -> CertificateError {
    CertificateError::Garbled { what, path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;
    use time::Duration as Span;

    use super::*;

    fn days(from_now: i64) -> OffsetDateTime {
        OffsetDateTime::now_utc() + Span::days(from_now)
    }

    fn ring() -> Option<ServerName<'static>> {
        Some("allidb".try_into().expect("a name"))
    }

    fn places(dir: &TempDir) -> CertificateFiles {
        let path = |name: &str| dir.path().join(name);
        CertificateFiles { certificate: path("c.pem"), key: path("k.pem"), authority: Some(path("a.pem")) }
    }

    /// Writes a certificate that begins and ends so many days from now, with its key; what is returned is the same as an authority.
    fn make(files: &CertificateFiles, name: &str, (from, until): (i64, i64)) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (days(from), days(until));
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        fs::write(&files.certificate, &pem).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        pem
    }

    /// Files of a certificate that are complete.
    fn made(dir: &TempDir, name: &str, term: (i64, i64)) -> CertificateFiles {
        let files = places(dir);
        let pem = make(&files, name, term);
        fs::write(dir.path().join("a.pem"), pem).expect("written");
        files
    }

    /// Why something is refused, without what it would be otherwise, which holds a key.
    fn refusal(read: Result<Material, CertificateError>) -> String {
        match read {
            Ok(_) => panic!("it is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_others_would_refuse_replaces_nothing() {
        let dir = TempDir::new().expect("a directory");
        let files = made(&dir, "allidb", (-1, 9));
        let material = Material::read(files.clone(), ring()).expect("it is good");
        let now = OffsetDateTime::now_utc();
        for (name, term, why) in [
            ("allidb", (-9, -1), "was good until"),
            ("allidb", (1, 9), "not yet"),
            ("another", (-1, 9), "must be for the name \"allidb\""),
        ] {
            make(&files, name, term);
            let refused = refusal(material.renewed(now));
            assert!(refused.contains(why) && refused.contains("c.pem"), "{refused}");
        }
        make(&files, "allidb", (1, 9));
        material.renewed(days(2)).expect("by then it is good");
        make(&files, "allidb", (-1, 30));
        let renewed = material.renewed(now).expect("it is good");
        assert!(*renewed.good.end() > days(29), "{}", renewed.good.end());
        // Clients ask for the name of a host, which only they know.
        make(&files, "another", (-1, 9));
        Material::read(files, None).expect("any name will do");
    }

    #[test]
    fn who_is_trusted_changes_also_once_a_certificate_has_expired() {
        let dir = TempDir::new().expect("a directory");
        let files = made(&dir, "allidb", (-1, 9));
        let material = Material::read(files, ring()).expect("it is good");
        let authority = dir.path().join("a.pem");
        let first = fs::read_to_string(&authority).expect("a file");
        let other = TempDir::new().expect("a directory");
        let second = make(&places(&other), "other", (-1, 9));
        fs::write(&authority, first + &second).expect("written");
        let renewed = material.renewed(days(10)).expect("the certificate is the same");
        assert_eq!(renewed.trusted.map(|trusted| trusted.len()), Some(2));
    }

    #[test]
    fn whoever_shows_a_certificate_shows_it_with_each_connection() {
        let dir = TempDir::new().expect("a directory");
        let material = Material::read(made(&dir, "allidb", (-1, 9)), ring()).expect("it is right");
        for (shown, is_taken_up) in [(Shown::NoMatter, true), (Shown::MayBe, false), (Shown::Must, false)] {
            let config = material.server(shown).expect("it is right");
            assert_eq!(config.session_storage.can_cache(), is_taken_up, "{shown:?}");
            assert_eq!(config.send_tls13_tickets > 0, is_taken_up, "{shown:?}");
        }
    }

    #[tokio::test]
    async fn a_start_is_refused_for_a_wrong_name_and_not_for_a_wrong_time() {
        let dir = TempDir::new().expect("a directory");
        let files = made(&dir, "another", (-1, 9));
        let refused = Certificates::read(files.clone(), ring()).expect_err("for another name").to_string();
        assert!(refused.contains("allidb"), "{refused}");
        for term in [(-9, -1), (1, 9)] {
            make(&files, "allidb", term);
            let certificates =
                Certificates::read(files.clone(), ring()).expect("others may still be talked to");
            assert!(certificates.now().check_term(OffsetDateTime::now_utc()).is_err(), "{term:?}");
            let apart = certificates.good_until() - days(term.1);
            assert!(apart.abs() < Span::minutes(1), "{apart:?}");
        }
    }
}
