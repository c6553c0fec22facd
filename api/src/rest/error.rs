//! Errors as JSON, the way Google's interfaces tell them: `{"error": {"code", "status", "message", "details"}}`.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::{Map, Value as Json, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{metrics::code_name, status};

/// What an error of HTTP itself says where it is not one of the contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: StatusCode,
    /// The word of gRPC that comes nearest.
    pub(crate) status: Code,
}

/// The answer that tells an error.
pub(crate) fn answer(error: &Status) -> Response<Body> {
    let details = error.get_error_details();
    let code = http_code(error.code(), &details);
    let mut answer = respond(code, &body(code, error, &details));
    if let Some(wait) = details.retry_info().and_then(|info| info.retry_delay) {
        // Whole seconds: rather too late than too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// The answer that tells an error that only HTTP has.
pub(crate) fn refuse(refusal: Refusal, message: &str) -> Response<Body> {
    let Refusal { code, status } = refusal;
    respond(code, &body(code, &Status::new(status, message), &ErrorDetails::new()))
}

/// The line that ends a stream which breaks off.
pub(crate) fn line(error: &Status) -> Json {
    let details = error.get_error_details();
    body(http_code(error.code(), &details), error, &details)
}

/// What became of an item of a batch: the code is that of gRPC, 0 means done.
pub(crate) fn item(status: &tonic_types::Status) -> Json {
    use tonic_types::RpcStatusExt;

    let code = Code::from_i32(status.code);
    let mut object = Map::new();
    object.insert("code".to_owned(), json!(status.code));
    object.insert("status".to_owned(), json!(code_name(code)));
    if code != Code::Ok {
        object.insert("message".to_owned(), json!(status.message));
        object.insert("details".to_owned(), json!(details_json(&status.get_error_details())));
    }
    Json::Object(object)
}

fn body(code: StatusCode, error: &Status, details: &ErrorDetails) -> Json {
    json!({"error": {
        "code": code.as_u16(),
        "status": code_name(error.code()),
        "message": error.message(),
        "details": details_json(details),
    }})
}

fn respond(code: StatusCode, json: &Json) -> Response<Body> {
    let mut answer = Response::new(Body::from(format!("{json}\n")));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// As `google.rpc.Code` says, but for messages that are too large.
fn http_code(code: Code, details: &ErrorDetails) -> StatusCode {
    let too_large = |info: &tonic_types::ErrorInfo| info.reason == status::reason::MESSAGE_TOO_LARGE;
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted if details.error_info().is_some_and(too_large) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// The details that this server gives, each with its type.
fn details_json(details: &ErrorDetails) -> Vec<Json> {
    let mut list = Vec::new();
    let kind = |name: &str| format!("type.googleapis.com/google.rpc.{name}");
    if let Some(info) = details.error_info() {
        let metadata: std::collections::BTreeMap<_, _> = info.metadata.iter().collect();
        list.push(json!({
            "@type": kind("ErrorInfo"), "reason": info.reason, "domain": info.domain, "metadata": metadata,
        }));
    }
    if let Some(request) = details.bad_request() {
        let violations = request.field_violations.iter();
        let violations: Vec<Json> = violations
            .map(|violation| json!({"field": violation.field, "description": violation.description}))
            .collect();
        list.push(json!({"@type": kind("BadRequest"), "field_violations": violations}));
    }
    if let Some(wait) = details.retry_info().and_then(|info| info.retry_delay) {
        list.push(json!({"@type": kind("RetryInfo"), "retry_delay": format!("{}s", wait.as_secs_f64())}));
    }
    if let Some(quota) = details.quota_failure() {
        let violations = quota.violations.iter();
        let violations: Vec<Json> = violations
            .map(|violation| json!({"subject": violation.subject, "description": violation.description}))
            .collect();
        list.push(json!({"@type": kind("QuotaFailure"), "violations": violations}));
    }
    if let Some(resource) = details.resource_info() {
        list.push(json!({
            "@type": kind("ResourceInfo"), "resource_type": resource.resource_type,
            "resource_name": resource.resource_name, "description": resource.description,
        }));
    }
    list
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn errors_have_the_code_of_http_and_say_when_to_come_back() {
        for (error, code) in [
            (status::invalid("entity.id", "must not be empty"), 400),
            (status::unauthenticated("who?"), 401),
            (status::permission_denied("no".to_owned()), 403),
            (Status::not_found("x"), 404),
            (Status::already_exists("x"), 409),
            (Status::aborted("x"), 409),
            (status::message_too_large("large".to_owned(), 1), 413),
            (status::rate_limited("requests", 1, Duration::from_millis(1_200)), 429),
            (Status::internal("x"), 500),
            (Status::unimplemented("x"), 501),
            (status::shutting_down(), 503),
            (Status::deadline_exceeded("x"), 504),
        ] {
            assert_eq!(answer(&error).status(), code, "{error:?}");
        }
        let limited = answer(&status::rate_limited("requests", 1, Duration::from_millis(1_200)));
        assert_eq!(limited.headers()["retry-after"], "2");
        assert_eq!(answer(&status::unauthenticated("who?")).headers()["www-authenticate"], "Bearer");
        assert!(!answer(&Status::not_found("x")).headers().contains_key("retry-after"));
    }

    #[test]
    fn details_are_told_with_their_types() {
        let told = line(&status::invalid("entity.id", "must not be empty"));
        let error = &told["error"];
        assert_eq!((&error["code"], &error["status"]), (&json!(400), &json!("INVALID_ARGUMENT")));
        assert_eq!(error["details"][0]["reason"], "INVALID_FIELD");
        assert_eq!(error["details"][1]["field_violations"][0]["field"], "entity.id");
        let item = item(&status::to_proto(&status::invalid("a", "is wrong")));
        assert_eq!(
            (&item["code"], &item["details"][1]["@type"]),
            (&json!(3), &json!("type.googleapis.com/google.rpc.BadRequest"))
        );
        assert_eq!(super::item(&status::done()), json!({"code": 0, "status": "OK"}));
    }
}
