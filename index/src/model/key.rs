//! Keys that callers show: whose they are, and what they may do.

use super::{CollectionSet, TenantId, Timestamp, validate_relation};
use crate::error::{Error, Result};

/// Characters of a key's id: lower-case letters and digits.
pub const KEY_ID_LENGTH: usize = 12;

/// What a key may do. Each also may what those before it may, but for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads entities and asks queries.
    Reader,
    /// Writes entities and edges.
    Writer,
    /// Makes collections, and keys of its own tenant.
    Admin,
    /// Looks after nodes and the ring; sees no data.
    Operator,
}

impl Role {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }

    /// Checks that whoever has this role may see these collections alone.
    ///
    /// # Errors
    /// If it may make and drop any, or sees none anyway. `field` is what the collections are called.
    pub fn check_collections(self, field: &str, collections: &CollectionSet) -> Result<()> {
        if collections.is_all() || matches!(self, Self::Reader | Self::Writer) {
            return Ok(());
        }
        Err(Error::invalid(field, format!("are for readers and writers; the role is {}", self.name())))
    }

    /// The inverse of [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        [Self::Reader, Self::Writer, Self::Admin, Self::Operator].into_iter().find(|role| role.name() == name)
    }
}

/// A key, but for its secret: of that only a hash is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Which one it is: part of the key, and no secret.
    pub id: String,
    /// What people call it, such as who has it.
    pub name: String,
    /// Whose data it is for.
    pub tenant: TenantId,
    /// What it may do.
    pub role: Role,
    /// Which collections it sees; all, unless it reads or writes.
    pub collections: CollectionSet,
    /// BLAKE3 of its secret, which is 256 random bits.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is good for nothing.
    pub expire_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it is good for anything.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expire_at.is_none_or(|end| now < end)
    }

    /// # Errors
    /// If its id or name is none.
    pub(crate) fn validate(&self) -> Result<()> {
        let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.id.len() != KEY_ID_LENGTH || !self.id.chars().all(is_id) {
            let why = format!("must be {KEY_ID_LENGTH} lower-case letters and digits");
            return Err(Error::invalid("key.id", why));
        }
        self.role.check_collections("key.collections", &self.collections)?;
        validate_relation("key.name", &self.name)
    }
}
