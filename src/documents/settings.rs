//! Settings of documents, as `config` reads them.

use std::path::{Path, PathBuf};

use url::Url;

use super::key::{Key, is_store_name};
use crate::channels::{
    SettingsError,
    outbound::{download, may_be_asked},
};

/// The variable that names the stores.
pub const STORES: &str = "DOCUMENT_STORES";

/// The most MiB of one document, unless a variable says otherwise.
pub const DEFAULT_MIB: u64 = 256;

/// Settings of documents.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `DOCUMENT_STORES`.
    pub stores: Vec<StoreSettings>,
    /// Of all stores of one cloud.
    pub credentials: Credentials,
    /// `DOCUMENT_ALLOWED_HOSTS`, `DOCUMENT_CA_FILE`.
    pub downloads: download::Settings,
    /// `DOCUMENT_MAX_MIB`.
    pub most_mib: u64,
}

/// Credentials, and what the clouds' own tools put beside them.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Variables that begin with `AWS_`, and their values.
    pub aws: Vec<(&'static str, String)>,
    /// `GOOGLE_APPLICATION_CREDENTIALS`.
    pub google: Option<PathBuf>,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// As jobs name it.
    pub name: String,
    /// Where it is.
    pub(super) place: Place,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A bucket of S3, or of what speaks like it.
    S3 { bucket: String, prefix: String, region: Option<String>, endpoint: Option<String> },
    /// A bucket of Google Cloud Storage.
    Gcs { bucket: String, prefix: String },
    /// A directory.
    Files(PathBuf),
}

impl StoreSettings {
    /// Reads `name=url`, separated by commas.
    ///
    /// # Errors
    /// Names the store and the problem; never the URL.
    pub fn list(text: &str) -> Result<Vec<Self>, SettingsError> {
        let mut stores: Vec<Self> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').unwrap_or(("", part));
            let (name, url) = (name.trim(), url.trim());
            if !is_store_name(name) {
                return Err(wrong("should be name=url, separated by commas, with names of 1 to 32 of a-z 0-9 - _"));
            }
            if stores.iter().any(|store| store.name == name) {
                return Err(wrong(format!("names the store `{name}` twice")));
            }
            let place = place(url).map_err(|why| wrong(format!("has a store `{name}` that {why}")))?;
            stores.push(Self { name: name.to_owned(), place });
        }
        Ok(stores)
    }
}

fn wrong(why: impl Into<String>) -> SettingsError {
    SettingsError::new(STORES, why)
}

fn place(text: &str) -> Result<Place, &'static str> {
    let url =
        Url::parse(text).map_err(|_| "is no URL; expected s3://bucket/prefix, gs://bucket/prefix or file:///path")?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("has a user, a password or a fragment; credentials are variables of their own");
    }
    match url.scheme() {
        "s3" => {
            let (mut region, mut endpoint) = (None, None);
            for (name, value) in url.query_pairs() {
                match name.as_ref() {
                    "region" => region = Some(value.into_owned()),
                    "endpoint" => endpoint = Some(checked_endpoint(&value)?),
                    _ => return Err("has another parameter than `region` and `endpoint`"),
                }
            }
            Ok(Place::S3 { bucket: bucket(&url)?, prefix: prefix(&url)?, region, endpoint })
        }
        "gs" if url.query().is_none() => Ok(Place::Gcs { bucket: bucket(&url)?, prefix: prefix(&url)? }),
        "file" if url.query().is_none() => match url.to_file_path() {
            Ok(path) if path.is_dir() && path != Path::new("/") => Ok(Place::Files(path)),
            Ok(_) => Err("is no directory of this machine, or its root"),
            Err(()) => Err("has a host; expected file:///path"),
        },
        _ => Err("is of no known scheme; expected s3://bucket/prefix, gs://bucket/prefix or file:///path"),
    }
}

/// Also of `AWS_ENDPOINT_URL`.
pub(super) fn checked_endpoint(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).ok().filter(may_be_asked);
    let url = url.filter(|url| url.query().is_none() && url.username().is_empty());
    url.map(|url| url.as_str().trim_end_matches('/').to_owned())
        .ok_or("has an endpoint that is not https (http only for this machine), or has a user or parameters")
}

fn bucket(url: &Url) -> Result<String, &'static str> {
    match url.host_str() {
        Some(host) if url.port().is_none() && !host.is_empty() => Ok(host.to_owned()),
        _ => Err("has no bucket"),
    }
}

fn prefix(url: &Url) -> Result<String, &'static str> {
    let text = percent_encoding::percent_decode_str(url.path().trim_matches('/')).decode_utf8();
    let text = text.map_err(|_| "has a prefix that is not UTF-8")?;
    if text.is_empty() || Key::parse(&text).is_ok() {
        Ok(text.into_owned())
    } else {
        Err("has a prefix that is no key")
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_a_mistake_names_its_store_and_no_url() {
        let here = std::env::temp_dir();
        let text = format!(
            "archive=s3://care-documents/a/b?region=eu-central-1&endpoint=https://s3.example.org, scans=gs://scans, \
             local=file://{}",
            here.display()
        );
        let stores = StoreSettings::list(&text).unwrap();
        assert_eq!(
            stores.iter().map(|store| &store.place).collect::<Vec<_>>(),
            [
                &Place::S3 {
                    bucket: "care-documents".into(),
                    prefix: "a/b".into(),
                    region: Some("eu-central-1".into()),
                    endpoint: Some("https://s3.example.org".into()),
                },
                &Place::Gcs { bucket: "scans".into(), prefix: String::new() },
                &Place::Files(here),
            ]
        );
        assert_eq!(StoreSettings::list("").unwrap(), []);
        for (wrong, why) in [
            ("s3://secret", "name=url"),
            ("A=s3://secret", "name=url"),
            ("a=s3://secret,a=gs://secret", "`a` twice"),
            ("a=secret", "`a` that is no URL"),
            ("a=ftp://secret/", "no known scheme"),
            ("a=s3://user:secret@bucket/", "credentials are variables"),
            ("a=s3:///secret", "has no bucket"),
            ("a=s3://bucket/a/%2e%2e%2fsecret", "no key"),
            ("a=s3://bucket?endpoint=http://secret.example.org", "not https"),
            ("a=s3://bucket?key=secret", "another parameter"),
            ("a=file:///no/such/secret", "no directory"),
            ("a=file:///", "no directory"),
        ] {
            let error = StoreSettings::list(wrong).unwrap_err().to_string();
            assert!(error.starts_with("DOCUMENT_STORES ") && error.contains(why), "{wrong}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
