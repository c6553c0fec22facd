//! Who calls, and whether they may: the one place that decides the tenant of a request. Nothing in a message ever names it.
//!
//! | module | what it holds |
//! |---|---|
//! | `admin_key` | the node's own key, in a file |
//! | `audit` | what the log says of calls that change more than data |
//! | `jwt` | tokens that an identity provider signs |
//! | `methods` | what each method takes |
//! | `secret` | keys as they are written |

mod admin_key;
mod audit;
mod jwt;
mod methods;
mod secret;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use allidb_cluster::{Coordinator, Pace, network};
use allidb_index::model::{CollectionSet, Role, TenantId, Timestamp};
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;

pub use admin_key::{AdminKey, AdminKeyError};
pub(crate) use audit::Audited;
use audit::Withheld;
pub use jwt::{KeySetError, KeySetPlace, TokenTerms, Tokens};
pub(crate) use methods::Right;
use secret::Secret;
pub(crate) use secret::draw;

use crate::{
    metrics::Method,
    rate::{Meter, Rates},
    share::{Owner, Party, Share, Shares},
    status,
};

/// How often at most others are asked whether they know of a key that this node does not.
const ASKS_EVERY: Duration = Duration::from_secs(1);

/// How often it is kept, and told other nodes, when keys were used.
const KEEPS_EVERY: Duration = Duration::from_secs(60);

/// How often at most it is noted that somebody is refused: whoever tries all night does not fill the disk.
const TELLS_EVERY: Duration = Duration::from_millis(100);

/// What callers are told of whatever is good for nothing, so that nothing is learned by trying.
const GOOD_FOR_NOTHING: &str = "the key is not known, has expired or was revoked";

/// Where it is noted in the log who changes what, and who is refused.
pub(crate) const AUDIT: &str = "allidb::audit";

/// Who is let in. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    coordinator: Coordinator,
    admin_key: Option<AdminKey>,
    tokens: Option<Tokens>,
    is_required: bool,
    asking: Pace,
    telling: Pace,
    withheld: Arc<Withheld>,
    rates: Rates,
    shares: Shares,
    _keeping: JoinSet<()>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Whose data is meant.
    pub(crate) tenant: TenantId,
    /// The id of the key that was shown, or `token:` and the subject of the token; `None`: neither was.
    pub(crate) key: Option<Arc<str>>,
    /// `None`: everything, keys of all tenants among it.
    pub(crate) role: Option<Role>,
    /// Which of its collections are seen.
    pub(crate) collections: CollectionSet,
    /// From when on what was shown is good for nothing; `None`: it does not expire.
    pub(crate) expire_at: Option<Timestamp>,
}

impl Identity {
    /// Whoever calls where no key is asked for.
    const ANYBODY: Self = Self {
        tenant: TenantId::DEFAULT,
        key: None,
        role: None,
        collections: CollectionSet::ALL,
        expire_at: None,
    };

    /// Who a request comes from, as it was admitted: without that, somebody who may only read what nobody has.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let nobody = Self { tenant: TenantId(0), role: Some(Role::Reader), ..Self::ANYBODY };
        extensions.get::<Self>().cloned().unwrap_or(nobody)
    }

    /// Whether the node's own key was shown, which is of no tenant.
    fn is_node_s_own(&self) -> bool {
        self.key.is_some() && self.role.is_none()
    }

    fn may(&self, right: Right) -> bool {
        self.role.is_none_or(|role| right.is_of(role))
    }
}

impl Access {
    /// Whoever shows a key, or a token where there are `tokens`, is who it says; whoever shows neither is let in, as the default tenant,
    /// unless one `is_required`. To be called within a runtime.
    pub fn new(
        coordinator: Coordinator,
        admin_key: Option<AdminKey>,
        tokens: Option<Tokens>,
        is_required: bool,
    ) -> Self {
        let withheld = Arc::new(Withheld::default());
        let mut keeping = JoinSet::new();
        keeping.spawn(keep_key_uses(coordinator.clone()));
        keeping.spawn(Arc::clone(&withheld).keep_noting());
        Self(Arc::new(Inner {
            coordinator,
            admin_key,
            tokens,
            is_required,
            asking: Pace::of(ASKS_EVERY),
            telling: Pace::of(TELLS_EVERY),
            withheld,
            rates: Rates::default(),
            shares: Shares::default(),
            _keeping: keeping,
        }))
    }

    /// Who calls a method.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a key where one is required, or with one that is good for nothing; PERMISSION_DENIED if it may not do this.
    pub(crate) async fn admit(&self, method: Method, headers: &HeaderMap) -> Result<Identity, Status> {
        self.admit_to(Right::of(method), headers).await
    }

    /// Takes a request of somebody who was admitted to this. Gives what its bytes are counted by, if they are: whoever looks after nodes may
    /// always.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if its tenant has asked too much.
    pub(crate) fn pace(&self, right: Right, identity: &Identity) -> Result<Option<Arc<Meter>>, Status> {
        match right {
            // Whoever is flooded by a key can revoke it.
            Right::Anybody | Right::Known | Right::Operate | Right::Define => Ok(None),
            Right::Read | Right::Write if identity.is_node_s_own() => Ok(None),
            Right::Read | Right::Write => {
                let quota = self.0.coordinator.quota(identity.tenant);
                self.0.rates.admit(identity.tenant, &quota, Instant::now())
            }
        }
    }

