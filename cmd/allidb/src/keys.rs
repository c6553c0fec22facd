//! `allidb key …`: keys that callers show.

use allidb_api::v1::{CreateKeyRequest, Key, ListKeysRequest, RevokeKeyRequest, Role};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};
use time::{Duration, OffsetDateTime};

use crate::{
    client::Client,
    duration_text,
    failure::Failure,
    output::{Output, table},
};

/// Makes, lists and revokes keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Create(CreateArgs),
    /// Shows keys, but for their secrets, which nobody keeps.
    List,
    /// Has a key be good for nothing any more, on all nodes within seconds.
    Revoke {
        /// Its id: the part after `adb_`.
        id: String,
    },
}

/// Makes a key and shows it, this once. To replace one, make another, have all callers show it, and revoke the first.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What it is called, such as who has it.
    name: String,
    /// What it may do.
    #[arg(long, value_enum)]
    role: RoleName,
    /// Whose data it is for, if not of the tenant of the key that is shown.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    tenant: Option<u64>,
    /// The only collection that it sees: a name, or how names begin and `*`. May be said several times; without it all. For readers and writers.
    #[arg(long = "collection", value_name = "PATTERN")]
    collections: Vec<String>,
    /// How long it is good for, such as 90d; for ever, if this is not said.
    #[arg(long, value_name = "DURATION", value_parser = duration_text::parse)]
    expires_in: Option<prost_types::Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Reads entities and asks queries.
    Reader,
    /// That, and writes.
    Writer,
    /// That, and makes collections and keys of its tenant.
    Admin,
    /// Looks after nodes; sees no data.
    Operator,
}

/// Runs `key`.
pub(crate) async fn run(command: KeyCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        KeyCommand::Create(args) => create(args, client, output).await,
        KeyCommand::List => {
            let keys = client.keys().list_keys(ListKeysRequest {}).await.map_err(Failure::from_status)?;
            show(&keys.into_inner().keys, output)
        }
        KeyCommand::Revoke { id } => {
            let request = RevokeKeyRequest { id: id.clone() };
            client.keys().revoke_key(request).await.map_err(Failure::from_status)?;
            output.either(format!("key {id} is revoked"), json!({ "revoked": id }))?;
            Ok(())
        }
    }
}

async fn create(args: CreateArgs, client: &Client, output: Output) -> Result<()> {
    let role = match args.role {
        RoleName::Reader => Role::Reader,
        RoleName::Writer => Role::Writer,
        RoleName::Admin => Role::Admin,
        RoleName::Operator => Role::Operator,
    };
    let expire_at = args.expires_in.map(after).transpose()?;
    let tenant = args.tenant.unwrap_or_default();
    let CreateArgs { name, collections, .. } = args;
    let request = CreateKeyRequest { name, role: role.into(), tenant, expire_at, collections };
    let made = client.keys().create_key(request).await.map_err(Failure::from_status)?.into_inner();
    let mut document = made.key.as_ref().map_or_else(|| json!({}), key_to_json);
    document["secret"] = made.secret.clone().into();
    // On standard output stands what a file is to hold, and nothing else.
    if !output.is_json() {
        eprintln!("the key, which is shown this once:");
    }
    output.either(made.secret, document)?;
    Ok(())
}

/// The time after so long, to the second.
fn after(time: prost_types::Duration) -> Result<prost_types::Timestamp> {
    let end = OffsetDateTime::now_utc().checked_add(Duration::seconds(time.seconds.max(1)));
    let seconds = end.context("no clock goes so far")?.unix_timestamp();
    Ok(prost_types::Timestamp { seconds, nanos: 0 })
}

fn show(keys: &[Key], output: Output) -> Result<()> {
    if output.is_json() {
        output.document(&keys.iter().map(key_to_json).collect())?;
        return Ok(());
    }
    let mut rows = table(&["ID", "NAME", "TENANT", "ROLE", "COLLECTIONS", "MADE", "EXPIRES", "USED"]);
    for key in keys {
        let [made, expires, used] = [&key.created_at, &key.expire_at, &key.last_used_at].map(written);
        let expires = expires.unwrap_or_else(|| "never".to_owned());
        let tenant = key.tenant.to_string();
        let (made, used) = (made.unwrap_or_default(), used.unwrap_or_default());
        let collections =
            if key.collections.is_empty() { "all".to_owned() } else { key.collections.join(" ") };
        let cells = [key.id.clone(), key.name.clone(), tenant, role(key), collections, made, expires, used];
        rows.add_row(cells);
    }
    output.table(&rows)?;
    Ok(())
}

fn key_to_json(key: &Key) -> Json {
    json!({
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "role": role(key),
        "created_at": written(&key.created_at),
        "expire_at": written(&key.expire_at),
        "last_used_at": written(&key.last_used_at),
        "collections": key.collections,
    })
}

fn role(key: &Key) -> String {
    key.role().as_str_name().trim_start_matches("ROLE_").to_lowercase()
}

fn written(time: &Option<prost_types::Timestamp>) -> Option<String> {
    time.as_ref().map(ToString::to_string)
}
