//! OpenTelemetry's variables, by its specification. Invalid values are errors at start.

use std::{path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    error::{ConfigError, error},
    source::Source,
};
use crate::{
    clock::{Clock, Random},
    telemetry::traces::{Compression, Exporter, Headers, Protocol, QueueSettings, Sampler, Settings, Tls},
};

const EXPORT: &str = "OTEL_EXPORTER_OTLP_";
const EXPORT_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_";

impl Source {
    /// Settings of traces. Spans are exported only if an endpoint or `OTEL_TRACES_EXPORTER` is set.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn traces(&self) -> Result<Settings, ConfigError> {
        let disabled = self.flag("OTEL_SDK_DISABLED")?;
        let propagate = self.parse_with("OTEL_PROPAGATORS", propagates)?.unwrap_or(true);
        let wanted = self.parse_with("OTEL_TRACES_EXPORTER", |text| match text {
            "otlp" => Some(true),
            "none" => Some(false),
            _ => None,
        })?;
        let sampler = self.sampler()?;
        let mut resource = self.parse_with("OTEL_RESOURCE_ATTRIBUTES", pairs)?.unwrap_or_default();
        let named = resource.iter().position(|(name, _)| name == "service.name").map(|at| resource.remove(at).1);
        let service = self.get("OTEL_SERVICE_NAME").map(str::to_owned).or(named);
        let exporter = self.exporter()?;
        let is_named = self.otlp("ENDPOINT").is_some();
        Ok(Settings {
            propagate,
            export: (!disabled && wanted.unwrap_or(is_named)).then_some(exporter),
            sampler,
            resource,
            service: service.unwrap_or_else(|| "carebell".into()),
            instance: Random::system().uuid(Clock::system().now()).to_string(),
        })
    }

    fn sampler(&self) -> Result<Sampler, ConfigError> {
        let share = self.parse_with("OTEL_TRACES_SAMPLER_ARG", |text| {
            text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share))
        })?;
        let sampler = self.parse_with("OTEL_TRACES_SAMPLER", |text| {
            let (parent_based, rest) = text.strip_prefix("parentbased_").map_or((false, text), |rest| (true, rest));
            let share = match rest {
                "always_on" => 1.0,
                "always_off" => 0.0,
                "traceidratio" => share.unwrap_or(1.0),
                _ => return None,
            };
            Some(Sampler { parent_based, share })
        })?;
        Ok(sampler.unwrap_or(Sampler { parent_based: true, share: 1.0 }))
    }

    fn exporter(&self) -> Result<Exporter, ConfigError> {
        let protocol = self.parse_otlp("PROTOCOL", |text| match text {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::Http),
            _ => None,
        })?;
        let protocol = protocol.unwrap_or(Protocol::Http);
        let compression = self.parse_otlp("COMPRESSION", |text| match text {
            "gzip" => Some(Compression::Gzip),
            "none" => Some(Compression::None),
            _ => None,
        })?;
        // Both limit the same export.
        let export = self.parse_otlp("TIMEOUT", millis)?.unwrap_or(Duration::from_secs(10));
        let batch = self.parse_with("OTEL_BSP_EXPORT_TIMEOUT", millis)?.unwrap_or(Duration::from_secs(30));
        Ok(Exporter {
            protocol,
            endpoint: self.endpoint(protocol)?,
            headers: self.parse_otlp("HEADERS", headers)?.unwrap_or_default(),
            timeout: export.min(batch),
            compression: compression.unwrap_or(Compression::None),
            tls: self.tls()?,
            queue: self.queue()?,
        })
    }

    /// The general endpoint is a base URL, that for traces a full URL. gRPC may omit the scheme.
    fn endpoint(&self, protocol: Protocol) -> Result<String, ConfigError> {
        let insecure = self.parse_otlp("INSECURE", flag)?.unwrap_or(false);
        let parse = |text: &str| {
            let scheme = if insecure { "http" } else { "https" };
            let whole = if text.contains("://") || protocol == Protocol::Http {
                text.into()
            } else {
                format!("{scheme}://{text}")
            };
            let url = Url::parse(&whole).ok()?;
            let is_one = ["http", "https"].contains(&url.scheme())
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none();
            is_one.then_some(whole)
        };
        let general = self.parse_with(&format!("{EXPORT}ENDPOINT"), parse)?;
        let own = self.parse_with(&format!("{EXPORT_TRACES}ENDPOINT"), parse)?;
        Ok(match (protocol, own, general) {
            (_, Some(own), _) => own,
            (Protocol::Grpc, None, Some(general)) => general,
            (Protocol::Grpc, None, None) => "http://localhost:4317".into(),
            (Protocol::Http, None, general) => {
                let base = general.unwrap_or_else(|| "http://localhost:4318".into());
                format!("{}/v1/traces", base.trim_end_matches('/'))
            }
        })
    }

    fn tls(&self) -> Result<Tls, ConfigError> {
        let own = self.pair_of_files(EXPORT_TRACES)?;
        let general = self.pair_of_files(EXPORT)?;
        let roots = self.path(&format!("{EXPORT_TRACES}CERTIFICATE"))?;
        let general_roots = self.path(&format!("{EXPORT}CERTIFICATE"))?;
        Ok(Tls { roots: roots.or(general_roots), identity: own.or(general) })
    }

    fn pair_of_files(&self, prefix: &str) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        let [certificate, key] = ["CLIENT_CERTIFICATE", "CLIENT_KEY"].map(|name| format!("{prefix}{name}"));
        match (self.path(&certificate)?, self.path(&key)?) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(error(&certificate, "is not set")),
            (Some(_), None) => Err(error(&key, "is not set")),
        }
    }

    fn queue(&self) -> Result<QueueSettings, ConfigError> {
        let number = |text: &str| text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
        let longest = self.parse_with("OTEL_BSP_MAX_QUEUE_SIZE", number)?.unwrap_or(2048);
        let batch = self.parse_with("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", |text| number(text).filter(|n| *n <= longest))?;
        Ok(QueueSettings {
            longest,
            batch: batch.unwrap_or(512.min(longest)),
            delay: self.parse_with("OTEL_BSP_SCHEDULE_DELAY", millis)?.unwrap_or(Duration::from_secs(5)),
        })
    }

    fn flag(&self, variable: &str) -> Result<bool, ConfigError> {
        Ok(self.parse_with(variable, flag)?.unwrap_or(false))
    }

    fn otlp(&self, name: &str) -> Option<&str> {
        self.get(&format!("{EXPORT_TRACES}{name}")).or_else(|| self.get(&format!("{EXPORT}{name}")))
    }

    fn parse_otlp<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let own = self.parse_with(&format!("{EXPORT_TRACES}{name}"), &parse)?;
        let general = self.parse_with(&format!("{EXPORT}{name}"), parse)?;
        Ok(own.or(general))
    }
}

