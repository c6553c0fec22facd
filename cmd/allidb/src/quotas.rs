//! `allidb quota …`: what tenants may use.

use allidb_api::v1::{ListQuotasRequest, Quota, SetQuotaRequest, TenantQuota, Usage};
use allidbd::config::ByteSize;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    failure::Failure,
    maintenance::size,
    output::{Output, table},
};

/// Sets and shows what tenants may use.
#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    Set(SetArgs),
    /// Shows tenants that may not use everything, and what they do.
    List,
}

/// Sets what a tenant may use, in place of what it could. What is not said is not bounded.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Which tenant.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    tenant: u64,
    /// Requests a second, at each node.
    #[arg(long, value_name = "NUMBER")]
    requests_per_second: Option<u64>,
    /// Bytes of requests and answers a second, at each node, such as 10MiB.
    #[arg(long, value_name = "SIZE")]
    bytes_per_second: Option<ByteSize>,
    /// Entities of all collections.
    #[arg(long, value_name = "NUMBER")]
    entities: Option<u64>,
    /// Vectors, those of chunks too.
    #[arg(long, value_name = "NUMBER")]
    vectors: Option<u64>,
    /// Bytes of what is stored, before compression, such as 10GiB.
    #[arg(long, value_name = "SIZE")]
    bytes: Option<ByteSize>,
}

/// Runs `quota`.
pub(crate) async fn run(command: QuotaCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        QuotaCommand::Set(args) => {
            let quota = Quota {
                requests_per_second: args.requests_per_second,
                bytes_per_second: args.bytes_per_second.map(|size| size.0),
                entities: args.entities,
                vectors: args.vectors,
                bytes: args.bytes.map(|size| size.0),
            };
            let request = SetQuotaRequest { tenant: args.tenant, quota: Some(quota) };
            client.quotas().set_quota(request).await.map_err(Failure::from_status)?;
            let said = match quota == Quota::default() {
                true => format!("tenant {} may use everything", args.tenant),
                false => format!("the quota of tenant {} is set", args.tenant),
            };
            output.either(said, to_json(args.tenant, &quota, None))?;
            Ok(())
        }
        QuotaCommand::List => {
            let quotas = client.quotas().list_quotas(ListQuotasRequest {}).await;
            show(&quotas.map_err(Failure::from_status)?.into_inner().quotas, output)
        }
    }
}

fn show(quotas: &[TenantQuota], output: Output) -> Result<()> {
    if output.is_json() {
        let to_json = |of: &TenantQuota| to_json(of.tenant, &of.quota.unwrap_or_default(), of.usage.as_ref());
        output.document(&quotas.iter().map(to_json).collect())?;
        return Ok(());
    }
    let mut rows = table(&["TENANT", "REQUESTS/S", "BYTES/S", "ENTITIES", "VECTORS", "BYTES"]);
    let plain = |number: u64| number.to_string();
    for TenantQuota { tenant, quota, usage } in quotas {
        let (quota, usage) = (quota.unwrap_or_default(), usage.as_ref());
        rows.add_row([
            tenant.to_string(),
            amount(None, quota.requests_per_second, plain),
            amount(None, quota.bytes_per_second, size),
            amount(usage.map(|usage| usage.entities), quota.entities, plain),
            amount(usage.map(|usage| usage.vectors), quota.vectors, plain),
            amount(usage.map(|usage| usage.bytes), quota.bytes, size),
        ]);
    }
    output.table(&rows)?;
    Ok(())
}

/// How much there is, of how much there may be.
pub(crate) fn amount(used: Option<u64>, most: Option<u64>, written: impl Fn(u64) -> String) -> String {
    match (used, most) {
        (used, None) => used.map(written).unwrap_or_default(),
        (None, Some(most)) => format!("of {}", written(most)),
        (Some(used), Some(most)) => format!("{} of {}", written(used), written(most)),
    }
}

/// What a tenant may use and does, for programs.
pub(crate) fn to_json(tenant: u64, quota: &Quota, usage: Option<&Usage>) -> Json {
    json!({
        "tenant": tenant,
        "requests_per_second": quota.requests_per_second,
        "bytes_per_second": quota.bytes_per_second,
        "entities": quota.entities,
        "vectors": quota.vectors,
        "bytes": quota.bytes,
        "used": usage.map(|usage| {
            json!({ "entities": usage.entities, "vectors": usage.vectors, "bytes": usage.bytes })
        }),
    })
}
