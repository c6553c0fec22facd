//! `allidb tls show`: what certificates say.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use crate::output::{Output, table};

/// Show whose certificates are, what for, signed by whom, and until when they are good.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Files in PEM format; all certificates in each are shown.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// One certificate.
struct Shown {
    file: String,
    name: String,
    issuer: String,
    /// What it is for: names and addresses.
    names: Vec<String>,
    is_authority: bool,
    from: OffsetDateTime,
    until: OffsetDateTime,
}

/// Runs `tls show`.
pub(super) fn run(ShowArgs { files }: &ShowArgs, output: Output) -> Result<()> {
    let mut shown = Vec::new();
    for file in files {
        let path = file.display().to_string();
        let unreadable = || format!("cannot read {path}");
        let before = shown.len();
        for der in CertificateDer::pem_file_iter(file).map_err(anyhow::Error::new).with_context(unreadable)? {
            let der = der.map_err(anyhow::Error::new).with_context(unreadable)?;
            shown.push(Shown::of(path.clone(), &der).with_context(unreadable)?);
        }
        if shown.len() == before {
            bail!("{path} holds no certificate");
        }
    }
    let now = OffsetDateTime::now_utc();
    if output.is_json() {
        let documents: Result<Vec<_>> = shown.iter().map(|shown| shown.document(now)).collect();
        output.document(&json!({ "certificates": documents? }))?;
        return Ok(());
    }
    let mut rows = table(&["FILE", "OF", "SIGNED BY", "FOR", "GOOD UNTIL", "DAYS LEFT"]);
    for Shown { file, name, issuer, names, is_authority, from, until } in shown {
        let left = match (now < from, now > until) {
            (true, _) => format!("not before {}", from.date()),
            (_, true) => "expired".to_owned(),
            _ => (until - now).whole_days().to_string(),
        };
        let names = if is_authority { "signing".to_owned() } else { names.join(", ") };
        rows.add_row(vec![file, name, issuer, names, until.date().to_string(), left]);
    }
    output.table(&rows)?;
    Ok(())
}

impl Shown {
    fn of(file: String, der: &[u8]) -> Result<Self> {
        let (_, certificate) = X509Certificate::from_der(der).context("it is no certificate")?;
        let at = |time: x509_parser::time::ASN1Time| {
            OffsetDateTime::from_unix_timestamp(time.timestamp()).context("its dates make no sense")
        };
        let names = certificate.subject_alternative_name().context("its names cannot be read")?;
        let names = names.map(|names| names.value.general_names.iter().map(name_of).collect());
        Ok(Self {
            file,
            name: called(certificate.subject()),
            issuer: called(certificate.issuer()),
            names: names.unwrap_or_default(),
            is_authority: certificate.is_ca(),
            from: at(certificate.validity().not_before)?,
            until: at(certificate.validity().not_after)?,
        })
    }

    fn document(&self, now: OffsetDateTime) -> Result<serde_json::Value> {
        let Self { file, name, issuer, names, is_authority, from, until } = self;
        Ok(json!({
            "file": file,
            "name": name,
            "issuer": issuer,
            "names": names,
            "is_authority": is_authority,
            "not_before": from.format(&Rfc3339)?,
            "not_after": until.format(&Rfc3339)?,
            "is_good": (*from..=*until).contains(&now),
        }))
    }
}

/// What somebody is called by: the common name, or all of it where there is none.
fn called(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    printable(common.map_or_else(|| name.to_string(), str::to_owned))
}

/// Whoever made a certificate does not move the cursor of whoever looks at it.
fn printable(text: String) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn name_of(name: &GeneralName<'_>) -> String {
    let address = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    printable(match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            (*name).to_owned()
        }
        GeneralName::IPAddress(bytes) => address(bytes).map_or_else(|| name.to_string(), |ip| ip.to_string()),
        other => other.to_string(),
    })
}