fn flag(text: &str) -> Option<bool> {
    text.to_ascii_lowercase().parse().ok()
}

fn millis(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

fn propagates(text: &str) -> Option<bool> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names == ["none"] {
        return Some(false);
    }
    let known = names.iter().all(|name| ["tracecontext", "baggage"].contains(name));
    known.then(|| names.contains(&"tracecontext"))
}

/// `name=value` pairs, separated by commas and percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.into_owned()))
    };
    text.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
}

fn headers(text: &str) -> Option<Headers> {
    Headers::new(pairs(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(values: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        Source::of(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).traces()
    }

    fn endpoint(values: &[(&str, &str)]) -> String {
        traces(values).unwrap().export.unwrap().endpoint
    }

    #[test]
    fn nothing_is_exported_unless_somebody_says_where_to() {
        let settings = traces(&[]).unwrap();
        assert!(settings.export.is_none() && settings.propagate);
        assert_eq!((settings.service.as_str(), settings.sampler.share), ("carebell", 1.0));
        let here = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(traces(&[here]).unwrap().export.is_some());
        assert!(traces(&[here, ("OTEL_SDK_DISABLED", "True")]).unwrap().export.is_none());
        assert!(traces(&[here, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().export.is_none());
        assert!(traces(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().export.is_some());
        assert!(traces(&[here, ("OTEL_SDK_DISABLED", "")]).unwrap().export.is_some(), "empty is as not set");
    }

    #[test]
    fn the_endpoint_is_what_the_specification_makes_of_it() {
        let base = |url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url);
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let on = ("OTEL_TRACES_EXPORTER", "otlp");
        assert_eq!(endpoint(&[on]), "http://localhost:4318/v1/traces");
        assert_eq!(endpoint(&[on, grpc]), "http://localhost:4317");
        assert_eq!(endpoint(&[base("https://c:4318/otlp/")]), "https://c:4318/otlp/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d:4318/spans");
        assert_eq!(endpoint(&[base("http://c:4318"), own]), "http://d:4318/spans", "as it is");
        assert_eq!(endpoint(&[grpc, base("c:4317")]), "https://c:4317");
        assert_eq!(endpoint(&[grpc, base("c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")]), "http://c:4317");
    }

    #[test]
    fn what_is_of_traces_alone_wins() {
        let settings = traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20one"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20two, x-tenant=care"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "700"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test%20bed"),
            ("OTEL_SERVICE_NAME", "bell"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ])
        .unwrap();
        assert_eq!(settings.service, "bell");
        assert_eq!(settings.resource, [("deployment.environment.name".to_owned(), "test bed".to_owned())]);
        assert_eq!(settings.sampler, Sampler { parent_based: true, share: 0.25 });
        let exporter = settings.export.unwrap();
        assert!(!format!("{exporter:?}").contains("Bearer"));
        let expected = [("authorization", "Bearer two"), ("x-tenant", "care")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(Some(exporter.headers), Headers::new(expected.into()));
        assert_eq!((exporter.timeout, exporter.compression), (Duration::from_millis(700), Compression::Gzip));
        assert_eq!((exporter.queue.longest, exporter.queue.batch), (100, 100), "no batch is longer than the queue");
    }

    #[test]
    fn each_mistake_is_told_and_no_value() {
        let mistakes = [
            ("OTEL_SDK_DISABLED", "secret"),
            ("OTEL_TRACES_EXPORTER", "secret"),
            ("OTEL_PROPAGATORS", "tracecontext,secret"),
            ("OTEL_TRACES_SAMPLER", "secret"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_RESOURCE_ATTRIBUTES", "secret"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://ops:secret@c:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "secret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0Asecret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "secret"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "secret"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/secret"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
        ];
        for (variable, value) in mistakes {
            let text = traces(&[(variable, value)]).err().unwrap_or_else(|| panic!("{variable}={value}")).to_string();
            assert!(text.starts_with(variable) && text.contains("expected") && !text.contains("secret"), "{text}");
        }
    }
}
