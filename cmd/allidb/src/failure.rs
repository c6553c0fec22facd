//! Why a command failed, in words for people and as an exit code for programs.

use std::{error::Error, fmt, io};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Failures that a caller of the program may want to tell apart. Everything else is exit code 1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments cannot be right whatever the server says.
    Usage(String),
    /// There is no such thing on the server.
    NotFound(String),
    /// What was looked at is not as it must be.
    Unfit(String),
    /// Nothing answers at the endpoint, or the connection broke.
    Unreachable(String),
    /// The server refused.
    Refused(Box<Status>),
}

impl Failure {
    /// A failed call. A broken connection and a missing entity get their own exit codes.
    pub(crate) fn from_status(status: Status) -> anyhow::Error {
        let failure = if is_unreachable(&status) {
            // A ring in which too few nodes answer says so itself.
            Self::Unreachable(match status.get_error_details().error_info() {
                Some(_) => describe(&status),
                None => format!("the server is not reachable: {}", status.message()),
            })
        } else if status.code() == Code::NotFound {
            Self::NotFound(describe(&status))
        } else {
            Self::Refused(Box::new(status))
        };
        anyhow::Error::new(failure)
    }

    pub(crate) fn unfit(message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self::Unfit(message.into()))
    }

    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self::Usage(message.into()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::Unfit(message)
            | Self::NotFound(message)
            | Self::Unreachable(message) => f.write_str(message),
            Self::Refused(status) => f.write_str(&describe(status)),
        }
    }
}

impl Error for Failure {}

/// The exit code for a failed command; `None` when the reader of our output has gone (as in
/// `allidb scan … | head`), which is no failure at all.
pub(crate) fn exit_code(error: &anyhow::Error) -> Option<u8> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::Refused(_) => 1,
            Failure::Usage(_) | Failure::Unfit(_) => 2,
            Failure::NotFound(_) => 3,
            Failure::Unreachable(_) => 4,
        });
    }
    match error.downcast_ref::<io::Error>() {
        Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => None,
        _ => Some(1),
    }
}

/// Whether the call failed on its way rather than at the server: a status that the server sent has no
/// cause on this side.
pub(crate) fn is_unreachable(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

/// Code and message, then on lines of their own which fields were wrong and why, and what may help.
fn describe(status: &Status) -> String {
    let mut text = format!("{}: {}", code_name(status.code() as i32), status.message());
    let details = status.get_error_details();
    if let Some(request) = details.bad_request() {
        for violation in &request.field_violations {
            text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
        }
    }
    if let Some(precondition) = details.precondition_failure() {
        for violation in &precondition.violations {
            text.push_str(&format!("\n  {}: {}", violation.subject, violation.description));
        }
    }
    if let Some(quota) = details.quota_failure() {
        for violation in &quota.violations {
            text.push_str(&format!("\n  {}: {}", violation.subject, violation.description));
        }
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text.push_str(&format!("\n  try again in {} ms", delay.as_millis()));
    }
    let says_more = |reason: &str| reason != code_name(status.code() as i32);
    if let Some(info) = details.error_info().filter(|info| says_more(&info.reason)) {
        text.push_str(&format!("\n  reason: {}", info.reason));
    }
    text
}

/// The name of a gRPC code as the protocol writes it.
pub(crate) fn code_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn field_violations_are_spelled_out() {
        let details = ErrorDetails::with_bad_request_violation("entity.ref.id", "too long");
        let status = Status::with_error_details(Code::InvalidArgument, "bad entity", details);
        let error = Failure::from_status(status);
        assert_eq!(error.to_string(), "INVALID_ARGUMENT: bad entity\n  entity.ref.id: too long");
        assert_eq!(exit_code(&error), Some(1));
    }

    #[test]
    fn exit_codes_follow_the_kind_and_survive_context() {
        let missing = Failure::from_status(Status::not_found("no such entity")).context("get");
        assert_eq!(exit_code(&missing), Some(3));
        assert_eq!(exit_code(&Failure::from_status(Status::unavailable("gone"))), Some(4));
        let details = ErrorDetails::with_error_info("UNAVAILABLE", "allidb.dev", []);
        let few = Failure::from_status(Status::with_error_details(Code::Unavailable, "too few", details));
        assert_eq!((few.to_string().as_str(), exit_code(&few)), ("UNAVAILABLE: too few", Some(4)));
        assert_eq!(exit_code(&Failure::usage("no")), Some(2));
        assert_eq!(exit_code(&Failure::unfit("no")), Some(2));
        assert_eq!(exit_code(&anyhow::anyhow!("other")), Some(1));
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(exit_code(&anyhow::Error::new(pipe)), None);
    }
}
