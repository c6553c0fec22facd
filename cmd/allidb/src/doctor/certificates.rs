//! Certificates: whether they can be read and used, fit their keys and names, and how long they are good for.

use std::{path::Path, sync::Arc};

use allidbd::Config;
use anyhow::{Context, Result, bail};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{place::Place, verdict::Verdict};

/// Time enough to make another one.
const SOON: Duration = Duration::days(30);
const RENEW: &str =
    "make another one, and put it in its place: nothing is to be restarted (docs/operations.md)";

pub(super) fn check(place: &Place) -> Vec<Verdict> {
    let Config { listen, ring, .. } = &place.config;
    let now = OffsetDateTime::now_utc();
    let mut verdicts = Vec::new();
    if let (Some(certificate), Some(key)) = (&listen.certificate_file, &listen.key_file) {
        verdicts.push(verdict("listen.certificate_file", certificate, now, |chain| fits(chain, key)));
    }
    if let Some(authority) = &listen.client_authority_file {
        verdicts.extend(authorities("listen.client_authority_file", authority, now));
    }
    if let (Some(certificate), Some(key), Some(authority)) =
        (&ring.certificate_file, &ring.key_file, &ring.authority_file)
    {
        verdicts.push(verdict("ring.certificate_file", certificate, now, |chain| {
            fits(chain, key)?;
            is_signed(chain, authority, &ring.certificate_name, now)
        }));
        verdicts.extend(authorities("ring.authority_file", authority, now));
    }
    match verdicts.is_empty() {
        true => vec![Verdict::ok("there are none: nothing is encrypted")],
        false => verdicts,
    }
}