    /// Whom a call counts for that was let in to this; `None`: for nobody, as it shows the node's own key, or comes from
    /// nowhere.
    pub(crate) fn party(right: Right, identity: &Identity, from: Option<SocketAddr>) -> Option<Party> {
        let owner = match right {
            Right::Anybody => Owner::Door(network(from?.ip())),
            _ if identity.is_node_s_own() => return None,
            _ if identity.key.is_none() => Owner::Address(network(from?.ip())),
            Right::Operate => Owner::Operators,
            Right::Define => Owner::Definitions(identity.tenant),
            Right::Known | Right::Read | Right::Write => Owner::Data(identity.tenant),
        };
        let part = match (&identity.key, from) {
            (Some(key), _) => hashed(key),
            // Its connections are told apart by their ports.
            (None, from) => from.map_or(0, |from| from.port().into()),
        };
        Some(Party { owner, part })
    }

    /// The place of a call as its caller's, who must leave others some while so many are free.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the caller has its share.
    pub(crate) fn place(&self, party: Party, free: usize) -> Result<Share, Status> {
        self.0.shares.take(party, free)
    }

    async fn admit_to(&self, right: Right, headers: &HeaderMap) -> Result<Identity, Status> {
        if right == Right::Anybody {
            return Ok(Identity::ANYBODY);
        }
        let identity = match shown(headers)? {
            Some(shown) => self.bearer(shown).await?,
            None if self.0.is_required => {
                return Err(status::unauthenticated(
                    "a key is needed: show it as `authorization: Bearer KEY` or `x-api-key: KEY`",
                ));
            }
            None => Identity::ANYBODY,
        };
        if !identity.may(right) {
            let role = identity.role.map_or("", Role::name);
            let refusal = status::permission_denied(format!("the role {role} may not {}", right.words()));
            return Err(because(refusal, audit::By(identity.key)));
        }
        Ok(identity)
    }

    /// Lets in whoever may look after nodes.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) async fn admit_to_figures(&self, headers: &HeaderMap) -> Result<(), Status> {
        self.admit_to(Right::Operate, headers).await.map(drop)
    }

    /// Who shows this. Why it is good for nothing is for the audit log alone.
    async fn bearer(&self, shown: &str) -> Result<Identity, Status> {
        if let Some(secret) = Secret::parse(shown) {
            return self.holder(&secret).await.ok_or_else(|| status::unauthenticated(GOOD_FOR_NOTHING));
        }
        let Some(tokens) = &self.0.tokens else { return Err(status::unauthenticated(GOOD_FOR_NOTHING)) };
        let found = tokens.holder(shown, now()).await;
        found.map_err(|why| because(status::unauthenticated(GOOD_FOR_NOTHING), why))
    }

    /// Whose key it is.
    async fn holder(&self, secret: &Secret<'_>) -> Option<Identity> {
        if self.0.admin_key.as_ref().is_some_and(|own| own.is(secret)) {
            let (tenant, key) = (TenantId::DEFAULT, Some(Arc::from(secret.id)));
            return Some(Identity { tenant, key, ..Identity::ANYBODY });
        }
        let coordinator = &self.0.coordinator;
        let mut found = coordinator.key(secret.id);
        if found.is_none() && self.0.asking.is_due() {
            // Whatever came of it: gossip may have told meanwhile.
            coordinator.refresh_keys().await;
            found = coordinator.key(secret.id);
        }
        let now = now();
        let found = found.filter(|key| secret.is_of(&key.hash) && key.is_valid(now))?;
        coordinator.note_key_use(secret.id, now);
        Some(Identity {
            tenant: found.tenant,
            key: Some(Arc::from(secret.id)),
            role: Some(found.role),
            collections: found.collections.clone(),
            expire_at: found.expire_at,
        })
    }

    /// Somebody is refused. Gives how often that was not noted since it last was, if it is to be now.
    pub(crate) fn note_refusal(&self) -> Option<u64> {
        if self.0.telling.is_due() {
            return Some(self.0.withheld.take());
        }
        self.0.withheld.one_more();
        None
    }
}

/// Keeps when keys were used, and tells other nodes, until it is aborted.
async fn keep_key_uses(coordinator: Coordinator) {
    loop {
        sleep(KEEPS_EVERY).await;
        coordinator.exchange_key_uses().await;
        if let Err(error) = coordinator.keep_key_uses().await {
            tracing::warn!(%error, "it cannot be kept when keys were used");
        }
    }
}

/// A refusal, and why, which is told nobody but the audit log.
fn because(mut refusal: Status, why: impl std::error::Error + Send + Sync + 'static) -> Status {
    refusal.set_source(Arc::new(why));
    refusal
}

/// The key or token that a request shows.
fn shown(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let garbled = |_| status::unauthenticated(GOOD_FOR_NOTHING);
    if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(garbled)?;
        let key = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, key) = key.ok_or_else(|| status::unauthenticated("`authorization` is to be `Bearer KEY`"))?;
        return Ok(Some(key.trim()));
    }
    headers.get("x-api-key").map(|value| value.to_str().map(str::trim).map_err(garbled)).transpose()
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn hashed(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_network_has_many_addresses_and_is_one() {
        let owner = |right, from: &str| {
            let from = from.parse().expect("an address");
            Access::party(right, &Identity::ANYBODY, Some(from)).map(|party| party.owner)
        };
        for right in [Right::Anybody, Right::Read] {
            assert_eq!(owner(right, "[2001:db8::1]:1"), owner(right, "[2001:db8::ffff:1]:2"));
            assert_ne!(owner(right, "[2001:db8::1]:1"), owner(right, "[2001:db8:0:1::1]:1"));
            assert_eq!(owner(right, "[::ffff:10.0.0.1]:1"), owner(right, "10.0.0.1:1"));
            assert_ne!(owner(right, "10.0.0.2:1"), owner(right, "10.0.0.1:1"));
        }
    }
}
