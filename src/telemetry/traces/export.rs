//! Exports spans over gRPC or HTTP, in batches, on a separate thread.

use std::{collections::HashMap, fs, path::Path, thread};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    Protocol as OtlpProtocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::{
    Resource,
    resource::TelemetryResourceDetector,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    ids::Ids,
    settings::{self, Compression, Exporter, Protocol, Settings},
    waiting::{Bounded, LoggingExporter},
};

pub fn provider(exporter: &Exporter, settings: &Settings) -> Result<SdkTracerProvider, String> {
    let queue = exporter.queue;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(queue.longest)
        .with_max_export_batch_size(queue.batch)
        .with_scheduled_delay(queue.delay)
        .build();
    let exporter = LoggingExporter::new(make(exporter)?, &exporter.endpoint);
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

fn sampler(sampler: settings::Sampler) -> Sampler {
    let by_share = Sampler::TraceIdRatioBased(sampler.share);
    if sampler.parent_based { Sampler::ParentBased(Box::new(by_share)) } else { by_share }
}

fn make(exporter: &Exporter) -> Result<SpanExporter, String> {
    let made = match exporter.protocol {
        Protocol::Grpc => grpc(exporter)?,
        Protocol::Http => http(exporter)?,
    };
    made.map_err(|error| format!("spans cannot be exported: {error}"))
}

type Made = Result<SpanExporter, opentelemetry_otlp::ExporterBuildError>;

fn grpc(exporter: &Exporter) -> Result<Made, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &exporter.headers.0 {
        // Already validated.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    let mut builder = SpanExporter::builder()
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
    let mut builder = SpanExporter::builder()
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

/// A client that blocks the exporter's thread. It cannot be created within a runtime.
fn client(exporter: &Exporter) -> Result<reqwest::blocking::Client, String> {
    let roots = match &exporter.tls.roots {
        Some(file) => Some(
            reqwest::Certificate::from_pem_bundle(&read(file)?)
                .map_err(|_| format!("{} contains no PEM certificate", file.display()))?,
        ),
        None => None,
    };
    let identity = match &exporter.tls.identity {
        Some((certificate, key)) => {
            let pem = [read(certificate)?, read(key)?].concat();
            let none = |_| format!("{} and {} are not a certificate and key", certificate.display(), key.display());
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
    let made = made.join().map_err(|_| "the trace exporter's HTTP client cannot be created".to_owned())?;
    made.map_err(|error| format!("the trace exporter's HTTP client cannot be created: {error}"))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}
