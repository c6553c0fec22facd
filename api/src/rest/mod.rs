//! The contract over plain HTTP: as JSON for people with curl, and as gRPC-web for pages.
//!
//! | module | what it is |
//! |---|---|
//! | `routes` | where each method is found |
//! | `find` | which method a request is for |
//! | `json` | messages as JSON |
//! | `transcode` | requests → messages, where the services would take them |
//! | `answer`, `error` | what is answered, and what goes wrong |
//! | `origins`, `hosts` | what pages of other sites may do |
//!
//! A call goes through the same [`SurroundLayer`](crate::layer::SurroundLayer) as one over gRPC, and counts with those.

mod answer;
mod error;
mod find;
mod hosts;
mod json;
mod origins;
mod routes;
mod transcode;

use std::sync::{Arc, OnceLock};

use allidb_cluster::Caller;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware,
    response::Response,
    routing::{any, get},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::watch;
use tonic::{Code, Status, body::Body as GrpcBody, service::Routes};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt};

use self::{
    error::Refusal,
    find::{Found, NotFound},
    transcode::Transcoded,
};
use crate::{
    aside,
    layer::{Surround, SurroundLayer},
    status,
};

/// What every path here has and every method does, as OpenAPI 3.1. Made by the build script.
const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// Headers of a request that go on to the services.
const PASSED: [HeaderName; 5] = [
    header::AUTHORIZATION,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-api-key"),
];

/// The services, for those who speak HTTP. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    json: Surround<Transcoded>,
    web: GrpcWebService<Surround<Routes>>,
    stop: watch::Receiver<bool>,
}

impl Gateway {
    /// In front of the services and what surrounds them. `limit`: the largest body with JSON, in bytes. Takes on nothing new once `stop` is true.
    pub(crate) fn new(
        services: Routes,
        surround: &SurroundLayer,
        limit: usize,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let json = surround.layer(Transcoded { services: services.clone(), limit });
        let web = GrpcWebLayer::new().layer(surround.layer(services));
        Self { json, web, stop }
    }

    async fn call(&self, found: Found, request: Request) -> Response {
        let found = Arc::new(found);
        let (head, body) = request.into_parts();
        let mut call = http::Request::new(GrpcBody::new(body));
        *call.method_mut() = http::Method::POST;
        match found.place.rpc_path().parse() {
            Ok(path) => *call.uri_mut() = path,
            Err(_) => return error::answer(&status::internal_error("a method has no path")),
        }
        *call.headers_mut() = passed(&head.headers);
        if let Some(caller) = head.extensions.get::<Caller>() {
            call.extensions_mut().insert(caller.clone());
        }
        call.extensions_mut().insert(Arc::clone(&found));
        match self.json.clone().oneshot(call).await {
            Ok(answered) => answer::answer(&found.place.method, answered).await,
            Err(never) => match never {},
        }
    }
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in PASSED {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    passed.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    passed.insert(header::TE, HeaderValue::from_static("trailers"));
    passed
}

/// Longer bodies and answers than this are translated on threads of their own, so that nobody waits for them.
const INLINE_BYTES: usize = 64 << 10;

/// Does what takes long if there are many bytes.
async fn translated<T: Send + 'static>(
    bytes: usize,
    translate: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if bytes <= INLINE_BYTES {
        return translate();
    }
    aside::translated(translate).await.unwrap_or_else(|error| Err(status::broke_off(&error)))
}

/// The gateway, once there is one: until then nothing is served.
pub type Opening = Arc<OnceLock<Gateway>>;

/// Which pages in browsers are served.
pub struct Pages {
    /// The sites whose pages are.
    pub origins: Vec<String>,
    /// Whether a key or a certificate is asked for, which others' pages have not.
    pub is_guarded: bool,
}

