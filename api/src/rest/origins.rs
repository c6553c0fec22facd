//! Pages of other sites: what a browser asks on their behalf is answered only if they are named. It says so itself, by `Origin`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Method, StatusCode, header};
use tonic::Code;

use super::error::{self, Refusal};

/// What pages may do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// The headers that they may send.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, traceparent, tracestate, x-api-key, x-grpc-web, x-user-agent",
);
/// The headers that they may read.
const READ: HeaderValue =
    HeaderValue::from_static("grpc-message, grpc-status, grpc-status-details-bin, retry-after");
/// How long a browser need not ask again, in seconds.
const AGE: HeaderValue = HeaderValue::from_static("3600");

/// The origins that are named, such as `https://example.org`. Cheap to clone.
pub(crate) type Origins = Arc<[String]>;

/// Lets through what comes from no page, or from one that is named, and answers what browsers ask first.
pub(crate) async fn check(State(named): State<Origins>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if !named.iter().any(|named| named.as_bytes() == origin.as_bytes()) {
        let refusal = Refusal { code: StatusCode::FORBIDDEN, status: Code::PermissionDenied };
        return error::refuse(
            refusal,
            "pages of this origin are not served; `listen.origins` names those that are",
        );
    }
    let is_asked_first = request.method() == Method::OPTIONS;
    let mut response = if is_asked_first {
        let mut granted = Response::new(Body::empty());
        *granted.status_mut() = StatusCode::NO_CONTENT;
        let headers = granted.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, SENT);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, AGE);
        granted
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, READ);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}
