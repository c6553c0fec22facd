//! `allidb tenant …`: who has what, and letting a tenant go.

use allidb_api::v1::{
    CreateKeyRequest, DropCollectionRequest, Key, ListCollectionsRequest, ListKeysRequest,
    ListTenantsRequest, Quota, RevokeKeyRequest, Role, SetQuotaRequest, Tenant,
};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{Output, table},
    quotas::{amount, to_json as quota_to_json},
};

/// How long the key may be good for with which a tenant's collections are dropped: it is revoked at the end, unless that breaks off.
const KEY_SECONDS: i64 = 3_600;

/// Shows tenants, and lets them go.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Shows tenants that have collections, keys or a quota.
    List,
    Drop(DropArgs),
}

/// Revokes a tenant's keys, drops its collections with all that is in them, and lifts its quota. Takes a node's own key; what broke off goes on when it
/// is called again.
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
    if !yes {
        return Err(Failure::usage(format!(
            "this would drop {} collections of tenant {tenant} with all that is in them, and revoke {} keys; add --yes",
            found.collections, found.keys
        )));
    }
    // First, so that nobody makes anything meanwhile.
    let keys = keys_of(tenant, client).await?;
    for key in &keys {
        revoke(&key.id, client).await?;
    }
    let request = CreateKeyRequest {
        name: format!("to drop tenant {tenant}"),
        role: Role::Admin.into(),
        tenant,
        expire_at: Some(prost_types::Timestamp { seconds: now() + KEY_SECONDS, nanos: 0 }),
        collections: Vec::new(),
    };
    let made = client.keys().create_key(request).await.map_err(Failure::from_status)?.into_inner();
    let dropped = drop_collections(&client.with_key(&made.secret)?, output).await;
    revoke(&made.key.unwrap_or_default().id, client).await?;
    let dropped = dropped?;
    let request = SetQuotaRequest { tenant, quota: Some(Quota::default()) };
    client.quotas().set_quota(request).await.map_err(Failure::from_status)?;
    output.either(
        format!("tenant {tenant} is gone: {dropped} collections are dropped, {} keys revoked", keys.len()),
        json!({ "tenant": tenant, "collections": dropped, "keys": keys.len() }),
    )?;
    Ok(())
}

fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

async fn keys_of(tenant: u64, client: &Client) -> Result<Vec<Key>> {
    let keys = client.keys().list_keys(ListKeysRequest {}).await.map_err(Failure::from_status)?;
    Ok(keys.into_inner().keys.into_iter().filter(|key| key.tenant == tenant).collect())
}

async fn revoke(id: &str, client: &Client) -> Result<()> {
    let request = RevokeKeyRequest { id: id.to_owned() };
    client.keys().revoke_key(request).await.map_err(Failure::from_status)?;
    Ok(())
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
