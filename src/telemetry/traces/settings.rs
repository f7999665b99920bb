//! What traces are configured with. `config` reads it from OpenTelemetry's own variables.

use std::{fmt, path::PathBuf, time::Duration};

use reqwest::header::{HeaderName, HeaderValue};

use super::context;

/// All of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether the contexts of producers are read, and handed on.
    pub propagate: bool,
    /// Where spans go; nowhere in most installations.
    pub export: Option<Exporter>,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// What is said of this process, beside its name.
    pub resource: Vec<(String, String)>,
    /// Its name.
    pub service: String,
    /// Tells this process from others of that name.
    pub instance: String,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a producer's decision stands; then `share` is for jobs without one.
    pub parent_based: bool,
    /// From 0 (none) to 1 (all).
    pub share: f64,
}

impl Sampler {
    /// Whether a message may be sampled at all: asked before anything is made for it.
    pub(super) fn may_sample(self, parent: Option<&str>) -> bool {
        match parent {
            Some(trace) if self.parent_based => context::is_sampled(trace),
            _ => self.share > 0.0,
        }
    }
}

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
    pub queue: QueueSettings,
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
pub struct Headers(pub(super) Vec<(String, String)>);

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
pub struct QueueSettings {
    /// The most spans that wait, those of the batch under way included.
    pub longest: usize,
    /// The most spans of a batch.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
}
