//! What can go wrong, by what the caller can do about it.

use std::{fmt, path::Path, sync::Arc};

use crate::version::Version;

/// The result of an index operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request itself is wrong: change it.
    #[error("{field} {why}")]
    Invalid {
        /// The field's path in the request.
        field: String,
        /// What is wrong with it, as the end of a sentence that begins with the field.
        why: String,
    },
    /// The request asks for or holds more than is allowed: ask for less.
    #[error("{field} is {got}; at most {limit} is allowed")]
    OverLimit {
        /// The field's path in the request.
        field: String,
        /// How much or many.
        got: usize,
        /// Most allowed.
        limit: usize,
    },
    /// There is no such entity.
    #[error("there is no entity {id:?} in collection {collection:?}")]
    NotFound {
        /// The collection's name.
        collection: String,
        /// The entity's id.
        id: String,
    },
    /// The entity was merged into another one: name that one, or delete this name first.
    #[error("entity {id:?} of collection {collection:?} was merged into {into:?}")]
    Merged {
        /// The collection's name.
        collection: String,
        /// The entity's id.
        id: String,
        /// Which it was merged into.
        into: String,
    },
    /// What a write would replace has expired, as far as this replica knows: whoever coordinates it finds out what others know.
    #[error("entity {id:?} of collection {collection:?} has expired")]
    Expired {
        /// The collection's name.
        collection: String,
        /// The entity's id.
        id: String,
    },
    /// The entity is there, and was to be absent.
    #[error("there is an entity {id:?} in collection {collection:?} already")]
    Exists {
        /// The collection's name.
        collection: String,
        /// The entity's id.
        id: String,
        /// The version that it has.
        found: Version,
    },
    /// The entity has another version than it was to have, or is not there.
    #[error("entity {id:?} of collection {collection:?} {}", has_not(found))]
    VersionMismatch {
        /// The collection's name.
        collection: String,
        /// The entity's id.
        id: String,
        /// The version that it has; `None`: it is not there.
        found: Option<Version>,
    },
    /// A write was planned so long ago that replicas take it no more.
    #[error("the write is of version {version:?}; nothing up to {closed:?} is taken any more")]
    Late {
        /// When it was planned.
        version: Version,
        /// Up to where nothing is taken.
        closed: Version,
    },
    /// What was read of other replicas is from before deletions up to this version were forgotten.
    #[error("what was read before deletions up to {0:?} were forgotten is not taken over")]
    Purged(Version),
    /// There is no such collection.
    #[error("there is no collection {0:?}")]
    UnknownCollection(String),
    /// The tenant has used up what it may use: delete something, or have the quota raised.
    #[error("the quota of {most} {what} is used up: there are {used}")]
    QuotaExceeded {
        /// Of what.
        what: &'static str,
        /// How much there is, about.
        used: u64,
        /// How much there may be.
        most: u64,
    },
    /// There is no such key.
    #[error("there is no key {0:?}")]
    UnknownKey(String),
    /// The collection declares no such space.
    #[error("collection {collection:?} declares no vector space {space:?}")]
    UnknownSpace {
        /// The collection's name.
        collection: String,
        /// The space or alias asked for.
        space: String,
    },
    /// A collection of this name exists already.
    #[error("collection {0:?} exists already")]
    CollectionExists(String),
    /// The vector does not fit its space.
    #[error("{field} has {got} dimensions; space {space:?} has {want}")]
    WrongDimension {
        /// The field's path in the request.
        field: String,
        /// The space's name.
        space: String,
        /// Its dimension.
        want: u32,
        /// The vector's.
        got: usize,
    },
    /// The state of the system does not allow it: change that first.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A bound was reached: ask for less or come back later.
    #[error("{0}")]
    Exhausted(String),
    /// Too few nodes that hold it can be reached. A write may have been made nevertheless: come back later.
    #[error("{0}")]
    Unavailable(String),
    /// The request's time is over.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// A defect of this program: the log has more.
    #[error("{0}")]
    Internal(String),
    /// A stored row cannot be read.
    #[error("corrupt row in keyspace {keyspace} at key {key}: {what}")]
    CorruptRow {
        /// The keyspace's name.
        keyspace: &'static str,
        /// The row's key in hexadecimal.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The storage engine failed.
    #[error(transparent)]
    Storage(Arc<allidb_storage::Error>),
}

fn has_not(found: &Option<Version>) -> &'static str {
    match found {
        Some(_) => "has another version",
        None => "is not there",
    }
}

impl From<allidb_storage::Error> for Error {
    fn from(error: allidb_storage::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl Error {
    /// The request's `field` is wrong because `why` (the end of a sentence that begins with the field).
    pub fn invalid(field: impl AsRef<str>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.as_ref().to_owned(), why: why.into() }
    }

    /// The same of a part of a request.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::Invalid { field, why } => Self::Invalid { field: format!("{place}.{field}"), why },
            Self::OverLimit { field, got, limit } => {
                Self::OverLimit { field: format!("{place}.{field}"), got, limit }
            }
            Self::WrongDimension { field, space, want, got } => {
                Self::WrongDimension { field: format!("{place}.{field}"), space, want, got }
            }
            other => other,
        }
    }

    /// The operating system refused to do `op` with a file.
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        allidb_storage::Error::Io { op, path: path.to_owned(), source }.into()
    }

    pub(crate) fn corrupt(keyspace: &'static str, key: &[u8], what: impl fmt::Display) -> Self {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::CorruptRow { keyspace, key, what: what.to_string() }
    }

    /// Whether what is stored is damaged.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::CorruptRow { .. } => true,
            Self::Storage(error) => matches!(**error, allidb_storage::Error::Corruption { .. }),
            _ => false,
        }
    }

    /// Whether the same request may succeed later without anyone's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Exhausted(_) | Self::Unavailable(_) | Self::Late { .. } | Self::Purged(_) => true,
            Self::Storage(error) => error.is_retryable(),
            _ => false,
        }
    }
}
