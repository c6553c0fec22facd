//! Traces, told to a collector by OTLP over gRPC.
//!
//! Spans wait in a queue of bounded length, and those that find it full are lost: neither a request nor the end of the process waits long for
//! a collector. What spans are in words of OpenTelemetry is said here, and nowhere else.

use std::{path::Path, time::Duration};

use allidb_cluster::Pace;
use anyhow::{Context, bail};
use metrics::{counter, describe_counter};
use opentelemetry::{
    KeyValue, TraceId,
    trace::{Link, SpanKind, Status, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracerProvider, ShouldSample,
        SpanData, SpanExporter,
    },
};
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::config::{Config, Tracing};

/// How long connecting to the collector may take, and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take when the daemon ends.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// Spans that may wait, and how long they do at most while the collector answers.
const QUEUE: usize = 8_192;
const SENDS_EVERY: Duration = Duration::from_secs(1);
/// How often it is said at most that the collector does not take them.
const WARNS_EVERY: Duration = Duration::from_secs(60);

const SPANS: &str = "allidb_trace_spans_total";

/// The span of a call of a client, of a call of another node, and of what that node does for it.
const REQUEST: &str = "request";
const CALL: &str = "call";
const ANSWER: &str = "answer";

/// Traces that are exported.
pub(crate) struct Export(SdkTracerProvider);

impl Export {
    /// Begins with it, if the configuration says where to. In the context of the runtime that connects to it.
    ///
    /// # Errors
    /// Where the endpoint is none, or a file cannot be used. Whether anybody is there is not known yet.
    pub(crate) fn begin(config: &Config) -> anyhow::Result<Option<Self>> {
        let options = &config.tracing;
        let Some(url) = &options.otlp_endpoint else { return Ok(None) };
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_channel(endpoint(url, options)?.connect_lazy())
            .with_timeout(PATIENCE)
            .with_metadata(options.headers_file.as_deref().map_or(Ok(MetadataMap::new()), headers)?)
            .build()
            .context("traces cannot be exported")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(SENDS_EVERY)
            .build();
        let exporter = Exporter { inner: exporter, warned: Pace::of(WARNS_EVERY) };
        let instance = if config.ring.founders.is_empty() {
            config.listen.grpc.to_string()
        } else {
            config.ring.address()
        };
        let resource = Resource::builder()
            .with_service_name(options.service_name.clone())
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .with_attribute(KeyValue::new("service.version", crate::build::VERSION))
            .build();
        let sampled = Requests(Sampler::TraceIdRatioBased(options.sample_ratio));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(sampled)))
            .with_resource(resource)
            .build();
        Ok(Some(Self(provider)))
    }

    /// Takes note of our own spans, and of warnings and errors within them.
    pub(crate) fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let is_told = filter_fn(|of| {
            let most = if of.is_span() { Level::DEBUG } else { Level::WARN };
            of.target().starts_with("allidb") && *of.level() <= most
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("allidb"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(is_told.with_max_level_hint(LevelFilter::DEBUG))
            .boxed()
    }

    /// Sends what is left, for a moment. Blocks; the runtime must be there still.
    pub(crate) fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn endpoint(url: &str, options: &Tracing) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("`tracing.otlp_endpoint` is {url:?}, which is no address"))?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    let tls = match &options.authority_file {
        Some(path) => {
            let authority = std::fs::read(path)
                .with_context(|| format!("cannot read `tracing.authority_file` {}", path.display()))?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority))
        }
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    endpoint.tls_config(tls).context("`tracing.authority_file` cannot be used")
}

