//! Every error as a `google.rpc.Status`: code, message, and details that programs can rely on.
//!
//! Each status carries an `ErrorInfo` whose reason never changes its meaning; `BadRequest` names the field,
//! `ResourceInfo` what is missing, `RetryInfo` when to come back.

use std::{io, time::Duration};

use allidb_index::{Error, Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every [`ErrorInfo`](tonic_types::ErrorInfo) of this server.
pub const DOMAIN: &str = "allidb.dev";

/// When to look whether something was deleted, or a quota raised.
const QUOTA_DELAY: Duration = Duration::from_secs(30);
/// When to come back after a bound was reached.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Longest text within a status, in bytes. A status travels in HTTP headers, which peers bound, and
/// messages quote what callers sent.
const MAX_TEXT_BYTES: usize = 800;

/// The stable reasons of errors.
pub mod reason {
    /// A field of the request is wrong.
    pub const INVALID_FIELD: &str = "INVALID_FIELD";
    /// A field of the request asks for more than a limit allows.
    pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
    /// A vector does not have its space's dimension.
    pub const WRONG_DIMENSION: &str = "WRONG_DIMENSION";
    /// A page token is damaged or belongs to another request.
    pub const PAGE_TOKEN: &str = "PAGE_TOKEN";
    /// There is no such entity.
    pub const ENTITY_NOT_FOUND: &str = "ENTITY_NOT_FOUND";
    /// The entity is there, and was to be absent.
    pub const ENTITY_EXISTS: &str = "ENTITY_EXISTS";
    /// The entity does not have the version that it was to have.
    pub const VERSION_MISMATCH: &str = "VERSION_MISMATCH";
    /// The entity was merged into another one.
    pub const ENTITY_MERGED: &str = "ENTITY_MERGED";
    /// There is no such collection.
    pub const UNKNOWN_COLLECTION: &str = "UNKNOWN_COLLECTION";
    /// The tenant has used up what it may store.
    pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
    /// The tenant asks faster than it may.
    pub const RATE_LIMITED: &str = "RATE_LIMITED";
    /// There is no such key.
    pub const UNKNOWN_KEY: &str = "UNKNOWN_KEY";
    /// No key was shown, or one that is good for nothing.
    pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
    /// The key that was shown may not do this.
    pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
    /// The collection declares no such vector space.
    pub const UNKNOWN_SPACE: &str = "UNKNOWN_SPACE";
    /// The collection exists already.
    pub const COLLECTION_EXISTS: &str = "COLLECTION_EXISTS";
    /// The state of the system does not allow the request.
    pub const FAILED_PRECONDITION: &str = "FAILED_PRECONDITION";
    /// Text was given in place of a vector, and nothing embeds it.
    pub const NO_EMBEDDING_PROVIDER: &str = "NO_EMBEDDING_PROVIDER";
    /// Text was given in place of a vector, and the embedding service does not answer.
    pub const EMBEDDING_UNAVAILABLE: &str = "EMBEDDING_UNAVAILABLE";
    /// Text was given in place of a vector, and the embedding service does not take it, or its answer is of no use.
    pub const EMBEDDING_REFUSED: &str = "EMBEDDING_REFUSED";
    /// A bound of the server was reached.
    pub const EXHAUSTED: &str = "EXHAUSTED";
    /// Too few nodes can be reached.
    pub const UNAVAILABLE: &str = "UNAVAILABLE";
    /// Too many requests are under way.
    pub const TOO_MANY_REQUESTS: &str = "TOO_MANY_REQUESTS";
    /// A message is larger than the server takes or gives.
    pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
    /// The request's time is over.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
    /// Stored data cannot be read.
    pub const CORRUPT: &str = "CORRUPT";
    /// Too little space is left on the disk.
    pub const DISK_FULL: &str = "DISK_FULL";
    /// Writes have to wait for background work.
    pub const BUSY: &str = "BUSY";
    /// A write to disk failed; the server needs a restart before it writes again.
    pub const WRITES_STOPPED: &str = "WRITES_STOPPED";
    /// The server is going down.
    pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
    /// Something else; the server's log says what.
    pub const INTERNAL: &str = "INTERNAL";
}

/// The request's `field` is wrong because `why`, the end of a sentence that begins with the field.
pub fn invalid(field: &str, why: &str) -> Status {
    bad_request(field, why, reason::INVALID_FIELD, &[])
}

/// The request's `field` holds or asks for `got`, more than the `limit`.
pub fn over_limit(field: &str, got: usize, limit: usize) -> Status {
    let why = format!("is {got}; at most {limit} is allowed");
    bad_request(
        field,
        &why,
        reason::LIMIT_EXCEEDED,
        &[("got", got.to_string()), ("limit", limit.to_string())],
    )
}

/// The page token is damaged or belongs to another request.
pub fn bad_page_token() -> Status {
    let why = "is damaged or belongs to another request; begin again without one";
    bad_request("page_token", why, reason::PAGE_TOKEN, &[])
}

/// Text was given where only a vector or an entity will do.
pub fn no_embedding_provider(field: &str, space: &str) -> Status {
    let message = format!(
        "{field} cannot be embedded for space {space:?}: the server has no embedding provider; send a vector"
    );
    build(
        Code::FailedPrecondition,
        message,
        details(reason::NO_EMBEDDING_PROVIDER, &[("space", space.to_owned())]),
    )
}

/// The texts of a request have no vectors now, and may have some later.
pub fn embedding_unavailable(field: &str, why: &str) -> Status {
    let mut info = details(reason::EMBEDDING_UNAVAILABLE, &[]);
    info.set_retry_info(Some(RETRY_DELAY));
    build(Code::Unavailable, format!("{field} and what else is text cannot be embedded: {why}"), info)
}

/// The texts of a request get no vectors.
pub fn embedding_refused(field: &str, why: &str) -> Status {
    let message = format!("{field} and what else is text cannot be embedded: {why}");
    build(Code::FailedPrecondition, message, details(reason::EMBEDDING_REFUSED, &[]))
}

/// A message is larger than `limit` bytes.
pub(crate) fn message_too_large(message: String, limit: usize) -> Status {
    let info = details(reason::MESSAGE_TOO_LARGE, &[("limit_bytes", limit.to_string())]);
    build(Code::ResourceExhausted, message, info)
}

/// The server carries out as many requests as it may.
pub(crate) fn too_many_requests(limit: usize) -> Status {
    let mut info = details(reason::TOO_MANY_REQUESTS, &[("limit", limit.to_string())]);
    info.set_retry_info(Some(RETRY_DELAY));
    build(Code::ResourceExhausted, format!("{limit} requests are under way, which is the limit"), info)
}

/// What came is no message of the contract, as the words of its decoder say.
pub(crate) fn undecodable(why: &str) -> Status {
    let why = why.strip_prefix("failed to decode Protobuf message: ").unwrap_or(why);
    invalid("message", &format!("cannot be decoded: {why}"))
}

/// A caller has as many requests under way as it may while so few places are free.
pub(crate) fn share_is_taken(count: usize) -> Status {
    let mut info = details(reason::TOO_MANY_REQUESTS, &[("caller_has", count.to_string())]);
    info.set_retry_info(Some(RETRY_DELAY));
    let message =
        format!("{count} requests of the caller are under way; the places that are left are for others");
    build(Code::ResourceExhausted, message, info)
}

/// A caller has as many bytes under way as it may while so few are left.
pub(crate) fn share_of_bytes_is_taken(bytes: usize) -> Status {
    let mut info = details(reason::TOO_MANY_REQUESTS, &[("caller_has_bytes", bytes.to_string())]);
    info.set_retry_info(Some(RETRY_DELAY));
    let message = format!("{bytes} bytes of the caller are under way; the room that is left is for others");
    build(Code::ResourceExhausted, message, info)
}

/// The requests that are under way are as large as they may be together.
pub(crate) fn requests_too_large(limit: usize) -> Status {
    let mut info = details(reason::TOO_MANY_REQUESTS, &[("limit_bytes", limit.to_string())]);
    info.set_retry_info(Some(RETRY_DELAY));
    let message = format!(
        "the requests that are under way and their answers have {limit} bytes together, which is the limit"
    );
    build(Code::ResourceExhausted, message, info)
}

/// The tenant asks for more of `what` in a second than it may: `most`.
pub(crate) fn rate_limited(what: &str, most: u64, wait: Duration) -> Status {
    let mut info = details(reason::RATE_LIMITED, &[("limit_per_second", most.to_string())]);
    info.set_retry_info(Some(wait));
    let message = format!("at most {most} {what} a second are taken of this tenant by a node");
    info.add_quota_failure_violation(format!("{what}_per_second"), message.clone());
    build(Code::ResourceExhausted, message, info)
}

/// Nobody is let in who shows no key that is good for anything. Which of the reasons it is, is told to nobody.
pub(crate) fn unauthenticated(why: &str) -> Status {
    build(Code::Unauthenticated, why.to_owned(), details(reason::UNAUTHENTICATED, &[]))
}

/// The key may not do this.
pub(crate) fn permission_denied(why: String) -> Status {
    build(Code::PermissionDenied, why, details(reason::PERMISSION_DENIED, &[]))
}

/// The server is going down; another one, or the next, will take the rest.
pub(crate) fn shutting_down() -> Status {
    let mut info = details(reason::SHUTTING_DOWN, &[]);
    info.set_retry_info(Some(RETRY_DELAY));
    build(Code::Unavailable, "the server is shutting down".to_owned(), info)
}

/// The server is not there yet.
pub(crate) fn starting() -> Status {
    let mut info = details(reason::UNAVAILABLE, &[]);
    info.set_retry_info(Some(RETRY_DELAY));
    build(Code::Unavailable, "the server is starting".to_owned(), info)
}

/// Something that is not the caller's fault, nor its business: the log says what.
pub(crate) fn internal_error(what: &str) -> Status {
    let (code, message, info) = internal(what);
    build(code, message, info)
}

/// The request's time is over.
pub(crate) fn deadline_exceeded() -> Status {
    from_error(Error::DeadlineExceeded)
}

/// Work that a request was split into ended without an answer.
pub(crate) fn broke_off(error: &tokio::task::JoinError) -> Status {
    internal_error(&error.to_string())
}

/// The status of an error of the index.
pub fn from_error(error: Error) -> Status {
    let message = error.to_string();
    let retryable = error.is_retryable();
    let (code, message, mut info) = match error {
        Error::Invalid { field, why } => return invalid(&field, &why),
        Error::OverLimit { field, got, limit } => return over_limit(&field, got, limit),
        Error::WrongDimension { field, space, want, got } => {
            let why = format!("has {got} dimensions; space {space:?} has {want}");
            let metadata = [("space", space), ("want", want.to_string()), ("got", got.to_string())];
            return bad_request(&field, &why, reason::WRONG_DIMENSION, &metadata);
        }
        Error::NotFound { collection, id } => {
            let mut info =
                details(reason::ENTITY_NOT_FOUND, &[("collection", collection.clone()), ("id", id.clone())]);
            let name = format!("{}/{}", bounded(&collection), bounded(&id));
            info.set_resource_info("allidb.dev/Entity", name, "", bounded(&message));
            (Code::NotFound, message, info)
        }
        Error::QuotaExceeded { what, most, .. } => {
            let mut info = details(reason::QUOTA_EXCEEDED, &[("limit", most.to_string())]);
            info.set_retry_info(Some(QUOTA_DELAY));
            info.add_quota_failure_violation(what, message.clone());
            (Code::ResourceExhausted, message, info)
        }
        Error::UnknownKey(_) => (Code::NotFound, message, details(reason::UNKNOWN_KEY, &[])),
        Error::UnknownCollection(name) => {
            let mut info = details(reason::UNKNOWN_COLLECTION, &[("collection", name.clone())]);
            info.set_resource_info("allidb.dev/Collection", bounded(&name), "", bounded(&message));
            (Code::NotFound, message, info)
        }
        Error::UnknownSpace { collection, space } => {
            let metadata = [("collection", collection.clone()), ("space", space.clone())];
            let mut info = details(reason::UNKNOWN_SPACE, &metadata);
            let name = format!("{}/{}", bounded(&collection), bounded(&space));
            info.set_resource_info("allidb.dev/Space", name, "", bounded(&message));
            (Code::NotFound, message, info)
        }
        Error::CollectionExists(name) => {
            let mut info = details(reason::COLLECTION_EXISTS, &[("collection", name.clone())]);
            info.set_resource_info("allidb.dev/Collection", bounded(&name), "", bounded(&message));
            (Code::AlreadyExists, message, info)
        }
        Error::Merged { collection, id, into } => {
            let metadata = [("collection", collection), ("id", id), ("into", into)];
            (Code::FailedPrecondition, message, details(reason::ENTITY_MERGED, &metadata))
        }
        Error::Exists { collection, id, found } => {
            let metadata = [("collection", collection), ("id", id), ("version", shown(found))];
            (Code::AlreadyExists, message, details(reason::ENTITY_EXISTS, &metadata))
        }
        Error::VersionMismatch { collection, id, found } => {
            let version = found.map(shown).unwrap_or_default();
            let metadata = [("collection", collection), ("id", id), ("version", version)];
            (Code::Aborted, message, details(reason::VERSION_MISMATCH, &metadata))
        }
        Error::FailedPrecondition(_) => {
            (Code::FailedPrecondition, message, details(reason::FAILED_PRECONDITION, &[]))
        }
        Error::Exhausted(_) => (Code::ResourceExhausted, message, details(reason::EXHAUSTED, &[])),
        Error::Unavailable(_) | Error::Late { .. } | Error::Purged(_) => {
            (Code::Unavailable, message, details(reason::UNAVAILABLE, &[]))
        }
        Error::DeadlineExceeded => (Code::DeadlineExceeded, message, details(reason::DEADLINE_EXCEEDED, &[])),
        Error::CorruptRow { keyspace, .. } => {
            tracing::error!(error = %message, "a stored row cannot be read");
            let message = format!("a stored row of keyspace {keyspace} cannot be read");
            (Code::DataLoss, message, details(reason::CORRUPT, &[("keyspace", keyspace.to_owned())]))
        }
        Error::Storage(error) => from_storage(&error),
        // The enum may grow; a new kind is internal until someone says what the caller can do about it.
        _ => internal(&message),
    };
    if retryable {
        info.set_retry_info(Some(RETRY_DELAY));
    }
    build(code, message, info)
}

/// Paths of files and the words of the operating system stay in the log.
fn from_storage(error: &allidb_storage::Error) -> (Code, String, ErrorDetails) {
    use allidb_storage::Error as Storage;
    let info = |reason| details(reason, &[]);
    match error {
        Storage::DiskFull { .. } => (Code::ResourceExhausted, error.to_string(), info(reason::DISK_FULL)),
        Storage::Io { source, .. } if is_disk_full(source) => {
            tracing::error!(%error, "the disk is full");
            (Code::ResourceExhausted, "the disk is full".to_owned(), info(reason::DISK_FULL))
        }
        Storage::Busy { .. } => {
            tracing::warn!(%error, "a write was refused");
            let message = "writes have to wait for flush or compaction".to_owned();
            (Code::ResourceExhausted, message, info(reason::BUSY))
        }
        Storage::Poisoned { .. } => {
            tracing::error!(%error, "a write was refused");
            let message = "the server accepts no writes since a write to disk failed".to_owned();
            (Code::Unavailable, message, info(reason::WRITES_STOPPED))
        }
        Storage::Closed => {
            (Code::Unavailable, "the server is shutting down".to_owned(), info(reason::SHUTTING_DOWN))
        }
        Storage::Corruption { path, offset, .. } => {
            tracing::error!(%error, "stored data is damaged");
            // The name of the file and not the way to it: enough for who runs the server, of no use to others.
            let file = path.file_name().unwrap_or_default().display();
            let message = format!("stored data is damaged: {file} at offset {offset}");
            (Code::DataLoss, message, info(reason::CORRUPT))
        }
        _ => internal(&error.to_string()),
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn internal(what: &str) -> (Code, String, ErrorDetails) {
    tracing::error!(error = what, "a request failed");
    let message = "an internal error; the server's log says more".to_owned();
    (Code::Internal, message, details(reason::INTERNAL, &[]))
}

fn bad_request(field: &str, why: &str, reason: &str, metadata: &[(&str, String)]) -> Status {
    let mut info = details(reason, metadata);
    info.add_bad_request_violation(bounded(field), bounded(why));
    build(Code::InvalidArgument, format!("{} {}", bounded(field), bounded(why)), info)
}

fn details(reason: &str, metadata: &[(&str, String)]) -> ErrorDetails {
    let metadata: std::collections::HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), bounded(value))).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn build(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, bounded(&message), details)
}