/// The routes of the gateway, and `/openapi.json`, which is for everybody but pages that are not served.
pub fn router(gateway: Opening, Pages { origins, is_guarded }: Pages) -> Router {
    const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];
    let mut router = Router::new()
        .route("/openapi.json", get(|| async { (JSON, OPENAPI) }))
        .route("/v1/{*path}", any(json));
    for service in crate::server::services() {
        router = router.route(&format!("/{service}/{{method}}"), any(web));
    }
    let origins: origins::Origins = origins.into();
    let router = router
        .with_state(gateway)
        .layer(middleware::from_fn_with_state(Arc::clone(&origins), origins::check));
    match is_guarded {
        true => router,
        false => router.layer(middleware::from_fn_with_state(origins, hosts::check)),
    }
}

async fn json(State(opening): State<Opening>, request: Request) -> Response {
    let gateway = match ready(&opening) {
        Ok(gateway) => gateway,
        Err(refusal) => return error::answer(&refusal),
    };
    if let Some(coding) = coding(request.headers()) {
        let refusal = Refusal { code: StatusCode::UNSUPPORTED_MEDIA_TYPE, status: Code::InvalidArgument };
        return error::refuse(
            refusal,
            &format!("the body is encoded as {coding:?}: only plain ones are taken"),
        );
    }
    let (path, query) = (request.uri().path(), request.uri().query());
    match find::find(request.method(), path, query) {
        Ok(found) => gateway.call(found, request).await,
        Err(NotFound::Garbled(status)) => error::answer(&status),
        Err(NotFound::Path) => {
            let refusal = Refusal { code: StatusCode::NOT_FOUND, status: Code::NotFound };
            error::refuse(refusal, "there is nothing at this path; /openapi.json tells what there is")
        }
        Err(NotFound::Verb(others)) => {
            let others = others.join(", ");
            let refusal = Refusal { code: StatusCode::METHOD_NOT_ALLOWED, status: Code::Unimplemented };
            let mut answer = error::refuse(refusal, &format!("this path takes {others}"));
            if let Ok(others) = others.parse() {
                answer.headers_mut().insert(header::ALLOW, others);
            }
            answer
        }
    }
}

/// How a body is encoded, if it is.
fn coding(headers: &HeaderMap) -> Option<String> {
    let is_none = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    let values = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let mut values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    values.find(|value| !value.split(',').all(|coding| is_none(coding.trim())))
}

async fn web(State(opening): State<Opening>, request: Request) -> Response {
    match ready(&opening) {
        Ok(gateway) => match gateway.web.clone().oneshot(request).await {
            Ok(answered) => answered.map(Body::new),
            Err(never) => match never {},
        },
        Err(refusal) => error::answer(&refusal),
    }
}

