//! Messages that are larger than allowed or no messages at all, answered as the contract says.
//!
//! The transport refuses them before any service sees them, with OUT_OF_RANGE and no details. No service
//! here answers OUT_OF_RANGE, so wherever that code passes it means just this.

use http::HeaderMap;
use tonic::{Code, Status};

use crate::status;

/// The largest messages, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageBounds {
    pub(crate) incoming: usize,
    pub(crate) outgoing: usize,
}

/// Turns the transport's refusal, in headers or in trailers, into RESOURCE_EXHAUSTED with its details.
pub(crate) fn rewrite(headers: &mut HeaderMap, bounds: MessageBounds) {
    if headers.get(Status::GRPC_STATUS).is_some_and(|code| code.as_bytes() == b"13") {
        rewrite_undecodable(headers);
        return;
    }
    // Most answers end well: look at the code before anything is decoded.
    if headers.get(Status::GRPC_STATUS).is_none_or(|code| code.as_bytes() != b"11") {
        return;
    }
    let Some(refusal) = Status::from_header_map(headers).filter(|status| status.code() == Code::OutOfRange)
    else {
        return;
    };
    let (what, limit) = if refusal.message().contains("encoded message") {
        ("the answer", bounds.outgoing)
    } else {
        ("the message", bounds.incoming)
    };
    let size = refusal.message().rsplit_once("too large: ").map_or("", |(_, size)| size);
    let status = status::message_too_large(format!("{what} is too large: {size}"), limit);
    if status.add_header(headers).is_err() {
        tracing::error!("the status of an oversized message does not fit its headers");
    }
}

/// How the words begin of what takes messages apart: a message, what is around it, and the same as pages send it.
const UNDECODABLE: [&str; 5] = [
    "failed to decode Protobuf message: ",
    "protocol error: received message with ",
    "Unexpected EOF decoding stream",
    "Missing request message",
    "tonic-web: ",
];

/// The transport calls a message that is no protobuf an internal error; it is the caller's.
fn rewrite_undecodable(headers: &mut HeaderMap) {
    let refusal = Status::from_header_map(headers);
    let why = refusal.as_ref().map(Status::message);
    let Some(why) = why.filter(|why| UNDECODABLE.iter().any(|of| why.starts_with(of))) else { return };
    let status = status::undecodable(why);
    if status.add_header(headers).is_err() {
        tracing::error!("the status of an undecodable message does not fit its headers");
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    const BOUNDS: MessageBounds = MessageBounds { incoming: 10, outgoing: 20 };

    fn rewritten(status: &Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).expect("fits");
        rewrite(&mut headers, BOUNDS);
        Status::from_header_map(&headers).expect("a status")
    }

    #[test]
    fn refusals_of_the_transport_get_code_and_details() {
        let text = "Error, decoded message length too large: found 11 bytes, the limit is: 10 bytes";
        let status = rewritten(&Status::out_of_range(text));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "the message is too large: found 11 bytes, the limit is: 10 bytes");
        let info = status.get_details_error_info().expect("info");
        assert_eq!(
            (info.reason.as_str(), info.metadata["limit_bytes"].as_str()),
            ("MESSAGE_TOO_LARGE", "10")
        );

        let text = "Error, encoded message length too large: found 21 bytes, the limit is: 20 bytes";
        let status = rewritten(&Status::out_of_range(text));
        assert!(status.message().starts_with("the answer"), "{}", status.message());
        assert_eq!(status.get_details_error_info().expect("info").metadata["limit_bytes"], "20");
    }

    #[test]
    fn a_message_that_is_no_protobuf_is_the_callers_fault() {
        let status = rewritten(&Status::internal("failed to decode Protobuf message: buffer underflow"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "message cannot be decoded: buffer underflow");
        assert!(status.get_details_error_info().is_some());
        let cut = rewritten(&Status::internal("Unexpected EOF decoding stream."));
        assert_eq!(cut.message(), "message cannot be decoded: Unexpected EOF decoding stream.");
        let flag = "protocol error: received message with invalid compression flag: 9";
        for wrong in [flag, "tonic-web: malformed base64 request"] {
            assert_eq!(rewritten(&Status::internal(wrong)).code(), Code::InvalidArgument, "{wrong}");
        }
        assert_eq!(rewritten(&Status::internal("else")).code(), Code::Internal);
    }

    #[test]
    fn other_answers_pass() {
        let status = rewritten(&Status::not_found("x"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "x"));
        let mut none = HeaderMap::new();
        rewrite(&mut none, BOUNDS);
        assert!(none.is_empty());
    }
}
