//! `allidb.v1.Keys`.

use allidb_index::model::{ApiKey, CollectionSet, Role, TenantId, Timestamp};
use tonic::{Request, Response, Status};

use super::Services;
use crate::{
    access::{AUDIT, Identity, draw, now},
    convert::{Path, optional_timestamp_from_proto, timestamp_to_proto},
    status,
    v1::{self, keys_server::Keys},
};

#[tonic::async_trait]
impl Keys for Services {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let by = Identity::of(request.extensions());
        let (_, request) = self.receive_any(request)?;
        let role = role_from_proto(request.role)?;
        let tenant = if request.tenant == 0 { by.tenant } else { TenantId(request.tenant) };
        // Nobody gives others more than is its own to give.
        if by.role.is_some() && (tenant != by.tenant || role == Role::Operator) {
            let why = "only a node's own admin key makes keys of operators and of other tenants";
            return Err(status::permission_denied(why.to_owned()));
        }
        let collections = CollectionSet::of("collections", request.collections);
        let collections = collections
            .and_then(|of| role.check_collections("collections", &of).map(|()| of))
            .map_err(status::from_error)?;
        let created_at = now();
        let expire_at = optional_timestamp_from_proto(&Path::Root("expire_at"), request.expire_at)?;
        if expire_at.is_some_and(|end| end <= created_at) {
            return Err(status::invalid("expire_at", "has passed already"));
        }
        // What a key leaves behind does not outlive it.
        if by.role.is_some() && by.expire_at.is_some_and(|end| expire_at.is_none_or(|asked| asked > end)) {
            let why = "a key makes none that is good for longer than itself: set `expire_at`";
            return Err(status::permission_denied(why.to_owned()));
        }
        let (secret, id, hash) = draw().map_err(|error| {
            status::from_error(allidb_index::Error::Internal(format!("no random bits: {error}")))
        })?;
        tracing::info!(target: AUDIT, made = %id, role = role.name(), tenant = tenant.0, collections = ?collections.patterns(), by = by.key.as_deref(), "making a key");
        let key = ApiKey { id, name: request.name, tenant, role, collections, hash, created_at, expire_at };
        let told = key_to_proto(&key, None);
        self.coordinator.create_key(key).await.map_err(status::from_error)?;
        Ok(Response::new(v1::CreateKeyResponse { key: Some(told), secret: secret.to_string() }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let tenant = tenant_of(&Identity::of(request.extensions()));
        self.receive_any(request)?;
        let keys = self.coordinator.keys(tenant).await;
        self.coordinator.exchange_key_uses().await;
        let told = keys.iter().map(|key| key_to_proto(key, self.coordinator.key_used_at(&key.id)));
        Ok(Response::new(v1::ListKeysResponse { keys: told.collect() }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        let by = Identity::of(request.extensions());
        let (_, request) = self.receive_any(request)?;
        let known = self.coordinator.keys(tenant_of(&by)).await;
        let is_operator = known.iter().any(|key| key.id == request.id && key.role == Role::Operator);
        if by.role.is_some() && is_operator {
            let why = "only a node's own admin key revokes keys of operators";
            return Err(status::permission_denied(why.to_owned()));
        }
        tracing::info!(target: AUDIT, revoked = known.iter().any(|key| key.id == request.id).then_some(&request.id), by = by.key.as_deref(), "revoking a key");
        self.coordinator.revoke_key(tenant_of(&by), &request.id).await.map_err(status::from_error)?;
        Ok(Response::new(v1::RevokeKeyResponse {}))
    }
}

/// Whose keys somebody sees; `None`: everybody's.
fn tenant_of(by: &Identity) -> Option<TenantId> {
    by.role.map(|_| by.tenant)
}

fn role_from_proto(role: i32) -> Result<Role, Status> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Reader) => Ok(Role::Reader),
        Ok(v1::Role::Writer) => Ok(Role::Writer),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Unspecified) => Err(status::invalid("role", "must be set")),
        Err(_) => Err(status::invalid("role", "is none that this server knows")),
    }
}

fn key_to_proto(key: &ApiKey, used_at: Option<Timestamp>) -> v1::Key {
    let role = match key.role {
        Role::Reader => v1::Role::Reader,
        Role::Writer => v1::Role::Writer,
        Role::Admin => v1::Role::Admin,
        Role::Operator => v1::Role::Operator,
    };
    v1::Key {
        id: key.id.clone(),
        name: key.name.clone(),
        tenant: key.tenant.0,
        role: role.into(),
        created_at: Some(timestamp_to_proto(key.created_at)),
        expire_at: key.expire_at.map(timestamp_to_proto),
        last_used_at: used_at.map(timestamp_to_proto),
        collections: key.collections.patterns().to_vec(),
    }
}