/// The text, cut to [`MAX_TEXT_BYTES`].
fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT_BYTES)])
}

/// The status as a message, for one item of a batch.
pub fn to_proto(status: &Status) -> tonic_types::Status {
    let bare = || tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    };
    if status.details().is_empty() {
        return bare();
    }
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| bare())
}

/// A version as text: the base64 of what answers carry.
fn shown(version: Version) -> String {
    STANDARD.encode(version.to_bytes())
}

/// The status of an item that was done.
pub fn done() -> tonic_types::Status {
    tonic_types::Status::default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn reason_of(status: &Status) -> String {
        let info = status.get_details_error_info().expect("every status carries an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        info.reason
    }

    #[test]
    fn each_error_has_its_code_and_reason() {
        let name = || "c".to_owned();
        let cases = [
            (Error::invalid("entity.id", "must not be empty"), Code::InvalidArgument, "INVALID_FIELD"),
            (Error::NotFound { collection: name(), id: "x".into() }, Code::NotFound, "ENTITY_NOT_FOUND"),
            (
                Error::Merged { collection: name(), id: "a".into(), into: "b".into() },
                Code::FailedPrecondition,
                "ENTITY_MERGED",
            ),
            (
                Error::Exists { collection: name(), id: "a".into(), found: Version::ZERO },
                Code::AlreadyExists,
                "ENTITY_EXISTS",
            ),
            (
                Error::VersionMismatch { collection: name(), id: "a".into(), found: None },
                Code::Aborted,
                "VERSION_MISMATCH",
            ),
            (Error::UnknownCollection(name()), Code::NotFound, "UNKNOWN_COLLECTION"),
            (
                Error::QuotaExceeded { what: "bytes", used: 2, most: 1 },
                Code::ResourceExhausted,
                "QUOTA_EXCEEDED",
            ),
            (Error::UnknownKey(name()), Code::NotFound, "UNKNOWN_KEY"),
            (Error::UnknownSpace { collection: name(), space: "s".into() }, Code::NotFound, "UNKNOWN_SPACE"),
            (Error::CollectionExists(name()), Code::AlreadyExists, "COLLECTION_EXISTS"),
            (Error::FailedPrecondition("no".into()), Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (Error::Exhausted("enough".into()), Code::ResourceExhausted, "EXHAUSTED"),
            (Error::DeadlineExceeded, Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            (Error::from(allidb_storage::Error::Closed), Code::Unavailable, "SHUTTING_DOWN"),
            (
                Error::from(allidb_storage::Error::Poisoned { reason: "EIO".into() }),
                Code::Unavailable,
                "WRITES_STOPPED",
            ),
            (
                Error::from(allidb_storage::Error::DiskFull { free_bytes: 1, required_bytes: 2 }),
                Code::ResourceExhausted,
                "DISK_FULL",
            ),
        ];
        for (error, code, reason) in cases {
            let status = from_error(error);
            assert_eq!((status.code(), reason_of(&status).as_str()), (code, reason));
        }
    }

    #[test]
    fn details_name_the_field_the_resource_and_the_retry() {
        let field = "entity.vectors[\"gloss\"]".to_owned();
        let status = from_error(Error::WrongDimension {
            field: field.clone(),
            space: "gloss".into(),
            want: 3,
            got: 2,
        });
        let violations = status.get_details_bad_request().expect("a bad request").field_violations;
        assert_eq!(violations[0].field, field);
        assert_eq!(violations[0].description, "has 2 dimensions; space \"gloss\" has 3");
        assert_eq!(status.message(), "entity.vectors[\"gloss\"] has 2 dimensions; space \"gloss\" has 3");
        assert_eq!(status.get_details_error_info().expect("info").metadata["want"], "3");

        let status = from_error(Error::NotFound { collection: "c".into(), id: "x".into() });
        assert_eq!(status.get_details_resource_info().expect("a resource").resource_name, "c/x");
        assert!(from_error(Error::Exhausted("enough".into())).get_details_retry_info().is_some());
        assert!(from_error(Error::DeadlineExceeded).get_details_retry_info().is_none());
    }

    #[test]
    fn internal_errors_keep_paths_to_themselves() {
        let error = allidb_storage::Error::Io {
            op: "read",
            path: PathBuf::from("/secret/place"),
            source: io::Error::other("bad sector"),
        };
        let status = from_error(Error::from(error));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
    }

    #[test]
    fn texts_are_bounded_and_batches_keep_the_details() {
        let status = invalid(&"é".repeat(100_000), "is long");
        assert!(status.details().len() < 6_000, "{}", status.details().len());
        let proto = to_proto(&status);
        assert_eq!(proto.code, 3);
        assert_eq!(proto.details.len(), 2);
        assert_eq!(to_proto(&Status::unknown("x")).message, "x");
    }
}
