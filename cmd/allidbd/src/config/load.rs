//! File, then environment, then flags: each layer beats those before it.

use std::fmt::Write;

use anyhow::{Context, bail};
use figment::{
    Figment, Metadata, Profile, Provider, Source,
    providers::{Env, Format, Serialized},
    value::{Dict, Map, Tag, Value},
};
use serde_json::Value as Json;
use serde_saphyr::figment::Yaml;

use super::{Config, known};
use crate::{ServeArgs, logs};

/// The beginning of every variable that is an option. Kubernetes injects variables such as
/// `ALLIDB_SERVICE_HOST`, hence two underscores.
const PREFIX: &str = "ALLIDB__";
const COMMAND_LINE: &str = "the command line";

/// The effective options.
///
/// # Errors
/// Where the file cannot be read, a key is no option, or a value is none that the option takes. The error
/// says where the value came from.
pub fn load(args: &ServeArgs) -> anyhow::Result<Config> {
    let figment = layers(args)?;
    extract(&figment)
}

/// An option as it is, and where that came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveOption {
    /// As in `listen.grpc`.
    pub path: String,
    /// Null: it is not set.
    pub value: Json,
    /// In words.
    pub origin: String,
}

/// Each effective option and where it came from. Of addresses, what may be a secret is left out: users, passwords, and queries.
///
/// # Errors
/// As for [`load`].
pub fn effective(args: &ServeArgs) -> anyhow::Result<Vec<EffectiveOption>> {
    let figment = layers(args)?;
    let config = serde_json::to_value(extract(&figment)?)?;
    let mut options = Vec::new();
    for path in known::paths(&config) {
        let value = config.pointer(&format!("/{}", path.replace('.', "/")));
        if let Some(value) = value.filter(|value| !value.is_object()) {
            let origin = figment
                .find_value(&path)
                .map_or_else(|_| "default".to_owned(), |value| origin(&figment, value.tag(), &path));
            options.push(EffectiveOption { value: without_secrets(value), path, origin });
        }
    }
    Ok(options)
}

fn without_secrets(value: &Json) -> Json {
    match value {
        Json::String(text) => Json::String(without_secret(text)),
        Json::Array(values) => values.iter().map(without_secrets).collect(),
        other => other.clone(),
    }
}

/// `https://user:password@host/path?token=x` as `https://…@host/path?…`. A password may hold what ends a host.
fn without_secret(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let shown = rest.rsplit_once('@').map(|(_, rest)| format!("…@{rest}"));
    let shown = shown.as_deref().unwrap_or(rest);
    match shown.split_once(['?', '#']) {
        Some((shown, _)) => format!("{scheme}://{shown}?…"),
        None => format!("{scheme}://{shown}"),
    }
}

/// The same, one a line.
///
/// # Errors
/// As for [`load`].
pub fn show(args: &ServeArgs) -> anyhow::Result<String> {
    let line = |EffectiveOption { path, value, origin }| {
        let value = match value {
            Json::String(text) => text,
            Json::Null => "unset".to_owned(),
            other => other.to_string(),
        };
        (format!("{path} = {value}"), origin)
    };
    let lines: Vec<(String, String)> = effective(args)?.into_iter().map(line).collect();
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, origin) in lines {
        writeln!(text, "{line:width$}  # {origin}")?;
    }
    Ok(text)
}

fn layers(args: &ServeArgs) -> anyhow::Result<Figment> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        // A file of nothing but comments is a null, which is no dictionary.
        if text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
            serde_saphyr::from_str::<Json>(&text)
                .with_context(|| format!("the configuration file {} is no YAML", path.display()))?;
            figment = figment.merge(Yaml::file_exact(path));
        }
    }
    Ok(figment.merge(Env::prefixed(PREFIX).split("__")).merge(Flags::of(args)))
}

fn extract(figment: &Figment) -> anyhow::Result<Config> {
    known::refuse_unknown(figment)?;
    let config: Config = figment.extract().map_err(|error| anyhow::anyhow!(describe(figment, error)))?;
    config.check()?;
    Ok(config)
}

