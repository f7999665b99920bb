//! Builds the client of a store. All of them have this program's own HTTP client: one TLS, no proxy, no redirects.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpClient, HttpConnector},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
};

use super::settings::{Credentials, Place, STORES, StoreSettings, checked_endpoint};
use crate::channels::SettingsError;

/// A store's client, and what differs from store to store.
pub struct Built {
    /// The client.
    pub objects: Arc<dyn ObjectStore>,
    /// Before every key.
    pub prefix: String,
    /// Whether objects have metadata and a content type.
    pub has_attributes: bool,
}

#[derive(Debug)]
struct Connector(HttpClient);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

/// Builds a store's client. Connects to nothing.
///
/// # Errors
/// Names the store, never its URL or credentials.
pub fn build(store: &StoreSettings, credentials: &Credentials, http: &HttpClient) -> Result<Built, SettingsError> {
    let name = &store.name;
    let refused = |_| SettingsError::new(STORES, format!("has a store `{name}` that cannot be used"));
    let has_attributes = !matches!(store.place, Place::Files(_));
    let (objects, prefix): (Arc<dyn ObjectStore>, _) = match &store.place {
        Place::S3 { bucket, prefix, region, endpoint } => {
            let mut builder = AmazonS3Builder::new();
            let mut common = None;
            for (variable, value) in &credentials.aws {
                if *variable == "AWS_ENDPOINT_URL" {
                    let checked = checked_endpoint(value);
                    common = Some(checked.map_err(|why| SettingsError::new(*variable, why))?);
                    continue;
                }
                let key: AmazonS3ConfigKey = variable.to_ascii_lowercase().parse().map_err(refused)?;
                builder = builder.with_config(key, value);
            }
            if let Some(region) = region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = endpoint.clone().or(common) {
                builder = builder.with_endpoint(endpoint);
            }
            let builder = builder.with_bucket_name(bucket).with_retry(retry());
            (Arc::new(builder.with_http_connector(Connector(http.clone())).build().map_err(refused)?), prefix.clone())
        }
        Place::Gcs { bucket, prefix } => {
            let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket).with_retry(retry());
            if let Some(file) = &credentials.google {
                builder = builder.with_application_credentials(file.to_string_lossy());
            }
            let cannot_read = |_| {
                let why =
                    "should name a file with credentials that can be used, or not be set where the machine has some";
                SettingsError::new("GOOGLE_APPLICATION_CREDENTIALS", why)
            };
            let built = builder.with_http_connector(Connector(http.clone())).build().map_err(cannot_read)?;
            (Arc::new(built), prefix.clone())
        }
        Place::Files(path) => {
            let files = LocalFileSystem::new_with_prefix(path).map_err(refused)?.with_fsync(true);
            (Arc::new(files), String::new())
        }
    };
    Ok(Built { objects, prefix, has_attributes })
}

impl Built {
    /// Where an object is.
    ///
    /// # Errors
    /// If there can be no object of this key.
    pub fn path(&self, key: &str) -> Result<Path, object_store::path::Error> {
        if self.prefix.is_empty() { Path::parse(key) } else { Path::parse(format!("{}/{key}", self.prefix)) }
    }
}

/// A hiccup is waited out at once. Everything longer is the pipeline's.
fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(30) }
}