/// A header a line, as in `authorization: Bearer …`.
fn headers(path: &Path) -> anyhow::Result<MetadataMap> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `tracing.headers_file` {}", path.display()))?;
    let mut headers = MetadataMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name = name.trim().to_ascii_lowercase().parse::<MetadataKey<Ascii>>().ok()?;
            Some((name, MetadataValue::try_from(value.trim()).ok()?))
        });
        // The line itself may be a secret.
        let Some((name, mut value)) = parsed else {
            bail!("`tracing.headers_file` {}: line {} is no header", path.display(), at + 1);
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Traces begin with requests. What nobody has asked for belongs to none.
#[derive(Clone, Debug)]
struct Requests(Sampler);

impl ShouldSample for Requests {
    fn should_sample(
        &self,
        parent: Option<&opentelemetry::Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = if name == REQUEST { &self.0 } else { &Sampler::AlwaysOff };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// Sends spans, and says so when it cannot.
#[derive(Debug)]
struct Exporter {
    inner: OtlpExporter,
    warned: Pace,
}

impl SpanExporter for Exporter {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        batch.iter_mut().for_each(translate);
        let sent = self.inner.export(batch).await;
        describe_counter!(SPANS, "Spans of traces, by whether the collector took them");
        counter!(SPANS, "outcome" => if sent.is_ok() { "sent" } else { "lost" }).increment(count);
        if let Err(error) = &sent
            && self.warned.is_due()
        {
            tracing::warn!(%error, spans = count, "traces are lost: `tracing.otlp_endpoint` does not take them");
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Says what a span is as OpenTelemetry's conventions have it for calls.
fn translate(span: &mut SpanData) {
    let of = |name: &str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        attribute.map(|attribute| attribute.value.to_string())
    };
    let (kind, called) = match &*span.name {
        REQUEST => {
            (SpanKind::Server, of("service").zip(of("method")).map(|(of, name)| format!("{of}/{name}")))
        }
        ANSWER => (SpanKind::Server, of("rpc")),
        CALL => (SpanKind::Client, of("rpc")),
        _ => return,
    };
    // Of a caller's own mistakes a server is not guilty.
    let is_guilty = |code: &String| {
        kind == SpanKind::Client
            || matches!(
                &**code,
                "Unknown" | "DeadlineExceeded" | "Unimplemented" | "Internal" | "Unavailable" | "DataLoss"
            )
    };
    if let Some(code) = of("code").filter(is_guilty) {
        span.status = Status::error(code);
    }
    if let Some(called) = called {
        span.name = called.trim_start_matches('/').to_owned().into();
    }
    span.span_kind = kind;
}

#[cfg(test)]
mod tests {
    use std::fs;

    use opentelemetry::trace::SpanContext;
    use opentelemetry_sdk::trace::SamplingDecision;
    use tempfile::TempDir;

    use super::*;

    fn span(name: &'static str, attributes: &[(&'static str, &'static str)]) -> SpanData {
        let mut span = SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: opentelemetry::SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: std::time::SystemTime::UNIX_EPOCH,
            end_time: std::time::SystemTime::UNIX_EPOCH,
            attributes: attributes.iter().map(|(key, value)| KeyValue::new(*key, *value)).collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: Default::default(),
        };
        translate(&mut span);
        span
    }

    #[test]
    fn calls_are_told_as_conventions_have_it() {
        let search = [("service", "allidb.v1.Search"), ("method", "Query")];
        let request = span(REQUEST, &[&search[..], &[("code", "Internal")]].concat());
        assert_eq!((&*request.name, request.span_kind), ("allidb.v1.Search/Query", SpanKind::Server));
        assert_eq!(request.status, Status::error("Internal"));
        let mistaken = span(REQUEST, &[&search[..], &[("code", "InvalidArgument")]].concat());
        assert_eq!(mistaken.status, Status::Unset);
        let call = span(CALL, &[("rpc", "/allidb.peer.v1.Peer/Read"), ("code", "Aborted")]);
        assert_eq!((&*call.name, call.span_kind), ("allidb.peer.v1.Peer/Read", SpanKind::Client));
        assert_eq!(call.status, Status::error("Aborted"));
        let other = span("commit", &[("code", "Internal")]);
        assert_eq!(
            (&*other.name, other.span_kind, other.status),
            ("commit", SpanKind::Internal, Status::Unset)
        );
    }

    #[test]
    fn only_requests_begin_traces() {
        let decision = |name: &str| {
            let sampler = Requests(Sampler::AlwaysOn);
            let trace = TraceId::from(1_u128);
            sampler.should_sample(None, trace, name, &SpanKind::Internal, &[], &[]).decision
        };
        assert_eq!(decision(REQUEST), SamplingDecision::RecordAndSample);
        assert_eq!(decision("work"), SamplingDecision::Drop);
    }

    #[test]
    fn headers_are_read_line_by_line_and_wrong_ones_are_not_told() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("headers");
        fs::write(&path, "Authorization: Bearer 123:456\n\nx-scope: a\n").expect("written");
        let read = headers(&path).expect("headers");
        assert_eq!(read.get("authorization").expect("there"), "Bearer 123:456");
        assert_eq!(read.get("x-scope").expect("there"), "a");
        fs::write(&path, "x-scope: a\nsecret\n").expect("written");
        let refused = headers(&path).expect_err("no header").to_string();
        assert!(refused.ends_with("line 2 is no header") && !refused.contains("secret"), "{refused}");
    }
}
