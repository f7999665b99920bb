use std::{fmt, path::PathBuf, time::Duration};

use reqwest::header::{HeaderName, HeaderValue};

use super::context;

/// All settings, from OpenTelemetry's variables.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether to read and hand on producers' contexts.
    pub propagate: bool,
    /// Destination of spans.
    pub export: Option<Exporter>,
    /// Selects the traces to keep.
    pub sampler: Sampler,
    /// Attributes of this process.
    pub resource: Vec<(String, String)>,
    /// Service's name.
    pub service: String,
    /// Distinguishes processes of one service.
    pub instance: String,
}

/// Selects the traces to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Follow a producer's decision; `share` is for jobs without one.
    pub parent_based: bool,
    /// From 0 (none) to 1 (all).
    pub share: f64,
}

impl Sampler {
    pub(super) fn may_sample(self, parent: Option<&str>) -> bool {
        match parent {
            Some(trace) if self.parent_based => context::is_sampled(trace),
            _ => self.share > 0.0,
        }
    }
}

/// Destination of spans.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// Protocol.
    pub protocol: Protocol,
    /// The whole URL, for HTTP with its path.
    pub endpoint: String,
    /// Sent with each request.
    pub headers: Headers,
    /// Limit of one export.
    pub timeout: Duration,
    /// Compression of bodies.
    pub compression: Compression,
    /// Certificates.
    pub tls: Tls,
    /// Queue.
    pub queue: QueueSettings,
}

/// OTLP protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// Compression of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
}

/// Headers, hidden in debug output since they may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// `None` if one is not a valid header.
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
    /// Trusted roots.
    pub roots: Option<PathBuf>,
    /// Own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Queue of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Most waiting spans, with the batch under way.
    pub longest: usize,
    /// Most spans per batch.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
}