/// Of a file: how long the first of its certificates to end is good for, if nothing else is wrong with it.
fn verdict(
    option: &str,
    path: &Path,
    now: OffsetDateTime,
    is_usable: impl FnOnce(&[CertificateDer<'static>]) -> Result<()>,
) -> Verdict {
    let shown = format!("{option} {}", path.display());
    let chain = match read(path) {
        Ok(chain) => chain,
        Err(error) => {
            return Verdict::fail(format!("{shown}: {error:#}"), "name a PEM file with a certificate");
        }
    };
    let (begin, end) = match shortest(&chain) {
        Ok(term) => term,
        Err(error) => return Verdict::fail(format!("{shown}: {error:#}"), RENEW),
    };
    let (from, until) = (begin.date(), end.date());
    if now < begin {
        return Verdict::fail(format!("{shown} is good from {from} on, and not yet"), "look at the clock");
    }
    if now >= end {
        return Verdict::fail(format!("{shown} was good until {until}"), RENEW);
    }
    if let Err(error) = is_usable(&chain) {
        return Verdict::fail(format!("{shown}: {error:#}"), RENEW);
    }
    let left = (end - now).whole_days();
    match end - now < SOON {
        true => Verdict::warn(format!("{shown} is good until {until}, {left} days"), RENEW),
        false => Verdict::ok(format!("{shown} is good until {until}")),
    }
}

/// Of a file of authorities: each is good for itself, so that one which has ended does no harm beside its successor.
fn authorities(option: &str, path: &Path, now: OffsetDateTime) -> Vec<Verdict> {
    let shown = format!("{option} {}", path.display());
    let terms = match read(path).and_then(|all| all.iter().map(term).collect::<Result<Vec<_>>>()) {
        Ok(terms) => terms,
        Err(error) => {
            let advice = "name a PEM file with certificates of authorities";
            return vec![Verdict::fail(format!("{shown}: {error:#}"), advice)];
        }
    };
    if terms.iter().all(|(begin, end)| now < *begin || now >= *end) {
        let last = terms.iter().map(|(_, end)| *end).max().unwrap_or(now);
        return vec![if now >= last {
            Verdict::fail(format!("{shown} was good until {}", last.date()), RENEW)
        } else {
            Verdict::fail(format!("{shown} has none that is good already"), "look at the clock")
        }];
    }
    let warning = |(at, (_, end)): (usize, &(OffsetDateTime, OffsetDateTime))| {
        let (which, until) = (format!("{shown}, certificate {} of {}", at + 1, terms.len()), end.date());
        if now >= *end {
            let advice = "take it out: nothing that it signed should be in use any more";
            return Some(Verdict::warn(format!("{which}, was good until {until}"), advice));
        }
        let left = (*end - now).whole_days();
        (*end - now < SOON)
            .then(|| Verdict::warn(format!("{which}, is good until {until}, {left} days"), RENEW))
    };
    let warnings: Vec<Verdict> = terms.iter().enumerate().filter_map(warning).collect();
    match terms.iter().map(|(_, end)| *end).min() {
        Some(first) if warnings.is_empty() => {
            vec![Verdict::ok(format!("{shown} is good until {}", first.date()))]
        }
        _ => warnings,
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(anyhow::Error::new)?.collect();
    let chain = chain.map_err(anyhow::Error::new)?;
    if chain.is_empty() {
        bail!("it holds no certificate");
    }
    Ok(chain)
}

/// From when on, and until when, one is good.
fn term(der: &CertificateDer<'_>) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let (_, certificate) = X509Certificate::from_der(der).context("it holds no certificate")?;
    let at = |time: x509_parser::time::ASN1Time| {
        OffsetDateTime::from_unix_timestamp(time.timestamp()).context("its dates make no sense")
    };
    let validity = certificate.validity();
    Ok((at(validity.not_before)?, at(validity.not_after)?))
}

/// From when on, and until when, all of a chain are good.
fn shortest(chain: &[CertificateDer<'_>]) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let always = (OffsetDateTime::UNIX_EPOCH, time::PrimitiveDateTime::MAX.assume_utc());
    chain.iter().try_fold(always, |all, der| {
        let one = term(der)?;
        Ok((all.0.max(one.0), all.1.min(one.1)))
    })
}

/// Whether the key is that of the certificate.
fn fits(chain: &[CertificateDer<'static>], key: &Path) -> Result<()> {
    let unreadable = || format!("cannot read its key {}", key.display());
    let private = PrivateKeyDer::from_pem_file(key).map_err(anyhow::Error::new).with_context(unreadable)?;
    CertifiedKey::from_der(chain.to_vec(), private, &ring::default_provider())
        .map(drop)
        .with_context(|| format!("its key {} does not fit", key.display()))
}

/// Whether the authority has signed it, for that name.
fn is_signed(
    chain: &[CertificateDer<'static>],
    authority: &Path,
    name: &str,
    now: OffsetDateTime,
) -> Result<()> {
    let mut trusted = RootCertStore::empty();
    for certificate in read(authority).with_context(|| authority.display().to_string())? {
        trusted.add(certificate).with_context(|| authority.display().to_string())?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider).build()?;
    let server = ServerName::try_from(name.to_owned())?;
    let at = std::time::Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or_default());
    let (first, others) = chain.split_first().context("it holds no certificate")?;
    verifier
        .verify_server_cert(first, others, &server, &[], UnixTime::since_unix_epoch(at))
        .map(drop)
        .with_context(|| {
            format!("nodes will not take it, as {} and the name {name:?} say", authority.display())
        })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{place::tests::bare, verdict::State};

    /// An authority, and where it keeps what it makes.
    struct Authority {
        dir: PathBuf,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new(dir: &Path) -> Self {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let own = params.self_signed(&key).expect("signed");
            fs::create_dir_all(dir).expect("made");
            fs::write(dir.join("authority.pem"), own.pem()).expect("written");
            Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
        }

        /// A certificate for a name that begins and ends so many days from now, and its key.
        fn make(&self, name: &str, (from, until): (i64, i64)) {
            let mut params = CertificateParams::new(vec!["allidb".to_owned()]).expect("a name");
            let now = OffsetDateTime::now_utc();
            (params.not_before, params.not_after) = (now + Duration::days(from), now + Duration::days(until));
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &self.issuer).expect("signed");
            fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).expect("written");
            fs::write(self.dir.join(format!("{name}-key.pem")), key.serialize_pem()).expect("written");
        }

        fn path(&self, name: &str) -> Option<PathBuf> {
            Some(self.dir.join(format!("{name}.pem")))
        }
    }

    #[test]
    fn certificates_of_the_ports() {
        let dir = TempDir::new().expect("a directory");
        let authority = Authority::new(&dir.path().join("certificates"));
        let mut place = bare(&dir);
        assert_eq!(check(&place)[0].state, State::Ok);
        for (name, term) in [("good", (-1, 365)), ("short", (-1, 29)), ("late", (-9, -1)), ("early", (1, 9))]
        {
            authority.make(name, term);
        }
        fs::write(dir.path().join("certificates/garbage.pem"), "nonsense").expect("written");
        for (certificate, key, expected, said) in [
            ("good", "good-key", State::Ok, "is good until"),
            ("short", "short-key", State::Warn, "28 days"),
            ("late", "late-key", State::Fail, "was good until"),
            ("early", "early-key", State::Fail, "not yet"),
            ("good", "short-key", State::Fail, "does not fit"),
            ("good", "nowhere", State::Fail, "nowhere"),
            ("nowhere", "good-key", State::Fail, "nowhere"),
            ("garbage", "good-key", State::Fail, "no certificate"),
        ] {
            place.config.listen.certificate_file = authority.path(certificate);
            place.config.listen.key_file = authority.path(key);
            let verdicts = check(&place);
            let verdict = &verdicts[0];
            assert!(
                verdict.state == expected && verdict.found.contains(said),
                "{certificate}, {key}: {verdict:?}"
            );
        }
    }

    #[test]
    fn authorities_are_judged_one_by_one() {
        let dir = TempDir::new().expect("a directory");
        let authority = Authority::new(dir.path());
        let pem = |term: &(i64, i64)| {
            authority.make("one", *term);
            fs::read_to_string(dir.path().join("one.pem")).expect("there")
        };
        let (good, short, late, early) = ((-1, 365), (-1, 29), (-9, -1), (1, 365));
        let path = dir.path().join("bundle.pem");
        for (terms, expected) in [
            (&[good][..], &[State::Ok][..]),
            (&[good, good, early], &[State::Ok]),
            (&[late, good], &[State::Warn]),
            (&[good, short, late], &[State::Warn, State::Warn]),
            (&[late], &[State::Fail]),
            (&[late, late], &[State::Fail]),
            (&[late, early], &[State::Fail]),
        ] {
            fs::write(&path, terms.iter().map(pem).collect::<String>()).expect("written");
            let verdicts = authorities("option", &path, OffsetDateTime::now_utc());
            let states: Vec<State> = verdicts.iter().map(|verdict| verdict.state).collect();
            assert_eq!(states, expected, "{terms:?}: {verdicts:?}");
        }
        fs::write(&path, "nonsense").expect("written");
        assert_eq!(authorities("option", &path, OffsetDateTime::now_utc())[0].state, State::Fail);
    }

    #[test]
    fn certificates_of_the_ring() {
        let dir = TempDir::new().expect("a directory");
        let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(&dir.path().join(name)));
        ours.make("node", (-1, 365));
        let mut place = bare(&dir);
        let ring = &mut place.config.ring;
        (ring.certificate_file, ring.key_file) = (ours.path("node"), ours.path("node-key"));
        ring.authority_file = ours.path("authority");
        let states = |place: &Place| check(place).iter().map(|verdict| verdict.state).collect::<Vec<_>>();
        assert_eq!(states(&place), [State::Ok, State::Ok], "{:?}", check(&place));
        place.config.ring.certificate_name = "another".to_owned();
        assert_eq!(states(&place), [State::Fail, State::Ok]);
        place.config.ring.certificate_name = "allidb".to_owned();
        place.config.ring.authority_file = theirs.path("authority");
        assert_eq!(states(&place), [State::Fail, State::Ok]);
    }
}
