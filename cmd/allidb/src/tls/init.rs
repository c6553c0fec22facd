//! `allidb tls init`: an authority of one's own, and the certificates of nodes and clients that it signs.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::{failure::Failure, output::Output};

/// What the authority is called in certificates; which one it is, its key tells.
const AUTHORITY: &str = "AlliDB authority";
/// How long the authority's certificate is good for.
const AUTHORITY_DAYS: i64 = 3_650;
/// Clocks that are behind by less than this take a new certificate as well.
const BEFORE: Duration = Duration::hours(1);
/// Names by which every node is reached on its own machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Make an authority, unless there is one in the directory, and certificates of nodes and clients that it signs.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where the files go. `authority-key.pem` makes nodes and clients of whoever has it: keep it somewhere else than on the nodes.
    #[arg(long, default_value = "certificates", value_name = "DIRECTORY")]
    dir: PathBuf,
    /// A node, and the names and addresses by which clients reach it: NAME or NAME=HOST,HOST.
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// A client.
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,
    /// How long the certificates are good for.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(i64).range(1..=AUTHORITY_DAYS))]
    days: i64,
    /// The name that certificates of nodes are for among each other, as `ring.certificate_name` says.
    #[arg(long, default_value = "allidb", value_name = "NAME")]
    ring_name: String,
    /// Make anew what is there already, but for the authority.
    #[arg(long)]
    renew: bool,
}

/// Runs `tls init`.
pub(super) fn run(args: InitArgs, output: Output) -> Result<()> {
    let wanted = wanted(&args)?;
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    if !args.renew {
        for (name, _) in &wanted {
            let path = certificate_file(&args.dir, name);
            let key = key_file(&args.dir, name);
            if let Some(path) = [&path, &key].into_iter().find(|path| path.exists()) {
                let path = path.display();
                return Err(Failure::usage(format!("{path} is there already: --renew makes it anew")));
            }
        }
    }
    let mut made = Vec::new();
    let issuer = authority(&args.dir, &mut made)?;
    for (name, params) in wanted {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        keep(&args.dir, &name, (&certificate.pem(), &key), &mut made)?;
    }
    let files: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
    let told = if files.is_empty() { "nothing was to be made".to_owned() } else { files.join("\n") };
    output.either(told, json!({ "made": files }))?;
    Ok(())
}

/// Whether files can be called by a name, beside those of others.
fn check_name(name: &str, wanted: &[(String, CertificateParams)]) -> Result<()> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
        return Err(Failure::usage(format!(
            "{name:?} is no name of a node or client: letters, digits, '-', '.' and '_' make one"
        )));
    }
    if name == "authority" || name.ends_with("-key") || wanted.iter().any(|(other, _)| other == name) {
        return Err(Failure::usage(format!("{name:?} is taken: its files would be those of another")));
    }
    Ok(())
}

/// What is asked for: the name of each, and what is to be in its certificate.
fn wanted(args: &InitArgs) -> Result<Vec<(String, CertificateParams)>> {
    let mut wanted: Vec<(String, CertificateParams)> = Vec::new();
    for node in &args.nodes {
        let (name, hosts) = node.split_once('=').unwrap_or((node, ""));
        check_name(name, &wanted)?;
        let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        let names = [args.ring_name.as_str(), name].into_iter().chain(LOCAL).chain(hosts);
        let mut subjects: Vec<String> = Vec::new();
        for subject in names.map(str::to_owned) {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        wanted.push((name.to_owned(), params(name, subjects, purposes.to_vec(), args.days)?));
    }
    for name in &args.clients {
        check_name(name, &wanted)?;
        // It is for no host: whoever has it is neither a daemon nor a node.
        let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        wanted.push((name.clone(), params(name, Vec::new(), purposes, args.days)?));
    }
    Ok(wanted)
}

fn params(
    name: &str,
    subjects: Vec<String>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    days: i64,
) -> Result<CertificateParams> {
    for host in &subjects {
        if ServerName::try_from(host.strip_prefix("*.").unwrap_or(host)).is_err() {
            return Err(Failure::usage(format!(
                "{host:?}, of {name:?}, is neither a host's name nor an address"
            )));
        }
    }
    let mut params = CertificateParams::new(subjects)?;
    params.distinguished_name = called(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes;
    params.use_authority_key_identifier_extension = true;
    good_for(&mut params, days);
    Ok(params)
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

fn good_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BEFORE, now + Duration::days(days));
}

/// The authority of the directory; made, if there is none.
fn authority(dir: &Path, made: &mut Vec<PathBuf>) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = called(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut params, AUTHORITY_DAYS);
    let (certificate_path, key_path) = (certificate_file(dir, "authority"), key_file(dir, "authority"));
    let key = match (certificate_path.exists(), key_path.exists()) {
        (true, true) => {
            let unreadable = || format!("cannot read the authority's key {}", key_path.display());
            let key = KeyPair::from_pem(&fs::read_to_string(&key_path).with_context(unreadable)?);
            let key = key.with_context(unreadable)?;
            check_authority(&certificate_path, &key)?;
            key
        }
        (false, false) => {
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            keep(dir, "authority", (&certificate.pem(), &key), made)?;
            key
        }
        (true, false) => bail!("{} is not there: only with it others can be signed", key_path.display()),
        (false, true) => bail!("{} is not there, but its key is", certificate_path.display()),
    };
    Ok(Issuer::new(params, key))
}

/// Whether what is signed with the key is seen as signed by the holder of the certificate: both hold the same public key, and the name that this program
/// gives authorities.
fn check_authority(path: &Path, key: &KeyPair) -> Result<()> {
    let unreadable = || format!("cannot read the authority's certificate {}", path.display());
    let certificate =
        CertificateDer::from_pem_file(path).map_err(anyhow::Error::new).with_context(unreadable)?;
    let holds = |what: &[u8]| certificate.windows(what.len()).any(|bytes| bytes == what);
    if !holds(key.public_key_raw()) || !holds(AUTHORITY.as_bytes()) {
        bail!(
            "{} was not made here with the key beside it: sign with the tools of that authority",
            path.display()
        );
    }
    Ok(())
}

fn certificate_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-key.pem"))
}

/// Writes a certificate and its key, which only their owner may read.
fn keep(dir: &Path, name: &str, (certificate, key): (&str, &KeyPair), made: &mut Vec<PathBuf>) -> Result<()> {
    let files = [
        (key_file(dir, name), key.serialize_pem(), 0o600),
        (certificate_file(dir, name), certificate.to_owned(), 0o644),
    ];
    for (path, contents, mode) in files {
        replace(&path, &contents, mode).with_context(|| format!("cannot write {}", path.display()))?;
        made.push(path);
    }
    Ok(())
}

/// Whoever reads the file meanwhile reads all of what was there before, or all of what is now.
fn replace(path: &Path, contents: &str, mode: u32) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    // One that was left behind may be open to others.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}