fn ready(opening: &Opening) -> Result<&Gateway, Status> {
    match opening.get() {
        None => Err(status::starting()),
        Some(gateway) if *gateway.stop.borrow() => Err(status::shutting_down()),
        Some(gateway) => Ok(gateway),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use http_body_util::BodyExt;
    use serde_json::Value as Json;

    use super::*;

    /// Made by the build script, too.
    const REFERENCE: &str = include_str!(concat!(env!("OUT_DIR"), "/api.md"));

    #[test]
    fn an_encoded_body_is_told_from_a_plain_one() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            coding(&headers)
        };
        for plain in [&[][..], &[""], &["identity"], &["Identity, identity"]] {
            assert_eq!(of(plain), None, "{plain:?}");
        }
        for encoded in [&["gzip"][..], &["identity", "gzip"], &["identity, br"], &["GZIP"]] {
            assert!(of(encoded).is_some(), "{encoded:?}");
        }
    }

    #[test]
    fn the_shipped_reference_is_what_the_contract_says() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        // Run with ALLIDB_WRITE_REFERENCE=1 after changing the contract.
        if std::env::var_os("ALLIDB_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, REFERENCE).expect("the reference is written");
        }
        let shipped = std::fs::read_to_string(&path).expect("the reference is there");
        assert!(shipped == REFERENCE, "run this test with ALLIDB_WRITE_REFERENCE=1");
    }

    fn references<'a>(json: &'a Json, found: &mut Vec<&'a str>) {
        match json {
            Json::Object(object) => {
                found.extend(object.get("$ref").and_then(Json::as_str));
                object.values().for_each(|inner| references(inner, found));
            }
            Json::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_schema_is_there() {
        let document: Json = serde_json::from_str(OPENAPI).expect("JSON");
        let operations = document["paths"].as_object().expect("paths").values();
        let operations: Vec<&Json> =
            operations.flat_map(|verbs| verbs.as_object().expect("verbs").values()).collect();
        assert_eq!(operations.len(), routes::ROUTES.len());
        let mut ids: Vec<_> =
            operations.iter().map(|one| one["operationId"].as_str().expect("an id")).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), operations.len(), "an id is there twice");
        let get = &document["paths"]["/v1/collections/{collection}/entities/{id}"]["get"];
        assert_eq!(get["operationId"], "Entities_Get");
        assert_eq!(get["parameters"][1]["name"], "id");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        for reference in found {
            let place = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(place).is_some_and(Json::is_object), "{reference} leads nowhere");
        }
    }

    fn pages(origins: &[&str], is_guarded: bool) -> Pages {
        Pages { origins: origins.iter().map(|origin| (*origin).to_owned()).collect(), is_guarded }
    }

    async fn asked(router: Router, request: http::request::Builder) -> (StatusCode, HeaderMap, String) {
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.oneshot(request).await.expect("infallible");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn nothing_is_served_before_there_is_something_to_serve() {
        let router = || super::router(Opening::default(), pages(&[], false));
        for path in ["/v1/collections", "/v1/nonsense", "/allidb.v1.Entities/Count"] {
            let (code, headers, body) = asked(router(), Request::builder().uri(path)).await;
            assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert_eq!(headers["retry-after"], "1");
            assert!(body.contains("UNAVAILABLE"), "{body}");
        }
        let (code, _, body) = asked(router(), Request::builder().uri("/openapi.json")).await;
        assert_eq!((code, body.as_str()), (StatusCode::OK, OPENAPI));
    }

    #[tokio::test]
    async fn pages_are_served_if_their_site_is_named() {
        let router = || super::router(Opening::default(), pages(&["https://ours.example"], false));
        let from = |origin: &str| Request::builder().uri("/openapi.json").header("origin", origin);
        let (code, headers, _) = asked(router(), from("https://theirs.example")).await;
        assert_eq!(code, StatusCode::FORBIDDEN);
        assert!(!headers.contains_key("access-control-allow-origin"));
        let (code, headers, _) = asked(router(), from("https://ours.example")).await;
        assert_eq!(
            (code, &headers["access-control-allow-origin"]),
            (StatusCode::OK, &HeaderValue::from_static("https://ours.example"))
        );
        let asks =
            from("https://ours.example").method("OPTIONS").header("access-control-request-method", "PUT");
        let (code, headers, _) = asked(router(), asks).await;
        assert_eq!(code, StatusCode::NO_CONTENT);
        assert!(headers["access-control-allow-methods"].to_str().expect("text").contains("PUT"));
    }

    #[tokio::test]
    async fn pages_whose_name_leads_here_are_not_served() {
        let ask = async |path: &str, host: &str, is_guarded: bool| {
            let router = super::router(Opening::default(), pages(&["https://ours.example"], is_guarded));
            asked(router, Request::builder().uri(path).header("host", host)).await
        };
        let soon = StatusCode::SERVICE_UNAVAILABLE;
        for (path, served) in [
            ("/openapi.json", StatusCode::OK),
            ("/v1/collections", soon),
            ("/allidb.v1.Entities/Count", soon),
        ] {
            for host in ["127.0.0.1:7001", "localhost:7001", "ours.example"] {
                assert_eq!(ask(path, host, false).await.0, served, "{path}, {host}");
            }
            let (code, headers, body) = ask(path, "theirs.example:7001", false).await;
            assert_eq!(code, StatusCode::FORBIDDEN, "{path}");
            assert!(!headers.contains_key("access-control-allow-origin"));
            assert!(body.contains("listen.origins"), "{body}");
            // Their pages have no key.
            assert_eq!(ask(path, "theirs.example:7001", true).await.0, served, "{path}");
        }
    }
}
