//! Document stores and their credentials.

use super::{
    error::{ConfigError, from_channel},
    source::Source,
};
use crate::{
    channels::outbound::download,
    documents::{Credentials, DEFAULT_MIB, Settings, StoreSettings},
};

/// What the tools of AWS, and its clusters, set.
const AWS: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

impl Source {
    /// Document stores: none without settings.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn documents(&self) -> Result<Settings, ConfigError> {
        let stores = StoreSettings::list(self.get("DOCUMENT_STORES").unwrap_or_default()).map_err(from_channel)?;
        let aws = AWS.into_iter().filter_map(|name| Some((name, self.get(name)?.to_owned()))).collect();
        let google = self.path("GOOGLE_APPLICATION_CREDENTIALS")?;
        let most_mib = self
            .parse_with("DOCUMENT_MAX_MIB", |text| text.parse().ok().filter(|most| (1..=1_048_576).contains(most)))?;
        Ok(Settings {
            stores,
            credentials: Credentials { aws, google },
            downloads: download::Settings {
                allowed_hosts: self.hosts("DOCUMENT_ALLOWED_HOSTS")?,
                ca_variable: "DOCUMENT_CA_FILE",
                ca_file: self.path("DOCUMENT_CA_FILE")?,
            },
            most_mib: most_mib.unwrap_or(DEFAULT_MIB),
        })
    }
}
