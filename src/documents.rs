//! Documents: objects in the stores that `DOCUMENT_STORES` names, and the files that become objects.
//!
//! A store is a bucket of S3 or of what speaks like it, a bucket of Google Cloud Storage, or a directory. Only this
//! module names the library that speaks to them. What it says of an error is not repeated: it may hold addresses.

mod cleanup;
mod failure;
mod key;
mod place;
mod settings;
mod store;
mod upload;

use std::{collections::BTreeMap, fmt, sync::Arc};

use object_store::client::HttpClient;

pub use self::{
    cleanup::{Cleaned, Cleanup},
    failure::{StoreFailure, UploadFailure},
    key::{Key, is_store_name},
    settings::{Credentials, DEFAULT_MIB, Settings, StoreSettings},
    store::{Document, DocumentStore, Seen},
    upload::{Source, Uploaded},
};
use crate::{
    channels::{
        SettingsError,
        outbound::{self, download::Downloads},
    },
    clock::Clock,
};

/// The document stores of this process. Cheap to clone.
#[derive(Clone)]
pub struct Documents(Arc<Inner>);

struct Inner {
    stores: BTreeMap<String, DocumentStore>,
    downloads: Downloads,
    most_bytes: u64,
}

impl Documents {
    /// Checks the settings, and reads keys and extra roots. Connects to nothing.
    ///
    /// # Errors
    /// Names the variable.
    pub fn new(settings: Settings, clock: &Clock) -> Result<Self, SettingsError> {
        let downloads = Downloads::new(settings.downloads, clock.clone())?;
        let mut stores = BTreeMap::new();
        if !settings.stores.is_empty() {
            let http = outbound::to_provider(downloads.tls().clone()).read_timeout(store::READ_TIMEOUT).build();
            let http =
                http.map_err(|_| SettingsError::new(settings::STORES, "cannot be used: there is no HTTP client"))?;
            let http = HttpClient::new(http);
            for named in settings.stores {
                let built = place::build(&named, &settings.credentials, &http)?;
                stores.insert(named.name.clone(), DocumentStore::new(named.name, built, clock.clone()));
            }
        }
        Ok(Self(Arc::new(Inner { stores, downloads, most_bytes: settings.most_mib * 1024 * 1024 })))
    }

    /// The store of this name.
    ///
    /// # Errors
    /// Says which there are.
    pub fn store(&self, name: &str) -> Result<&DocumentStore, String> {
        self.0.stores.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.0.stores.keys().map(String::as_str).collect();
            let known = if names.is_empty() { "is not set".to_owned() } else { format!("has {}", names.join(", ")) };
            format!("there is no document store `{name}`: {} {known}", settings::STORES)
        })
    }

    /// All stores, by their names.
    pub fn stores(&self) -> impl Iterator<Item = &DocumentStore> {
        self.0.stores.values()
    }

    /// Reads files from addresses that jobs name.
    #[must_use]
    pub fn downloads(&self) -> &Downloads {
        &self.0.downloads
    }

    /// The most bytes of one document.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.0.most_bytes
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.stores.keys()).finish()
    }
}
