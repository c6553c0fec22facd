//! `allidb tenant …`: who has what, and letting a tenant go.

use std::time::Duration;

use allidb_api::v1::{
    CreateKeyRequest, DropCollectionRequest, Key, ListCollectionsRequest, ListKeysRequest,
    ListTenantsRequest, Quota, RevokeKeyRequest, Role, SetQuotaRequest, Tenant,
};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tonic::Code;

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, table},
    quotas::{amount, to_json as quota_to_json},
};

/// How long the key may be good for with which a tenant's collections are dropped: it is revoked at the end, unless that breaks off.
const KEY_SECONDS: i64 = 3_600;
/// Within which time no node takes a key any more that was revoked.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is begun anew if somebody made something meanwhile.
const ROUNDS: usize = 3;

/// Shows tenants, and lets them go.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Shows tenants that have collections, keys or a quota.
    List,
    Drop(DropArgs),
}

/// Revokes a tenant's keys but for operators', drops its collections with all that is in them, and lifts its quota. Takes a node's own key; what broke off
/// goes on when it is called again.
#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// Which tenant.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    tenant: u64,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

/// Runs `tenant`.
pub(crate) async fn run(command: TenantCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        TenantCommand::List => show(&tenants(client).await?, output),
        TenantCommand::Drop(args) => let_go(args, client, output).await,
    }
}

async fn tenants(client: &Client) -> Result<Vec<Tenant>> {
    let listed = client.quotas().list_tenants(ListTenantsRequest {}).await;
    Ok(listed.map_err(Failure::from_status)?.into_inner().tenants)
}

async fn let_go(DropArgs { tenant, yes }: DropArgs, client: &Client, output: Output) -> Result<()> {
    let found = tenants(client).await?.into_iter().find(|of| of.tenant == tenant);
    let Some(found) = found else {
        return Err(anyhow::Error::new(Failure::NotFound(format!("nothing is known of tenant {tenant}"))));
    };
    let operators = keys_of(tenant, client).await?.iter().filter(|key| is_operators(key)).count();
    if !yes {
        let stays = staying(operators);
        let keys = (found.keys as usize).saturating_sub(operators);
        return Err(Failure::usage(format!(
            "this would drop {} collections of tenant {tenant} with all that is in them, and revoke {keys} keys{stays}; add --yes",
            found.collections
        )));
    }
    // What it may ask a second bounds the call below, too.
    let request = SetQuotaRequest { tenant, quota: Some(Quota::default()) };
    client.quotas().set_quota(request).await.map_err(Failure::from_status)?;
    let (mut dropped, mut revoked) = (0, 0);
    for _ in 0..ROUNDS {
        let gone = drop_and_revoke(tenant, client, output).await?;
        dropped += gone.0;
        revoked += gone.1;
        if gone.1 > 0 {
            // Until then other nodes may take a key that is revoked, and so make another one.
            tokio::time::sleep(REVOKED_WITHIN).await;
        }
        let left = tenants(client).await?.into_iter().find(|of| of.tenant == tenant);
        if left.is_none_or(|left| left.collections == 0 && left.keys as usize <= operators) {
            return tell(tenant, (dropped, revoked, operators), output);
        }
    }
    bail!(
        "tenant {tenant} has collections or keys still: somebody makes them all the time; call it once more"
    )
}

/// Revokes a tenant's keys and drops its collections, by a key that is made for that. Gives how many of each.
async fn drop_and_revoke(tenant: u64, client: &Client, output: Output) -> Result<(usize, usize)> {
    // First, so that nobody makes anything meanwhile.
    let before = revoke_all(tenant, client).await?;
    let request = CreateKeyRequest {
        name: format!("to drop tenant {tenant}"),
        role: Role::Admin.into(),
        tenant,
        expire_at: Some(prost_types::Timestamp { seconds: now() + KEY_SECONDS, nanos: 0 }),
        collections: Vec::new(),
    };
    let made = client.keys().create_key(request).await.map_err(Failure::from_status)?.into_inner();
    let dropped = drop_collections(&client.with_key(&made.secret)?, output).await;
    // That one is among them.
    let after = revoke_all(tenant, client).await?.saturating_sub(1);
    Ok((dropped?, before + after))
}

