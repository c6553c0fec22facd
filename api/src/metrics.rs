//! Counts and times of calls.
//!
//! Labels are the names of the contract and of codes, never anything that a caller chose.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
    time::Instant,
};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use prost::Message;
use tonic::Code;

const REQUESTS: &str = "allidb_grpc_requests_total";
const SECONDS: &str = "allidb_grpc_request_seconds";
const IN_FLIGHT: &str = "allidb_grpc_requests_in_flight";
const HELD: &str = "allidb_grpc_held_bytes";
const REFUSED: &str = "allidb_grpc_refused_total";
pub(crate) const SLOW_QUERIES: &str = "allidb_slow_queries_total";

/// Seconds, from a cached read to the longest deadline.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's recorder, installed at the first call. Several servers in one process share it.
///
/// # Errors
/// Where the process installed another recorder before.
pub fn recorder() -> Result<PrometheusHandle, BuildError> {
    static FIRST: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _first = FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS)?
        .install_recorder()?;
    describe_counter!(REQUESTS, "Calls that ended, by service, method and gRPC code");
    describe_histogram!(SECONDS, "How long calls took, streams until their end");
    describe_gauge!(IN_FLIGHT, "Calls under way");
    describe_gauge!(HELD, "Bytes of requests and answers under way, of `limits.request_bytes`");
    describe_counter!(
        REFUSED,
        "Calls refused because something was short: places or bytes, of all or of one caller"
    );
    // From the beginning, so that they are seen to rise.
    set_held(0);
    for short in Short::ALL {
        counter!(REFUSED, "short_of" => short.name()).increment(0);
    }
    describe_counter!(SLOW_QUERIES, "Queries that took longer than `log.slow_query`, by method");
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// A method of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// The full name of its service.
    pub(crate) service: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether its requests are streams of messages.
    pub(crate) takes_stream: bool,
    /// Whether it answers as much as it likes.
    pub(crate) gives_stream: bool,
}

/// Anything that is not in the contract, so that callers cannot make up labels.
const OTHER: Method = Method { service: "other", name: "other", takes_stream: false, gives_stream: true };

/// Every method there is, by the path it is called at. Made once from the contract and kept for ever.
static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let files = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap_or_default().file;
    let mut methods = HashMap::new();
    for file in files {
        for service in &file.service {
            let full: &'static str = format!("{}.{}", file.package(), service.name()).leak();
            for method in &service.method {
                let name: &'static str = method.name().to_owned().leak();
                let (takes_stream, gives_stream) = (method.client_streaming(), method.server_streaming());
                let known = Method { service: full, name, takes_stream, gives_stream };
                methods.insert(format!("/{full}/{name}"), known);
            }
        }
    }
    for name in ["Check", "List", "Watch"] {
        let service = "grpc.health.v1.Health";
        let known = Method { service, name, takes_stream: false, gives_stream: name == "Watch" };
        methods.insert(format!("/{service}/{name}"), known);
    }
    methods
});

impl Method {
    pub(crate) fn at(path: &str) -> Method {
        METHODS.get(path).copied().unwrap_or(OTHER)
    }

    /// Whether what comes of a request may lie unread while the call stands: of a stream, such as that of reflection, which is not in the contract.
    pub(crate) fn may_lie_unread(self) -> bool {
        self.takes_stream || self == OTHER
    }

    /// Whether its answer may be so large that others had better not wait while it is found: many entities are asked for at once.
    pub(crate) fn may_be_large(self) -> bool {
        matches!(self.name, "BatchGet" | "BatchQuery" | "RangeScan")
    }
}

/// What was short when a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    Places,
    PlacesOfCaller,
    Bytes,
    BytesOfCaller,
}

impl Short {
    const ALL: [Self; 4] = [Self::Places, Self::PlacesOfCaller, Self::Bytes, Self::BytesOfCaller];

    fn name(self) -> &'static str {
        match self {
            Self::Places => "places",
            Self::PlacesOfCaller => "places_of_caller",
            Self::Bytes => "bytes",
            Self::BytesOfCaller => "bytes_of_caller",
        }
    }

    /// A call was refused.
    pub(crate) fn count(self) {
        counter!(REFUSED, "short_of" => self.name()).increment(1);
    }
}

/// What requests and answers under way weigh together.
pub(crate) fn set_held(bytes: usize) {
    gauge!(HELD).set(bytes as f64);
}

/// A call under way. Counted as CANCELLED if it is dropped before its code is known.
pub(crate) struct Call {
    method: Method,
    begun: Instant,
    code: Option<Code>,
}

impl Call {
    pub(crate) fn begin(method: Method) -> Self {
        gauge!(IN_FLIGHT, "service" => method.service, "method" => method.name).increment(1);
        Self { method, begun: Instant::now(), code: None }
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    pub(crate) fn end(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Method { service, name, .. } = self.method;
        let code = code_name(self.code.unwrap_or(Code::Cancelled));
        gauge!(IN_FLIGHT, "service" => service, "method" => name).decrement(1);
        counter!(REQUESTS, "service" => service, "method" => name, "code" => code).increment(1);
        histogram!(SECONDS, "service" => service, "method" => name).record(self.begun.elapsed());
    }
}

pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_come_from_the_contract_and_nothing_else_becomes_a_label() {
        let method = Method::at("/allidb.v1.Entities/PutStream");
        let (service, name) = ("allidb.v1.Entities", "PutStream");
        assert_eq!(method, Method { service, name, takes_stream: true, gives_stream: true });
        assert_eq!(Method::at("/allidb.v1.Entities/Nonsense"), OTHER);
        assert_eq!(Method::at("/../../etc/passwd"), OTHER);
    }

    #[test]
    fn each_call_is_counted_once() {
        let handle = recorder().expect("the first recorder of the process");
        recorder().expect("the same again");
        let method = Method::at("/allidb.v1.Search/Query");
        let mut call = Call::begin(method);
        call.end(Code::NotFound);
        drop(call);
        drop(Call::begin(method));
        let text = handle.render();
        for code in ["NOT_FOUND", "CANCELLED"] {
            let line = text.lines().find(|line| line.starts_with(REQUESTS) && line.contains(code));
            assert!(
                line.is_some_and(|line| line.contains("allidb.v1.Search") && line.ends_with(" 1")),
                "{text}"
            );
        }
        assert!(text.contains(&format!("{SECONDS}_bucket")), "{text}");
    }
}