/// Every value that does not fit its option, and where it came from.
fn describe(figment: &Figment, error: figment::Error) -> String {
    let describe = |error: figment::Error| {
        let path = error.path.join(".");
        let origin = match figment.find_value(&path) {
            Ok(value) if !path.is_empty() => origin(figment, value.tag(), &path),
            _ => error.metadata.as_ref().map_or_else(String::new, |metadata| origin_of(metadata, &path)),
        };
        format!("`{path}` cannot be taken from {origin}: {}", error.kind)
    };
    error.into_iter().map(describe).collect::<Vec<_>>().join("\n")
}

/// In words, where the value at `path` came from.
pub(super) fn origin(figment: &Figment, tag: Tag, path: &str) -> String {
    figment.get_metadata(tag).map_or_else(|| "default".to_owned(), |metadata| origin_of(metadata, path))
}

fn origin_of(metadata: &Metadata, path: &str) -> String {
    match &metadata.source {
        Some(Source::File(file)) => return format!("file {}", file.display()),
        _ if metadata.name.contains("environment") => {
            return format!("environment {PREFIX}{}", path.to_uppercase().replace('.', "__"));
        }
        _ => {}
    }
    if metadata.name == COMMAND_LINE { COMMAND_LINE.to_owned() } else { "default".to_owned() }
}

/// The flags as a layer.
struct Flags(Dict);

impl Flags {
    fn of(args: &ServeArgs) -> Self {
        let mut dict = Dict::new();
        let mut set = |path: &str, value: Option<String>| {
            let Some(value) = value else { return };
            match path.split_once('.') {
                None => {
                    dict.insert(path.to_owned(), Value::from(value));
                }
                Some((section, option)) => {
                    let section = dict.entry(section.to_owned()).or_insert_with(|| Value::from(Dict::new()));
                    if let Value::Dict(_, options) = section {
                        options.insert(option.to_owned(), Value::from(value));
                    }
                }
            }
        };
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        set("data_dir", path(&args.data_dir));
        set("listen.grpc", args.grpc_listen.clone());
        set("listen.http", args.http_listen.clone());
        set("listen.port_file", path(&args.port_file));
        set("embedding.url", args.embed_url.clone());
        set("embedding.model", args.embed_model.clone());
        set("embedding.folder", path(&args.embed_folder));
        set("log.format", args.log_format.clone());
        set("log.filter", args.log.clone());
        Self(dict)
    }
}