fn tell(tenant: u64, (dropped, revoked, operators): (usize, usize, usize), output: Output) -> Result<()> {
    let stays = staying(operators);
    output.either(
        format!("tenant {tenant} is gone: {dropped} collections are dropped, {revoked} keys revoked{stays}"),
        json!({ "tenant": tenant, "collections": dropped, "keys": revoked, "operators_keys": operators }),
    )?;
    Ok(())
}

fn staying(operators: usize) -> String {
    match operators {
        0 => String::new(),
        count => format!("; {count} keys of operators stay, which are of the whole ring"),
    }
}

/// Whether a key is of the whole ring, whatever tenant it names.
fn is_operators(key: &Key) -> bool {
    key.role() == Role::Operator
}

/// Revokes all keys of a tenant, those that are made meanwhile too, but for operators'. Gives how many.
async fn revoke_all(tenant: u64, client: &Client) -> Result<usize> {
    let mut revoked = 0;
    loop {
        let keys = keys_of(tenant, client).await?;
        let keys: Vec<Key> = keys.into_iter().filter(|key| !is_operators(key)).collect();
        if keys.is_empty() {
            return Ok(revoked);
        }
        for key in keys {
            let request = RevokeKeyRequest { id: key.id };
            match client.keys().revoke_key(request).await {
                Ok(_) => revoked += 1,
                // Somebody else has.
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(Failure::from_status(status)),
            }
        }
    }
}

fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

async fn keys_of(tenant: u64, client: &Client) -> Result<Vec<Key>> {
    let keys = client.keys().list_keys(ListKeysRequest {}).await.map_err(Failure::from_status)?;
    Ok(keys.into_inner().keys.into_iter().filter(|key| key.tenant == tenant).collect())
}

/// Drops all collections that a key sees. Gives how many.
async fn drop_collections(client: &Client, output: Output) -> Result<usize> {
    let mut dropped = 0;
    loop {
        // Those of the first page are gone then.
        let listed = client.collections().list_collections(ListCollectionsRequest::default()).await;
        let collections = listed.map_err(Failure::from_status)?.into_inner().collections;
        if collections.is_empty() {
            return Ok(dropped);
        }
        for collection in collections {
            let name = collection.name.clone();
            let request = DropCollectionRequest { name: name.clone() };
            client.collections().drop_collection(request).await.map_err(Failure::from_status)?;
            dropped += 1;
            if !output.is_json() {
                output.line(format!("dropped {name}"))?;
            }
        }
    }
}

fn show(tenants: &[Tenant], output: Output) -> Result<()> {
    if output.is_json() {
        output.document(&tenants.iter().map(to_json).collect())?;
        return Ok(());
    }
    let mut rows = table(&["TENANT", "COLLECTIONS", "KEYS", "ENTITIES", "VECTORS", "BYTES"]);
    for of in tenants {
        let (quota, usage) = (of.quota.unwrap_or_default(), of.usage.as_ref());
        rows.add_row([
            of.tenant.to_string(),
            of.collections.to_string(),
            of.keys.to_string(),
            amount(usage.map(|usage| usage.entities), quota.entities, |count| count.to_string()),
            amount(usage.map(|usage| usage.vectors), quota.vectors, |count| count.to_string()),
            amount(usage.map(|usage| usage.bytes), quota.bytes, crate::maintenance::size),
        ]);
    }
    output.table(&rows)?;
    Ok(())
}

fn to_json(of: &Tenant) -> Json {
    let mut told = quota_to_json(of.tenant, &of.quota.unwrap_or_default(), of.usage.as_ref());
    told["collections"] = of.collections.into();
    told["keys"] = of.keys.into();
    told
}
