//! The way of spans to a collector: a bounded queue, and batches by a thread of its own. A collector that is away costs the
//! spans that do not fit in the queue, which are counted, and a line of the log now and then.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{
    Protocol as OtlpProtocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::TelemetryResourceDetector,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
    },
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Ids, Settings};

/// Between two lines of the log about a collector that does not take spans.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// Where spans go, and how.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// The form.
    pub protocol: Protocol,
    /// The whole URL: for HTTP with its path.
    pub endpoint: String,
    /// What is sent with each request.
    pub headers: Headers,
    /// How long one export may take.
    pub timeout: Duration,
    /// Whether bodies are compressed.
    pub compression: Compression,
    /// Whom to trust, and who we are.
    pub tls: Tls,
    /// The queue.
    pub queue: Queue,
}

/// The forms of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// How bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
}

/// Headers, which may hold secrets: their debug form shows none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// None where one of them can be no header.
    #[must_use]
    pub fn new(pairs: Vec<(String, String)>) -> Option<Self> {
        let valid = |(name, value): &(String, String)| {
            HeaderName::try_from(name.as_str()).is_ok() && HeaderValue::try_from(value.as_str()).is_ok()
        };
        pairs.iter().all(valid).then_some(Self(pairs))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers(…)")
    }
}

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Roots that the collector is to be signed by.
    pub roots: Option<PathBuf>,
    /// This program's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How spans wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The most spans that wait, those of the batch under way included.
    pub longest: usize,
    /// The most spans of a batch.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
}

/// What became of spans, for metrics.
pub struct Counts {
    /// Ended and not exported yet.
    waiting: AtomicUsize,
    /// Lost because the queue was full.
    pub dropped: AtomicU64,
    /// Lost because the collector did not take them.
    pub refused: AtomicU64,
}

/// There is one exporter in a process.
pub static COUNTS: Counts =
    Counts { waiting: AtomicUsize::new(0), dropped: AtomicU64::new(0), refused: AtomicU64::new(0) };

/// What makes spans and exports them.
pub fn provider(exporter: &Exporter, settings: &Settings) -> Result<SdkTracerProvider, String> {
    let queue = exporter.queue;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(queue.longest)
        .with_max_export_batch_size(queue.batch)
        .with_scheduled_delay(queue.delay)
        .build();
    let exporter = Told { inner: make(exporter)?, endpoint: exporter.endpoint.clone(), state: Mutex::default() };
    let batching = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource(settings))
        .with_id_generator(Ids::default())
        .with_sampler(sampler(settings.sampler))
        .with_span_processor(Bounded { inner: batching, longest: queue.longest })
        .build())
}

fn resource(settings: &Settings) -> Resource {
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", settings.instance.clone()),
    ];
    let given = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(given)
        .with_service_name(settings.service.clone())
        .build()
}

fn sampler(sampler: super::Sampler) -> Sampler {
    let by_share = Sampler::TraceIdRatioBased(sampler.share);
    if sampler.parent_based { Sampler::ParentBased(Box::new(by_share)) } else { by_share }
}

fn make(exporter: &Exporter) -> Result<OtlpExporter, String> {
    let made = match exporter.protocol {
        Protocol::Grpc => grpc(exporter)?,
        Protocol::Http => http(exporter)?,
    };
    made.map_err(|error| format!("spans cannot be exported: {error}"))
}

type Made = Result<OtlpExporter, opentelemetry_otlp::ExporterBuildError>;