impl Provider for Flags {
    fn metadata(&self) -> Metadata {
        Metadata::named(COMMAND_LINE)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

impl Config {
    /// What no single option's type can say.
    ///
    /// # Errors
    /// Names the option and what it may be.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_listen()?;
        self.check_jwt()?;
        let is_store = self.snapshots.location.as_deref().is_some_and(|place| place.starts_with("s3://"));
        if self.snapshots.credentials_file.is_some() && !is_store {
            bail!("`snapshots.credentials_file` is set, but `snapshots.location` is no s3://BUCKET/PREFIX");
        }
        self.check_ring()?;
        if !(2..=256).contains(&self.vectors.connections) {
            bail!("`vectors.connections` is {}; it must be 2 to 256", self.vectors.connections);
        }
        if self.limits.message_bytes.0 < 1 << 10 || self.limits.message_bytes.0 > u64::from(u32::MAX) {
            bail!("`limits.message_bytes` is {}; it must be 1KiB to 4GiB", self.limits.message_bytes);
        }
        let storage = &self.storage;
        if !(storage.level0_files <= storage.level0_slowdown_files
            && storage.level0_slowdown_files <= storage.level0_stop_files)
        {
            bail!("`storage.level0_files`, `level0_slowdown_files` and `level0_stop_files` must not fall");
        }
        if storage.level_multiplier < 2 {
            bail!("`storage.level_multiplier` is {}; it must be at least 2", storage.level_multiplier);
        }
        logs::filter(&self.log)?;
        self.check_storage()?;
        self.check_embedding()?;
        self.check_tracing()?;
        self.refuse_zeros()
    }

    fn check_listen(&self) -> anyhow::Result<()> {
        let listen = &self.listen;
        if listen.certificate_file.is_some() != listen.key_file.is_some() {
            bail!("`listen.certificate_file` and `key_file` belong together: set both or none");
        }
        if listen.client_authority_file.is_some() && listen.certificate_file.is_none() {
            bail!("`listen.client_authority_file` is set, but not `listen.certificate_file` and `key_file`");
        }
        let is_encrypted = listen.certificate_file.is_some();
        let is_authenticated = listen.client_authority_file.is_some() || self.access.keys_required;
        let is_protected = (is_encrypted && is_authenticated) || listen.unprotected;
        for (option, address) in [("listen.grpc", listen.grpc), ("listen.http", listen.http)] {
            if !is_protected && !address.ip().is_loopback() {
                bail!(
                    "`{option}` is {address}, but only loopback addresses such as 127.0.0.1 or [::1] are allowed without \
                     `listen.certificate_file` and `key_file`, and `access.keys_required` or \
                     `listen.client_authority_file`: anyone who reaches the port could read and change everything. \
                     `allidb tls init` makes certificates; `listen.unprotected` listens even so"
                );
            }
        }
        if let Some(wrong) = listen.origins.iter().find(|origin| !is_origin(origin)) {
            bail!("`listen.origins` names {wrong:?}; origins are written https://host or https://host:port");
        }
        Ok(())
    }

    fn check_jwt(&self) -> anyhow::Result<()> {
        let jwt = &self.jwt;
        match (&jwt.jwks_file, &jwt.jwks_url) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                bail!("`jwt.jwks_file` and `jwt.jwks_url` are both set; keys are told by one of them")
            }
            (None, Some(url)) if !is_safe_url(url) => bail!(
                "`jwt.jwks_url` is {url:?}; it must begin with https://, or with http:// and name this machine: \
                 whoever is on the way could let in anybody"
            ),
            _ => {}
        }
        let required = [
            ("issuer", jwt.issuer.as_deref()),
            ("audience", jwt.audience.as_deref()),
            ("tenant_claim", Some(jwt.tenant_claim.as_str())),
            ("role_claim", Some(jwt.role_claim.as_str())),
            ("collections_claim", Some(jwt.collections_claim.as_str())),
        ];
        if let Some((option, _)) = required.iter().find(|(_, value)| value.unwrap_or_default().is_empty()) {
            bail!("`jwt.{option}` is not set; tokens that are for others would be taken");
        }
        Ok(())
    }

    fn check_ring(&self) -> anyhow::Result<()> {
        let ring = &self.ring;
        if ring.founders.is_empty() {
            return Ok(());
        }
        if ring.founders.len() == 1 {
            bail!("`ring.founders` names one node alone; a node that is alone needs none");
        }
        let address = ring.address();
        if !is_address(&address) {
            bail!("`ring.address` is {address:?}; addresses are written host:port");
        }
        if let Some(wrong) = ring.founders.iter().find(|founder| !is_address(founder)) {
            bail!("`ring.founders` names {wrong:?}; addresses are written host:port");
        }
        if let Some(twice) =
            ring.founders.iter().enumerate().find(|(at, founder)| ring.founders[..*at].contains(founder))
        {
            bail!("`ring.founders` names {} twice", twice.1);
        }
        if !(1..=allidb_cluster::MAX_REPLICATION).contains(&ring.replication)
            || ring.replication > ring.founders.len()
        {
            bail!(
                "`ring.replication` is {}; it must be 1 to {}, and at most as many as there are founders, {}",
                ring.replication,
                allidb_cluster::MAX_REPLICATION,
                ring.founders.len()
            );
        }
        let files = [&ring.certificate_file, &ring.key_file, &ring.authority_file];
        match files.iter().filter(|file| file.is_some()).count() {
            0 if !ring.listen.ip().is_loopback() => bail!(
                "`ring.listen` is {}, but without `ring.certificate_file`, `key_file` and `authority_file` only loopback \
                 addresses are allowed: anyone who reaches the port could read and change everything",
                ring.listen
            ),
            0 | 3 => Ok(()),
            _ => bail!(
                "`ring.certificate_file`, `key_file` and `authority_file` belong together: set all or none"
            ),
        }
    }

    fn check_embedding(&self) -> anyhow::Result<()> {
        let embedding = &self.embedding;
        match &embedding.url {
            Some(_) if embedding.folder.is_some() => {
                bail!(
                    "`embedding.url` and `embedding.folder` are both set; texts are embedded by one of them"
                );
            }
            Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                bail!("`embedding.url` is {url:?}; it must begin with http:// or https://");
            }
            Some(_) if embedding.model.as_deref().unwrap_or_default().is_empty() => {
                bail!(
                    "`embedding.model` is not set; the service at `embedding.url` has to be told which one"
                );
            }
            _ => Ok(()),
        }
    }

    fn check_tracing(&self) -> anyhow::Result<()> {
        let tracing = &self.tracing;
        if !(0.0..=1.0).contains(&tracing.sample_ratio) {
            bail!("`tracing.sample_ratio` is {}; it must be 0 to 1", tracing.sample_ratio);
        }
        match &tracing.otlp_endpoint {
            Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                bail!("`tracing.otlp_endpoint` is {url:?}; it must begin with http:// or https://");
            }
            Some(url) if !url.starts_with("https://") && tracing.authority_file.is_some() => {
                bail!("`tracing.authority_file` is set, but {url} is not encrypted: write https://");
            }
            _ => Ok(()),
        }
    }

    fn check_storage(&self) -> anyhow::Result<()> {
        let storage = &self.storage;
        if storage.compression.is_empty() {
            bail!("`storage.compression` is empty; it must name one for level 0 at least, as in [lz4]");
        }
        if storage.blob_garbage_percent > 100 {
            bail!("`storage.blob_garbage_percent` is {}; it must be 1 to 100", storage.blob_garbage_percent);
        }
        let least = crate::wire::storage(self).least_memory_bytes();
        if storage.memory_bytes.0 < least as u64 {
            bail!(
                "`storage.memory_bytes` is {}; beside `memtable_bytes` {}, of which `frozen_memtables` {} more may \
                 wait for the flush, it must be at least {least}",
                storage.memory_bytes,
                storage.memtable_bytes,
                storage.frozen_memtables
            );
        }
        Ok(())
    }

    /// A bound of nothing would refuse everything; where 0 has a meaning, the option says so.
    fn refuse_zeros(&self) -> anyhow::Result<()> {
        const MAY_BE_ZERO: &[&str] = &[
            "jwt.leeway",
            "vectors.build_threads",
            "threads.read",
            "embedding.retries",
            "log.slow_query",
            "storage.min_free_bytes",
            "storage.filter_bits_per_key",
            "storage.separation_bytes",
            "storage.compaction_bytes_per_second",
            "ring.move_bytes_per_second",
            "ring.copy_from_bytes",
            "ring.hint_bytes_per_second",
        ];
        let config = serde_json::to_value(self)?;
        for path in known::paths(&config) {
            let value = config.pointer(&format!("/{}", path.replace('.', "/")));
            let zero = value.is_some_and(|value| value == 0 || value == "0" || value == "0s");
            if zero && path != "shutdown.grace" && !MAY_BE_ZERO.contains(&path.as_str()) {
                bail!("`{path}` is 0; it must be at least 1");
            }
        }
        Ok(())
    }
}

/// Whether what is read there is what was said there: over HTTPS, or from this machine.
fn is_safe_url(url: &str) -> bool {
    let host = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let host = authority.rsplit_once(':').filter(|(_, port)| is_port(port));
        host.map_or(authority.clone(), |(host, _)| host.to_owned())
    };
    match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => !host(rest).is_empty(),
        (_, Some(rest)) => {
            let host = host(rest);
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
            host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}

/// Whether this is a host and a port: `host:port`, `[::1]:port`.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = |host: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        !host.is_empty() && host.chars().all(is_part)
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_named = bare.map_or_else(|| is_host(host), |host| host.parse::<std::net::Ipv6Addr>().is_ok());
    is_named && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// As browsers write them: lower case, and nothing behind the host and its port.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.bytes().any(|byte| byte.is_ascii_uppercase())
            && (is_address(host) || is_address(&format!("{host}:1")))
    })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