fn grpc(exporter: &Exporter) -> Result<Made, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &exporter.headers.0 {
        // Both were looked at when they were read.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    let mut builder = OtlpExporter::builder()
        .with_tonic()
        .with_endpoint(&exporter.endpoint)
        .with_timeout(exporter.timeout)
        .with_retry_policy(RetryPolicy::recommended())
        .with_metadata(MetadataMap::from_headers(headers));
    if exporter.endpoint.starts_with("https:") {
        let mut tls = ClientTlsConfig::new();
        tls = match &exporter.tls.roots {
            Some(file) => tls.ca_certificate(Certificate::from_pem(read(file)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &exporter.tls.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        builder = builder.with_tls_config(tls);
    }
    if exporter.compression == Compression::Gzip {
        builder = WithTonicConfig::with_compression(builder, opentelemetry_otlp::Compression::Gzip);
    }
    Ok(builder.build())
}

fn http(exporter: &Exporter) -> Result<Made, String> {
    let headers: HashMap<String, String> = exporter.headers.0.iter().cloned().collect();
    let mut builder = OtlpExporter::builder()
        .with_http()
        .with_protocol(OtlpProtocol::HttpBinary)
        .with_endpoint(&exporter.endpoint)
        .with_timeout(exporter.timeout)
        .with_headers(headers)
        .with_http_client(client(exporter)?);
    if exporter.compression == Compression::Gzip {
        builder = WithHttpConfig::with_compression(builder, opentelemetry_otlp::Compression::Gzip);
    }
    Ok(builder.build())
}

/// A client that blocks its thread, which is the exporter's own. It cannot be made where a runtime runs.
fn client(exporter: &Exporter) -> Result<reqwest::blocking::Client, String> {
    let roots = match &exporter.tls.roots {
        Some(file) => Some(
            reqwest::Certificate::from_pem_bundle(&read(file)?)
                .map_err(|_| format!("{} holds no certificate in PEM form", file.display()))?,
        ),
        None => None,
    };
    let identity = match &exporter.tls.identity {
        Some((certificate, key)) => {
            let pem = [read(certificate)?, read(key)?].concat();
            let none = |_| format!("{} and {} are no certificate and key", certificate.display(), key.display());
            Some(reqwest::Identity::from_pem(&pem).map_err(none)?)
        }
        None => None,
    };
    let timeout = exporter.timeout;
    let made = thread::spawn(move || {
        let mut builder = reqwest::blocking::Client::builder()
            .user_agent(concat!("carebell/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout);
        if let Some(roots) = roots {
            builder = builder.tls_certs_only(roots);
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        builder.build()
    });
    let made = made.join().map_err(|_| "the HTTP client of traces cannot be made".to_owned())?;
    made.map_err(|error| format!("the HTTP client of traces cannot be made: {error}"))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// Lets no more spans wait than there is room for, and counts those that find none.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    longest: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        if COUNTS.waiting.fetch_add(1, Ordering::Relaxed) < self.longest {
            self.inner.on_end(span);
        } else {
            COUNTS.waiting.fetch_sub(1, Ordering::Relaxed);
            COUNTS.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Exports, and tells of a collector that does not take spans: once, then every few minutes, and when it does again.
#[derive(Debug)]
struct Told {
    inner: OtlpExporter,
    endpoint: String,
    state: Mutex<Option<Away>>,
}

/// Since when a collector takes no spans.
#[derive(Clone, Copy, Debug)]
struct Away {
    told: Instant,
    lost: u64,
}

impl Told {
    fn tell(&self, spans: usize, result: &OTelSdkResult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, *state) {
            (Ok(()), None) => {}
            (Ok(()), Some(away)) => {
                tracing::info!(lost = away.lost, "the collector of traces takes spans again");
                *state = None;
            }
            (Err(error), away) => {
                let lost = spans as u64;
                COUNTS.refused.fetch_add(lost, Ordering::Relaxed);
                let lost = away.map_or(0, |away| away.lost) + lost;
                let told = match away {
                    Some(away) if away.told.elapsed() < SAY_EVERY => away.told,
                    _ => {
                        // A URL may have a key in it.
                        let why = error.to_string().replace(&self.endpoint, "the collector");
                        tracing::warn!(lost, "spans cannot be exported, jobs go on without: {why}");
                        Instant::now()
                    }
                };
                *state = Some(Away { told, lost });
            }
        }
    }
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        COUNTS.waiting.fetch_sub(spans, Ordering::Relaxed);
        self.tell(spans, &result);
        result
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
